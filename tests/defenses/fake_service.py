"""A service with no LLM: its answer is a function of the message. Run as a script it is a process to kill."""

import argparse
import hashlib
import threading
import time
from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from defenses.errors import UserError
from defenses.pipeline.latents import LatentTable
from defenses.pipeline.protocol import Deployment
from defenses.pipeline.service import ServiceLimits, create_app, serve
from defenses.pipeline.wire import WireMessage
from defenses.randomness import seeded_rng

API_TOKEN = "an-api-token"  # noqa: S105 - of a service that lives as long as a test
VOCABULARY = 256
WIDTH = 6


def byte_tokenizer() -> Tokenizer:
    """A tokenizer with one token per byte, so that one character may take several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def random_table(seed: int = 0) -> LatentTable:
    """A latent table for the byte tokenizer."""
    return LatentTable(seeded_rng(seed, "table").integers(-127, 128, (VOCABULARY, WIDTH)).astype(np.int8), 0.05)


def answer_to(message: WireMessage, length: int, salt: str = "") -> list[int]:
    """The one right answer to a message: tokens that spell out a hash of all that it says."""
    said = f"{message.n} {message.a_over_c!r} {message.projection_id} {message.counts.shape} {salt}"
    digest = hashlib.sha256(said.encode() + message.counts.tobytes()).hexdigest()
    return byte_tokenizer().encode((digest * (1 + length // 64))[:length]).ids


class FakeEngine:
    """An engine that answers with `answer_to`.

    Attributes:
        refusal: Raised as a UserError before the first token.
        fail_after: Tokens after which the engine fails; None for never.
        fault: What it says then.
        delay: Seconds a token.
        gate: Waited for before each token.
        text: Sent instead of the hash.
        received: The messages so far.
        threads: The names of the threads that generated.
        finished: Set when a generation has ended or was closed.
    """

    def __init__(self) -> None:
        self.model = "fake"
        self.table = random_table()
        self.tokenizer_json: str = byte_tokenizer().to_str()
        self.deployments = [Deployment(4, 1.5, 16.97, "prompt-a"), Deployment(1, 2.0, 2.83), Deployment(8, 1.25, 103.0)]
        self.refusal = ""
        self.fail_after: int | None = None
        self.fault = "the engine failed on purpose"
        self.delay = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.text: str | None = None
        self.received: list[WireMessage] = []
        self.threads: set[str] = set()
        self.produced = 0
        self.finished = threading.Event()

    def generate(
        self, message: WireMessage, *, max_new_tokens: int, temperature: float, seed: int | None
    ) -> Iterator[int]:
        """The tokens of `answer_to`, with whatever fault was asked for."""
        try:
            self.received.append(message)
            self.threads.add(threading.current_thread().name)
            if self.refusal:
                raise UserError(self.refusal)
            salt = f"{temperature} {seed}" if temperature else ""
            tokens = answer_to(message, max_new_tokens, salt)
            if self.text is not None:
                tokens = byte_tokenizer().encode(self.text).ids
            for count, token in enumerate(tokens):
                if count == self.fail_after:
                    raise RuntimeError(self.fault)
                if not self.gate.wait(timeout=30):
                    raise TimeoutError("the test never opened the gate")
                time.sleep(self.delay)
                self.produced += 1
                yield token
        finally:
            self.finished.set()


def main() -> None:
    """Serve a fake engine on any free port and print its URL."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--grace", type=float, default=30.0)
    options = parser.parse_args()
    engine = FakeEngine()
    engine.delay = options.delay
    app = create_app(engine, api_token=API_TOKEN, limits=ServiceLimits(grace_seconds=options.grace))
    serve(app, "127.0.0.1", 0, on_ready=lambda url: print(url, flush=True))  # noqa: T201 - its parent reads it


if __name__ == "__main__":
    main()

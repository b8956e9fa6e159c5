"""Fixtures that every package's tests share: a tiny random LLM with a real tokenizer, made without disk or network."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before any Hugging Face library is imported

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from defenses.base import Assets
from defenses.crypto.extra import INSTALL
from defenses.models.hidden import hidden_states
from defenses.models.llm import LLM, freeze
from defenses.pipeline.projection import weighted_pca

# Time is no test's subject here: on a busy machine an example may take as long as it likes.
settings.register_profile("delaudit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("delaudit")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, 256 in all: every text has tokens, and every token list is text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def tiny_model(kind: str = "llama") -> torch.nn.Module:
    """A random causal LM: V = 256, b = 32, 5 blocks."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        if kind == "gpt2":
            return GPT2LMHeadModel(GPT2Config(vocab_size=256, n_embd=32, n_layer=5, n_head=4, n_positions=256))
        sizes = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
        return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=True, eos_token_id=None))


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def any_llm(request: pytest.FixtureRequest) -> LLM:
    """Tiny LLMs of two architectures."""
    return freeze(tiny_model(request.param), byte_tokenizer(), f"tiny-{request.param}")


@pytest.fixture(scope="session")
def needs() -> Callable[..., None]:
    """`needs("spu")` skips the test where a module of an extra is absent, and says how to get it.

    Where SPU is there, so is the JAX that it was built for; other packages bring another, which is no use here.
    """

    def need(*modules: str) -> None:
        for module in modules:
            if find_spec(module) is None:
                pytest.skip(f"needs {module}: {INSTALL}")

    return need


@pytest.fixture(scope="session")
def llm() -> LLM:
    """A tiny Llama."""
    return freeze(tiny_model(), byte_tokenizer(), "tiny")


@pytest.fixture(scope="session")
def assets(llm: LLM) -> Assets:
    """The tiny Llama's table with a PCA projection to d = 16."""
    projection = weighted_pca(llm.embedding, np.ones(256, dtype=np.int64), 16)
    return Assets(llm.embedding, projection, llm.name, hidden_states(llm))


@pytest.fixture(scope="session")
def token_windows() -> np.ndarray:
    """Windows of public 'text', (64, 24), with a skewed token distribution."""
    rng = np.random.default_rng(3)
    return np.minimum(rng.geometric(0.03, (64, 24)), 255).astype(np.int64)


@pytest.fixture(scope="session")
def model_folder(llm: LLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny LLM as a local Hugging Face folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    llm.model.save_pretrained(folder)
    llm.tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    """`here(ARGUMENT, ..., cwd=FOLDER)` runs the command in this process: a mistake needs no import of torch anew."""
    from audit.cli.main import main

    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object, cwd: Path | None = None) -> Said:
        if cwd is not None:
            monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["delaudit", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    yield run
    signal.signal(signal.SIGTERM, handler)

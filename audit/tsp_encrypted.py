"""The sampling circuit under real CKKS on a model's own distribution, beside its float64 twin.

The vocabulary is cut to its likeliest tokens in some context, which are put in the order of a tour and renormalised:
what CKKS costs depends on how many tokens there are, not on which.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from audit.records import Figure
from defenses.crypto.engines.ckks import CkksEngine
from defenses.crypto.engines.ckks_process import CkksSettings
from defenses.crypto.sampling_circuit import SamplingCircuit
from defenses.crypto.sampling_ckks import EncryptedSample, EncryptedSampler, rotations_for, settings_for
from defenses.crypto.tour_search import Int32
from defenses.errors import UserError
from defenses.models.llm import LLM

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class EncryptedStudy:
    """What is computed.

    Attributes:
        vocabulary: V, tokens sampled from.
        circuit: The circuit.
        scale_bits: Of the encoding.
        secure: 128 bits; False is for tests.
        ring_bits: As in CkksSettings.
    """

    vocabulary: int = 512
    circuit: SamplingCircuit = field(default_factory=lambda: SamplingCircuit(post=True))
    scale_bits: int = 45
    secure: bool = True
    ring_bits: int = 0

    def __post_init__(self) -> None:
        if self.vocabulary < 2:
            raise UserError(f"--encrypted {self.vocabulary}: sampling needs 2 tokens or more")

    @property
    def settings(self) -> CkksSettings:
        """The context."""
        return settings_for(self.circuit, scale_bits=self.scale_bits, secure=self.secure, ring_bits=self.ring_bits)


def likeliest(llm: LLM, tour: Int32, prompt: NDArray[np.int64], vocabulary: int) -> tuple[Int32, Float64]:
    """The likeliest tokens after a prompt (S,), in the order of a tour, with their renormalised probabilities, (V,).

    Raises:
        UserError: the model has fewer tokens.
    """
    if vocabulary > len(tour):
        raise UserError(f"--encrypted {vocabulary}: the model has {len(tour)} tokens")
    with torch.inference_mode():
        logits = llm.model(torch.as_tensor(prompt, device=llm.device)[None]).logits[0, -1]
    whole = torch.softmax(logits.double(), dim=-1).cpu().numpy()
    kept = np.zeros(len(whole), dtype=np.bool_)
    kept[np.argsort(-whole, kind="stable")[:vocabulary]] = True
    tokens = tour[kept[tour]]
    return tokens, whole[tokens] / whole[tokens].sum()


def run_encrypted(
    llm: LLM, tour: Int32, prompt: NDArray[np.int64], r: float, study: EncryptedStudy
) -> tuple[EncryptedSample, list[Figure]]:
    """Sample one embedding under encryption.

    Args:
        llm: The model.
        tour: (V of the model,).
        prompt: (S,).
        r: The server's coin, in (0, 1).
        study: What is computed.

    Raises:
        UserError: OpenFHE is missing, or the vocabulary does not fit.
    """
    tokens, probabilities = likeliest(llm, tour, prompt, study.vocabulary)
    with CkksEngine(study.settings, rotations_for(study.vocabulary)) as engine:
        sample = EncryptedSampler(engine, llm.embedding[tokens], study.circuit).sample(probabilities, r)
        ring = engine.ring
    return sample, _figures(sample, study, ring)


def _figures(sample: EncryptedSample, study: EncryptedStudy, ring: int) -> list[Figure]:
    account = sample.account
    security = "HEStd_128_classic" if study.secure else "no security, test parameters"
    method = f"OpenFHE, ring dimension {ring}, scale {study.scale_bits} bits, {security}, one token, one thread"
    values = {
        "seconds": (account.seconds, "s"), "key seconds, once": (account.key_seconds, "s"),
        "ciphertext bytes sent": (float(account.bytes), "bytes"),
        "key bytes sent, once": (float(account.key_bytes), "bytes"), "levels used": (float(account.levels_used), ""),
        "memory": (float(account.memory), "bytes"), "precision of the weights": (account.precision_bits, "bits"),
        "largest error of a weight": (sample.weight_error, ""),
        "largest error of a coordinate": (sample.embedding_error, ""),
    }  # fmt: skip
    return [
        Figure(f"CKKS, V = {study.vocabulary}: {name}", value, None, None, None, 1, method, unit)
        for name, (value, unit) in values.items()
    ]

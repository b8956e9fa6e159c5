"""Number formats and devices: the same artifacts fit, and figures stay within the stated tolerances."""

from pathlib import Path

import numpy as np
import pytest
import torch

import defenses.models.llm
from defenses.errors import UserError
from defenses.models.llm import LLM, load_llm
from defenses.pipeline.prompt_training import continuation_nll

MEAN_NLL, PER_TOKEN_NLL = 0.01, 0.1  # nats by which bfloat16 may differ from float32: its digits are 2^-9 apart
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def plain(model_folder: Path) -> LLM:
    """On the CPU in float32, what all others are held against."""
    return load_llm(str(model_folder), device="cpu", dtype="float32")


def nll(llm: LLM) -> np.ndarray:
    """Log-likelihoods of a few continuations, (8, 10), with a soft prompt."""
    rng = np.random.default_rng(0)
    prefix = torch.from_numpy(llm.embedding[rng.integers(0, 256, (8, 12))]).to(llm.device)
    continuation = torch.from_numpy(rng.integers(0, 256, (8, 10))).to(llm.device)
    prompt = torch.from_numpy(rng.normal(0, 0.05, (4, llm.embedding.shape[1])).astype(np.float32)).to(llm.device)
    with torch.inference_mode():
        return continuation_nll(llm, prefix, continuation, prompt)[0].float().cpu().numpy()


def check(found: LLM, plain: LLM) -> None:
    """Same artifacts, nearly the same figures."""
    assert found.fingerprint == plain.fingerprint
    np.testing.assert_array_equal(found.embedding, plain.embedding)
    gaps = nll(found) - nll(plain)
    assert np.abs(gaps).max() < PER_TOKEN_NLL
    assert abs(gaps.mean()) < MEAN_NLL


def test_a_model_in_bfloat16_takes_the_same_artifacts(model_folder: Path, plain: LLM) -> None:
    """If this failed, a GPU would refuse every projection that was trained on a CPU, or read another table."""
    found = load_llm(str(model_folder), device="cpu", dtype="bfloat16")
    assert found.model.dtype == torch.bfloat16
    check(found, plain)


@needs_gpu
def test_the_gpu_takes_the_same_artifacts(model_folder: Path, plain: LLM) -> None:
    """The same on CUDA, whose default is bfloat16."""
    found = load_llm(str(model_folder), device="cuda")
    assert found.model.dtype == torch.bfloat16
    check(found, plain)


@pytest.mark.parametrize("on_disk", [("model.layers.3", "model.layers.4"), ("model.embed_tokens", "lm_head")])
def test_a_map_over_devices_gives_the_same(
    model_folder: Path, plain: LLM, on_disk: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, a model that is too large for one device would answer otherwise than on one.

    On a machine without GPUs "auto" spreads nothing, so that parts are put on disk by hand.
    """
    parts = [
        "model.embed_tokens",
        "model.norm",
        "model.rotary_emb",
        "lm_head",
        *(f"model.layers.{n}" for n in range(5)),
    ]
    monkeypatch.setattr(defenses.models.llm, "SPREAD", {name: "disk" if name in on_disk else "cpu" for name in parts})
    found = load_llm(str(model_folder), device="map", dtype="float32")
    assert {name for name, place in found.model.hf_device_map.items() if place == "disk"} == set(on_disk)
    check(found, plain)


@pytest.mark.parametrize(
    ("device", "dtype", "words"),
    [("abacus", None, "device abacus"), ("cuda:99", None, "device cuda:99"), ("cpu", "int1", "dtype int1")],
)
def test_what_is_not_there_is_one_line(model_folder: Path, device: str, dtype: str | None, words: str) -> None:
    """If this failed, a slip in a device's name would be a traceback, or the CPU."""
    with pytest.raises(UserError, match=words) as caught:
        load_llm(str(model_folder), device=device, dtype=dtype)
    assert "\n" not in str(caught.value)

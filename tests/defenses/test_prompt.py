"""Soft prompts: PEFT's own forward is the oracle, training lowers the continuation's loss, files are PEFT's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from defenses.base import Assets
from defenses.baselines.gaussian import Gaussian, GaussianConfig
from defenses.baselines.hidden_states import HiddenStates, HiddenStatesConfig
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.baselines.santext import SanText, SanTextConfig
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.artifacts import find_prompts, nearest_prompt
from defenses.pipeline.prompt_training import (
    PromptSettings,
    continuation_nll,
    load_prompt,
    save_prompt,
    sentence_start,
    train_prompt,
)

IDS = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (3, 14)))


def _prompt() -> torch.Tensor:
    return torch.randn(6, 32, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_shared_cache_equals_pefts_forward(llm: LLM, tmp_path: Path) -> None:
    """Losses with the prompt's keys and values shared equal those of PEFT, loaded from the saved folder."""
    save_prompt(llm, _prompt(), tmp_path / "prompt-x", {"embedding": llm.fingerprint})
    table = llm.model.get_input_embeddings()
    prefix = table(IDS[:, :5])
    nll, top1 = continuation_nll(llm, prefix, IDS[:, 5:], load_prompt(tmp_path / "prompt-x"))
    wrapped = PeftModel.from_pretrained(llm.model, str(tmp_path / "prompt-x"))
    logits = wrapped(inputs_embeds=table(IDS)).logits[:, 6 + 4 : -1]
    reference = torch.nn.functional.cross_entropy(logits.transpose(1, 2), IDS[:, 5:], reduction="none")
    torch.testing.assert_close(nll, reference)
    assert torch.equal(top1, logits.argmax(-1))


def test_without_a_prompt_it_is_the_plain_model(any_llm: LLM) -> None:
    """No prompt: the continuation's loss is the model's own, on two architectures."""
    prefix = any_llm.model.get_input_embeddings()(IDS[:, :5])
    nll, _ = continuation_nll(any_llm, prefix, IDS[:, 5:], None)
    logits = any_llm.model(IDS).logits[:, 4:-1]
    torch.testing.assert_close(
        nll, torch.nn.functional.cross_entropy(logits.transpose(1, 2), IDS[:, 5:], reduction="none")
    )


@pytest.mark.parametrize("n", [0, 4])
def test_training_lowers_the_continuations_loss(llm: LLM, assets: Assets, token_windows: np.ndarray, n: int) -> None:
    """With noise and as the clean control, the loss falls; the LLM and the projection stay as they were."""
    before = [p.clone() for p in llm.model.parameters()]
    settings = PromptSettings(n=n, mu=30.0, vectors=4, steps=30, learning_rate=0.3, batch=8)
    prompt, losses = train_prompt(llm, assets.needed_projection(), token_windows, settings)
    assert prompt.shape == (4, 32)
    assert np.mean(losses[-6:]) < np.mean(losses[:6])
    assert all(torch.equal(a, b) for a, b in zip(before, llm.model.parameters(), strict=True))
    assert not any(p.requires_grad for p in llm.model.parameters())


def test_training_behind_any_defence(llm: LLM, assets: Assets, token_windows: np.ndarray) -> None:
    """Behind noise that is not DEL's, and behind replaced text, the loss falls, too; hidden states are refused."""
    settings = PromptSettings(n=0, mu=np.inf, vectors=4, steps=30, learning_rate=0.3, batch=8)
    for behind in (Gaussian(GaussianConfig(mu=8.0), assets), SanText(SanTextConfig(epsilon=4.0), assets)):
        _, losses = train_prompt(llm, behind, token_windows, settings)
        assert np.mean(losses[-6:]) < np.mean(losses[:6])
    with pytest.raises(UserError, match="hidden states"):
        train_prompt(llm, HiddenStates(HiddenStatesConfig(), assets), token_windows, settings)


def test_without_noise_the_defence_is_the_clean_control(llm: LLM, assets: Assets, token_windows: np.ndarray) -> None:
    """Behind the identity every step is the control's, to the bit."""
    settings = PromptSettings(n=0, mu=np.inf, vectors=3, steps=3, batch=4)
    clean, _ = train_prompt(llm, assets.needed_projection(), token_windows, settings)
    behind, _ = train_prompt(llm, Identity(IdentityConfig(), assets), token_windows, settings)
    assert torch.equal(clean, behind)


def test_a_killed_training_resumes(llm: LLM, assets: Assets, token_windows: np.ndarray, tmp_path: Path) -> None:
    """Noise and data depend on (seed, step): resumed, the prompt is the undisturbed run's to the bit."""
    settings = PromptSettings(n=2, mu=10.0, vectors=3, steps=8, batch=4, checkpoint_every=2)

    def run(name: str, stop_at: int | None = None) -> torch.Tensor:
        def log(step: int, _: object) -> None:
            if step == stop_at:
                raise KeyboardInterrupt

        checkpoint = tmp_path / name
        return train_prompt(llm, assets.needed_projection(), token_windows, settings, checkpoint=checkpoint, log=log)[0]

    whole = run("whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        run("cut.safetensors", stop_at=5)
    assert torch.equal(run("cut.safetensors"), whole)


def test_prompts_of_other_defences_are_kept_apart(llm: LLM, tmp_path: Path) -> None:
    """A prompt behind rapt is found for rapt, by its parameter, and never for DEL."""
    card = {"embedding": llm.fingerprint, "projection": None, "n": 0, "mu": None, "vectors": 6}
    for eta in (20.0, 80.0):
        save_prompt(llm, _prompt(), tmp_path / "tiny" / f"prompt-{eta}", {**card, "defense": "rapt", "strength": eta})
    assert not find_prompts("tiny", llm.fingerprint, None, tmp_path)
    found = find_prompts("tiny", llm.fingerprint, None, tmp_path, defense="rapt")
    assert [prompt.mu for prompt in found] == [20.0, 80.0]
    nearest = nearest_prompt(found, 0, 30.0)
    assert nearest is not None
    assert nearest.mu == 20.0


def test_the_start_is_a_sentence(llm: LLM) -> None:
    """The paper's initialisation: embeddings of a sentence, repeated to length."""
    start = sentence_start(llm, 5, "abc")
    a, b, c = (torch.from_numpy(llm.embedding[token]) for token in llm.tokenize("abc"))
    torch.testing.assert_close(start, torch.stack([a, b, c, a, b]))


def test_saved_folder_is_whole_and_found(llm: LLM, tmp_path: Path) -> None:
    """A saved prompt is found by its projection and (n, mu); nothing temporary is left."""
    for n, mu in ((4, 20.0), (4, 60.0), (8, 20.0), (0, None)):
        card = {"embedding": llm.fingerprint, "projection": "p", "n": n, "mu": mu, "vectors": 6}
        save_prompt(llm, _prompt(), tmp_path / "tiny" / f"prompt-p-{n}-{mu}", card)
    save_prompt(llm, _prompt(), tmp_path / "tiny" / "prompt-p-4-20.0", {**card, "n": 4, "mu": 20.0})  # replaced whole
    prompts = find_prompts("tiny", llm.fingerprint, "p", tmp_path)
    assert [(p.n, p.mu) for p in prompts] == [(0, float("inf")), (4, 20.0), (4, 60.0), (8, 20.0)]
    assert not list(tmp_path.glob("*/*.tmp"))
    best = nearest_prompt(prompts, 8, 55.0)
    assert best is not None
    assert (best.n, best.mu) == (4, 60.0)
    assert nearest_prompt(prompts, 4, 0.0) is None
    assert find_prompts("tiny", llm.fingerprint, "other", tmp_path) == []
    config = json.loads((tmp_path / "tiny" / "prompt-p-4-20.0" / "adapter_config.json").read_text())
    assert config["peft_type"] == "PROMPT_TUNING"
    assert config["num_virtual_tokens"] == 6


def test_no_adapter_is_one_line(tmp_path: Path) -> None:
    """An empty folder says what it lacks."""
    with pytest.raises(UserError, match="soft prompt"):
        load_prompt(tmp_path)


@pytest.mark.parametrize("settings", [{"n": 9, "mu": 1.0}, {"n": 4, "mu": 0.0}, {"n": 4, "mu": 1.0, "vectors": 0}])
def test_bad_settings_are_refused(settings: dict) -> None:
    """Each bad setting is one line."""
    with pytest.raises(UserError):
        PromptSettings(**settings)

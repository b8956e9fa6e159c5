"""The one-run audit of DP-SGD: slow oracles of its parts, its three broken twins caught, the sound original not.

Budget: 100 or 150 canaries, a claim of (1, 1e-5), 95 % confidence, the f-DP one-run estimator with its precommitted
guesses. The tiny LLM's attention is sharp: with the usual small random weights every prompt vector has nearly the same
gradient, and 100 canaries cannot be told apart by anyone.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from transformers import LlamaConfig, LlamaForCausalLM

from audit.bounds import AnyFamily, OneRunFdp
from audit.canaries import (
    CanaryRun,
    CanarySettings,
    Transcript,
    audit_private_prompt,
    least_alike,
    random_phrases,
    whitened_scores,
)
from audit.dpsgd_accounting import noise_multiplier_for
from defenses.base import Assets
from defenses.errors import UserError
from defenses.models.llm import LLM, freeze
from defenses.pipeline.private_gradient import DpSettings, PrivateGradient
from defenses.pipeline.private_prompt import PromptTask
from defenses.pipeline.projection import weighted_pca
from defenses.pipeline.prompt_training import PromptSettings

EPSILON, DELTA = 1.0, 1e-5


@dataclass(frozen=True)
class Budget:
    """What one audit is given: the claim's sample rate and steps, and the canaries."""

    sample_rate: float
    steps: int
    others: int
    canaries: CanarySettings


SMALL = Budget(0.25, 16, 5, CanarySettings(20))
BUDGETS = {
    "NoNoise": Budget(0.25, 16, 16, CanarySettings(100, pool=4, others=16)),
    "ClipAfterAveraging": Budget(0.5, 24, 100, CanarySettings(150, pool=16, refresh=4)),
    "WrongSampleRate": Budget(0.02, 40, 16, CanarySettings(100, pool=4, refresh=4)),
}


@pytest.fixture(scope="module")
def twins() -> ModuleType:
    """The broken twins; tests are no package, so they are loaded by their path."""
    spec = importlib.util.spec_from_file_location("delaudit_twins_dpsgd", Path(__file__).with_name("twins_dpsgd.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sharp(llm: LLM) -> Assets:
    """Assets of a tiny Llama with sharp attention; its LLM hangs on them as `llm`."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128}
    sizes = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, **heads, tie_word_embeddings=True, eos_token_id=None, initializer_range=0.2)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(config)
    tiny = freeze(model, llm.tokenizer, "sharp")
    projection = weighted_pca(tiny.embedding, np.ones(256, dtype=np.int64), 16)
    assets = Assets(tiny.embedding, projection, "sharp")
    object.__setattr__(assets, "llm", tiny)
    return assets


def _audit(
    sharp: Assets,
    seed: int,
    budget: Budget,
    mechanism: type[PrivateGradient] = PrivateGradient,
    **options: Any,
) -> CanaryRun:
    """One audited run under the claim (EPSILON, DELTA)."""
    settings = {"n": 0, "mu": 60.0, "vectors": 16, "learning_rate": 0.05, "prefix_share": (0.2, 0.5)}
    prompt = PromptSettings(**settings, steps=budget.steps, seed=seed)
    task = PromptTask(sharp.llm, sharp.needed_projection(), prompt)
    sigma = noise_multiplier_for(EPSILON, DELTA, budget.sample_rate, budget.steps)
    dp = DpSettings(sigma, budget.sample_rate, clip=0.1, physical_batch=512, coins="seeded")
    windows = np.random.default_rng([seed, 1]).integers(256, size=(budget.others, 8))
    rng = np.random.default_rng(seed)
    return audit_private_prompt(task, windows, dp, budget.canaries, rng, mechanism=mechanism, **options)


def _bound(run: CanaryRun) -> float:
    return OneRunFdp().bound(run.evidence, AnyFamily(DELTA), DELTA, np.random.default_rng(0), 0.95).epsilon


@pytest.mark.parametrize("twin", list(BUDGETS))
def test_each_twin_is_caught(sharp: Assets, twins: ModuleType, twin: str) -> None:
    """No noise, a clip after averaging, a wrong sample rate: the bound at 95 % exceeds the claimed epsilon."""
    assert _bound(_audit(sharp, 0, BUDGETS[twin], getattr(twins, twin))) > EPSILON


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("twin", list(BUDGETS))
def test_each_twin_is_caught_over_seeds(sharp: Assets, twins: ModuleType, twin: str, seed: int) -> None:
    """The same for five more seeds: canaries, coins, samples, noise and the other examples are all drawn anew."""
    assert _bound(_audit(sharp, seed, BUDGETS[twin], getattr(twins, twin))) > EPSILON


@pytest.mark.parametrize("seed", range(2))
def test_the_sound_original_is_not_refuted(sharp: Assets, seed: int) -> None:
    """DP-SGD as it should be keeps its claim: at most 5 % of seeds may differ, and these are fixed."""
    assert _bound(_audit(sharp, seed, BUDGETS["NoNoise"])) <= EPSILON


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("budget", list(BUDGETS))
def test_the_sound_original_is_not_refuted_over_seeds(sharp: Assets, budget: str, seed: int) -> None:
    """The same for five seeds under each twin's budget."""
    assert _bound(_audit(sharp, seed, BUDGETS[budget])) <= EPSILON


def test_the_score_finds_canaries_where_there_is_something_to_find(sharp: Assets, twins: ModuleType) -> None:
    """Without noise and other examples nearly every canary is ranked right: the area under the ROC curve is near 1."""
    run = _audit(sharp, 3, Budget(0.25, 16, 0, CanarySettings(40)), twins.NoNoise)
    inside = run.evidence.included
    ranks = rankdata(run.evidence.scores)
    area = (ranks[inside].mean() - (inside.sum() + 1) / 2) / (~inside).sum()
    assert area > 0.95


def test_scores_are_the_linear_discriminant() -> None:
    """Scores through the Gram matrix equal those through the explicit D x D covariance and its inverse."""
    rng = np.random.default_rng(0)
    examples, shares = rng.normal(size=(7, 30)), np.array([0.2] * 5 + [0.4] * 2)
    release = (rng.random(7) < shares) @ examples + 0.5 * rng.normal(size=30)
    centred = release - shares @ examples
    outside = centred - examples.T @ np.linalg.lstsq(examples.T, centred, rcond=None)[0]
    noise = float(outside @ outside) / (30 - 7)
    covariance = noise * np.eye(30) + examples.T @ np.diag(shares * (1 - shares)) @ examples
    expected = examples @ np.linalg.inv(covariance) @ centred
    np.testing.assert_allclose(whitened_scores(examples, release, shares), expected, rtol=1e-9)


def test_scores_survive_equal_canaries_and_silence() -> None:
    """Two equal canaries share one score, and a release of zero gives finite scores."""
    canaries = np.eye(5, 20)
    canaries[4] = canaries[3]
    scores = whitened_scores(canaries, canaries[0] + canaries[3], np.full(5, 0.5))
    assert scores[3] == pytest.approx(scores[4])
    assert scores[0] > scores[1]
    assert np.isfinite(whitened_scores(canaries, np.zeros(20), np.full(5, 0.5))).all()
    assert whitened_scores(canaries, canaries[0], np.array([0.5, 1, 1, 0.5, 0.5]))[1:3].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="no room"):
        whitened_scores(np.eye(3), np.zeros(3), np.full(3, 0.5))


def test_least_alike_is_greedy() -> None:
    """The picks are those of a slow Gram-Schmidt that takes the longest residual each time."""
    gradients = np.random.default_rng(1).normal(size=(12, 9)) * np.linspace(1, 3, 12)[:, None]
    left, picks = gradients.copy(), []
    for _ in range(6):
        place = int(np.argmax(np.linalg.norm(left, axis=1)))
        picks.append(place)
        direction = left[place] / np.linalg.norm(left[place])
        left = left - np.outer(left @ direction, direction)
    assert least_alike(gradients, 6).tolist() == picks


def test_phrases_repeat() -> None:
    """Every candidate repeats a phrase of at most its length, and both short and long phrases are there."""
    windows = random_phrases(200, 12, 50_000, np.random.default_rng(2))
    periods = [next(p for p in range(1, 13) if np.array_equal(row[p:], row[:-p])) for row in windows]
    assert windows.shape == (200, 12)
    assert set(periods) == set(range(1, 13))


def test_a_killed_audit_resumes(sharp: Assets, tmp_path: Path) -> None:
    """Killed in mid-training and started again, the evidence is the undisturbed audit's to the bit."""
    whole = _audit(sharp, 4, SMALL)

    def die(step: int, _: object) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _audit(sharp, 4, SMALL, work=tmp_path, log=die)
    again = _audit(sharp, 4, SMALL, work=tmp_path)
    assert np.array_equal(again.evidence.scores, whole.evidence.scores)
    assert np.array_equal(again.evidence.included, whole.evidence.included)
    assert not list(tmp_path.rglob("*.tmp"))


def test_canaries_are_drawn_and_included_as_said(sharp: Assets) -> None:
    """Distinct token windows of the examples' length; coins of both kinds; one score each."""
    run = _audit(sharp, 5, SMALL)
    assert run.canaries.shape == (20, 8)
    assert len(np.unique(run.canaries, axis=0)) == 20
    assert run.evidence.canaries == 20
    assert 0 < run.evidence.included.sum() < 20


def test_impossible_numbers_of_canaries_are_refused(sharp: Assets) -> None:
    """One canary has no other to compare with, and 1,024 coordinates hold no 1,024 examples and the noise."""
    with pytest.raises(UserError, match="--canaries"):
        CanarySettings(1)
    with pytest.raises(UserError, match="--canaries"):
        _audit(sharp, 0, Budget(0.25, 16, 10, CanarySettings(1014, others=10)))


def test_a_missing_transcript_is_one_line(tmp_path: Path) -> None:
    """A step that nobody took down says how to mend it."""
    with pytest.raises(UserError, match="remove the checkpoint"):
        Transcript(tmp_path).at(3)

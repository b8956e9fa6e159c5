"""Utility over several draws of coins, and of clients that have a language model of their own."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.config import Condition, parse_experiment
from audit.utility import repeated, utility
from audit.workbench import Workbench
from defenses.base import Writer
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.prompt_training import save_prompt

DEL = Condition("del", "d16", {"n": 4, "mu": 20.0}, "none")
CLEAR = Condition("identity", None, {}, "none")


class Extracting(Identity):
    """A client that throws the server's answer away and asks its own model."""

    has_local_model = True

    def finish(self, prompts: Sequence[str], answers: Sequence[str], write: Writer, tokens: int) -> list[str]:
        """The local model alone."""
        assert len(prompts) == len(answers)
        return write(prompts, tokens)


@pytest.fixture(scope="module")
def bench(tiny_experiment: dict[str, Any]) -> Workbench:
    """Three draws of coins, and texts enough for MAUVE."""
    data = {**tiny_experiment["data"], "windows": 60, "generations": 60}
    return Workbench(parse_experiment({**tiny_experiment, "data": data, "utility_seeds": 3}))


def test_windows_are_repeated_whole(bench: Workbench) -> None:
    """Three draws are three times the windows, in order, documents kept."""
    many = repeated(bench.pairs, 3)
    assert many.n == 3 * bench.pairs.n
    np.testing.assert_array_equal(many.prefix[bench.pairs.n : 2 * bench.pairs.n], bench.pairs.prefix)
    np.testing.assert_array_equal(many.clusters[: bench.pairs.n], bench.pairs.clusters)


def test_every_draw_has_its_own_coins_and_counts(bench: Workbench) -> None:
    """The perplexity over three draws is that of all three sets of windows, each under coins of its own."""
    defense = Del(DelConfig(n=4, mu=20.0), bench.assets("d16"))
    row, _ = utility(bench, DEL, defense)
    from audit.measures import score
    from defenses.randomness import seeded_rng

    many = repeated(bench.pairs, 3)
    view = defense.protect(many.prefix, seeded_rng(bench.experiment.seed, "utility", DEL.label))
    bodies = view.bodies()
    assert bodies[0] != bodies[bench.pairs.n]
    nll = score(bench.llm, many, defense.restore(view), None).nll
    assert row["perplexity"] == pytest.approx(np.exp(nll.mean()))
    assert row["utility_seeds"] == 3
    assert row["client_s_per_token"] > 0


def test_the_clear_control_keeps_its_utility_under_any_number_of_draws(bench: Workbench) -> None:
    """Identity has ratio one, full agreement, and the clean model's own MAUVE, within its interval."""
    row, _ = utility(bench, CLEAR, Identity(IdentityConfig(), bench.assets(None)))
    assert row["perplexity_over_clean"] == pytest.approx(1)
    assert row["agreement_top1"] == 1
    assert row["mauve_low"] <= row["mauve"] <= row["mauve_high"]
    assert row["mauve_texts"] == 60


def test_a_local_model_is_shown_beside_what_it_does_alone(bench: Workbench) -> None:
    """Final text, server's text and local model alone have a figure each; here the final one is the local model's."""
    row, texts = utility(bench, CLEAR, Extracting(IdentityConfig(), bench.assets(None)))
    assert row["coherence"] == row["coherence_local_alone"]
    assert row["local_model"] == bench.experiment.model
    # The local model is the same LLM and nothing is hidden, so the server writes the same.
    assert row["coherence_remote"] == pytest.approx(row["coherence"], abs=1e-6)
    assert texts == bench.clean_generations


def test_few_generations_have_no_mauve(tiny_experiment: dict[str, Any]) -> None:
    """Four texts fill no histogram."""
    small = Workbench(parse_experiment(tiny_experiment))
    row, _ = utility(small, CLEAR, Identity(IdentityConfig(), small.assets(None)))
    assert "mauve" not in row
    assert row["coherence_low"] <= row["coherence"] <= row["coherence_high"]


def test_noise_on_the_same_latents_borrows_dels_prompt(bench: Workbench, tmp_path: Path) -> None:
    """A defence takes its own prompt; on DEL's latents DEL's nearest by epsilon; elsewhere, or where unwanted, none."""
    near = Condition("gaussian", "d16", {"mu": 20.0}, "nearest")
    name, vectors = bench.prompt(near, bench.defense(near))
    assert name == "prompt-noisy"
    assert vectors is not None
    assert vectors.shape[1] == 32
    for condition in (
        Condition("gaussian", None, {"mu": 20.0, "on": "embedding"}, "nearest"),
        Condition("santext", None, {"epsilon": 5.0}, "nearest"),
        Condition("gaussian", "d16", {"mu": 20.0}, "none"),
        Condition("gaussian", "d16", {"sigma": 0.0}, "nearest"),
    ):
        assert bench.prompt(condition, bench.defense(condition)) == (None, None)
    root = shutil.copytree(str(bench.experiment.artifacts), tmp_path / "store")
    card = {"embedding": bench.llm.fingerprint, "projection": None, "n": 0, "mu": None, "vectors": 4}
    save_prompt(bench.llm, vectors, root / "tiny" / "prompt-own", {**card, "defense": "santext", "strength": 4.0})
    other = Workbench(replace(bench.experiment, artifacts=str(root)))
    own = Condition("santext", None, {"epsilon": 5.0}, "nearest")
    assert other.prompt(own, other.defense(own))[0] == "prompt-own"


def test_a_prompt_can_be_named(bench: Workbench) -> None:
    """A prompt trained for other noise is used where it is asked for, and an unknown name is one line."""
    named = Condition("del", "d16", {"n": 4, "mu": 200.0}, "prompt-clean")
    assert bench.prompt(named, bench.defense(named))[0] == "prompt-clean"
    with pytest.raises(UserError, match=r"prompt-lost.*there is prompt-clean, prompt-noisy"):
        bench.prompt(replace(named, soft_prompt="prompt-lost"), bench.defense(named))

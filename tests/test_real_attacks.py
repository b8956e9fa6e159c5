"""How strong the attacks are on the real embedding table and real text: slow, run by `python -m pytest -m slow`.

Real text is looked for in the folder that DELAUDIT_DATA names. The setting is that of the published comparison: top-d
SVD projection of the table with a random rotation, 99 % of latents within the clip, n = 4, d = 128, prior from the
WikiText-2 validation split, attacked text from its test split.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.adversaries import token_adversaries
from audit.config import parse_experiment
from audit.inversion import figures, invert
from audit.workbench import Workbench
from defenses.base import Assets
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.projection import rotated_svd

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("DELAUDIT_DATA", "/nonexistent"))
NAMES = ("prior", "cosine", "latent-ml", "map", "hmm")
needs_text = pytest.mark.skipif(not (DATA / "wikitext2").exists(), reason="DELAUDIT_DATA names no wikitext2 folder")


@cache
def bench(auxiliary: str = "wikitext2@official_validation") -> Workbench:
    """The real model; test text, and public text of one corpus."""
    data = {"source": f"{DATA}/wikitext2@official_test", "auxiliary": [f"{DATA}/{auxiliary}"]}
    grid = {"defense": "del", "projection": ["d128-plain"]}
    sizes = {"prefix_tokens": 64, "attack_tokens": 2000}
    return Workbench(parse_experiment({"name": "slow", "grids": [grid], "data": data | sizes}))


@cache
def rotated(d: int = 128) -> Assets:
    """Top-d singular directions of the table under a random rotation."""
    table = bench().llm.embedding
    return Assets(table, rotated_svd(table, d, np.random.default_rng(0)))


@cache
def read(mu: float, auxiliary: str = "wikitext2@official_validation", n: int = 4) -> dict[str, Any]:
    """The row of one noise level, under three draws of coins; mu = 0 is the null."""
    config = DelConfig(n=n, mu=mu) if mu else DelConfig(n=n, a_over_c=float("inf"))
    place = bench(auxiliary)
    found = invert(
        Del(config, rotated()),
        token_adversaries(NAMES),
        place.auxiliary.windows,
        place.attacked.prefix,
        seed=0,
        seeds=3,
        progress=False,
    )
    return figures(found, place.prompts(place.attacked))


@needs_text
@pytest.mark.parametrize(("mu", "least", "weak"), [(41.0, 0.45, 0.25), (100.0, 0.90, 0.60)])
def test_the_strongest_attack_is_strong(mu: float, least: float, weak: float) -> None:
    """The lower end of the strongest attack's interval is above .45 at mu = 41 and .90 at 100; cosine is far below."""
    row = read(mu)
    assert row["strongest_attack"] == "hmm"
    assert row["asr_strongest_low"] >= least
    assert row["asr_top1_cosine_high"] < weak


@needs_text
@pytest.mark.parametrize("mu", [0.5, 5.0, 20.0, 41.0, 60.0, 100.0])
def test_never_weaker_than_the_blind_prior_and_honest_about_itself(mu: float) -> None:
    """The strongest attack's advantage is not below 0 by more than its interval; map knows its success within .03."""
    row = read(mu)
    assert row[f"advantage_{row['strongest_attack']}_high"] >= 0
    assert abs(row["posterior_mean_map"] - row["asr_top1_map"]) <= 0.03


@needs_text
def test_at_the_null_there_is_no_advantage() -> None:
    """A = infinity: the intervals of map's and hmm's advantage cover 0."""
    row = read(0.0)
    for name in ("map", "hmm"):
        assert row[f"advantage_{name}_low"] <= 0 <= row[f"advantage_{name}_high"]


@needs_text
@pytest.mark.parametrize("mu", [41.0, 60.0, 100.0])
def test_a_prior_of_another_domain_keeps_half_of_the_gain(mu: float) -> None:
    """With presidents' speeches as the public text at least half of map's gain over the paper's attack is left."""
    own, other = read(mu), read(mu, "sotu@train")
    gain = own["asr_top1_map"] - own["asr_top1_cosine"]
    assert other["asr_top1_map"] - other["asr_top1_cosine"] >= 0.5 * gain
    assert other["asr_strongest"] >= other["asr_top1_latent-ml"] - 0.02


@needs_text
def test_mu_alone_does_not_say_what_leaks() -> None:
    """At the same nominal mu eight bits leak more than one: their law is nearer to the Gaussian that mu names."""
    assert read(41.0, n=8)["asr_top1_map_low"] > read(41.0, n=1)["asr_top1_map_high"]

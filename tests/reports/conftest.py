"""A synthetic record in the shape of a quickstart's: two controls, DEL at two n, one column left out here and there."""

import math
from typing import Any

import pytest

from audit.provenance import Provenance
from audit.records import Figure, RunRecord, new_record

# (n, mu, exact epsilon, epsilon of mu-GDP, perplexity, cosine ASR, MAP ASR)
POINTS = (
    (4, 20.0, 274.2, 284.39, 2165.0, 0.021, 0.034),
    (4, 60.0, 1331.0, 2054.0, 226.0, 0.235, 0.381),
    (4, 100.0, 1590.4, 5425.0, 135.0, 0.489, 0.702),
    (8, 20.0, 283.77, 284.39, 2080.0, 0.022, 0.036),
    (8, 60.0, 2008.1, 2054.0, 208.0, 0.251, 0.41),
    (8, 100.0, 5120.7, 5425.0, 121.0, 0.53, 0.744),
)


def spread(name: str, value: float, share: float = 0.1) -> dict[str, float]:
    """A figure with an interval of plus and minus a share of it."""
    return {name: value, f"{name}_low": value * (1 - share), f"{name}_high": value * (1 + share)}


def defended(point: tuple[int, float, float, float, float, float, float]) -> dict[str, Any]:
    """A row of DEL."""
    n, mu, exact, gdp, perplexity, cosine, posterior = point
    return {
        "defence": "del", "projection": "d128-noise-aware", "n": n, "d": 128, "mu": mu, "a_over_c": 90 / mu, "seed": 0,
        "claim": f"mu-GDP (mu={mu:g}) per one token", "delta": 1e-5, "epsilon_exact_token": exact,
        "epsilon_gdp_token": gdp, "epsilon_pure_token": 3 * exact, "gamma": 0.0138, "vacuous": True,
        "vacuous_reason": "an adversary may be right up to 100 % of the time", "prompt_name": f"n{n}-mu{mu:g}",
        **spread("perplexity", perplexity), **spread("perplexity_without_prompt", 1.4 * perplexity),
        **spread("agreement_top1", 40 / (100 + perplexity)), **spread("coherence", 0.2 + 20 / perplexity),
        "coherence_encoder": "all-MiniLM-L6-v2", **spread("asr_top1_cosine", cosine),
        **spread("asr_top1_map", posterior), "asr_prior": 0.031,
        "bytes_up_per_token": 16.0 * n + 1.5, "bytes_down_per_token": 4.5, "client_ms_per_token": 0.021 * n,
        "server_s_per_token": 0.045,
    }  # fmt: skip


@pytest.fixture
def record() -> RunRecord:
    """The record."""
    controls: list[dict[str, Any]] = [
        {"defence": "identity", "seed": 0, **spread("perplexity", 26.5, 0.06), **spread("coherence", 0.61),
         "coherence_encoder": "all-MiniLM-L6-v2", "asr_top1_cosine": 1.0, "asr_prior": 0.031},
        {"defence": "projection-only", "seed": 0, "d": 128, **spread("perplexity", 57.0, 0.08)},
    ]  # fmt: skip
    rows = [defended(point) for point in POINTS]
    rows[0]["coherence"] = math.nan
    del rows[1]["client_ms_per_token"]
    rows[2]["gamma"] = math.inf
    example = {
        "condition": "del n=4 mu=20", "text": "I am <b>Ann|Lee</b>,\nsee [me](http://x.y) `now` *soon*",
        "recovered": {"cosine": "I am a the of", "map": None}, "recovered_share": {"cosine": 0.25},
    }  # fmt: skip
    answer = {"condition": "del n=4 mu=20", "text": "My name is", "generation": "the | the", "clean_generation": "Ann."}
    origin = Provenance(
        commit="0123abcd" * 5,
        dirty=True,
        versions={"numpy": "2.0.0"},
        environment={"cpu_count": 2},
        created="2026-01-02T03:04:05+00:00",
        command="delaudit quickstart --seed 0",
    )
    return new_record(
        "quickstart",
        config={"model": "smollm2-135m", "seed": 0},
        seed=0,
        rows=[*controls, *rows],
        data=[{"name": "embedded workload", "sha256": "ab" * 32}],
        figures=[Figure("clean_perplexity", 26.5, 25.0, 28.0, 0.95, 60, "cluster bootstrap, 2000 resamples")],
        examples=[example, answer],
        provenance=origin,
    )

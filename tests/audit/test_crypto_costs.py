"""Costs of encrypted generation: ratios, shares of the final decoding, composition, and a broken run that goes on."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from audit.crypto_record import CACHED, COMPOSED, COSTS, EXTRAPOLATED, IN_FULL, MEASURED, NETWORKS, OPERATORS


@pytest.fixture(autouse=True)
def extra(needs: Callable[..., None]) -> None:
    """Programs are JAX functions."""
    needs("spu")


class Clock:
    """An engine that computes nothing: its seconds rise from run to run, its bytes are the inputs' own."""

    name, parties, guarantee, precision = "clock", 2, "none", 0.0

    def __init__(self, slow: float = 1.0) -> None:
        self.runs = 0
        self.slow = slow

    def run(self, function: Callable[..., Any], *secrets: Any) -> Any:
        """Count."""
        import jax

        from defenses.crypto.engines.base import Outcome

        self.runs += 1
        size = sum(leaf.nbytes for leaf in jax.tree_util.tree_leaves(secrets))
        return Outcome(None, self.slow * self.runs, size, 7, ())


def small() -> Any:
    """The smallest model of the GPT-2 kind."""
    from defenses.crypto.model import ModelConfig

    return ModelConfig(
        layers=1, hidden=4, heads=2, key_value_heads=2, intermediate=8, vocabulary=300, context=8
    )  # fmt: skip


def plan(**more: Any) -> Any:
    """Two lengths, two rounds."""
    from audit.crypto_costs import CostPlan

    return CostPlan(**{"lengths": (2, 4), "composed": (6,), "large": (), "new_tokens": 4, "repeats": 2,
                       "operator_repeats": 2, **more})  # fmt: skip


def study(folder: Path, engine: Any = None, **more: Any) -> list[dict[str, Any]]:
    """The rows of a small plan."""
    from audit.crypto_costs import Meter, cost_rows

    return cost_rows(Meter(engine or Clock(), folder), plan(**more), small())


def test_every_system_has_a_row_at_every_length_in_both_accountings(tmp_path: Path) -> None:
    """A system or an accounting that is left out would make the table look complete when it is not."""
    from defenses.crypto.systems import SYSTEMS

    rows = [row for row in study(tmp_path) if row["table"] == COSTS]
    found = {(row["system"], row["length"], row["accounting"], row["basis"]) for row in rows}
    ways = (IN_FULL, CACHED)
    assert found == {(name, length, way, MEASURED) for name in SYSTEMS for length in (2, 4) for way in ways} | {
        (name, 6, way, COMPOSED) for name in SYSTEMS for way in ways
    }


def test_the_reference_is_as_fast_as_itself_and_ratios_are_taken_within_a_round(tmp_path: Path) -> None:
    """A ratio of means over rounds would move with the machine; this engine doubles and trebles its times."""
    from audit.crypto_costs import Costs, Meter, _compared
    from defenses.crypto.operator_costs import Cost
    from defenses.crypto.systems import SYSTEMS

    vanilla, pcft = SYSTEMS["vanilla"], SYSTEMS["pcft"]
    found = {
        vanilla: Costs((Cost(4.0, 800, 10), Cost(40.0, 800, 10)), MEASURED),
        pcft: Costs((Cost(2.0, 200, 5), Cost(20.0, 200, 5)), MEASURED),
    }
    first, second = _compared(found, "small", 4, IN_FULL, Meter(Clock(), tmp_path))
    assert (first["ratio_seconds"], first["bytes_saved"]) == (1.0, 0.0)
    assert second["ratio_seconds"] == pytest.approx(2.0)
    assert "ratio_seconds_low" not in second  # both rounds gave the same ratio
    assert (second["bytes_saved"], second["ratio_rounds"]) == (0.75, 2.0)


def test_a_system_is_compared_with_the_approximated_model_round_by_round(tmp_path: Path) -> None:
    """If this failed, MERGE over MPCFormer would be a quotient of means, without an interval."""
    from audit.crypto_costs import Costs, Meter, _compared
    from defenses.crypto.operator_costs import Cost
    from defenses.crypto.systems import SYSTEMS

    seconds = {"vanilla": (8.0, 9.0, 10.0), "mpcformer": (4.0, 5.0, 6.0), "merge": (2.0, 2.4, 3.1)}
    found = {SYSTEMS[name]: Costs(tuple(Cost(one, 1, 1) for one in times), MEASURED) for name, times in seconds.items()}
    rows = {row["system"]: row for row in _compared(found, "small", 4, IN_FULL, Meter(Clock(), tmp_path))}
    logs = np.log(np.array(seconds["mpcformer"]) / np.array(seconds["merge"]))
    half = student.ppf(0.975, 2) * logs.std(ddof=1) / np.sqrt(3)
    merge = rows["merge"]
    assert merge["ratio_seconds_mpcformer"] == pytest.approx(np.exp(logs.mean()))
    assert merge["ratio_seconds_mpcformer_low"] == pytest.approx(np.exp(logs.mean() - half))
    assert merge["ratio_seconds_mpcformer_high"] == pytest.approx(np.exp(logs.mean() + half))


def test_an_interval_is_students_of_the_logarithm() -> None:
    """A normal interval of two rounds would claim far more than two rounds can, and one in seconds go below zero."""
    from audit.crypto_costs import Costs, _figures
    from defenses.crypto.operator_costs import Cost

    row = _figures(Costs((Cost(1.0, 5, 7), Cost(3.0, 5, 7)), MEASURED))
    # t at 0.975 with one degree of freedom is 12.706; the relative standard error of 1 and 3 is a half.
    assert (row["seconds"], row["seconds_high"]) == (2.0, pytest.approx(2 * math.exp(12.7062 / 2), rel=1e-4))
    assert row["seconds_low"] == pytest.approx(2 * math.exp(-12.7062 / 2), rel=1e-4)
    assert (row["bytes"], row["rounds"]) == (5, 7)
    assert "bytes_low" not in row  # every run sent the same


def test_bytes_that_vary_are_means_with_intervals() -> None:
    """CHEETAH makes triples in batches: the bytes of one run can be a ninth of the mean, or nine times it."""
    from audit.crypto_costs import Costs, _figures, _ratios
    from defenses.crypto.operator_costs import Cost

    batches = (50_000, 50_000, 1_200_000, 50_000, 1_200_000)
    one, other = (Costs(tuple(Cost(1.0, size, 9) for size in sizes), MEASURED) for sizes in (batches, batches[::-1]))
    row = _figures(one)
    assert row["bytes"] == 510_000
    assert row["bytes_low"] < 250_000
    assert row["bytes_high"] > 1_000_000
    ratio = _ratios(one, other)
    assert ratio["ratio_bytes"] == pytest.approx(1.0)
    assert ratio["ratio_bytes_low"] < 1 < ratio["ratio_bytes_high"]
    assert ratio["bytes_saved_low"] < 0 < ratio["bytes_saved_high"]


def test_means_over_means_have_intervals_that_cover() -> None:
    """The delta method by five rounds: 95 % intervals hold the true ratio in 93 to 97.5 % of 2,000 draws."""
    from audit.crypto_costs import _ratio_of_means

    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        first, second = 6 + 0.5 * rng.normal(size=5), 2 + 0.2 * rng.normal(size=5)
        row = _ratio_of_means("x", first, second)
        held += row["x_low"] <= 3 <= row["x_high"]
    assert 0.93 <= held / 2000 <= 0.975


def test_a_network_adds_a_delay_for_each_round_and_time_for_each_bit() -> None:
    """Swapped bits and bytes, or rounds left out, would make encrypted models look fit for a WAN."""
    from audit.crypto_costs import on_network
    from defenses.crypto.operator_costs import Cost

    for name, (delay, rate) in NETWORKS.items():
        assert on_network(Cost(1.0, 1000, 3), name) == pytest.approx(1.0 + 3 * delay + 8000 / rate)


def test_resent_embeddings_bear_their_share_of_the_final_decoding(tmp_path: Path) -> None:
    """Without it, MERGE would be measured without ever writing a token."""
    few, many = (
        {row["system"]: row for row in study(tmp_path / str(new), new_tokens=new) if row.get("length") == 6
         and row["accounting"] == IN_FULL}
        for new in (1, 4)
    )  # fmt: skip
    assert few["vanilla"]["bytes"] == many["vanilla"]["bytes"]
    # The table is read once for all tokens, so more tokens make each cheaper; and there is a share to bear.
    assert few["merge"]["bytes"] > many["merge"]["bytes"]


def test_a_composed_token_is_the_sum_of_its_operators(tmp_path: Path) -> None:
    """The law of composition is what every figure at length 512 rests on."""
    from defenses.crypto.operator_costs import operators_of_token
    from defenses.crypto.systems import SYSTEMS

    rows = study(tmp_path)
    alone = {row["operator"]: row for row in rows if row["table"] == OPERATORS}
    token = next(row for row in rows if row.get("length") == 6 and row["system"] == "vanilla"
                 and row["accounting"] == CACHED)  # fmt: skip
    counts = operators_of_token(SYSTEMS["vanilla"], small(), 6, cached=True)
    for key in ("bytes", "rounds", "seconds"):
        assert token[key] == pytest.approx(sum(count * alone[one.name][key] for one, count in counts.items()))


def test_a_broken_run_goes_on_and_measures_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night of measurements must not be lost to a reboot; another version of the code is another measurement."""
    monkeypatch.setattr("audit.crypto_costs.code_digest", lambda: "this version")
    first = Clock()
    rows = study(tmp_path, first)
    second = Clock(slow=100.0)
    assert study(tmp_path, second) == rows
    assert (first.runs > 0, second.runs) == (True, 0)
    victim = next(iter((tmp_path / "measured").iterdir()))
    victim.unlink()
    study(tmp_path, second)
    assert second.runs == 2  # one is thrown away
    monkeypatch.setattr("audit.crypto_costs.code_digest", lambda: "another version")
    study(tmp_path, second)
    assert second.runs == 2 + first.runs


def test_large_shapes_are_labelled_extrapolated(tmp_path: Path) -> None:
    """A composed figure of a model that never ran must not pass for a measured one."""
    rows = [row for row in study(tmp_path, large=(2,)) if row.get("model") == "smollm2-135m"]
    assert {row["basis"] for row in rows} == {EXTRAPOLATED}
    assert all(math.isfinite(row["seconds"]) and row["bytes"] > 0 for row in rows)


@pytest.mark.parametrize("wrong", [{"lengths": ()}, {"lengths": (0,)}, {"repeats": 1}, {"operator_repeats": 1},
                                   {"new_tokens": 0}, {"large": (-1,)}])  # fmt: skip
def test_a_plan_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    """A plan without rounds would end in a division by zero, after hours."""
    from defenses.errors import UserError

    with pytest.raises(UserError, match=r"at least|positive|name at least"):
        plan(**wrong)

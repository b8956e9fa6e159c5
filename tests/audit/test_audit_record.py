"""Records of audits: rows that cannot contradict themselves, and measured points that survive the disk."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from audit.audit_record import KEYS, Tradeoff, audit_record, audit_row, overall_verdict, tradeoffs, witnesses
from audit.records import RunRecord
from audit.witness import Witness

FPR = (0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Result:
    """What an auditor hands over for one claim; `verdict` is derived, as it may be in any such class."""

    claim: str = "del at mu = 1"
    defence: str = "del"
    claim_kind: str = "mu-GDP"
    claim_text: str = "mu-GDP (mu=1) per one token"
    epsilon_claimed: float | None = 4.377
    delta: float | None = 1e-5
    unit: str = "one token"
    relation: str = "replace a token by any other"
    vacuous: bool | None = False
    ceiling: float | None = 0.2
    p_value: float | None = 0.4
    alpha: float | None = 0.05
    confidence: float | None = 0.95
    epsilon_lower: float | None = 3.9
    family: str = "gdp"
    estimator: str = "supremum over the curve"
    correction: str = "none"
    samples: int | None = 1000
    detectable_violation: float | None = 1.2
    power_target: float | None = 0.8
    through: str = "wire"
    score: str = "likelihood ratio"
    seed: int = 3
    seconds: float | None = 0.5
    reason: str = "stays below"
    source: str = "Theorem 4.2"
    parameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    points: Mapping[str, Any] | None = None
    witness: Witness | None = None
    said: str | None = None

    @property
    def verdict(self) -> str:
        """What the numbers say, unless the test says otherwise."""
        if self.said is not None or self.p_value is None or self.alpha is None:
            return self.said or "INCONCLUSIVE"
        return "REFUTED" if self.p_value <= self.alpha else "CONSISTENT"


def measured(**further: Any) -> dict[str, Any]:
    """Three points below a curve."""
    points = {"fpr": FPR, "tpr": (0.2, 0.4, 0.7), "tpr_low": (0.1, 0.3, 0.6), "tpr_high": (0.3, 0.5, 0.8),
              "claimed_power": (0.35, 0.5, 0.8)}  # fmt: skip
    return {**points, **further}


def read(points: Mapping[str, Any]) -> Tradeoff | None:
    """The points as they come back from a record on disk."""
    (found,) = tradeoffs(RunRecord.from_json(audit_record([Result(points=points)], {}, 0).to_json()))
    return found


def event() -> Witness:
    """A sent token that tells two tokens apart."""
    return Witness(
        null=(4,), alternative=(9,), null_text=("a",), alternative_text=("b",), requests=(1,), positions=(1,), tokens=1,
        event='the token sent is "b" (id 9)', threshold=0.5, above=True, sent=(9,), sent_text=("b",), sent_null=(3,),
        sent_alternative=(70,), kinds=1, null_count=3, alternative_count=70, draws=100, null_low=0.01, null_high=0.09,
        alternative_low=0.6, alternative_high=0.8, confidence=0.95, allowed=0.3,
    )  # fmt: skip


def test_a_row_has_every_key_first_and_the_defences_parameters_last() -> None:
    """The agreed keys in order, then further scalars, then parameters under a prefix; points are no part of a row."""
    row = audit_row(Result(parameters={"mu": 1.0, "delta": 9.0}, points=measured()))
    assert tuple(row)[: len(KEYS)] == KEYS
    assert (row["verdict"], row["source"], row["delta"]) == ("CONSISTENT", "Theorem 4.2", 1e-5)
    assert (row["parameter_mu"], row["parameter_delta"]) == (1.0, 9.0)
    assert "points" not in row
    assert "parameters" not in row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claim": ""}, "needs a name"),
        ({"said": "PRIVATE"}, "the verdict is one of REFUTED, INCONCLUSIVE, CONSISTENT, not PRIVATE"),
        ({"epsilon_lower": -0.1}, "epsilon_lower must not be negative or NaN"),
        ({"epsilon_lower": math.nan}, "epsilon_lower must not be negative or NaN"),
        ({"p_value": 1.2}, r"p_value must be in \[0, 1\]"),
        ({"p_value": math.nan}, r"p_value must be in \[0, 1\]"),
        ({"delta": -1e-9}, r"delta must be in \[0, 1\]"),
        ({"said": "REFUTED", "p_value": 0.06}, "called refuted with p = 0.06 above the level 0.05"),
        ({"detectable_violation": None}, "consistent without the smallest violation"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    """No negative or NaN bound, no unknown verdict, no refutation above its level, no consistency without power."""
    with pytest.raises(ValueError, match=message):
        audit_row(Result(**changes))


def test_what_is_no_result_is_named() -> None:
    """An object that lacks attributes is refused with their names."""

    @dataclass
    class Half:
        claim: str = "x"

    with pytest.raises(ValueError, match="needs defence, claim_kind"):
        audit_row(Half())


def test_the_record_counts_verdicts_and_adds_up_levels() -> None:
    """Counts per verdict, vacuous claims, and the sum of the levels, which is unknown where one of them is."""
    results = [Result(), Result(p_value=0.001, vacuous=True), Result(p_value=None, alpha=0.01)]
    record = audit_record(results, {"file": "claims.toml"}, 5, kind="check")
    assert {figure.name: figure.value for figure in record.figures} == {
        "claims": 3, "refuted": 1, "inconclusive": 1, "consistent": 1, "vacuous": 1,
        "alpha_spent": pytest.approx(0.11, abs=1e-15),
    }  # fmt: skip
    assert (record.kind, record.seed, record.config) == ("check", 5, {"file": "claims.toml"})
    assert [row["verdict"] for row in record.rows] == ["CONSISTENT", "REFUTED", "INCONCLUSIVE"]
    unknown = audit_record([Result(), Result(alpha=None)], {}, 0)
    assert "alpha_spent" not in {figure.name for figure in unknown.figures}
    with pytest.raises(ValueError, match="kind audit or check, not quickstart"):
        audit_record([], {}, 0, kind="quickstart")


def test_points_come_back_from_the_disk() -> None:
    """Each list under its name, in the order of the false-positive rate, beside the row that it belongs to."""
    shuffled = {key: np.array(values)[[2, 0, 1]] for key, values in measured().items()}
    grid = {"curve_fpr": [0.0, 1.0], "curve_power": [0.1, 1.0], "curve_exact": [0.08, 1.0],
            "curve_sandwich_low": [0.0, 0.9], "curve_sandwich_high": [0.2, 1.0]}  # fmt: skip
    found = read({**shuffled, **grid, "kappa": [0.03]})
    assert found is not None
    assert (found.fpr, found.tpr, found.claimed) == (FPR, (0.2, 0.4, 0.7), (0.35, 0.5, 0.8))
    assert (found.exact, found.kappa, found.fpr_ends) == ((0.08, 1.0), 0.03, None)
    assert found.sandwich == ((0.0, 0.9), (0.2, 1.0))
    assert found.curve == ((0.0, 1.0), (0.1, 1.0))
    assert found.columns() == {key: list(v) for key, v in measured().items()}


def test_without_a_grid_the_curve_is_the_points() -> None:
    """A record that has no finer grid gives the claimed power at the points; nothing else is made up."""
    found = read(measured())
    assert found is not None
    assert found.curve == (FPR, (0.35, 0.5, 0.8))
    assert (found.exact, found.sandwich, found.kappa) == (None, None, None)
    assert found.columns().keys() == measured().keys()


@pytest.mark.parametrize(
    "points",
    [None, {}, {"fpr": [0.1]}, measured(tpr=[math.nan] * 3), measured(fpr="0.1", tpr=None)],
)
def test_what_cannot_be_drawn_is_no_tradeoff(points: Mapping[str, Any] | None) -> None:
    """No points, half of the lists, or no complete point: None, and no error in the middle of a report."""
    record = dataclasses.replace(audit_record([Result()], {}, 0), examples=[{"claim": Result.claim, **(points or {})}])
    assert tradeoffs(record) == [None]


def test_an_incomplete_point_is_left_out() -> None:
    """The point whose power was not a number is dropped; so is an exact curve that has a hole."""
    holed = {"curve_fpr": [0.0, 1.0], "curve_power": [0.1, 1.0], "curve_exact": [0.08, math.nan]}
    found = read(measured(tpr=(0.2, math.nan, 0.7)) | holed)
    assert found is not None
    assert (found.fpr, found.tpr) == ((0.1, 0.5), (0.2, 0.7))
    assert (found.curve, found.exact) == (((0.0, 1.0), (0.1, 1.0)), None)


def test_points_are_matched_to_their_claims() -> None:
    """Points of another claim, or a list of points that does not match the rows, are not used."""
    record = audit_record([Result(points=measured()), Result(claim="b", points=measured())], {}, 0)
    assert all(found is not None for found in tradeoffs(record))
    swapped = dataclasses.replace(record, examples=record.examples[::-1])
    assert tradeoffs(swapped) == [None, None]
    assert tradeoffs(dataclasses.replace(record, examples=record.examples[:1])) == [None, None]


def test_a_witness_comes_back_from_the_disk() -> None:
    """Beside the points and without them, each with its own claim; the row stays flat."""
    results = [Result(points=measured(), witness=event()), Result(claim="b", witness=event()), Result(claim="c")]
    record = RunRecord.from_json(audit_record(results, {}, 0).to_json())
    assert witnesses(record) == [event(), event(), None]
    assert [found is None for found in tradeoffs(record)] == [False, True, True]
    assert "witness" not in record.rows[0]
    assert witnesses(dataclasses.replace(record, examples=record.examples[::-1])) == [None, event(), None]


def test_records_before_there_were_witnesses_are_read() -> None:
    """A record without one, with other examples or with half of one has none, and its points are read as before."""
    old = audit_record([Result(points=measured())], {}, 0)
    assert witnesses(old) == [None]
    assert witnesses(dataclasses.replace(old, examples=[])) == [None]
    (example,) = old.examples
    half = dataclasses.replace(old, examples=[{**example, "witness": {"null": [4]}}])
    assert witnesses(half) == [None]
    assert tradeoffs(half) == tradeoffs(old)


def test_lists_of_unequal_length_are_a_programming_error() -> None:
    """A record with half a picture is not written."""
    for points in (
        measured(tpr=[0.1]),
        measured(curve_fpr=[0.1], curve_power=[0.2], curve_exact=[]),
        measured(curve_fpr=[0.1], curve_power=[]),
    ):
        with pytest.raises(ValueError, match="not of one length"):
            audit_record([Result(points=points)], {}, 0)


def test_marks_above_the_curve_are_never_too_many() -> None:
    """Against the exact curve: no mark where the rectangle touches what is allowed, on a coarse and on a fine grid."""
    rng = np.random.default_rng(11)
    fpr = np.sort(rng.uniform(0.001, 0.999, 400))
    fpr_high = np.minimum(1.0, fpr + rng.uniform(0, 0.1, 400))
    low = rng.uniform(0, 1, 400)
    truth = low > ndtr(ndtri(fpr_high) + 1)
    for size, least in ((5, 0.4), (3000, 0.99)):
        grid = np.linspace(0, 1, size)
        found = read({
            "fpr": fpr, "tpr": (1 + low) / 2, "tpr_low": low, "tpr_high": np.ones(400), "fpr_low": fpr,
            "fpr_high": fpr_high, "claimed_power": ndtr(ndtri(fpr) + 1), "curve_fpr": grid,
            "curve_power": ndtr(ndtri(grid) + 1),
        })  # fmt: skip
        assert found is not None
        marked = np.array(found.above)
        assert not (marked & ~truth).any()
        assert marked.sum() >= least * truth.sum() > 0


def test_known_rates_are_compared_at_the_point_itself() -> None:
    """Where the false-positive rate is known, the power's lower end decides."""
    found = read(measured(tpr_low=(0.35, 0.51, 0.6)))
    assert found is not None
    assert found.above == (False, True, False)


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["CONSISTENT", "REFUTED", "INCONCLUSIVE"], "REFUTED"),
        (["CONSISTENT", "INCONCLUSIVE"], "INCONCLUSIVE"),
        (["CONSISTENT"], "CONSISTENT"),
        ([None], None),
        ([], None),
    ],
)
def test_the_worst_verdict_stands_for_all(verdicts: list[str | None], worst: str | None) -> None:
    """One refuted claim is enough; rows of another kind have no verdict."""
    assert overall_verdict([{"verdict": verdict} for verdict in verdicts]) == worst

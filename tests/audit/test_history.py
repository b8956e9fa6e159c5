"""A history of runs: order, series, names that follow a condition, changes at one level, and the command."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from audit.cli.history import history as command
from audit.history import BOUND, FIGURES, History, Point, history, run_name
from audit.mlflow_session import sqlite_uri
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from audit.tracking import log_record
from defenses.errors import UserError

EVIL = "<b>a|b</b>\n`x`"
DOCUMENTS, TOKENS = 32, 64


def origin(day: int, *, dirty: bool = False) -> Provenance:
    """Of the run of a day."""
    return Provenance(f"{day:07x}" + "0" * 33, dirty, {}, {}, f"2026-01-{day:02}T00:00:00+00:00", "delaudit run")


def measured(day: int, rate: float = 0.2, *, seed: int = 0, n: Sequence[int] = (4,), dirty: bool = False) -> RunRecord:
    """An experiment of DEL whose strongest attack reads `rate` of the tokens; the same documents every day."""
    rng = np.random.default_rng([seed, day])
    rows: list[dict[str, Any]] = [{"defence": "identity", "asr_top1_cosine": 1.0}]
    documents = []
    for place, bits in enumerate(n, start=1):
        hits = rng.binomial(TOKENS, rate, DOCUMENTS)
        share = float(hits.sum() / (DOCUMENTS * TOKENS))
        rows.append({
            "defence": "del", "n": bits, "mu": 20.0, "strongest_attack": "map", "asr_strongest": share,
            "asr_strongest_low": share - 0.02, "asr_strongest_high": share + 0.02, "attack_documents": 99,
            "asr_top1_cosine": 0.1, "perplexity_over_clean": 2.0, "agreement_top1": None, "note": EVIL,
        })  # fmt: skip
        documents.append({
            "row": place, "figure": "asr_strongest", "ids": list(range(DOCUMENTS)), "sums": hits.tolist(),
            "counts": [TOKENS] * DOCUMENTS,
        })  # fmt: skip
    return new_record(
        "experiment", config={"model": "m"}, seed=seed, rows=rows, documents=documents,
        data=[{"name": "set", "sha256": "ab" * 32}], provenance=origin(day, dirty=dirty),
    )  # fmt: skip


def checked(day: int, verdict: str, bound: float) -> RunRecord:
    """A check of one claim."""
    row = {
        "claim": EVIL, "defence": "del", "verdict": verdict, "epsilon_lower": bound, "epsilon_claimed": 4.0,
        "samples": 1000, "estimator": "supremum", "confidence": 0.95, "alpha": 0.05, "p_value": 0.5,
    }  # fmt: skip
    return new_record("check", config={}, seed=0, rows=[row], provenance=origin(day))


def series_of(found: History, figure: str, start: str = "") -> tuple[Point, ...]:
    """The points of the one series of a figure."""
    (one,) = (one for one in found.series if one.figure == figure and one.condition.startswith(start))
    return one.points


def test_runs_stand_in_the_order_of_their_time() -> None:
    """If this failed, a regression would be blamed on the wrong commit."""
    found = history([measured(3), measured(1), measured(2)])
    assert [record.created[8:10] for record in found.runs] == ["01", "02", "03"]
    zone = replace(measured(2), created="2026-01-02T03:00:00+05:00")  # 22:00 on the first
    assert history([measured(2), zone, replace(measured(1), created="2026-01-01T21:00:00")]).runs[1] == zone


def test_a_point_has_its_interval_and_what_stands_behind_it() -> None:
    """If this failed, figures would stand without interval, n or method, or with another's."""
    record = measured(1)
    found = history([record])
    (point,) = series_of(found, "asr_strongest")
    row = record.rows[1]
    assert (point.value, point.low, point.high) == (
        row["asr_strongest"], row["asr_strongest_low"], row["asr_strongest_high"],
    )  # fmt: skip
    assert (point.n, point.method, point.verdict) == (DOCUMENTS, "95 % interval over documents", None)
    (paper,) = series_of(found, "asr_top1_cosine", "del")
    assert (paper.n, paper.low) == (99, None)
    (utility,) = series_of(found, "perplexity_over_clean")
    assert (utility.value, utility.n, utility.method) == (2.0, None, "the record does not say")
    (claim,) = series_of(history([checked(1, "CONSISTENT", 1.5)]), BOUND)
    assert claim == Point(0, 1.5, None, None, 1000, "lower bound, supremum, confidence 0.95", "CONSISTENT")


def test_what_was_not_measured_is_a_point_without_a_number() -> None:
    """If this failed, a figure that vanished or became NaN would look as if nobody had asked for it."""
    rows = [{"defence": "del", "asr_strongest": math.nan, "agreement_top1": None, "perplexity_over_clean": math.inf}]
    found = history([new_record("experiment", config={}, seed=0, rows=rows, provenance=origin(1))])
    (share,) = series_of(found, "asr_strongest")
    assert share.value is not None
    assert math.isnan(share.value)
    assert series_of(found, "agreement_top1")[0].value is None
    assert series_of(found, "perplexity_over_clean")[0].value == math.inf
    assert {one.figure for one in found.series} == {"asr_strongest", "agreement_top1", "perplexity_over_clean"}


def test_a_planted_rise_is_marked_at_its_run_and_no_other() -> None:
    """If this failed, a defence that leaks more from one commit on would pass unseen."""
    found = history([measured(1), measured(2), measured(3, 0.3), measured(4, 0.3)])
    (mark,) = found.marks
    assert (mark.run, mark.condition, mark.change.figure) == (2, "del n=4 mu=20", "asr_strongest")
    assert found.regressions == (mark,)
    assert found.improvements == ()
    assert mark.change.p is not None
    assert mark.change.p <= 0.05 / 3
    back = history([measured(1, 0.3), measured(2)])
    assert back.regressions == ()
    assert [one.change.direction for one in back.improvements] == ["better"]


def test_the_level_is_shared_among_the_pairs() -> None:
    """If this failed, a long history would mark chance: every pair would have the whole level to itself."""
    found = history([measured(day) for day in range(1, 6)], 0.04)
    assert len(found.steps) == 4
    assert [step.level for step in found.steps] == pytest.approx([0.01] * 4)
    assert found.level_of_a_pair == pytest.approx(0.01)
    assert history([measured(1)], 0.04).level_of_a_pair == pytest.approx(0.04)


def test_histories_in_which_nothing_changes_are_silent() -> None:
    """If this failed, more than one history of five equal runs in twenty would accuse somebody."""
    trials = 40
    false = sum(bool(history([measured(day, seed=seed) for day in range(1, 6)]).marks) for seed in range(trials))
    assert false <= 7  # binomial at 0.05: more has a probability below 0.001


def test_a_verdict_that_becomes_refuted_is_a_regression() -> None:
    """If this failed, a claim that broke would not be marked; a bound that moved alone would."""
    found = history([checked(1, "CONSISTENT", 1.0), checked(2, "INCONCLUSIVE", 2.0), checked(3, "REFUTED", 5.0)])
    assert [(one.run, one.change.figure, one.change.new) for one in found.regressions] == [(2, "verdict", "REFUTED")]
    assert found.regressions[0].condition == EVIL
    assert [point.verdict for point in series_of(found, BOUND)] == ["CONSISTENT", "INCONCLUSIVE", "REFUTED"]


def test_conditions_come_and_go_and_keep_their_names() -> None:
    """If this failed, a series would change its condition where runs have different rows, or rows in another order."""
    runs = [measured(1, n=(4,)), measured(2, n=(8, 4)), measured(3, n=(8,))]
    found = history(runs)
    points = {one.condition: [point.run for point in one.points] for one in found.series if one.figure == FIGURES[1]}
    assert points == {"del n=4 mu=20": [0, 1], "del n=8 mu=20": [1, 2]}
    assert found.steps[0].only_new == ("del n=8 mu=20",)
    assert found.steps[1].only_base == ("del n=4 mu=20",)


def test_rows_of_one_name_stay_apart() -> None:
    """If this failed, two conditions that differ in a column only one run has would share a line."""

    def run(day: int, *prompts: str | None) -> RunRecord:
        rows = []
        for place, prompt in enumerate(prompts, start=1):
            told = {} if prompt is None else {"prompt_name": prompt}
            rows.append({"defence": "del", "n": 4, "asr_strongest": 0.1 * place, **told})
        return new_record("experiment", config={}, seed=0, rows=rows, provenance=origin(day))

    found = history([run(1, "a", "b"), run(2, "b", "a"), run(3, None, None), run(4, "a", "b")])
    for one in found.series:
        assert [point.run for point in one.points] == sorted({point.run for point in one.points})
    assert sum(len(one.points) for one in found.series) == 8
    first = {one.condition: [point.value for point in one.points][:2] for one in found.series}
    assert sorted(first.values())[:2] == [[0.1, 0.2], [0.2, 0.1]]


def test_a_run_that_does_not_say_when_is_named_and_left_out() -> None:
    """If this failed, a salvaged record would stand anywhere in the history, or vanish."""
    found = history([measured(1), replace(measured(2, seed=7), created="unknown")])
    assert len(found.runs) == 1
    assert found.unplaced == ("a run with seed 7 has no place: 'unknown' is no time",)


@pytest.mark.parametrize(
    ("records", "level", "words"),
    [
        ([], 0.05, "at least one run"),
        ([measured(1), checked(2, "REFUTED", 1.0)], 0.05, "there are check, experiment: choose one with --kind"),
        ([measured(1)], 0.0, "strictly between 0 and 1"),
        ([measured(1)], math.nan, "strictly between 0 and 1"),
        ([replace(measured(1), created="unknown")], 0.05, "say when they were made"),
    ],
)
def test_what_makes_no_history_is_one_line(records: list[RunRecord], level: float, words: str) -> None:
    """If this failed, mixed kinds or a wrong level would give a page that means nothing."""
    with pytest.raises(UserError, match=words):
        history(records, level)


def test_a_run_is_called_by_commit_day_and_changes() -> None:
    """If this failed, a run with uncommitted code would be taken for its commit's."""
    assert run_name(measured(3)) == "0000003 2026-01-03"
    assert run_name(measured(3, dirty=True)) == "0000003 2026-01-03 +changes"
    assert run_name(replace(measured(3), commit=None)) == "no commit 2026-01-03"


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real store: five runs of two kinds in one experiment, the newest logged first; a run without a record."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    for record in (
        measured(4, 0.3, dirty=True),
        measured(1),
        measured(2),
        measured(3, 0.3),
        checked(5, "REFUTED", 9.0),
    ):
        log_record(record, file, "nightly")
    client = MlflowClient(tracking_uri=sqlite_uri(file))
    client.create_run(client.get_experiment_by_name("nightly").experiment_id, run_name="lost", tags={"kind": "check"})
    return file


def asked(*arguments: str) -> Any:
    """The command's result; mendable errors are raised."""
    return CliRunner().invoke(command, arguments, standalone_mode=False, catch_exceptions=False)


def test_the_command_says_what_got_worse(store: Path) -> None:
    """If this failed, nobody would see from a terminal which commit leaks more."""
    out = asked("--tracking", str(store), "--kind", "experiment").stdout.splitlines()
    assert out[0] == "nightly"
    assert out[1].split() == ["1", "0000001", "2026-01-01"]
    assert out[4].split() == ["4", "0000004", "2026-01-04", "+changes"]
    worse = [line for line in out if line.startswith("worse")]
    assert len(worse) == 1
    assert re.search(r"run 3: del n=4 mu=20: asr_strongest 0\.1\d+ -> 0\.2\d+, p [\de.-]+, n 32$", worse[0])
    assert out[-1].startswith("4 runs, 3 compared with the run before: 1 got worse, 0 better")


def test_the_command_gives_everything_as_strict_json(store: Path) -> None:
    """If this failed, a program could not read a history, or would miss runs without a record."""
    done = asked("--tracking", str(store), "--kind", "check", "--experiment", "nightly", "--json")
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert found["experiment"] == "nightly"
    assert [run["created"][:10] for run in found["runs"]] == ["2026-01-05"]
    assert found["series"][0]["points"][0]["verdict"] == "REFUTED"
    assert len(found["not_shown"]) == 1
    assert "lost" in found["not_shown"][0]
    whole = json.loads(asked("--tracking", str(store), "--kind", "experiment", "--json").stdout)
    assert [(one["run"], one["change"]["figure"]) for one in whole["changes"]] == [(2, "asr_strongest")]
    assert whole["level_of_a_pair"] == pytest.approx(0.05 / 3)


def test_runs_without_a_record_are_told(store: Path) -> None:
    """If this failed, a run that failed would be missing without a word."""
    done = asked("--tracking", str(store), "--kind", "check")
    assert "delaudit: not shown: MLflow run" in done.stderr
    assert "delaudit" not in done.stdout


def test_the_command_needs_one_experiment_and_one_kind(store: Path, tmp_path: Path) -> None:
    """If this failed, runs of different things would be one history."""
    with pytest.raises(UserError, match="choose one with --kind"):
        asked("--tracking", str(store))
    with pytest.raises(UserError, match="'nightly' has no run of kind tuning with a record"):
        asked("--tracking", str(store), "--kind", "tuning")
    with pytest.raises(UserError, match="no experiment 'daily'"):
        asked("--tracking", str(store), "--experiment", "daily")
    with pytest.raises(UserError, match="there is no such file"):
        asked("--tracking", str(tmp_path / "no.db"))
    with pytest.raises(UserError, match="strictly between"):
        asked("--tracking", str(store), "--kind", "check", "--level", "1")
    two = tmp_path / "two.db"
    log_record(measured(1), two, "a")
    log_record(measured(1), two, "b")
    with pytest.raises(UserError, match="choose one with --experiment: a, b"):
        asked("--tracking", str(two))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlartifacts", "two.db"]


def test_the_command_writes_the_page(store: Path, tmp_path: Path) -> None:
    """If this failed, `--out` would not find its writer, or forget the runs that are not shown."""
    done = asked("--tracking", str(store), "--kind", "check", "--out", str(tmp_path / "page"))
    assert done.stdout.splitlines()[-1] == str(tmp_path / "page")
    assert "lost" in (tmp_path / "page" / "history.md").read_text(encoding="utf-8")
    (tmp_path / "file").touch()
    with pytest.raises(click.BadParameter, match="is a file"):
        asked("--tracking", str(store), "--kind", "check", "--out", str(tmp_path / "file"))

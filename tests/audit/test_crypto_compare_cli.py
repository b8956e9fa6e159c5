"""`delaudit crypto compare` with costs made by hand, so that it needs no extra: what it asks for, leaves and tells."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from audit.cli.crypto_compare import compare
from audit.cli.main import main
from audit.crypto_record import CACHED, COSTS, ENGINES, IN_FULL, KIND, MEASURED
from audit.records import RunRecord
from defenses.errors import UserError

ENGINE = "spu-semi2k-2pc"
TEXT = {"name": "embedded workload, seed 0", "sha256": "ab" * 32, "documents": 208}


def cost(system: str, way: str, seconds: float, megabytes: float) -> dict[str, Any]:
    """A token's cost beside a vanilla model's 8 seconds and 100 MB."""
    return {
        "table": COSTS, "system": system, "title": system.upper(), "engine": ENGINE, "model": "small", "length": 64,
        "accounting": way, "basis": MEASURED, "repeats": 5, "seconds": seconds, "bytes": 1e6 * megabytes,
        "rounds": 600.0, "bytes_saved": 1 - megabytes / 100, "ratio_seconds": 8 / seconds,
    }  # fmt: skip


ROWS = [
    {"table": ENGINES, "engine": ENGINE, "parties": 2, "guarantee": "against the second party", "precision": 1e-5},
    *(cost(system, IN_FULL, *figures) for system, figures in (
        ("vanilla", (8.0, 100.0)), ("mpcformer", (3.2, 64.0)), ("merge", (0.5, 128.0)),
    )),
    cost("vanilla", CACHED, 0.25, 2.0),
]  # fmt: skip


@dataclass
class Study:
    """In the place of the modules that measure: it keeps what it is asked, and one file, as they do.

    Attributes:
        failure: Raised once the file is kept; None lets the study end.
        plans: Arguments of every plan.
        asked: Arguments of every study.
        resumed: Whether each study found the file.
    """

    failure: BaseException | None = None
    plans: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    resumed: list[bool] = field(default_factory=list)

    def run(self, plan: "Plan", **options: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """As `audit.crypto_study.study`."""
        self.plans.append(plan.given)
        self.asked.append(options)
        kept = options["work"] / "measured" / "one.json"
        self.resumed.append(kept.exists())
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("{}", encoding="utf-8")
        if self.failure is not None:
            raise self.failure
        return ROWS, [TEXT]


@dataclass
class Plan:
    """In the place of `audit.crypto_costs.CostPlan`."""

    given: dict[str, Any]

    def __init__(self, **given: Any) -> None:
        self.given = given


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    """Neither SPU nor JAX is reached; and no picture is drawn, which takes longer than all the rest."""
    found = Study()
    for name, content in (("crypto_study", {"study": found.run}), ("crypto_costs", {"CostPlan": Plan})):
        module = ModuleType(f"audit.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, f"audit.{name}", module)
    monkeypatch.setattr("audit.cli.crypto_compare.demand_engines", lambda: None)
    monkeypatch.setattr("reports.crypto_page.draw_crypto", lambda *_: [])
    return found


def command(*words: str) -> Result:
    """The command in this process, errors raised as they are."""
    return CliRunner().invoke(compare, list(words), catch_exceptions=False)


def test_options_reach_the_plan_and_the_study(study: Study, tmp_path: Path) -> None:
    """If this failed, an option would be taken and ignored."""
    words = (
        "--engine aby3 --engine cheetah --ring 128 --lengths 2,4 --composed 8 --large , --new-tokens 3 --repeats 7 "
        f"--positions 11 --text a.txt --seed 5 --models {tmp_path} --out {tmp_path / 'out'}"
    )
    command(*words.split())
    assert study.plans == [{"lengths": (2, 4), "composed": (8,), "large": (), "new_tokens": 3, "repeats": 7}]
    (asked,) = study.asked
    assert asked.pop("work").parent == tmp_path / "out"
    assert asked == {"engines": ("aby3", "cheetah"), "ring": 128, "text": "a.txt", "positions": 11,
                     "store": tmp_path, "seed": 5}  # fmt: skip
    record = RunRecord.read(tmp_path / "out" / "record.json")
    assert record.config["plan"] == {"given": {**study.plans[0], "lengths": [2, 4], "composed": [8], "large": []}}
    assert {key: record.config[key] for key in ("engines", "ring", "text", "positions", "models")} == {
        "engines": ["aby3", "cheetah"], "ring": "128", "text": "a.txt", "positions": 11, "models": str(tmp_path),
    }  # fmt: skip


@pytest.fixture
def real_plan(needs: Callable[..., None]) -> Any:
    """The plan's own class; asked for before `study`, which puts another in its place."""
    needs("spu")
    from audit.crypto_costs import CostPlan

    return CostPlan


def test_defaults_are_the_plan_s_own(real_plan: Any, study: Study, tmp_path: Path) -> None:
    """If this failed, `--help` and the plan's documentation would promise different measurements."""
    command("--out", str(tmp_path))
    assert real_plan(**study.plans[0]) == real_plan()
    assert study.asked[0]["positions"] >= 500  # what the agreement is asked for


def test_the_record_the_page_and_both_outputs_say_the_same(study: Study, tmp_path: Path) -> None:
    """If this failed, what a person reads, what a program reads and what is kept would differ."""
    out = tmp_path / "out"
    (out / "notes").mkdir(parents=True)
    (out / "notes" / "mine.txt").write_text("mine", encoding="utf-8")
    told = command("--out", str(out)).stdout
    record = RunRecord.read(out / "record.json")
    assert (record.kind, [dict(row) for row in record.rows], list(record.data)) == (KIND, ROWS, [TEXT])
    page = (out / "report" / "report.md").read_text(encoding="utf-8")
    assert "against the second party" in page
    assert (out / "notes" / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert str(out / "record.json") in told
    found = json.loads(command("--out", str(out), "--json").stdout)
    assert found["rows"] == ROWS
    assert found["written"]["record"] == str(out / "record.json")


def test_every_cost_has_its_line_under_its_heading(study: Study, tmp_path: Path) -> None:
    """If this failed, a person would read another system's figures, or a token in full for a cached one."""
    lines = [line.split() for line in command("--out", str(tmp_path)).stdout.splitlines()]
    heading = f"{ENGINE}, small model, a token at length 64,".split()
    full, cached = ([*heading, *f"{way} ({MEASURED})".split()] for way in (IN_FULL, CACHED))
    start = lines.index(full)
    assert [line[0] for line in lines[start + 1 : start + 4]] == ["VANILLA", "MPCFORMER", "MERGE"]
    words = "MPCFORMER 3.2 s 64 MB 600 rounds 2.5 times as fast, 36% fewer bytes"
    assert lines[start + 2] == words.split()
    assert lines[lines.index(cached) + 1][:5] == ["VANILLA", "0.25", "s", "2", "MB"]


def test_a_system_that_sends_more_says_so(study: Study, tmp_path: Path) -> None:
    """If this failed, a negative saving of "-28% fewer" would be read as a gain."""
    (line,) = (line for line in command("--out", str(tmp_path)).stdout.splitlines() if "MERGE" in line)
    assert line.endswith("28% more bytes")


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), UserError("SPU could not run it")])
def test_a_broken_run_keeps_what_it_measured_and_leaves_no_record(
    study: Study, tmp_path: Path, failure: BaseException, monkeypatch: pytest.MonkeyPatch,
    *, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """If this failed, an evening of measurements would be lost, or half of them pass for all; rerun, it goes on."""
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["delaudit", "crypto", "compare", "--out", str(out)])
    study.failure = failure
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == (2 if isinstance(failure, UserError) else 130)
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.strip().splitlines()) == 1
    assert not (out / "record.json").exists()
    assert not (out / "report").exists()
    study.failure = None
    command("--out", str(out))
    assert study.resumed == [False, True]
    assert {item.name for item in out.iterdir()} == {"record.json", "report"}
    command("--out", str(out))
    assert study.resumed == [False, True, False]  # a finished run is measured anew


def test_an_older_record_stands_until_the_new_one_is_whole(study: Study, tmp_path: Path) -> None:
    """If this failed, an interrupted rerun would cost the finished one its record."""
    command("--out", str(tmp_path))
    before = (tmp_path / "record.json").read_bytes()
    study.failure = UserError("SPU could not run it")
    with pytest.raises(UserError, match="could not run"):
        command("--out", str(tmp_path))
    assert (tmp_path / "record.json").read_bytes() == before

"""`delaudit report`: several records on one page, and one line where one cannot be read."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from audit.cli.main import cli
from audit.provenance import Provenance
from audit.records import new_record
from defenses.errors import UserError

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={"numpy": "2.0.0"}, environment={"cpu_count": 2},
    created="2026-01-02T03:04:05+00:00", command="delaudit run",
)  # fmt: skip


def written(folder: Path, name: str) -> str:
    """An empty experiment's record."""
    record = new_record("experiment", config={}, seed=0, rows=[], provenance=ORIGIN)
    return str(record.write(folder / name))


def test_records_share_a_page(tmp_path: Path) -> None:
    """Two runs that a person wants to see together."""
    (tmp_path / "run").mkdir()
    written(tmp_path / "run", "record.json")
    runs = [written(tmp_path, "a.json"), str(tmp_path / "run")]
    done = CliRunner().invoke(cli, ["report", *runs, "-o", str(tmp_path / "page")], standalone_mode=False)
    assert done.exception is None
    assert (tmp_path / "page" / "report.md").read_text(encoding="utf-8").count("## Run") == 2
    assert (tmp_path / "page" / "report.html").read_text(encoding="utf-8").count("<h2") == 2


@pytest.mark.parametrize("wrong", ["missing.json", "text.json"])
def test_a_file_that_is_no_record_is_one_line_and_leaves_nothing(tmp_path: Path, wrong: str) -> None:
    """Half a report would be mistaken for a whole one."""
    (tmp_path / "text.json").write_text("hello", encoding="utf-8")
    with pytest.raises(UserError, match=wrong):
        CliRunner().invoke(
            cli, ["report", written(tmp_path, "a.json"), str(tmp_path / wrong), "--out", str(tmp_path / "page")],
            standalone_mode=False, catch_exceptions=False,
        )  # fmt: skip
    assert not (tmp_path / "page").exists()

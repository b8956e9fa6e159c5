"""`delaudit attack` and `delaudit calibrate`: a table, a record, a page; mistakes are one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audit.records import RunRecord


def delaudit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "audit.cli.main", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.fixture
def tiny(tiny_experiment: dict[str, Any]) -> list[str]:
    """Options that name the tiny model and its store."""
    return ["--model", tiny_experiment["model"]]


def test_attack_tells_who_reads_what(tiny: list[str], tiny_experiment: dict[str, Any], tmp_path: Path) -> None:
    """Every statistic of every attack, for each listed noise, in the record and on the page; a rerun is cached."""
    sizes = ["--prompt-tokens", "12", "--attack-tokens", "240", "--seeds", "2"]
    where = ["--artifacts", tiny_experiment["artifacts"], "--projection", "d16", "--out", "seen"]
    command = ["attack", *tiny, *where, *sizes, "--set", "mu=5,200", "--attack", "quick"]
    done = delaudit(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "chosen beforehand as the strongest" in done.stdout
    record = RunRecord.read(tmp_path / "seen" / "record.json")
    assert record.kind == "attack"
    assert [row["mu"] for row in record.rows] == [5, 200]
    assert record.rows[1]["asr_top1_map"] > record.rows[0]["asr_top1_map"]
    for key in ("asr_content_map", "rouge_l_map", "rank_median_map", "gain_map_over_cosine_p_holm", "ceiling_exact"):
        assert key in record.rows[0]
    assert "perplexity" not in record.rows[0]
    assert (tmp_path / "seen" / "report" / "report.md").exists()
    again = delaudit(*command, "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["rows"] == record.rows


def test_calibrate_shows_both_and_writes_a_page(
    tiny: list[str], tiny_experiment: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both calibrations with their exact epsilons, and what the weak one would have leaked."""
    store = Path(tiny_experiment["artifacts"])
    sizes = ["--attack-tokens", "400", "--seeds", "1", "--rival", "map", "--out", "calibrated"]
    options = [*tiny, "--artifacts", str(store), "--projection", "d16", *sizes]
    done = delaudit("calibrate", "--target-asr", "0.4", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "calibrated with       cosine" in done.stdout
    assert "calibrated with       strongest" in done.stdout
    assert "the strongest attack (map) reads" in done.stdout
    record = RunRecord.read(tmp_path / "calibrated" / "record.json")
    assert [row["calibrated_with"] for row in record.rows] == ["cosine", "strongest"]
    assert len(record.examples[0]["trace"]) > 10
    assert (tmp_path / "calibrated" / "report" / "report.md").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["attack", "--attack", "magic"], "no attack called 'magic'"),
        (["attack", "--attack", "hmm:top=0"], "at least 1"),
        (["attack", "--set", "mu"], "KEY=VALUE"),
        (["attack", "--defense", "nothing"], "no defence called 'nothing'"),
        (["attack", "--prompt-tokens", "100000"], "no embedded prompt has"),
        (["calibrate", "--target-asr", "2"], "strictly between 0 and 1"),
        (["calibrate", "--target-asr", "0.1", "--attack", "attribute-mlp"], "guesses attribute"),
        (["calibrate", "--epsilon", "8", "--out", "x"], "--target-asr"),
    ],
)
def test_mistakes_are_one_line(  # noqa: PLR0917 - fixtures
    here: Any, arguments: list[str], words: str, tiny: list[str], tiny_experiment: dict[str, Any], tmp_path: Path
) -> None:
    """Exit code 2, one line on stderr, and nothing written."""
    store = ["--artifacts", tiny_experiment["artifacts"], "--projection", "d16"]
    done = here(*arguments, *tiny, *store, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("record.json"))

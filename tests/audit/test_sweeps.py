"""Sweeps on local workers: the same records wherever they run, through kills, failures and reruns."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from audit.records import RunRecord
from audit.runs import read_run
from tests.audit.sweep_help import delaudit, install_plugin, journal, records, run_again, start, write_sweep

GRIDS = """
[[grids]]
defense = "del"
projection = ["d16"]
parameters = { n = [4], mu = [2, 20] }

[[audits]]
samples = 400
"""
SEEDS = "[sweep]\nseed = [0, 1]"


@pytest.fixture(scope="module")
def swept(tiny_experiment: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of 2 seeds x 2 conditions, each with an audit, run on two workers."""
    folder = tmp_path_factory.mktemp("swept")
    write_sweep(folder, tiny_experiment, grids=GRIDS, sweep=SEEDS)
    code, _, err = delaudit("run", "sweep.toml", "--workers", "2", "--out", "out", cwd=folder)
    assert code == 0, err
    return folder


def test_every_member_has_its_records_and_the_sweep_one_report(swept: Path) -> None:
    """If this failed, cells of a sweep would be lost between workers and records."""
    found = records(swept / "out")
    assert sorted(found) == [f"members/seed={seed}/{name}.json" for seed in (0, 1) for name in ("audits", "record")]
    for seed in (0, 1):
        record = RunRecord.read(swept / "out" / "members" / f"seed={seed}" / "record.json")
        assert record.seed == seed
        assert [row["mu"] for row in record.rows] == [2.0, 20.0]
        assert {row["seed"] for row in record.rows} == {seed}
        assert {one["row"] for one in record.documents} == {0, 1}
        assert record.environment["torch_threads"] == max(1, (os.cpu_count() or 2) // 2)
        audits = RunRecord.read(swept / "out" / "members" / f"seed={seed}" / "audits.json")
        assert audits.kind == "audit"
        assert [row["seed"] for row in audits.rows] == [seed, seed]
        assert all(0 < row["epsilon_lower"] < row["epsilon_claimed"] for row in audits.rows)
    assert (swept / "out" / "report" / "report.html").exists()


def test_one_writer_logged_every_record_once(swept: Path) -> None:
    """If this failed, workers would write to MLflow beside each other, or records would be missing there."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{swept / 'out' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("swept").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert sorted((run.data.tags["kind"], run.data.tags["seed"]) for run in parents) == [
        (kind, seed) for kind in ("audit", "experiment") for seed in ("0", "1")
    ]
    assert len(runs) == 4 + 4 + 4  # parents, conditions, claims


def test_this_process_gives_the_same_records(swept: Path, tiny_experiment: dict[str, Any], tmp_path: Path) -> None:
    """If this failed, a figure would depend on where it was computed; with as many threads it is the same bits."""
    write_sweep(tmp_path, tiny_experiment, grids=GRIDS, sweep=SEEDS)
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    code, _, err = delaudit(
        "run", "sweep.toml", "--out", "out", cwd=tmp_path, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads
    )
    assert code == 0, err
    assert records(tmp_path / "out") == records(swept / "out")


def test_a_finished_sweep_is_only_told_again(swept: Path) -> None:
    """If this failed, a rerun would load models, or log to MLflow twice."""
    before = {path: path.stat().st_mtime_ns for path in sorted((swept / "out").rglob("*")) if path.is_file()}
    loud = "import sys\nsys.modules['torch'] = None\nfrom audit.cli.main import main\nmain()\n"
    (swept / "light.py").write_text(loud, encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - our own command
        [os.sys.executable, "light.py", "run", "sweep.toml", "--workers", "2", "--out", "out"],  # type: ignore[attr-defined]
        cwd=swept, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "members/seed=1/audits.json" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in sorted((swept / "out").rglob("*")) if path.is_file()}


@pytest.mark.parametrize("change", ["data", "record", "artifact"])
def test_what_changed_is_noticed(swept: Path, tiny_experiment: dict[str, Any], tmp_path: Path, change: str) -> None:
    """If this failed, a sweep would count as finished though its settings, its record or its artifacts are others."""
    from audit.sweeps.finished import finished
    from audit.sweeps.plan import load_plan

    out = swept / "out"
    plan = load_plan(swept / "sweep.toml")
    assert finished(out, plan) is not None
    if change == "data":
        assert finished(out, load_plan(swept / "sweep.toml", ["data.windows=10"])) is None
    elif change == "record":
        place = out / "members" / "seed=0" / "record.json"
        text = place.read_text(encoding="utf-8")
        place.write_text(text.replace("0", "1", 1), encoding="utf-8")
        assert finished(out, plan) is None
        place.write_text(text, encoding="utf-8")
    else:
        card = Path(tiny_experiment["artifacts"]) / "tiny" / "projection-d16.json"
        times = card.stat()
        os.utime(card, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
        assert finished(out, plan) is None
        os.utime(card, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert finished(out, plan) is not None


def test_a_new_attack_is_all_that_a_rerun_runs(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a longer list of attacks would cost every attack and the utility again."""
    import shutil

    import audit.experiment
    import audit.inversion
    from audit.sweeps.local import InProcess
    from audit.sweeps.plan import load_plan
    from audit.sweeps.run import run_plan

    shutil.copytree(swept / "out", tmp_path / "out")
    tried: list[str] = []
    original = audit.inversion._Trials.trial
    monkeypatch.setattr(
        audit.inversion._Trials, "trial", lambda self, one: tried.append(one.text) or original(self, one)
    )
    monkeypatch.setattr(audit.experiment, "utility", lambda *_: pytest.fail("utility was measured again"))
    plan = load_plan(swept / "sweep.toml", ['attacks=["prior", "cosine", "map", "latent-l2"]', "sweep.seed=[0, 1]"])
    runs = run_plan(plan, tmp_path / "out", InProcess(plan, tmp_path / "out"))
    assert tried == ["latent-l2"] * 4
    before = RunRecord.read(swept / "out" / "members" / "seed=0" / "record.json")
    for new, old in zip(runs[0].record.rows, before.rows, strict=True):
        assert {key: new[key] for key in ("perplexity", "asr_top1_map", "asr_top1_cosine")} == {
            key: old[key] for key in ("perplexity", "asr_top1_map", "asr_top1_cosine")
        }


FAILING = """
[[grids]]
defense = "identity"

[[grids]]
defense = "failing"
parameters = { how = ["raise", "die"] }

[[grids]]
defense = "projection-only"
projection = ["d16"]
"""


def test_a_cell_that_fails_is_told_and_the_others_go_on(tiny_experiment: dict[str, Any], tmp_path: Path) -> None:
    """If this failed, one broken plug-in, or one worker that runs out of memory, would cost the whole sweep."""
    write_sweep(tmp_path, tiny_experiment, grids=FAILING)
    found = install_plugin(tmp_path)
    code, said, err = delaudit("run", "sweep.toml", "--workers", "2", "--out", "out", cwd=tmp_path, **found)
    assert code == 1
    assert "Traceback" not in said + err
    failed = [line for line in err.splitlines() if line.startswith("failed ")]
    assert len(failed) == 2, err
    assert "failing how=raise: ValueError: the third-party code broke" in failed[0]
    assert "failing how=die: its worker was ended by SIGKILL" in failed[1]
    record = read_run(str(tmp_path / "out"))
    assert [row["defence"] for row in record.rows] == ["identity", "failing", "failing", "projection-only"]
    assert [row.get("failed") is not None for row in record.rows] == [False, True, True, False]
    assert len(record.remarks) == 2
    assert record.rows[3]["perplexity"] > 1
    reasons = [json.loads(path.read_text()) for path in (tmp_path / "out" / "conditions").glob("*.failed.json")]
    assert any("failing_defense.py" in (one["detail"] or "") for one in reasons)
    assert len([one for one in journal(tmp_path / "out") if one["event"] == "lost"]) == 3
    page = (tmp_path / "out" / "report" / "report.md").read_text(encoding="utf-8")
    assert "the third-party code broke" in page
    # Only they run again.
    before = len(journal(tmp_path / "out"))
    code, _, err = delaudit("run", "sweep.toml", "--workers", "2", "--out", "out", cwd=tmp_path, **found)
    assert code == 1
    assert {one["label"] for one in journal(tmp_path / "out")[before:]} == {"failing how=raise", "failing how=die"}


def test_a_wrong_plan_leaves_nothing(tiny_experiment: dict[str, Any], tmp_path: Path) -> None:
    """If this failed, workers would leave a folder for a sweep that never began; or say more than one line."""
    write_sweep(tmp_path, tiny_experiment, grids='[[grids]]\ndefense = "del"\nprojection = ["d99"]', sweep=SEEDS)
    code, _, err = delaudit("run", "sweep.toml", "--workers", "2", "--out", "out", cwd=tmp_path)
    assert code == 2
    assert [line for line in err.splitlines() if line.startswith("delaudit: seed=")] == err.splitlines()
    assert "no such projection" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_records(swept: Path, tmp_path: Path) -> None:
    """If this failed, a kill would lose or repeat finished cells, or change a figure."""
    _kill_until_done(swept / "sweep.toml", tmp_path, kills=2, after=1, seed=1)
    assert records(tmp_path / "out") == records(swept / "out")


SIXTY = """
[[grids]]
defense = "del"
projection = ["d16"]
parameters = { n = [2, 4], mu = [2, 5, 20, 60, 200] }

[[audits]]
samples = 400
"""


@pytest.mark.slow
def test_sixty_cells_killed_ten_times(tiny_experiment: dict[str, Any], tmp_path: Path) -> None:
    """The same with 60 cells, and ten kills at random moments of the whole run or of one worker."""
    path = write_sweep(tmp_path, tiny_experiment, grids=SIXTY, sweep="[sweep]\nseed = [0, 1, 2]")
    (tmp_path / "killed").mkdir()
    code, _, err = delaudit("run", str(path), "--workers", "2", "--out", "whole", cwd=tmp_path)
    assert code == 0, err
    assert len({(one["member"], one["key"]) for one in journal(tmp_path / "whole")}) == 60
    _kill_until_done(path, tmp_path / "killed", kills=10, after=4, seed=2)
    assert records(tmp_path / "killed" / "out") == records(tmp_path / "whole")


def _kill_until_done(sweep: Path, folder: Path, *, kills: int, after: int, seed: int) -> None:
    """Start the sweep, kill it once some more cells are finished, and so on; then let it end.

    Every other time a worker is killed first: the run must replace it and go on.
    """
    rng, out = random.Random(seed), folder / "out"
    command = ["run", str(sweep), "--workers", "2", "--out", "out"]
    for number in range(kills):
        process = start(*command, cwd=folder)
        goal = _events(out) + rng.randint(1, 2 * after)
        while process.poll() is None and _events(out) < goal:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        if number % 2:
            workers = {one["process"] for one in journal(out)[-3:]} if out.exists() else set()
            for worker in sorted(workers)[:1]:
                _kill(worker)
            time.sleep(1)
        process.kill()
        process.communicate()
    code, _, err = delaudit(*command, cwd=folder)
    assert code == 0, err
    assert run_again(journal(out)) == []


def _events(out: Path) -> int:
    return len(journal(out)) if (out / "journal.jsonl").exists() else 0


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return

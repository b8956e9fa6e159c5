"""What MLflow is told of a record and of a training loop, read back from SQLite; and the curves that it logs."""

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audit import curves as curves_module
from audit.curves import columns, condition, curves, metrics, parameters
from audit.mlflow_session import sqlite_uri
from audit.records import Figure, RunRecord, new_record
from audit.tracking import _key, log_record, training_run

ROWS: list[dict[str, Any]] = [
    {"defence": "identity", "seed": 1, "perplexity": 26.5, "perplexity_low": 25.0, "perplexity_high": 28.0},
    {"defence": "del", "n": 4, "d": 128, "mu": 100.0, "seed": 1, "perplexity": 90.0, "epsilon_exact_token": 2000.5,
     "asr_top1_cosine": 0.9, "prompt_name": "soft 100", "bytes_up_per_token": 64.0},
    {"defence": "del", "n": 4, "d": 128, "mu": 20.0, "seed": 1, "perplexity": 2000.0, "epsilon_exact_token": 274.2,
     "asr_top1_cosine": 0.1, "prompt_name": None, "bytes_up_per_token": 64.0},
    {"defence": "del", "n": 1, "d": 128, "mu": 20.0, "seed": 1, "perplexity": 2500.0, "epsilon_exact_token": 250.0,
     "coherence": math.nan, "vacuous": True},
]  # fmt: skip


@pytest.fixture(scope="module")
def record() -> RunRecord:
    """A record with a control, two curves, a NaN and a figure."""
    figure = Figure("clean_perplexity", 26.5, 25.0, 28.0, 0.95, 60, "cluster bootstrap")
    return new_record(
        "quickstart", config={"model": {"name": "m"}, "mu": [20, 100]}, seed=1, rows=ROWS, figures=[figure]
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, record: RunRecord) -> tuple[Any, str, Path]:
    """(client, parent run, folder) of a store that the record has been logged to, in a folder with odd characters."""
    folder = tmp_path_factory.mktemp("odd") / "a b#c%20"
    extra = folder.parent / "report"
    (extra / "figures").mkdir(parents=True)
    (extra / "figures" / "one.txt").write_text("1")
    (extra / "report.md").write_text("# report")
    run_id = log_record(record, folder / "mlflow.db", "delaudit", artifacts=[extra, extra / "report.md"])
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=sqlite_uri(folder / "mlflow.db")), run_id, folder


def children(client: Any, run_id: str) -> list[Any]:
    """The nested runs of a parent, oldest first."""
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", order_by=["attributes.start_time"]
    )
    return sorted(found, key=lambda run: run.info.run_name)


def test_parent_run_holds_config_figures_and_provenance(store: tuple[Any, str, Path], record: RunRecord) -> None:
    """Flattened config as parameters, figures with both bounds as metrics, seed and command as tags."""
    client, run_id, _ = store
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"model.name": "m", "mu": "[20, 100]"}
    wanted = {"clean_perplexity": 26.5, "clean_perplexity_low": 25.0, "clean_perplexity_high": 28.0}
    assert {key: run.data.metrics[key] for key in wanted} == wanted
    assert (run.data.tags["kind"], run.data.tags["seed"]) == ("quickstart", "1")
    assert run.data.tags.get("mlflow.source.git.commit") == record.commit


def test_each_row_is_a_nested_run_with_standard_metric_names(store: tuple[Any, str, Path]) -> None:
    """One nested run a row; what was run are parameters, what was measured are metrics, nulls are neither."""
    client, run_id, _ = store
    runs = {run.info.run_name: run for run in children(client, run_id)}
    assert sorted(runs) == sorted(condition(row) for row in ROWS)
    strong = runs["del n=4 mu=100"]
    assert strong.data.params == {
        "defence": "del", "n": "4", "d": "128", "mu": "100.0", "seed": "1", "prompt_name": "soft 100",
    }  # fmt: skip
    assert strong.data.metrics == {
        "perplexity": 90.0, "epsilon_exact": 2000.5, "asr_top1_cosine": 0.9, "bytes_up_per_token": 64.0,
    }  # fmt: skip
    control = runs["identity"].data
    assert control.metrics == {"perplexity": 26.5, "perplexity_low": 25.0, "perplexity_high": 28.0}
    one_bit = runs["del n=1 mu=20"].data
    assert "coherence" not in one_bit.metrics
    assert one_bit.params["vacuous"] == "True"
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_the_curve_is_logged_as_steps_table_and_figure(store: tuple[Any, str, Path]) -> None:
    """Steps follow epsilon; the table has every row; the picture is a PNG."""
    client, run_id, folder = store
    history = client.get_metric_history(run_id, "curve/del_n4/perplexity")
    assert [(point.step, point.value) for point in history] == [(0, 2000.0), (1, 90.0)]
    assert [m.value for m in client.get_metric_history(run_id, "curve/del_n4/epsilon_exact")] == [274.2, 2000.5]
    assert [m.value for m in client.get_metric_history(run_id, "curve/del_n1/epsilon_exact")] == [250.0]
    names = {item.path for item in client.list_artifacts(run_id)}
    assert names == {"record.json", "utility_privacy.json", "utility_privacy.png", "report", "report.md"}
    home = folder / "mlartifacts" / run_id / "artifacts"
    assert (home / "utility_privacy.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table = json.loads((home / "utility_privacy.json").read_text())
    assert len(table["data"]) == len(ROWS)
    assert (home / "report" / "figures" / "one.txt").read_text() == "1"


def test_the_record_comes_back_from_the_store(store: tuple[Any, str, Path], record: RunRecord, tmp_path: Path) -> None:
    """The JSON artifact is the record itself."""
    client, run_id, _ = store
    assert RunRecord.read(Path(client.download_artifacts(run_id, "record.json", str(tmp_path)))) == record


def test_logging_leaves_the_process_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No chatter, no files in the current folder, no changed log level, environment or tracking address."""
    import mlflow

    loggers = [logging.getLogger(name) for name in (None, "mlflow", "alembic", "sqlalchemy")]

    def state() -> tuple[Any, ...]:
        levels = [(logger.level, logger.disabled, list(logger.handlers)) for logger in loggers]
        return levels, dict(os.environ), mlflow.active_run(), set(Path.cwd().iterdir())

    with training_run(tmp_path / "first.db", "x", {}):
        pass
    before = state()
    log_record(new_record("k", config={}, seed=0, rows=ROWS), tmp_path / "fresh.db", "x")
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_telemetry_is_off_unless_decided_otherwise() -> None:
    """The switches are set before MLflow is imported, and a user's own choice stays."""
    code = (
        "import os, sys, audit.tracking as t; print('mlflow' in sys.modules); from audit.mlflow_session import quiet\n"
    )
    code += "with quiet(): print(os.environ['MLFLOW_DISABLE_TELEMETRY'], os.environ['DO_NOT_TRACK'])"
    root = Path(curves_module.__file__).resolve().parents[1]
    environment = {key: v for key, v in os.environ.items() if key != "MLFLOW_DISABLE_TELEMETRY"} | {"DO_NOT_TRACK": "0"}
    done = subprocess.run(  # noqa: S603 - this interpreter on the lines above
        [sys.executable, "-c", code], cwd=root, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "true", "0"]


def test_training_steps_are_logged_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    """Steps land in one run over two sessions; an interrupt marks it killed until it is continued."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'deep' / 'm.db'}"
    tracked = training_run(uri, "train", {"lr": 0.1, "opt": {"name": "adamw"}})
    run = tracked.__enter__()
    run.log(0, loss=3.0, **{"grad norm": 1.0})
    assert not tracked.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    client = MlflowClient(tracking_uri=uri)
    assert run.run_id is not None
    assert client.get_run(run.run_id).info.status == "KILLED"
    with training_run(uri, "train", {"lr": 0.1}, run_id=run.run_id) as again:
        again.log(1, loss=2.0, broken=math.nan)
    done = client.get_run(run.run_id)
    assert done.info.status == "FINISHED"
    assert done.data.params == {"lr": "0.1", "opt.name": "adamw"}
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "loss")] == [(0, 3.0), (1, 2.0)]
    assert "broken" not in done.data.metrics


def test_a_failing_loop_is_marked_failed(tmp_path: Path) -> None:
    """An exception in the loop goes through and closes the run as failed."""
    from mlflow.tracking import MlflowClient

    with pytest.raises(RuntimeError, match="boom"), training_run(tmp_path / "m.db", "train", {}) as run:
        raise RuntimeError("boom")
    assert MlflowClient(tracking_uri=sqlite_uri(tmp_path / "m.db")).get_run(run.run_id).info.status == "FAILED"


def test_a_store_that_breaks_does_not_end_the_training(tmp_path: Path) -> None:
    """One warning says that tracking stopped; the loop goes on and further steps are quiet."""
    with training_run(tmp_path / "m.db", "train", {}) as run:
        run.run_id = "0" * 32
        with pytest.warns(RuntimeWarning, match="tracking stopped at step 3"):
            run.log(3, loss=1.0)
        run.log(4, loss=1.0)


def test_without_an_address_nothing_is_tracked() -> None:
    """With no address the run is a no-op."""
    with training_run(None, "train", {"lr": 1}) as run:
        run.log(0, loss=1.0)
        assert run.run_id is None


def test_rows_split_into_parameters_and_metrics() -> None:
    """Every key that is not null is a parameter or a metric, and never both."""
    for row in ROWS:
        known, measured = parameters(row), metrics({k: v for k, v in row.items() if not k.endswith("_token")})
        assert not known.keys() & measured.keys()
        keys = {key for key, value in row.items() if value is not None and not key.endswith("_token")}
        assert known.keys() | measured.keys() == keys | known.keys()
    assert metrics({"epsilon_exact_token": 2, "bytes_up_per_token": 3}) == {
        "epsilon_exact": 2.0,
        "bytes_up_per_token": 3.0,
    }


def test_curves_group_by_what_differs_and_follow_epsilon() -> None:
    """Rows that differ only along the curve share one; a lone curve has the defence's plain name."""
    assert {name: [row["mu"] for row in rows] for name, rows in curves(ROWS).items()} == {
        "del, n=4": [20.0, 100.0],
        "del, n=1": [20.0],
    }
    assert list(curves(ROWS[1:3])) == ["del"]
    assert curves(ROWS[:1]) == {}


def test_what_an_audit_asked_for_and_what_it_found_are_told_apart() -> None:
    """Levels, budgets and the defence's own parameters are parameters; the two epsilons and p are metrics."""
    row = {"claim": "c", "verdict": "CONSISTENT", "alpha": 0.05, "samples": 900, "parameter_scale": 2.0,
           "epsilon_claimed": 4.4, "epsilon_lower": 3.9, "p_value": 0.2, "vacuous": False}  # fmt: skip
    assert parameters(row) == {
        "claim": "c", "verdict": "CONSISTENT", "alpha": 0.05, "samples": 900, "parameter_scale": 2.0, "vacuous": False,
    }  # fmt: skip
    assert metrics(row) == {"epsilon_claimed": 4.4, "epsilon_lower": 3.9, "p_value": 0.2}
    assert condition(row) == "c"
    assert condition({"defence": "del", "claim": "mu-GDP", "mu": 3}) == "del mu=3"


@pytest.mark.parametrize(
    ("name", "key"), [("a/b", "a/b"), ("a//b:c$", "a/b_c_"), ("../x", "x"), ("/", "_"), ("é" * 300, "é" * 250)]
)
def test_keys_are_what_every_store_takes(name: str, key: str) -> None:
    """Any name becomes a key that MLflow's own check accepts."""
    from mlflow.utils.validation import _validate_metric_name

    assert _key(name) == key
    _validate_metric_name(key)


def test_columns_fill_what_a_row_lacks() -> None:
    """A key that only some rows have is null in the others."""
    assert columns([{"a": 1}, {"b": 2}]) == {"a": [1, None], "b": [None, 2]}

"""The same audit, logged to a file store, an SQLite file and a real tracking server, and read back from each."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from audit.intervals import clopper_pearson
from audit.mlflow_session import sqlite_uri
from audit.records import RunRecord, new_record
from audit.tracking import log_record, training_run
from defenses.errors import UserError

STORES = ("file", "sqlite", "server")
START_S = 120.0  # how long a server may take before the test fails; it takes six seconds on an idle machine


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return when /health answers; fail with the server's own words where it ends or takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/health", timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail(f"mlflow server did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a tracking server with its own database and artifact folder; ended with all its workers."""
    home = tmp_path_factory.mktemp("server")
    address = f"http://127.0.0.1:{free_port()}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", address.rpartition(":")[2],
        "--workers", "1", "--backend-store-uri", f"sqlite:///{home / 'backend.db'}",
        "--artifacts-destination", (home / "artifacts").as_uri(),
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - this interpreter with the arguments above
            command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until_healthy(address, process, home / "log")
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


@pytest.fixture(scope="module", params=STORES)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tracking address of a store of each kind, as a person would write it."""
    if request.param == "server":
        return str(request.getfixturevalue("server"))
    folder = tmp_path_factory.mktemp(request.param)
    return f"file://{folder}/mlruns" if request.param == "file" else f"sqlite:///{folder}/mlflow.db"


def measured(mu: float, claimed: float, rng: np.random.Generator) -> dict[str, Any]:
    """Nine points of the ROC of the Gaussian mechanism at mu, 400 draws a side, beside the curve of claimed-GDP."""
    fpr = np.linspace(0.1, 0.9, 9)
    hits = [int((rng.normal(mu, size=400) > -ndtri(level)).sum()) for level in fpr]
    ends = [clopper_pearson(count, 400) for count in hits]
    return {
        "fpr": fpr, "tpr": [count / 400 for count in hits], "tpr_low": [end.low for end in ends],
        "tpr_high": [end.high for end in ends], "claimed_power": ndtr(ndtri(fpr) + claimed), "kappa": 0.02,
    }  # fmt: skip


@pytest.fixture(scope="module")
def record() -> RunRecord:
    """Two claims with measured points, and a third whose audit had none; one name is long and full of signs."""
    rng = np.random.default_rng(7)
    shared = {
        "defence": "gaussian", "parameter_scale": 1.0, "claim_kind": "mu-GDP", "delta": 1e-5, "alpha": 0.0167,
        "confidence": 0.95, "samples": 400, "power_target": 0.8, "seed": 7, "seconds": 0.2, "vacuous": False,
        "epsilon_claimed": 4.377, "family": "gdp",
    }  # fmt: skip
    rows = [
        {"claim": "sound", **shared, "verdict": "CONSISTENT", "p_value": 0.4, "epsilon_lower": 3.9,
         "detectable_violation": 1.2},
        {"claim": "broken $\\frac{$ 漢 / twin", **shared, "verdict": "REFUTED", "p_value": 1e-9, "epsilon_lower": 6.1,
         "detectable_violation": 1.2},
        {"claim": "w" * 300, **shared, "verdict": "INCONCLUSIVE", "p_value": 0.9, "epsilon_lower": 0.0,
         "epsilon_claimed": None, "detectable_violation": None},
    ]  # fmt: skip
    points = [measured(1.0, 1.0, rng), measured(2.0, 1.0, rng), {}]
    examples = [{"claim": row["claim"], "seed": 7, **found} for row, found in zip(rows, points, strict=True)]
    config = {"claims": {"../odd//name": {"alpha": 0.05}}}
    return new_record("audit", config=config, seed=7, rows=rows, examples=examples)


@pytest.fixture(scope="module")
def logged(address: str, record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str, list[Any]]:
    """(client, parent run, nested runs in the order of the rows) of the record in the store."""
    report = tmp_path_factory.mktemp("artifacts") / "report"
    (report / "figures").mkdir(parents=True)
    (report / "figures" / "one.txt").write_text("1")
    run_id = log_record(record, address, "nightly audit", artifacts=[report])
    from mlflow.tracking import MlflowClient

    with allowed(address):
        client = MlflowClient(tracking_uri=address)
        experiment = client.get_experiment_by_name("nightly audit").experiment_id
        children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    order = {str(row["claim"])[:250]: index for index, row in enumerate(record.rows)}
    return client, run_id, sorted(children, key=lambda run: order[run.info.run_name])


@contextlib.contextmanager
def allowed(address: str) -> Iterator[None]:
    """Let the test's own client read a file store, and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        if address.startswith("file:"):
            patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        yield


def test_the_parent_run_carries_the_worst_verdict(logged: tuple[Any, str, list[Any]]) -> None:
    """The audit as a whole is refuted; its configuration arrives under keys that every store takes."""
    client, run_id, _ = logged
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.tags["kind"], run.data.tags["verdict"], run.data.tags["seed"]) == ("audit", "REFUTED", "7")
    assert run.data.params == {"claims.../odd/name.alpha": "0.05"}


def test_each_claim_is_a_run_with_standard_names(logged: tuple[Any, str, list[Any]]) -> None:
    """What was asked for are parameters, what was found are metrics, and verdicts are tags to search by."""
    _, _, runs = logged
    assert [run.data.tags["verdict"] for run in runs] == ["CONSISTENT", "REFUTED", "INCONCLUSIVE"]
    data = runs[1].data
    assert {key: data.metrics[key] for key in data.metrics if "/" not in key} == {
        "epsilon_claimed": 4.377, "epsilon_lower": 6.1, "p_value": 1e-9, "detectable_violation": 1.2, "seconds": 0.2,
    }  # fmt: skip
    assert data.params == {
        "claim": "broken $\\frac{$ 漢 / twin", "defence": "gaussian", "parameter_scale": "1.0", "claim_kind": "mu-GDP",
        "delta": "1e-05", "alpha": "0.0167", "confidence": "0.95", "samples": "400", "power_target": "0.8",
        "seed": "7", "vacuous": "False", "family": "gdp", "verdict": "REFUTED",
    }  # fmt: skip
    assert "epsilon_claimed" not in runs[2].data.metrics
    assert runs[2].info.status == "FINISHED"


def test_the_tradeoff_curve_is_steps_table_and_figure(
    address: str, logged: tuple[Any, str, list[Any]], record: RunRecord, tmp_path: Path
) -> None:
    """Steps follow the false-positive rate; the tables hold every point and every claim; the picture is a PNG."""
    client, run_id, runs = logged
    with allowed(address):
        history = client.get_metric_history(runs[1].info.run_id, "tradeoff/tpr")
        assert [point.step for point in sorted(history, key=lambda point: point.step)] == list(range(9))
        by_step = {point.step: point.value for point in history}
        assert [by_step[step] for step in range(9)] == record.examples[1]["tpr"]
        assert client.get_metric_history(runs[2].info.run_id, "tradeoff/tpr") == []
        home = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    assert {path.name for path in home.iterdir()} == {
        "record.json", "claims.json", "tradeoff.json", "tradeoff.png", "report",
    }  # fmt: skip
    table = json.loads((home / "tradeoff.json").read_text())
    place = table["columns"].index("tpr")
    assert [row[place] for row in table["data"]] == record.examples[0]["tpr"] + record.examples[1]["tpr"]
    assert len(json.loads((home / "claims.json").read_text())["data"]) == 3
    assert (home / "tradeoff.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (home / "report" / "figures" / "one.txt").read_text() == "1"
    assert RunRecord.read(home / "record.json") == record


def test_training_steps_reach_every_store(address: str) -> None:
    """A training loop's steps arrive, and a run that was closed can be continued."""
    from mlflow.tracking import MlflowClient

    with training_run(address, "train", {"lr": 0.1}) as run:
        run.log(0, loss=3.0)
    with training_run(address, "train", {}, run_id=run.run_id) as again:
        again.log(1, loss=2.0)
    with allowed(address):
        client = MlflowClient(tracking_uri=address)
        history = client.get_metric_history(run.run_id, "loss")
        assert sorted((point.step, point.value) for point in history) == [(0, 3.0), (1, 2.0)]
        assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_file_store_that_the_user_has_forbidden_stays_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has set MLflow's switch to false gets one line and no store; who has not set it finds it unset afterwards."""
    store = tmp_path / "mlruns"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    with pytest.raises(UserError, match="MLFLOW_ALLOW_FILE_STORE") as caught, training_run(store.as_uri(), "x", {}):
        pass
    assert "\n" not in str(caught.value)
    assert not store.exists()
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    with training_run(store.as_uri(), "x", {}):
        pass
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    assert store.is_dir()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://ann:s3cret@127.0.0.1:9", r"^MLflow store http://\*\*\*@127.0.0.1:9: (?!.*s3cret)"),
        ("gopher://x", r"^MLflow store gopher://x: "),
    ],
)
def test_stores_that_cannot_be_had_are_one_line(uri: str, message: str) -> None:
    """An unreachable server, an unknown scheme and an impossible path are named, without the login."""
    with pytest.raises(UserError, match=message) as caught, training_run(uri, "x", {}):
        pass
    assert "\n" not in str(caught.value)


def test_a_deleted_experiment_is_named(tmp_path: Path) -> None:
    """Logging into a deleted experiment says so."""
    from mlflow.tracking import MlflowClient

    with training_run(tmp_path / "m.db", "gone", {}):
        pass
    client = MlflowClient(tracking_uri=sqlite_uri(tmp_path / "m.db"))
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(UserError, match="'gone' has been deleted"), training_run(tmp_path / "m.db", "gone", {}):
        pass


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """A store below a file, a file of another kind and a folder are no SQLite stores, and that is said at once."""
    (tmp_path / "f").write_text("not a database, and far longer than an empty file\n" * 9)
    for path in (tmp_path / "f" / "m.db", tmp_path / "f", tmp_path):
        with pytest.raises(UserError, match=f"{path}: the MLflow store cannot be opened"):
            sqlite_uri(path)
    with pytest.raises(UserError, match=f"or write {tmp_path.as_uri()} for a file store"):
        sqlite_uri(tmp_path)

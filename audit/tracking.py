"""MLflow: a record as one parent run with a nested run per condition, and a training loop as one run."""

import itertools
import math
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audit.curves import BOUNDS, columns, condition, curves, metrics, parameters
from audit.mlflow_session import first_line, quiet, session, store_errors
from audit.records import RunRecord

_NOT_ALLOWED = re.compile(r"[^\w\-. /]")
_VALUE_LIMIT = 6000  # characters that MLflow keeps of a parameter
_TAG_LIMIT = 5000
_PARAMS_PER_CALL, _METRICS_PER_CALL = 100, 1000


def log_record(record: RunRecord, tracking_uri: str | Path, experiment: str, artifacts: Sequence[Path] = ()) -> str:
    """Log a record: one parent run, one nested run per row, the curve as steps, table and figure, the JSON itself.

    Args:
        record: What to log.
        tracking_uri: "sqlite:///path", the path of an SQLite file, "http(s)://...", or a "file:" store where MLflow
            still allows one.
        experiment: Name of the MLflow experiment; made where it is missing.
        artifacts: Files and folders to add to the parent run.

    Returns:
        The parent run's id.

    Raises:
        UserError: The store cannot be reached or refuses.
    """
    with session(tracking_uri, experiment) as (client, experiment_id):
        parent = _start(client, experiment_id, f"{record.kind} {record.created}", _tags(record))
        try:
            _log_parent(client, parent, record, artifacts)
            for row in record.rows:
                child = _start(client, experiment_id, condition(row), {"mlflow.parentRunId": parent})
                _log_batch(client, child, params=parameters(row), values=metrics(row))
                client.set_terminated(child)
        except BaseException:
            client.set_terminated(parent, "FAILED")
            raise
        client.set_terminated(parent)
    return parent


class TrainingRun:
    """One training loop's run. Without a client it does nothing, so that loops need no condition.

    Attributes:
        run_id: MLflow's id of the run, to be continued after a kill; None where nothing is tracked.
    """

    def __init__(self, client: Any = None, run_id: str | None = None) -> None:
        self._client = client
        self.run_id = run_id

    def log(self, step: int, **values: float) -> None:
        """Log metrics of one step.

        A store that breaks down in mid-training ends the tracking with one warning, not the training.
        """
        if self._client is None or self.run_id is None:
            return
        try:
            with quiet():
                _log_batch(self._client, self.run_id, values=values, step=step)
        except store_errors() as error:
            self._client = None
            warnings.warn(f"tracking stopped at step {step}: {first_line(error)}", RuntimeWarning, stacklevel=2)

    def finish(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        if self._client is None or self.run_id is None:
            return
        try:
            with quiet():
                self._client.set_terminated(self.run_id, status)
        except store_errors() as error:
            warnings.warn(f"the run was not closed: {first_line(error)}", RuntimeWarning, stacklevel=2)


@contextmanager
def training_run(
    tracking_uri: str | Path | None,
    experiment: str,
    params: Mapping[str, Any],
    *,
    name: str = "training",
    run_id: str | None = None,
) -> Iterator[TrainingRun]:
    """Track a training loop, which calls `log(step, loss=...)` on what it is given.

    Args:
        tracking_uri: As for `log_record`; None tracks nothing and imports nothing.
        experiment: Name of the MLflow experiment.
        params: The run's settings, nested or flat.
        name: The run's name.
        run_id: Continue this run, as after a kill; its parameters are kept.

    Raises:
        UserError: The store cannot be reached or refuses.
    """
    if tracking_uri is None:
        yield TrainingRun()
        return
    with session(tracking_uri, experiment) as (client, experiment_id):
        if run_id is None:
            run_id = _start(client, experiment_id, name, {})
            _log_batch(client, run_id, params=_flatten(params))
        else:
            client.update_run(run_id, "RUNNING")
    run = TrainingRun(client, run_id)
    try:
        yield run
    except BaseException as error:
        run.finish("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
        raise
    run.finish("FINISHED")


def _start(client: Any, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    run_id: str = client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
    return run_id


def _tags(record: RunRecord) -> dict[str, str]:
    tags = {
        "kind": record.kind,
        "seed": str(record.seed),
        "command": record.command[:_TAG_LIMIT],
        "dirty": str(record.dirty),
        "schema": str(record.schema),
    }
    return tags if record.commit is None else {**tags, "mlflow.source.git.commit": record.commit}


def _log_parent(client: Any, run_id: str, record: RunRecord, artifacts: Sequence[Path]) -> None:
    values = {}
    for figure in record.figures:
        for end, value in (("", figure.value), *zip(BOUNDS, (figure.low, figure.high), strict=True)):
            if value is not None:
                values[figure.name + end] = value
    _log_batch(client, run_id, params=_flatten(record.config), values=values)
    for name, rows in curves(record.rows).items():
        folder = f"curve/{name.replace(', ', '_').replace('=', '')}"
        for step, row in enumerate(rows):
            _log_batch(client, run_id, values={f"{folder}/{key}": v for key, v in metrics(row).items()}, step=step)
    client.log_text(run_id, record.to_json(), "record.json")
    if record.rows:
        client.log_table(run_id, columns(record.rows), "utility_privacy.json")
    if picture := _curve_picture(record):
        client.log_figure(run_id, picture, "utility_privacy.png")
    for path in artifacts:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), path.name)
        else:
            client.log_artifact(run_id, str(path))


def _curve_picture(record: RunRecord) -> Any:
    """Perplexity against exact epsilon, one line a curve; None where no row has both."""
    found = {
        name: [(row["epsilon_exact_token"], row["perplexity"]) for row in rows if row.get("perplexity") is not None]
        for name, rows in curves(record.rows).items()
    }
    if not any(found.values()):
        return None
    from matplotlib.figure import Figure as Picture  # noqa: PLC0415 - only where there is a curve

    picture = Picture(figsize=(6.4, 4.2), layout="constrained")
    axes = picture.subplots()
    for (name, points), marker in zip(found.items(), itertools.cycle("os^Dv*")):
        axes.plot(*zip(*points, strict=True), marker=marker, label=name)
    axes.set(xlabel="exact epsilon per token", ylabel="perplexity", xscale="log", yscale="log")
    axes.legend()
    return picture


def _log_batch(
    client: Any,
    run_id: str,
    *,
    params: Mapping[str, Any] | None = None,
    values: Mapping[str, float] | None = None,
    step: int = 0,
) -> None:
    from mlflow.entities import Metric, Param  # noqa: PLC0415 - as above

    now = int(time.time() * 1000)
    notes = [Param(_key(key), str(value)[:_VALUE_LIMIT]) for key, value in (params or {}).items()]
    numbers = [Metric(_key(key), float(v), now, step) for key, v in (values or {}).items() if math.isfinite(v)]
    for start in range(0, len(notes), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=notes[start : start + _PARAMS_PER_CALL])
    for start in range(0, len(numbers), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=numbers[start : start + _METRICS_PER_CALL])


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists stay one value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _key(name: str) -> str:
    return _NOT_ALLOWED.sub("_", name)

"""MLflow: a record as one parent run with a nested run per condition or claim, and a training loop as one run.

Names follow the record. Of an audit's run, `epsilon_claimed`, `epsilon_lower`, `p_value`, `ceiling` and
`detectable_violation` are metrics; what was asked for (`delta`, `alpha`, `confidence`, `samples`, ...) are parameters;
`verdict` and `vacuous` are parameters and tags, so that runs can be searched by either.
"""

import itertools
import math
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audit.audit_record import KINDS, Tradeoff, overall_verdict, tradeoffs
from audit.curves import BOUNDS, columns, condition, curves, metrics, parameters
from audit.mlflow_session import first_line, quiet, session, store_errors
from audit.records import RunRecord

_NOT_ALLOWED = re.compile(r"[^\w\-. /]")
_VALUE_LIMIT = 6000  # characters that MLflow keeps of a parameter
_TAG_LIMIT = 5000
_NAME_LIMIT = 250  # of keys, and of run names in some databases
_PARAMS_PER_CALL, _METRICS_PER_CALL = 100, 1000
_STEPS = 100  # points of a trade-off curve that become steps; the table has them all


def log_record(record: RunRecord, tracking_uri: str | Path, experiment: str, artifacts: Sequence[Path] = ()) -> str:
    """Log a record: one parent run, one nested run per row, the curve as steps, table and figure, the JSON itself.

    Args:
        record: What to log.
        tracking_uri: "sqlite:///path", the path of an SQLite file, "http(s)://..." of a tracking server, or "file:"
            with the folder of a file store.
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
            for row, points in zip(record.rows, _points(record), strict=True):
                child = _start(client, experiment_id, condition(row), {**_row_tags(row), "mlflow.parentRunId": parent})
                _log_batch(client, child, params=parameters(row), values=metrics(row))
                _log_steps(client, child, "tradeoff", [] if points is None else _steps(points))
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
    run_id: str = client.create_run(experiment_id, run_name=name[:_NAME_LIMIT], tags=dict(tags)).info.run_id
    return run_id


def _tags(record: RunRecord) -> dict[str, str]:
    tags = {
        "kind": record.kind,
        "seed": str(record.seed),
        "command": record.command[:_TAG_LIMIT],
        "dirty": str(record.dirty),
        "schema": str(record.schema),
    }
    if verdict := overall_verdict(record.rows):
        tags["verdict"] = verdict
    return tags if record.commit is None else {**tags, "mlflow.source.git.commit": record.commit}


def _row_tags(row: Mapping[str, Any]) -> dict[str, str]:
    """The verdict of an audit's row and whether its claim is vacuous; nothing for another row."""
    if row.get("verdict") is None:
        return {}
    return {key: str(row[key]) for key in ("verdict", "vacuous") if row.get(key) is not None}


def _points(record: RunRecord) -> list[Tradeoff | None]:
    return tradeoffs(record) if record.kind in KINDS else [None] * len(record.rows)


def _steps(points: Tradeoff) -> list[dict[str, float]]:
    """At most `_STEPS` points in the order of their false-positive rate, evenly spaced, both ends among them."""
    columns, count = points.columns(), len(points.fpr)
    chosen = [index * (count - 1) // max(1, min(count, _STEPS) - 1) for index in range(min(count, _STEPS))]
    return [{key: values[index] for key, values in columns.items()} for index in chosen]


def _log_parent(client: Any, run_id: str, record: RunRecord, artifacts: Sequence[Path]) -> None:
    _log_batch(client, run_id, params=_flatten(record.config), values=_run_values(record))
    for name, rows in curves(record.rows).items():
        folder = f"curve/{name.replace(', ', '_').replace('=', '').replace('/', '_')}"
        _log_steps(client, run_id, folder, [metrics(row) for row in rows])
    client.log_text(run_id, record.to_json(), "record.json")
    tables = {"claims" if record.kind in KINDS else "utility_privacy": record.rows, "tradeoff": _measured(record)}
    for name, content in tables.items():
        if content:
            client.log_table(run_id, columns(content), f"{name}.json")
    for name, picture in (("utility_privacy", _curve_picture(record)), ("tradeoff", _tradeoff_picture(record))):
        if picture is not None:
            client.log_figure(run_id, picture, f"{name}.png")
    for path in artifacts:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), path.name)
        else:
            client.log_artifact(run_id, str(path))


def _run_values(record: RunRecord) -> dict[str, float]:
    """The figures of the run as a whole, each with the ends of its interval."""
    return {
        figure.name + end: value
        for figure in record.figures
        for end, value in zip(("", *BOUNDS), (figure.value, figure.low, figure.high), strict=True)
        if value is not None
    }


def _curve_picture(record: RunRecord) -> Any:
    """Perplexity against exact epsilon, one line a curve; None where no row has both."""
    found = {
        name: [
            (row["epsilon_exact_token"], row["perplexity"])
            for row in rows
            if row.get("perplexity") is not None and row.get("epsilon_exact_token") is not None
        ]
        for name, rows in curves(record.rows).items()
    }
    if not any(found.values()):
        return None
    from matplotlib.figure import Figure as Picture  # noqa: PLC0415 - only where there is a curve

    picture = Picture(figsize=(6.4, 4.2), layout="constrained")
    axes = picture.subplots()
    drawn = [(name, points) for name, points in found.items() if points]
    for (name, points), marker in zip(drawn, itertools.cycle("os^Dv*")):
        axes.plot(*zip(*points, strict=True), marker=marker, label=name)
    axes.set(xlabel="exact epsilon per token", ylabel="perplexity", xscale="log", yscale="log")
    axes.legend()
    return picture


def _measured(record: RunRecord) -> list[dict[str, Any]]:
    """Every measured point of an audit as a flat row that names its claim."""
    return [
        {"claim": row.get("claim"), "seed": row.get("seed"), **dict(zip(found, values, strict=True))}
        for row, points in zip(record.rows, _points(record), strict=True)
        if points is not None and (found := points.columns())
        for values in zip(*found.values(), strict=True)
    ]


def _tradeoff_picture(record: RunRecord) -> Any:
    """Measured power over the false-positive rate beside what each claim allows (dashed); None without points."""
    found = [(row, points) for row, points in zip(record.rows, _points(record), strict=True) if points is not None]
    if not found:
        return None
    from matplotlib.figure import Figure as Picture  # noqa: PLC0415 - as above

    picture = Picture(figsize=(6.4, 4.2), layout="constrained")
    axes = picture.subplots()
    for (row, points), marker in zip(found, itertools.cycle("os^Dv*")):
        (claimed,) = axes.plot(*points.curve, linestyle="--")
        # A dollar would start a formula, and the font lacks most other alphabets.
        name = " ".join(condition(row).encode("ascii", "replace").decode().split())[:40].replace("$", r"\$")
        axes.plot(points.fpr, points.tpr, marker, color=claimed.get_color(), markersize=4, label=name)
    axes.set(xlabel="false-positive rate", ylabel="power; dashed: the most that the claim allows")
    axes.set_xscale("symlog", linthresh=1e-4)
    axes.legend(fontsize=8)
    return picture


def _log_steps(client: Any, run_id: str, folder: str, steps: Sequence[Mapping[str, float]]) -> None:
    """Mappings of metrics as the steps 0, 1, ... below a folder, in as few calls as the store allows."""
    _send(
        client, run_id, [(f"{folder}/{key}", v, step) for step, values in enumerate(steps) for key, v in values.items()]
    )


def _log_batch(
    client: Any,
    run_id: str,
    *,
    params: Mapping[str, Any] | None = None,
    values: Mapping[str, float] | None = None,
    step: int = 0,
) -> None:
    from mlflow.entities import Param  # noqa: PLC0415 - as above

    notes = [Param(_key(key), str(value)[:_VALUE_LIMIT]) for key, value in (params or {}).items()]
    for start in range(0, len(notes), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=notes[start : start + _PARAMS_PER_CALL])
    _send(client, run_id, [(key, value, step) for key, value in (values or {}).items()])


def _send(client: Any, run_id: str, numbers: Sequence[tuple[str, float, int]]) -> None:
    """Log (name, value, step) triples; what is not finite is left out, because databases refuse it."""
    from mlflow.entities import Metric  # noqa: PLC0415 - as above

    now = int(time.time() * 1000)
    found = [Metric(_key(key), float(value), now, step) for key, value, step in numbers if math.isfinite(value)]
    for start in range(0, len(found), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=found[start : start + _METRICS_PER_CALL])


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
    """A key that MLflow takes: it may be a path in a file store, so it has no empty part and no dots alone."""
    parts = (part for part in _NOT_ALLOWED.sub("_", name).split("/") if part.strip("."))
    return "/".join(parts)[:_NAME_LIMIT].rstrip("/") or "_"

"""Where a run is read from: a record's file, a command's folder, a run that was broken off, an MLflow store.

A record that this version does not know as a whole is read as far as it goes, and says what is missing (`remarks`).
Reading makes no files.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from audit.measured import Measured
from audit.records import LARGEST, SCHEMA, RunRecord, record_text
from defenses.errors import UserError
from defenses.untrusted import json_value, read_limited, shown

RECORD, STARTED = "record.json", "started.json"
PARENT = "mlflow.parentRunId"

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_KEY = re.compile(r"[0-9a-f]{1,128}")
_PAGE = 1000  # runs in one answer of a store
_DEPTH = 8  # nested runs above one another


def read_run(text: str, tracking: str | None = None) -> RunRecord:
    """Read one run.

    Args:
        text: A record's file; the folder that a command wrote, finished or broken off; or, with `tracking`, the id of
            an MLflow run, of which a nested one stands for its parent, or a commit (seven characters or more), which
            stands for its newest run. A file of such a name is "./NAME" then.
        tracking: The MLflow store: "sqlite:///path", the path of an SQLite file, "http(s)://...", "file:...".

    Returns:
        The record. Of a run that was broken off it has the finished conditions; its `remarks` say so.

    Raises:
        UserError: there is no such run, or it cannot be read at all.
    """
    place = Path(text)
    try:
        there, is_folder = place.exists(), place.is_dir()
    except OSError as error:
        raise UserError(f"{text}: cannot be read as a run record: {error.strerror or error}") from error
    if _RUN_ID.fullmatch(text) and (tracking is not None or not there):
        if tracking is None:
            raise UserError(f"{text}: there is no such file; for the MLflow run of this id name its store: --tracking")
        return _of_store(text, tracking)
    if tracking is not None and not there and _COMMIT.fullmatch(text):
        return _of_commit(text, tracking)
    return _of_folder(place) if is_folder else _of_file(place)


def parsed_record(text: str, source: str) -> RunRecord:
    """A record from its JSON, strictly where that goes, else as far as it goes.

    Args:
        text: The JSON.
        source: Names it in errors.

    Raises:
        UserError: it is no JSON object, or has no rows at all.
    """
    try:
        record = RunRecord.from_json(text, source)
        record.to_json().encode()
    except (UserError, UnicodeEncodeError):
        return RunRecord.salvage(text, source)
    return record


def runs_of(tracking: str, experiment: str | None = None, kind: str | None = None) -> tuple[list[RunRecord], list[str]]:
    """Every run of a store that is no other's part, oldest first.

    Args:
        tracking: As for `read_run`.
        experiment: Of this MLflow experiment alone.
        kind: Of this kind of record alone.

    Returns:
        The records, and one line for each run that has none that could be read.

    Raises:
        UserError: the store or the experiment is not there.
    """
    from audit.mlflow_reading import reading  # noqa: PLC0415 - MLflow takes seconds

    records: list[RunRecord] = []
    skipped: list[str] = []
    with reading(tracking) as client:
        for run in _parents(client, _experiments(client, tracking, experiment)):
            if kind is not None and run.data.tags.get("kind") != kind:
                continue
            try:
                records.append(_artifact(client, run))
            except UserError as error:
                skipped.append(str(error))
    return records, skipped


def experiments_of(tracking: str) -> list[str]:
    """The names of a store's experiments that have runs.

    Raises:
        UserError: the store is not there.
    """
    from audit.mlflow_reading import reading  # noqa: PLC0415 - as above

    with reading(tracking) as client:
        return [one.name for one in _all(client) if client.search_runs([one.experiment_id], max_results=1)]


def _of_file(path: Path) -> RunRecord:
    return parsed_record(record_text(path), str(path))


def _of_folder(folder: Path) -> RunRecord:
    started = folder / STARTED
    if (folder / RECORD).exists():
        record = _of_file(folder / RECORD)
        remark = _about_later(started, record) if started.exists() else None
        return record if remark is None else replace(record, remarks=[*record.remarks, remark])
    if started.exists():
        return _broken_off(started)
    if any((folder / name).is_dir() for name in ("conditions", "solved")):
        raise UserError(f"{folder}: the run was broken off, and its conditions are not known: run its command again")
    raise UserError(f"{folder}: holds no {RECORD}; name a folder that a command wrote, or a record's file")


def _about_later(started: Path, record: RunRecord) -> str | None:
    """What to say of a run that was started after the folder's record was made; None where there is none."""
    try:
        plan = _plan(started)
        later = datetime.fromisoformat(plan["provenance"]["created"]) > datetime.fromisoformat(record.created)
    except UserError:
        return f"{STARTED}, which says what the last run in this folder was to do, cannot be read"
    except (KeyError, TypeError, ValueError):
        return None
    return "a later run in this folder was broken off (or is still running): it is not shown here" if later else None


def _plan(started: Path) -> dict[str, Any]:
    """What a run set out to do.

    Raises:
        UserError: the file does not say it.
    """
    try:
        plan = json_value(record_text(started))
    except ValueError as error:
        raise UserError(f"{started}: is damaged: {shown(error)}; run the command again") from error
    keys = plan.get("conditions") if isinstance(plan, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) and _KEY.fullmatch(key) for key in keys):
        raise UserError(f"{started}: does not say what was to be run; run the command again")
    return dict(plan)


def _broken_off(started: Path) -> RunRecord:
    """The record of the conditions that are finished."""
    plan = _plan(started)
    parts: dict[str, Any] = {name: [] for name in ("rows", "examples", "documents", "readings", "remarks")}
    unread = 0
    for key in plan["conditions"]:
        file = started.parent / "conditions" / f"{key}.json"
        found = _finished(file, len(parts["rows"]))
        unread += found is None and file.exists()
        for name, content in (found or {}).items():
            parts[name] += content
    done, count = len(parts["rows"]), len(plan["conditions"])
    what_next = "goes on with the others" if done < count else "writes its record"
    parts["remarks"].append(
        f"the run was broken off (or is still running): {done} of {count} conditions "
        f"{'is' if count == 1 else 'are'} finished; the same command {what_next}"
    )
    if unread:
        parts["remarks"].append(f"what was kept of {unread} of them is damaged: they count as not finished")
    origin = plan.get("provenance")
    parts |= {name: plan[name] for name in ("kind", "config", "seed", "data") if name in plan}
    parts |= dict(origin) if isinstance(origin, Mapping) else {}
    whole = json.dumps({**parts, "figures": [], "nonfinite": {}, "schema": SCHEMA})
    return RunRecord.salvage(whole, str(started))


def _finished(file: Path, row: int) -> dict[str, list[Any]] | None:
    """What a finished condition adds to each part of the record; None where it is not there or damaged."""
    try:
        found = Measured(**json_value(read_limited(file, LARGEST, "finished condition")))
        return {
            "rows": [dict(found.row)], "examples": list(found.examples),
            "documents": found.documents(row), "readings": found.read(row),
        }  # fmt: skip
    except (UserError, ValueError, TypeError, AttributeError, KeyError):
        return None


def _of_store(run_id: str, tracking: str) -> RunRecord:
    from audit.mlflow_reading import reading  # noqa: PLC0415 - MLflow takes seconds

    with reading(tracking) as client:
        run = client.get_run(run_id)
        for _ in range(_DEPTH):
            parent = run.data.tags.get(PARENT)
            if parent is None:
                break
            run = client.get_run(parent)
        if run.info.lifecycle_stage != "active":
            raise UserError(f"{_called(run)} has been deleted; restore it: mlflow runs restore --run-id {run_id}")
        return _artifact(client, run)


def _of_commit(commit: str, tracking: str) -> RunRecord:
    """The newest run of a commit; its remarks say of how many."""
    records, skipped = runs_of(tracking)
    found = [one for one in records if (one.commit or "").startswith(commit)]
    if not found:
        lost = f"; {len(skipped)} runs have no record that can be read" if skipped else ""
        raise UserError(f"MLflow store {tracking}: no run of commit {commit} has a record{lost}")
    if len(found) == 1:
        return found[0]
    kinds = ", ".join(sorted({one.kind for one in found}))
    remark = f"the newest of {len(found)} runs of commit {commit} ({kinds}); name another by its id"
    return replace(found[-1], remarks=[*found[-1].remarks, remark])


def _called(run: Any) -> str:
    name = shown(" ".join(str(run.info.run_name or "").split()))
    return f"MLflow run {run.info.run_id} ({name}, {run.info.status})"


def _artifact(client: Any, run: Any) -> RunRecord:
    """The record that a run holds.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    from audit.mlflow_session import first_line, store_errors  # noqa: PLC0415 - as above

    name, run_id = _called(run), run.info.run_id
    faults: tuple[type[Exception], ...] = (*store_errors(), ValueError)
    try:
        if RECORD not in {item.path for item in client.list_artifacts(run_id)}:
            raise UserError(f"{name} holds no {RECORD}; its files are looked for in {shown(run.info.artifact_uri)}")
        with TemporaryDirectory() as folder:
            text = record_text(Path(client.download_artifacts(run_id, RECORD, folder)), name)
    except faults as error:
        raise UserError(f"{name}: its {RECORD} cannot be had: {shown(first_line(error), 300)}") from error
    return parsed_record(text, name)


def _experiments(client: Any, tracking: str, name: str | None) -> list[str]:
    """Ids of one experiment, or of all."""
    if name is None:
        return [one.experiment_id for one in _all(client)]
    found = client.get_experiment_by_name(name)
    if found is None:
        known = ", ".join(f"'{shown(one.name)}'" for one in _all(client)[:10])
        raise UserError(f"MLflow store {tracking}: there is no experiment '{name}'; there are {known}")
    if found.lifecycle_stage != "active":
        raise UserError(f"MLflow store {tracking}: the experiment '{name}' has been deleted; restore it")
    return [found.experiment_id]


def _all(client: Any) -> list[Any]:
    return sorted(_paged(client.search_experiments), key=lambda one: str(one.name))


def _parents(client: Any, experiments: Sequence[str]) -> Iterator[Any]:
    """Runs that are no other's part, oldest first."""

    def search(**options: Any) -> Any:
        return client.search_runs(list(experiments), order_by=["attributes.start_time ASC"], **options)

    return (run for run in _paged(search) if PARENT not in run.data.tags)


def _paged(search: Any) -> Iterator[Any]:
    """Everything that a search finds, page by page."""
    token = None
    while True:
        page = search(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return

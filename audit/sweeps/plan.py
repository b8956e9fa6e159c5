"""A plan: the experiments of a TOML file, and the cells that they are made of.

A `[sweep]` table lists values of any of the experiment's settings; each combination is an experiment of its own, with
a record of its own:

    [sweep]
    seed = [0, 1, 2]
    data.source = ["data/wikitext2@official_test", "embedded"]
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.config import Experiment, change_tables, parse_experiment, set_value
from audit.toml_files import read_tables
from defenses.errors import UserError

MEMBERS = "members"
"""The folder of a sweep's experiments, below its output folder."""
AUDIT, CONDITION = "audit", "condition"
ATTACKS = "attack"
"""Kind of a plan that measures no utility, and all that attacks read."""

_LONGEST = 60  # characters of a folder's name


@dataclass(frozen=True)
class Member:
    """One experiment of a plan.

    Attributes:
        name: What sets it apart, "seed=1 source=embedded"; empty for the only one.
        folder: Its folder below the output folder; "." for the only one.
        experiment: What it runs.
    """

    name: str
    folder: str
    experiment: Experiment


@dataclass(frozen=True)
class Plan:
    """Everything that one command runs.

    Attributes:
        name: The experiment's, which is also MLflow's.
        members: At least one, in the order in which they run.
        kind: "experiment" or "quickstart", or ATTACKS.
    """

    name: str
    members: tuple[Member, ...]
    kind: str = "experiment"

    @classmethod
    def of(cls, experiment: Experiment, kind: str = "experiment") -> "Plan":
        """The plan of one experiment."""
        return cls(experiment.name, (Member("", ".", experiment),), kind)


@dataclass(frozen=True)
class Cell:
    """The unit of work: one condition, or one audit of one condition.

    Attributes:
        member: Its member's place in the plan.
        place: Its condition's place in the experiment.
        audit: The audit's place among the experiment's; None for the condition itself.
        key: Hash of all that its result depends on: the file's name.
        label: For progress and errors.
    """

    member: int
    place: int
    audit: int | None
    key: str
    label: str

    @property
    def kind(self) -> str:
        """CONDITION or AUDIT."""
        return CONDITION if self.audit is None else AUDIT

    def file(self, folder: Path) -> Path:
        """Where its result lies, below its member's folder."""
        return folder / f"{self.kind}s" / f"{self.key}.json"


def load_plan(path: Path, changes: Sequence[str] = ()) -> Plan:
    """Read a TOML file and apply `key=value` changes to it.

    Raises:
        UserError: the file cannot be read, is no TOML, or a key is unknown or has the wrong type.
    """
    return parse_plan(read_tables(path), changes, str(path))


def parse_plan(
    raw: Mapping[str, Any], changes: Sequence[str] = (), source: str = "experiment", kind: str = "experiment"
) -> Plan:
    """Build a plan from plain tables and `key=value` changes ("sweep.seed=[0, 1]", "data.windows=96").

    Raises:
        UserError: a key is unknown, a value is wrong, or the sweep names no values or the same ones twice.
    """
    tables = change_tables(raw, changes)
    axes = _axes(tables.pop("sweep", {}), source)
    if not axes:
        return Plan.of(parse_experiment(tables, (), source), kind)
    members: list[Member] = []
    folders: set[str] = set()
    for values in itertools.product(*axes.values()):
        chosen, name = json.loads(json.dumps(tables)), _name(list(axes), values)
        for key, value in zip(axes, values, strict=True):
            set_value(chosen, key, value, f"{source}: sweep.{key}")
        folder = re.sub(r"[^\w.=-]+", "-", name).strip("-.")[:_LONGEST]
        folder += f"-{len(members)}" if folder in folders or not folder else ""
        folders.add(folder)
        members.append(Member(name, f"{MEMBERS}/{folder}", parse_experiment(chosen, (), f"{source}, {name}")))
    return Plan(members[0].experiment.name, tuple(members), kind)


def _axes(table: Any, source: str) -> dict[str, list[Any]]:
    """Dotted key -> its values."""
    if not isinstance(table, dict):
        raise UserError(f"{source}: sweep must be a table: [sweep], then for example seed = [0, 1, 2]")
    axes = dict(_flat(table, ""))
    for key, values in axes.items():
        shown = [json.dumps(value, sort_keys=True, default=str) for value in values] if isinstance(values, list) else []
        if not shown or len(set(shown)) < len(shown):
            raise UserError(f"{source}: sweep.{key} must list values, each once: sweep.{key} = [0, 1, 2]")
    if "name" in axes:
        raise UserError(f"{source}: sweep.name: the name is that of the whole sweep; take it out")
    return axes


def _flat(table: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def _name(keys: Sequence[str], values: Sequence[Any]) -> str:
    shown = (value if isinstance(value, str) else json.dumps(value, default=str) for value in values)
    return " ".join(f"{key.rpartition('.')[2]}={one}" for key, one in zip(keys, shown, strict=True))

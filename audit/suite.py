"""A suite of studies: other commands run one after another, their figures put beside published ones.

A suite is one TOML file. Each study is a command of this program and what to show of its record; a paper's evaluation
is a suite whose studies are its tables. Every command keeps what it has finished in its own output folder, so a suite
that was broken off goes on where it was.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from tqdm import tqdm

from audit.records import RunRecord, new_record
from audit.toml_files import read_tables, validated
from defenses.errors import UserError

KIND = "suite"
COMMANDS = ("run", "compare", "nlu", "tune", "calibrate", "attack", "attributes")
"""Commands that leave a record of rows in --out."""

_OURS = {"--out", "-o", "--json"}

STRICT = ConfigDict(extra="forbid")
Runner = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Published:
    """A figure that somebody else published.

    Attributes:
        condition: What it was measured on, in the paper's words.
        figure: What was measured.
        value: The published value.
        ours: Which of our columns measures the same.
    """

    __pydantic_config__ = STRICT
    condition: str
    figure: str
    value: float
    ours: str


@dataclass(frozen=True)
class Study:
    """One command and what to show of it.

    Attributes:
        name: Of its output folder.
        title: Its heading.
        command: A command of this program with its options, without --out; arguments that end with .toml are taken
            from the suite's own folder.
        columns: Which figures of its rows to show.
        reduced: Options that are added in a reduced run.
        published: Published figures to stand beside ours.
        differences: Why ours differ, in a few sentences.
    """

    __pydantic_config__ = STRICT
    name: str
    title: str
    command: tuple[str, ...]
    columns: tuple[str, ...]
    reduced: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    differences: str = ""

    def __post_init__(self) -> None:
        if not self.command or self.command[0] not in COMMANDS:
            raise UserError(f"study {self.name}: its command must be one of {', '.join(COMMANDS)}")
        if not self.name or not self.name.replace("-", "").isalnum():
            raise UserError(f"study {self.name!r}: a name is of letters, digits and hyphens; it names a folder")
        if any(part.split("=")[0] in _OURS for part in (*self.command, *self.reduced)):
            raise UserError(f"study {self.name}: --out and --json are the suite's to give")


@dataclass(frozen=True)
class Suite:
    """A list of studies.

    Attributes:
        name: Also the MLflow experiment of the whole.
        title: Heading of the page.
        source: Whose figures the published ones are.
        studies: In the order of the page.
        seed: Given to no command: each names its own. It stands in the record.
    """

    __pydantic_config__ = STRICT
    name: str
    title: str
    studies: tuple[Study, ...]
    source: str = ""
    seed: int = 0
    folder: Path = field(default=Path())

    def __post_init__(self) -> None:
        names = [study.name for study in self.studies]
        if not names or len(set(names)) < len(names):
            raise UserError(f"suite {self.name}: it needs at least one study, and no two of one name")

    def chosen(self, only: Sequence[str]) -> list[Study]:
        """The named studies, or all.

        Raises:
            UserError: there is none of that name.
        """
        names = [study.name for study in self.studies]
        strange = [name for name in only if name not in names]
        if strange:
            raise UserError(f"--only {strange[0]}: the suite's studies are {', '.join(names)}")
        return [study for study in self.studies if not only or study.name in only]


def load_suite(path: Path) -> Suite:
    """Read a suite's TOML file.

    Raises:
        UserError: the file cannot be read, is no TOML, or a key is unknown or has the wrong type.
    """
    tables = read_tables(path)
    if "folder" in tables:
        raise UserError(f"{path}: folder: a suite's folder is where its file lies; remove the key")
    return validated(Suite, {**tables, "folder": path.parent}, str(path))


def arguments(suite: Suite, study: Study, out: Path, *, reduced: bool) -> list[str]:
    """The command line of one study, without the program's name."""
    given = [*study.command, *(study.reduced if reduced else ())]
    placed = [str(suite.folder / part) if part.endswith(".toml") else part for part in given]
    return [*placed, "--out", str(out / study.name)]


def run_suite(
    suite: Suite, out: Path, *, reduced: bool = False, only: Sequence[str] = (), runner: Runner | None = None
) -> RunRecord:
    """Run the studies and return a record with all their rows.

    Args:
        suite: What to run.
        out: Each study leaves its record and report in a folder of its name below it.
        reduced: Add the studies' reduced options.
        only: Names of studies; empty runs all.
        runner: Runs one command line and returns its exit code; None runs this program anew, so that a study's memory
            is given back.

    Raises:
        UserError: a study failed; it has said why.
    """
    rows: list[dict[str, Any]] = []
    data: dict[str, dict[str, Any]] = {}
    chosen = suite.chosen(only)
    with tqdm(total=len(chosen), unit="study", desc=suite.name, leave=False) as bar:
        for study in chosen:
            bar.set_postfix_str(study.name)
            line = arguments(suite, study, out, reduced=reduced)
            code = (runner or run_anew)(line)
            if code != 0:
                raise UserError(
                    f"study {study.name} failed with exit code {code}: mend it and run the suite again, which goes on "
                    f"from here; its command was: delaudit {' '.join(line)}"
                )
            record = RunRecord.read(out / study.name / "record.json")
            rows += [{"study": study.name, **row} for row in whole_rows(record)]
            data |= {fact["sha256"]: dict(fact) for fact in record.data}
            bar.update()
    shown = asdict(suite) | {"folder": str(suite.folder), "reduced": reduced, "run": [study.name for study in chosen]}
    return new_record(KIND, config=shown, seed=suite.seed, rows=rows, data=list(data.values()))


def whole_rows(record: RunRecord) -> list[dict[str, Any]]:
    """A record's rows with the numbers back in them that JSON could not hold."""
    rows = [dict(row) for row in record.rows]
    for index, row in enumerate(rows):
        place = f"rows[{index}]."
        row |= {
            path.removeprefix(place): float(kind) for path, kind in record.nonfinite.items() if path.startswith(place)
        }
    return rows


def run_anew(line: Sequence[str]) -> int:
    """Run this program with a command line; its own output goes nowhere, its progress and errors to standard error."""
    command = [sys.executable, "-P", "-m", "audit.cli.main", *line]  # -P: nothing in the working folder is imported
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode  # noqa: S603 - our own program

"""What became of a task."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from audit.sweeps.plan import Cell


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        result: Plain JSON; None where it failed.
        error: Why it failed, in one line; None where it did not.
        detail: The traceback, where the error is none that was foreseen.
        expected: The error is one that a user can mend.
        seconds: What it took.
    """

    result: dict[str, Any] | None = None
    error: str | None = None
    detail: str | None = None
    expected: bool = False
    seconds: float = 0.0


class Executor(Protocol):
    """Where tasks run."""

    def execute(self, tasks: Sequence[Cell | int]) -> Iterator[tuple[Cell | int, Outcome]]:
        """Run tasks, in any order, and give each one's outcome as soon as it is there.

        Raises:
            UserError: there is nowhere to run them.
        """
        ...

    def close(self) -> None:
        """End what it has started."""
        ...

"""What a check of a machine says, and how a probe is run so that nothing it does can end the examination."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "missing", "broken", "note"]


@dataclass(frozen=True)
class Finding:
    """What a probe saw.

    Attributes:
        state: "ok"; "missing" where it is not there; "broken" where it is there and does not work; "note" for what is
            worth knowing and keeps nothing from working.
        detail: What was found, in one line.
        mend: The command, or the sentence, that mends it; None where there is nothing to do.
        needed: Whether the main job fails without it; None leaves that to the probe.
    """

    state: State
    detail: str
    mend: str | None = None
    needed: bool | None = None


@dataclass(frozen=True)
class Probe:
    """One thing to look at.

    Attributes:
        group: The heading that it stands under.
        name: Of the thing.
        purpose: What it is for.
        look: Looks; may raise whatever it likes.
        needed: Whether `delaudit quickstart` fails without it.
        mend: What is said where `look` raises.
        slow: Left out of a quick examination.
    """

    group: str
    name: str
    purpose: str
    look: Callable[[], Finding]
    needed: bool = False
    mend: str | None = None
    slow: bool = False


@dataclass(frozen=True)
class Check:
    """A finding under its probe's name.

    Attributes:
        group: The heading that it stands under.
        name: Of the thing.
        state: As in `Finding`.
        detail: What was found, in one line.
        purpose: What it is for.
        needed: Whether the main job fails without it.
        mend: What mends it; None where nothing is to be done.
    """

    group: str
    name: str
    state: State
    detail: str
    purpose: str
    needed: bool
    mend: str | None

    @property
    def failed(self) -> bool:
        """Whether the main job fails for this."""
        return self.needed and self.state in {"missing", "broken"}


def run(probe: Probe) -> Check:
    """Look; whatever the probe raises becomes one line of state "broken"."""
    try:
        found = probe.look()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a doctor outlives every patient
        found = Finding("broken", said(error), probe.mend)
    return Check(
        group=probe.group,
        name=probe.name,
        state=found.state,
        detail=found.detail,
        purpose=probe.purpose,
        needed=probe.needed if found.needed is None else found.needed,
        mend=None if found.state == "ok" else found.mend,
    )


def said(error: BaseException) -> str:
    """An error's kind and first line, in at most 200 characters."""
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line}"[:200] if line else type(error).__name__


def failures(checks: Sequence[Check]) -> list[Check]:
    """What the main job needs and does not have."""
    return [check for check in checks if check.failed]

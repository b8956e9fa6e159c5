"""The process that is one party: `python -m defenses.crypto.engines.party_worker`, for commands and engines to start.

It is a process of its own because SPU's link ends its process, without a word, when another party is gone in the middle
of a run, or after it has said an error. So what counts for whoever started it is the line with an error, if there is
one, and only then the exit code: 0 served, any other lost. It ends with whoever started it, and then removes the
session's folder, if that is a temporary one.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from defenses.crypto.engines.parties import PartyConfig, run_party
from defenses.errors import UserError

SERVED, SAID = 0, 2
LOST = "lost its links: another party ended in the middle of a run; start all of them anew"
MARK = "delaudit: "  # before an error's line
_LOOK = 1.0  # seconds between looks for the process that started this one
_LINGER = 1.0  # seconds in which what was sent reaches the others, who may be about to say the same error


def start_party(config: PartyConfig, said: IO[bytes] | int | None = None) -> "subprocess.Popen[bytes]":
    """Start a party; what it says goes to standard error, to the file, or into a pipe."""
    told = json.dumps({**asdict(config), "parent": os.getpid()}, default=str)
    command = [sys.executable, "-P", "-m", "defenses.crypto.engines.party_worker", told]
    return subprocess.Popen(command, stdout=None if said == subprocess.PIPE else said, stderr=said)  # noqa: S603 - our own interpreter and module


def attend_party(config: PartyConfig) -> int:
    """Start a party, pass on to standard error what it says, and wait for its end.

    Returns:
        `SERVED`, `SAID` where it has said an error, or another code where it was lost without a word.
    """
    failed = False
    with start_party(config, subprocess.PIPE) as party:
        for line in party.stderr or ():
            sys.stderr.write(line.decode(errors="replace"))
            sys.stderr.flush()
            failed = failed or line.startswith(MARK.encode())
    return SAID if failed else party.returncode


def error_said(lines: Sequence[str]) -> str | None:
    """The error among the lines that a party has said; None where there is none."""
    return next((line.removeprefix(MARK) for line in lines if line.startswith(MARK)), None)


def main(told: str) -> int:
    """Be the party that a JSON object describes, as `PartyConfig` names its parts."""
    parts: dict[str, Any] = json.loads(told)
    parent, session = int(parts.pop("parent")), parts["session"] and Path(parts["session"])
    threading.Thread(target=_end_with, args=(parent, session), daemon=True).start()
    try:
        plain = {
            "addresses": tuple(parts["addresses"]), "program": Path(parts["program"]), "folder": Path(parts["folder"]),
            "allow": tuple(parts["allow"]), "session": session,
        }  # fmt: skip
        config = PartyConfig(**{**parts, **plain})
        served = run_party(config, _say)
        _say(f"party {config.rank} served {served} run{'' if served == 1 else 's'}")
    except UserError as error:
        _say(f"{MARK}{error}")
        time.sleep(_LINGER)
        os._exit(
            SAID
        )  # tidying up the links to others that have ended waits for minutes, or ends the process otherwise
    except KeyboardInterrupt:
        return 130
    return SERVED


def _end_with(parent: int, session: Path | None) -> None:
    """End this process once its parent is gone: nobody would be left to stop it, or to remove the shares."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    if session is not None:
        shutil.rmtree(session, ignore_errors=True)
    os._exit(1)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

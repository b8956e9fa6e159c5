"""SPU's profile log, read: seconds, bytes and messages of every operator, party by party.

SPU writes its profile as text through a C++ logger that all parties of one process share. One party's profile is a
block: a line with the executable's name (ours say which rank it is), one line for each kind of operator, and the totals
of the link. Blocks of two parties may run into one another, line by line.

Operators of the program ("pphlo.dot") follow one another, so that their bytes add up to the link's; a loop counts as
one, "pphlo.while". What they call in SPU's lower levels ("f_mmul", "mul_aa") is logged too where
RuntimeConfig.enable_hal_profile is set, and is passed over here: it is already in them.
"""

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from defenses.crypto.engines.base import OperatorCost
from defenses.crypto.extra import needed

RANK = "rank"  # executables are named rank0, rank1, ...

_BEGIN = re.compile(rf"SPU execution {RANK}(\d+) completed.* execution took ([\d.e+-]+)s")
_OPERATOR = re.compile(
    r"- (pphlo\.\S+), executed (\d+) times, duration ([\d.e+-]+)s, "
    r"send bytes (\d+) recv bytes (\d+), send actions (\d+), recv actions (\d+)"
)
_END = re.compile(r"Link details: total send bytes (\d+), recv bytes (\d+), send actions (\d+), recv actions (\d+)")


@dataclass(frozen=True)
class Traffic:
    """What one party's link carried.

    Attributes:
        sent: Bytes.
        received: Bytes.
        sends: Messages sent.
        waits: Messages received, each of which the party asked for and, where it was not there yet, waited for.
    """

    sent: int
    received: int
    sends: int
    waits: int


@dataclass(frozen=True)
class OperatorLine:
    """One line of a profile: all runs of one kind of operator.

    Attributes:
        name: For example "pphlo.dot".
        calls: How often it ran.
        seconds: Wall-clock time, operators that it calls included.
        traffic: What it sent and received.
    """

    name: str
    calls: int
    seconds: float
    traffic: Traffic


@dataclass(frozen=True)
class PartyProfile:
    """What the log says of one execution.

    Attributes:
        ranks: Whose it is: one rank, or several where their lines ran into one another and cannot be told apart.
        seconds: Wall-clock time of the execution, one for each of the ranks.
        lines: Every operator's line.
        links: The link's totals, one for each of the ranks.
    """

    ranks: tuple[int, ...]
    seconds: tuple[float, ...]
    lines: tuple[OperatorLine, ...]
    links: tuple[Traffic, ...]


class ProfileError(ValueError):
    """The log is not what this reader knows: another version of SPU, or a log that was cut off."""


def parse_profile(text: str) -> list[PartyProfile]:
    """Read the blocks of one or more executions, in the order in which they end.

    Lines of anything else are passed over. Where a block begins before the last one has ended, the two (or more)
    become one profile with several ranks: sums over parties stay exact, and only who sent what is lost.

    Args:
        text: The log.

    Raises:
        ProfileError: a block has no end, or a line stands outside of any block.
    """
    found: list[PartyProfile] = []
    began: list[tuple[int, float]] = []
    lines: list[OperatorLine] = []
    links: list[Traffic] = []
    for line in text.splitlines():
        if match := _BEGIN.search(line):
            began.append((int(match[1]), float(match[2])))
        elif match := _OPERATOR.search(line):
            lines.append(_operator(match))
        elif match := _END.search(line):
            links.append(Traffic(*map(int, match.groups())))
            if len(links) == len(began):
                found.append(_profile(began, lines, links))
                began, lines, links = [], [], []
        if (lines or links) and not began:
            raise ProfileError(f"SPU's profile has a line outside of any execution: {line[:120]!r}")
    if began:
        raise ProfileError("SPU's profile breaks off before the link's totals")
    return found


def _operator(match: re.Match[str]) -> OperatorLine:
    name, calls, seconds, *traffic = match.groups()
    return OperatorLine(name, int(calls), float(seconds), Traffic(*map(int, traffic)))


def _profile(began: list[tuple[int, float]], lines: list[OperatorLine], links: list[Traffic]) -> PartyProfile:
    profile = PartyProfile(
        tuple(rank for rank, _ in began), tuple(seconds for _, seconds in began), tuple(lines), tuple(links)
    )
    counted = sum(line.traffic.sent for line in lines)
    total = sum(link.sent for link in links)
    if counted != total:
        raise ProfileError(f"SPU's operators sent {counted} bytes by its profile and {total} by its link")
    return profile


def operator_costs(profiles: Iterable[PartyProfile], parties: int) -> tuple[OperatorCost, ...]:
    """Costs of the operators over all parties, dearest in seconds first.

    With two parties the first one's profile is enough: what it did not send, it received. With more, every party's is
    needed. Seconds and rounds are the first party's; where its lines cannot be told from another's, the mean of those.

    Args:
        profiles: Of one execution, as `parse_profile` gives them.
        parties: How many parties computed.

    Raises:
        ProfileError: a party's profile is missing.
    """
    kept = list(profiles)
    ranks = sorted(rank for profile in kept for rank in profile.ranks)
    if ranks != list(range(parties)) and (ranks != [0] or parties != 2):
        raise ProfileError(f"SPU's profile holds the ranks {ranks} of {parties} parties")
    first = next(profile for profile in kept if 0 in profile.ranks)
    lines = [line for profile in kept for line in profile.lines]
    names = dict.fromkeys(line.name for line in lines)
    found = [_cost(name, lines, first, alone=len(ranks) == 1) for name in names]
    return tuple(sorted(found, key=lambda cost: -cost.seconds))


def _cost(name: str, lines: list[OperatorLine], first: PartyProfile, *, alone: bool) -> OperatorCost:
    own = [line for line in first.lines if line.name == name]
    traffic = [line.traffic for line in lines if line.name == name]
    several = len(first.ranks)
    return OperatorCost(
        name,
        round(sum(line.calls for line in own) / several),
        sum(line.seconds for line in own) / several,
        sum(one.sent + (one.received if alone else 0) for one in traffic),
        round(sum(line.traffic.waits for line in own) / several),
    )


class ProfileLog:
    """What SPU has logged in this process.

    The file has no name any more, only SPU's logger and this reader hold it: nothing is left behind, however the
    process ends.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)

    def end(self) -> int:
        """Where the next line will begin."""
        return os.fstat(self._file).st_size

    def since(self, start: int) -> str:
        """All lines from there on."""
        return os.pread(self._file, self.end() - start, start).decode()


@cache
def profile_log() -> ProfileLog:
    """Send all that SPU logs in this process into a file of its own, and nothing to the terminal.

    SPU has one logger a process; it is set up once.

    Raises:
        UserError: SPU is not installed.
    """
    logging = needed("spu.libspu").logging
    options = logging.LogOptions()
    options.enable_console_logger = False
    options.max_log_file_size = 1 << 40  # never begin a second file
    with tempfile.TemporaryDirectory(prefix="delaudit-spu-") as folder:
        options.system_log_path = str(Path(folder) / "spu.log")
        logging.setup_logging(options)
        return ProfileLog(Path(folder) / "spu.log")

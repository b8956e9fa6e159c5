"""SPU with every party in a process of its own on this machine: the engine of tests and of recorded views."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from defenses.crypto.engines.base import Outcome
from defenses.crypto.engines.files import Envelope
from defenses.crypto.engines.parties import STOP, PartyConfig
from defenses.crypto.engines.party_client import PartyClient
from defenses.crypto.engines.party_worker import LOST, error_said, start_party
from defenses.crypto.engines.program_file import ProgramFile
from defenses.crypto.engines.recorder import PartyView, Recorder
from defenses.crypto.engines.spu_settings import SpuSettings
from defenses.errors import UserError
from defenses.files import private_folder

_SAID = "stderr"  # the file with what a party said
_LOOK = 0.5  # seconds between a party's end and the question why
_GRACE = 10.0  # seconds that a party has to end by itself


@dataclass(frozen=True)
class Recorded:
    """One run with what every party saw of it.

    Attributes:
        outcome: As in `Engine`.
        views: One for each party, by rank.
    """

    outcome: Outcome
    views: tuple[PartyView, ...]


class ProcessEngine:
    """An `Engine` whose parties are processes that talk over the loopback.

    The parties are started for a function and its shapes, and kept until another one is run, or the engine is closed.
    Keys that a protocol makes at their first use, such as CHEETAH's, are in the costs of the runs that make them;
    `SpuEngine` is the engine to measure costs with.

    Attributes:
        settings: Protocol, ring and fixed-point format.
        name: How records call it.
        parties: How many parties compute.
        guarantee: What is promised to whom.
        precision: As in `Engine`.
    """

    def __init__(
        self,
        protocol: Any = "semi2k",
        *,
        fresh: bool = False,
        record: bool = False,
        delay: float = 0.0,
        timeout: float = 120.0,
        **options: Any,
    ) -> None:
        """Settle what the parties agree on.

        Args:
            protocol: "semi2k", "cheetah" or "aby3".
            fresh: Whether the parties make their keys anew for every run.
            record: Whether what they send one another is kept; `run_recorded` needs it, and keys that are fresh.
            delay: Seconds by which all that they send one another is held back.
            timeout: Seconds to wait for a run's result.
            options: The other fields of `SpuSettings`.

        Raises:
            UserError: a setting is out of range.
        """
        self.settings = SpuSettings(protocol, **options)
        self.name = f"{self.settings.name}-processes"
        self.parties = self.settings.parties
        self.guarantee = self.settings.guarantee
        self.precision = self.settings.precision
        self._fresh, self._record, self._delay, self._timeout = fresh or record, record, delay, timeout
        self._session: _Session | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, function: Callable[..., Any], *secrets: Any, public: Sequence[int] = ()) -> Outcome:
        """Share the inputs, compute, reveal the output.

        Args:
            function: At the top of an installed module, so that the parties can import it.
            secrets: Trees of arrays: dicts, lists and tuples.
            public: Places of those arguments that all parties may see.

        Raises:
            UserError: the function cannot be run, or a party failed; the message is the party's.
        """
        return self._run(function, secrets, public)[0]

    def run_recorded(self, function: Callable[..., Any], *secrets: Any, public: Sequence[int] = ()) -> Recorded:
        """The same, and what every party saw.

        Raises:
            UserError: as for `run`, or the engine does not record.
        """
        if not self._record:
            raise UserError("this engine keeps no views: make it with record=True")
        outcome, session, given = self._run(function, secrets, public)
        return Recorded(outcome, session.views(given))

    def close(self) -> None:
        """End the parties."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _run(
        self, function: Callable[..., Any], secrets: Sequence[Any], public: Sequence[int]
    ) -> "tuple[Outcome, _Session, tuple[Envelope, ...]]":
        program = ProgramFile.of(function, secrets, public, self.settings)
        if self._session is None or self._session.client.program != program:
            self.close()
            recorder = Recorder(self._delay) if self._record or self._delay else None
            self._session = _Session(program, recorder, fresh=self._fresh, timeout=self._timeout)
        session = self._session
        try:
            outcome, given = session.run(secrets, self.share)
        except BaseException:
            self.close()
            raise
        return outcome, session, given

    def share(self, client: PartyClient, secrets: Sequence[Any], run: int) -> tuple[Envelope, ...]:
        """How the inputs are shared; a test may do it otherwise."""
        return client.share(secrets, run)


class _Session:
    """The parties of one program."""

    def __init__(self, program: ProgramFile, recorder: Recorder | None, *, fresh: bool, timeout: float) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="delaudit-parties-"))  # for its owner's eyes only
        self._removal = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # at exit at the latest
        self.recorder, self._runs = recorder, 0
        self._parties: list[subprocess.Popen[bytes]] = []
        try:
            path = self._folder / "program.json"
            program.write(path)
            folders = tuple(self._folder / f"party{rank}" for rank in range(program.settings.parties))
            for folder in folders:
                private_folder(folder)
            own = (program.function.partition(":")[0],)
            self.client = PartyClient(program, program.compile(own), folders, timeout)
            for rank, addresses in enumerate(_addresses(len(folders), recorder)):
                config = PartyConfig(rank, addresses, path, folders[rank], 0, fresh, timeout, own, self._folder)
                with (folders[rank] / _SAID).open("wb") as said:
                    self._parties.append(start_party(config, said))
        except BaseException:
            self.close()
            raise

    def run(
        self, secrets: Sequence[Any], share: Callable[..., tuple[Envelope, ...]]
    ) -> tuple[Outcome, tuple[Envelope, ...]]:
        """One run, with what each party was given."""
        envelopes = share(self.client, secrets, self._runs)
        outcome = self.client.result(self._runs, envelopes[0].nonce, self._alive)
        self._runs += 1
        return outcome, envelopes

    def views(self, given: Sequence[Envelope]) -> tuple[PartyView, ...]:
        """Every party's view of the last run, in which it was given these shares."""
        if self.recorder is None:
            return ()
        run = self._runs - 1
        return tuple(self.recorder.view(rank, run, shares.contents()) for rank, shares in enumerate(given))

    def close(self) -> None:
        """Ask the parties to end, then end them."""
        for folder in self._folder.glob("party*"):
            (folder / STOP).touch()
        for party in self._parties:
            with contextlib.suppress(subprocess.TimeoutExpired):
                party.wait(_GRACE)
            party.kill()
            party.wait()
        if self.recorder is not None:
            self.recorder.close()
        self._removal()

    def _alive(self) -> None:
        """Raise where a party has ended.

        Raises:
            UserError: with the line in which a party said why, where one did.
        """
        codes = [party.poll() for party in self._parties]
        if any(code is not None for code in codes):
            time.sleep(_LOOK)  # the one that knows why may end a moment after one that only lost its links
            codes = [party.poll() for party in self._parties]
            lines = [(folder / _SAID).read_text(errors="replace").splitlines() for folder in self.client.folders]
            ended = {rank: error_said(lines[rank]) for rank, code in enumerate(codes) if code is not None}
            rank, why = next((one for one in ended.items() if one[1]), (min(ended), None))
            raise UserError(f"party {rank} has ended: {why or LOST}")


def _addresses(parties: int, recorder: Recorder | None) -> list[tuple[str, ...]]:
    """For each party, where it is to find everyone: itself in its own place, the others there or behind a relay."""
    with contextlib.ExitStack() as held:  # all at once, so that no port is given twice
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(parties)]
        own = [("127.0.0.1", int(one.getsockname()[1])) for one in sockets]
    found = []
    for rank in range(parties):
        seen = [
            place if recorder is None or other == rank else recorder.relay(other, place)
            for other, place in enumerate(own)
        ]
        found.append(tuple(f"{host}:{port}" for host, port in seen))
    return found

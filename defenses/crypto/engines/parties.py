"""One SPU party as a process of its own, linked to the others over sockets.

Every party is given the same program file and a folder of its own, into which the client, who owns the inputs, puts
that party's shares and no other's. For run 0 of a session it waits for `run-0.shares.npz`, takes it away, sees that
all parties have shares of the same run, computes with them, and leaves its shares of the outputs in
`run-0.result.npz`. Only the client, with all of these, has the output. Nobody but its owner may look into a party's
folder. A party ends after the runs that it was told to serve, or when it finds a file `stop`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defenses.crypto.engines.files import Envelope, result_file, shares_file
from defenses.crypto.engines.program_file import ALLOWED, ProgramFile
from defenses.crypto.engines.spu_profile import RANK, ProfileLog, profile_log
from defenses.crypto.engines.spu_program import Executable, reason
from defenses.crypto.engines.spu_settings import runtime_config
from defenses.crypto.extra import needed
from defenses.errors import UserError
from defenses.files import private_folder

STOP = "stop"
_LOOK = 0.005  # seconds between looks for a file
_PATIENCE = 600.0  # seconds at least that a party waits for a message: another one's large product takes minutes


@dataclass(frozen=True)
class PartyConfig:
    """What one party is told.

    Attributes:
        rank: Which party, from 0. Under SEMI2K the first deals the triples, and must be the inputs' owner's.
        addresses: Where all parties listen, "host:port", in order of rank.
        program: The program file.
        folder: Where its shares come from and its results go.
        runs: How many runs to serve; 0 for as many as come.
        fresh: Whether keys are made anew for every run, so that runs are independent.
        timeout: Seconds to wait until the other parties are there, and for shares.
        allow: Packages whose functions a program may name.
        session: A folder that goes when whoever started this party is gone; None leaves what there is.

    Raises:
        UserError: a value is out of range.
    """

    rank: int
    addresses: tuple[str, ...]
    program: Path
    folder: Path
    runs: int = 1
    fresh: bool = False
    timeout: float = 60.0
    allow: tuple[str, ...] = ALLOWED
    session: Path | None = None

    def __post_init__(self) -> None:
        for address in self.addresses:
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise UserError(f"a party's address is HOST:PORT, not {address!r}")
        if len(set(self.addresses)) != len(self.addresses):
            raise UserError("two parties cannot have one address")
        if not 0 <= self.rank < len(self.addresses):
            raise UserError(f"there is no party {self.rank}: {len(self.addresses)} addresses were given, from 0")
        if self.runs < 0 or not self.timeout > 0:
            raise UserError("a party serves at least 0 runs, and waits longer than 0 seconds")


def run_party(config: PartyConfig, ready: Callable[[str], None] = lambda _: None) -> int:
    """Serve as one party.

    Args:
        config: What it is told.
        ready: Called with one line once all parties are linked and run the same program.

    Returns:
        How many runs were served.

    Raises:
        UserError: the folder is open to others, the port is taken, a party or the shares did not come in time, or a
            party has another program or shares of another run.
    """
    private_folder(config.folder)
    log = profile_log()
    program = ProgramFile.read(config.program)
    if program.settings.parties != len(config.addresses):
        wanted = f"{program.settings.protocol} has {program.settings.parties} parties"
        raise UserError(f"{config.program}: {wanted}, and {len(config.addresses)} addresses were given")
    executable = program.compile(config.allow)
    digest = executable.digest(program.settings)
    link = _linked(config)
    _agree(link, config, digest)
    ready(f"party {config.rank} of {len(config.addresses)} runs {program.function} with {program.settings.name}")
    party = _Party(config, program, executable, digest, log)
    served = 0
    try:
        while (config.runs == 0 or served < config.runs) and party.serve(link, served):
            served += 1
    finally:
        link.stop_link()
    return served


@dataclass
class _Party:
    """A linked party with its program."""

    config: PartyConfig
    program: ProgramFile
    executable: Executable
    digest: str
    log: ProfileLog
    runtime: Any = None

    def serve(self, link: Any, run: int) -> bool:
        """One run; False where the client said stop."""
        shares = _awaited(self.config.folder, run, self.config.timeout if self.config.runs else None)
        if shares is None:
            return False
        if shares.digest != self.digest:
            raise UserError(
                f"{self.config.folder}: these shares are for another program, or another version of "
                f"{self.program.function}: use one version everywhere"
            )
        self.meet(link, shares.nonce)
        if self.runtime is None or self.config.fresh:
            config = runtime_config(self.program.settings)
            config.enable_pphlo_profile = True
            self.runtime = needed("spu.api").Runtime(link.spawn(), config)
        began = self.log.end()
        try:
            outputs, seconds = self.compute(shares.opened())
        except RuntimeError as error:
            raise UserError(f"party {self.config.rank} could not go on: {reason(error)}") from error
        result = Envelope.of(self.digest, shares.nonce, outputs, seconds, self.log.since(began))
        result.write(result_file(self.config.folder, run))
        return True

    def meet(self, link: Any, nonce: str) -> None:
        """Wait until all parties have their shares, and see that they are of one run."""
        if len(set(_gathered(link, self.config, nonce))) > 1:
            raise UserError(
                f"{self.config.folder}: these shares are of another run than those of another party: start all "
                "parties anew, then `delaudit crypto run` once"
            )

    def compute(self, inputs: list[Any]) -> tuple[list[Any], float]:
        """This party's shares of the outputs, and its seconds."""
        for name, share in zip(self.executable.inputs, inputs, strict=True):
            self.runtime.set_var(name, share)
        began = time.perf_counter()
        self.runtime.run(self.executable.named(f"{RANK}{self.config.rank}"))
        seconds = time.perf_counter() - began
        outputs = [self.runtime.get_var(name) for name in self.executable.outputs]
        for name in {*self.executable.inputs, *self.executable.outputs}:
            self.runtime.del_var(name)
        return outputs, seconds


def _linked(config: PartyConfig) -> Any:
    """A link with all other parties.

    SPU's own patience is many times what it is told; it is left waiting in a thread that ends with the process.
    """
    link = needed("spu.libspu").link
    description = link.Desc()
    description.connect_retry_times, description.connect_retry_interval_ms = 10_000, 100
    description.recv_timeout_ms = int(1000 * max(config.timeout, _PATIENCE))
    for rank, address in enumerate(config.addresses):
        description.add_party(f"party{rank}", address)
    found: list[Any] = []

    def connect() -> None:
        try:
            found.append(link.create_brpc(description, config.rank))
        except RuntimeError as error:
            found.append(error)

    waiting = threading.Thread(target=connect, daemon=True)
    waiting.start()
    waiting.join(config.timeout)
    own = config.addresses[config.rank]
    if not found:
        raise UserError(
            f"party {config.rank} at {own} waited {config.timeout:g} s for the others in vain: start every party, with "
            "the same addresses"
        )
    if isinstance(found[0], RuntimeError):
        if "failed start" in str(found[0]):
            raise UserError(f"{own}: cannot listen there: the port is taken, or the address is not this machine's")
        raise UserError(f"party {config.rank} could not reach the others: {reason(found[0])}")
    return found[0]


def _agree(link: Any, config: PartyConfig, digest: str) -> None:
    digests = _gathered(link, config, digest)
    if strange := [rank for rank, other in enumerate(digests) if other != digest]:
        raise UserError(
            f"{config.program}: party {strange[0]} has another program, or another version of its function or of SPU: "
            "use one program file and one version everywhere"
        )


def _gathered(link: Any, config: PartyConfig, word: str) -> list[str]:
    """Every party's word, by rank."""
    try:
        return list(link.all_gather(word))
    except RuntimeError as error:
        raise UserError(f"party {config.rank} lost the others: {reason(error)}") from error


def _awaited(folder: Path, run: int, timeout: float | None) -> Envelope | None:
    """A run's shares, whose file goes; None where the client said stop, or took the folder away.

    Without a timeout it waits for as long as it takes.
    """
    path, began = shares_file(folder, run), time.monotonic()
    while not path.exists():
        if (folder / STOP).exists() or not folder.exists():
            return None
        if timeout is not None and time.monotonic() - began > timeout:
            raise UserError(f"{path}: no shares came in {timeout:g} s: start `delaudit crypto run` with this folder")
        time.sleep(_LOOK)
    return Envelope.taken(path)

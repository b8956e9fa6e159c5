"""The client of parties in separate processes: it shares the inputs, waits, and puts the output together."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defenses.crypto.engines.base import Outcome
from defenses.crypto.engines.files import Envelope, result_file, shares_file
from defenses.crypto.engines.program_file import ProgramFile, described
from defenses.crypto.engines.spu import reconstruct_all, share_all
from defenses.crypto.engines.spu_profile import operator_costs, parse_profile, profile_log
from defenses.crypto.engines.spu_program import Executable, fitting, flat_inputs
from defenses.crypto.engines.spu_settings import runtime_config
from defenses.crypto.extra import needed
from defenses.errors import UserError
from defenses.files import private_folder

_LOOK = 0.005  # seconds between looks for a file


@dataclass(frozen=True, eq=False)
class PartyClient:
    """One who has inputs, and a folder for each party.

    Attributes:
        program: What the parties compute.
        executable: What it compiles to here: its digest goes with the shares.
        folders: Each party's folder, in order of rank.
        timeout: Seconds to wait for results; None for as long as it takes.
    """

    program: ProgramFile
    executable: Executable
    folders: tuple[Path, ...]
    timeout: float | None = 600.0

    def __post_init__(self) -> None:
        if len(self.folders) != self.program.settings.parties or len(set(self.folders)) != len(self.folders):
            settings = self.program.settings
            raise UserError(f"{settings.protocol} needs a folder for each of {settings.parties} parties")

    def share(self, arguments: Sequence[Any], run: int) -> tuple[Envelope, ...]:
        """Put every party's shares of the arguments into its folder, and nothing else.

        What an earlier session left under the same number is removed first.

        Returns:
            What every party was given, by rank; all with one nonce, by which `result` knows its own run.

        Raises:
            UserError: the arguments are not those of the program, or do not fit its numbers, or a folder cannot be
                written or others can look into it.
        """
        if described(arguments) != self.program.arguments:
            raise UserError(f"these inputs are not those of {self.program.function}: their shapes or names differ")
        profile_log()  # before SPU's first word, which would go to the terminal
        io = needed("spu.api").Io(self.program.settings.parties, runtime_config(self.program.settings))
        shares = share_all(io, self.executable, fitting(flat_inputs(arguments), self.program.settings))
        digest, nonce = self.executable.digest(self.program.settings), secrets.token_hex(16)
        envelopes = tuple(Envelope.of(digest, nonce, party) for party in zip(*shares, strict=True))
        for folder in self.folders:
            private_folder(folder)
            for old in (shares_file(folder, run), result_file(folder, run)):
                old.unlink(missing_ok=True)
        for folder, envelope in zip(self.folders, envelopes, strict=True):
            envelope.write(shares_file(folder, run))
        return envelopes

    def result(self, run: int, nonce: str, alive: Callable[[], None] = lambda: None) -> Outcome:
        """Wait for every party's result, put the output together, and remove the results.

        Args:
            run: Which one.
            nonce: Of what `share` gave.
            alive: Called while waiting; raises where waiting is in vain.

        Raises:
            UserError: a result did not come in time, or is of another program or run.
        """
        began = time.monotonic()
        paths = [result_file(folder, run) for folder in self.folders]
        while missing := [path for path in paths if not path.exists()]:
            alive()
            if self.timeout is not None and time.monotonic() - began > self.timeout:
                raise UserError(f"{missing[0]}: no result came in {self.timeout:g} s: are all parties running?")
            time.sleep(_LOOK)
        results = [Envelope.taken(path) for path in paths]
        expected = (self.executable.digest(self.program.settings), nonce)
        if strange := [path for path, one in zip(paths, results, strict=True) if (one.digest, one.nonce) != expected]:
            raise UserError(f"{strange[0]}: is of another program or of an earlier run: start all parties anew")
        io = needed("spu.api").Io(len(results), runtime_config(self.program.settings))
        output = reconstruct_all(io, self.executable, [one.opened() for one in results])
        costs = operator_costs([profile for one in results for profile in parse_profile(one.log)], len(results))
        totals = (sum(cost.bytes for cost in costs), sum(cost.rounds for cost in costs))
        return Outcome(output, results[0].seconds, *totals, costs)

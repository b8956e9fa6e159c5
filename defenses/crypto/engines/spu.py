"""SPU as an engine: a JAX function on secret inputs, all parties as threads of this process.

The parties run SPU's real protocols and exchange real messages, through memory in place of sockets; the costs are read
from SPU's own profile. `defenses.crypto.engines.parties` runs the same as processes over sockets.

How rounds are counted. A round is one message that the first party asks for; SPU calls it a receive action. Parties
that exchange shares in both directions at once count one. `benchmarks/rounds.py` checks the count against time, with
every message held back: under ABY3 the other two parties also wait for one another, and under CHEETAH a transport with
at most ten messages under way waits for acknowledgements too, so that there a run waits for more than is counted. Over
ten runs with 20 ms each: 0.997 [0.996, 0.999] times the count under SEMI2K, 1.05 [1.04, 1.06] under ABY3, 1.18 [1.17,
1.19] under CHEETAH.
"""

import atexit
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from defenses.crypto.engines.base import Outcome
from defenses.crypto.engines.spu_profile import RANK, operator_costs, parse_profile, profile_log
from defenses.crypto.engines.spu_program import Executable, compile_program, fitting, flat_inputs, reason
from defenses.crypto.engines.spu_settings import SpuSettings, runtime_config
from defenses.crypto.extra import needed
from defenses.errors import UserError

_KEPT = 64  # compiled programs
_LOOK = 0.05  # seconds between looks for a party that failed, while the others wait for it
_PATIENCE = 600_000  # milliseconds that a party waits for a message: a large local product takes minutes

_sessions = itertools.count()
"""Names of links: those of one name share their mailboxes, also with what is left of a run that failed."""

_interrupted: list[tuple[list[threading.Thread], BaseException]] = []


@atexit.register
def _leave() -> None:
    """End the process at once where threads of an interrupted run still compute.

    Python cannot stop them, and taking itself down under them would crash.
    """
    for threads, stop in _interrupted:
        if any(thread.is_alive() for thread in threads):
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(stop.code if isinstance(stop, SystemExit) and isinstance(stop.code, int) else 130)


def _settle() -> None:
    """Wait for threads of interrupted runs: what they log at their end would be taken for the next run's."""
    for threads, _ in _interrupted:
        for thread in threads:
            if thread.is_alive():  # one may not even have begun
                thread.join()
    _interrupted.clear()


@dataclass(frozen=True)
class SetUp:
    """What it cost once, before the first run.

    Attributes:
        seconds: Wall-clock time.
        bytes: Bytes that all parties sent after the links stood: base oblivious transfers under CHEETAH, and the first
            batch of triples.
    """

    seconds: float
    bytes: int


class SpuEngine:
    """An `Engine` on SPU's simulator.

    The parties' links and keys are made once, at the first run, and kept: the base oblivious transfers of CHEETAH cost
    11 MB and seconds, and would bury what a run costs. `set_up` says what they cost. Not all is set up then: the first
    run of a program under CHEETAH may still have thousands of rounds more than the next, and any run may have to make
    the next batch of triples, a megabyte or more. A function is compiled once for every combination of shapes, and must
    give the same program each time; compiling is in no figure.

    Attributes:
        settings: Protocol, ring and fixed-point format.
        name: How records call it.
        parties: How many parties compute.
        guarantee: What is promised to whom.
        precision: As in `Engine`.
    """

    def __init__(self, protocol: Any = "semi2k", **options: Any) -> None:
        """Settle what the parties agree on.

        Args:
            protocol: "semi2k", "cheetah" or "aby3".
            options: The other fields of `SpuSettings`.

        Raises:
            UserError: a setting is out of range.
        """
        self.settings = SpuSettings(protocol, **options)
        self.name = self.settings.name
        self.parties = self.settings.parties
        self.guarantee = self.settings.guarantee
        self.precision = self.settings.precision
        self._compiled: dict[Any, Executable] = {}
        self._runtimes: list[Any] = []
        self._set_up: SetUp | None = None

    @property
    def set_up(self) -> SetUp:
        """What making links and keys cost; makes them where there are none yet."""
        if self._set_up is None:
            self._set_up = self._prepare()
        return self._set_up

    def run(self, function: Callable[..., Any], *secrets: Any, public: Sequence[int] = ()) -> Outcome:
        """Share the inputs, compute, reveal the output.

        Args:
            function: A function that JAX can trace.
            secrets: Trees of arrays; 64-bit floats are taken as 32-bit ones.
            public: Places of those arguments that all parties may see, such as a public model's weights.

        Raises:
            UserError: SPU is not installed, an input does not fit its numbers, or it cannot compile or run the
                function.
        """
        executable = self._executable(function, secrets, tuple(public))
        _ = self.set_up
        return self._execute(executable, fitting(flat_inputs(secrets), self.settings))

    def _executable(
        self, function: Callable[..., Any], secrets: tuple[Any, ...], public: tuple[int, ...]
    ) -> Executable:
        shapes = tuple((array.shape, array.dtype.str) for array in flat_inputs(secrets))
        structure = needed("jax").tree_util.tree_structure(secrets)
        key = (function, structure, shapes, public)
        if key not in self._compiled:
            if len(self._compiled) >= _KEPT:
                self._compiled.pop(next(iter(self._compiled)))
            self._compiled[key] = compile_program(function, secrets, public)
        return self._compiled[key]

    def _execute(self, executable: Executable, arrays: list[Any]) -> Outcome:
        io = needed("spu.api").Io(self.parties, runtime_config(self.settings))
        shares = share_all(io, executable, arrays)
        _settle()
        log = profile_log()
        start = log.end()
        parties = self._on_all(lambda rank: self._compute(rank, executable, shares), executable.name)
        profiles = parse_profile(log.since(start))
        costs = operator_costs(profiles, self.parties)
        output = reconstruct_all(io, executable, [shared for shared, _ in parties])
        total = (sum(cost.bytes for cost in costs), sum(cost.rounds for cost in costs))
        return Outcome(output, parties[0][1], *total, costs)

    def _compute(self, rank: int, executable: Executable, shares: list[list[Any]]) -> tuple[list[Any], float]:
        """One party's part: its shares of the outputs, and its seconds."""
        runtime = self._runtimes[rank]
        for name, share in zip(executable.inputs, shares, strict=True):
            runtime.set_var(name, share[rank])
        began = time.perf_counter()
        runtime.run(executable.named(f"{RANK}{rank}"))
        seconds = time.perf_counter() - began
        found = [runtime.get_var(name) for name in executable.outputs]
        for name in {*executable.inputs, *executable.outputs}:
            runtime.del_var(name)
        return found, seconds

    def _prepare(self) -> SetUp:
        """Connect the parties and let them make their keys: two runs, as CHEETAH's parties take turns as sender."""
        profile_log()  # before the first runtime, which would log to the terminal
        began = time.perf_counter()
        link = needed("spu.libspu").link
        description = link.Desc()
        description.recv_timeout_ms = _PATIENCE
        description.id = f"delaudit-{next(_sessions)}"
        for rank in range(self.parties):
            description.add_party(f"party{rank}", f"memory{rank}")

        def connect(rank: int) -> Any:
            config = runtime_config(self.settings)
            config.enable_pphlo_profile = rank == 0 or self.parties > 2
            return needed("spu.api").Runtime(link.create_mem(description, rank), config)

        self._runtimes = self._on_all(connect, "the set-up")
        small = np.ones((8, 8), dtype=np.float32)
        executable = compile_program(_touch_everything, (small, small), ())
        spent = sum(self._execute(executable, [small, small]).bytes for _ in range(2))
        return SetUp(time.perf_counter() - began, spent)

    def _on_all(self, work: Callable[[int], Any], what: str) -> list[Any]:
        """Do something as every party at once.

        Raises:
            UserError: it failed at a party; the message is the first line of SPU's.
        """
        found: list[Any] = [None] * self.parties
        failures: list[Exception] = []

        def party(rank: int) -> None:
            try:
                found[rank] = work(rank)
            except Exception as error:  # noqa: BLE001 - SPU raises RuntimeError and others of its own
                failures.append(error)

        threads = [threading.Thread(target=party, args=(rank,), daemon=True) for rank in range(self.parties)]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) and not failures:
                threads[0].join(_LOOK)
                threads[-1].join(_LOOK)
        except BaseException as stop:
            self._runtimes, self._set_up = [], None  # threads still compute on them
            _interrupted.append((threads, stop))
            raise
        if failures:
            self._runtimes, self._set_up = [], None
            raise UserError(f"SPU could not run {what} under {self.name}: {reason(failures[0])}") from failures[0]
        return found


def share_all(io: Any, executable: Executable, arrays: list[Any]) -> list[list[Any]]:
    """Shares of every input: one list over parties for each array. A public input's "shares" are the array itself."""
    kinds = needed("spu.libspu").Visibility
    return [
        io.make_shares(array, kinds.VIS_PUBLIC if name in executable.public else kinds.VIS_SECRET)
        for name, array in zip(executable.inputs, arrays, strict=True)
    ]


def reconstruct_all(io: Any, executable: Executable, parties: list[list[Any]]) -> Any:
    """The output, in the function's own structure, from every party's shares of every output array."""
    return executable.tree([io.reconstruct(list(shares)) for shares in zip(*parties, strict=True)])


def _touch_everything(x: Any, y: Any) -> Any:
    """A product, a comparison and a matrix product: what needs keys of its own makes them at its first use."""
    return x @ y, x * y, x < y

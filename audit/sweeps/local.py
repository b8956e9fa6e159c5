"""Workers on this machine: in this process, or in processes of their own that may be killed one by one.

This module is what a new process imports first: nothing here loads numpy or torch before their threads are limited.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile, gettempdir
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from audit.sweeps.journal import Journal
from audit.sweeps.memory import keep_memory
from audit.sweeps.outcome import Outcome
from audit.sweeps.plan import Cell, Plan
from defenses.errors import UserError

if TYPE_CHECKING:
    from audit.sweeps.tasks import Worker

ATTEMPTS = 3
"""How often a cell may take its worker down before it counts as failed."""
WORKER_LOG = "workers.log"
_GRACE = 60.0  # seconds for idle workers to end
_LOOK = 1.0  # seconds between looks for the process that started this one
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_worker: "Worker | None" = None  # of this process, where it is a worker
_held: list[FileLock] = []  # likewise, its GPU


class InProcess:
    """Tasks in this process, in order.

    Args:
        plan: The plan.
        out: Output folder.
    """

    def __init__(self, plan: Plan, out: Path) -> None:
        from audit.sweeps.tasks import Worker  # noqa: PLC0415 - brings torch

        keep_memory()
        self._worker, self._journal = Worker(plan, out), Journal(out)

    def execute(self, tasks: Sequence[Cell | int]) -> Iterator[tuple[Cell | int, Outcome]]:
        """Run tasks one after another."""
        for task in tasks:
            yield task, _noted(self._worker, self._journal, task)

    def close(self) -> None:
        """Nothing was started."""


class Processes:
    """Tasks on local processes, each with its own models. A worker that dies is replaced, and its task tried again.

    Args:
        plan: The plan.
        out: Output folder.
        workers: How many processes.
        threads: Of each; None shares the machine's out among them.
    """

    def __init__(self, plan: Plan, out: Path, workers: int, threads: int | None = None) -> None:
        self._journal, self._out, self._workers = Journal(out), out, workers
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._said = NamedTemporaryFile(prefix="delaudit-workers-", suffix=".log")  # noqa: SIM115 - until it is closed
        self._given = (plan, out, threads or max(1, usable // workers), os.getpid(), self._said.name)
        self._left: dict[Cell | int, None] = {}
        self._terminal = _Aside(self._said.fileno())
        self._pool = self._new_pool()

    def execute(self, tasks: Sequence[Cell | int]) -> Iterator[tuple[Cell | int, Outcome]]:
        """Run tasks in any order.

        Raises:
            UserError: workers end before they can do anything.
        """
        from pebble import ProcessExpired  # noqa: PLC0415 - only where there are workers

        self._left, attempts, broken = dict.fromkeys(tasks), dict.fromkeys(tasks, 1), 0
        while self._left:
            running = {self._pool.schedule(_work, args=[task]): task for task in self._left}
            try:
                while running:
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        task = running.pop(future)
                        try:
                            outcome = future.result()
                        except ProcessExpired as died:
                            self._journal.note("lost", task, exit_code=died.exitcode)
                            if attempts[task] < ATTEMPTS:
                                attempts[task] += 1
                                running[self._pool.schedule(_work, args=[task])] = task
                                continue
                            outcome = Outcome(error=f"{_death(died.exitcode)} in {ATTEMPTS} tries", expected=True)
                        broken = 0
                        del self._left[task]
                        yield task, outcome
            except BrokenProcessPool as error:  # a worker died that had no task yet
                broken += 1
                if broken == ATTEMPTS:
                    last = self._said.read().decode(errors="replace").strip().splitlines() or ["they said nothing"]
                    raise UserError(f"workers end before they can work: {last[-1][:300]}") from error
                self._pool.stop()
                self._pool.join()
                self._pool = self._new_pool()

    def _new_pool(self) -> Any:
        from pebble import ProcessPool  # noqa: PLC0415 - as above

        context = get_context("spawn")  # a fork of a process with threads may hang
        return ProcessPool(max_workers=self._workers, initializer=_start, initargs=self._given, context=context)

    def close(self) -> None:
        """End the processes; what they had not finished is lost."""
        if self._left:
            self._pool.stop()
        else:  # a worker that is only just starting would say a traceback if it were stopped
            self._pool.close()
        try:
            self._pool.join(_GRACE)
        except TimeoutError:
            self._pool.stop()
            self._pool.join()
        self._terminal.end()
        self._keep_log()
        self._said.close()

    def _keep_log(self) -> None:
        """What workers said, beside what was made; a plan that turned out to be wrong leaves nothing behind."""
        said = self._said.read()
        if said and self._out.is_dir():
            with suppress(OSError), (self._out / WORKER_LOG).open("ab") as log:
                log.write(said)


class _Aside:
    """While it lasts, what processes that are started write to standard error goes to a file; this one's does not.

    A worker that is killed or stopped while it starts has its interpreter say a traceback, and so does the process that
    looks after semaphores: neither can be told to be silent, but both take over this process's file descriptor.
    """

    def __init__(self, log: int) -> None:
        sys.stderr.flush()
        self._ours, self._before = os.dup(2), sys.stderr
        os.dup2(log, 2)
        # In tests standard error may be something in memory, which needs no care.
        self._own = sys.stderr is sys.__stderr__
        if self._own:
            sys.stderr = os.fdopen(os.dup(self._ours), "w", buffering=1, encoding="utf-8", errors="replace")

    def end(self) -> None:
        """Have it as it was."""
        if self._own:
            sys.stderr.close()
            sys.stderr = self._before
        os.dup2(self._ours, 2)
        os.close(self._ours)


def _death(exit_code: int | None) -> str:
    """How a worker ended, in words."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = ": is there memory enough for so many workers?" if name == "SIGKILL" else ""
        return f"its worker was ended by {name}{hint}"
    return f"its worker ended with exit code {exit_code}"


def _start(plan: Plan, out: Path, threads: int, parent: int, said: str) -> None:
    """Make this process a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's goes to all; whoever started this ends it
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.environ.update(dict.fromkeys(_THREADS, str(threads)), TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")
    choose_gpu()
    keep_memory()
    with Path(said).open("ab") as log:  # what libraries print would tear the bar apart
        os.dup2(log.fileno(), sys.stderr.fileno())
        os.dup2(log.fileno(), sys.stdout.fileno())
    import torch  # noqa: PLC0415 - after its threads are limited

    torch.set_num_threads(threads)
    from audit.sweeps.tasks import Worker  # noqa: PLC0415 - as above

    global _worker  # noqa: PLW0603 - a worker process has one plan for its whole life
    _worker = Worker(plan, out)
    _worker.warm_up()


def choose_gpu() -> None:
    """Take one of several GPUs, which no other worker on this machine gets for as long as this one lives."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        import torch  # noqa: PLC0415 - counting does not start CUDA

        visible = ",".join(str(number) for number in range(torch.cuda.device_count()))
    gpus = [name.strip() for name in visible.split(",") if name.strip()]
    for gpu in gpus if len(gpus) > 1 else ():
        lock = FileLock(Path(gettempdir()) / f"delaudit-gpu-{gpu}.lock")
        with suppress(Timeout):  # the system gives a dead worker's lock back
            lock.acquire(timeout=0)
            _held.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            return
    if len(gpus) > 1:  # more workers than GPUs: they share
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[os.getpid() % len(gpus)]


def _end_with(parent: int) -> None:
    """End this process once its parent is gone: nobody would take its result."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)


def _work(task: Cell | int) -> Outcome:
    """One task in a worker process."""
    if _worker is None:
        raise RuntimeError("this process is no worker")
    return _noted(_worker, Journal(_worker.out), task)


def _noted(worker: "Worker", journal: Journal, task: Cell | int) -> Outcome:
    """One task, with its begin and end in the journal."""
    journal.note("started", task)
    outcome = worker.do(task)
    journal.note("finished" if outcome.error is None else "failed", task, seconds=outcome.seconds)
    return outcome

"""Workers on a Ray cluster: one actor each, which is given a task at a time. An actor that dies is replaced.

Each node needs delaudit with the same versions, and what the plan names (models, data, artifacts) at the same paths.
Results come back as JSON and are written by the process that runs the sweep; parts are kept where the actor runs, in a
folder that goes with it. Whoever can reach a Ray cluster runs code on it: keep its ports closed to others.
"""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from audit.sweeps.journal import Journal
from audit.sweeps.local import ATTEMPTS
from audit.sweeps.memory import keep_memory
from audit.sweeps.outcome import Outcome
from audit.sweeps.plan import Cell, Plan
from defenses.errors import UserError

_PATIENCE = 5.0  # seconds for a connection


class Actor:
    """A worker on a node, with a folder of its own.

    Args:
        plan: The plan.
        home: Where the sweep was started; relative paths of the plan start there.
        threads: That it may use.
    """

    def __init__(self, plan: Plan, home: str, threads: int) -> None:
        os.environ.update(TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")
        if Path(home).is_dir():
            os.chdir(home)
        keep_memory()
        import torch  # noqa: PLC0415 - on the node alone

        torch.set_num_threads(threads)
        from audit.sweeps.tasks import Worker  # noqa: PLC0415 - as above

        self._folder = tempfile.mkdtemp(prefix="delaudit-sweep-")
        self._worker = Worker(plan, Path(self._folder))
        self._worker.warm_up()

    def ready(self) -> None:
        """Nothing: that it is answered says that the actor has found its place."""

    def do(self, task: Cell | int) -> Outcome:
        """One task."""
        return self._worker.do(task)

    def end(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _knock(address: str) -> None:
    """See that something listens at HOST:PORT, for Ray itself tries for minutes.

    Raises:
        UserError: nothing does, or the address is none.
    """
    if address in {"auto", "local"}:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f'--ray {address}: give "auto", HOST:PORT or ray://HOST:PORT')
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except OSError as error:
        raise UserError(
            f"--ray {address}: nobody answers there ({error}); start one with `ray start --head`"
        ) from error


class RayCluster:
    """Tasks on a Ray cluster.

    Args:
        plan: The plan.
        out: Output folder, on this machine.
        address: "auto", "HOST:PORT" or "ray://HOST:PORT".
        workers: At most how many actors; None takes as many as the cluster has room for.
        threads: CPUs of each; on a cluster with GPUs each also takes one.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, plan: Plan, out: Path, address: str, *, workers: int | None = None, threads: int = 1) -> None:
        if find_spec("ray") is None:
            raise UserError("--ray needs Ray: pip install 'delaudit[ray]'")
        import ray  # noqa: PLC0415 - a second, and only where it is asked for

        self._ray: Any = ray
        self._plan, self._journal = plan, Journal(out)
        self._most, self._threads = workers, threads
        _knock(address)
        variables = {"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}
        try:
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": variables}
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"--ray {address}: {told}; start one with `ray start --head`") from error
        self._gpus = 1 if self._resources().get("GPU", 0) else 0
        self._actors: list[Any] = []
        self._coming: dict[Any, Any] = {}  # what an actor answers once it is there -> the actor
        self._failures = 0  # to come, since the last that came

    def execute(self, tasks: Sequence[Cell | int]) -> Iterator[tuple[Cell | int, Outcome]]:
        """Run tasks in any order."""
        waiting, attempts = list(reversed(tasks)), dict.fromkeys(tasks, 1)
        running: dict[Any, tuple[Any, Cell | int]] = {}
        while waiting or running:
            self._hire(len(waiting) + len(running))
            for actor in self._idle(running):
                if waiting:
                    task = waiting.pop()
                    self._journal.note("started", task)
                    running[actor.do.remote(task)] = actor, task
            done, _ = self._ray.wait([*running, *self._coming], num_returns=1, timeout=1.0)
            for reference in done:
                if reference in self._coming:
                    self._welcome(reference)
                    continue
                actor, task = running.pop(reference)
                outcome = self._outcome(reference, actor, task)
                if outcome is None and attempts[task] < ATTEMPTS:
                    attempts[task] += 1
                    waiting.append(task)
                    continue
                yield task, outcome or Outcome(error=f"its Ray worker died in each of {ATTEMPTS} tries", expected=True)

    def close(self) -> None:
        """End the actors and leave the cluster."""
        self._dismiss(len(self._coming))
        for actor in self._actors:
            actor.end.remote()
            actor.__ray_terminate__.remote()
        self._ray.shutdown()

    def _outcome(self, reference: Any, actor: Any, task: Cell | int) -> Outcome | None:
        """What a task gave; None where its actor or its node is gone."""
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            told = str(error).strip().splitlines()
            return Outcome(error=told[-1] if told else "a Ray task failed", detail=str(error))
        except self._ray.exceptions.RayError as error:
            self._actors.remove(actor)
            self._journal.note("lost", task, reason=type(error).__name__)
            return None
        self._journal.note("finished" if outcome.error is None else "failed", task, seconds=outcome.seconds)
        return outcome

    def _idle(self, running: dict[Any, tuple[Any, Cell | int]]) -> list[Any]:
        busy = [actor for actor, _ in running.values()]
        return [actor for actor in self._actors if actor not in busy]

    def _resources(self) -> dict[str, float]:
        return dict(self._ray.cluster_resources())

    def _hire(self, tasks: int) -> None:
        """Have as many actors as there are tasks, room, and leave for."""
        there = self._resources()
        room = int(there.get("CPU", 0) // self._threads)
        if self._gpus:
            room = min(room, int(there.get("GPU", 0)))
        wanted = min(tasks, room, self._most or room)
        if wanted < 1 and not self._actors:
            raise UserError(f"--ray: the cluster has no room for a worker with {self._threads} CPUs; lower --threads")
        missing = wanted - len(self._actors) - len(self._coming)
        # A lost node is counted as room for a while, and an actor that was asked for then would wait for it for ever.
        self._dismiss(min(-missing, len(self._coming)))
        # Where workers do not come up on some node, those that did go on without them.
        if missing > 0 and (self._failures < ATTEMPTS or not (self._actors or self._coming)):
            kind = self._ray.remote(num_cpus=self._threads, num_gpus=self._gpus, max_restarts=0)(Actor)
            for _ in range(missing):
                actor = kind.remote(self._plan, str(Path.cwd()), self._threads)
                self._coming[actor.ready.remote()] = actor

    def _welcome(self, reference: Any) -> None:
        """Take an actor into service that has come, or learn why it did not.

        Raises:
            UserError: none comes.
        """
        actor = self._coming.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._failures += 1
            if self._failures >= ATTEMPTS and not (self._actors or self._coming):
                told = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                raise UserError(f"--ray: no worker comes up on the cluster: {told}") from error
            return
        self._failures = 0
        self._actors.append(actor)

    def _dismiss(self, count: int) -> None:
        """Give up so many actors that have not come yet, the latest first."""
        for _ in range(count):
            _, actor = self._coming.popitem()
            self._ray.kill(actor)

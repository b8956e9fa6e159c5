"""Who is given which task on a cluster, against a stand-in for Ray whose nodes come and go as a test wants."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import audit.sweeps.ray_cluster as module
from audit.sweeps.local import ATTEMPTS
from audit.sweeps.outcome import Outcome
from audit.sweeps.plan import Plan, parse_plan
from audit.sweeps.ray_cluster import RayCluster
from defenses.errors import UserError


class RayError(Exception):
    """What Ray raises for a lost actor."""


class RayTaskError(RayError):
    """What Ray raises for a task that raised."""


@dataclass(eq=False)
class Remote:
    """One actor: `place` says whether it finds a node, None that it never does.

    Attributes:
        cluster: Where.
        place: "node", None, or "broken" for a node on which it cannot be made.
    """

    cluster: "Cluster"
    place: str | None

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *given: self.cluster.call(self, name, given))


@dataclass
class Cluster:
    """Enough of the module `ray`.

    Attributes:
        said: CPUs that the cluster says it has.
        places: Of the actors, in the order in which they are asked for.
    """

    said: int
    places: list[str | None]
    actors: list[Remote] = field(default_factory=list)
    killed: list[Remote] = field(default_factory=list)
    calls: dict[object, tuple[Remote, str, tuple[Any, ...]]] = field(default_factory=dict)
    waits: int = 0
    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def init(self, **_: Any) -> None:
        """Connect."""

    def cluster_resources(self) -> dict[str, float]:
        """What is said to be there."""
        return {"CPU": float(self.said)}

    def remote(self, **_: Any) -> Any:
        """Make a kind of actor."""
        return lambda _kind: SimpleNamespace(remote=self._actor)

    def _actor(self, *_: Any) -> Remote:
        self.actors.append(Remote(self, self.places.pop(0)))
        return self.actors[-1]

    def call(self, actor: Remote, name: str, given: tuple[Any, ...]) -> object:
        """Ask an actor for something."""
        reference = object()
        self.calls[reference] = actor, name, given
        return reference

    def wait(self, references: list[object], **_: Any) -> tuple[list[object], list[object]]:
        """One answer of those that ever come; that of a new actor before that of a task."""
        self.waits += 1
        assert self.waits < 100, "it waits for ever"
        there = [one for one in references if self.calls[one][0].place is not None]
        return there[-1:], [one for one in references if one not in there[-1:]]

    def get(self, reference: object) -> Any:
        """An answer."""
        actor, name, _ = self.calls[reference]
        if actor.place == "broken":
            raise RayError("The actor died\nNo module named 'delaudit'")
        return Outcome({"by": self.actors.index(actor)}) if name == "do" else None

    def kill(self, actor: Remote) -> None:
        """End an actor."""
        self.killed.append(actor)


def _executor(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    monkeypatch.setitem(sys.modules, "ray", cluster)
    monkeypatch.setattr(module, "find_spec", lambda _name: object())
    return RayCluster(_plan(), tmp_path, "auto")


def _plan() -> Plan:
    return parse_plan({"name": "x", "grids": [{"defense": "none"}]})


def test_no_task_goes_to_an_actor_that_has_found_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a sweep would wait for ever for an actor meant for a node that was lost a moment ago."""
    cluster = Cluster(said=2, places=["node", None])
    done = list(_executor(cluster, tmp_path, monkeypatch).execute([0, 1, 2]))
    assert {task for task, _ in done} == {0, 1, 2}
    assert Counter(outcome.result["by"] for _, outcome in done if outcome.result) == {0: 3}


def test_an_actor_that_found_no_place_is_given_up_when_room_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, actors would pile up on a cluster that others use, too."""
    cluster = Cluster(said=2, places=["node", None])
    running = _executor(cluster, tmp_path, monkeypatch).execute([0, 1, 2])
    next(running)
    assert cluster.killed == []
    cluster.said = 1
    assert len(list(running)) == 2
    assert cluster.killed == [cluster.actors[1]]


def test_a_cluster_where_no_worker_comes_up_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, nodes without delaudit would be tried for ever, or blamed on each cell in turn."""
    cluster = Cluster(said=1, places=["broken"] * 10)
    with pytest.raises(UserError, match="no worker comes up on the cluster: No module named 'delaudit'"):
        list(_executor(cluster, tmp_path, monkeypatch).execute([0]))


def test_a_node_where_no_worker_comes_up_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, one bad node would be asked for a worker anew for as long as the sweep lasts."""
    cluster = Cluster(said=2, places=["node", *["broken"] * 40])
    assert len(list(_executor(cluster, tmp_path, monkeypatch).execute(list(range(20))))) == 20
    assert len(cluster.actors) <= 1 + 2 * ATTEMPTS  # a worker that comes gives the others another chance


def test_a_cluster_without_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a sweep would wait for CPUs that no node has."""
    with pytest.raises(UserError, match="no room"):
        list(_executor(Cluster(said=0, places=[]), tmp_path, monkeypatch).execute([0]))

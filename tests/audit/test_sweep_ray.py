"""Sweeps on a Ray cluster of two nodes on this machine: the same records, though a node is killed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.audit.sweep_help import delaudit, journal, records, run_again, start, write_sweep

if find_spec("ray") is None:
    pytest.skip("needs the extra ray: pip install '.[ray]'", allow_module_level=True)

SMALL = """
[[grids]]
defense = "del"
projection = ["d16"]
parameters = { n = [4], mu = [2, 20, 60] }

[[audits]]
samples = 400
"""
SIXTY = SMALL.replace("n = [4], mu = [2, 20, 60]", "n = [2, 4], mu = [2, 5, 20, 60, 200]")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
second = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
for _ in sys.stdin:
    cluster.remove_node(second, allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""


class TwoNodes:
    """A cluster of two nodes with one CPU each, held by a process of its own."""

    def __init__(self) -> None:
        paths = [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]  # so that its workers find this checkout
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "RAY_USAGE_STATS_ENABLED": "0"}
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, **variables},
        )  # fmt: skip
        self.address = self._line()

    def kill_second(self) -> None:
        """End a node with all that runs on it."""
        assert self._process.stdin is not None
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()
        assert self._line() == "killed"

    def close(self) -> None:
        """End the other one."""
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture
def nodes() -> Iterator[TwoNodes]:
    """The cluster."""
    found = TwoNodes()
    yield found
    found.close()


def _sweep_with_a_node_killed(path: Path, folder: Path, nodes: TwoNodes, finished: int) -> None:
    """Run a sweep on the cluster, and kill a node once so many cells are finished."""
    process = start("run", str(path), "--ray", nodes.address, "--out", "out", cwd=folder)
    while process.poll() is None and _finished(folder / "out") < finished:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[1]
    nodes.kill_second()
    _, err = process.communicate()
    assert process.returncode == 0, err
    events = journal(folder / "out")
    assert run_again(events) == []
    assert [one["event"] for one in events].count("lost") <= 1


def _finished(out: Path) -> int:
    if not (out / "journal.jsonl").exists():
        return 0
    return sum(one["event"] == "finished" for one in journal(out))


def _whole(path: Path, folder: Path) -> Any:
    """The records of the same sweep in one process with one thread."""
    code, _, err = delaudit("run", str(path), "--out", "whole", cwd=folder, **ONE_THREAD)
    assert code == 0, err
    return records(folder / "whole")


def test_a_sweep_on_two_nodes_survives_the_loss_of_one(
    nodes: TwoNodes, tiny_experiment: dict[str, Any], tmp_path: Path
) -> None:
    """If this failed, a cluster would give other figures than a laptop, or a lost machine would end the sweep."""
    path = write_sweep(tmp_path, tiny_experiment, grids=SMALL)
    _sweep_with_a_node_killed(path, tmp_path, nodes, finished=1)
    assert records(tmp_path / "out") == _whole(path, tmp_path)


@pytest.mark.slow
def test_sixty_cells_on_two_nodes_with_one_killed(
    nodes: TwoNodes, tiny_experiment: dict[str, Any], tmp_path: Path
) -> None:
    """The same with 60 cells."""
    path = write_sweep(tmp_path, tiny_experiment, grids=SIXTY, sweep="[sweep]\nseed = [0, 1, 2]")
    _sweep_with_a_node_killed(path, tmp_path, nodes, finished=15)
    found = records(tmp_path / "out")
    assert found == _whole(path, tmp_path)
    assert sum(len(one["rows"]) for one in found.values()) == 60


def test_no_cluster_is_one_line(tiny_experiment: dict[str, Any], tmp_path: Path) -> None:
    """If this failed, a wrong address would be a traceback, or leave a folder."""
    path = write_sweep(tmp_path, tiny_experiment, grids=SMALL)
    code, _, err = delaudit("run", str(path), "--ray", "127.0.0.1:1", "--out", "out", cwd=tmp_path)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "--ray 127.0.0.1:1" in err
    assert not (tmp_path / "out").exists()

"""Loops that are compiled before the first attack needs them."""

import subprocess
import sys

PROGRAM = """
from attacks import kernels
from attacks.warm_up import warm_up
warm_up()
called = [kernels.scan, kernels.trim, kernels.fit_laws]
before = [len(loop.signatures) for loop in called]
import numpy as np
from attacks.adaptation import Shortlist, adapt
from attacks.ranking import ranked, ranked_product, scanned_product
rng = np.random.default_rng(0)
left, right = rng.normal(size=(40, 8)).astype(np.float32), rng.normal(size=(8, 900)).astype(np.float32)
prior = np.log(np.full(900, 1 / 900)).astype(np.float32)
adapt(Shortlist.of(scanned_product(left, right, 20, prior), prior), np.full(900, 1 / 900), length=5)
ranked(left @ right)
ranked_product(left, right, prior=prior)
print(before, [len(loop.signatures) for loop in called])
"""


def test_attacks_find_their_loops_compiled() -> None:
    """If this failed, each worker of a sweep would compile within its first cell."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    assert done.stdout.split("\n")[0] == "[1, 1, 1] [1, 1, 1]"

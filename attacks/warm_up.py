"""What a process of attacks would otherwise do within its first one: four seconds, most of them a compiler's."""

import numpy as np

from attacks.adaptation import FOLDS, Shortlist, adapt
from attacks.ranking import scanned


def warm_up() -> None:
    """Have every loop of `attacks.kernels` compiled, by an attack on a vocabulary of two tokens."""
    views, uniform = np.zeros((FOLDS, 2), dtype=np.float32), np.full(2, 0.5)
    prior = np.log(uniform).astype(np.float32)
    adapt(Shortlist.of(scanned(views, 1, prior), prior), uniform, length=1)

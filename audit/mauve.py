"""MAUVE: how far the distribution of generated text is from that of true text, as one number in (0, 1].

Pillutla et al. 2021, "MAUVE: measuring the gap between neural text and human text using divergence frontiers"
(NeurIPS), with the smoothed estimate for small samples of Pillutla et al. 2023 (JMLR 24:356). Features are quantized by
k-means; for mixtures R = l P + (1 - l) Q of the two histograms, the frontier is (exp(-c KL(Q|R)), exp(-c KL(P|R))),
c = 5, and MAUVE the area under it. It depends on n, on the features and on the buckets: compare only figures that share
all three. (The authors' package is under the GPL and brings faiss; scikit-learn does what is needed of it.)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import t as student
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from audit.intervals import Interval

Float64 = NDArray[np.float64]

SCALE = 5.0  # c of the paper
MIXTURES = 25
VARIANCE = 0.9  # kept by the principal components before k-means
PSEUDO_COUNT = 0.5  # Krichevsky and Trofimov 1981, as the JMLR paper advises for few samples
PER_BUCKET = 10
GROUPS = 10


@dataclass(frozen=True)
class Mauve:
    """A MAUVE score.

    Attributes:
        value: In (0, 1]; 1 where both histograms are equal.
        interval: By the delete-a-group jackknife over documents; None with fewer than two groups.
        buckets: Of the histogram.
    """

    value: float
    interval: Interval | None
    buckets: int


def mauve(generated: Float64, true: Float64, clusters: NDArray[np.int64], seed: int, level: float = 0.95) -> Mauve:
    """The MAUVE score of generated against true texts.

    The interval is a t interval on the standard error of the delete-a-group jackknife (Kott 2001) over groups of
    documents: resampling with replacement would repeat texts and make both sets more alike than they are. The buckets
    are those of all texts throughout.

    Args:
        generated: Features, (N, h).
        true: Features of the true texts, (N, h).
        clusters: The document of each text, (N,).
        seed: Of k-means.
        level: Nominal coverage.

    Raises:
        ValueError: shapes differ, or there are fewer than 20 texts.
    """
    if generated.shape != true.shape or len(generated) < 2 * PER_BUCKET or len(clusters) != len(generated):
        raise ValueError(f"MAUVE needs two equal sets of at least {2 * PER_BUCKET} texts")
    buckets = len(generated) // PER_BUCKET
    labels = _quantized(np.concatenate([generated, true]), buckets, seed)
    ours, theirs = labels[: len(generated)], labels[len(generated) :]
    value = _score(ours, theirs, buckets)
    groups = np.unique(clusters, return_inverse=True)[1] % GROUPS
    kept = [groups != group for group in np.unique(groups)]
    if len(kept) < 2:
        return Mauve(value, None, buckets)
    leaves = np.array([_score(ours[keep], theirs[keep], buckets) for keep in kept])
    spread = np.sqrt((len(leaves) - 1) / len(leaves) * ((leaves - leaves.mean()) ** 2).sum())
    reach = float(student.ppf((1 + level) / 2, len(leaves) - 1) * spread)
    name = f"delete-a-group jackknife, {len(leaves)} groups of documents"
    return Mauve(
        value, Interval(max(0.0, value - reach), min(1.0, value + reach), level, name, len(generated)), buckets
    )


def frontier_area(p: Float64, q: Float64) -> float:
    """The area under the divergence frontier of two distributions over buckets, (K,) each."""
    weights = np.linspace(0, 1, MIXTURES + 2)[1:-1, None]
    mixtures = weights * p + (1 - weights) * q
    x = np.exp(-SCALE * rel_entr(q, mixtures).sum(axis=1))
    y = np.exp(-SCALE * rel_entr(p, mixtures).sum(axis=1))
    x, y = np.concatenate([[1.0], x, [0.0]]), np.concatenate([[0.0], y, [1.0]])
    order = np.lexsort((-y, x))
    return float(np.trapezoid(y[order], x[order]))


def _score(ours: NDArray[np.int64], theirs: NDArray[np.int64], buckets: int) -> float:
    p, q = (np.bincount(labels, minlength=buckets) + PSEUDO_COUNT for labels in (theirs, ours))
    return frontier_area(p / p.sum(), q / q.sum())


def _quantized(features: Float64, buckets: int, seed: int) -> NDArray[np.int64]:
    """The bucket of each feature vector (M, h): unit length, principal components, k-means, as the paper does."""
    rows = normalize(features)
    parts = PCA(n_components=VARIANCE, svd_solver="full", random_state=seed).fit_transform(rows)
    return np.asarray(KMeans(buckets, n_init=5, random_state=seed).fit_predict(parts), dtype=np.int64)

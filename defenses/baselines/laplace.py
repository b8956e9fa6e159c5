"""The Laplace mechanism on one vector a token, calibrated exactly.

Dwork, McSherry, Nissim, Smith 2006 ("Calibrating noise to sensitivity in private data analysis", TCC): clip, add
independent Laplace(b) noise to every coordinate, send float32. Two clips, and what holds for the two worst vectors:

linf: every coordinate to [-c, c], as DEL clips. Coordinates differ by at most 2 c each, and opposite corners do: m
uses of the one-dimensional mechanism with shift 2 c, of pure epsilon 2 c m / b together. Its (epsilon, delta) curve is
composed numerically, rounded up.

l1: the vector to an l1 ball of radius C. Shifts then have an l1 norm of at most 2 C. With f the density, the pointwise
minimum of f(x) and e^epsilon f(x - shift) is log-concave in both, so that its integral over x, 1 - delta, is
log-concave in the shift (Prekopa 1973): the worst shift is a vertex of the ball, 2 C along one axis. What holds is
exactly the one-dimensional mechanism's curve, of pure epsilon 2 C / b.

4 m bytes a token; the client adds m draws to a row of a table.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from scipy.spatial.distance import cdist

from defenses.base import NO_CLAIM, Assets, Claim, Float32, LikelihoodUnavailable, View
from defenses.clipped_vectors import ClipConfig, boxed
from defenses.errors import UserError
from defenses.noisy_vectors import NoisyVectors, check_scale, space_table
from defenses.privacy.laplace import LaplaceProfile
from defenses.privacy.profile import PrivacyProfile
from defenses.privacy.solve import greatest_within

Norm = Literal["linf", "l1"]

_CELLS = 1 << 23  # coordinates or distances at a time, in double precision
_INWARD = 1 - 2.0**-22  # rounding to float32 may lengthen a vector by 2^-24 of itself


@dataclass(frozen=True)
class LaplaceConfig(ClipConfig):
    """How much noise, on what.

    Attributes:
        scale: b of each coordinate; 0 turns the noise, and with it the claim, off. One of scale, pure_epsilon and
            epsilon is given; pure_epsilon = 500 where none is.
        pure_epsilon: Epsilon of one token at delta = 0, above 0.
        epsilon: Exact epsilon of one token at `delta`, above 0.
        delta: Used with `epsilon`, in (0, 1).
        norm: "linf": `clip` is c, of each coordinate; "l1": it is C, the largest l1 norm.
        clip: As in ClipConfig; with norm = "l1", None takes `clip_quantile` of the table's norms.
    """

    scale: float | None = None
    pure_epsilon: float | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [value for value in (self.scale, self.pure_epsilon, self.epsilon) if value is not None]
        if not given:
            object.__setattr__(self, "pure_epsilon", 500.0)
        elif len(given) > 1:
            raise UserError("laplace: give one of scale, pure_epsilon and epsilon, not several")
        if self.scale is not None and not 0 <= self.scale < np.inf:
            raise UserError(f"laplace: scale must be finite and not negative, not {self.scale}")
        for name, value in (("pure_epsilon", self.pure_epsilon), ("epsilon", self.epsilon)):
            if value is not None and not 0 < value < np.inf:
                raise UserError(f"laplace: {name} must be positive and finite, not {value}; no noise is scale = 0")
        if not 0 < self.delta < 1:
            raise UserError(f"laplace: delta must lie between 0 and 1, not {self.delta}")
        if self.norm not in get_args(Norm):
            raise UserError(f"laplace: norm is one of {', '.join(get_args(Norm))}, not {self.norm!r}")


class Laplace(NoisyVectors[LaplaceConfig]):
    """Clipped vectors plus independent Laplace noise."""

    name = "laplace"
    Config = LaplaceConfig
    privacy_parameter = "pure_epsilon"
    parameter_range = (1e-2, 1e5)

    def __init__(self, config: LaplaceConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        self.clear, self.bound = boxed(assets, config) if config.norm == "linf" else _balled(assets, config)
        self.scale = self._scale()
        check_scale(self.scale, self.name)

    @property
    def uses(self) -> int:
        """How many one-dimensional mechanisms differ between the two worst vectors: m, or 1 in the l1 ball."""
        return int(self.clear.shape[1]) if self.config.norm == "linf" else 1

    @property
    def claim(self) -> Claim:
        """The pure epsilon, as a whole Laplace curve where it is one; none without noise."""
        if not self.scale:
            return NO_CLAIM
        return Claim(
            kind="laplace" if self.uses == 1 else "epsilon-DP",
            parameters={"epsilon": 2 * self.bound / self.scale * self.uses},
            unit="one token",
            relation="replace a token by any other",
            source="Laplace mechanism, Dwork, McSherry, Nissim, Smith 2006",
        )

    def profile(self) -> PrivacyProfile | None:
        """Of opposite corners of the clip, attained there; numerical for several uses, with a stated error."""
        return LaplaceProfile(2 * self.bound / self.scale).compose(self.uses) if self.scale else None

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Independent Laplace draws."""
        return rng.laplace(0.0, self.scale, size=shape) if self.scale else np.zeros(shape)

    def log_likelihood(self, view: View) -> Float32:
        """Log density -|y - x|_1 / b around every token's x, (B, T, V), less that of the nearest token.

        Raises:
            LikelihoodUnavailable: there is no noise, and so no density.
        """
        if not self.scale:
            raise LikelihoodUnavailable(f"{self.name} with scale = 0 has no density")
        points = self.latents(view).reshape(-1, self.clear.shape[1])
        vocabulary = len(self.clear)
        found = np.empty((len(points), vocabulary), dtype=np.float32)
        step = max(1, _CELLS // vocabulary)
        rows = max(1, _CELLS // self.clear.shape[1])
        for start in range(0, len(points), step):
            part = points[start : start + step]
            gaps = [cdist(part, self.clear[row : row + rows], "cityblock") for row in range(0, vocabulary, rows)]
            distances = np.concatenate(gaps, axis=1)
            found[start : start + step] = (distances.min(axis=1, keepdims=True) - distances) / self.scale
        return found.reshape(*view.shape, vocabulary)

    def _scale(self) -> float:
        """Of each coordinate, by whichever way it was asked for."""
        config = self.config
        if config.scale is not None:
            return config.scale
        if config.epsilon is not None:
            return 2 * self.bound / _shift_within(config.epsilon, config.delta, self.uses)
        return 2 * self.bound * self.uses / float(config.pure_epsilon or 500.0)


@lru_cache(maxsize=2)
def _balled(assets: Assets, config: LaplaceConfig) -> tuple[Float32, float]:
    """The vector of every token in the l1 ball of radius C, (V, m), and C.

    Raises:
        UserError: there is no projection to make latents with, or the table is zero.
    """
    table = space_table(assets, config.on)
    norms = np.abs(table).sum(axis=1, dtype=np.float64)
    bound = config.clip or float(np.quantile(norms, config.clip_quantile))
    if not bound > 0:
        raise UserError("laplace: the public table is zero where the clip is taken from: give a clip")
    shrink = np.minimum(1.0, bound * _INWARD / np.maximum(norms, 1e-30))
    return (table * shrink[:, None]).astype(np.float32), bound


@lru_cache(maxsize=64)
def _shift_within(epsilon: float, delta: float, uses: int) -> float:
    """The greatest shift over scale of each of so many uses whose composition keeps (epsilon, delta)."""
    if uses == 1:
        return epsilon - 2 * float(np.log1p(-delta))

    def curve(shift: float) -> PrivacyProfile:
        return LaplaceProfile(shift).compose(uses)

    start = epsilon / uses  # the pure guarantee, which is sound whatever the rounding of its curve
    return start if curve(start).delta(epsilon) > delta else greatest_within(curve, epsilon, delta, start)


DEFENSE = Laplace

"""Noise on vectors as it must not be: each class makes one mistake and keeps the sound one's claim and likelihood."""

from dataclasses import replace
from functools import cached_property

import numpy as np

from defenses.base import Float32
from defenses.baselines.gaussian import Gaussian
from defenses.baselines.metric_noise import MetricNoise


class RadiusPerCoordinate(MetricNoise):
    """Split-and-Denoise's released code: every coordinate has a radius of its own, and the spherical law's claim."""

    name = "radius-per-coordinate"

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Directions (B, T, m) times m radii each."""
        return MetricNoise(replace(self.config, radius="per-coordinate"), self.assets).noise(shape, rng)


class HalfTheSensitivity(Gaussian):
    """The noise is scaled to C, as if one vector were removed; but one is replaced by another, 2 C away."""

    name = "half-the-sensitivity"

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Half of the noise."""
        return 0.5 * super().noise(shape, rng)


class ClipsNothing(Gaussian):
    """Vectors are sent in their own length, and the claim is that of clipped ones."""

    name = "clips-nothing"

    @cached_property
    def clear(self) -> Float32:
        """The vector of every token as it is, (V, m)."""
        return self.encoded()

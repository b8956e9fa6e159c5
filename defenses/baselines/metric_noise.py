"""Metric privacy by noise on one vector a token: the published spherical law, and those that circulate in code.

Spherical: density proportional to exp(-eta |z|), a uniform direction times one radius from Gamma(m, 1/eta) (Feyisetan,
Balle, Drake, Diethe 2020, "Privacy- and utility-preserving textual analysis via calibrated multivariate
perturbations"). It is eta-metric private: the losses between two tokens are at most eta times their distance.

Code that calls itself chi or d_chi noise often draws a radius for every coordinate, either on a unit direction
("per-coordinate") or, as the code of Split-and-Denoise (Mai et al. 2024), on independent uniform numbers
("independent"). These are other laws: of the first no metric claim is proved and an audit refutes the spherical one's;
of the second one holds that is sqrt(m) times as large. `defenses.metric_vectors` has all three.
"""

from dataclasses import dataclass
from typing import ClassVar

from defenses.metric_vectors import MetricConfig, MetricVectors, Radius

__all__ = ["DEFENSE", "MetricNoise", "MetricNoiseConfig", "Radius"]


@dataclass(frozen=True)
class MetricNoiseConfig(MetricConfig):
    """How much noise, on what: see MetricConfig."""

    defense: ClassVar[str] = "metric-noise"


class MetricNoise(MetricVectors[MetricNoiseConfig]):
    """Vectors plus a direction times a Gamma radius."""

    name = "metric-noise"
    Config = MetricNoiseConfig


DEFENSE = MetricNoise

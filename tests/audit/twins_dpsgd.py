"""DP-SGD as it must not be: three mistakes, each under the claim of the sound one. For tests alone."""

import numpy as np
from numpy.typing import NDArray

from defenses.pipeline.private_gradient import NumpyNoiseOptimizer, PrivateGradient


class _Noiseless(NumpyNoiseOptimizer):
    """Clips and forgets the noise."""

    def add_noise(self) -> None:
        """Add none."""
        for value in self.params:
            value.grad = value.summed_grad.clone()


class NoNoise(PrivateGradient):
    """The noise is left out."""

    optimizer = _Noiseless


class _ClipsTheAverage(NumpyNoiseOptimizer):
    """Clips the batch's average to C and adds the noise that would be right for per-example clipping, sigma C / B."""

    def clip_and_accumulate(self) -> None:
        """Add up what is not clipped yet."""
        for value in self.params:
            value.summed_grad = value.grad_sample.sum(dim=0)
            self._examples = len(value.grad_sample)

    def add_noise(self) -> None:
        """Clip the average, and add noise to what the batch then comes to."""
        for value in self.params:
            average = value.summed_grad / max(1, self._examples)
            clipped = average * (self.max_grad_norm / average.norm().clamp(min=self.max_grad_norm))
            value.summed_grad = clipped * self._examples
        super().add_noise()


class ClipAfterAveraging(PrivateGradient):
    """The gradient is clipped once, after averaging, and not per example. Needs the whole batch at once."""

    optimizer = _ClipsTheAverage


class WrongSampleRate(PrivateGradient):
    """Every example takes part in every step, whatever rate the accountant was told."""

    def sample(self, examples: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Take everyone."""
        return np.arange(examples, dtype=np.int64)


TWINS: tuple[type[PrivateGradient], ...] = (NoNoise, ClipAfterAveraging, WrongSampleRate)

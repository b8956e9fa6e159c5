"""DP-Forward: Gaussian noise on the hidden states of a whole prompt, calibrated exactly.

Du, Yue, Chow, Wang, Huang, Sun 2023, "DP-Forward: fine-tuning and inference on language models with differential
privacy in forward pass" (CCS). The client runs k blocks, scales the (T, h) matrix of the prompt down to a Frobenius
norm of C and adds noise; the server goes on from there. Two arbitrary prompts of one length are at most 2 C apart, so
N(0, sigma^2) on every entry is mu-GDP with mu = 2 C / sigma, and its (epsilon, delta) curve is that of Balle and Wang
2018, Theorem 8, on which the paper's analytic matrix Gaussian mechanism rests. The unit is one whole prompt: no
composition over its tokens. It sends h float32 a token, 4 h bytes; the client holds and runs k blocks.

The paper lets rows and columns have covariances, U and V, of any shape and bounds the loss by their least singular
values. Equal variances are its best case for a sensitivity that is known by its norm alone, and what its code draws.

The authors' code differs from the paper: it calibrates to a sensitivity of 1 where C = 1, half of what two prompts can
differ by (sensitivity = "released"). The claim that it then makes is false, and an audit refutes it; `profile()` says
what holds. It also scales down to C / (1 + 1e-6), which is harmless. In the paper the LLM is fine-tuned behind the
noise, and C = 1; here it is frozen, so that C is by default what public prompts of the same length have.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, get_args

import numpy as np

from defenses.base import NO_CLAIM, Assets, Claim, Float32, LikelihoodUnavailable, Tokens, View
from defenses.errors import UserError
from defenses.likelihood import Distances
from defenses.noisy_vectors import check_scale
from defenses.privacy.gaussian import GaussianProfile, mu_for_epsilon
from defenses.sent_states import SentStates, public_states, sent

Sensitivity = Literal["replace", "released"]

_INWARD = 1 - 2.0**-22  # rounding to float32 may lengthen a matrix by 2^-24 of itself
_PUBLIC_PROMPTS = 32


@dataclass(frozen=True)
class DpForwardConfig:
    """Where the model is split, and how much noise.

    Attributes:
        blocks: How many blocks the client runs, at least 0: k. With 0 the embeddings are sent.
        mu: mu-GDP of one prompt, above 0. One of mu, epsilon and sigma is given; mu = 60 where none is.
        epsilon: Epsilon of one prompt at `delta`, above 0.
        delta: Used with `epsilon`, in (0, 1).
        sigma: Standard deviation of the noise on each entry, with `clip`; 0 turns noise, clip and claim off.
        clip: C, the largest Frobenius norm of a prompt; None takes it from public prompts of the same length.
        clip_quantile: Then, C is this quantile of the norms of 32 of them, in (0, 1].
        sensitivity: "replace": 2 C, which holds; "released": C, as in the authors' code, which does not.
    """

    blocks: int = 1
    mu: float | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    sigma: float | None = None
    clip: float | None = None
    clip_quantile: float = 0.99
    sensitivity: Sensitivity = "replace"

    def __post_init__(self) -> None:
        given = [value for value in (self.sigma, self.mu, self.epsilon) if value is not None]
        if not given:
            object.__setattr__(self, "mu", 60.0)
        elif len(given) > 1:
            raise UserError("dp-forward: give one of sigma, mu and epsilon, not several")
        if self.blocks < 0:
            raise UserError(f"dp-forward: blocks must not be negative, not {self.blocks}")
        for name, value in (("mu", self.mu), ("epsilon", self.epsilon), ("clip", self.clip)):
            if value is not None and not 0 < value < np.inf:
                raise UserError(f"dp-forward: {name} must be positive and finite, not {value}; no noise is sigma = 0")
        if self.sigma is not None and not 0 <= self.sigma < np.inf:
            raise UserError(f"dp-forward: sigma must be finite and not negative, not {self.sigma}")
        if self.sigma and self.clip is None:
            raise UserError("dp-forward: sigma alone says nothing about privacy: give clip too, or mu in its place")
        if not 0 < self.delta < 1 or not 0 < self.clip_quantile <= 1:
            raise UserError("dp-forward: delta must lie between 0 and 1, clip_quantile above 0 and at most 1")
        if self.sensitivity not in get_args(Sensitivity):
            raise UserError(f"dp-forward: sensitivity is one of {', '.join(get_args(Sensitivity))}")


class DpForward(SentStates[DpForwardConfig]):
    """Clipped hidden states plus N(0, sigma^2)."""

    name = "dp-forward"
    Config = DpForwardConfig
    privacy_parameter = "mu"

    @property
    def claim(self) -> Claim:
        """mu-GDP or (epsilon, delta)-DP of one prompt, as configured; none without noise."""
        config = self.config
        if config.sigma == 0:
            return NO_CLAIM
        if config.epsilon is None:
            kind, numbers = "mu-GDP", {"mu": self._stated_mu}
        else:
            kind, numbers = "(epsilon, delta)-DP", {"epsilon": config.epsilon, "delta": config.delta}
        sound = config.sensitivity == "replace"
        return Claim(
            kind=kind,
            parameters=numbers,
            unit="one prompt",
            relation="replace a prompt by any other of its length",
            source="Du et al. 2023; Balle, Wang 2018, Theorem 8" if sound else "the released code of Du et al. 2023",
        )

    def profile(self) -> GaussianProfile | None:
        """The exact profile of two prompts 2 C apart, whatever is claimed; None without noise."""
        if self.config.sigma == 0:
            return None
        return GaussianProfile(self._stated_mu * (1 if self.config.sensitivity == "replace" else 2))

    @property
    def _stated_mu(self) -> float:
        """Mu as the noise was calibrated to it: the sensitivity that was assumed, over sigma."""
        config = self.config
        if config.epsilon is not None:
            return mu_for_epsilon(config.epsilon, config.delta)
        if config.sigma is not None and config.clip is not None:
            return self._assumed * config.clip / config.sigma
        return float(config.mu or 60.0)

    @property
    def _assumed(self) -> float:
        """The sensitivity that the noise is calibrated to, in units of C."""
        return 2.0 if self.config.sensitivity == "replace" else 1.0

    def bound(self, tokens: int) -> float:
        """C, the largest Frobenius norm of a prompt of this many tokens: public, as its length is."""
        config = self.config
        return config.clip or _public_bound(self.assets, config.blocks, config.clip_quantile, tokens)

    def sigma(self, tokens: int) -> float:
        """Standard deviation of the noise on each entry for prompts of this many tokens.

        Raises:
            UserError: it is more than a float32 can carry.
        """
        if self.config.sigma is not None:
            return self.config.sigma
        found = self._assumed * self.bound(tokens) / self._stated_mu
        check_scale(found, self.name)
        return found

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """Noisy states of tokens (B, T) after the client's blocks."""
        states = self.states(tokens)
        sigma = self.sigma(tokens.shape[1])
        if not sigma:
            return sent(states, tokens)
        return sent(self.clipped(states) + rng.normal(0.0, sigma, size=states.shape), tokens)

    def clipped(self, states: Float32) -> Float32:
        """States (B, T, h), each prompt's scaled down to the norm C; as they are without noise."""
        if self.config.sigma == 0:
            return states
        norms = np.sqrt(np.square(states, dtype=np.float64).sum(axis=(1, 2), keepdims=True))
        shrink = np.minimum(1.0, self.bound(states.shape[1]) * _INWARD / np.maximum(norms, 1e-30))
        return np.asarray(states * shrink, dtype=np.float32)

    def log_likelihood(self, view: View) -> Float32:
        """Log density -|y - x|^2 / (2 sigma^2) around every token's x, (B, 1, V), for prompts of one token.

        Raises:
            LikelihoodUnavailable: there is no noise, or prompts have more tokens.
        """
        if self.config.sigma == 0:
            raise LikelihoodUnavailable(f"{self.name} with sigma = 0 has no density")
        found = self._distances.squared(self.alone(view)[:, 0])
        found *= np.float32(-0.5 / self.sigma(1) ** 2)
        return found[:, None]

    @cached_property
    def _distances(self) -> Distances:
        """To what is sent for every token as a prompt of its own."""
        return Distances(self.clipped(self.latent_table()[:, None])[:, 0])


@lru_cache(maxsize=32)
def _public_bound(assets: Assets, blocks: int, quantile: float, tokens: int) -> float:
    """C for one length; a sweep over mu runs the model once."""
    states = public_states(assets, blocks, _PUBLIC_PROMPTS, tokens)
    norms = np.linalg.norm(states.reshape(len(states), -1).astype(np.float64), axis=1)
    return float(np.quantile(norms, quantile))


DEFENSE = DpForward

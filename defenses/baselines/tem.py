"""TEM, the truncated exponential mechanism: near tokens are drawn by distance, all far ones are alike.

Carvalho, Vasiloudis, Feyisetan, Wang 2023, "TEM: High utility metric differential privacy on text" (SDM), Algorithm 1.
Tokens y within gamma of x have the score -d(x, y); one element for all the others has the score
-gamma + 2 log(how many they are) / epsilon; each score gets Gumbel noise of scale 2 / epsilon, the largest wins, and
for the one element a token is drawn uniformly from the others.

The largest of scores s with Gumbel noise of scale 2 / epsilon is drawn with probabilities proportional to
exp(epsilon s / 2). The one element's weight is therefore exp(-epsilon gamma / 2) for each of the far tokens, and TEM is
exactly

    P(y | x) proportional to exp(-epsilon min(d(x, y), gamma) / 2),

which is what this file draws from, without Gumbel noise. The claim of epsilon-metric privacy holds, and more: between
tokens at distance D the losses have a range of at most epsilon min(D, gamma), so that no two tokens of any table lose
more than epsilon gamma. With the paper's gamma = (2 / epsilon) log((1 - beta)(V - 1) / beta), at which a far token is
drawn with probability at most beta, that is 2 log((1 - beta)(V - 1) / beta), whatever epsilon is.

Cost: 2 bytes a token up to 65,536 tokens (4 beyond); V distances for each different token of the prompt.

Of two libraries, both differ from the paper. mldp-text 0.1.2 (mechanisms.py, line 305) gives the
one element the score -gamma + 2 log(V / near) / epsilon in place of the number of far tokens, which breaks the claim,
and rounds gamma to a tenth (line 299). pypantera 1.0.2 (tem.py, lines 80 and 125) keeps vectors in place of the far
words; choosing one of them raises, and the word itself is sent in clear.
"""

import math
from dataclasses import dataclass

from defenses.base import Assets
from defenses.errors import UserError
from defenses.replacement_laws import DistanceLaw, Support, check_epsilon, whole_vocabulary


@dataclass(frozen=True)
class TemConfig:
    """How much noise, and how far it reaches.

    Attributes:
        epsilon: Per unit of Euclidean distance between embeddings, above 0; infinity sends the prompt itself.
        gamma: The distance beyond which all tokens are alike, finite and at least 0; None takes the paper's.
        beta: Then, the largest probability of a token farther than that, in (0, 0.5].
    """

    epsilon: float = 10.0
    gamma: float | None = None
    beta: float = 0.001

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon, "tem")
        if self.gamma is not None and not 0 <= self.gamma < math.inf:
            raise UserError(f"tem: gamma must be finite and not negative, not {self.gamma}; without a bound: santext")
        if not 0 < self.beta <= 0.5:
            raise UserError(f"tem: beta must be above 0 and at most 0.5, not {self.beta}")


class Tem(DistanceLaw[TemConfig]):
    """Token ids drawn by their truncated distance."""

    name = "tem"
    Config = TemConfig
    privacy_parameter = "epsilon"
    source = "Carvalho et al. 2023"

    def __init__(self, config: TemConfig, assets: Assets) -> None:
        super().__init__(config, assets)
        gamma = config.gamma
        if gamma is None:
            odds = (1 - config.beta) / config.beta
            gamma = 2 / config.epsilon * max(0.0, math.log(odds * max(1, assets.vocabulary - 1)))
        self.reach = gamma

    @property
    def support(self) -> Support:
        """All tokens."""
        return whole_vocabulary(self.assets)


DEFENSE = Tem

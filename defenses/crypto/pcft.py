"""PCFT (Liu and Liu 2023, arXiv 2305.18396): operators that private computing finds cheap, and fine-tuning.

- ReLU in place of GELU or SiLU: one comparison and one product.
- (ReLU(x) + e) / sum (ReLU(x) + e) in place of softmax: neither exponential nor maximum.
- Layer norm without the reciprocal square root under encryption: the deviation is a constant that was measured on
  training text and is trained further; centring is linear and costs no message. A constant scale folds into the
  product that follows, in the clear, by the owner of the weights.
"""

from defenses.crypto.system import System

SYSTEMS = (
    System(
        name="pcft",
        title="PCFT",
        softmax="relu",
        activation="relu",
        norm="fixed",
        resending=False,
        source="Liu and Liu 2023 (arXiv 2305.18396), section 4",
        deviations=(
            (
                "linear layers run on the engine's shares like every other system's here; the paper runs them under "
                "homomorphic encryption, so its figures against Iron are not ours"
            ),
            "e is 2^-6, which the fixed-point format holds exactly",
        ),
        published="5 times less computation and 80 % fewer bytes than Iron (NeurIPS 2022)",
    ),
)

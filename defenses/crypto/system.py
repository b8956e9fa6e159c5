"""What a system of encrypted generation is: the operators it computes under encryption, and what it promises to whom.

A system is data alone. It names operators; `defenses.crypto.operators` holds them, and the same definition is trained,
run in the clear as the plaintext twin, and run on an engine.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from defenses.errors import UserError

Softmax = Literal["exact", "2quad", "relu", "constant"]
Activation = Literal["exact", "quad", "relu"]
Norm = Literal["exact", "fixed"]

PROMPT_OWNER = "the generated tokens and the length of the generation; nothing of the weights but what tokens reveal"
PARTY = (
    "a share of the prompt, of the weights and of every value in between; in the clear, the architecture and the "
    "lengths of prompt and generation. A party that deals the multiplication triples, as the first one does under "
    "SEMI2K here, can compute prompt and weights"
)
GUARANTEE = (
    "no differential privacy: the engine's own guarantee, which says against which party it holds; that party learns "
    "nothing of the prompt beyond its length. It never holds against a party that deals the multiplication triples, as "
    "the first one does under SEMI2K here"
)


@dataclass(frozen=True)
class System:
    """One way to generate text under encryption.

    Attributes:
        name: How records and the command line call it.
        title: How tables call it.
        softmax: "exact"; "2quad" (MPCFormer); "relu" (PCFT); or "constant", attention that does not depend on the input
            (MERGE's merge module), so that queries, keys and the softmax vanish.
        activation: "exact" (GELU in a GPT-2 block, SiLU in a Llama block), "quad" (MPCFormer) or "relu" (PCFT).
        norm: "exact" (layer norm or RMS norm, with its reciprocal square root under encryption) or "fixed".
        resending: Whether the last hidden state is the next input embedding (MERGE), so that a step needs neither
            logits, arg max nor the embedding table.
        source: Paper, with sections or equations.
        deviations: Where this system differs from its paper, or the authors' code from their paper.
        published: What the paper reports of its cost, in its own words and setting; empty for the reference.
        guarantee: What is promised, in one line; against which party, `Engine.guarantee` says.
        client_learns: What whoever owns the prompt learns.
        party_learns: What a computing party learns that does not collude, and which party learns all.

    Raises:
        UserError: an operator is not among those named above.
    """

    name: str
    title: str
    softmax: Softmax
    activation: Activation
    norm: Norm
    resending: bool
    source: str
    deviations: tuple[str, ...] = ()
    published: str = ""
    guarantee: str = GUARANTEE
    client_learns: str = PROMPT_OWNER
    party_learns: str = PARTY

    def __post_init__(self) -> None:
        for value, kind, what in (
            (self.softmax, Softmax, "softmax"),
            (self.activation, Activation, "activation"),
            (self.norm, Norm, "norm"),
        ):
            if value not in get_args(kind):
                raise UserError(f"{self.name}: {what} must be one of {', '.join(get_args(kind))}, not {value!r}")

    @property
    def constant_attention(self) -> bool:
        """Whether attention is a weight instead of a function of the input."""
        return self.softmax == "constant"

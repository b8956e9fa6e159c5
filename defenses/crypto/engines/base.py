"""What every engine gives back: the output of a function of secret inputs, and what computing it cost.

Costs are counted over all parties together, except for rounds and seconds, in which parties wait for one another.

One run is one draw. Bytes and rounds are the same for every run of a program under SEMI2K. Under CHEETAH triples are
made in batches of many and kept, so that a run pays for what the runs after it use, or nothing. Under ABY3 rounds
depend on which message comes first. Figures for these are means over runs; see `audit.crypto_costs`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class OperatorCost:
    """What one kind of operator cost in one run.

    Attributes:
        name: The engine's own name, for example "pphlo.dot_general".
        calls: How often it ran.
        seconds: Wall-clock time of the first party, operators that it calls included.
        bytes: Bytes that all parties sent.
        rounds: How often the first party had to wait for a message.
    """

    name: str
    calls: int
    seconds: float
    bytes: int
    rounds: int


@dataclass(frozen=True)
class Outcome:
    """One run of a function on secret inputs.

    Attributes:
        output: What the function returned, revealed: a tree of numpy arrays.
        seconds: Wall-clock time from the shared inputs to the shared outputs; compiling is not in it.
        bytes: Bytes that all parties sent, inputs and revealed outputs not in it.
        rounds: How often the first party had to wait for a message.
        operators: The same by operator, dearest in seconds first.
    """

    output: Any
    seconds: float
    bytes: int
    rounds: int
    operators: tuple[OperatorCost, ...]


class Engine(Protocol):
    """Runs a function on inputs that no party may see.

    Attributes:
        name: How records call it, for example "spu-semi2k-2pc".
        parties: How many parties compute.
        guarantee: What is promised to whom, in one line, for example "computational, against one honest-but-curious
            party of two".
        precision: The largest absolute error of one product of numbers below 1 in absolute value that the engine
            states for its number format.
    """

    name: str
    parties: int
    guarantee: str
    precision: float

    def run(self, function: Callable[..., Any], *secrets: Any) -> Outcome:
        """Share the inputs, compute, reveal the output to its owner.

        Args:
            function: What to compute; for SPU a function that JAX can trace.
            secrets: Trees of arrays, all of them secret.
        """
        ...

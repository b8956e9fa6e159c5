"""Does an encrypted model compute what its plaintext twin computes? Next tokens, logits, and what error to expect.

An engine states the precision of one product. What that leaves of a logit, and of every operator at the inputs that it
has in the model, is simulated in the clear (`defenses.crypto.fixed_point`), without a look at what the engine computed.
Logits or operators that are off by more were lost to something else: an overflow, a range that an approximation does
not cover, or a wrong program.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from defenses.crypto.corpus import Int32
from defenses.crypto.engines.base import Engine
from defenses.crypto.fixed_point import Simulation
from defenses.crypto.language_models import LanguageModel
from defenses.crypto.model import Parameters, forward, hidden_states, logits_of, resend
from defenses.crypto.operators import Norm, Operators, operators_for

Float = NDArray[np.float32]

MARGIN = 2.0
"""How far beyond the worst simulated error an encrypted run may be.

Roundings of a protocol are not the uniform ones of the simulation, and a run is one draw beside a few. An overflow is
off by orders of magnitude.
"""


@dataclass(frozen=True)
class OperatorError:
    """One operator alone on an engine, at the inputs that it has in a model.

    Attributes:
        name: Which one, in the order of the run, for example "softmax 2".
        error: Largest absolute error of its output on the engine.
        expected: The largest that the engine's stated precision explains: `MARGIN` times the worst simulated one.
    """

    name: str
    error: float
    expected: float

    @property
    def explained(self) -> bool:
        """Whether the engine computes it within its stated precision."""
        return self.error <= self.expected


@dataclass(frozen=True)
class Agreement:
    """An encrypted model beside its plaintext twin.

    Attributes:
        positions: Positions compared.
        same: Positions with the same most probable token, window by window.
        largest: Largest absolute error of a logit.
        mean: Mean absolute error of the logits.
        expected: The largest error that the engine's stated precision explains: `MARGIN` times the worst simulated one.
        seconds: Of all encrypted runs of the model together.
        refused: Operators that the engine computes less precisely than it states, each with its figures.
    """

    positions: int
    same: tuple[int, ...]
    largest: float
    mean: float
    expected: float
    seconds: float
    refused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("same", "refused"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list, where it was read from JSON

    @property
    def share(self) -> float:
        """Agreement on the next token, between 0 and 1."""
        return sum(self.same) / self.positions

    @property
    def explained(self) -> bool:
        """Whether logits and operators are as close as the engine's stated precision says."""
        return self.largest <= self.expected and not self.refused


def measure_agreement(engine: Engine, model: LanguageModel, windows: Int32, *, seed: int = 0) -> Agreement:
    """Run windows of text through a model under encryption and in the clear, and its operators on the first window.

    Args:
        engine: Where to run.
        model: A trained model.
        windows: Token ids, (N, L); N L positions are compared.
        seed: Of the simulated errors.
    """
    prepared, rng = model.prepared, np.random.default_rng(seed)

    def program(weights: Parameters, embeddings: jax.Array) -> jax.Array:
        return forward(weights, embeddings, model.config, model.system)[0]

    same, errors, expected, seconds = [], [], 0.0, 0.0
    inputs = [np.asarray(prepared["embedding"][window]) for window in windows]
    for embeddings in tqdm(inputs, f"{model.system.name} on {engine.name}"):
        simulation = Simulation(program, (prepared, embeddings), engine.precision)
        outcome = engine.run(program, prepared, embeddings)
        same.append(int((outcome.output.argmax(axis=-1) == simulation.exact[0].argmax(axis=-1)).sum()))
        errors.append(np.abs(outcome.output - simulation.exact[0]))
        expected = float(np.maximum(expected, MARGIN * simulation.error(rng)))
        seconds += outcome.seconds
    every = np.concatenate(errors)
    refused = tuple(
        f"{one.name}: off by {one.error:.2g}, {one.expected:.2g} is explained"
        for one in operator_errors(engine, model, inputs[0], rng)
        if not one.explained
    )
    return Agreement(windows.size, tuple(same), float(every.max()), float(every.mean()), expected, seconds, refused)


def operator_errors(
    engine: Engine, model: LanguageModel, embeddings: Float, rng: np.random.Generator
) -> list[OperatorError]:
    """The error of every operator, each run alone on the engine, beside the one that the stated precision explains.

    Args:
        engine: Where to run.
        model: A trained model.
        embeddings: Input embeddings, (L, d), from which the operators' inputs follow.
        rng: Of the simulated errors.

    Returns:
        Norms, softmaxes and activations in the order of the run, then the product with the table and, where embeddings
        are resent, what resends.
    """
    found = []
    for name, operator, inputs in tqdm(_recorded(model, embeddings), f"operators of {model.system.name}"):
        simulation = Simulation(operator, inputs, engine.precision)
        error = simulation.distance(engine.run(operator, *inputs).output)
        found.append(OperatorError(name, error, MARGIN * simulation.error(rng)))
    return found


_Call = tuple[str, Callable[..., Any], tuple[Any, ...]]


def _recorded(model: LanguageModel, embeddings: Float) -> list[_Call]:
    """Every operator of a run in the clear: its name, itself and its inputs."""
    calls: list[_Call] = []

    def keep(kind: str, operator: Callable[..., jax.Array], *inputs: Any) -> jax.Array:
        number = 1 + sum(name.startswith(kind) for name, *_ in calls)
        calls.append((f"{kind} {number}", operator, jax.tree_util.tree_map(np.asarray, inputs)))
        return operator(*inputs)

    prepared = model.prepared
    last = hidden_states(prepared, jnp.asarray(embeddings), model.config, _watched(model, keep))[-1]
    keep("logits", logits_of, {"embedding": prepared["embedding"]}, last)
    if model.system.resending:
        keep("resending", resend, {"resend": prepared["resend"]}, last)
    return calls


def _watched(model: LanguageModel, call: Callable[..., jax.Array]) -> Operators:
    """The model's operators, every use of which goes through `call`(kind, operator, inputs...)."""
    own = operators_for(model.system, model.config.block)

    def softmax(scores: jax.Array, mask: Any) -> jax.Array:
        return call("softmax", _masked(own, np.asarray(mask)), scores)

    def norm(x: jax.Array, parameters: Norm) -> jax.Array:
        return call("norm", own.norm, x, parameters)

    def activation(x: jax.Array) -> jax.Array:
        return call("activation", own.activation, x)

    return Operators(softmax if own.softmax is not None else None, activation, norm)


def _masked(own: Operators, mask: Float) -> Callable[[jax.Array], jax.Array]:
    """A softmax with its public mask inside it."""
    return lambda scores: own.attend(scores, mask)

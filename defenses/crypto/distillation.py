"""How each system's model is trained from the exact one: its stages, their losses and where they start.

- vanilla: language modelling from random weights; the exact model, which every other one starts from.
- mpcformer: hidden states and embeddings layer by layer, then predictions (Li et al. 2023, section 3.2).
- pcft: fine-tuning (Liu and Liu 2023).
- merge, merge-er, merge-mm: fine-tuning, then distillation with the alignment that resending needs (Liang et al. 2023).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from defenses.crypto.conversion import convert, with_resending
from defenses.crypto.corpus import TokenWindows, spread
from defenses.crypto.model import ModelConfig, Parameters, hidden_states, init, logits_of, prepare, resend
from defenses.crypto.operators import operators_for
from defenses.crypto.system import System
from defenses.crypto.systems import REFERENCE, SYSTEMS
from defenses.crypto.training import Loss, Schedule, flatten, train
from defenses.errors import UserError

CALIBRATION_WINDOWS = 64
NOISE = 0.5
"""Half-width of the uniform noise on input embeddings, in their root mean squares, while resending is distilled."""

ALIGNMENT = 0.5
"""Weight of the alignment of resent states beside the two cross-entropies."""


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: "language modelling", "fine-tuning", "hidden states", "predictions" or "distillation".
        schedule: How to step.
    """

    name: str
    schedule: Schedule


def _stages(*named: tuple[str, int, float]) -> tuple[Stage, ...]:
    return tuple(Stage(name, Schedule(steps, rate, warmup=100 if rate > 2e-3 else 25)) for name, steps, rate in named)


STAGES: Mapping[str, tuple[Stage, ...]] = {
    "vanilla": _stages(("language modelling", 2500, 4e-3)),
    "mpcformer": _stages(("hidden states", 350, 1e-3), ("predictions", 450, 1e-3)),
    "pcft": _stages(("fine-tuning", 600, 1.5e-3)),
    "merge-er": _stages(("distillation", 600, 1e-3)),
    "merge-mm": _stages(("fine-tuning", 1200, 3e-3), ("distillation", 500, 1.5e-3)),
    "merge": _stages(("fine-tuning", 1200, 3e-3), ("distillation", 700, 1.5e-3)),
}
"""What is done for each system.

The exact model is the fine-tuned model that ER alone is distilled from. With the merge module fine-tuning is the same
whether embeddings are resent or not, and is done once for both.
"""


def train_system(
    system: System,
    config: ModelConfig,
    data: TokenWindows,
    work: Path,
    *,
    tokenizer_sha256: str,
    exact: Parameters | None = None,
    stages: tuple[Stage, ...] | None = None,
    seed: int = 0,
) -> tuple[Parameters, dict[str, list[float]]]:
    """Train one system's model.

    Args:
        system: What is trained.
        config: The model's shape.
        data: Training windows.
        work: Folder of the checkpoints; a run that was broken off goes on from there. A checkpoint is of this run only
            if system, shape, text, schedule, seed, teacher and the weights that its stage starts from are the same.
        tokenizer_sha256: Of the tokenizer, so that no checkpoint of another one is resumed.
        exact: The exact model; needed for every system but the reference.
        stages: What to do; None takes `STAGES`.
        seed: Of the first weights.

    Returns:
        The weights, and for each stage the losses of the steps that this call took.

    Raises:
        UserError: the exact model is missing, or a checkpoint is of another run.
    """
    if system.name != REFERENCE and exact is None:
        raise UserError(f"{system.name} is trained from the exact model: train {REFERENCE} first")
    calibration = spread(data, CALIBRATION_WINDOWS).tokens[:, :-1]
    if exact is None:
        parameters = init(jax.random.PRNGKey(seed), config, system)
    else:
        parameters = convert(exact, system, config, calibration)
    losses = {}
    for stage in stages or STAGES[system.name]:
        resent = stage.name == "distillation" and system.resending
        if resent:
            parameters = with_resending(parameters, system, config, calibration)
        kind = system.name if stage.name == "distillation" else f"{system.softmax}-{system.activation}-{system.norm}"
        identity = {
            "system": kind,
            "stage": stage.name,
            "config": asdict(config),
            "tokenizer": tokenizer_sha256,
            "start": fingerprint(parameters),
            "teacher": None if exact is None else fingerprint(exact),
            "seed": seed,
            "noise": NOISE if resent else None,
            "alignment": ALIGNMENT if resent else None,
        }
        place = work / f"{kind}.{stage.name.replace(' ', '-')}.safetensors"
        loss = loss_of(stage.name, system, config, exact)
        parameters, losses[stage.name] = train(
            parameters,
            loss,
            data,
            stage.schedule,
            checkpoint=place,
            identity=identity,
            label=f"{system.name}, {stage.name}",
        )
    return parameters, losses


def fingerprint(parameters: Parameters) -> str:
    """A short hash of all weights."""
    state = hashlib.sha256()
    for name, array in sorted(flatten(parameters).items()):
        state.update(name.encode() + np.ascontiguousarray(array, dtype=np.float32).tobytes())
    return state.hexdigest()[:16]


def loss_of(stage: str, system: System, config: ModelConfig, exact: Parameters | None) -> Loss:
    """The loss of one stage: a mean over windows and positions.

    Args:
        stage: Its name.
        system: What is trained.
        config: The model's shape.
        exact: The teacher; stages without one leave it.

    Raises:
        UserError: there is no such stage, or it needs a teacher.
    """
    if stage in ("language modelling", "fine-tuning"):
        return _over_windows(lambda run, _, targets, __: _cross_entropy(run.logits, targets), system, config, None)
    losses: dict[str, _WindowLoss] = {
        "hidden states": lambda student, teacher, *_: _hidden_distance(student, teacher),
        "predictions": lambda student, teacher, *_: _soft_cross_entropy(student.logits, teacher.logits),
        "distillation": lambda student, teacher, targets, table: (
            _cross_entropy(student.logits, targets)
            + _soft_cross_entropy(student.logits, teacher.logits)
            + (ALIGNMENT * _misalignment(student, targets, table) if system.resending else 0.0)
        ),
    }
    if stage not in losses or exact is None:
        raise UserError(f"no stage {stage!r} of {system.name} without a teacher; stages are {', '.join(losses)}")
    return _over_windows(losses[stage], system, config, exact)


@dataclass(frozen=True)
class _Run:
    """One window through a model: embeddings (T, d), hidden states of every block and the norm, logits (T, V)."""

    embeddings: jax.Array
    states: list[jax.Array]
    logits: jax.Array
    resent: jax.Array | None


_WindowLoss = Callable[[_Run, _Run, jax.Array, jax.Array], jax.Array]
"""(student, teacher, targets (T,), the student's table (V, d)) -> a scalar."""


def _over_windows(loss: _WindowLoss, system: System, config: ModelConfig, exact: Parameters | None) -> Loss:
    teacher_system = SYSTEMS[REFERENCE]
    teacher = None if exact is None else prepare(exact, teacher_system)

    def batch_loss(parameters: Parameters, tokens: jax.Array, key: jax.Array) -> jax.Array:
        student = prepare(parameters, system)
        table = parameters["embedding"]
        disturbed = system.resending and teacher is not None
        width = NOISE * jax.lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.square(table))))

        def one(window: jax.Array, key: jax.Array) -> jax.Array:
            inputs, targets = window[:-1], window[1:]
            embeddings = table[inputs]
            if disturbed:
                embeddings = embeddings + width * jax.random.uniform(key, embeddings.shape, minval=-1.0)
            ours = _run(student, embeddings, system, config)
            theirs = ours if teacher is None else _run(teacher, teacher["embedding"][inputs], teacher_system, config)
            return loss(ours, theirs, targets, table)

        return jnp.mean(jax.vmap(one)(tokens, jax.random.split(key, tokens.shape[0])))

    return batch_loss


def _run(prepared: Parameters, embeddings: jax.Array, system: System, config: ModelConfig) -> _Run:
    states = hidden_states(prepared, embeddings, config, operators_for(system, config.block))
    resent = resend(prepared, states[-1]) if "resend" in prepared else None
    return _Run(embeddings, states, logits_of(prepared, states[-1]), resent)


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))


def _soft_cross_entropy(logits: jax.Array, teacher: jax.Array) -> jax.Array:
    """KL(teacher || student) up to the teacher's own entropy (Hinton et al. 2015, temperature 1)."""
    return jnp.mean(optax.softmax_cross_entropy(logits, jax.nn.softmax(teacher)))


def _hidden_distance(student: _Run, teacher: _Run) -> jax.Array:
    """Mean squared distance of embeddings and of every hidden state, each in units of the teacher's mean square."""
    pairs = zip([student.embeddings, *student.states], [teacher.embeddings, *teacher.states], strict=True)
    return jnp.mean(jnp.stack([jnp.mean(jnp.square(a - b)) / jnp.mean(jnp.square(b)) for a, b in pairs]))


def _misalignment(student: _Run, targets: jax.Array, table: jax.Array) -> jax.Array:
    """How far resent states are from the next token's embedding, in units of the table's mean square.

    The table is held still, or it would shrink to meet the hidden states.
    """
    still = jax.lax.stop_gradient(table)
    return jnp.mean(jnp.square(student.resent - still[targets])) / jnp.mean(jnp.square(still))

"""The training loop, the conversion from the exact model, and every stage's loss."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defenses.crypto.extra import INSTALL
from defenses.errors import UserError

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

import jax

from defenses.crypto.conversion import convert, with_resending
from defenses.crypto.corpus import TokenWindows
from defenses.crypto.distillation import STAGES, Stage, loss_of, train_system
from defenses.crypto.model import ModelConfig, forward, hidden_states, init, prepare, resend
from defenses.crypto.operators import operators_for
from defenses.crypto.system import System
from defenses.crypto.systems import SYSTEMS
from defenses.crypto.training import Schedule, flatten, train, unflatten

CONFIG = ModelConfig(1, 16, 2, 2, 24, 12, 8, "gpt2")
VANILLA = SYSTEMS["vanilla"]


@pytest.fixture(autouse=True, scope="module")
def quick_compiling() -> Iterator[None]:
    """Models this small compile for longer than they run."""
    jax.config.update("jax_disable_most_optimizations", val=True)
    yield
    jax.config.update("jax_disable_most_optimizations", val=False)


@pytest.fixture(scope="module")
def data() -> TokenWindows:
    """Windows that count upwards modulo 12, (40, 9): the next token is certain."""
    tokens = ((np.arange(40)[:, None] + np.arange(9)) % 12).astype(np.int32)
    return TokenWindows(tokens, np.zeros(40, np.int32), np.arange(40), ({},))


def start(system: System = VANILLA) -> Any:
    """Random weights."""
    return init(jax.random.PRNGKey(0), CONFIG, system)


@pytest.fixture(scope="module")
def exact(data: TokenWindows) -> Any:
    """An exact model that can count."""
    loss = loss_of("language modelling", VANILLA, CONFIG, None)
    return train(start(), loss, data, Schedule(150, 2e-2, warmup=5, batch=8))[0]


def same(first: Any, second: Any) -> None:
    """Equal trees."""
    for name, array in flatten(first).items():
        np.testing.assert_array_equal(array, flatten(second)[name])


def test_a_model_learns_what_can_be_learned(data: TokenWindows, exact: Any) -> None:
    """If this failed, gradients would not reach the weights, or targets would not be the next tokens."""
    logits, _ = forward(prepare(exact, VANILLA), exact["embedding"][data.tokens[0, :-1]], CONFIG, VANILLA)
    assert np.argmax(logits, axis=-1).tolist() == data.tokens[0, 1:].tolist()


def test_a_resumed_run_takes_the_steps_of_an_undisturbed_one(data: TokenWindows, tmp_path: Path) -> None:
    """If this failed, a run that was killed would restart AdamW's moments or repeat steps, and end in other weights."""
    loss = loss_of("language modelling", VANILLA, CONFIG, None)
    schedule = Schedule(6, 1e-2, warmup=2, batch=4, checkpoint_every=4)
    place = tmp_path / "run.safetensors"
    calls = 0

    class KilledError(Exception):
        """The process ends here."""

    def until_five(size: int, rng: np.random.Generator) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KilledError
        return TokenWindows.batch(data, size, rng)

    interrupted = replace(data)
    object.__setattr__(interrupted, "batch", until_five)
    with pytest.raises(KilledError):
        train(start(), loss, interrupted, schedule, checkpoint=place)
    resumed, rest = train(start(), loss, data, schedule, checkpoint=place)
    assert len(rest) == 2
    same(train(start(), loss, data, schedule)[0], resumed)


def test_foreign_and_damaged_checkpoints_are_refused(data: TokenWindows, tmp_path: Path) -> None:
    """If this failed, weights of another model or schedule would be trained on under this one's name."""
    loss = loss_of("language modelling", VANILLA, CONFIG, None)
    place = tmp_path / "run.safetensors"
    train(start(), loss, data, Schedule(2, batch=4), checkpoint=place, identity={"system": "vanilla"})
    with pytest.raises(UserError, match="of another run"):
        train(start(), loss, data, Schedule(2, batch=4), checkpoint=place, identity={"system": "pcft"})
    place.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        train(start(), loss, data, Schedule(2, batch=4), checkpoint=place, identity={"system": "vanilla"})


def test_a_loss_that_is_no_number_stops_the_run(data: TokenWindows) -> None:
    """If this failed, a diverged model would be trained to the end and shipped."""
    with pytest.raises(UserError, match="loss is nan at step 0: lower the learning rate"):
        train(start(), lambda *_: jax.numpy.nan * 1.0, data, Schedule(2, batch=4))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": 0.0}, {"batch": 0}, {"weight_decay": -1.0}])
def test_schedules_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    """If this failed, a schedule would fail, or do nothing, after its model was built."""
    with pytest.raises(UserError):
        Schedule(**{"steps": 3, **wrong})


def test_trees_come_back_from_names() -> None:
    """If this failed, weights would be read into the wrong places."""
    tree = {"a": np.ones(2), "b": [np.zeros((1, 3)), {"c": np.full(2, 5.0)}]}
    assert list(flatten(tree)) == ["a", "b.0", "b.1.c"]
    same(tree, unflatten(tree, flatten(tree)))
    with pytest.raises(ValueError, match="has shape"):
        unflatten(tree, {**flatten(tree), "a": np.ones(3)})
    with pytest.raises(KeyError):
        unflatten(tree, {"a": np.ones(2)})


def test_converted_attention_is_exact_where_attention_was_constant(exact: Any) -> None:
    """If this failed, the merge module would start from another model than the exact one."""
    attention = exact["blocks"][0]["attention"]
    blind = attention["qkv"].at[:, : 2 * CONFIG.hidden].set(0.0)  # queries and keys: every score is 0
    bias = attention["qkv_bias"].at[: 2 * CONFIG.hidden].set(0.0)
    block = {**exact["blocks"][0], "attention": {**attention, "qkv": blind, "qkv_bias": bias}}
    uniform = {**exact, "blocks": [block]}
    system = replace(SYSTEMS["merge-mm"], activation="exact", norm="exact")
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8) % 12
    merged = convert(uniform, system, CONFIG, tokens)
    expected, _ = forward(prepare(uniform, VANILLA), exact["embedding"][tokens[0]], CONFIG, VANILLA)
    found, _ = forward(prepare(merged, system), exact["embedding"][tokens[0]], CONFIG, system)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_constant_norms_start_at_the_exact_ones_size(exact: Any) -> None:
    """If this failed, PCFT's fine-tuning would start from a residual stream of another size."""
    tokens = (np.arange(24, dtype=np.int32).reshape(3, 8) * 5) % 12
    system = replace(SYSTEMS["pcft"], softmax="exact", activation="exact")
    fixed = convert(exact, system, CONFIG, tokens)
    ours = hidden_states(prepare(fixed, system), exact["embedding"][tokens[0]], CONFIG, operators_for(system, "gpt2"))
    theirs = hidden_states(
        prepare(exact, VANILLA), exact["embedding"][tokens[0]], CONFIG, operators_for(VANILLA, "gpt2")
    )
    assert np.asarray(ours[-1]).std() == pytest.approx(np.asarray(theirs[-1]).std(), rel=0.3)


def test_resent_states_start_in_the_size_of_embeddings(exact: Any) -> None:
    """If this failed, the first resent state would drown, or vanish beside, the true embeddings before it."""
    system = SYSTEMS["merge-er"]
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8) % 12
    found = with_resending(convert(exact, system, CONFIG, tokens), system, CONFIG, tokens)
    prepared = prepare(found, system)
    _, hidden = forward(prepared, prepared["embedding"][tokens[0]], CONFIG, system)
    resent = np.asarray(resend(prepared, hidden))
    assert resent.std() == pytest.approx(np.asarray(exact["embedding"]).std(), rel=0.3)


def test_hidden_states_reach_the_teachers(data: TokenWindows, exact: Any) -> None:
    """If this failed, MPCFormer's first stage would leave its student where it was."""
    system = SYSTEMS["mpcformer"]
    loss = loss_of("hidden states", system, CONFIG, exact)
    _, course = train(start(system), loss, data, Schedule(60, 1e-2, warmup=2, batch=8))
    assert course[-1] < course[0] / 2


@pytest.mark.parametrize("name", ["mpcformer", "merge"])
def test_every_stage_lowers_its_loss(name: str, data: TokenWindows, exact: Any, tmp_path: Path) -> None:
    """If this failed, a stage would train nothing, or stages would not hand their weights on."""
    named = [stage.name for stage in STAGES[name] if stage.name != "hidden states"]
    stages = tuple(Stage(stage, Schedule(30, 5e-3, warmup=2, batch=8)) for stage in named)
    _, losses = train_system(SYSTEMS[name], CONFIG, data, tmp_path, tokenizer_sha256="", exact=exact, stages=stages)
    assert list(losses) == named
    for course in losses.values():
        assert np.mean(course[-5:]) < np.mean(course[:5])


def test_fine_tuning_of_the_merge_module_is_shared(data: TokenWindows, exact: Any, tmp_path: Path) -> None:
    """If this failed, MERGE and its merge module alone would differ by more than resending."""
    stages = (Stage("fine-tuning", Schedule(3, batch=4)),)
    for name, steps in (("merge-mm", 3), ("merge", 0)):
        _, losses = train_system(SYSTEMS[name], CONFIG, data, tmp_path, tokenizer_sha256="", exact=exact, stages=stages)
        assert len(losses["fine-tuning"]) == steps


def distilled(data: TokenWindows, exact: Any, work: Path, **options: Any) -> list[float]:
    """The losses of MERGE's distillation, of three steps, behind a fine-tuning of so many."""
    tuned = Stage("fine-tuning", Schedule(options.pop("tuned", 2), batch=4))
    stages = (tuned, Stage("distillation", Schedule(3, batch=4)))
    found = train_system(
        SYSTEMS["merge"], CONFIG, data, work, tokenizer_sha256="", exact=exact, stages=stages, **options
    )
    return found[1]["distillation"]


def test_a_stage_is_resumed_only_with_its_own_loss_and_start(
    data: TokenWindows, exact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, weights of other noise, alignment or fine-tuning would be shipped as this run's."""
    foreign = r"merge\.distillation\.safetensors is the checkpoint of another run"
    assert len(distilled(data, exact, tmp_path)) == 3
    assert distilled(data, exact, tmp_path) == []  # what is finished is not trained again
    for constant in ("NOISE", "ALIGNMENT"):
        with monkeypatch.context() as changed:
            changed.setattr(f"defenses.crypto.distillation.{constant}", 0.25)
            with pytest.raises(UserError, match=foreign):
                distilled(data, exact, tmp_path)
    next(tmp_path.glob("*.fine-tuning.safetensors")).unlink()
    with pytest.raises(UserError, match=foreign):
        distilled(data, exact, tmp_path, tuned=4)


@pytest.mark.parametrize("name", ["vanilla", "pcft"])
def test_another_seed_is_another_run(name: str, data: TokenWindows, exact: Any, tmp_path: Path) -> None:
    """If this failed, a second seed would give the first one's model again, and their spread be 0."""
    stages = (Stage("language modelling" if name == "vanilla" else "fine-tuning", Schedule(2, batch=4)),)
    teacher = None if name == "vanilla" else exact
    for seed, refused in ((0, False), (0, False), (1, True)):
        with pytest.raises(UserError, match="of another run") if refused else nullcontext():
            train_system(
                SYSTEMS[name], CONFIG, data, tmp_path, tokenizer_sha256="", exact=teacher, stages=stages, seed=seed
            )


def test_systems_need_the_exact_model(data: TokenWindows, tmp_path: Path) -> None:
    """If this failed, a peer would be trained from random weights and called a distilled one."""
    with pytest.raises(UserError, match="train vanilla first"):
        train_system(SYSTEMS["pcft"], CONFIG, data, tmp_path, tokenizer_sha256="")
    with pytest.raises(UserError, match="no stage 'distillation' of merge without a teacher"):
        loss_of("distillation", SYSTEMS["merge"], CONFIG, None)

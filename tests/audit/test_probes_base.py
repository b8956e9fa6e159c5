"""Inputs and draws; whatever a mechanism does wrong is one clear error and never a score."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from audit.bounds import AnyFamily, EvidenceError
from audit.probes import DefenseTarget, Draws, Inputs, Target, collect, corner_assets
from audit.probes.base import Bar, Layout
from defenses.base import Assets, Float32, Tokens, View
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.errors import UserError
from defenses.pipeline.defense import Del, DelConfig

PAIR = (np.array([0]), np.array([1]))


class Odd(Identity):
    """The identity, with `protect` or `restore` replaced."""

    def __init__(
        self,
        protect: Callable[[Tokens, np.random.Generator], Any] | None = None,
        restore: Callable[[View], Any] | None = None,
    ) -> None:
        super().__init__(IdentityConfig(), Assets(np.eye(4, dtype=np.float32)))
        self._odd_protect, self._odd_restore = protect, restore

    def protect(self, tokens: Tokens, rng: np.random.Generator) -> View:
        """What the test asks for."""
        return super().protect(tokens, rng) if self._odd_protect is None else self._odd_protect(tokens, rng)

    def restore(self, view: View) -> Float32:
        """What the test asks for."""
        return super().restore(view) if self._odd_restore is None else self._odd_restore(view)


def probe(defense: Any) -> Any:
    """A short probe."""
    rng = np.random.default_rng(0)
    return collect(defense, PAIR, 32, rng, family=AnyFamily(0.0), train=32, progress=False)


def _raises(tokens: Tokens, rng: np.random.Generator) -> View:
    raise RuntimeError("no coins left")


def _nan(tokens: Tokens, rng: np.random.Generator) -> View:
    return View(np.full((*tokens.shape, 4), np.nan, dtype="<f4").tobytes(), (tokens.shape[0], tokens.shape[1]))


@pytest.mark.parametrize(
    ("defense", "text"),
    [
        (Odd(_raises), "protect raised RuntimeError: no coins left"),
        (Odd(_nan), "restores to NaN"),
        (Odd(lambda tokens, rng: b"bytes"), "gave bytes, not a View"),
        (Odd(lambda tokens, rng: View("text", tokens.shape)), "gave str, not a View"),  # type: ignore[arg-type]
        (Odd(lambda tokens, rng: View(b"", (1, 7))), r"shape \(1, 7\) for tokens"),
        (Odd(restore=lambda view: np.zeros((1, 1, 3))), r"restores \(1, 1, 3\)"),
        (Odd(restore=lambda view: {}[view]), "restore raised"),
    ],
)
def test_a_malformed_mechanism_is_one_line(defense: Odd, text: str) -> None:
    """Raising, NaN, a wrong type and a wrong shape are an EvidenceError that names the defence, on one line."""
    with pytest.raises(EvidenceError, match=text) as caught:
        probe(defense)
    assert "the defence identity" in str(caught.value)
    assert "\n" not in str(caught.value)


class Lopsided(Target):
    """Gives fewer draws of one input."""

    name = "a lopsided mechanism"

    def sample(
        self, inputs: Inputs, count: int, rng: np.random.Generator, mode: str, bar: Bar | None = None
    ) -> tuple[Draws, Draws]:
        """One draw too few under the second input."""
        return tuple(Draws.of([[b"x"]] * size, 1) for size in (count, count - 1))  # type: ignore[return-value]

    def body_length(self, prompt: Tokens, rng: np.random.Generator) -> int:
        """Always one byte."""
        return 1


def test_unequal_counts_are_one_line() -> None:
    """A target that gives fewer draws of one input is refused by name."""
    with pytest.raises(EvidenceError, match=r"a lopsided mechanism gave \d+ and \d+ draws"):
        probe(Lopsided())


def test_an_unknown_token_is_an_evidence_error() -> None:
    """A token outside of the vocabulary is said in one line, not in an index error."""
    defense = Del(DelConfig(), corner_assets(4))
    with pytest.raises(EvidenceError, match="outside the vocabulary of 64"):
        collect(defense, (np.array([0]), np.array([64])), 32, np.random.default_rng(0), family=AnyFamily(0.0))


def test_inputs_say_what_differs() -> None:
    """Uses are the tokens that differ, over all requests; cells say where."""
    inputs = Inputs(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 2, 9], [4, 8, 6]]))
    assert inputs.uses == 2
    assert inputs.cells.tolist() == [[0, 2], [1, 1]]
    assert "3 or 9 at request 1, position 3" in str(inputs)


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [([1], [1], 1.0), ([1], [1, 2], 1.0), ([1], [2], 0.0), ([1], [2], np.nan), ([[[1]]], [[[2]]], 1.0)],
)
def test_inputs_must_be_two_different_prompts(first: Any, second: Any, distance: float) -> None:
    """Equal inputs, other shapes and odd distances are refused."""
    with pytest.raises(ValueError, match=r"inputs|distance"):
        Inputs(np.array(first), np.array(second), distance=distance)


def test_draws_keep_bodies_of_any_length() -> None:
    """Bodies of different lengths come back byte for byte, joined or cut."""
    one, other = Draws.of([[b"ab", b""], [b"c", b"defg"]], 1), Draws.of([[b"hijklm", b"n"]], 1, [0.5])
    both = Draws.joined([one, other])
    assert both.count == 3
    assert [both.body(2, 0), both.body(1, 1), both.body(0, 1)] == [b"hijklm", b"defg", b""]
    assert both.seconds is None
    assert both.part(1, 2).widened(2).bodies.shape == (1, 2, 2)


def test_batches_and_single_calls_give_the_same_law() -> None:
    """Means of both modes agree within six standard errors (2e-9 each of 16 coordinates), and neither repeats rows."""
    defense = Del(DelConfig(n=4, mu=1.0), corner_assets(16))
    target, inputs = DefenseTarget(defense, batch=50), Inputs(*PAIR)
    counts = []
    for mode in target.modes:
        draws, _ = target.sample(inputs, 400, np.random.default_rng(1), mode)
        assert draws.bodies.shape == (400, 1, 32 + 8)
        assert len(np.unique(draws.bodies.reshape(400, -1), axis=0)) == 400
        view = View(draws.bodies.tobytes(), (400, 1))
        counts.append(defense.counts(view)[:, 0].astype(float))
    error = np.sqrt((counts[0].var(axis=0) + counts[1].var(axis=0)) / 400)
    assert (np.abs(counts[0].mean(axis=0) - counts[1].mean(axis=0)) < 6 * error).all()


def test_bodies_of_varying_length_are_never_cut_in_the_wrong_place() -> None:
    """A defence whose bodies vary in length is drawn one by one, though a batch's bytes might divide evenly."""

    def protect(tokens: Tokens, rng: np.random.Generator) -> View:
        bodies = [b"<" + b"x" * int(rng.integers(1, 3)) + b">" for _ in tokens]
        return View(b"".join(bodies), (tokens.shape[0], tokens.shape[1]))

    target = DefenseTarget(Odd(protect))
    for side in target.sample(Inputs(*PAIR), 100, np.random.default_rng(2), "batched"):
        assert {side.body(i, 0) for i in range(100)} == {b"<x>", b"<xx>"}


def test_the_layout_is_read_off_the_lengths() -> None:
    """DEL's header of 32 bytes and its n d bits a token are found from the lengths of two prompts."""
    target = DefenseTarget(Del(DelConfig(n=3, mu=1.0), corner_assets(7)))
    assert target.layout(0, np.random.default_rng(0)) == Layout(32, 21)
    fixed = DefenseTarget(Odd(lambda tokens, rng: View(b"0" * 8 * len(tokens), tokens.shape)))
    assert fixed.layout(0, np.random.default_rng(0)) is None


def test_corner_assets_hold_the_worst_case() -> None:
    """Tokens 0 and 1, and the last two, are opposite corners of the latent cube; bad sizes are refused."""
    assets = corner_assets(8)
    latents = assets.needed_projection().latents(assets.embedding)
    np.testing.assert_array_equal(np.abs(latents[[0, 1, -2, -1]]), np.float32(0.05))
    np.testing.assert_array_equal(latents[[0, -2]], -latents[[1, -1]])
    with pytest.raises(ValueError, match="width"):
        corner_assets(33)


def test_an_evidence_error_is_a_user_error() -> None:
    """The command line shows it on one line and exits with 2."""
    assert issubclass(EvidenceError, UserError)

"""Kept parts of conditions: what was made comes back the same, and what is damaged is made again."""

import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.base import Guess, Knowledge
from audit.inversion import Trial
from audit.parts import Parts
from defenses.kept import keep_arrays


def trial() -> Trial:
    """What an attack read under two seeds."""
    rng = np.random.default_rng(0)
    guesses = [
        Guess(rng.integers(0, 9, (3, 4, 2)), rng.normal(size=(3, 4, 2)).astype(np.float32), is_posterior=bool(seed))
        for seed in range(2)
    ]
    return Trial("map", guesses, Knowledge(projection=True, sends=1), 0.5)


def never() -> Any:
    """What must not be called."""
    pytest.fail("a kept part was made again")


def test_a_trial_comes_back_as_it_was(tmp_path: Path) -> None:
    """If this failed, a rerun would report other figures than the first run."""
    made = Parts(tmp_path).trial("k", trial)
    parts = Parts(tmp_path)
    kept = parts.trial("k", never)
    assert (kept.label, kept.knowledge, kept.calibration, kept.unavailable) == (
        made.label, made.knowledge, made.calibration, made.unavailable,
    )  # fmt: skip
    for one, other in zip(kept.guesses, made.guesses, strict=True):
        np.testing.assert_array_equal(one.candidates, other.candidates)
        np.testing.assert_array_equal(one.scores, other.scores)
        assert (one.candidates.dtype, one.scores.dtype) == (other.candidates.dtype, other.scores.dtype)
        assert one.is_posterior == other.is_posterior
    assert parts.saved > 0


def test_an_attack_that_cannot_run_is_kept_with_its_reason(tmp_path: Path) -> None:
    """If this failed, a rerun would try what cannot work again, or forget why."""
    Parts(tmp_path).trial("k", lambda: Trial("map", (), unavailable="no likelihood"))
    kept = Parts(tmp_path).trial("k", never)
    assert (kept.unavailable, kept.knowledge, list(kept.guesses)) == ("no likelihood", None, [])


def test_values_come_back(tmp_path: Path) -> None:
    """If this failed, figures of use would be measured again in every rerun, or lose their infinities."""
    values = {"row": {"perplexity": 3.5, "epsilon": float("inf")}, "generations": ["a"]}
    assert Parts(tmp_path).values("k", lambda: values) == values
    assert Parts(tmp_path).values("k", never) == values


@pytest.mark.parametrize("damage", ["cut", "byte", "empty", "folder", "meta", "deep", "pickle", "lacking"])
def test_what_is_damaged_is_made_again(tmp_path: Path, damage: str) -> None:
    """If this failed, half a file would end a run, or pass for a result."""
    place, meta = tmp_path / "k.npz", b'{"seconds": 1.0}'
    Parts(tmp_path).trial("k", trial)
    content = place.read_bytes()
    if damage == "cut":
        place.write_bytes(content[:-40])
    elif damage == "byte":
        middle = len(content) // 3
        place.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif damage == "empty":
        place.write_bytes(b"")
    elif damage == "folder":
        place.unlink()
        (tmp_path / "k.npz" / "x").mkdir(parents=True)
    elif damage in {"meta", "deep"}:
        text = b"[" * 100_000 if damage == "deep" else b'["seconds"]'
        keep_arrays(place, {"meta": np.frombuffer(text, dtype=np.uint8)})
    elif damage == "pickle":
        with place.open("wb") as file:
            np.savez(file, meta=np.frombuffer(meta, dtype=np.uint8), x=np.array([Path], dtype=object))
    else:
        keep_arrays(place, {"meta": np.frombuffer(meta, dtype=np.uint8)})
    made: list[int] = []
    if damage == "folder":
        with pytest.raises(Exception, match="cannot be written"):
            Parts(tmp_path).trial("k", lambda: made.append(1) or trial())  # type: ignore[func-returns-value]
    else:
        Parts(tmp_path).trial("k", lambda: made.append(1) or trial())  # type: ignore[func-returns-value]
        Parts(tmp_path).trial("k", never)
    assert made == [1]


def _make_shared(folder: Path, begun: Path, name: str) -> dict[str, dict[str, Any]]:
    """Both parts, in a process of its own; each making leaves a file, and takes until both processes make one."""

    def make(key: str) -> dict[str, Any]:
        (begun / f"{key}-{name}").touch()
        limit = time.monotonic() + 60
        while len(list(begun.iterdir())) < 2 and time.monotonic() < limit:
            time.sleep(0.01)
        return {"by": name}

    return Parts(folder).shared({key: partial(make, key) for key in ("one", "two")})


def test_processes_share_the_making(tmp_path: Path) -> None:
    """If this failed, every worker would score the undefended reference for itself, or wait for one that does."""
    begun = tmp_path / "begun"
    begun.mkdir()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        first, second = pool.map(_make_shared, [tmp_path / "parts"] * 2, [begun] * 2, ["a", "b"])
    assert first == second
    assert {first["one"]["by"], first["two"]["by"]} == {"a", "b"}
    assert len(list(begun.iterdir())) == 2


def test_a_part_that_failed_elsewhere_is_made_here(tmp_path: Path) -> None:
    """If this failed, one worker's error would be every worker's, or leave them waiting."""

    def broken() -> dict[str, Any]:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        Parts(tmp_path).shared({"k": broken})
    assert Parts(tmp_path).shared({"k": lambda: {"a": 1}}) == {"k": {"a": 1}}
    assert Parts(tmp_path).shared({"k": never}) == {"k": {"a": 1}}

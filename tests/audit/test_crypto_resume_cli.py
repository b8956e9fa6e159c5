"""`delaudit crypto train` and `delaudit crypto tsp`, interrupted: nothing half-written, and a rerun that goes on."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audit.tsp_study
from audit.cli.main import main
from audit.records import RunRecord
from defenses.models.llm import LLM
from defenses.randomness import seeded_rng

WORDS = ("the", "a", "cat", "dog", "hen", "owl", "rain", "corn", "snow", "light", "sees", "likes", "fears", "and", "of")


@pytest.fixture
def delaudit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs `delaudit crypto ...` in this process: the exit code and what it says on standard error."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["delaudit", "crypto", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        assert isinstance(caught.value.code, int)
        return caught.value.code, capsys.readouterr().err

    return run


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int) -> None:
    """Somebody presses Ctrl-C in this call of a function."""
    own, calls = getattr(owner, name), 0

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return own(*given, **named)

    monkeypatch.setattr(owner, name, counted)


def texts(folder: Path, *names: str) -> list[Path]:
    """Public text, each file of its own documents."""
    for name in names:
        rng = seeded_rng(0, name)
        rows = [" ".join(rng.choice(WORDS, 400)) for _ in range(6)]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
    return [folder / f"{name}.jsonl" for name in names]


@pytest.fixture
def quick_training(needs: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Six steps and a checkpoint after every second; judging, which has its own tests, is left out.

    Models this small compile for longer than they run.
    """
    needs("spu")
    import jax

    from defenses.crypto.distillation import STAGES, Stage
    from defenses.crypto.training import Schedule

    schedule = Schedule(6, 1e-2, warmup=2, batch=4, checkpoint_every=2)
    monkeypatch.setitem(STAGES, "vanilla", (Stage("language modelling", schedule),))  # type: ignore[arg-type]
    perplexity = {"estimate": 40.5, "interval": [39.0, 42.25], "level": 0.95, "documents": 6, "method": "bootstrap"}
    monkeypatch.setattr("audit.crypto_training.judge", lambda *_: {"perplexity": perplexity})
    monkeypatch.setattr("audit.cli.crypto_train.demand_engines", lambda: None)
    jax.config.update("jax_disable_most_optimizations", val=True)
    yield
    jax.config.update("jax_disable_most_optimizations", val=False)


def training(folder: Path, root: Path) -> list[str]:
    """Words of a small training of the exact model."""
    text, held_out = texts(folder, "train", "test")
    words = f"train vanilla --text {text} --held-out {held_out} --work {root / 'work'} --out {root / 'store'}"
    shape = "--layers 1 --hidden 8 --heads 2 --vocabulary 270 --context 48 --windows 12"
    return [*words.split(), *shape.split()]


def test_an_interrupted_training_leaves_no_model_and_goes_on(
    delaudit: Any, quick_training: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, Ctrl-C would leave a model that is half trained, or cost all that it had learnt."""
    from defenses.crypto.corpus import TokenWindows
    from defenses.crypto.distillation import fingerprint
    from defenses.crypto.language_models import load_language_model

    with monkeypatch.context() as patched:
        interrupt(patched, TokenWindows, "batch", at=6)
        code, told = delaudit(*training(tmp_path, tmp_path))
    assert code == 130
    assert told.splitlines()[-1].startswith("delaudit: interrupted")
    assert {path.name for path in (tmp_path / "store").rglob("*")} == {"tokenizer.json"}
    assert len(list((tmp_path / "work").iterdir())) == 1
    assert delaudit(*training(tmp_path, tmp_path))[0] == 0
    assert not list(tmp_path.rglob("*.tmp"))
    model = load_language_model("vanilla", tmp_path / "store")
    assert model.card["fingerprint"] == fingerprint(model.parameters)
    assert model.card["training"]["language modelling"]["steps_in_last_call"] == 2


@pytest.mark.parametrize("other", ["280", "265"])
def test_a_store_s_tokenizer_is_not_used_for_another_vocabulary(
    delaudit: Any, quick_training: None, tmp_path: Path, other: str
) -> None:
    """If this failed, token ids would point outside a smaller table, which JAX does not notice."""
    from defenses.crypto.corpus import read_sources, save_tokenizer, train_tokenizer

    words = training(tmp_path, tmp_path)
    tokenizer = tmp_path / "store" / "tokenizer.json"
    save_tokenizer(train_tokenizer(read_sources([str(tmp_path / "train.jsonl")]), 270), tokenizer)
    at = words.index("--vocabulary") + 1
    code, told = delaudit(*words[:at], other, *words[at + 1 :])
    assert code == 2
    assert f"tokenizer.json has 270 tokens, and {other} were asked for" in told
    assert list((tmp_path / "store").iterdir()) == [tokenizer]


def study(folder: Path, out: Path) -> list[str]:
    """Words of a small study of token orders."""
    data, other = texts(folder, "data", "other")
    words = f"tsp --model tiny --data {data} --calibration {other} --artifacts {folder / 'artifacts'} --out {out}"
    sizes = (
        "--make-tour --prompts 2 --prompt-tokens 4 --tokens 3 --window 2 --depths 3 --draws 1 "
        "--orders identity,tsp --free identity,tsp"
    )
    return [*words.split(), *sizes.split()]


def test_an_interrupted_study_of_orders_goes_on(
    delaudit: Any, llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, hours of generation would be lost, or a record be written of the part that was done."""
    monkeypatch.setattr("defenses.models.llm.load_llm", lambda _: llm)
    monkeypatch.setattr("defenses.crypto.tour.SMALL", 8)
    monkeypatch.setattr("audit.provenance.code_digest", lambda: "this version")
    monkeypatch.setattr("reports.tsp_page._pictures", lambda *_: [])
    assert delaudit(*study(tmp_path, tmp_path / "whole"))[0] == 0
    broken = tmp_path / "broken"
    with monkeypatch.context() as patched:
        interrupt(patched, audit.tsp_study, "generate", at=4)
        code, told = delaudit(*study(tmp_path, broken))
    assert code == 130
    assert "delaudit: interrupted" in told
    assert {item.name for item in broken.iterdir()} == {".unfinished"}
    (parts,) = (broken / ".unfinished").iterdir()
    kept = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert kept
    assert all(dict(np.load(path)) for path in kept)
    done, real = [], audit.tsp_study.generate

    def counted(*given: Any) -> Any:
        done.append({path: path.stat().st_mtime_ns for path in kept})
        return real(*given)

    monkeypatch.setattr(audit.tsp_study, "generate", counted)
    assert delaudit(*study(tmp_path, broken))[0] == 0
    assert done
    assert all(times == kept for times in done)
    one, other = (RunRecord.read(root / "record.json") for root in (tmp_path / "whole", broken))
    assert one.rows == other.rows
    assert one.figures == other.figures
    assert not list(broken.rglob("*.npz"))

"""Training by request: from text to weights, card and tokenizer, with intervals over held-out documents."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defenses.crypto.extra import INSTALL
from defenses.errors import UserError

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

import jax

from audit.crypto_training import TrainingRequest, judge_again, train
from defenses.crypto.distillation import Stage
from defenses.crypto.evaluation import score
from defenses.crypto.language_models import load_language_model
from defenses.crypto.model import ModelConfig
from defenses.crypto.training import Schedule

CONFIG = ModelConfig(1, 16, 2, 2, 24, 280, 48, "gpt2")


@pytest.fixture(autouse=True, scope="module")
def quick_compiling() -> Iterator[None]:
    """Models this small compile for longer than they run."""
    jax.config.update("jax_disable_most_optimizations", val=True)
    yield
    jax.config.update("jax_disable_most_optimizations", val=False)


def documents(seed: int, number: int) -> list[str]:
    """Sentences of a small grammar."""
    rng = np.random.default_rng(seed)
    who, does, what = ["the cat", "a dog", "one hen"], ["sees", "likes", "fears"], ["rain", "corn", "snow", "light"]
    return [
        " ".join(f"{rng.choice(who)} {rng.choice(does)} {rng.choice(what)}." for _ in range(60)) for _ in range(number)
    ]


@pytest.fixture(scope="module")
def request_for(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Builds a request over small files of its own, always in the same folder."""
    root = tmp_path_factory.mktemp("crypto-lm")
    for name, seed, number in (("train", 1, 12), ("test", 2, 8)):
        lines = [json.dumps({"text": text}) for text in documents(seed, number)]
        (root / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def build(*stages: Stage, config: ModelConfig = CONFIG) -> TrainingRequest:
        return TrainingRequest(
            [str(root / "train.jsonl")],
            [str(root / "test.jsonl")],
            work=root / "work",
            store=root / "store",
            config=config,
            stages=stages,
            windows=60,
            new=3,
        )

    return build


@pytest.fixture(scope="module")
def exact(request_for: Any) -> Any:
    """The trained reference."""
    stage = Stage("language modelling", Schedule(120, 1e-2, warmup=5, batch=8))
    return train("vanilla", request_for(stage), command="delaudit crypto train vanilla")


def test_a_card_says_what_held_out_text_says(exact: Any, request_for: Any) -> None:
    """If this failed, the perplexity on a card would be of other weights than those in the store."""
    metrics = exact.card["metrics"]
    low, high = metrics["perplexity"]["interval"]
    assert low < metrics["perplexity"]["estimate"] < high
    assert metrics["perplexity"]["documents"] == 8
    assert metrics["perplexity"]["estimate"] < 100  # of 280 tokens
    again = load_language_model("vanilla", request_for().store)
    assert again.card["fingerprint"] == exact.card["fingerprint"]
    tokens = np.array([again.tokenizer.encode(text).ids[:49] for text in documents(2, 8)], dtype=np.int32)
    own = math.exp(score(again, tokens).losses.mean())
    assert own == pytest.approx(metrics["perplexity"]["estimate"], rel=0.3)


def test_a_peer_is_compared_with_the_exact_model(exact: Any, request_for: Any) -> None:
    """If this failed, a card would not say what a system costs in quality."""
    stage = Stage("distillation", Schedule(10, 2e-3, warmup=2, batch=8))
    card = train("merge-er", request_for(stage)).card
    assert card["exact_model"] == exact.card["fingerprint"]
    ratio, share = card["metrics"]["perplexity_over_exact"], card["metrics"]["top1_agreement_with_exact"]
    assert ratio["interval"][0] <= ratio["estimate"] <= ratio["interval"][1]
    assert 0 <= share["estimate"] <= 1
    assert card["input_noise"] > 0


def test_what_a_resending_system_writes_is_judged_by_what_it_writes(exact: Any, request_for: Any) -> None:
    """On true text resending is never used, and its first token needs none: both would flatter it."""
    stage = Stage("distillation", Schedule(10, 2e-3, warmup=2, batch=8))
    metrics = train("merge-er", request_for(stage)).card["metrics"]
    for name in ("resent_agreement", "told_distinct_tokens", "written_distinct_tokens"):
        low, high = metrics[name]["interval"]
        assert 0 <= low <= metrics[name]["estimate"] <= high <= 1, name
    assert metrics["written_perplexity_over_exact"]["estimate"] > 1.5  # ten steps teach nothing to resend
    assert 0 <= metrics["written_agreement_with_exact"]["estimate"] < 1
    own = exact.card["metrics"]
    ratio = metrics["written_perplexity"]["estimate"] / own["written_perplexity"]["estimate"]
    assert metrics["written_perplexity_over_exact"]["estimate"] == pytest.approx(ratio, rel=1e-2)
    assert "resent_agreement" not in own


def test_repetition_is_the_share_of_tokens_that_were_there_before() -> None:
    """If this failed, a model that writes one word for ever would look as rich as any other."""
    from audit.crypto_training import _distinct
    from defenses.crypto.corpus import TokenWindows

    tokens = np.array([[1, 1, 1, 1], [1, 2, 1, 2], [1, 2, 3, 4]], dtype=np.int32)
    held_out = TokenWindows(tokens, np.zeros(3, dtype=np.int32), np.arange(3), ())
    found = _distinct(tokens, held_out, np.random.default_rng(0))
    assert found["estimate"] == pytest.approx(np.mean([1 / 4, 2 / 4, 4 / 4]), abs=1e-4)
    assert found["interval"][0] < found["estimate"] < found["interval"][1]


def test_a_model_is_judged_again_without_training(exact: Any, request_for: Any, tmp_path: Path) -> None:
    """If this failed, a new figure on the cards would cost the training of every model, or change its weights."""
    request = request_for()
    before = (request.store / "vanilla" / "model.safetensors").read_bytes()
    again = judge_again("vanilla", request)
    assert again.card["metrics"] == exact.card["metrics"]
    assert (request.store / "vanilla" / "model.safetensors").read_bytes() == before
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": " ".join(documents(9, 12))}), encoding="utf-8")
    with pytest.raises(UserError, match="trained on other text"):
        judge_again("vanilla", replace(request, sources=[str(other)]))


def test_a_finished_run_is_not_trained_again(exact: Any, request_for: Any) -> None:
    """If this failed, a second call would cost the training anew."""
    stage = Stage("language modelling", Schedule(120, 1e-2, warmup=5, batch=8))
    again = train("vanilla", request_for(stage), command="delaudit crypto train vanilla")
    assert again.card["training"]["language modelling"]["steps_in_last_call"] == 0
    assert again.card["fingerprint"] == exact.card["fingerprint"]


def test_a_peer_of_another_shape_is_refused(exact: Any, request_for: Any) -> None:
    """If this failed, the exact model's weights would be cut to another shape or fail deep in JAX."""
    other = ModelConfig(1, 16, 4, 4, 24, 280, 48, "gpt2")
    with pytest.raises(UserError, match="the exact model has the shape"):
        train("pcft", request_for(config=other))

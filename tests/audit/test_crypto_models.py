"""What the models are worth and whether an engine computes their twins: rows, text, and comparisons that are kept."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, t

from defenses.crypto.engines.base import Outcome
from defenses.crypto.extra import INSTALL
from defenses.data.text import TextData, digest
from defenses.errors import UserError

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

import jax

from audit.crypto_models import agreement_text, card_figures, load_models, model_row, text_windows
from audit.crypto_record import MODELS
from audit.records import new_record
from defenses.crypto.agreement import Agreement
from defenses.crypto.corpus import save_tokenizer, train_tokenizer
from defenses.crypto.distillation import fingerprint
from defenses.crypto.language_models import LanguageModel, load_language_model, rounded, save_language_model
from defenses.crypto.model import ModelConfig, init
from defenses.crypto.systems import REFERENCE, SYSTEMS

CONFIG = ModelConfig(1, 8, 2, 2, 8, 270, 32, "gpt2")
DOCUMENTS = [f"the cat and dog number {number} like rain and corn. " * 3 for number in range(20)]
TEXT = TextData(DOCUMENTS, "animals", digest(DOCUMENTS), "here")


class Clear:
    """An engine that computes in the clear, and counts.

    Args:
        flipped: At how many positions of the first run of a model another token wins.
        name: How records call it.
        stop: At this run it is interrupted.
    """

    parties, guarantee, precision = 2, "none: a stand-in for tests", 2.0**-16

    def __init__(self, flipped: int = 0, name: str = "clear", stop: int | None = None) -> None:
        self.flipped, self.name, self.stop, self.runs = flipped, name, stop, 0

    def run(self, function: Callable[..., Any], *secrets: Any) -> Outcome:
        """As `Engine.run`."""
        self.runs += 1
        if self.runs == self.stop:
            raise KeyboardInterrupt
        out = np.array(function(*secrets))
        if self.runs == 1:
            for row in out[: self.flipped]:
                row[row.argmin()] = row.max() + 1
        return Outcome(out, 0.5, 0, 0, ())


def save(root: Path, name: str, config: ModelConfig) -> None:
    """A random model and a card."""
    weights = init(jax.random.PRNGKey(1), config, SYSTEMS[name])
    perplexity = {"estimate": 40.5, "interval": [39.0, 42.25], "level": 0.95, "documents": 7, "method": "bootstrap"}
    card = {"fingerprint": fingerprint(rounded(weights)), "metrics": {"perplexity": perplexity, "told": 0.5}}
    save_language_model(weights, SYSTEMS[name], config, root, card)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of every system and of one shape."""
    root = tmp_path_factory.mktemp("models")
    save_tokenizer(train_tokenizer([TEXT], CONFIG.vocabulary), root / "tokenizer.json")
    for name in SYSTEMS:
        save(root, name, CONFIG)
    return root


@pytest.fixture(scope="module")
def model(store: Path) -> LanguageModel:
    """The cheapest to run."""
    return load_language_model("merge-mm", store)


@pytest.fixture(scope="module")
def windows(model: LanguageModel) -> np.ndarray:
    """Two windows of eight tokens."""
    return text_windows(model, TEXT, 16, 8)


@pytest.fixture(autouse=True, scope="module")
def quick_compiling() -> Iterator[None]:
    """Models this small compile for longer than they run."""
    jax.config.update("jax_disable_most_optimizations", val=True)
    yield
    jax.config.update("jax_disable_most_optimizations", val=False)


@pytest.fixture(autouse=True)
def this_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who edits the source while the tests run changes what is kept under which name."""
    monkeypatch.setattr("audit.crypto_models.code_digest", lambda: "this version")


def test_the_shipped_models_are_all_systems_of_one_shape() -> None:
    """If this failed, the command without --models would compare nothing, or models of several sizes."""
    models = load_models(None)
    assert [one.system.name for one in models] == list(SYSTEMS)
    assert models[0].system.name == REFERENCE
    assert len({one.config for one in models}) == 1


def test_a_model_of_another_shape_is_named(store: Path, tmp_path: Path) -> None:
    """If this failed, a smaller model would look like a cheaper system."""
    for kept in store.iterdir():
        (tmp_path / kept.name).symlink_to(kept)
    (tmp_path / "pcft").unlink()
    save(tmp_path, "pcft", replace(CONFIG, intermediate=16))
    with pytest.raises(UserError, match=r"model of pcft has another shape than vanilla's.*train them again"):
        load_models(tmp_path)


def test_a_missing_model_says_how_to_train_it(store: Path, tmp_path: Path) -> None:
    """If this failed, half a store would give a traceback, or half a table."""
    (tmp_path / "vanilla").symlink_to(store / "vanilla")
    (tmp_path / "tokenizer.json").symlink_to(store / "tokenizer.json")
    with pytest.raises(UserError, match=r"no weights of mpcformer; train them with `delaudit crypto train`"):
        load_models(tmp_path)


def test_the_embedded_text_is_its_seed_s(tmp_path: Path) -> None:
    """If this failed, a record's hash would not tell which prompts the agreement is on."""
    first, same, other = (agreement_text("embedded", seed) for seed in (0, 0, 1))
    assert (first.documents, first.sha256) == (same.documents, same.sha256)
    assert first.sha256 == digest(first.documents) != other.sha256
    assert (first.name, other.name) == ("embedded workload, seed 0", "embedded workload, seed 1")


def test_other_text_is_read_from_its_place(tmp_path: Path) -> None:
    """If this failed, --text would be ignored, and the agreement be of other text than the record names."""
    place = tmp_path / "words.jsonl"
    place.write_text("\n".join(json.dumps({"text": text}) for text in DOCUMENTS), encoding="utf-8")
    found = agreement_text(str(place), 0)
    assert found.documents == [text.strip() for text in DOCUMENTS]
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file"):
        agreement_text(str(tmp_path / "nowhere.jsonl"), 0)


def test_windows_are_the_text_s_own_tokens_from_end_to_end(model: LanguageModel) -> None:
    """If this failed, agreement would be of tokens that no text has, or of its beginning alone."""
    ids = model.tokenizer.encode("\n".join(DOCUMENTS)).ids
    found = text_windows(model, TEXT, 30, 8)
    assert found.shape == (4, 8)
    assert found.size >= 30
    places = [at for row in found for at in range(0, len(ids), 8) if ids[at : at + 8] == row.tolist()]
    assert found[0].tolist() == ids[:8]
    assert max(places) > 0.9 * len(ids)


def test_more_positions_than_the_text_has_are_refused_with_the_number_that_there_is(model: LanguageModel) -> None:
    """If this failed, an agreement over 40 positions would be called one over 500."""
    tokens = len(model.tokenizer.encode("\n".join(DOCUMENTS)).ids)
    most = (tokens - 1) // 8 * 8
    assert text_windows(model, TEXT, most, 8).size == most
    with pytest.raises(UserError, match=f"animals has {most} positions in windows of 8"):
        text_windows(model, TEXT, most + 1, 8)
    with pytest.raises(UserError, match="no document has"):
        text_windows(model, TextData(["cat"], "short", "0" * 64, "here"), 8, 8)


def test_a_row_counts_the_positions_that_agree(model: LanguageModel, windows: np.ndarray, tmp_path: Path) -> None:
    """If this failed, the table would not say what was measured; the oracle is Korn and Graubard's formula."""
    row = model_row(Clear(flipped=3), model, windows, tmp_path)
    assert (row["twin_positions"], row["twin_agreement"]) == (16, 13 / 16)
    assert windows.shape == (2, 8)  # of which 5 and 8 agree, 6.5 in the mean
    effective = (13 / 16) * (3 / 16) / (2 * 2 * 1.5**2 / 16**2) * (t.ppf(0.975, 15) / t.ppf(0.975, 1)) ** 2
    yes, no = 13 / 16 * effective, 3 / 16 * effective
    ends = beta.ppf(0.025, yes, no + 1), beta.ppf(0.975, yes + 1, no)
    assert (row["twin_agreement_low"], row["twin_agreement_high"]) == pytest.approx(ends)
    assert row["logit_error_largest"] > 1
    assert not row["logit_error_explained"]
    assert 0 < row["logit_error_mean"] < row["logit_error_largest"]


def test_a_row_says_what_the_system_is_and_what_its_card_says(
    model: LanguageModel, windows: np.ndarray, tmp_path: Path
) -> None:
    """If this failed, a report would name another guarantee or another quality than the system's; and it is flat."""
    row = model_row(Clear(), model, windows, tmp_path)
    system = SYSTEMS["merge-mm"]
    for key in ("title", "softmax", "activation", "norm", "resending", "source", "published", "guarantee",
                "client_learns", "party_learns"):  # fmt: skip
        assert row[key] == getattr(system, key)
    assert row["deviations"] == "; ".join(system.deviations)
    assert (row["table"], row["system"], row["engine"]) == (MODELS, "merge-mm", "clear")
    assert (row["layers"], row["hidden"], row["vocabulary"], row["context"]) == (1, 8, 270, 32)
    assert (row["perplexity"], row["perplexity_low"], row["perplexity_high"], row["documents"]) == (40.5, 39, 42.25, 7)
    assert (row["twin_agreement"], row["logit_error_explained"]) == (1.0, True)
    assert dict(new_record("crypto", config={}, seed=0, rows=[row]).rows[0]) == row


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Agreement]:
    """Every comparison that was measured and not read from the folder; each differs from those before it."""
    found: list[Agreement] = []

    def measure(_: Any, __: LanguageModel, windows: np.ndarray) -> Agreement:
        same = [windows.shape[1]] * len(windows)
        for number in range(len(found)):
            same[number % len(same)] -= 1
        found.append(Agreement(windows.size, tuple(same), 0.5, 0.25, 1.0, 2.0))
        return found[-1]

    monkeypatch.setattr("audit.crypto_models.measure_agreement", measure)
    return found


def test_a_comparison_is_kept_under_all_that_it_depends_on(
    model: LanguageModel, windows: np.ndarray, tmp_path: Path, measured: list[Agreement], *,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """If this failed, a rerun would compute everything again, or show another model's, text's or engine's figures."""
    row = model_row(Clear(), model, windows, tmp_path)
    assert model_row(Clear(), model, windows, tmp_path) == row
    assert len(measured) == 1
    moved = jax.tree_util.tree_map(lambda leaf: leaf + np.float32(0.01), model.parameters)
    others = [
        (Clear(name="another"), model, windows),
        (Clear(), replace(model, parameters=moved), windows),
        (Clear(), replace(model, system=SYSTEMS["merge"]), windows),
        (Clear(), model, windows[:, ::-1].copy()),
        (Clear(), model, windows.reshape(4, 4)),
    ]
    for count, other in enumerate(others, start=1):
        assert model_row(*other, tmp_path)["twin_agreement"] == 1 - count / 16
    monkeypatch.setattr("audit.crypto_models.code_digest", lambda: "another version")
    model_row(Clear(), model, windows, tmp_path)
    assert len(measured) == 2 + len(others)


def test_a_damaged_comparison_is_measured_again(
    model: LanguageModel, windows: np.ndarray, tmp_path: Path, measured: list[Agreement]
) -> None:
    """If this failed, half a file would stop every later run, or be read as a whole one."""
    model_row(Clear(), model, windows, tmp_path)
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    for count, damage in enumerate((kept.read_text(encoding="utf-8")[:-9], '{"positions": 3}', "[1]"), start=2):
        kept.write_text(damage, encoding="utf-8")
        assert model_row(Clear(), model, windows, tmp_path) == model_row(Clear(), model, windows, tmp_path)
        assert len(measured) == count


def test_an_interrupted_comparison_leaves_nothing(model: LanguageModel, windows: np.ndarray, tmp_path: Path) -> None:
    """If this failed, a rerun would take half the positions for all of them."""
    with pytest.raises(KeyboardInterrupt):
        model_row(Clear(stop=2), model, windows, tmp_path)
    assert not list(tmp_path.iterdir())


def test_figures_become_columns_and_settings_do_not() -> None:
    """If this failed, settings on a card would stand in a table of results, or a figure lose its interval."""
    metrics = {
        "held_out": {"windows": 9}, "by_position": [1.0, 0.5], "seconds": 0.5,
        "perplexity": {"estimate": 2.0, "interval": [1.5, 2.5], "documents": 4},
    }  # fmt: skip
    assert card_figures(metrics) == {
        "perplexity": 2, "perplexity_low": 1.5, "perplexity_high": 2.5, "documents": 4, "seconds": 0.5,
    }  # fmt: skip
    assert card_figures({}) == {}

"""The whole comparison: which rows come from which engine, what stops it at once, and a broken run that goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.crypto_record import COSTS, ENGINES, MODELS
from audit.records import new_record
from defenses.crypto.engines.base import Outcome
from defenses.crypto.extra import INSTALL
from defenses.errors import UserError

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

import jax

from audit.crypto_costs import CostPlan
from audit.crypto_models import agreement_text
from audit.crypto_study import study
from defenses.crypto.agreement import Agreement
from defenses.crypto.corpus import save_tokenizer, train_tokenizer
from defenses.crypto.engines.spu import SetUp, SpuEngine
from defenses.crypto.engines.spu_settings import SpuSettings
from defenses.crypto.language_models import save_language_model
from defenses.crypto.model import ModelConfig, init
from defenses.crypto.systems import SYSTEMS

CONFIG = ModelConfig(1, 4, 2, 2, 4, 270, 16, "gpt2")
PLAN = CostPlan(lengths=(2,), composed=(), large=(), new_tokens=2, repeats=2)


class Threads:
    """SPU's engine without SPU: it counts its runs, and its bytes are the inputs' own.

    Class attributes, which the fixture `engines` resets:
        made: Every engine.
        stop: At this run of all, it fails.
    """

    made: list["Threads"]
    stop: int | None
    failure: BaseException

    def __init__(self, protocol: Any, *, ring: int) -> None:
        self.settings = SpuSettings(protocol, ring)
        self.name, self.parties = self.settings.name, self.settings.parties
        self.guarantee, self.precision = self.settings.guarantee, self.settings.precision
        self.set_up = SetUp(0.25, 1000)
        self.ran: list[int] = []
        Threads.made.append(self)

    def run(self, function: Callable[..., Any], *secrets: Any) -> Outcome:
        """Count."""
        self.ran.append(sum(leaf.nbytes for leaf in jax.tree_util.tree_leaves(secrets)))
        if runs() == Threads.stop:
            raise Threads.failure
        return Outcome(None, float(runs()), self.ran[-1], 7, ())


def runs() -> int:
    """Of all engines."""
    return sum(len(one.ran) for one in Threads.made)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, np.ndarray]]:
    """What was compared with its twin: engine, system and windows. Comparing is not this module's."""
    found = []

    def measure(engine: Any, model: Any, windows: np.ndarray) -> Agreement:
        found.append((engine.name, model.system.name, windows))
        return Agreement(windows.size, (windows.shape[1],) * len(windows), 0.5, 0.25, 1.0, 2.0)

    monkeypatch.setattr("audit.crypto_models.measure_agreement", measure)
    return found


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch, compared: Any) -> None:
    """No engine yet, and one version of the source whatever is edited meanwhile."""
    Threads.made, Threads.stop, Threads.failure = [], None, KeyboardInterrupt()
    monkeypatch.setattr("audit.crypto_study.SpuEngine", Threads)
    for module in ("audit.crypto_costs", "audit.crypto_models"):
        monkeypatch.setattr(f"{module}.code_digest", lambda: "this version")


@pytest.fixture(scope="module", autouse=True)
def quick_compiling() -> Iterator[None]:
    """Models this small compile for longer than they run."""
    jax.config.update("jax_disable_most_optimizations", val=True)
    yield
    jax.config.update("jax_disable_most_optimizations", val=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random models of every system."""
    root = tmp_path_factory.mktemp("models")
    save_tokenizer(train_tokenizer([agreement_text("embedded", 0)], CONFIG.vocabulary), root / "tokenizer.json")
    for system in SYSTEMS.values():
        save_language_model(init(jax.random.PRNGKey(1), CONFIG, system), system, CONFIG, root, {"metrics": {}})
    return root


def found(store: Path, out: Path, *protocols: str, **more: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A study of the small models."""
    asked = {"ring": 64, "text": "embedded", "positions": 20, "seed": 3, **more}
    return study(PLAN, engines=protocols or ("semi2k",), store=store, work=out, **asked)  # type: ignore[arg-type]


def test_every_engine_has_its_own_rows_once(store: Path, tmp_path: Path, compared: list[Any]) -> None:
    """If this failed, a protocol that is named twice would be measured twice, or one's figures stand under another."""
    rows, facts = found(store, tmp_path, "semi2k", "aby3", "semi2k", ring=128)
    names = ["spu-semi2k-2pc-ring128", "spu-aby3-3pc-ring128"]
    assert [one.name for one in Threads.made] == names
    tables = {name: [row["table"] for row in rows if row["engine"] == name] for name in names}
    shape = [ENGINES, *[MODELS] * len(SYSTEMS), *[COSTS] * 2 * len(SYSTEMS)]
    assert tables == dict.fromkeys(names, shape)
    assert [row["system"] for row in rows if row["table"] == MODELS] == 2 * list(SYSTEMS)
    first = rows[0]
    assert (first["parties"], first["ring"], first["set_up_seconds"], first["set_up_bytes"]) == (2, 128, 0.25, 1000)
    assert first["guarantee"] == SpuSettings("semi2k").guarantee
    record = new_record("crypto", config={}, seed=3, rows=rows, data=facts)
    assert [dict(row) for row in record.rows] == rows


def test_models_meet_the_text_that_the_record_names(store: Path, tmp_path: Path, compared: list[Any]) -> None:
    """If this failed, agreement would be of other text than the hash in the record, or of fewer positions than asked.

    The models' context is 16 tokens, shorter than the usual window; few positions are cut into shorter ones still, as
    windows are the clusters of an interval.
    """
    _, facts = found(store, tmp_path, positions=130)
    found(store, tmp_path / "few")
    text = agreement_text("embedded", 3)
    assert facts == [{"name": text.name, "sha256": text.sha256, "documents": len(text.documents)}]
    assert [(engine, system) for engine, system, _ in compared] == [("spu-semi2k-2pc", name) for name in SYSTEMS] * 2
    assert [windows.shape for _, _, windows in compared] == [(9, 16)] * len(SYSTEMS) + [(10, 2)] * len(SYSTEMS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text": "nowhere.jsonl"}, r"nowhere\.jsonl: no such file"),
        ({"positions": 10**9}, "positions in windows of 16"),
        ({"store": Path("nowhere")}, "no weights of vanilla"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_measured(
    store: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    """If this failed, a wrong name would be found out after hours; and nothing may be left in the folder."""
    asked = {"store": store, **wrong}
    with pytest.raises(UserError, match=message):
        found(asked.pop("store"), tmp_path / "out", **asked)
    assert not Threads.made
    assert not (tmp_path / "out").exists()


def kept(folder: Path) -> dict[Path, int]:
    """Finished measurements and when each was written; nothing else may lie there."""
    assert not list(folder.rglob("*.tmp"))
    return {path: path.stat().st_mtime_ns for path in (folder / "measured").iterdir()}


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), UserError("SPU could not run it")])
def test_a_broken_study_goes_on_and_measures_nothing_twice(
    store: Path, tmp_path: Path, compared: list[Any], failure: BaseException
) -> None:
    """If this failed, whoever is interrupted would begin again, or find a measurement counted twice or left out."""
    whole, _ = found(store, tmp_path / "whole")
    every = len(kept(tmp_path / "whole"))
    Threads.made, Threads.stop, Threads.failure = [], runs() - 4, failure
    compared.clear()
    with pytest.raises(type(failure)):
        found(store, tmp_path / "broken")
    before = kept(tmp_path / "broken")
    assert len(before) == every - 5
    Threads.made, Threads.stop = [], None
    rows, _ = found(store, tmp_path / "broken")
    after = kept(tmp_path / "broken")
    assert len(after) == every
    assert {path: after[path] for path in before} == before
    assert runs() <= 5 + 1  # what was left, and a run that warms the engine
    assert [name for _, name, _ in compared] == list(SYSTEMS)
    timed = ("seconds", "ratio_seconds")

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if not key.startswith(timed)}

    assert [plain(row) for row in rows] == [plain(row) for row in whole]


def test_a_small_study_runs_on_spu(
    store: Path, tmp_path: Path, needs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this failed, the engine would not run what the study hands it; real rounds and bytes order the systems."""
    needs("spu")
    monkeypatch.setattr("audit.crypto_study.SpuEngine", SpuEngine)
    rows, _ = found(store, tmp_path)
    costs = {(row["system"], row["accounting"]): row for row in rows if row["table"] == COSTS}
    assert len(costs) == 2 * len(SYSTEMS)
    assert rows[0]["set_up_seconds"] > 0
    vanilla, merge = (costs[name, "in full"] for name in ("vanilla", "merge"))
    assert vanilla["bytes"] > merge["bytes"] > 0
    assert vanilla["rounds"] > merge["rounds"] > 0
    assert vanilla["ratio_seconds"] == 1

"""Scores behind one setting of DEL, kept on disk: what `audit.tuning` chooses on and reports.

A finished score is kept under a hash of all that it depends on, so that a run that was broken off goes on.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from audit.measures import Pairs, Scores, score
from audit.utility import repeated
from audit.workbench import Workbench
from defenses.base import Assets, Tokens
from defenses.baselines.del_tuned import Decoder, DelTuned, DelTunedConfig
from defenses.errors import UserError
from defenses.files import write_text
from defenses.kept import keep_arrays, kept_arrays
from defenses.pipeline.artifacts import PromptArtifact, nearest_prompt, store_for
from defenses.pipeline.corpus import Corpus, load_corpus
from defenses.pipeline.prompt_training import load_prompt
from defenses.randomness import seeded_rng
from defenses.untrusted import MIB, json_value, read_limited

CHOICE_EVERY = 4  # every fourth public document is for the choice, the others for token frequencies
_SOURCES = (  # what a score is computed by: a change elsewhere does not spoil finished ones
    "audit/measures.py", "audit/tuning_scores.py", "audit/utility.py", "defenses/base.py", "defenses/budget.py",
    "defenses/baselines/del_tuned.py", "defenses/models/llm.py", "defenses/pipeline/defense.py",
    "defenses/pipeline/latents.py", "defenses/pipeline/mechanism.py", "defenses/pipeline/sampler.py",
    "defenses/posterior_decoder.py", "defenses/randomness.py",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One way to use DEL.

    Attributes:
        projection: Its name: d and the objective.
        n: Bits per coordinate.
        a_over_c: Of the most open segment.
        decoder: The server's.
        soft_prompt: Whether the server prepends the nearest one.
        recent: Segments of a split budget; empty for a uniform one.
        weights: Of the split.
    """

    projection: str
    n: int
    a_over_c: float
    decoder: Decoder = "linear"
    soft_prompt: bool = False
    recent: tuple[int, ...] = ()
    weights: tuple[float, ...] = (1.0,)

    def defense(self, assets: Assets) -> DelTuned:
        """The defence of this setting."""
        config = DelTunedConfig(n=self.n, a_over_c=self.a_over_c, decoder=self.decoder)
        if self.recent:
            config = replace(config, split="recent", recent=self.recent, weights=self.weights)
        return DelTuned(config, assets)


class Bench:
    """Model, public text and test text of a tuning.

    Args:
        workbench: Its data are the test text, its auxiliary sources the public text.
        out: Finished scores are kept below it.

    Raises:
        UserError: from any attribute: text or model cannot be had, or there is too little of it.
    """

    def __init__(self, workbench: Workbench, out: Path) -> None:
        self.workbench, self.out = workbench, out
        self.seed, self.data = workbench.experiment.seed, workbench.experiment.data
        self._assets: dict[str, Assets] = {}
        if not self.data.auxiliary:
            raise UserError("--public is needed: the choice is made on public text, never on what is reported")

    @cached_property
    def _public(self) -> Corpus:
        return load_corpus(self.workbench.llm, self.data.auxiliary, self.data.length)

    @cached_property
    def frequency_windows(self) -> Tokens:
        """Windows of the public documents that frequencies are counted on, (M, L): the adversary's text as well."""
        windows: Tokens = self._public.windows[self._public.clusters % CHOICE_EVERY != 0]
        if len(windows) < 2:
            raise UserError(f"--public: at least {CHOICE_EVERY} documents are needed: give more text")
        return windows

    @cached_property
    def validation(self) -> Pairs:
        """Windows of every fourth public document, as many as of the test text, spread evenly."""
        kept = np.flatnonzero(self._public.clusters % CHOICE_EVERY == 0)
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, min(self.data.windows, len(kept))).round().astype(int))]
        rows, clusters = self._public.windows[kept], self._public.clusters[kept]
        if len(np.unique(clusters)) < 2:
            raise UserError(f"--public: at least {2 * CHOICE_EVERY} documents are needed: give more text")
        return Pairs(rows[:, : self.data.prefix_tokens], rows[:, self.data.prefix_tokens :], clusters)

    @cached_property
    def test(self) -> Pairs:
        """Windows that figures are reported of.

        Raises:
            UserError: test and public text share a source.
        """
        shared = {fact["sha256"] for fact in self._public.facts} & {
            fact["sha256"] for fact in self.workbench.corpus.facts
        }
        if shared:
            raise UserError("--data and --public are the same text: choose on other documents than are reported")
        return self.workbench.pairs

    def facts(self) -> list[dict[str, object]]:
        """Name and hash of every source."""
        return [dict(fact) for fact in (*self.workbench.corpus.facts, *self._public.facts)]

    def assets(self, projection: str) -> Assets:
        """Public assets with one projection, and frequencies of documents that the choice does not see."""
        if projection not in self._assets:
            found = self.workbench.assets(projection)
            counts = np.bincount(self.frequency_windows.ravel(), minlength=found.vocabulary) + 0.5
            self._assets[projection] = replace(found, frequencies=counts / counts.sum())
        return self._assets[projection]

    def assets_hash(self, projection: str) -> str:
        """A hash over a projection and the public frequencies."""
        assets = self.assets(projection)
        code = assets.needed_projection()
        arrays = (code.encoder, code.decoder, np.asarray([code.clip]), np.asarray(assets.frequencies))
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    def projections(self) -> list[str]:
        """Every projection of this model, by name."""
        root = self.workbench.experiment.artifacts
        store = store_for(self.workbench.experiment.model, None if root is None else Path(root))
        return [path.stem.removeprefix("projection-") for path in sorted(store.glob("projection-*.safetensors"))]

    def prompt(self, setting: Setting) -> PromptArtifact | None:
        """The nearest soft prompt: of the projection, or, where it has none, of all; None where none is asked for."""
        if not setting.soft_prompt:
            return None
        mu = setting.defense(self.assets(setting.projection)).quantizer.mu
        own = nearest_prompt(self.workbench.soft_prompts(setting.projection), setting.n, mu)
        every = [one for name in self.projections() for one in self.workbench.soft_prompts(name)]
        return own or nearest_prompt(every, setting.n, mu)

    def has_prompt(self, projection: str) -> bool:
        """Whether a soft prompt was trained behind noise on this projection."""
        return nearest_prompt(self.workbench.soft_prompts(projection), 4, 20.0) is not None

    def score(self, setting: Setting, pairs: Pairs, draws: int = 1) -> Scores:
        """Scores of the continuations of pairs (N, ...) behind a setting under `draws` draws of coins: (draws N, S)."""
        artifact = self.prompt(setting)
        what = [asdict(setting), draws, self.assets_hash(setting.projection), _weights_hash(artifact)]
        return self._kept(what, pairs, lambda: self._score(setting, repeated(pairs, draws), artifact))

    def floor(self, pairs: Pairs, setting: Setting | None = None) -> Scores:
        """Scores where the server gets nothing at all but its own start token, and a setting's soft prompt."""
        artifact = None if setting is None else self.prompt(setting)
        start = self.workbench.llm.embedding[self._start_token()]
        restored = np.tile(start, (pairs.n, 1, 1)).astype(np.float32)
        vectors = None if artifact is None else load_prompt(artifact.folder)
        return self._kept(
            ["floor", _weights_hash(artifact)], pairs, lambda: score(self.workbench.llm, pairs, restored, vectors)
        )

    def clean(self, pairs: Pairs) -> Scores:
        """Scores behind the undefended prefix."""
        llm = self.workbench.llm
        return self._kept(["clean"], pairs, lambda: score(llm, pairs, llm.embedding[pairs.prefix], None))

    def kept_row(self, what: Sequence[object], compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Columns from disk, or computed and kept: for what attacks read."""
        place = self.out / "scores" / f"{self._name([*what, 'row'], self.test)}.json"
        if place.exists():
            try:
                return dict(json_value(read_limited(place, MIB, "kept row")))
            except (ValueError, TypeError):
                place.unlink()  # half a file of an older crash: measure again
        result = dict(compute())
        write_text(place, json.dumps(result, default=float))
        return result

    def _start_token(self) -> int:
        tokenizer = self.workbench.llm.tokenizer
        found = [one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id) if isinstance(one, int)]
        return found[0] if found else int(np.bincount(self.frequency_windows.ravel()).argmax())

    def _score(self, setting: Setting, many: Pairs, artifact: PromptArtifact | None) -> Scores:
        defense = setting.defense(self.assets(setting.projection))
        # Settings of one mechanism see the same coins, so that decoders are compared on the same views.
        noise = f"{setting.projection} {setting.n} {setting.a_over_c!r} {setting.recent} {setting.weights}"
        restored = defense.restore(defense.protect(many.prefix, seeded_rng(self.seed, "tune", noise)))
        return score(self.workbench.llm, many, restored, None if artifact is None else load_prompt(artifact.folder))

    def _kept(self, what: Sequence[object], pairs: Pairs, compute: Callable[[], Scores]) -> Scores:
        """A score from disk, or computed and kept."""
        place = self.out / "scores" / f"{self._name(what, pairs)}.npz"
        found = kept_arrays(place)  # half a file of an older crash is none: it is measured again
        if found is not None and {"nll", "top1"} <= found.keys():
            return Scores(found["nll"], found["top1"])
        result = compute()
        keep_arrays(place, {"nll": result.nll, "top1": result.top1}, compressed=True)
        return result

    def _name(self, what: Sequence[object], pairs: Pairs) -> str:
        """A hash of all that a result depends on."""
        windows = hashlib.sha256(pairs.prefix.tobytes() + b"|" + pairs.continuation.tobytes()).hexdigest()
        key = json.dumps([what, windows, self.seed, self.workbench.llm.fingerprint, _code_hash()], default=repr)
        return hashlib.sha256(key.encode()).hexdigest()[:24]


def _weights_hash(artifact: PromptArtifact | None) -> str | None:
    if artifact is None:
        return None
    return hashlib.sha256((artifact.folder / "adapter_model.safetensors").read_bytes()).hexdigest()


@lru_cache(maxsize=1)
def _code_hash() -> str:
    root = Path(__file__).resolve().parent.parent
    return hashlib.sha256(b"\0".join((root / name).read_bytes() for name in _SOURCES)).hexdigest()

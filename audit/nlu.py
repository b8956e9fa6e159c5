"""Understanding behind a defence: a classifier on the server's outputs, denoised or not, against the clean one.

One arm is one row: `nlu_row`. The frame is Split-and-Denoise's (Mai et al. 2024); DEL's tables of MRPC and QQP use it.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audit.nlu_classifier import Classifier, fit_classifier
from audit.nlu_outputs import Group, Server, denoised, protected, tokenized
from audit.nlu_statistics import Float64, Judged, Row, closeness, figures
from audit.nlu_tasks import NluTask
from audit.provenance import code_digest
from defenses.base import Defense, Float32, Tokens
from defenses.denoising.network import Denoiser, DenoiserSettings, Scale
from defenses.denoising.outputs import POOLS, Pool
from defenses.denoising.prompt_tuning import Labelled, RaptSettings, tune_prompt
from defenses.denoising.training import (
    TrainingSettings,
    prompt_settings,
    public_draw,
    train_denoiser,
    train_matching_prompt,
)
from defenses.errors import UserError
from defenses.files import write_text
from defenses.models.llm import LLM
from defenses.randomness import seeded_rng
from defenses.untrusted import MIB, json_value, read_limited

CLEAN = "clean"
LENGTHS = "lengths"
"""The control that reads nothing but how many tokens each text has, which one vector or word a token does not hide."""
ARMS = ("none", "denoiser-server", "denoiser-client", "soft-prompt", "soft-prompt+denoiser", "rapt")


@dataclass(frozen=True)
class NluSettings:
    """How arms are trained and judged.

    Attributes:
        longest: Tokens kept of a text.
        pool: What becomes of a prompt's final states: the "last", as in the released code, or their "mean".
        draws: Draws of the coins for the test examples, where a defence has coins.
        resamples: Of test examples, for the intervals.
        clean_trained: Also judge a classifier that was trained on clean outputs.
        public_draws: Draws of the coins that the denoiser trains on (the released code: 2).
        network: The denoiser's size.
        training: The denoiser's training.
        prompt_vectors: Vectors of the soft prompt.
        prompt_steps: Steps of its training.
        rapt: RAPT's own.
        seed: Names every draw.

    Raises:
        UserError: a number is out of range.
    """

    longest: int = 64
    pool: Pool = "last"
    draws: int = 3
    resamples: int = 2000
    clean_trained: bool = False
    public_draws: int = 2
    network: DenoiserSettings = field(default_factory=DenoiserSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    prompt_vectors: int = 20
    prompt_steps: int = 40
    rapt: RaptSettings = field(default_factory=RaptSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.longest, self.draws, self.public_draws, self.prompt_vectors, self.prompt_steps) < 1:
            raise UserError("nlu: tokens, draws, prompt vectors and steps must be at least 1")
        if self.pool not in POOLS:
            raise UserError(f"nlu: pool must be one of {', '.join(POOLS)}, not {self.pool!r}")
        if self.resamples < 2000:
            raise UserError(f"nlu: intervals need at least 2,000 resamples, not {self.resamples}")


class NluBench:
    """What arms share: the model's passes, the task's tokens, the clean outputs and their classifier.

    Args:
        llm: The frozen LLM.
        task: What is classified.
        settings: How.
        public: Windows of public text for denoisers and soft prompts, (N, T); None where no arm trains one.
        work: A folder for passes and checkpoints, so that a run that was broken off goes on.
    """

    def __init__(
        self, llm: LLM, task: NluTask, settings: NluSettings, *, public: Tokens | None = None, work: Path | None = None
    ) -> None:
        self.llm, self.task, self.settings, self.work = llm, task, settings, work
        self.server = Server(llm, settings.pool, work)
        self._public = public

    @cached_property
    def tokens(self) -> Mapping[str, tuple[list[list[int]], ...]]:
        """Token ids by part and column."""
        return {"train": tokenized(self.llm, self.task.train), "test": tokenized(self.llm, self.task.test)}

    @property
    def public(self) -> Tokens:
        """Windows of public text, (N, T).

        Raises:
            UserError: there are none.
        """
        if self._public is None or not len(self._public):
            raise UserError("this arm trains on public text: give windows of it (--public)")
        return self._public

    @property
    def public_digest(self) -> str:
        """SHA-256 of the public windows, in hexadecimal; of nothing where there are none."""
        return hashlib.sha256(b"" if self._public is None else self._public.tobytes()).hexdigest()

    @cached_property
    def public_clean(self) -> Float32:
        """Clean pooled outputs of every prefix of the public windows, (N, T, h)."""
        return self.server.every(self.llm.embedding[self.public], None, 0, "public text, clean")

    @cached_property
    def clean(self) -> Mapping[str, tuple[Float32, ...]]:
        """Clean pooled outputs by part and column."""
        identity = self.server.identity
        return {part: self.outputs(self.sent(identity, part, 0), None, identity, f"{part}, clean")
                for part in self.tokens}  # fmt: skip

    @cached_property
    def clean_classifier(self) -> Classifier:
        """Trained on clean outputs."""
        return self.fit(self.clean["train"])

    @cached_property
    def clean_judged(self) -> Judged:
        """The clean arm."""
        found = self.clean_classifier.probabilities(self.clean["test"])[None]
        same = closeness([self.clean["test"]], self.clean["test"])
        return Judged(found, same, same)

    @cached_property
    def lengths(self) -> Mapping[str, tuple[Float32, ...]]:
        """Logarithms of the numbers of tokens that are sent, (N, 1), by part and column."""
        sizes = {part: [[min(len(ids), self.settings.longest) for ids in column] for column in columns]
                 for part, columns in self.tokens.items()}  # fmt: skip
        return {part: tuple(np.log1p(np.array(column, dtype=np.float32)[:, None]) for column in columns)
                for part, columns in sizes.items()}  # fmt: skip

    @cached_property
    def lengths_classifier(self) -> Classifier:
        """Trained on lengths alone."""
        return self.fit(self.lengths["train"])

    @cached_property
    def prior(self) -> Float64:
        """Shares of the classes among the training examples, (K,)."""
        counts = np.bincount(self.task.train.labels, minlength=len(self.task.classes)).astype(np.float64)
        return np.asarray(counts / counts.sum())

    def sent(self, defense: Defense[Any], part: str, draw: int) -> list[list[Group]]:
        """One draw of one part, by column; the same coins in every arm."""
        rng = seeded_rng(self.settings.seed, "coins", part, draw)
        return [protected(defense, column, self.settings.longest, rng) for column in self.tokens[part]]

    def outputs(
        self, sent: Sequence[Sequence[Group]], prompt: torch.Tensor | None, defense: Defense[Any], label: str
    ) -> tuple[Float32, ...]:
        """Pooled outputs by column, (N, h) each."""
        return tuple(self.server.pooled(groups, prompt, defense.entry_block, label) for groups in sent)

    def fit(self, columns: Sequence[Float32]) -> Classifier:
        """A classifier of the task on outputs of its training examples."""
        return fit_classifier(columns, self.task.train.labels, self.task.validation, len(self.task.classes))

    def figures(self, judged: Judged) -> Row:
        """Columns of one arm."""
        settings = self.settings
        return figures(
            judged, self.clean_judged, self.task.test.labels, self.prior,
            seed=settings.seed, resamples=settings.resamples,
        )  # fmt: skip

    def checkpoint(self, *parts: object) -> Path | None:
        """Where a training of this name is kept."""
        if self.work is None:
            return None
        return self.work / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}.safetensors"


def nlu_row(
    bench: NluBench,
    defense: Defense[Any] | None = None,
    arm: str = "none",
    *,
    soft_prompt: torch.Tensor | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Row:
    """One arm of one defence as flat columns; a figure NAME has NAME_low and NAME_high beside it.

    Args:
        bench: The model, the task and what arms share.
        defense: The configured defence; None is the clean arm, or the control.
        arm: One of `ARMS`; `LENGTHS`, without a defence, is the control.
        soft_prompt: Vectors (m, h) for the arms with a soft prompt; None trains them on the public text.
        facts: Further columns, for example the defence's parameters.

    Returns:
        task, arm, defence, accuracy, auc, balanced_accuracy, what each lost to the clean arm, majority_accuracy,
        noisy_mse and noisy_cosine (the server's outputs against the clean ones), read_mse and read_cosine (what the
        classifier read), examples, draws, the chosen penalty, and seconds. Read more in `figures`.

    Raises:
        UserError: there is no such arm, or what it needs is not there.
    """
    started = time.perf_counter()
    more: Row
    if defense is None and arm == LENGTHS:
        name, fitted, more = LENGTHS, bench.lengths_classifier, {}
        judged = Judged(fitted.probabilities(bench.lengths["test"])[None])
        defense = bench.server.identity
    elif defense is None:
        name, judged, fitted = CLEAN, bench.clean_judged, bench.clean_classifier
        defense = bench.server.identity
        more = {}
    elif arm in ARMS:
        name = arm
        judged, fitted, more = _Arm(bench, defense, arm, soft_prompt).judged()
    else:
        raise UserError(f"there is no arm called {arm!r}; there are {', '.join(ARMS)}")
    return {
        "task": bench.task.name, "arm": name, "defence": defense.name, **(facts or {}), "claim": str(defense.claim),
        **bench.figures(judged), **more, "training_examples": len(bench.task.train.labels),
        "columns": len(bench.task.test.columns), "pool": bench.settings.pool, "penalty": fitted.penalty,
        "validation_loss": fitted.validation_loss, "seed": bench.settings.seed,
        "seconds": time.perf_counter() - started,
    }  # fmt: skip


class _Arm:
    """One arm of one defence: its prompt, its denoiser, then training and test examples through both."""

    def __init__(self, bench: NluBench, defense: Defense[Any], arm: str, soft_prompt: torch.Tensor | None) -> None:
        self.bench, self.defense, self.settings = bench, defense, bench.settings
        self.client = arm == "denoiser-client"
        self._name = (defense.name, repr(defense.config), _projection(defense))
        self.prompt = self._prompt(arm, soft_prompt)
        self.denoiser = self._denoiser() if "denoiser" in arm else None

    def judged(self) -> tuple[Judged, Classifier, Row]:
        """What it did, its classifier, and further columns."""
        bench = self.bench
        fitted = bench.fit(self._read("train", 0)[1])
        found = [self._read("test", draw) for draw in range(self._draws())]
        clean = bench.clean["test"]
        noisy = closeness([one[0] for one in found], clean)
        read = noisy if self.denoiser is None else closeness([one[1] for one in found], clean)
        shares = np.stack([fitted.probabilities(columns) for _, columns in found])
        more: Row = {}
        if self.settings.clean_trained:
            foreign = np.stack([bench.clean_classifier.probabilities(columns) for _, columns in found])
            told = bench.figures(Judged(foreign, noisy, read))
            ends = ("", "_low", "_high")
            more = {f"{key}_clean_trained{end}": told[f"{key}{end}"] for key in ("accuracy", "auc") for end in ends}
        return Judged(shares, noisy, read), fitted, more

    def _read(self, part: str, draw: int) -> tuple[Sequence[Float32], Sequence[Float32]]:
        """The server's outputs by column, and what the classifier reads."""
        sent = self.bench.sent(self.defense, part, draw)
        noisy = self.bench.outputs(sent, self.prompt, self.defense, f"{part}, draw {draw + 1}")
        if self.denoiser is None:
            return noisy, noisy
        pairs = zip(sent, noisy, strict=True)
        return noisy, [denoised(self.defense, groups, own, self.denoiser, client=self.client) for groups, own in pairs]

    def _draws(self) -> int:
        """One where the defence has no coins: every draw would be the first."""
        first, second = (
            b"".join(group.view.payload for group in self.bench.sent(self.defense, "test", draw)[0]) for draw in (0, 1)
        )
        return 1 if first == second else self.settings.draws

    def _prompt(self, arm: str, given: torch.Tensor | None) -> torch.Tensor | None:
        """The arm's soft prompt, (m, h)."""
        bench, settings = self.bench, self.settings
        if arm == "rapt":
            train = bench.task.train
            examples = Labelled(bench.tokens["train"], train.labels, len(bench.task.classes))
            noisy = bench.outputs(bench.sent(self.defense, "train", 0), None, self.defense, "train, draw 1")
            own = replace(settings.rapt, longest=settings.longest, pool=settings.pool, seed=settings.seed)
            place = bench.checkpoint("rapt", own, bench.task.sha256, self._name)
            return tune_prompt(bench.llm, self.defense, examples, Scale.of(np.concatenate(noisy)), own,
                               checkpoint=place)  # fmt: skip
        if not arm.startswith("soft-prompt"):
            return None
        if given is not None:
            return given
        own_training = replace(prompt_settings(settings.training, settings.prompt_steps), seed=settings.seed)
        place = bench.checkpoint("prompt", own_training, settings.prompt_vectors, self._name, bench.public_digest)
        return train_matching_prompt(
            bench.llm, self.defense, bench.public, bench.public_clean, own_training,
            vectors=settings.prompt_vectors, pool=settings.pool,
            checkpoint=place,
        )  # fmt: skip

    def _denoiser(self) -> Denoiser:
        """Trained on public text behind this defence and prompt."""
        bench, settings = self.bench, self.settings
        block = self.defense.entry_block
        draws = []
        for draw in range(settings.public_draws):
            label = f"public text, draw {draw + 1}"
            run = partial(bench.server.every, prompt=self.prompt, entry_block=block, label=label)
            coins = seeded_rng(settings.seed, "public", draw)
            draws.append(public_draw(self.defense, bench.public, coins, run, client=self.client))
        training = replace(settings.training, seed=settings.seed)
        prompt = None if self.prompt is None else self.prompt.cpu().numpy().tobytes()
        place = bench.checkpoint(
            "denoiser", settings.network, training, settings.public_draws, self._name, self.client, prompt,
            bench.public_digest,
        )  # fmt: skip
        return train_denoiser(bench.public_clean, draws, settings.network, training, checkpoint=place)


def measured(
    bench: NluBench, defense: Defense[Any] | None, arm: str, facts: Mapping[str, Any], out: Path | None
) -> Row:
    """As `nlu_row`, from the output folder where this arm is finished there."""
    if out is None:
        return nlu_row(bench, defense, arm, facts=facts)
    place = out / "conditions" / f"{_key(bench, defense, arm, facts)}.json"
    try:
        row: Row = dict(json_value(read_limited(place, MIB, "finished arm")))
    except (UserError, ValueError, TypeError):
        row = nlu_row(bench, defense, arm, facts=facts)
        write_text(place, json.dumps(row))
    return row


def _key(bench: NluBench, defense: Defense[Any] | None, arm: str, facts: Mapping[str, Any]) -> str:
    """A hash over all that a row depends on."""
    own = CLEAN if defense is None and arm != LENGTHS else arm
    named = {"settings": asdict(bench.settings), "facts": dict(facts), "arm": own,
             "defence": None if defense is None else [defense.name, repr(defense.config), _projection(defense)],
             "task": [bench.task.name, bench.task.classes, bench.task.sha256], "public": bench.public_digest,
             "model": [bench.llm.name, bench.llm.fingerprint], "code": code_digest()}  # fmt: skip
    return hashlib.sha256(json.dumps(named, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _projection(defense: Defense[Any]) -> str:
    """A hash of the projection that a defence stands on."""
    projection = defense.assets.projection
    if projection is None:
        return ""
    return hashlib.sha256(projection.encoder.tobytes() + projection.decoder.tobytes()).hexdigest()

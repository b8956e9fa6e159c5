"""Attribute inference on one defence: who is split from whom, what is chosen on which users, what the victims show.

The adversary trains on views that it makes itself, with fresh coins, of prompts by auxiliary users. Classifier and
features are chosen on further auxiliary users, and judged once, on victims that neither step has seen.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from attacks.base import Attack, Tools, attacks
from attacks.features import UNLABELLED, AttributeAdversary, Features
from audit.attribute_statistics import Float64, Int64, Measured, Predictions
from audit.attribute_tasks import AttributeData, AttributeTask, grouped
from audit.provenance import code_digest
from defenses.base import Defense, Unavailable, View
from defenses.errors import UserError
from defenses.kept import keep_arrays, kept_arrays
from defenses.randomness import seeded_rng
from defenses.untrusted import json_value

Kind = Literal["clean", "projected", "defended", "answer", "length", "permuted"]

# What is tried beside each classifier's defaults; the validation users decide.
GRID: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "attribute-logistic": (
        {"C": 1.0}, {"C": 10.0}, {"C": 100.0}, {"features": "counts"}, {"features": "moments"},
        {"features": "moments", "C": 1000.0},
    ),
    "attribute-boosting": ({}, {"features": "moments"}),
    "attribute-mlp": ({}, {"features": "moments"}),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How a run is made.

    Attributes:
        seeds: Repeats with fresh coins for everybody, where a defence has coins.
        permutations: Permutations of the auxiliary labels for each repeat of the null.
        longest: Tokens that are kept of a prompt.
        shortest: Prompts below this many tokens are left out.
        seed: Names every draw.
        resamples: Of users, for the intervals.

    Raises:
        UserError: a number is out of range.
    """

    seeds: int = 3
    permutations: int = 4
    longest: int = 64
    shortest: int = 4
    seed: int = 0
    resamples: int = 2000

    def __post_init__(self) -> None:
        if min(self.seeds, self.permutations, self.shortest) < 1 or self.longest < self.shortest:
            raise UserError(
                "seeds, permutations and tokens must be at least 1, and the longest prompt not the shortest"
            )
        if self.resamples < 2000:
            raise UserError(f"intervals over users need at least 2,000 resamples, not {self.resamples}")


@dataclass(frozen=True, eq=False)
class Condition:
    """One defence whose views are read.

    Attributes:
        kind: "clean", "projected" or "defended"; "answer" or "length" where that is seen in place of the prompt.
        defense: The configured defence.
        facts: Columns for its rows: defence, projection, parameters.
        null: Whether labels permuted among the auxiliary users are tried on it too.
        tokens: What is seen in place of each prompt (`audit.revealed`); None: the prompts.
    """

    kind: Kind
    defense: Defense[Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    null: bool = False
    tokens: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True, eq=False)
class Judged:
    """What the victims' views gave away in one task.

    Attributes:
        task: The attribute.
        kind: As of the condition, or "permuted".
        facts: Of the condition.
        predictions: On the victims.
        chosen: The adversary that validation chose, with its options.
        validation_auc: Its macro AUC there: the greatest of several, so it flatters.
        counted_by: How expected tokens were had.
        posterior: Mean probability of its first guess on the victims.
    """

    task: str
    kind: Kind
    facts: Mapping[str, Any]
    predictions: Predictions
    chosen: str
    validation_auc: float
    counted_by: str
    posterior: float


@dataclass(frozen=True, eq=False)
class Side:
    """One split's views with the numbers of their prompts.

    Attributes:
        views: One a group of prompts of equal length.
        rows: For each view the prompts' numbers in the data.
    """

    views: list[View]
    rows: list[Int64]

    def classes(self, labels: Int64) -> list[Int64]:
        """Labels of all prompts (N,), view by view."""
        return [labels[rows] for rows in self.rows]


def evaluate(
    data: AttributeData,
    tokens: Sequence[Sequence[int]],
    splits: Int64,
    conditions: Sequence[Condition],
    settings: Settings,
    *,
    work: Path | None = None,
) -> list[Judged]:
    """Every task under every condition, in their order.

    Args:
        data: Prompts, users and labels.
        tokens: Token ids of each prompt.
        splits: 0 auxiliary-train, 1 auxiliary-validation, 2 victim-test, (N,).
        conditions: What is read.
        settings: How.
        work: A folder that keeps finished conditions, so that a run that was broken off goes on.

    Raises:
        ValueError: a user is in two splits.
    """
    if any(len(np.unique(splits[data.users == user])) > 1 for user in np.unique(data.users)):
        raise ValueError("a user is in two splits")
    found: list[Judged] = []
    for index, condition in enumerate(tqdm(conditions, desc="views", unit="view", leave=False)):
        seen = tokens if condition.tokens is None else condition.tokens
        key = _key(data, seen, splits, condition, settings)
        judged = _read(work, key, condition)
        if judged is None:
            judged = list(_judge(data, seen, splits, condition, replace(settings, seed=settings.seed + index)))
            _keep(work, key, judged)
        found += judged
    return found


def choose(
    candidates: Sequence[Attack], task: AttributeTask, train: Side, validation: Side, users: Int64
) -> tuple[Attack, float]:
    """The candidate, fitted on training users, with the greatest macro AUC on validation users, and that AUC.

    Raises:
        Unavailable: none of them can learn here; the last one's reason.
    """
    best: tuple[Attack, float] | None = None
    reason = Unavailable("no attribute adversary is installed")
    for candidate in candidates:
        try:
            fitted = candidate.fit(train.views, train.classes(task.labels))
            found = predict(fitted, validation, task, users, _prior(task, train))
        except Unavailable as error:
            reason = error
            continue
        auc = float(Measured(found).measures(np.ones((1, len(np.unique(found.users)))))["auc"][0])
        if best is None or auc > best[1]:
            best = fitted, auc
    if best is None:
        raise reason
    return best


def predict(attack: Attack, side: Side, task: AttributeTask, users: Int64, prior: Float64) -> Predictions:
    """Probabilities of the labelled prompts of one split, as one repeat."""
    parts, rows = [], np.concatenate(side.rows)
    for view in side.views:
        guess = attack.guess(view)
        shares = np.zeros((view.shape[0], len(task.classes)))
        np.put_along_axis(shares, guess.candidates, np.exp(guess.scores.astype(np.float64)), axis=1)
        parts.append(shares)
    known = task.labels[rows] != UNLABELLED
    return Predictions(np.concatenate(parts)[known][None], task.labels[rows[known]], users[rows[known]], prior)


def permuted(labels: Int64, users: Int64, splits: Int64, rng: np.random.Generator) -> Int64:
    """Labels (N,) dealt anew among the users of each auxiliary split: each user gets those of one other user.

    A user with more prompts than the other has the other's labels again from the start. Victims keep their own.
    """
    dealt = labels.copy()
    for split in (0, 1):
        inside = (splits == split) & (labels != UNLABELLED)
        members = [np.flatnonzero(inside & (users == user)) for user in np.unique(users[inside])]
        for rows, source in zip(members, rng.permutation(len(members)), strict=True):
            dealt[rows] = np.resize(labels[members[source]], len(rows))
    return dealt


def candidates(defense: Defense[Any], features: Features, seed: int) -> list[Attack]:
    """Every installed attribute adversary, with the options that are tried."""
    found: list[Attack] = []
    for name, plugin in attacks().items():
        if plugin.target != "attribute":
            continue
        for changes in GRID.get(name, ({},)):
            shared = {"features": features} if issubclass(plugin, AttributeAdversary) else {}
            found.append(plugin(defense, plugin.Options(**changes), Tools(seed=seed), **shared))
    return found


def _judge(
    data: AttributeData, tokens: Sequence[Sequence[int]], splits: Int64, condition: Condition, settings: Settings
) -> Iterator[Judged]:
    """All tasks under one condition: repeats with fresh coins, the choice made in the first of them."""
    kinds: tuple[Kind, ...] = (condition.kind, "permuted") if condition.null else (condition.kind,)
    games = [_Game(task, kind, data.users, splits, settings) for kind in kinds for task in data.tasks]
    first: bytes | None = None
    counted_by = ""
    for repeat in tqdm(range(settings.seeds), desc="coins", unit="seed", leave=False):
        sides = _protect(tokens, splits, condition.defense, seeded_rng(settings.seed, "coins", repeat), settings)
        payload = b"".join(view.payload for side in sides for view in side.views)
        if payload == first:
            break  # no coins: every repeat is the first
        first = payload if first is None else first
        text = [np.asarray(tokens[int(row)][: settings.longest]) for rows in sides[0].rows for row in rows]
        features = Features(condition.defense, text)
        for game in games:
            game.play(condition.defense, features, sides, repeat)
        counted_by = features.counted_by
    for game in games:
        yield game.judged(condition.facts, counted_by)


class _Game:
    """One task in one view: what was chosen in the first repeat, and the predictions of all repeats."""

    def __init__(self, task: AttributeTask, kind: Kind, users: Int64, splits: Int64, settings: Settings) -> None:
        self.task, self.kind, self.users, self.splits, self.settings = task, kind, users, splits, settings
        self.repeats: list[Predictions] = []
        self.label, self.options, self.auc = "", None, 0.0
        self.plugin: type[Attack] | None = None

    def play(self, defense: Defense[Any], features: Features, sides: Sequence[Side], repeat: int) -> None:
        """One repeat; the null has several permutations in each."""
        train, validation, test = sides
        for number in range(self.settings.permutations if self.kind == "permuted" else 1):
            task = self._told(repeat, number)
            tried = candidates(defense, features, self.settings.seed)
            if self.plugin is not None:
                tried = [one for one in tried if type(one) is self.plugin and one.options == self.options]
            fitted, auc = choose(tried, task, train, validation, self.users)
            if self.plugin is None:
                self.plugin, self.options, self.label, self.auc = type(fitted), fitted.options, fitted.label, auc
            # The victims' own labels stand here also in the null: only what the adversary learnt was permuted.
            self.repeats.append(predict(fitted, test, self.task, self.users, _prior(task, train)))

    def judged(self, facts: Mapping[str, Any], counted_by: str) -> Judged:
        """All repeats as one."""
        found = np.concatenate([one.probabilities for one in self.repeats])
        posterior = float(found.max(axis=-1).mean())
        whole = replace(self.repeats[0], probabilities=found)
        return Judged(self.task.name, self.kind, facts, whole, self.label, self.auc, counted_by, posterior)

    def _told(self, repeat: int, number: int) -> AttributeTask:
        """The task with the labels that the adversary is told."""
        if self.kind != "permuted":
            return self.task
        rng = seeded_rng(self.settings.seed, "null", self.task.name, repeat, number)
        return replace(self.task, labels=permuted(self.task.labels, self.users, self.splits, rng))


def _protect(
    tokens: Sequence[Sequence[int]],
    splits: Int64,
    defense: Defense[Any],
    rng: np.random.Generator,
    settings: Settings,
) -> list[Side]:
    """Each split's prompts through the true mechanism."""
    sides = []
    for split in range(3):
        members = np.flatnonzero(splits == split)
        groups = grouped([tokens[int(row)] for row in members], settings.longest, settings.shortest)
        views = [defense.protect(np.asarray(ids, dtype=np.int64), rng) for _, ids in groups]
        sides.append(Side(views, [members[rows] for rows, _ in groups]))
    return sides


def _prior(task: AttributeTask, train: Side) -> Float64:
    """Shares of the classes among the labelled training prompts, (K,)."""
    labels = np.concatenate(train.classes(task.labels))
    counts = np.bincount(labels[labels != UNLABELLED], minlength=len(task.classes)).astype(np.float64)
    return np.asarray(counts / counts.sum())


def _key(
    data: AttributeData, tokens: Sequence[Sequence[int]], splits: Int64, condition: Condition, settings: Settings
) -> str:
    """A hash over all that the result of one condition depends on."""
    facts = {"settings": asdict(settings), "facts": dict(condition.facts), "kind": condition.kind,
             "null": condition.null, "tasks": [task.name for task in data.tasks], "code": code_digest()}  # fmt: skip
    state = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    arrays: list[NDArray[Any]] = [splits, data.users, condition.defense.assets.embedding[:64]]
    projection = condition.defense.assets.projection
    arrays += [] if projection is None else [projection.encoder, projection.decoder]
    for array in (*arrays, *(task.labels for task in data.tasks), *(np.array(ids) for ids in tokens)):
        state.update(np.ascontiguousarray(array).tobytes() + b"|")
    return state.hexdigest()[:24]


def _keep(work: Path | None, key: str, judged: Sequence[Judged]) -> None:
    """Write a finished condition, in one step."""
    if work is None:
        return
    notes = [[one.task, one.kind, one.chosen, one.validation_auc, one.counted_by, one.posterior] for one in judged]
    arrays: dict[str, Any] = {"notes": np.array(json.dumps(notes))}
    for index, one in enumerate(judged):
        parts = {"p": one.predictions.probabilities, "labels": one.predictions.labels,
                 "users": one.predictions.users, "prior": one.predictions.prior}  # fmt: skip
        arrays |= {f"{index}-{name}": value for name, value in parts.items()}
    keep_arrays(work / f"{key}.npz", arrays)


def _read(work: Path | None, key: str, condition: Condition) -> list[Judged] | None:
    """A finished condition; None where there is none, or half of one."""
    kept = None if work is None else kept_arrays(work / f"{key}.npz")
    if kept is None:
        return None
    try:
        notes = json_value(str(kept["notes"]))
        parts = [[kept[f"{i}-{name}"] for name in ("p", "labels", "users", "prior")] for i in range(len(notes))]
        return [
            Judged(task, kind, condition.facts, Predictions(*part), chosen, auc, counted, posterior)
            for (task, kind, chosen, auc, counted, posterior), part in zip(notes, parts, strict=True)
        ]
    except (ValueError, KeyError, TypeError):
        return None

"""How much of the prompts an attack read: every figure of token recovery, with intervals over documents and coins.

An attack is tried on the same prompts under S seeds of the mechanism. What a document gave under all seeds is added up
before documents are resampled, so that an interval covers the choice of documents and the coins, which are drawn anew
for every prompt and seed. It does not cover anything that was drawn once for all, such as a projection.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sacrebleu.metrics.bleu import BLEU

from attacks.base import TOP, Guess
from audit.intervals import clopper_pearson, cluster_bootstrap, paired_cluster_bootstrap
from audit.measures import figure
from audit.multiplicity import holm_adjusted, sign_flip_p
from audit.token_kinds import Kinds
from defenses.base import Tokens
from defenses.randomness import seeded_rng

Float64 = NDArray[np.float64]
Columns = dict[str, float | str | None]

_ROUGE_WORD = re.compile(r"[a-z0-9]+")
_BLEU = BLEU(effective_order=True)


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts that attacks were tried on.

    Attributes:
        secrets: Their token ids, (N, T).
        clusters: The document or user of each, (N,): what was drawn independently.
        decode: Token ids (T,) to text; without it there are no figures of text.
        kinds: Kinds of the positions; without them there are no figures of content words, names and numbers.
        seed: Names the resamples.
        resamples: Bootstrap resamples of each figure.

    Raises:
        ValueError: the shapes do not fit together.
    """

    secrets: Tokens
    clusters: NDArray[np.int64]
    decode: Callable[[Tokens], str] | None = None
    kinds: Kinds | None = None
    seed: int = 0
    resamples: int = 2000

    def __post_init__(self) -> None:
        if self.secrets.ndim != 2 or self.clusters.shape != self.secrets.shape[:1]:
            raise ValueError(f"secrets {self.secrets.shape} and clusters {self.clusters.shape} are not (N, T) and (N,)")
        if self.kinds is not None and self.kinds.content.shape != self.secrets.shape:
            raise ValueError(f"kinds {self.kinds.content.shape} do not fit secrets {self.secrets.shape}")

    @cached_property
    def texts(self) -> list[str]:
        """The prompts as text; empty without `decode`."""
        return [] if self.decode is None else [self.decode(row) for row in self.secrets]

    def sums(self, values: ArrayLike, seeds: int) -> Float64:
        """Sums per document, (C,), of what each prompt gave: (S, N), or anything that broadcasts to it."""
        wide = np.broadcast_to(np.asarray(values, dtype=np.float64), (seeds, len(self.secrets)))
        return np.bincount(self._places, weights=wide.sum(axis=0)).astype(np.float64)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        return np.unique(self.clusters, return_inverse=True)[1].astype(np.int64)


def recover(
    label: str,
    guesses: Sequence[Guess],
    prompts: Prompts,
    prior: Sequence[Guess] | None = None,
) -> Columns:
    """Every figure of one attack, as columns NAME_<label>, NAME_<label>_low and NAME_<label>_high.

    Shares run from 0 to 1 and are of all tokens (or prompts) under all seeds; intervals are of 95 %.

    * asr_top1, asr_top10: positions whose token is the first guess, or among the first ten that the attack kept.
    * asr_content, asr_names, asr_numbers: top-1 at positions of a kind; the column "names_are" says what a name is.
    * advantage: top-1 less that of the blind prior on the same tokens.
    * rank_median, rank_kept: median place of the secret among the rank_kept candidates. A median, or an end of its
      interval, that is None beside a rank_kept lies above it.
    * exact: prompts that were read without a mistake.
    * bag_precision, bag_recall: guessed tokens that the prompt holds, and the prompt's tokens that were guessed,
      wherever they stand, as multisets. An attack that guesses at every position has the same of both.
    * rouge_l: mean over prompts of `rouge_l`. bleu: mean sentence BLEU (sacrebleu: 13a, effective order), 0 to 1.
    * posterior_mean, posterior_gap: mean maximal posterior, which needs no secrets, and that less asr_top1.

    Args:
        label: The attack's.
        guesses: One for each seed of the mechanism, candidates (N, T, k). A negative id is no guess: a text that ended.
        prompts: What was attacked.
        prior: The blind prior's guesses, one for each seed; without it there is no advantage.

    Raises:
        ValueError: the guesses do not fit the prompts or each other.
    """
    guess = _stack(guesses, prompts)
    found = _success(label, guess, prompts)
    if prior is not None:
        first, second = (_read(one, prompts) for one in (guess, _stack(prior, prompts)))
        found |= difference(f"advantage_{label}", first, second, prompts.secrets.shape[1], prompts)
    found |= _median_rank(label, guess, prompts)
    found |= _bags(label, guess, prompts)
    found |= _texts(label, guess, prompts)
    return found | _posterior(label, guess, prompts)


def compare(
    reference: str,
    guesses: Mapping[str, Sequence[Guess]],
    prompts: Prompts,
) -> Columns:
    """Paired differences in top-1 success of all attacks from a reference on the same views.

    Columns gain_<label>_over_<reference> with _low and _high; with _p, the p-value of "no difference" by the sign-flip
    test over documents; and with _p_holm, the same adjusted for the family of all attacks given here.

    Args:
        reference: A label among the guesses.
        guesses: For each label the attack's guesses, one for each seed, in the same order of seeds.
        prompts: What was attacked.

    Raises:
        ValueError: the guesses do not fit, or the reference is not among them.
    """
    if reference not in guesses:
        raise ValueError(f"the reference {reference} is not among {', '.join(guesses)}")
    read = {label: _read(_stack(of, prompts), prompts) for label, of in guesses.items()}
    found: Columns = {}
    p_values: dict[str, float] = {}
    for label in (label for label in read if label != reference):
        name = f"gain_{label}_over_{reference}"
        found |= difference(name, read[label], read[reference], prompts.secrets.shape[1], prompts)
        gains = prompts.sums(read[label] - read[reference], len(guesses[label]))
        p_values[name] = sign_flip_p(gains, seeded_rng(prompts.seed, "sign-flip", name))
    found |= {f"{name}_p": p for name, p in p_values.items()}
    return found | {f"{name}_p_holm": p for name, p in holm_adjusted(p_values).items()}


def share(
    name: str,
    numerators: NDArray[np.generic],
    denominators: ArrayLike,
    prompts: Prompts,
) -> dict[str, float | None]:
    """A share, sum(numerators) / sum(denominators), each numerator (S, N) in [0, its denominator].

    Where every document gave nothing (or everything), resampling them shows no doubt at all. A share is then at most
    the chance that a fresh document of like size gives anything, whose exact limit takes the place of that end. Without
    a denominator the columns are None; with only one document the interval is.

    Args:
        name: Of the column, and of the stream of its resamples.
        numerators: (S, N).
        denominators: Anything that broadcasts to (S, N).
        prompts: Whose documents are resampled.
    """
    num, den = prompts.sums(numerators, len(numerators)), prompts.sums(denominators, len(numerators))
    held = int(np.count_nonzero(den))
    if held == 0:
        return {name: None, **_no_interval(name)}
    value = float(num.sum() / den.sum())
    if held == 1:
        return figure(name, value, None)
    if value in (0.0, 1.0):
        return figure(name, value, clopper_pearson(held if value else 0, held))
    rng = seeded_rng(prompts.seed, "bootstrap", name)
    return figure(name, value, cluster_bootstrap(num, den, rng, resamples=prompts.resamples))


def difference(
    name: str,
    first: NDArray[np.generic],
    second: NDArray[np.generic],
    counts: ArrayLike,
    prompts: Prompts,
) -> dict[str, float | None]:
    """A paired difference, sum(first - second) / sum(counts), on the same prompts and seeds.

    Args:
        name: Of the column, and of the stream of its resamples.
        first: (S, N).
        second: (S, N).
        counts: Anything that broadcasts to (S, N).
        prompts: Whose documents are resampled.

    Raises:
        ValueError: the two were not tried under the same number of seeds.
    """
    if first.shape != second.shape:
        raise ValueError(f"a paired difference needs the same prompts and seeds, not {first.shape} and {second.shape}")
    one, other, den = (prompts.sums(values, len(first)) for values in (first, second, counts))
    value = float((one.sum() - other.sum()) / den.sum())
    if np.count_nonzero(den) < 2:
        return figure(name, value, None)
    rng = seeded_rng(prompts.seed, "bootstrap", name)
    interval = paired_cluster_bootstrap((one, den), (other, den), rng, resamples=prompts.resamples)
    return figure(name, value, interval)


def bag_overlap(guess: Sequence[int], secret: Sequence[int]) -> int:
    """How many tokens two texts have in common, each as often as it stands in both."""
    return (Counter(guess) & Counter(secret)).total()


def rouge_l(guess: str, secret: str) -> float:
    """Sentence-level ROUGE-L (Lin 2004), the balanced F-measure, in [0, 1]; 0 where either has no words.

    Words are runs of a-z and 0-9 in lower case, without stemming, as in the rouge-score package.
    """
    words = [_ROUGE_WORD.findall(text.lower()) for text in (guess, secret)]
    return 2 * common_subsequence(*words) / max(1, len(words[0]) + len(words[1]))


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time as bits (Hyyrö 2004, figure 3)."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full  # a zero bit is a place where the table's row steps up by one
    for word in second:
        met = row & places.get(word, 0)
        row = (row + met | row - met) & full
    return len(first) - row.bit_count()


def _stack(guesses: Sequence[Guess], prompts: Prompts) -> Guess:
    """Guesses of all seeds as one: candidates and scores (S, N, T, k)."""
    shapes = {guess.candidates.shape for guess in guesses}
    if len(shapes) != 1 or next(iter(shapes))[:-1] != prompts.secrets.shape:
        raise ValueError(f"guesses of shapes {sorted(shapes)} do not fit prompts of shape {prompts.secrets.shape}")
    candidates = np.stack([guess.candidates for guess in guesses])
    scores = np.stack([guess.scores for guess in guesses])
    return Guess(candidates, scores, all(guess.is_posterior for guess in guesses))


def _read(guess: Guess, prompts: Prompts) -> NDArray[np.int64]:
    """Tokens of each prompt that the first guess names, (S, N)."""
    return np.asarray(guess.hits(prompts.secrets).sum(axis=-1))


def _success(label: str, guess: Guess, prompts: Prompts) -> Columns:
    """Top-1, top-k, top-1 by kind, and whole prompts."""
    hits, length = guess.hits(prompts.secrets), prompts.secrets.shape[1]
    found: Columns = {}
    found |= share(f"asr_top1_{label}", hits.sum(axis=-1), length, prompts)
    found |= share(f"asr_top{TOP}_{label}", guess.hits(prompts.secrets, TOP).sum(axis=-1), length, prompts)
    found |= share(f"exact_{label}", np.asarray(hits.all(axis=-1)), 1, prompts)
    if prompts.kinds is None:
        return found
    for kind, mask in prompts.kinds.masks.items():
        found |= share(f"asr_{kind}_{label}", (hits & mask).sum(axis=-1), mask.sum(axis=-1), prompts)
    return found | {"names_are": prompts.kinds.names_are}


def _median_rank(label: str, guess: Guess, prompts: Prompts) -> Columns:
    """The median and its interval from the shares of ranks up to r (Woodruff 1952).

    The same documents are resampled for every r, so the ends are those of resampled medians.
    """
    ranks, kept = guess.ranks(prompts.secrets), guess.candidates.shape[-1]
    name = f"rank_median_{label}"
    found: Columns = {name: None, **_no_interval(name), f"rank_kept_{label}": float(kept)}
    # The median is certainly at most r once the lower end of the share is a half, and may be once the upper end is.
    ends = {name: name, f"{name}_low": f"{name}_high", f"{name}_high": f"{name}_low"}
    for rank in range(1, kept + 1):
        within = share(name, (ranks <= rank).sum(axis=-1), prompts.secrets.shape[1], prompts)
        for column, of in ends.items():
            limit = within[of]
            if found[column] is None and limit is not None and limit >= 0.5:
                found[column] = float(rank)
    return found


def _bags(label: str, guess: Guess, prompts: Prompts) -> Columns:
    """Precision and recall of the bag of first guesses."""
    first, secrets = guess.candidates[..., 0], prompts.secrets.tolist()
    overlap = np.array(
        [[bag_overlap(row, secret) for row, secret in zip(seed, secrets, strict=True)] for seed in first.tolist()]
    )
    found: Columns = {}
    found |= share(f"bag_precision_{label}", overlap, (first >= 0).sum(axis=-1), prompts)
    return found | share(f"bag_recall_{label}", overlap, prompts.secrets.shape[1], prompts)


def _texts(label: str, guess: Guess, prompts: Prompts) -> Columns:
    """ROUGE-L and BLEU of decoded first guesses."""
    if prompts.decode is None:
        return {}
    scores = np.array(
        [
            [_text_scores(prompts.decode(row[row >= 0]), text) for row, text in zip(seed, prompts.texts, strict=True)]
            for seed in guess.candidates[..., 0]
        ]
    )
    found: Columns = {}
    found |= share(f"rouge_l_{label}", scores[..., 0], 1, prompts)
    return found | share(f"bleu_{label}", scores[..., 1], 1, prompts)


def _text_scores(guess: str, secret: str) -> tuple[float, float]:
    """ROUGE-L and sentence BLEU; sacrebleu's hundredths of a perfect text are 100 but for rounding."""
    return rouge_l(guess, secret), min(1.0, round(_BLEU.sentence_score(guess, [secret]).score / 100, 12))


def _posterior(label: str, guess: Guess, prompts: Prompts) -> Columns:
    """What the attack expects of itself, beside what it gets."""
    if not guess.is_posterior:
        return {}
    length = prompts.secrets.shape[1]
    expected = guess.maximal_posterior().astype(np.float64).sum(axis=-1)
    found: Columns = {}
    found |= share(f"posterior_mean_{label}", expected, length, prompts)
    return found | difference(f"posterior_gap_{label}", expected, _read(guess, prompts), length, prompts)


def _no_interval(name: str) -> dict[str, float | None]:
    return {f"{name}_low": None, f"{name}_high": None}

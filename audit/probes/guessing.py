"""An attack as an audit: it guesses a secret whose blind guess is known, and its success is held against the claim.

A secret token z is drawn uniformly from M public candidates, so that a blind guess succeeds with kappa = 1 / M, and is
protected alone. With f the claim's trade-off function no adversary names z with probability above 1 - f(kappa)
(reconstruction robustness: Balle, Cherubin and Hayes 2022; Hayes, Mahloujifar and Balle 2023).

More than the bare success is kept. Let s(t, view) be the attack's score of candidate t. For two candidates z and z'
the event s(z, .) >= c is no likelier under a view of z than 1 - f of its probability under a view of z'; as 1 - f is
concave, the same holds on average over all pairs. So scores of the true secret on its own view, against scores of a
decoy on a view of another secret, are evidence on the claim like those of two fixed inputs.
"""

from typing import Any

import numpy as np
from scipy.special import logsumexp
from tqdm import tqdm

from attacks.base import Attack, Guess, Tools
from audit.adversaries import Adversary
from audit.bounds.base import Scores
from audit.intervals import clopper_pearson
from audit.probes.base import Float64, Inputs, ProbeResult, evidence_of
from defenses.base import Defense, Tokens, Unavailable
from defenses.errors import UserError

CANDIDATES = 2  # the farthest two: more of them lie closer together, and show less of the mechanism
LEARNT = 4096  # one-token texts that the attack takes its prior from
KEPT = 1024  # candidates that the attack scores


def collect_guesses(
    defense: Defense[Any],
    one: Adversary,
    samples: int,
    rng: np.random.Generator,
    *,
    candidates: int = CANDIDATES,
    progress: bool = True,
) -> ProbeResult:
    """Let an attack guess `samples` secrets, and as many decoys.

    Every trial is a prompt of its own with one token, and no attack sees two: trials are independent.

    Args:
        defense: Configured, with its assets.
        one: The attack.
        samples: Trials with the secret, and trials with a decoy.
        rng: For secrets, decoys and the defence's coins.
        candidates: M; the tokens that lie farthest from each other are taken, the same for all trials.
        progress: Show a bar, where standard error is a terminal.

    Raises:
        UserError: the attack cannot run against this defence, or needs several messages of a prompt.
        EvidenceError: the mechanism raised.
    """
    pool = far_apart(defense, candidates)
    attack = _fitted(defense, one, pool, rng)
    rank = np.full(defense.assets.vocabulary, -1)
    rank[pool] = np.arange(len(pool))
    found: list[Float64] = []
    read = 0
    with tqdm(
        total=2 * samples,
        unit="trial",
        desc=f"guessing {defense.name}",
        disable=None if progress else True,
        leave=False,
    ) as bar:
        for role in ("secret", "decoy"):
            secrets = rng.choice(pool, samples)
            shift = 0 if role == "secret" else rng.integers(1, len(pool), samples)
            named = pool[(rank[secrets] + shift) % len(pool)]
            scores = np.empty(samples)
            for trial in range(samples):
                with evidence_of(defense.name, "protecting a token"):
                    view = defense.protect(secrets[trial : trial + 1, None], rng)
                shown = _over_pool(attack.guess(view), rank, len(pool))
                scores[trial] = _margin(shown, int(rank[named[trial]]))
                read += role == "secret" and int(shown.argmax()) == int(rank[secrets[trial]])
                bar.update()
            found.append(scores)
    success = clopper_pearson(read, samples)
    table = defense.latent_table()[pool].astype(np.float64)
    reach = float(np.linalg.norm(table[:, None] - table[None], axis=-1).max())
    return ProbeResult(
        scores=Scores(found[1], found[0]),
        score=(
            f"the attack {attack.label}, which names {read / samples:.1%} of the secrets "
            f"[{success.low:.1%}, {success.high:.1%}] where a blind guess names {1 / len(pool):.1%}"
        ),
        through="attack",
        inputs=f"a secret among {len(pool)} tokens, one a prompt",
        uses=1,
        distance=reach,
        facts={
            "kappa": 1 / len(pool),
            "success": read / samples,
            "success_low": success.low,
            "success_high": success.high,
        },
        pair=Inputs(pool[:1], pool[1:2], "the two candidates that are farthest apart", reach),
    )


def far_apart(defense: Defense[Any], count: int) -> Tokens:
    """Tokens whose noise-free vectors lie far from each other, (M,): each next one farthest from those before.

    Raises:
        UserError: the vocabulary has fewer than two.
    """
    table = defense.latent_table()
    if len(table) < 2 or count < 2:
        raise UserError("a guess needs at least two candidates: give a vocabulary of two tokens or more")
    chosen = [int(np.square(table - table.mean(axis=0)).sum(axis=1).argmax())]
    gaps = np.full(len(table), np.inf)
    while len(chosen) < min(count, len(table)):
        gaps = np.minimum(gaps, np.square(table - table[chosen[-1]]).sum(axis=1))
        gaps[chosen] = -1.0
        chosen.append(int(gaps.argmax()))
    return np.array(chosen, dtype=np.int64)


def _fitted(defense: Defense[Any], one: Adversary, pool: Tokens, rng: np.random.Generator) -> Attack:
    """The attack, with the secrets' own law as its prior."""
    tools = Tools(seed=int(rng.integers(2**31)), keep=min(KEPT, defense.assets.vocabulary))
    try:
        attack = one.against(defense, tools)
        if attack.knowledge.sends > 1:
            raise UserError(f"attack {one.text}: the audit shows one message of each secret; choose another attack")
        attack.fit([], [rng.choice(pool, (LEARNT, 1))])
        attack.guess(defense.protect(pool[:1, None], rng))
    except Unavailable as reason:
        raise UserError(f"attack {one.text}: {reason}") from reason
    return attack


def _over_pool(guess: Guess, rank: Any, size: int) -> Float64:
    """The scores of the M candidates, (M,); one that the attack left out gets the least that it gave to any token."""
    tokens, scores = guess.candidates.ravel(), guess.scores.ravel().astype(np.float64)
    found = np.full(size, scores.min())
    inside = rank[tokens] >= 0
    found[rank[tokens[inside]]] = scores[inside]
    return found


def _margin(scores: Float64, place: int) -> float:
    """How far one candidate's score stands above what the others have together."""
    return float(scores[place] - logsumexp(np.delete(scores, place)))

"""Empirical Bayes: the traffic mends a wrong prior, a right one is left alone, and posteriors stay honest."""

import numpy as np

from attacks.adaptation import FOLDS, ITERATIONS, STRENGTHS, Shortlist, _Candidates, adapt, public
from attacks.ranking import scanned

V, LENGTH = 60, 20
TRUE = np.random.default_rng(5).dirichlet(np.full(V, 0.3))
FLAT = np.full(V, 1 / V)


def traffic(noise: float, prompts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the true law, (n,), and log likelihoods (n, V) of a Gaussian view of one-hot vectors."""
    rng = np.random.default_rng(seed)
    tokens = rng.choice(V, prompts * LENGTH, p=TRUE)
    views = np.eye(V)[tokens] + noise * rng.normal(size=(len(tokens), V))
    return tokens, views / noise**2


def shortlist(likelihood: np.ndarray, base: np.ndarray, size: int = 30) -> Shortlist:
    """The best tokens of every position under a public law, one prompt at a time."""
    log_prior = np.log(base).astype(np.float32)
    prompts = likelihood.astype(np.float32).reshape(-1, LENGTH, V)
    return Shortlist.joined([Shortlist.of(scanned(one, size, log_prior), log_prior) for one in prompts])


def success(found: Shortlist, weights: np.ndarray, tokens: np.ndarray) -> float:
    """Share of positions whose likeliest candidate is the token."""
    best = np.take_along_axis(found.tokens, weights.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float((best == tokens).mean())


def test_a_wrong_prior_is_mended() -> None:
    """From a flat prior the traffic's own frequencies win back most of what the true prior would give."""
    tokens, likelihood = traffic(0.6, 120, 1)
    found = shortlist(likelihood, FLAT)
    before, fitted = public(found, FLAT), adapt(found, FLAT, LENGTH)
    ideal = shortlist(likelihood, TRUE)
    best = success(ideal, public(ideal, TRUE).weights, tokens)
    start, end = success(found, before.weights, tokens), success(found, fitted.weights, tokens)
    assert np.isfinite(fitted.strength)
    assert best - start > 0.05
    assert end - start > 0.6 * (best - start)
    assert np.abs(fitted.laws - TRUE).sum(axis=1).max() < 0.6 * np.abs(FLAT - TRUE).sum()


def test_a_right_prior_costs_nothing() -> None:
    """Under the true law the traffic changes next to nothing."""
    tokens, likelihood = traffic(0.6, 120, 2)
    found = shortlist(likelihood, TRUE)
    fitted = adapt(found, TRUE, LENGTH)
    assert success(found, fitted.weights, tokens) >= success(found, public(found, TRUE).weights, tokens) - 0.01


def test_posteriors_stay_honest() -> None:
    """The mean maximal posterior is within .03 of what is read under a good prior, and never boasts under a bad one."""
    for noise in (0.4, 0.6):
        tokens, likelihood = traffic(noise, 120, 3)
        gaps = []
        for base in (TRUE, FLAT):
            found = shortlist(likelihood, base)
            fitted = adapt(found, base, LENGTH)
            gaps.append(fitted.weights.max(axis=1).mean() - success(found, fitted.weights, tokens))
        assert abs(gaps[0]) < 0.03
        assert gaps[1] < 0.03


def test_a_fold_never_sees_itself() -> None:
    """The law that a prompt is judged under does not change when that prompt's own view does."""
    _, likelihood = traffic(0.6, 40, 4)
    other = likelihood.copy()
    other[:LENGTH] = traffic(0.6, 1, 99)[1]
    one, two = (adapt(shortlist(part, FLAT), FLAT, LENGTH) for part in (likelihood, other))
    assert one.strength == two.strength
    np.testing.assert_array_equal(one.laws[one.fold[0]], two.laws[two.fold[0]])


def test_few_prompts_leave_the_public_law() -> None:
    """Fewer prompts than folds give the posterior under the public frequencies, by enumeration."""
    _, likelihood = traffic(0.6, FOLDS - 1, 6)
    found = shortlist(likelihood, TRUE, size=V)
    fitted = adapt(found, TRUE, LENGTH)
    joint = likelihood + np.log(TRUE)
    exact = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
    np.testing.assert_allclose(fitted.weights, np.take_along_axis(exact, found.tokens, axis=1), atol=1e-5)
    assert np.isinf(fitted.strength)


def test_what_is_off_the_list_keeps_its_share() -> None:
    """A short list gives the same posteriors as a long one, and lacks what the others have."""
    _, likelihood = traffic(1.0, 2, 7)
    short, long = shortlist(likelihood, TRUE, size=5), shortlist(likelihood, TRUE, size=V)
    few, all_of_them = public(short, TRUE), public(long, TRUE)
    np.testing.assert_allclose(few.weights, all_of_them.weights[:, :5], atol=1e-5)
    np.testing.assert_allclose(1 - few.weights.sum(axis=1), all_of_them.weights[:, 5:].sum(axis=1), atol=1e-5)


def test_the_compiled_fit_is_that_of_plain_expectation_maximisation() -> None:
    """Against matrices of all tokens in float64, with a fold left out and tokens beyond the list."""
    _, likelihood = traffic(1.0, 8, 8)
    found = shortlist(likelihood, TRUE, size=12)
    fold = np.arange(found.positions) // LENGTH % FOLDS
    views = np.zeros((found.positions, V))
    np.put_along_axis(views, found.tokens, found.likelihood, axis=1)
    views, rest = views[fold != 2], found.rest[fold != 2]
    candidates = _Candidates.of(found, TRUE)
    laws, shares = candidates.frequencies(TRUE[candidates.tokens], fold, 2)
    for number, strength in enumerate(STRENGTHS):
        law, share = TRUE, 1.0
        for _ in range(ITERATIONS):
            total = views @ law + share * rest
            counts = law * ((1 / total) @ views)
            share = (strength + (share * rest / total).sum()) / (len(rest) + strength)
            law = counts / (len(rest) + strength) + share * TRUE
        np.testing.assert_allclose(laws[:, number], law[candidates.tokens], rtol=1e-9)
        np.testing.assert_allclose(shares[number], share, rtol=1e-9)

"""Budgets over positions: segments from the end, amplitudes of shares, the exact budget of a whole prompt."""

import math
from itertools import pairwise

import pytest

from defenses.budget import Split, part_ratio, prompt_profile, ratio_for_prompt
from defenses.errors import UserError
from defenses.privacy.binomial import StochasticQuantizationProfile, a_over_c_for_epsilon, mu_for_a_over_c

RECENT = Split((2, 3), (4.0, 2.0, 1.0))


@pytest.mark.parametrize("tokens", range(1, 9))
def test_segments_count_from_the_end_and_cover_the_prompt(tokens: int) -> None:
    """The last two tokens have the greatest share, the three before half of it, the rest a quarter."""
    parts = RECENT.parts(tokens)
    shares = [part.share for part in parts for _ in range(part.tokens)]
    assert shares == [*[0.25] * 8, 0.5, 0.5, 0.5, 1.0, 1.0][-tokens:]
    assert [parts[0].start, parts[-1].stop] == [0, tokens]
    assert all(a.stop == b.start for a, b in pairwise(parts))


def test_a_uniform_split_is_one_part() -> None:
    """Without segments there is one part with all of the budget."""
    (part,) = Split().parts(7)
    assert (part.tokens, part.share) == (7, 1.0)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_a_share_is_of_mu(share: float) -> None:
    """The amplitude of a share has that share of the greatest mu; a whole share is the amplitude itself."""
    ratio = part_ratio(3.0, share, 4, 16)
    assert mu_for_a_over_c(ratio, 4, 16) == pytest.approx(share * mu_for_a_over_c(3.0, 4, 16))
    assert part_ratio(math.inf, share, 4, 16) == math.inf


def test_the_prompt_profile_has_each_segments_trials() -> None:
    """Trials of a segment are (2^n - 1) d times its tokens; a uniform split is DEL's own composition."""
    profile = prompt_profile(RECENT, 3.0, 2, 16, 6)
    assert sorted(trials for trials, _ in profile.parts) == [48, 96, 144]
    uniform = prompt_profile(Split(), 3.0, 2, 16, 6)
    assert uniform.epsilon(1e-5) == StochasticQuantizationProfile.of(2, 16, 3.0, 6).epsilon(1e-5)


@pytest.mark.parametrize("epsilon", [2.0, 50.0])
def test_a_prompts_budget_is_met_and_used_up(epsilon: float) -> None:
    """The amplitude that is found keeps the prompt's epsilon, tightly; the last tokens get more than evenly split."""
    ratio = ratio_for_prompt(RECENT, epsilon, 1e-5, n=2, d=16, tokens=6)
    found = prompt_profile(RECENT, ratio, 2, 16, 6).epsilon(1e-5)
    assert epsilon * (1 - 1e-6) <= found <= epsilon * (1 + 1e-9)
    even = a_over_c_for_epsilon(epsilon, 1e-5, 2, 16, 6)
    assert ratio_for_prompt(Split(), epsilon, 1e-5, n=2, d=16, tokens=6) == even
    assert ratio < even


def test_a_budget_near_all_that_can_be_spent_is_met() -> None:
    """Where the last tokens could be sent all but in the clear, the search ends, and the budget holds."""
    ratio = ratio_for_prompt(Split((1,), (1e6, 1.0)), 300.0, 1e-5, n=1, d=16, tokens=2)
    assert ratio > 1
    assert prompt_profile(Split((1,), (1e6, 1.0)), ratio, 1, 16, 2).epsilon(1e-5) <= 300.0 * (1 + 1e-9)


def test_a_shorter_prompt_spends_less() -> None:
    """A budget for six tokens holds for four: the exact epsilon of the shorter prompt is smaller."""
    ratio = ratio_for_prompt(RECENT, 20.0, 1e-5, n=2, d=16, tokens=6)
    spent = [prompt_profile(RECENT, ratio, 2, 16, tokens).epsilon(1e-5) for tokens in range(1, 7)]
    assert spent == sorted(spent)
    assert spent[-1] <= 20.0 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("lengths", "weights", "words"),
    [
        ((1, 1, 1), (1.0,) * 4, "at most"),
        ((0,), (1.0, 1.0), "at least one token"),
        ((3,), (1.0,), "one weight for each"),
        ((3,), (1.0, 0.0), "positive and finite"),
    ],
)
def test_bad_splits_are_one_line(lengths: tuple[int, ...], weights: tuple[float, ...], words: str) -> None:
    """Each bad split is refused by name."""
    with pytest.raises(UserError, match=words):
        Split(lengths, weights)

"""Attacks as people name them."""

import pytest

from attacks.base import Knowledge, attacks
from audit.adversaries import QUICK, adversary, token_adversaries, told
from defenses.errors import UserError


def test_options_are_read_and_typed() -> None:
    """NAME:KEY=VALUE,KEY=VALUE becomes the plug-in and its checked options."""
    found = adversary("hmm:top=64,traffic=false")
    assert (found.plugin.name, found.options.top, found.options.traffic) == ("hmm", 64, False)
    assert adversary("map").options.traffic is True


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("magic", "no attack called 'magic'"),
        ("hmm:colour=3", "its options: top, traffic, trust"),
        ("prior:top=3", "it has no options"),
        ("hmm:top=many", "top"),
        ("hmm:top=0", "at least 1"),
        ("hmm:top", "KEY=VALUE"),
        ("attribute-logistic", "guesses attribute, not tokens"),
    ],
)
def test_mistakes_are_one_line(text: str, words: str) -> None:
    """Each names the attack and what it takes."""
    with pytest.raises(UserError, match=words) as caught:
        adversary(text)
    assert "\n" not in str(caught.value)


def test_quick_and_all_stand_for_many() -> None:
    """The words quick and all expand, nothing twice, and no attribute attack among them."""
    assert [one.text for one in token_adversaries(["prior", "quick"])] == list(QUICK)
    every = token_adversaries(["all"])
    assert {one.text for one in every} == {name for name, kind in attacks().items() if kind.target == "tokens"}


def test_knowledge_is_told_in_words() -> None:
    """What the adversary had, and how many messages it saw."""
    assert told(Knowledge(prior_corpus=True)) == "mechanism, public text; one message"
    assert told(Knowledge(mechanism=False, sends=4)) == "nothing; 4 messages of each prompt"

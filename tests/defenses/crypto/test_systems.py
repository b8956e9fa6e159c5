"""Which systems there are, and what each says of itself; no engine is needed for that."""

from dataclasses import replace

import pytest

from defenses.crypto.systems import REFERENCE, SYSTEMS, find_system
from defenses.errors import UserError


def test_every_system_of_the_comparison_is_there() -> None:
    """If this failed, the table would miss a row: the reference, the peer, PCFT, and MERGE with each part alone."""
    assert list(SYSTEMS) == ["vanilla", "mpcformer", "pcft", "merge-er", "merge-mm", "merge"]
    assert find_system(REFERENCE).published == ""


def test_parts_of_merge_are_parts() -> None:
    """If this failed, the ablation would compare MERGE with something that is not one of its halves."""
    er, mm, both = (SYSTEMS[name] for name in ("merge-er", "merge-mm", "merge"))
    assert er.resending
    assert not er.constant_attention
    assert mm.constant_attention
    assert not mm.resending
    assert both.resending
    assert both.constant_attention
    reference = SYSTEMS[REFERENCE]
    assert (er.softmax, er.activation, er.norm) == (reference.softmax, reference.activation, reference.norm)


def test_every_system_names_its_guarantee_and_source() -> None:
    """If this failed, a cryptographic guarantee could be read as differential privacy, or a formula lack its paper."""
    for system in SYSTEMS.values():
        assert "no differential privacy" in system.guarantee
        assert "20" in system.source
        assert system.client_learns
        assert system.party_learns


def test_no_guarantee_goes_beyond_the_engines() -> None:
    """If this failed, tables would promise secrecy against SEMI2K's first party, which can compute every secret."""
    for system in SYSTEMS.values():
        assert "the engine's own guarantee" in system.guarantee
        for words in (system.guarantee, system.party_learns):
            assert "party that deals the multiplication triples, as the first one does under SEMI2K" in words


def test_what_the_merge_module_changes_beside_attention_is_a_deviation() -> None:
    """If this failed, "MM only" would be read as constant attention alone."""
    reference, merged = SYSTEMS[REFERENCE], SYSTEMS["merge-mm"]
    assert (merged.activation, merged.norm) != (reference.activation, reference.norm)
    for name in ("merge-mm", "merge"):
        assert any("Quad" in one and "constant norm" in one for one in SYSTEMS[name].deviations)
    assert not any("Quad" in one for one in SYSTEMS["merge-er"].deviations)


def test_unknown_names_are_refused() -> None:
    """If this failed, a misspelt system or operator would surface as a KeyError deep in a run."""
    with pytest.raises(UserError, match="choose one of vanilla"):
        find_system("vanila")
    with pytest.raises(UserError, match="softmax must be one of"):
        replace(SYSTEMS["vanilla"], softmax="hard")  # type: ignore[arg-type]

"""The reader of SPU's profile log, on lines that SPU 0.9.5 wrote."""

from pathlib import Path

import pytest

from defenses.crypto.engines.base import OperatorCost
from defenses.crypto.engines.spu_profile import ProfileError, Traffic, operator_costs, parse_profile

LOGS = Path(__file__).with_name("logs")


def _log(name: str) -> str:
    return (LOGS / f"{name}.txt").read_text(encoding="utf-8")


def test_one_party_of_two_tells_the_bytes_of_both() -> None:
    """With two parties the first one's block is enough: what the second sent, the first received."""
    (profile,) = parse_profile(_log("semi2k-first-party"))
    assert profile.ranks == (0,)
    assert profile.links == (Traffic(sent=1216, received=1216, sends=9, waits=9),)
    dot, less, free = operator_costs([profile], 2)
    assert dot.name == "pphlo.dot"
    assert (dot.calls, dot.bytes, dot.rounds) == (1, 320 + 320, 2)
    assert (less.bytes, less.rounds) == (896 + 896, 7)
    assert (free.bytes, free.rounds) == (0, 0)


def test_blocks_of_three_parties_in_a_row_stay_apart() -> None:
    """Bytes are summed over the parties; seconds and rounds are the first party's."""
    profiles = parse_profile(_log("aby3-in-order"))
    assert [profile.ranks for profile in profiles] == [(0,), (1,), (2,)]
    assert operator_costs(profiles, 3)[:2] == (
        OperatorCost("pphlo.dot", 1, 0.009351962, 320 + 192 + 320, 4),
        OperatorCost("pphlo.less", 1, 0.001076532, 3 * 576, 8),
    )


def test_interleaved_blocks_keep_their_sums() -> None:
    """Where lines of parties run into one another, bytes are still exact, and seconds and rounds are means."""
    (profile,) = parse_profile(_log("aby3-interleaved"))
    assert profile.ranks == (1, 2, 0)
    dot, less, _ = operator_costs([profile], 3)
    assert (dot.calls, dot.bytes, dot.rounds) == (1, 320 + 192 + 320, round((1 + 3 + 4) / 3))
    assert dot.seconds == pytest.approx((0.006501401 + 0.009945135 + 0.009340344) / 3)
    assert (less.bytes, less.rounds) == (3 * 576, 8)


def test_other_lines_are_passed_over() -> None:
    """SPU logs other things too, and levels below the program's operators; they must not be counted twice."""
    text = _log("semi2k-first-party")
    noise = "2026-01-01 00:00:00.000 [info] [thread_pool.cc:ThreadPool:30] Create a fixed thread pool with size 1\n"
    lower = text.splitlines()[2].replace("pphlo.dot", "f_mmul")
    block = text.splitlines()
    mixed = "\n".join([noise, *block[:-1], "HAL profiling: total time 1", lower, block[-1]])
    assert parse_profile(mixed) == parse_profile(text)


def test_a_log_that_does_not_add_up_is_refused() -> None:
    """A block without its end, a line without its block, and sums that differ from the link's are errors, not costs."""
    lines = _log("semi2k-first-party").splitlines()
    with pytest.raises(ProfileError, match="breaks off"):
        parse_profile("\n".join(lines[:-1]))
    with pytest.raises(ProfileError, match="outside"):
        parse_profile("\n".join(lines[1:]))
    with pytest.raises(ProfileError, match="by its link"):
        parse_profile("\n".join([*lines[:2], *lines[3:]]))


def test_every_party_of_three_is_needed() -> None:
    """Bytes over all parties cannot be had of one profile of three."""
    profiles = parse_profile(_log("aby3-in-order"))
    with pytest.raises(ProfileError, match="ranks"):
        operator_costs(profiles[:1], 3)

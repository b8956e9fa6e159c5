"""Options as people write them."""

from typing import Any

import pytest

from audit.cli.options import assignment, choices, combinations
from defenses.errors import UserError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mu=5", ("mu", [5])),
        ("mu=5,20.5", ("mu", [5, 20.5])),
        ("mu=[5, 20]", ("mu", [5, 20])),
        ("on=latents,embedding", ("on", ["latents", "embedding"])),
        ("clip = true", ("clip", [True])),
    ],
)
def test_values_are_typed_and_lists_are_several(text: str, found: tuple[str, list[Any]]) -> None:
    """TOML where it is TOML, plain words else; commas and brackets both make lists."""
    assert choices(text, "--set") == found


@pytest.mark.parametrize("text", ["mu", "=5", "mu=", " = "])
def test_half_an_assignment_is_one_line(text: str) -> None:
    """The option and what was written are named."""
    with pytest.raises(UserError, match=r"--set .*KEY=VALUE"):
        assignment(text, "--set")


def test_a_key_given_twice_keeps_its_last_values() -> None:
    """A suite's reduced options follow the full ones; nothing is measured twice over."""
    found = combinations(["n=2,4", "mu=1,6", "n=4", "mu=6,20"], "--set")
    assert found == [{"n": 4, "mu": 6}, {"n": 4, "mu": 20}]
    assert combinations([], "--set") == [{}]

"""Options as people write them."""

from typing import Any

import pytest

from audit.cli.options import assignment, choices
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

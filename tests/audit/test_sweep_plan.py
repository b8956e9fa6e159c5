"""Plans: which experiments a [sweep] table stands for, and its bad input."""

from typing import Any

import pytest

from audit.sweeps.plan import Plan, parse_plan
from defenses.errors import UserError

TABLES: dict[str, Any] = {"name": "x", "grids": [{"defense": "identity"}]}


def plan(sweep: Any, *changes: str) -> Plan:
    """The plan of a small experiment with this sweep."""
    return parse_plan({**TABLES, "sweep": sweep}, changes)


def test_a_file_without_a_sweep_is_one_experiment_in_the_output_folder_itself() -> None:
    """If this failed, folders of runs that were made before there were sweeps would be measured anew."""
    (only,) = parse_plan(TABLES).members
    assert (only.name, only.folder) == ("", ".")


def test_every_combination_is_an_experiment_of_its_own() -> None:
    """If this failed, cells of the grid would be missing, or run with another's settings."""
    made = plan({"seed": [0, 1], "data": {"windows": [6, 8, 10]}, "grids.0.soft_prompt": ["none"]})
    found = [(one.experiment.seed, one.experiment.data.windows) for one in made.members]
    assert found == [(0, 6), (0, 8), (0, 10), (1, 6), (1, 8), (1, 10)]
    assert {one.experiment.grids[0].soft_prompt for one in made.members} == {"none"}
    assert made.members[4].name == "seed=1 windows=8 soft_prompt=none"
    folders = [one.folder for one in made.members]
    assert len(set(folders)) == 6
    assert all(folder.startswith("members/") and " " not in folder for folder in folders)


def test_folders_are_names_whatever_the_values_are() -> None:
    """If this failed, a path among the values would be written to, or two members would share a folder."""
    sources = ["../../etc", "../../etc@test", "a" * 200, "a" * 201]
    folders = [one.folder for one in plan({"data.source": sources}).members]
    assert len(set(folders)) == len(sources)
    assert all(folder.count("/") == 1 and ".." not in folder.split("/") and len(folder) < 80 for folder in folders)


def test_a_sweep_is_changed_as_any_setting_is() -> None:
    """If this failed, --set would not reach the sweep."""
    assert len(plan({"seed": [0]}, "sweep.seed=[4, 5, 6]").members) == 3


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        (5, "sweep must be a table"),
        ({"seed": 3}, r"sweep\.seed must list values"),
        ({"seed": []}, r"sweep\.seed must list values"),
        ({"seed": [1, 1]}, "each once"),
        ({"name": ["a", "b"]}, "name"),
        ({"colour": [1]}, "colour"),
        ({"seed": ["red"]}, "seed"),
        ({"seed.deep": [1]}, "seed"),
        ({"grids.7.defense": ["identity"]}, "7 is not one of the 1 entries"),
        ({"grids.x.defense": ["identity"]}, "x is not one of the 1 entries"),
    ],
)
def test_a_bad_sweep_is_one_line(sweep: Any, words: str) -> None:
    """Each mistake is named, with its place."""
    with pytest.raises(UserError, match=words) as caught:
        plan({"seed": [0, 1], **sweep} if isinstance(sweep, dict) else sweep)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("audits", "words"),
    [
        ([{"samples": 500}, {"samples": 500}], "ask for the same"),
        ([{"level": 2}], "level must be in"),
        ([{"guarantee": {"kind": "mu-GDP"}}], "needs mu"),
        ([{"through": "nowhere"}], "through"),
    ],
)
def test_bad_audits_are_one_line(audits: Any, words: str) -> None:
    """Each mistake is named."""
    with pytest.raises(UserError, match=words) as caught:
        parse_plan({**TABLES, "audits": audits})
    assert "\n" not in str(caught.value)

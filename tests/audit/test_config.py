"""Experiments from TOML: defaults, changes from the command line, and one clear line for every mistake."""

from pathlib import Path

import pytest

from audit.config import load_experiment, parse_experiment
from defenses.errors import UserError

TOML = """
name = "x"
[data]
windows = 20
[[grids]]
defense = "del"
projection = ["a", "b"]
parameters = { n = [1, 4], mu = 20 }
"""


def test_grid_is_the_product_of_its_lists(tmp_path: Path) -> None:
    """Two projections by two n by one mu are four conditions, in the file's order."""
    (tmp_path / "x.toml").write_text(TOML)
    experiment = load_experiment(tmp_path / "x.toml")
    cells = [(c.projection, dict(c.parameters)) for c in experiment.conditions()]
    assert cells == [(p, {"n": n, "mu": 20}) for p in ("a", "b") for n in (1, 4)]
    assert experiment.data.windows == 20
    assert experiment.seed == 0


def test_changes_reach_every_depth(tmp_path: Path) -> None:
    """--set changes numbers, strings and list entries, and adds keys."""
    (tmp_path / "x.toml").write_text(TOML)
    changes = ["seed=7", "data.windows=40", "model=other", "grids.0.parameters.n=[2]", "data.source=text@test"]
    experiment = load_experiment(tmp_path / "x.toml", changes)
    assert (experiment.seed, experiment.data.windows, experiment.model) == (7, 40, "other")
    assert experiment.grids[0].parameters["n"] == [2]
    assert experiment.data.source == "text@test"


def test_the_callers_tables_stay_as_they_were() -> None:
    """Changes are applied to a copy."""
    raw = {"name": "x", "grids": [{"defense": "del"}]}
    parse_experiment(raw, ["grids.0.defense=identity"])
    assert raw["grids"] == [{"defense": "del"}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("windows", "key=value"),
        ("colour=3", "colour"),
        ("seed=many", "seed"),
        ("data.windows=1", "at least 2"),
        ("delta=0", "delta"),
        ("grids=[]", "grids"),
        ("grids.3=1", "entries"),
        ("seed.deep=1", "seed"),
        ("grids.0.soft_prompt=loud", "soft_prompt"),
    ],
)
def test_each_mistake_is_one_line(change: str, words: str) -> None:
    """The message names the key."""
    raw = {"name": "x", "seed": 1, "grids": [{"defense": "del"}]}
    with pytest.raises(UserError, match=words) as caught:
        parse_experiment(raw, [change])
    assert "\n" not in str(caught.value)


def test_no_file_and_no_toml_are_one_line(tmp_path: Path) -> None:
    """A missing file and a broken one name the file."""
    with pytest.raises(UserError, match=r"none\.toml"):
        load_experiment(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(UserError, match=r"bad\.toml"):
        load_experiment(tmp_path / "bad.toml")

"""Plug-ins: a dropped file is found, a broken one is named, a name is taken once."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from defenses.errors import UserError
from defenses.registry import configuration, defenses, discover, pick


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty plug-in package on the path."""
    folder = tmp_path / "plugged"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [module for module in sys.modules if module.split(".")[0] == "plugged"]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def test_a_dropped_file_is_found(package: Path) -> None:
    """One file that ends with PLUGIN = TheClass is all it takes."""
    (package / "mine.py").write_text("class Mine:\n    name = 'mine'\n\nPLUGIN = Mine\n")
    found = discover("plugged", "PLUGIN", "delaudit.nothing")
    assert list(found) == ["mine"]
    assert pick(found, "mine", "plug-in").name == "mine"
    with pytest.raises(UserError, match="installed: mine"):
        pick(found, "yours", "plug-in")


def test_a_file_without_its_class_is_named(package: Path) -> None:
    """The file and what it lacks."""
    (package / "empty.py").write_text("")
    with pytest.raises(UserError, match=r"plugged\.empty .* must end with PLUGIN"):
        discover("plugged", "PLUGIN", "delaudit.nothing")


def test_a_name_is_taken_once(package: Path) -> None:
    """Two plug-ins of one name are refused, not silently dropped."""
    for file in ("one", "two"):
        (package / f"{file}.py").write_text("class Mine:\n    name = 'mine'\n\nPLUGIN = Mine\n")
    with pytest.raises(UserError, match="two plug-ins"):
        discover("plugged", "PLUGIN", "delaudit.nothing")


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("del", {"eta": 5}, "defence del: there is no parameter 'eta'; it has n, mu"),
        ("identity", {"eta": 5}, "defence identity: there is no parameter 'eta'; it has none"),
        ("shredder", {"snr": "hello"}, "defence shredder: snr: .*number.*, not 'hello'"),
        ("metric-noise", {"radius": "square"}, "metric-noise.*square"),
        ("dp-forward", {"mu": -1}, "dp-forward: mu must be positive"),
    ],
)
def test_wrong_parameters_are_one_line(name: str, parameters: dict[str, Any], words: str) -> None:
    """Defence, parameter and what was given are named, whoever finds the mistake."""
    with pytest.raises(UserError, match=words) as caught:
        configuration(defenses()[name], parameters)
    assert "\n" not in str(caught.value)


def test_plain_values_become_a_configuration() -> None:
    """Whole numbers stand for floats, and lists for tuples, as TOML and JSON write them."""
    found = configuration(
        defenses()["del-tuned"], {"n": 4, "mu": 20, "split": "recent", "recent": [16], "weights": [2, 1]}
    )
    assert (found.n, found.mu, found.recent, found.weights) == (4, 20.0, (16,), (2.0, 1.0))


def test_a_configuration_that_refuses_as_a_whole_is_one_line() -> None:
    """A third party's check may raise a plain ValueError over several parameters."""

    @dataclass(frozen=True)
    class Config:
        low: float = 0.0
        high: float = 1.0

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high")

    plugin = SimpleNamespace(name="mine", Config=Config)
    with pytest.raises(UserError, match=r"^defence mine: low is above high$"):
        configuration(plugin, {"low": 2})

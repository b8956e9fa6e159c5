"""How commands that leave a record close."""

import json
from pathlib import Path

import pytest

from audit.cli.output import checked_folder, close
from defenses.errors import UserError


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """It is named; a folder that does not exist yet is fine."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"--out .*taken is a file: name a folder"):
        checked_folder(tmp_path / "taken")
    assert checked_folder(tmp_path / "new") == tmp_path / "new"


def test_people_read_places_and_programs_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    """A failure is told on standard error either way, and the figures with it."""
    close({"rows": [1]}, {"record": "out/record.json"}, as_json=False)
    close({"rows": [1]}, {}, "the store is gone", as_json=True)
    told = capsys.readouterr()
    first, second = told.out.splitlines()
    assert first.split() == ["record", "out/record.json"]
    assert json.loads(second) == {"rows": [1], "written": {}}
    assert told.err == "delaudit: the store is gone\n"

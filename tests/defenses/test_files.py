"""Files that are whole or not there, and for whose eyes."""

from pathlib import Path

import pytest

from defenses.errors import UserError
from defenses.files import PRIVATE_FILE, private_folder, write_text, write_whole


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """Folders are made, what was there is replaced, and no temporary file stays, whether writing succeeds or not."""
    path = tmp_path / "folder" / "file"
    for text in ("first, longer", "second"):
        write_text(path, text)
        assert path.read_text() == text
    with pytest.raises(UserError, match="cannot be written"):
        write_whole(path / "below", b"")
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def test_a_secret_is_its_owners_only(tmp_path: Path) -> None:
    """A mode is the file's from its first byte on, also where a killed process left a file of the temporary name."""
    path = tmp_path / "secret"
    write_whole(path, b"open")
    assert path.stat().st_mode & 0o044
    write_whole(path, b"closed", mode=PRIVATE_FILE)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_private_folder_is_made_or_checked(tmp_path: Path) -> None:
    """A folder that others may look into is refused with the command that mends it, and never mended silently."""
    private_folder(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "new").chmod(0o750)
    with pytest.raises(UserError, match="chmod 700"):
        private_folder(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o750
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be used as a folder"):
        private_folder(tmp_path / "file")

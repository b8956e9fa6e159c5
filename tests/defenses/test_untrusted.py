"""Reading what somebody else wrote: bounds hold exactly, and foreign texts cannot act on a terminal."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import numpy as safetensors_numpy

from defenses.errors import UserError
from defenses.tensors import parsed_tensors, read_tensors
from defenses.untrusted import DEEPEST, DIGITS, check_depth, json_value, read_limited, reason, shown


def test_a_file_is_read_up_to_its_limit_and_no_further(tmp_path: Path) -> None:
    """As large as allowed is read whole; one byte more is refused."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    assert read_limited(path, 1000, "record") == b"x" * 1000
    with pytest.raises(UserError, match="no record is so large"):
        read_limited(path, 999, "record")


def test_a_source_without_end_is_refused() -> None:
    """A device has no size to ask for: reading stops at the limit."""
    with pytest.raises(UserError, match="no record is so large"):
        read_limited(Path("/dev/zero"), 3 << 20, "record")


def test_a_pipe_is_read(tmp_path: Path) -> None:
    """A shell's <(...) is a pipe; it is a file like another."""
    reader, writer = os.pipe()
    os.write(writer, b"text")
    os.close(writer)
    assert read_limited(Path(f"/dev/fd/{reader}"), 100, "record") == b"text"
    os.close(reader)


def nested(levels: int) -> str:
    """Lists in one another."""
    return "[" * levels + "]" * levels


def test_depth_is_counted_exactly() -> None:
    """The deepest that is allowed is read, one more is not, nor what Python's own reader gives up on."""
    assert json_value(nested(DEEPEST))
    for levels in (DEEPEST + 1, 900, 100_000):
        with pytest.raises(ValueError, match="nests more than"):
            json_value(nested(levels))
    with pytest.raises(ValueError, match="nests more than"):
        check_depth({"a": [{"b": json.loads(nested(DEEPEST))}]})


def test_numbers_are_read_as_long_as_a_float_can_hold_them() -> None:
    """So no later step overflows where it takes one for a float."""
    assert json_value("9" * DIGITS) == int("9" * DIGITS)
    assert float(json_value("9" * DIGITS)) > 0
    with pytest.raises(ValueError, match="digits"):
        json_value("9" * (DIGITS + 1))


def test_constants_are_read_where_they_are_wanted() -> None:
    """Our own caches hold infinities; a strict record does not."""
    assert json_value("[Infinity]") == [float("inf")]
    with pytest.raises(ValueError, match="not a JSON number"):
        json_value("[NaN]", constants=False)


@given(st.text(max_size=400), st.integers(10, 130))
def test_what_is_shown_is_printable_short_and_faithful(text: str, most: int) -> None:
    """No letter that acts, no more letters than asked for, and a harmless text as it was."""
    line = shown(text, most)
    assert line.isprintable()
    assert len(line) <= most
    if text.isprintable() and len(text) <= most:
        assert line == text


def test_an_escape_sequence_is_shown_and_not_obeyed() -> None:
    """A person sees what was tried."""
    assert shown("\x1b[2J\n") == r"\x1b[2J\n"


def test_a_reason_is_in_words() -> None:
    """Python's KeyError says a name alone, and some errors nothing at all."""
    assert reason(KeyError("clip")) == "it lacks 'clip'"
    assert reason(ValueError("first\nsecond")) == "first"
    assert reason(StopIteration()) == "StopIteration"


def test_tensors_come_back_with_their_facts(tmp_path: Path) -> None:
    """What safetensors writes is read, names, types and metadata."""
    tensors = {"a": np.arange(6, dtype=np.int8).reshape(2, 3), "b": np.array([0.5])}
    (tmp_path / "x.safetensors").write_bytes(safetensors_numpy.save(tensors, {"clip": "0.05"}))
    found, facts = read_tensors(tmp_path / "x.safetensors", "projection")
    assert facts == {"clip": "0.05"}
    assert {name: one.tolist() for name, one in found.items()} == {name: one.tolist() for name, one in tensors.items()}
    assert parsed_tensors(safetensors_numpy.save({"a": np.zeros(1)}))[1] == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensors_that_are_no_numbers_are_refused(value: float) -> None:
    """One such weight makes every latent one."""
    with pytest.raises(ValueError, match="a holds what is no number"):
        parsed_tensors(safetensors_numpy.save({"a": np.array([1.0, value])}))

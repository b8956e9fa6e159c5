"""claims.toml: defaults, strictness, changes, and one clear line for every mistake."""

from pathlib import Path
from typing import Any

import pytest

from audit.claims import ClaimsFile, claim_lines, load_claims, parse_claims
from defenses.errors import UserError

TOML = """
[error]
level = 0.02
method = "alpha-spending"
state = "state.json"

[[claims]]
name = "first"
defense = "del"
parameters = { n = 1, mu = 2.0 }
guarantee = "exact"
assets = "synthetic"

[[claims]]
name = "second"
defense = "del"
guarantee = { kind = "(epsilon, delta)-DP", epsilon = 3 }
unit = "prompt"
tokens = 4
through = "prompt"
weight = 3
"""


def claim(**keys: Any) -> dict[str, Any]:
    """The tables of a file with one claim."""
    return {"claims": [{"name": "x", "defense": "del", "guarantee": "exact", **keys}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two claims on disk."""
    path = tmp_path / "claims.toml"
    path.write_text(TOML)
    return path


def test_a_file_is_read_with_its_defaults(file: Path) -> None:
    """What is written is kept, what is not has the documented default, and words stand for tables."""
    found = load_claims(file)
    first, second = found.claims
    assert (found.error.level, found.error.method, found.error.state) == (0.02, "alpha-spending", "state.json")
    assert (first.guarantee.kind, first.assets.vocabulary, first.samples, first.violation) == ("exact", 64, 20_000, 1.1)
    assert dict(first.parameters) == {"n": 1, "mu": 2.0}
    assert (second.guarantee.epsilon, second.guarantee.delta, second.tokens) == (3.0, 0.0, 4)


def test_shares_follow_the_weights(file: Path) -> None:
    """Weights 1 and 3 are a quarter and three quarters of the level."""
    assert load_claims(file).shares == {"first": 0.25, "second": 0.75}


def test_changes_reach_one_claim_all_claims_or_the_error_table(file: Path) -> None:
    """CLAIM.KEY changes one, KEY changes all, error.KEY the table; the value is TOML or else a string."""
    found = load_claims(file, ["samples=500", "first.parameters.mu=7", "error.level=0.1", "second.defense=identity"])
    assert [one.samples for one in found.claims] == [500, 500]
    assert found.claims[0].parameters["mu"] == 7
    assert (found.error.level, found.claims[1].defense) == (0.1, "identity")


def test_the_fingerprint_is_of_what_is_tested() -> None:
    """A parameter changes it; weight and severity, which test nothing else, do not."""
    plain = parse_claims(claim()).claims[0].fingerprint
    assert parse_claims(claim(weight=2, severity="note")).claims[0].fingerprint == plain
    assert parse_claims(claim(samples=21_000)).claims[0].fingerprint != plain
    assert parse_claims(claim(parameters={"n": 2})).claims[0].fingerprint != plain


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"colour": 1}, ("colour",)),
        ({"samples": 5}, ("samples", "at least 100")),
        ({"samples": "many"}, ("samples", "integer")),
        ({"delta": 1.5}, ("delta", "[0, 1)")),
        ({"violation": 1}, ("violation", "above 1")),
        ({"violation": float("nan")}, ("violation",)),
        ({"weight": 0}, ("weight",)),
        ({"guarantee": "trust"}, ("guarantee", "exact")),
        ({"guarantee": {"kind": "mu-GDP"}}, ("guarantee", "needs mu")),
        ({"guarantee": {"kind": "exact", "mu": 1}}, ("guarantee", "takes no mu")),
        ({"guarantee": {"kind": "mu-GDP", "mu": 0}}, ("mu must be above 0",)),
        ({"guarantee": {"kind": "(epsilon, delta)-DP", "epsilon": -1}}, ("epsilon", "at least 0")),
        ({"through": "wall"}, ("through",)),
        ({"tokens": 4}, ("prompt", "wire")),
        ({"unit": "prompt"}, ("through",)),
        ({"unit": "coordinate", "through": "prompt"}, ('unit = "coordinate" needs',)),
        ({"projection": "d18-plain"}, ("model",)),
        ({"pair": [3, 3]}, ("different",)),
        ({"pair": [3, 4], "through": "vocabulary"}, ("chooses",)),
        ({"assets": "real"}, ("assets",)),
        ({"assets": {"d": 40}}, ("assets", "width")),
        ({"name": "two\nlines"}, ("name",)),
    ],
)
def test_a_mistake_is_one_line_that_names_file_claim_and_key(keys: dict[str, Any], words: tuple[str, ...]) -> None:
    """Every mistake in a claim says where it is."""
    with pytest.raises(UserError) as caught:
        parse_claims(claim(**keys), source="some/claims.toml")
    message = str(caught.value)
    assert "\n" not in message
    for word in ("some/claims.toml", "claim", *words):
        assert word in message


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({}, "claims"),
        ({"claims": []}, "[[claims]]"),
        ({"claims": {"name": "x"}}, "[[claims]]"),
        ({"claims": [*claim()["claims"], *claim()["claims"]]}, "two claims are called 'x'"),
        ({**claim(), "error": {"level": 0}}, "level"),
        ({**claim(), "error": {"method": "hope"}}, "method"),
        ({**claim(), "error": {"method": "e-values"}}, "state"),
        ({**claim(), "error": {"state": "s.json"}}, "single-run"),
        ({**claim(), "errors": {}}, "errors"),
    ],
)
def test_a_mistake_outside_the_claims_is_one_line_too(tables: dict[str, Any], words: str) -> None:
    """So are mistakes of the whole file."""
    with pytest.raises(UserError, match="my file") as caught:
        parse_claims(tables, source="my file")
    assert words in str(caught.value)


@pytest.mark.parametrize("change", ["samples", "=3", "first.parameters.mu.deep=1"])
def test_a_bad_change_is_one_line(file: Path, change: str) -> None:
    """--set says what was given."""
    with pytest.raises(UserError, match=r"--set"):
        load_claims(file, [change])


@pytest.mark.parametrize("content", [b"claims = [", b"\xff\xfe"])
def test_what_is_no_toml_names_the_file(tmp_path: Path, content: bytes) -> None:
    """A file that cannot be parsed, or is not there, is one line."""
    path = tmp_path / "claims.toml"
    for _ in range(2):
        with pytest.raises(UserError, match=r"claims\.toml"):
            load_claims(path)
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"claims\.toml"):
        load_claims(path)


def test_the_callers_tables_stay_as_they_were() -> None:
    """Changes and words are applied to a copy."""
    raw = claim()
    parse_claims(raw, ["samples=300"])
    assert raw == claim()


def test_an_unknown_claim_is_one_line() -> None:
    """`pick` lists what there is."""
    with pytest.raises(UserError, match=r"'y'.*x"):
        parse_claims(claim()).pick("y")


def test_headers_are_found_but_not_in_strings() -> None:
    """The lines of [[claims]], in order; long strings and comments hold none."""
    text = '[error]\n[[claims]]\nname = """\n[[claims]]\n"""\n# [[claims]]\n [[ claims ]] # two\nname = "b"\n'
    assert claim_lines(text) == [2, 7]


def test_every_claim_of_a_file_has_its_line(file: Path) -> None:
    """As many headers as claims."""
    assert len(claim_lines(file.read_text())) == len(load_claims(file).claims)
    assert isinstance(load_claims(file), ClaimsFile)

"""Claims under regression test: `claims.toml` as frozen dataclasses, strict, every mistake one line.

A claim names a defence with its parameters, a guarantee, where to look, and how many draws to spend. The file says how
the error over all of its claims, and over all of its runs, is held at one level.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from audit.toml_files import dotted, read_tables, toml_value, validated
from defenses.errors import UserError
from defenses.untrusted import shown

STRICT = ConfigDict(extra="forbid")
LARGEST = 1_000_000_000  # draws: a day's work; beyond are slips of the pen
WIDEST = 10_000_000  # vocabulary times width of assets that are made up: 80 MB
NUMBERS = {"mu-GDP": ("mu",), "(epsilon, delta)-DP": ("epsilon", "delta"), "exact": (), "claimed": ()}
"""Kind of guarantee -> its numbers. "exact" is the defence's own profile, "claimed" what the defence itself claims."""

_CHANGE = "write error.KEY=VALUE, CLAIM.KEY=VALUE, or KEY=VALUE for every claim"
_FENCE = re.compile(r'"""|\'\'\'')


@dataclass(frozen=True)
class ErrorControl:
    """How false alarms are paid for.

    Attributes:
        level: The chance, over all claims of the file and all runs that `method` covers, that any true claim is called
            refuted; in (0, 1).
        method: "single-run" (Holm over the claims of one run; runs pay for themselves), "alpha-spending" (run i gets
            level * 6 / (pi i)^2, Holm inside it), or "e-values" (each claim's evidence adds up over runs).
        state: The file that counts runs, relative to the claims file; the last two methods need it.
    """

    __pydantic_config__ = STRICT
    level: float = 0.05
    method: Literal["single-run", "alpha-spending", "e-values"] = "single-run"
    state: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level must be in (0, 1), not {self.level}")
        if self.method != "single-run" and self.state is None:
            raise ValueError(f'{self.method} counts runs in a file: add state = "claims-state.json"')
        if self.state is not None and not (self.state.endswith(".json") and self.state.isprintable()):
            raise ValueError("state must be the name of a .json file, for it is written to")
        if self.method == "single-run" and self.state is not None:
            raise ValueError("single-run counts no runs: remove state, or choose alpha-spending or e-values")


@dataclass(frozen=True)
class GuaranteeSpec:
    """What is put to the test.

    Attributes:
        kind: A key of `NUMBERS`.
        mu: Of mu-GDP, above 0 and finite.
        epsilon: Of (epsilon, delta)-DP, finite and at least 0.
        delta: Likewise, in [0, 1); 0 where it is left out.
    """

    __pydantic_config__ = STRICT
    kind: Literal["mu-GDP", "(epsilon, delta)-DP", "exact", "claimed"]
    mu: float | None = None
    epsilon: float | None = None
    delta: float | None = None

    def __post_init__(self) -> None:
        if self.kind == "(epsilon, delta)-DP" and self.delta is None:
            object.__setattr__(self, "delta", 0.0)
        for name in ("mu", "epsilon", "delta"):
            given, wanted = getattr(self, name) is not None, name in NUMBERS[self.kind]
            if given != wanted:
                raise ValueError(f"{self.kind} {'needs' if wanted else 'takes no'} {name}")
        if self.mu is not None and not 0 < self.mu < math.inf:
            raise ValueError(f"mu must be above 0 and finite, not {self.mu}")
        if self.epsilon is not None and not 0 <= self.epsilon < math.inf:
            raise ValueError(f"epsilon must be finite and at least 0, not {self.epsilon}")
        if self.delta is not None and not 0 <= self.delta < 1:
            raise ValueError(f"delta must be in [0, 1), not {self.delta}")


@dataclass(frozen=True)
class Synthetic:
    """Small public assets that need no model; tokens 0 and 1 lie in opposite corners of the latent cube.

    Attributes:
        vocabulary: V, tokens.
        width: b, embedding width.
        d: Latent width, at most b.
        seed: Of the other tokens' embeddings.
    """

    __pydantic_config__ = STRICT
    vocabulary: int = 64
    width: int = 32
    d: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.vocabulary < 4 or not 1 <= self.d <= self.width or self.seed < 0:
            raise ValueError("assets need vocabulary >= 4, 1 <= d <= width and seed >= 0")
        if self.vocabulary * self.width > WIDEST:
            raise ValueError(f"assets have at most {WIDEST} numbers, vocabulary times width")


@dataclass(frozen=True)
class ClaimSpec:
    """One claim under test.

    Attributes:
        name: How results call it; unique in its file.
        defense: A registered defence.
        guarantee: What it is held against.
        parameters: Of the defence's Config.
        model: The LLM whose embedding table is used; None takes `assets`.
        projection: A trained projection of that model.
        artifacts: The folder of projections, relative to the claims file; None takes the shipped ones.
        assets: Synthetic assets, where there is no model.
        unit: "token" (one token differs), "prompt" (all `tokens` of them differ), or "coordinate" (one coordinate of
            one token: the exact guarantee of the mechanism that the token's is made of).
        tokens: T, the length of the prompts.
        through: Where the audit looks: "mechanism" (the defence's own views), "prompt" (whole prompts), "vocabulary"
            (the worst pair of tokens by search), "wire" (request bytes of the real client) or "attack" (an attack
            guesses secrets whose blind guess is known).
        attack: The attack, with through = "attack"; None takes map.
        pair: Two token ids to tell apart; None takes opposite corners (synthetic assets) or searches (a model).
        samples: Draws per side.
        delta: At which epsilons are stated.
        seed: Of the draws; each run has draws of its own.
        violation: The factor on the guarantee's parameter that the audit is asked to be able to detect; above 1.
        weight: Share of the level, relative to the other claims.
        severity: SARIF's level for a refutation.
    """

    __pydantic_config__ = STRICT
    name: str
    defense: str
    guarantee: GuaranteeSpec
    parameters: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    projection: str | None = None
    artifacts: str | None = None
    assets: Synthetic = field(default_factory=Synthetic)
    unit: Literal["token", "prompt", "coordinate"] = "token"
    tokens: int = 1
    through: Literal["mechanism", "prompt", "vocabulary", "wire", "attack"] = "mechanism"
    attack: str | None = None
    pair: tuple[int, int] | None = None
    samples: int = 20_000
    delta: float = 1e-5
    seed: int = 0
    violation: float = 1.1
    weight: float = 1.0
    severity: Literal["error", "warning", "note"] = "error"

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable():
            raise ValueError("name must be one line of printable text")
        for key, least in (("tokens", 1), ("samples", 100), ("seed", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} must be at least {least}, not {getattr(self, key)}")
        if max(self.tokens, self.samples) > LARGEST:
            raise ValueError(f"tokens and samples must be at most {LARGEST}")
        if not 0 <= self.delta < 1:
            raise ValueError(f"delta must be in [0, 1), not {self.delta}")
        for key, least in (("violation", 1), ("weight", 0)):
            if not least < getattr(self, key) < math.inf:
                raise ValueError(f"{key} must be above {least} and finite, not {getattr(self, key)}")
        self._check_place()

    def _check_place(self) -> None:
        """Combinations that would test something other than what they say."""
        if self.tokens > 1 and self.through not in {"prompt", "wire"}:
            raise ValueError(f'{self.tokens} tokens are looked at through = "prompt" or "wire", not {self.through}')
        if self.unit == "prompt" and self.through not in {"prompt", "wire"}:
            raise ValueError(f'unit = "prompt" needs through = "prompt" or "wire", not {self.through}')
        if self.unit == "coordinate" and (self.guarantee.kind != "exact" or self.through not in {"mechanism", "wire"}):
            raise ValueError('unit = "coordinate" needs guarantee = "exact", and through = "mechanism" or "wire"')
        if self.model is None and (self.projection or self.artifacts):
            raise ValueError("projection and artifacts belong to a model: name it with model")
        if self.pair is not None and (self.pair[0] == self.pair[1] or min(self.pair) < 0):
            raise ValueError("pair must be two different token ids")
        if self.pair is not None and self.through in {"vocabulary", "attack"}:
            raise ValueError(f'through = "{self.through}" chooses its tokens itself: remove pair')
        if self.attack is not None and self.through != "attack":
            raise ValueError(f'attack = "{self.attack}" needs through = "attack", not {self.through}')

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything that decides what is tested; the weight and the severity do not."""
        parts = asdict(self)
        del parts["weight"], parts["severity"]
        if self.attack is None:
            del parts["attack"]  # as before there were attacks: ledgers know claims by their fingerprint
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class ClaimsFile:
    """A whole file of claims.

    Attributes:
        claims: In the order of the file; at least one, names differ.
        error: How false alarms are paid for.
    """

    __pydantic_config__ = STRICT
    claims: tuple[ClaimSpec, ...]
    error: ErrorControl = field(default_factory=ErrorControl)

    def __post_init__(self) -> None:
        if not self.claims:
            raise ValueError("there is no [[claims]] table")
        names = [claim.name for claim in self.claims]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two claims are called {twice[0]!r}: rename one")

    @property
    def shares(self) -> dict[str, float]:
        """Claim -> its share of the level, in proportion to the weights."""
        total = math.fsum(claim.weight for claim in self.claims)
        return {claim.name: claim.weight / total for claim in self.claims}

    def pick(self, name: str) -> ClaimSpec:
        """One claim by name.

        Raises:
            UserError: there is none of that name.
        """
        for claim in self.claims:
            if claim.name == name:
                return claim
        raise UserError(f"there is no claim called {name!r}; the file has {', '.join(c.name for c in self.claims)}")


def load_claims(path: Path, changes: Sequence[str] = ()) -> ClaimsFile:
    """Read a claims file and apply `key=value` changes to it.

    Raises:
        UserError: the file cannot be read, is no TOML, or a key is unknown or wrong: file, claim and key are named.
    """
    return parse_claims(read_tables(path), changes, str(path))


def parse_claims(raw: Mapping[str, Any], changes: Sequence[str] = (), source: str = "claims") -> ClaimsFile:
    """Build a claims file from plain tables and changes: "error.level=0.01", "NAME.samples=500", "samples=500".

    Raises:
        UserError: as `load_claims`.
    """
    tables = json.loads(json.dumps(raw, default=str))
    claims = tables.get("claims", [])
    if not isinstance(claims, list) or not all(isinstance(claim, dict) for claim in claims):
        raise UserError(f"{source}: claims must be tables: write [[claims]] above each")
    for change in changes:
        _apply(tables, change)
    for claim in claims:
        for key, table in (("guarantee", lambda kind: {"kind": kind}), ("assets", _assets)):
            if isinstance(claim.get(key), str):
                claim[key] = table(claim[key])
    return validated(ClaimsFile, tables, source, lambda location: _place(location, claims))


def claim_lines(text: str) -> list[int]:
    """The line, from 1, of each [[claims]] header in a TOML text, in order; those inside long strings are none."""
    lines, fence = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        if not fence and re.match(r"\s*\[\[\s*claims\s*\]\]", line):
            lines.append(number)
        for mark in _FENCE.findall(line):
            fence = "" if fence == mark else fence or mark
    return lines


def _assets(kind: str) -> dict[str, Any] | str:
    """`assets = "synthetic"` takes the defaults; any other word is left for the parser to refuse."""
    return {} if kind == "synthetic" else kind


def _place(location: Sequence[str | int], claims: Sequence[Mapping[str, Any]]) -> str:
    """A location for a reader: the claim by its name, or by its number where it has none."""
    parts = list(location)
    if len(parts) > 1 and parts[0] == "claims" and isinstance(parts[1], int):
        named = claims[parts[1]].get("name")
        head = f"claim {shown(named)!r}" if isinstance(named, str) else f"claim number {parts[1] + 1}"
        return ": ".join([head, shown(".".join(str(part) for part in parts[2:]))]).removesuffix(": ")
    return dotted(parts)


def _apply(tables: dict[str, Any], change: str) -> None:
    """Set one key; the value is read as TOML, and as a plain string where it is none."""
    key, separator, text = change.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set {change}: {_CHANGE}")
    value = toml_value(text)
    targets, path = _targets(tables, key.strip())
    for target in targets:
        place: Any = target
        for part in path[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UserError(f"--set {change}: {part} is a value, not a table")
        place[path[-1]] = value


def _targets(tables: dict[str, Any], key: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The tables that a key speaks of, and its path inside each."""
    if key.startswith("error."):
        error = tables.setdefault("error", {})
        return [error] if isinstance(error, dict) else [], key.split(".")[1:]
    for claim in tables.get("claims", []):
        name = claim.get("name")
        if isinstance(name, str) and key.startswith(f"{name}."):
            return [claim], key.removeprefix(f"{name}.").split(".")
    return tables.get("claims", []), key.split(".")

"""An experiment as a frozen dataclass: read from one TOML file, changed by `--set key=value`, never by its callee."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from audit.claims import GuaranteeSpec
from audit.toml_files import read_tables, toml_value, validated
from defenses.errors import UserError

EMBEDDED = "embedded"
LARGEST = 10_000_000  # of tokens, windows, repeats; a thousand times what a study has ever needed
CONDITIONS = 100_000
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Data:
    """What prompts are made of.

    Attributes:
        source: "embedded" (the package's own workload) or SOURCE@SPLIT.
        auxiliary: Public text for priors, SOURCE@SPLIT each; empty takes the embedded workload of another seed.
        prefix_tokens: P, the private prompt's length.
        continuation_tokens: S, the true continuation's length.
        windows: How many (prefix, continuation) pairs are scored.
        generations: How many of them are generated from, for coherence; from 50 on also for MAUVE.
        attack_tokens: How many prompt tokens are attacked (the paper: 2,000).
        show_text: Put a few prompts of `source` into the record; say so for public text only. The embedded
            workload's are always shown.
    """

    __pydantic_config__ = STRICT
    source: str = EMBEDDED
    auxiliary: tuple[str, ...] = ()
    prefix_tokens: int = 24
    continuation_tokens: int = 16
    windows: int = 48
    generations: int = 16
    attack_tokens: int = 2000
    show_text: bool = False

    def __post_init__(self) -> None:
        for name in ("prefix_tokens", "continuation_tokens", "generations", "attack_tokens"):
            if not 1 <= getattr(self, name) <= LARGEST:
                raise UserError(f"data.{name} must be at least 1, and at most {LARGEST}")
        if not 2 <= self.windows <= LARGEST:
            raise UserError(f"data.windows must be at least 2, for an interval needs two documents; at most {LARGEST}")

    @property
    def length(self) -> int:
        """Tokens in a window."""
        return self.prefix_tokens + self.continuation_tokens


@dataclass(frozen=True)
class Grid:
    """One defence with every combination of its listed parameters.

    Attributes:
        defense: A plug-in's name.
        projection: Projections to combine with; empty for a defence that needs none.
        parameters: Parameter -> value or list of values.
        soft_prompt: "nearest" trained prompt, "clean" (the control trained on clean input), "none", or a prompt's own
            name, as in "prompt-d128-noise-aware-n4-mu20".
    """

    __pydantic_config__ = STRICT
    defense: str
    projection: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    soft_prompt: str = "nearest"

    def __post_init__(self) -> None:
        if self.soft_prompt not in {"nearest", "clean", "none"} and not self.soft_prompt.startswith("prompt-"):
            raise UserError(
                f"grid.soft_prompt must be nearest, clean, none or a name (prompt-...), not {self.soft_prompt!r}"
            )

    @property
    def size(self) -> int:
        """How many conditions it has."""
        lists = [value for value in self.parameters.values() if isinstance(value, list | tuple)]
        return math.prod(map(len, lists)) * max(1, len(self.projection))


@dataclass(frozen=True)
class Audit:
    """One audit of every condition: what `delaudit audit` does, on the experiment's own model.

    Attributes:
        guarantee: What is put to the test; by default what the defence claims.
        through: Where the audit looks, as in a claims file.
        unit: What differs between the two inputs.
        tokens: Length of the prompts.
        attack: With through = "attack".
        samples: Draws per side.
        violation: Factor on the guarantee that must be detectable.
        level: Chance of refuting a claim that is true, of each audit on its own.
    """

    __pydantic_config__ = STRICT
    guarantee: GuaranteeSpec = field(default_factory=lambda: GuaranteeSpec("claimed"))
    through: Literal["mechanism", "prompt", "vocabulary", "wire", "attack"] = "mechanism"
    unit: Literal["token", "prompt", "coordinate"] = "token"
    tokens: int = 1
    attack: str | None = None
    samples: int = 20_000
    violation: float = 1.1
    level: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level must be in (0, 1), not {self.level}")

    @property
    def label(self) -> str:
        """A short name, which also names its draws."""
        numbers = " ".join(f"{key}={value}" for key, value in asdict(self.guarantee).items() if key != "kind" and value)
        parts = (self.guarantee.kind, numbers, "through", self.attack or self.through, f"{self.tokens} tokens")
        return " ".join(part for part in (*parts, self.unit) if part)


@dataclass(frozen=True)
class Condition:
    """One cell of an experiment."""

    defense: str
    projection: str | None
    parameters: Mapping[str, Any]
    soft_prompt: str

    @property
    def label(self) -> str:
        """A short name for progress bars."""
        numbers = " ".join(f"{key}={value}" for key, value in self.parameters.items())
        return " ".join(part for part in (self.defense, self.projection or "", numbers) if part)


@dataclass(frozen=True)
class Experiment:
    """Everything a run depends on.

    Attributes:
        name: Also the MLflow experiment.
        seed: Names every draw.
        model: Default model, folder or hub id.
        encoder: Sentence encoder of coherence.
        artifacts: Folder of trained projections and prompts; None takes the shipped ones.
        delta: At which epsilons are stated.
        data: The prompts.
        grids: The conditions.
        audits: Audits of each condition that promises something; their verdicts are a record of their own.
        attacks: Attack plug-ins to run on each condition, with options as in "resend:sends=16"; "quick" or "all".
        attack_seeds: How often the attacked prompts are protected anew.
        utility_seeds: How often the scored prompts are protected anew.
        local_model: Language model of the clients that have one, a folder or hub id; None takes the LLM itself.
        masked_model: Masked language model of the attack masked-lm, a folder or hub id; None takes the LLM itself.
        wire_prompts: Prompts sent over a real socket at each (n, projection) of DEL, to count bytes and time.
        prompt_on_clean: Also score each soft prompt on the undefended input: how much of its gain is domain
            adaptation rather than repair of noise.
        device: Where the LLM runs: "cpu", "cuda", "cuda:1", or "map" for accelerate's map over all devices; None takes
            a GPU where there is one.
        dtype: The LLM's number format; None takes bfloat16 on a GPU and float32 elsewhere.
        tracking: MLflow tracking URI; None takes mlflow.db in the output folder.
    """

    __pydantic_config__ = STRICT
    name: str
    grids: tuple[Grid, ...]
    audits: tuple[Audit, ...] = ()
    seed: int = 0
    model: str = "smollm2-135m"
    encoder: str = "all-MiniLM-L6-v2"
    artifacts: str | None = None
    delta: float = 1e-5
    data: Data = field(default_factory=Data)
    attacks: tuple[str, ...] = ("prior", "cosine", "latent-l2", "map", "hmm")
    attack_seeds: int = 3
    utility_seeds: int = 1
    local_model: str | None = None
    masked_model: str | None = None
    wire_prompts: int = 3
    prompt_on_clean: bool = False
    device: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    tracking: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise UserError(f"delta must be in (0, 1), not {self.delta}")
        for name, least in (("attack_seeds", 1), ("utility_seeds", 1), ("wire_prompts", 0)):
            if not least <= getattr(self, name) <= LARGEST:
                raise UserError(f"{name} must be at least {least}, and at most {LARGEST}, not {getattr(self, name)}")
        if self.seed < 0:
            raise UserError(f"seed must be at least 0, not {self.seed}")
        labels = [one.label for one in self.audits]
        if len(set(labels)) < len(labels):
            raise UserError("two [[audits]] tables ask for the same: take one out")
        if not self.grids:
            raise UserError("an experiment needs at least one [[grids]] table")
        if sum(grid.size for grid in self.grids) > CONDITIONS:
            raise UserError(f"the grids have more than {CONDITIONS} conditions: list fewer values, or fewer parameters")

    def conditions(self) -> list[Condition]:
        """Every cell, in the order of the file."""
        return [condition for grid in self.grids for condition in _expand(grid)]


def load_experiment(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Read a TOML file and apply `key=value` changes to it.

    Raises:
        UserError: the file cannot be read, is no TOML, or a key is unknown or has the wrong type.
    """
    return parse_experiment(read_tables(path), changes, str(path))


def parse_experiment(raw: Mapping[str, Any], changes: Sequence[str] = (), source: str = "experiment") -> Experiment:
    """Build an experiment from plain tables and `key=value` changes ("data.windows=96", "seed=3")."""
    return validated(Experiment, change_tables(raw, changes), source)


def change_tables(raw: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A copy of plain tables with `key=value` changes; a value is read as TOML, and as a plain string where it is none.

    Raises:
        UserError: a change is none, or its key has no place.
    """
    tables: dict[str, Any] = json.loads(json.dumps(raw, default=str))  # dates are no value of ours
    for change in changes:
        key, separator, text = change.partition("=")
        if not separator or not key.strip():
            raise UserError(f"--set {change}: write key=value, for example data.windows=96")
        set_value(tables, key.strip(), toml_value(text), f"--set {change}")
    return tables


def set_value(tables: dict[str, Any], key: str, value: Any, origin: str) -> None:
    """Set one dotted key in plain tables; `origin` names the change in an error.

    Raises:
        UserError: the key has no place.
    """
    *path, last = key.split(".")
    place: Any = tables
    for part in path:
        if isinstance(place, list):
            if not part.isdigit() or int(part) >= len(place):
                raise UserError(f"{origin}: {part} is not one of the {len(place)} entries")
            place = place[int(part)]
        else:
            place = place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise UserError(f"{origin}: {part} is a value, not a table")
    if isinstance(place, list):
        if not last.isdigit() or int(last) >= len(place):
            raise UserError(f"{origin}: {last} is not one of the {len(place)} entries")
        place[int(last)] = value
    else:
        place[last] = value


def _expand(grid: Grid) -> Iterator[Condition]:
    """Every combination of a grid's lists."""
    names = list(grid.parameters)
    lists = [value if isinstance(value, list | tuple) else [value] for value in grid.parameters.values()]
    for projection in grid.projection or (None,):
        for values in itertools.product(*lists):
            yield Condition(grid.defense, projection, dict(zip(names, values, strict=True)), grid.soft_prompt)

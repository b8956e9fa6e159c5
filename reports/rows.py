"""Rows of a record, read for a report: numbers with intervals, and "not measured" where there are none."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audit.curves import NAMED, condition, is_number
from audit.records import RunRecord

NOT_MEASURED = "not measured"
CONTROLS = ("identity", "projection-only")
PAPER, BLIND = "cosine", "prior"  # the paper's own attack, and the guess that sees nothing

_MARKDOWN = re.compile(r"([\\`*_{}\[\]|~$])")
# A bare address becomes a link in GitHub's dialect: these keep one from forming.
_LINKS = {"://": ":&#47;&#47;", "@": "&#64;", "www.": "www&#46;"}


@dataclass(frozen=True)
class Strongest:
    """The attack that a condition is judged by, on one message of each prompt.

    Attributes:
        label: The attack's; the blind prior's where no attack did better on the adversary's own text.
        rate: Its top-1 success.
        column: Where that stands in the row, with its interval beside it.
        chosen: It was chosen before it met these prompts, or was alone, so that its interval needs no correction.
            False for the largest of several rates on the same tokens.
    """

    label: str
    rate: float
    column: str
    chosen: bool


@dataclass(frozen=True)
class Row:
    """One condition of a record.

    Attributes:
        values: The record's row.
        flags: Key -> "nan", "inf" or "-inf" for the numbers that JSON could not hold.
    """

    values: Mapping[str, Any]
    flags: Mapping[str, str]

    @property
    def name(self) -> str:
        """The condition in a few words."""
        return condition(self.values)

    @property
    def defence(self) -> str:
        """The defence's name."""
        return str(self.values.get("defence", "run"))

    @property
    def is_control(self) -> bool:
        """True where nothing is protected by noise: what the others are compared with."""
        return self.defence in CONTROLS

    def number(self, key: str) -> float | None:
        """A number; infinite where the record says so; None where it was not measured."""
        value = self.values.get(key)
        if is_number(value):
            return float(value)  # type: ignore[arg-type]  # is_number has looked
        return {"inf": math.inf, "-inf": -math.inf}.get(self.flags.get(key, ""))

    def interval(self, key: str) -> tuple[float, float] | None:
        """Both ends of a figure's interval; None where one of them is missing."""
        low, high = self.number(f"{key}_low"), self.number(f"{key}_high")
        return None if low is None or high is None else (low, high)

    def text(self, key: str, *, percent: bool = False) -> str:
        """A figure as text, with its interval where it has one: "26.5 [25, 28]"."""
        value, ends = self.number(key), self.interval(key)
        if value is None:
            return f"{NOT_MEASURED} (not a number)" if self.flags.get(key) == "nan" else NOT_MEASURED
        show = percentage if percent else quantity
        return show(value) if ends is None else f"{show(value)} [{show(ends[0])}, {show(ends[1])}]"

    def words(self, key: str) -> str:
        """A text or switch, escaped."""
        value = self.values.get(key)
        return NOT_MEASURED if value is None else escape(str(value))

    def attacks(self) -> dict[str, float]:
        """Top-1 success rate of each attack that ran; the blind prior is not an attack."""
        found = {
            key.removeprefix("asr_top1_"): self.number(key)
            for key in self.values
            if key.startswith("asr_top1_") and not key.endswith(("_low", "_high")) and key != f"asr_top1_{BLIND}"
        }
        return {name: rate for name, rate in found.items() if rate is not None}

    def several(self, label: str) -> bool:
        """True for an attack that saw several messages of each prompt: no rival of those that saw one."""
        knowledge = self.values.get(f"knowledge_{label}")
        return str(knowledge).endswith("messages of each prompt") if knowledge else label.startswith("resend")

    def unavailable(self) -> dict[str, str]:
        """Why each attack that could not run did not."""
        return {
            key.removeprefix("unavailable_"): str(reason)
            for key, reason in self.values.items()
            if key.startswith("unavailable_") and reason is not None
        }

    def strongest(self) -> Strongest | None:
        """The attack that was chosen beforehand, or, where the record names none, the one that read most here.

        None where none ran, or where the figure of the chosen one is missing.
        """
        label = self.values.get("strongest_attack")
        if isinstance(label, str) and not self.several(label):
            column = f"asr_top1_{label}" if self.number("asr_strongest") is None else "asr_strongest"
            rate = self.number(column)
            return None if rate is None else Strongest(label, rate, column, chosen=True)
        rates = {name: rate for name, rate in self.attacks().items() if not self.several(name)}
        if not rates:
            return None
        best = max(rates, key=lambda name: rates[name])
        return Strongest(best, rates[best], f"asr_top1_{best}", chosen=len(rates) == 1)


def rows_of(record: RunRecord) -> list[Row]:
    """The record's rows, each with its own flags."""
    return [
        Row(
            values,
            {
                path.removeprefix(f"rows[{index}]."): kind
                for path, kind in record.nonfinite.items()
                if path.startswith(f"rows[{index}].")
            },
        )
        for index, values in enumerate(record.rows)
    ]


def parameters_told(row: Row) -> list[str]:
    """A defence's parameters, for a name: ["n=4", "mu=20"], ["eta=200"]."""
    found = [(key, row.number(key)) for key in NAMED]
    others = [str(row.values["settings"])] if row.values.get("settings") else []
    return [*(f"{key}={value:g}" for key, value in found if value is not None), *others]


def reference(rows: Sequence[Row], control: str) -> Row | None:
    """The row of a control that others are compared with: the one without a soft prompt; None where several vie."""
    found = [row for row in rows if row.defence == control and not row.values.get("prompt_name")]
    return found[0] if len(found) == 1 else None


def quantity(value: float) -> str:
    """Three or four significant digits, thousands apart: 0.0123, 26.5, 2,165."""
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 4 if abs(value) >= 100 else 3
    return f"{value:.{digits}g}"


def percentage(value: float) -> str:
    """A share as a percentage: 3.1 %."""
    return f"{round(100 * value, 1) + 0.0:.1f} %"  # a rounded -0.0 loses its sign


def escape(text: str) -> str:
    """Text for one Markdown table cell: nothing in it is markup, a line break becomes a mark."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", " ⏎ ")
    printable = "".join(sign if sign.isprintable() else " " for sign in lines)
    safe = html.escape(_MARKDOWN.sub(r"\\\1", printable), quote=False)
    for link, plain in _LINKS.items():
        safe = safe.replace(link, plain)
    return safe


def code(text: str) -> str:
    """Text in a code span of a table cell; back-ticks cannot end it, nor bars split the cell."""
    clean = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", clean)), default=0))
    space = " " if clean.startswith("`") or clean.endswith("`") else ""
    return f"{fence}{space}{clean.replace('|', chr(92) + '|')}{space}{fence}"


def table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the cells are escaped already."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *body)]
    return "\n".join(lines) + "\n"

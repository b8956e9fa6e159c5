"""A folder on what changed between two runs: one page as HTML and as Markdown, tables, a forest plot, both records."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from audit.differences import WHOLE, Change, Differences
from audit.records import RunRecord
from reports.drawing import COLOURS
from reports.folder import Kind, written
from reports.html_page import html_page, parsed
from reports.rows import NOT_MEASURED, code, escape, percentage, quantity, table
from reports.table_files import write_tables

PAGE, TEXT = "changes.html", "changes.md"
MARK = "<!-- delaudit changes -->"
CHANGES = Kind(
    "page on changes", TEXT, MARK, frozenset({PAGE, TEXT, "figures", "tables", "records"}),
    ("figures", "tables", "records"),
)  # fmt: skip
RECORDS = ("base.json", "new.json")
DRAWN = 40
"""Changes in one picture at most."""
STATES = {"worse": "got worse", "better": "got better", "none": "no change found"}
WHAT = ("condition", "figure", "base", "new")
JUDGED = (*WHAT, "change", "p", "p, Holm", "documents", "outcome", "method")
EXACT, UNTESTED = (*WHAT, "outcome", "method"), (*WHAT, "why")
PICTURES = {
    "ratio": ("changes-perplexity", "Tested changes of perplexity", "perplexity, new over base"),
    "difference": ("changes-shares", "Tested changes of shares", "share, new less base, percentage points"),
}
"""Kind of change, and the name, heading and axis of its picture."""
_GREY = "#767676"
_SHADES = dict(zip(STATES.values(), (COLOURS[1], COLOURS[0], _GREY), strict=True))
_SHAPES = dict(zip(STATES.values(), ("triangle-down", "triangle-up", "circle"), strict=True))
_WIDTH, _STEP, _LABEL = 420, 22, 420

Point = dict[str, Any]


def write_changes(base: RunRecord, new: RunRecord, differences: Differences, out_dir: Path) -> Path:
    """Write the folder in one step: it is made beside its place and renamed.

    Args:
        base: What was compared with.
        new: What may have changed.
        differences: Of these two.
        out_dir: The folder. A page on changes that is there already is replaced; a folder that holds anything else is
            left alone.

    Returns:
        The folder: changes.html, which opens from disk and needs nothing beside it; changes.md with the same content;
        figures/ (SVG and PNG), tables/ (CSV and LaTeX), records/ (base.json, new.json).

    Raises:
        UserError: `out_dir` holds something else, or cannot be written.
    """
    with written(out_dir, CHANGES) as folder:
        _fill(base, new, differences, folder)
    return out_dir


def _fill(base: RunRecord, new: RunRecord, differences: Differences, folder: Path) -> None:
    for record, name in zip((base, new), RECORDS, strict=True):
        record.write(folder / "records" / name)
    text = changes_text(base, new, differences, folder)
    (folder / TEXT).write_text(text, encoding="utf-8")
    tokens = parsed(text)
    write_tables(tokens, folder / "tables")
    (folder / PAGE).write_text(html_page(tokens, folder), encoding="utf-8")


def changes_text(base: RunRecord, new: RunRecord, differences: Differences, folder: Path) -> str:
    """The page's Markdown; the picture is drawn into `folder`/figures, which must exist."""
    exact = [one for one in differences.changes if one.kind == "exact"]
    told = [one for one in differences.changes if one.kind == "told" and one.row != WHOLE]
    parts = [
        MARK, "# What changed between two runs", "", escape(differences.sentence), "",
        *_listed("Regressions", differences.regressions, JUDGED, _judged, "Nothing got worse."),
        *_listed("Improvements", differences.improvements, JUDGED, _judged, "Nothing got better."),
        *_pictures(differences, folder),
        *_listed("Exact figures that changed", [one for one in exact if one.significant], EXACT, _exact, "None."),
        _compared_exactly(exact), "",
        *_listed("Verdicts", _verdicts(differences), EXACT, _exact, "No claim was tested in both runs."),
        *_listed("Everything that was tested", differences.tested, JUDGED, _judged, "No figure could be tested."),
        *_reading(differences),
        *_listed("What was not tested, and why", told, UNTESTED, _untested, "Every figure of both runs was compared."),
        *_listed("Figures of the runs as a whole", [one for one in differences.changes if one.row == WHOLE],
                 UNTESTED, _untested, "Neither run has any."),
        "## Conditions in one run only", "", *_lone(differences), "",
        "## What else differs", "", _cautions(differences), "",
        "## Where this comes from", "", _provenance(base, new), "",
        f"Records: [base](records/{RECORDS[0]}), [new](records/{RECORDS[1]})", "",
    ]  # fmt: skip
    return "\n".join(parts)


def _listed(
    title: str, changes: Iterable[Change], header: Sequence[str], cells: Callable[[Change], list[str]], none: str
) -> list[str]:
    """A heading and a table of changes; a sentence where there are none."""
    body = [cells(one) for one in changes]
    return [f"## {title}", "", table(header, body) if body else none + "\n"]


def _judged(one: Change) -> list[str]:
    documents = "no test" if one.n is None else str(one.n)
    method = escape(one.method.partition("; ")[0])  # the whole of it stands below the table of tests
    return [*_sides(one), _change(one), _p(one.p), _p(one.p_holm), documents, _state(one), method]


def _exact(one: Change) -> list[str]:
    return [*_sides(one), _state(one), escape(one.method)]


def _untested(one: Change) -> list[str]:
    return [*_sides(one), escape(one.method)]


def _sides(one: Change) -> list[str]:
    """What was compared, and its value in each run."""
    return [escape(one.row), escape(one.figure), _side(one, "base"), _side(one, "new")]


def _compared_exactly(exact: Sequence[Change]) -> str:
    equal = sum(not one.significant for one in exact)
    return f"{_count(len(exact), 'exact figure')} compared, {equal} equal in both runs."


def _verdicts(differences: Differences) -> list[Change]:
    """Each claim's verdict, and the lower bound on its epsilon below it."""
    claims = {one.row for one in differences.changes if one.kind == "verdict"}
    return [
        one for one in differences.changes
        if one.kind == "verdict" or (one.figure == "epsilon_lower" and one.row in claims)
    ]  # fmt: skip


def _side(one: Change, side: str) -> str:
    """A figure in one of the runs, with its interval where the record has it."""
    value = one.base if side == "base" else one.new
    ends = one.base_ends if side == "base" else one.new_ends
    if value is None:
        return NOT_MEASURED
    if isinstance(value, str):
        return escape(value)
    show = _shown(one)
    return show(value) if ends is None else f"{show(value)} [{show(ends[0])}, {show(ends[1])}]"


def _shown(one: Change) -> Callable[[float], str]:
    """How a figure is written: shares as percentages, exact ones to the digit that differs."""
    if one.kind == "difference" or one.figure.startswith("asr_"):
        return percentage
    return _precise if one.kind == "exact" and one.significant else quantity


def _precise(value: float) -> str:
    return f"{value:.10g}" if math.isfinite(value) else quantity(value)


def _change(one: Change) -> str:
    """The change with its interval: a factor, percentage points, or a plain difference."""
    if one.change is None:
        return "not a number" if one.kind == "exact" else one.kind
    if one.kind == "exact":
        return f"{one.change:+.4g}"
    show = quantity if one.kind == "ratio" else _points
    ends = "" if one.low is None or one.high is None else f" [{show(one.low)}, {show(one.high)}]"
    return f"factor {show(one.change)}{ends}" if one.kind == "ratio" else f"{show(one.change)}{ends} points"


def _points(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # a rounded -0.0 loses its sign


def _p(value: float | None) -> str:
    return "no test" if value is None else f"{value:.2g}"


def _state(one: Change) -> str:
    return STATES[one.direction] if one.significant else STATES["none"]


def _reading(differences: Differences) -> list[str]:
    """How the table of tests is to be read, and each method in full."""
    if not differences.tested:
        return []
    methods = Counter(one.method for one in differences.tested)
    words = (
        "A perplexity's change is new over base, a share's is new less base. Intervals are of 95 % each and by "
        "themselves; what decides is the p-value after Holm's adjustment for all "
        f"{_count(len(differences.tested), 'test')} together, held against {percentage(differences.level)}. "
        "Tests cover the choice of documents and the mechanism's coins, not what a run draws once for all, such as "
        "the public text that an attack learns from."
    )
    return [
        words,
        "",
        *(f"- {_count(number, 'test')}: {escape(method)}" for method, number in methods.items()),
        "",
    ]


def _pictures(differences: Differences, folder: Path) -> list[str]:
    """The forest plots, one of perplexities and one of shares; nothing where nothing was tested."""
    drawable = [one for one in differences.tested if _position(one) is not None]
    shown = sorted(drawable, key=lambda one: -abs(_position(one) or 0.0))[:DRAWN]
    if not shown:
        return []
    left = len(differences.tested) - len(shown)
    note = (
        f"The {len(shown)} largest changes; {_count(left, 'tested change')} {'is' if left == 1 else 'are'} not drawn."
    )
    parts = ["## Tested changes", "", *([note, ""] if left else [])]
    for kind, (name, title, label) in PICTURES.items():
        some = [one for one in shown if one.kind == kind]
        if some:
            told = "; ".join(f"{one.row}, {one.figure}: {_plain_change(one)}, {_state(one)}" for one in some)
            spec = json.dumps(_forest([_point(one) for one in some], label, log=kind == "ratio"))
            (folder / "figures" / f"{name}.png").write_bytes(vl_convert.vegalite_to_png(spec, scale=1.5))
            (folder / "figures" / f"{name}.svg").write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
            words = escape(f"{title}, each with its 95 % interval. {told}.")
            parts += [f"**{title}**", "", f"![{words}](figures/{name}.png)", ""]
    return parts


def _plain_change(one: Change) -> str:
    change = one.change or 0.0
    return f"{100 * (change - 1):+.1f} % of perplexity" if one.kind == "ratio" else f"{_points(change)} points"


def _position(one: Change) -> float | None:
    """Where a change stands: the log of a ratio, or a difference of shares; None where it has no finite place."""
    ends = [one.change, one.low, one.high]
    if any(value is None or not math.isfinite(value) or (one.kind == "ratio" and value <= 0) for value in ends):
        return None
    change = one.change or 0.0
    return math.log(change) if one.kind == "ratio" else change


def _point(one: Change) -> Point:
    scale = 1.0 if one.kind == "ratio" else 100.0
    return {
        "name": f"{one.row}: {one.figure}", "state": _state(one), "change": scale * (one.change or 0.0),
        "low": scale * (one.low or 0.0), "high": scale * (one.high or 0.0),
    }  # fmt: skip


def _forest(points: Sequence[Point], title: str, *, log: bool) -> dict[str, Any]:
    """Intervals over one another, the place of "no change" as a dashed line; factors stand on a log axis."""
    states = list(_SHADES)
    scale = alt.Scale(type="log", nice=False, padding=12) if log else alt.Scale(zero=False, nice=False, padding=12)
    y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=_LABEL))
    base = alt.Chart(alt.InlineData(values=list(points)))
    legend = alt.Legend(orient="bottom", title=None)
    colour = alt.Color("state:N", scale=alt.Scale(domain=states, range=list(_SHADES.values())), legend=legend)
    shape = alt.Shape("state:N", scale=alt.Scale(domain=states, range=list(_SHAPES.values())), legend=legend)
    nought = alt.Chart(alt.InlineData(values=[{"at": 1.0 if log else 0.0}])).mark_rule(strokeDash=[5, 4], color=_GREY)
    whole: dict[str, Any] = alt.layer(
        nought.encode(x=alt.X("at:Q", scale=scale, title=title)),
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", scale=scale, title=title), x2="high:Q", y=y, color=colour
        ),
        base.mark_point(filled=True, size=70).encode(
            x=alt.X("change:Q", scale=scale, title=title), y=y, color=colour, shape=shape
        ),
        width=_WIDTH,
        height=_STEP * len(points) + _STEP,
    ).to_dict()
    return whole


def _lone(differences: Differences) -> list[str]:
    names = [["base", escape(name)] for name in differences.only_base]
    names += [["new", escape(name)] for name in differences.only_new]
    return [table(["run", "condition"], names)] if names else ["None: both runs have the same conditions."]


def _cautions(differences: Differences) -> str:
    """A table, which can be scrolled: settings may hold long words."""
    return (
        table(["what to know"], [[escape(one)] for one in differences.warnings]) if differences.warnings else "Nothing."
    )


def _provenance(base: RunRecord, new: RunRecord) -> str:
    """Both runs side by side; of the packages only those that differ."""
    packages = sorted(name for name in base.versions.keys() | new.versions.keys()
                      if base.versions.get(name) != new.versions.get(name))  # fmt: skip
    lines: dict[str, Callable[[RunRecord], str]] = {
        "kind": lambda record: escape(record.kind),
        "created": lambda record: escape(record.created) or NOT_MEASURED,
        "commit": lambda record: "not run from a checkout" if record.commit is None else code(record.commit),
        "changes that no commit holds": lambda record: {True: "yes", False: "no", None: "not known"}[record.dirty],
        "command": lambda record: code(record.command) if record.command else NOT_MEASURED,
        "seed": lambda record: str(record.seed),
        "data": _data,
    }
    body = [[what, told(base), told(new)] for what, told in lines.items()]
    body += [
        [escape(f"package {name}"), *(escape(record.versions.get(name, "not installed")) for record in (base, new))]
        for name in packages
    ]
    return table(["what", "base", "new"], body) + (
        "" if packages else "\nEvery package has the same version in both.\n"
    )


def _data(record: RunRecord) -> str:
    named = [f"{escape(str(one['name']))}, SHA-256 {code(str(one['sha256']))}" for one in record.data]
    return "; ".join(named) or NOT_MEASURED


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

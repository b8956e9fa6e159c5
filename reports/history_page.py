"""A folder on one experiment over time: charts of each figure run by run, with what got worse, and every number."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from audit.differences import Change
from audit.history import BOUND, FIGURES, History, Mark, Point, Series, history, run_name
from audit.records import RunRecord
from reports.charts import SHAPES, Chart, write_chart
from reports.drawing import COLOURS, Drawn
from reports.folder import Kind, written
from reports.html_page import html_page, parsed
from reports.rows import NOT_MEASURED, code, escape, percentage, quantity, table
from reports.table_files import write_tables

PAGE, TEXT = "history.html", "history.md"
MARK = "<!-- delaudit history -->"
HISTORY = Kind("history", TEXT, MARK, frozenset({PAGE, TEXT, "figures", "tables"}), ("figures", "tables"))
TITLES = {
    BOUND: "Lower bounds on ε",
    "asr_strongest": "Success of the strongest attack",
    "asr_top1_cosine": "Success of the paper's attack",
    "perplexity_over_clean": "Perplexity over undefended",
    "agreement_top1": "Agreement with the undefended model",
}
LABELS = {
    BOUND: "ε is at least (higher: leaks more)",
    "asr_strongest": "tokens recovered, % (higher: leaks more)",
    "asr_top1_cosine": "tokens recovered, % (higher: leaks more)",
    "perplexity_over_clean": "factor (higher: worse)",
    "agreement_top1": "agreement, % (lower: worse)",
}
IN_ONE = len(COLOURS)
"""Series in one picture at most: each has its own colour and its own mark."""
_SHARES = frozenset({"asr_strongest", "asr_top1_cosine", "agreement_top1"})
_VERDICT = "verdict"
_RINGS = {"worse": COLOURS[1], "better": COLOURS[0]}
_NAME = 70  # characters of a condition's name in a legend
_WIDTH, _WIDEST, _STEP, _HEIGHT = 560, 1600, 36, 300
_LABELLED = 44  # runs whose ticks all have their words
_REMARKS = 12

Cells = dict[str, Any]


def write_history(
    records: Sequence[RunRecord],
    level: float,
    out: Path,
    *,
    found: History | None = None,
    skipped: Sequence[str] = (),
) -> Path:
    """Write the folder in one step: it is made beside its place and renamed.

    Args:
        records: Runs of one kind, in any order.
        level: Of the whole history, in (0, 1).
        out: The folder. A history that is there already is replaced; a folder that holds anything else is left alone.
        found: The history of these records, where it is made already.
        skipped: Runs without a record, one line each.

    Returns:
        The folder: history.html, which opens from disk and needs nothing beside it; history.md with the same content;
        figures/ (SVG, PNG and Vega-Lite), tables/ (CSV and LaTeX).

    Raises:
        UserError: the records make no history, or `out` holds something else or cannot be written.
    """
    made = history(records, level) if found is None else found
    with written(out, HISTORY) as folder:
        text = history_text(made, skipped, folder)
        (folder / TEXT).write_text(text, encoding="utf-8")
        tokens = parsed(text)
        write_tables(tokens, folder / "tables")
        (folder / PAGE).write_text(html_page(tokens, folder), encoding="utf-8")
    return out


def history_text(found: History, skipped: Sequence[str], folder: Path) -> str:
    """The page's Markdown; charts are drawn into `folder`/figures, which must exist.

    Args:
        found: The history.
        skipped: Runs without a record, one line each.
        folder: The page's.
    """
    lines = [
        MARK, f"# {escape(found.runs[0].kind.capitalize())} over {_count(len(found.runs), 'run')}", "",
        _opening(found), "",
        "## Regressions", "", _changes(found, found.regressions, "No figure got worse."), "",
        "## Improvements", "", _changes(found, found.improvements, "No figure got better."), "",
    ]  # fmt: skip
    for figure in FIGURES:
        series = [one for one in found.series if one.figure == figure]
        if series:
            pictures = [write_chart(chart, folder / "figures", "") for chart in _charts(found, figure, series)]
            lines += [f"## {TITLES[figure]}", "", *map(_image, pictures), _values(found, figure, series), ""]
    if not found.series:
        lines += [f"None of the figures that have a history was in any run: {NOT_MEASURED}.", ""]
    lines += ["## Runs", "", _runs(found), "", *_beside(found), *_not_shown(found, skipped)]
    return "\n".join(lines)


def _opening(found: History) -> str:
    """What was found, and by which statistics."""
    if not found.steps:
        return "One run has no run before it: nothing is compared. A change shows from the second run on."
    worse, better, tests = len(found.regressions), len(found.improvements), sum(len(one.tested) for one in found.steps)
    return (
        f"**{_count(worse, 'figure')} got worse and {better} got better** from one run to the next. "
        f"{_count(len(found.steps), 'comparison')} of a run with the run before, {_count(tests, 'test')}: the "
        f"probability that any of the tests calls a figure changed though none is, over the whole history, is at most "
        f"{percentage(found.level)} (each comparison at that divided by {len(found.steps)}, Bonferroni; within one by "
        "Holm). Exact figures need no test; verdicts have the level that their own run spent. A slow decline, each "
        "step too small to be seen, is not marked: look at the charts, and compare two distant runs."
    )


def _changes(found: History, marks: Sequence[Mark], none: str) -> str:
    if not marks:
        return none + "\n"
    body = [
        [
            _run(found, one.run), _run(found, one.run - 1), escape(one.condition), escape(one.change.figure),
            _value(one.change.figure, one.change.base), _value(one.change.figure, one.change.new), _effect(one.change),
            _p(one.change.p), _p(one.change.p_holm), _n(one.change.n), escape(one.change.method),
        ]
        for one in marks
    ]  # fmt: skip
    header = ["run", "run before", "condition", "figure", "from", "to", "change", "p", "p, Holm", "n", "method"]
    return table(header, body)


def _effect(change: Change) -> str:
    """The change with its 95 % interval, as a factor or a difference; what kind it is where it has none."""
    if change.change is None or change.low is None or change.high is None:
        return {"exact": "exact", "verdict": "verdict"}.get(change.kind, NOT_MEASURED)
    if change.kind == "ratio":
        return f"factor {quantity(change.change)} [{quantity(change.low)}, {quantity(change.high)}]"
    value, low, high = (f"{100 * one + 0.0:+.1f}" for one in (change.change, change.low, change.high))
    return f"{value} [{low}, {high}] points"


def _value(figure: str, value: float | str | None) -> str:
    if value is None:
        return NOT_MEASURED
    if isinstance(value, str):
        return escape(value)
    if math.isnan(value):
        return f"{NOT_MEASURED} (not a number)"
    return percentage(value) if figure.startswith("asr_") or figure in _SHARES else quantity(value)


def _p(value: float | None) -> str:
    return "no test" if value is None else f"{value:.2g}"


def _n(value: int | None) -> str:
    return "not told" if value is None else str(value)


def _run(found: History, place: int) -> str:
    """A run as tables name it, with its number first."""
    return f"{place + 1}: {escape(run_name(found.runs[place]))}"


def _values(found: History, figure: str, series: Sequence[Series]) -> str:
    """Every number of a figure, a row for each condition and run."""
    header = ["condition", "run", LABELS[figure].split(" (", 1)[0], "n", "method", "against the run before"]
    claims = figure == BOUND
    if claims:
        header.insert(3, "verdict")
    body = []
    for one in series:
        for point in one.points:
            cells = [escape(one.condition), _run(found, point.run), _with_ends(figure, point), _n(point.n),
                     escape(point.method), _outcome(found, one, point)]  # fmt: skip
            if claims:
                cells.insert(3, escape(point.verdict or NOT_MEASURED))
            body.append(cells)
    return table(header, body)


def _with_ends(figure: str, point: Point) -> str:
    value = _value(figure, point.value)
    if point.value is None or point.low is None or point.high is None:
        return value
    return f"{value} [{_value(figure, point.low)}, {_value(figure, point.high)}]"


def _outcome(found: History, series: Series, point: Point) -> str:
    """What the comparison with the run before says of this figure."""
    if point.run == 0:
        return "first run"
    marks = _marks(found, series).get(point.run, [])
    if marks:
        return ", ".join(f"**got {one.change.direction}**" for one in marks)
    return "no change found" if any(one.run == point.run - 1 for one in series.points) else "not in the run before"


def _marks(found: History, series: Series) -> Mapping[int, list[Mark]]:
    """Significant changes of a series, by run; a verdict belongs to its claim's bound."""
    figures = {series.figure, _VERDICT} if series.figure == BOUND else {series.figure}
    marks: dict[int, list[Mark]] = {}
    for one in found.marks:
        if one.condition == series.condition and one.change.figure in figures:
            marks.setdefault(one.run, []).append(one)
    return marks


def _charts(found: History, figure: str, series: Sequence[Series]) -> list[Chart]:
    """The charts of a figure: several where there are more series than colours."""
    groups = [series[start : start + IN_ONE] for start in range(0, len(series), IN_ONE)]
    charts = []
    for number, group in enumerate(groups, start=1):
        names = _legend_names(group)
        points = [
            {"condition": names[one.condition], **cells}
            for one in group for point in one.points if (cells := _cells(found, one, point)) is not None
        ]  # fmt: skip
        if not points:
            continue
        part = f" ({number} of {len(groups)})" if len(groups) > 1 else ""
        stem = f"history-{figure.replace('_', '-')}" + (f"-{number}" if len(groups) > 1 else "")
        alt_text = f"{TITLES[figure]} run by run{part}. {' '.join(_told(found, one) for one in group)}"
        charts.append(
            Chart(stem, f"{TITLES[figure]}{part}", alt_text, _spec(found, figure, list(names.values()), points))
        )
    return charts


def _cells(found: History, series: Series, point: Point) -> Cells | None:
    """A point of a chart; None where there is no finite number."""
    if point.value is None or not math.isfinite(point.value):
        return None
    scale = 100.0 if series.figure in _SHARES else 1.0
    ends = (point.low, point.high)
    low, high = (point.value if end is None or not math.isfinite(end) else end for end in ends)
    directions = [one.change.direction for one in _marks(found, series).get(point.run, [])]
    mark = "worse" if "worse" in directions else "better" if directions else ""
    words = [mark] if mark else []
    words += ["REFUTED"] if point.verdict == "REFUTED" else []
    return {
        "run": _tick(found, point.run), "value": scale * point.value,
        "low": scale * low, "high": scale * high, "mark": mark, "words": ", ".join(words),
        "told": _with_ends(series.figure, point), "verdict": point.verdict or "",
    }  # fmt: skip


def _tick(found: History, place: int) -> str:
    return f"{place + 1}: {run_name(found.runs[place])}"


def _legend_name(name: str) -> str:
    """A condition on one line of bounded length."""
    text = " ".join(name.split())
    return text if len(text) <= _NAME else f"{text[:_NAME]}..."


def _legend_names(group: Sequence[Series]) -> dict[str, str]:
    """A name of its own for each condition of a picture."""
    names = [_legend_name(one.condition) for one in group]
    return {
        one.condition: name if names.count(name) == 1 else f"{number}: {name}"
        for number, (one, name) in enumerate(zip(group, names, strict=True), start=1)
    }


def _told(found: History, series: Series) -> str:
    """A series in words: its first and its last number, and where it changed."""
    known = [point for point in series.points if point.value is not None]
    if not known:
        return f"{_legend_name(series.condition)}: {NOT_MEASURED}."
    ends = [known[0], known[-1]] if len(known) > 1 else known
    text = ", ".join(f"{_value(series.figure, point.value)} in run {point.run + 1}" for point in ends)
    marks = [f"got {one.change.direction} in run {run + 1}" for run, some in _marks(found, series).items()
             for one in some]  # fmt: skip
    return f"{_legend_name(series.condition)}: {'; '.join([text, *marks])}."


def _spec(found: History, figure: str, names: list[str], points: Sequence[Cells]) -> dict[str, Any]:
    """Lines, intervals and marks over one another, with a ring around what changed."""
    chosen = alt.selection_point(name="chosen", fields=["condition"], bind="legend")
    ticks = [_tick(found, place) for place in range(len(found.runs))]
    x = alt.X("run:N", sort=ticks, scale=alt.Scale(domain=ticks), title="run: commit and day",
              axis=alt.Axis(labelAngle=-40, labelLimit=220, labelOverlap=len(ticks) > _LABELLED))  # fmt: skip
    logarithmic = figure == "perplexity_over_clean" and all(one["low"] > 0 for one in points)
    scale = alt.Scale(type="log", nice=False, padding=12) if logarithmic else alt.Scale(zero=False, padding=12)
    y = alt.Y("value:Q", title=LABELS[figure], scale=scale)
    legend = alt.Legend(orient="bottom", columns=1, labelLimit=0, title="condition", symbolOpacity=1)
    colour = alt.Color("condition:N", scale=alt.Scale(domain=names, range=list(COLOURS[: len(names)])), legend=legend)
    shape = alt.Shape("condition:N", scale=alt.Scale(domain=names, range=list(SHAPES[: len(names)])), legend=legend)
    seen = alt.condition(chosen, alt.value(1), alt.value(0.15))
    base = alt.Chart(alt.InlineData(values=list(points)))
    tooltip = [
        alt.Tooltip("condition:N"), alt.Tooltip("run:N"), alt.Tooltip("told:N", title=TITLES[figure]),
        *([alt.Tooltip("verdict:N")] if figure == BOUND else []), alt.Tooltip("words:N", title="found"),
    ]  # fmt: skip
    parts: list[Any] = [
        base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=colour, opacity=seen),
        base.mark_rule().encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", color=colour, opacity=seen),
        base.mark_point(filled=True, size=70).encode(
            x=x, y=y, color=colour, shape=shape, opacity=seen, tooltip=tooltip
        ),
        *(_rings(points, state, x, y) for state in _RINGS if any(one["mark"] == state for one in points)),
        base.mark_text(align="center", dy=-16, fontWeight="bold").encode(
            x=x, y=alt.Y("high:Q", scale=scale), text="words:N"
        ),
    ]  # fmt: skip
    width = min(_WIDEST, max(_WIDTH, _STEP * len(ticks)))
    whole: dict[str, Any] = alt.layer(*parts, width=width, height=_HEIGHT).add_params(chosen).to_dict()
    return whole


def _rings(points: Sequence[Cells], state: str, x: Any, y: Any) -> Any:
    """A ring around each point that changed so."""
    data = alt.InlineData(values=[one for one in points if one["mark"] == state])
    ring = alt.Chart(data).mark_point(shape="circle", size=320, filled=False, strokeWidth=2.5, color=_RINGS[state])
    return ring.encode(x=x, y=y)


def _image(drawn: Drawn) -> str:
    """A picture, with its own title where its heading has several."""
    title = "" if drawn.title in TITLES.values() else f"**{escape(drawn.title)}**\n\n"
    return f"{title}![{escape(drawn.alt)}](figures/{drawn.file})\n"


def _runs(found: History) -> str:
    """Where each run comes from."""
    body = [
        [
            _run(found, place), escape(record.created),
            "not from a checkout" if record.commit is None else code(record.commit),
            {True: "yes", False: "no", None: "not known"}[record.dirty], str(record.seed), str(len(record.rows)),
            code(record.command) if record.command else NOT_MEASURED, _listed(record.remarks),
        ]
        for place, record in enumerate(found.runs)
    ]  # fmt: skip
    header = ["run", "created", "commit", "changes that no commit holds", "seed", "conditions", "command", "remarks"]
    return table(header, body)


def _beside(found: History) -> list[str]:
    """What else differs between runs, and conditions that came or went."""
    if not found.steps:
        return []
    body = [
        [_run(found, place), _listed(step.only_base), _listed(step.only_new), _listed(step.warnings)]
        for place, step in enumerate(found.steps, start=1)
    ]
    header = ["run", "conditions that it lacks", "conditions that are new", "what else differs from the run before"]
    return ["## What else differs", "", table(header, body), ""]


def _listed(texts: Sequence[str]) -> str:
    shown = "; ".join(escape(one) for one in texts[:_REMARKS]) or "none"
    return shown + (f"; and {len(texts) - _REMARKS} more" if len(texts) > _REMARKS else "")


def _not_shown(found: History, skipped: Sequence[str]) -> list[str]:
    missing = [*skipped, *found.unplaced]
    if not missing:
        return []
    return ["## Runs that are not shown", "", *(f"- {escape(one)}" for one in missing), ""]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

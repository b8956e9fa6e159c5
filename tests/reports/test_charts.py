"""Charts of utility and privacy: points are the records', alternatives say so, nothing infinite is drawn."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from audit.records import RunRecord
from reports.charts import PAPERS, SPEC, STRONGEST, Chart, overview_charts, write_chart


def points(chart: Chart) -> list[dict[str, Any]]:
    """The marks of a chart, whose data every layer but the controls' shares."""
    sets = [chart.spec["datasets"]] if "datasets" in chart.spec else []
    found: list[dict[str, Any]] = []
    for layer in chart.spec["layer"]:
        data = layer.get("data", chart.spec.get("data", {}))
        values = data.get("values") or next(iter(sets), {}).get(data.get("name"), [])
        if values and "curve" in values[0]:
            found = values
    return found


def charts(*records: RunRecord) -> dict[str, Chart]:
    """By name."""
    return {chart.name: chart for chart in overview_charts(records)}


def test_points_are_the_records(record: RunRecord) -> None:
    """If this failed, a curve would show other numbers than the tables."""
    found = charts(record)
    assert list(found) == ["utility-epsilon", "utility-asr", "read-epsilon", "utility-bytes"]
    defended = [row for row in record.rows if row["defence"] == "del"]
    drawn = points(found["utility-epsilon"])
    assert [(one["x"], one["y"]) for one in drawn] == [
        (row["epsilon_exact_token"], row["perplexity"]) for row in defended
    ]
    assert [(one["y_low"], one["y_high"]) for one in drawn] == [
        (row["perplexity_low"], row["perplexity_high"]) for row in defended
    ]
    assert {one["curve"] for one in drawn} == {"del, n=4", "del, n=8"}
    assert drawn[0]["up"] == "2,165 [1,948, 2,382]"


def test_the_papers_attack_stands_beside_the_strongest(record: RunRecord) -> None:
    """If this failed, a reader would not see by how much the paper's calibration flatters a defence."""
    drawn = points(charts(record)["utility-asr"])
    of = {attack: [one["x"] for one in drawn if one["attack"] == attack] for attack in (STRONGEST, PAPERS)}
    defended = [row for row in record.rows if row["defence"] == "del"]
    assert of[PAPERS][-6:] == [pytest.approx(100 * row["asr_top1_cosine"]) for row in defended]
    assert of[STRONGEST][-6:] == [pytest.approx(100 * row["asr_top1_map"]) for row in defended]


def test_controls_are_lines_with_their_names(record: RunRecord) -> None:
    """If this failed, nobody would see how far a defended model is from the undefended one."""
    text = json.dumps(charts(record)["utility-epsilon"].spec)
    assert "undefended: 26.5" in text
    assert "projection, no noise: 57" in text


def test_what_cannot_be_drawn_is_left_out(record: RunRecord) -> None:
    """If this failed, an infinite or missing figure would break a chart, or stand somewhere as a number."""
    rows = [dict(row) for row in record.rows]
    rows[2]["epsilon_exact_token"] = math.inf
    rows[3]["perplexity"] = math.nan
    del rows[4]["perplexity"]
    found = charts(dataclasses.replace(record, rows=rows))
    assert len(points(found["utility-epsilon"])) == 3
    assert charts(dataclasses.replace(record, rows=[])) == {}
    only = charts(dataclasses.replace(record, rows=[{"defence": "del", "perplexity": 3.0, "epsilon_exact_token": 9.0}]))
    assert list(only) == ["utility-epsilon"]


def test_several_runs_share_a_chart(record: RunRecord) -> None:
    """If this failed, two runs' curves would have one name."""
    drawn = points(charts(record, dataclasses.replace(record, seed=1))["utility-epsilon"])
    assert {one["curve"] for one in drawn} == {f"run {run}: del, n={n}" for run in (1, 2) for n in (4, 8)}


def test_many_curves_have_looks_of_their_own(record: RunRecord) -> None:
    """If this failed, the eighth curve would look like the first."""
    row = next(dict(row) for row in record.rows if row["defence"] == "del")
    rows = [{**row, "defence": f"defence-{number}"} for number in range(20)]
    chart = charts(dataclasses.replace(record, rows=rows))["utility-epsilon"]
    marks = next(layer["encoding"] for layer in chart.spec["layer"] if "shape" in layer["encoding"])
    ranges = [marks[channel]["scale"]["range"] for channel in ("color", "shape")]
    assert len(set(zip(*ranges, strict=True))) == 20


def test_a_chart_is_three_files_of_one_specification(record: RunRecord, tmp_path: Path) -> None:
    """If this failed, the live view and the drawing could show different points."""
    chart = charts(record)["utility-epsilon"]
    drawn = write_chart(chart, tmp_path, "2-")
    assert (drawn.file, drawn.alt) == ("2-utility-epsilon.png", chart.alt)
    assert {path.name for path in tmp_path.iterdir()} == {f"2-utility-epsilon{end}" for end in (".png", ".svg", SPEC)}
    assert json.loads((tmp_path / f"2-utility-epsilon{SPEC}").read_text(encoding="utf-8")) == chart.spec
    assert "del, n=4: 2,165 at 274.2, 135 at 1,590" in chart.alt

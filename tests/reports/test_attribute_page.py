"""The page of attribute inference: what it says is what the record holds, and what is missing is called so."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from reports.attribute_figures import draw_attributes, view_name
from reports.attribute_page import NO_PROOF, attribute_opening, attribute_section
from reports.report import write_report
from reports.rows import NOT_MEASURED, rows_of

EVIL = "a | $\\alpha_$ <b>x</b>\n[l](http://e.vil) `漢` *b*"
ORIGIN = Provenance(commit=None, dirty=None, versions={}, environment={}, created="2026-01-01T00:00:00Z", command="x")


def row(task: str, view: str, auc: float, **more: Any) -> dict[str, Any]:
    """One row with its intervals, 0.05 each way."""
    found: dict[str, Any] = {
        "task": task, "view": view, "defence": "del", "classifier": "attribute-mlp", "counted_by": "likelihood",
        "auc": auc, "auc_low": auc - 0.05, "auc_high": auc + 0.05, "chance": 0.5, "majority_accuracy": 0.52,
        "balanced_accuracy": auc - 0.1, "balanced_accuracy_low": auc - 0.15, "balanced_accuracy_high": auc - 0.05,
        "accuracy": auc - 0.1, "accuracy_over_majority": auc - 0.62, "p_value": 0.0005, "p_holm": 0.002,
        "maximal_posterior": 0.7, "victims": 50, "prompts": 100, "repeats": 3,
    }  # fmt: skip
    return found | more


def made(rows: list[dict[str, Any]], **config: Any) -> RunRecord:
    """A record of these rows."""
    return new_record("attributes", config=config, seed=0, rows=rows, provenance=ORIGIN)


@pytest.fixture
def record() -> RunRecord:
    """Two tasks, one of them with an evil name; strong and hidden views, a null."""
    rows = []
    for task in ("party", EVIL):
        rows += [
            row(task, "clean", 0.91),
            row(task, "projected", 0.9, auc_retained=0.97, auc_lost=0.01),
            row(task, "defended", 0.85, n=4, mu=20.0, auc_retained=0.854, auc_lost=0.06),
            row(task, "defended", 0.52, n=4, mu=5.0, auc_retained=0.049, auc_lost=0.39, p_value=0.2, p_holm=0.4),
            row(task, "permuted", 0.49, n=4, mu=5.0, p_value=None),
        ]
    return made(rows, knowledge={"mechanism": True, "language_model": False, "sends": 1})


def test_the_opening_says_what_was_found(record: RunRecord) -> None:
    """Each defended view is named with its AUC, whether it is above chance, and what is left of the advantage."""
    text = attribute_opening(rows_of(record))
    assert "2 attributes" in text
    assert "the undefended prompts give an AUC of 0.91 [0.86, 0.96]" in text
    assert "**defended n=4 mu=20**: 0.85 [0.8, 0.9], above chance; 85.4 % of the advantage is left" in text
    assert "**defended n=4 mu=5**: 0.52 [0.47, 0.57], not told from chance; 4.9 %" in text
    assert text.endswith(NO_PROOF)


def test_the_report_has_every_number_and_its_picture(record: RunRecord, tmp_path: Path) -> None:
    """The folder holds the page with its tables and a picture that is not blank."""
    page = (write_report([record], tmp_path / "report") / "report.md").read_text()
    assert "# What the views give away about people" in page
    for words in ("85.4 %", "0.4", "control", "52.0 %", "attribute-mlp", "The adversary had: mechanism."):
        assert words in page
    assert "It had not: language model." in page
    pixels = imread(tmp_path / "report" / "figures" / "attributes.png")
    assert pixels.shape[0] > 300
    assert float(np.std(pixels[..., :3])) > 0.02


def test_names_from_data_are_no_markup(record: RunRecord, tmp_path: Path) -> None:
    """An evil task name breaks neither table nor page nor picture."""
    page = (write_report([record], tmp_path / "report") / "report.md").read_text()
    assert "<b>" not in page
    assert "[l](" not in page
    assert "e.vil" in page
    for line in page.splitlines():
        if line.startswith("| a "):
            assert "\\|" in line


def test_what_is_missing_is_not_measured(tmp_path: Path) -> None:
    """Rows with nothing in them give a page without invented numbers, and no picture."""
    bare = made([{"task": "party", "view": "clean"}, {"task": "party", "view": "defended", "auc": math.nan}])
    (tmp_path / "figures").mkdir()
    lines = "\n".join(attribute_section(bare, tmp_path / "figures", ""))
    assert f"Picture: {NOT_MEASURED}." in lines
    assert f"What the adversary knew: {NOT_MEASURED}." in lines
    assert f"against chance {NOT_MEASURED}" in lines
    assert draw_attributes(bare, tmp_path, "") is None
    assert "Nothing follows" in attribute_opening([])


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"view": "clean", "defence": "identity"}, "clean"),
        ({"view": "defended", "defence": "del", "n": 4, "mu": 20.0}, "defended n=4 mu=20"),
        ({"view": "defended", "defence": "laplace"}, "defended by laplace"),
        ({"view": "defended", "defence": "laplace", "settings": "epsilon=5"}, "defended epsilon=5"),
        ({"view": "permuted", "n": 4}, "permuted labels"),
    ],
)
def test_views_have_plain_names(values: dict[str, Any], name: str) -> None:
    """What the legend and the tables call a view."""
    (only,) = rows_of(made([values]))
    assert view_name(only) == name


def test_the_alternative_text_tells_the_figures(record: RunRecord, tmp_path: Path) -> None:
    """Who cannot see the picture reads every AUC of it."""
    drawn = draw_attributes(record, tmp_path, "1-")
    assert drawn is not None
    assert drawn.file == "1-attributes.png"
    assert "party: clean 0.91, projected 0.9, defended n=4 mu=20 0.85" in drawn.alt

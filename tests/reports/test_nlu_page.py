"""The page of understanding: what it says is what the record holds, and what is missing is called so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from reports.drawing import auc_marks, style
from reports.nlu_figures import arm_name, draw_nlu
from reports.nlu_page import nlu_opening, nlu_section
from reports.report import write_report
from reports.rows import NOT_MEASURED, rows_of

EVIL = "a | $\\alpha_$ <b>x</b>\n[l](http://e.vil) `漢` *b*"
ORIGIN = Provenance(commit=None, dirty=None, versions={}, environment={}, created="2026-01-01T00:00:00Z", command="x")


def row(arm: str, auc: float, **more: Any) -> dict[str, Any]:
    """One row with its intervals, 0.05 each way."""
    figures = {
        "accuracy": auc - 0.1, "auc": auc, "balanced_accuracy": auc - 0.12, "auc_lost": 0.9 - auc,
        "accuracy_lost": 0.8 - auc, "noisy_mse": 2.0, "read_mse": 1.5, "noisy_cosine": 0.5, "read_cosine": 0.625,
    }  # fmt: skip
    found: dict[str, Any] = {
        "task": "glue_mrpc", "arm": arm, "defence": "identity" if arm == "clean" else "del", "majority_accuracy": 0.665,
        "examples": 300, "draws": 3, "training_examples": 600, "classes": 2, "columns": 2, "penalty": 0.001,
        "seconds": 12.0, "pool": "last", **figures,
    }  # fmt: skip
    ends = {
        f"{key}_{end}": value + sign * 0.05
        for key, value in figures.items()
        for end, sign in (("low", -1), ("high", 1))
    }
    return found | ends | more


@pytest.fixture
def record() -> RunRecord:
    """The clean arm, and two arms behind two noises."""
    rows = [row("clean", 0.9)]
    for mu, auc in ((20, 0.53), (60, 0.71)):
        rows += [row("none", auc, n=4, mu=mu), row("denoiser-server", auc + 0.06, n=4, mu=mu)]
    return new_record("nlu", config={}, seed=0, rows=rows, provenance=ORIGIN)


def test_the_opening_says_what_was_found(record: RunRecord) -> None:
    """The clean figures, chance, and each arm with whether it is above chance."""
    text = nlu_opening(rows_of(record))
    assert "*glue\\_mrpc*" in text
    assert "accuracy is 80.0 % [75.0 %, 85.0 %] and AUC 0.9 [0.85, 0.95]" in text
    assert "66.5 % of the examples" in text
    assert (
        "**del n=4 mu=20, none**: accuracy 43.0 % [38.0 %, 48.0 %], AUC 0.53 [0.48, 0.58], not told from chance" in text
    )
    assert (
        "**del n=4 mu=60, denoiser-server**: accuracy 67.0 % [62.0 %, 72.0 %], AUC 0.77 [0.72, 0.82], above chance"
        in text
    )


def test_the_report_has_every_number_and_its_picture(record: RunRecord, tmp_path: Path) -> None:
    """The folder holds the page with its tables and a picture that is not blank."""
    page = (write_report([record], tmp_path / "report") / "report.md").read_text()
    assert "# What a classifier makes of protected text" in page
    for words in ("0.625 [0.575, 0.675]", "1.5 [1.45, 1.55]", "| 300 | 3 | 2 | 2 |", "commonest class"):
        assert words in page
    assert "trained on clean outputs |" not in page
    pixels = imread(tmp_path / "report" / "figures" / "nlu.png")
    assert pixels.shape[0] > 300
    assert float(np.std(pixels[..., :3])) > 0.02


def test_a_classifier_of_clean_outputs_has_columns_of_its_own(tmp_path: Path) -> None:
    """They are shown where some row has them, and only there."""
    rows = [row("clean", 0.9), row("none", 0.6, auc_clean_trained=0.55, auc_clean_trained_low=0.5,
                                   auc_clean_trained_high=0.6)]  # fmt: skip
    (tmp_path / "figures").mkdir()
    record = new_record("nlu", config={}, seed=0, rows=rows, provenance=ORIGIN)
    lines = "\n".join(nlu_section(record, tmp_path / "figures", ""))
    assert "AUC, trained on clean outputs" in lines
    assert "0.55 [0.5, 0.6]" in lines


def test_names_from_data_are_no_markup(tmp_path: Path) -> None:
    """An evil task or arm breaks neither page nor picture."""
    rows = [row("clean", 0.9, task=EVIL), row(EVIL, 0.6, task=EVIL, defence=EVIL)]
    record = new_record("nlu", config={}, seed=0, rows=rows, provenance=ORIGIN)
    page = (write_report([record], tmp_path / "report") / "report.md").read_text()
    assert "<b>" not in page
    assert "[l](" not in page


def test_what_is_missing_is_called_so(tmp_path: Path) -> None:
    """A row without figures, and a record without rows, give a page and no picture."""
    (tmp_path / "figures").mkdir()
    bare = new_record(
        "nlu", config={}, seed=0, rows=[{"task": "t", "arm": "none", "defence": "del"}], provenance=ORIGIN
    )
    lines = "\n".join(nlu_section(bare, tmp_path / "figures", ""))
    assert NOT_MEASURED in lines
    assert draw_nlu(bare, tmp_path / "figures", "") is None
    empty = new_record("nlu", config={}, seed=0, rows=[], provenance=ORIGIN)
    assert "classified nothing" in "\n".join(nlu_section(empty, tmp_path / "figures", ""))


def test_arms_have_names(record: RunRecord) -> None:
    """Clean is clean; the others are named by defence, parameters and arm."""
    names = [arm_name(one) for one in rows_of(record)]
    assert names[:3] == ["clean", "del n=4 mu=20, none", "del n=4 mu=20, denoiser-server"]


def test_lengths_alone_stand_beside_the_clean_arm(tmp_path: Path) -> None:
    """An AUC that lengths give by themselves shows nothing of what a defence hides: the first paragraph says so."""
    rows = [row("clean", 0.9), row("lengths", 0.7, defence="identity"), row("none", 0.69, n=4, mu=20)]
    record = new_record("nlu", config={}, seed=0, rows=rows, provenance=ORIGIN)
    (tmp_path / "figures").mkdir()
    lines = nlu_section(record, tmp_path / "figures", "")
    assert "reads nothing but the lengths of the texts has AUC 0.7 [0.65, 0.75]" in lines[0]
    assert "**lengths" not in lines[0]
    found = "\n".join(lines)
    assert "| lengths alone | 60.0 %" in found
    closeness = found.split("### How close")[1].split("###")[0]
    assert "lengths alone" not in closeness


def test_a_parameter_of_any_name_tells_conditions_apart() -> None:
    """Split-and-Denoise at two values of eta are two places of the picture, not one."""
    rows = [row("none", 0.6, defence="split-and-denoise", n=None, mu=None, settings=f"eta={eta}") for eta in (50, 800)]
    record = new_record("nlu", config={}, seed=0, rows=rows, provenance=ORIGIN)
    names = [arm_name(one) for one in rows_of(record)]
    assert names == ["split-and-denoise eta=50, none", "split-and-denoise eta=800, none"]


def test_no_line_joins_separate_conditions(record: RunRecord) -> None:
    """Marks of one arm stand at unrelated conditions or tasks, whatever dash the curve of their colour would have."""
    axes = Figure().add_subplot()
    points = [(float(place), one) for place, one in enumerate(rows_of(record))]
    auc_marks(axes, points, "none", style(0))
    assert axes.lines
    assert {line.get_linestyle() for line in axes.lines} == {"None"}

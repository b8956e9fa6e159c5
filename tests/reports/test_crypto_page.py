"""The page of encrypted generation: ratios beside published ones, guarantees named, and what was not run labelled."""

from pathlib import Path
from typing import Any

import pytest

from audit.crypto_record import CACHED, COMPOSED, COSTS, ENGINES, EXTRAPOLATED, IN_FULL, KIND, MEASURED, MODELS
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from reports.report import write_report
from reports.rows import NOT_MEASURED

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={"numpy": "1.26.4"}, environment={"cpu_count": 2},
    created="2026-01-02T03:04:05+00:00", command="delaudit crypto compare",
)  # fmt: skip
TITLES = {"vanilla": "Vanilla", "mpcformer": "MPCFormer (2Quad)", "merge": "MERGE (ER and MM)"}


def spread(name: str, value: float) -> dict[str, float]:
    """A figure with an interval of a tenth each way."""
    return {name: value, f"{name}_low": 0.9 * value, f"{name}_high": 1.1 * value}


def cost(system: str, length: int, seconds: float, megabytes: float, **more: Any) -> dict[str, Any]:
    """A token's cost; the vanilla model's is 8 seconds and 100 MB."""
    return {
        "table": COSTS, "system": system, "title": TITLES[system], "engine": "spu-semi2k-2pc", "model": "small",
        "length": length, "accounting": IN_FULL, "basis": MEASURED, "repeats": 5, **spread("seconds", seconds),
        "bytes": 1e6 * megabytes, "rounds": 600, "bytes_saved": 1 - megabytes / 100, "ratio_bytes": 100 / megabytes,
        "ratio_rounds": 2.0, **spread("ratio_seconds", 8 / seconds), **spread("ratio_seconds_lan", 9 / seconds),
        **spread("ratio_seconds_wan", 10 / seconds), **spread("ratio_seconds_mpcformer", 4 / seconds), **more,
    }  # fmt: skip


def model(system: str, **more: Any) -> dict[str, Any]:
    """A trained model's row."""
    return {
        "table": MODELS, "system": system, "title": TITLES[system], "engine": "spu-semi2k-2pc", "layers": 2,
        "hidden": 128, "heads": 4, "vocabulary": 1024, "resending": system == "merge", "documents": 60,
        **spread("perplexity", 40.0), **spread("perplexity_over_exact", 1.25), "twin_positions": 512,
        **spread("written_perplexity_over_exact", 3.5), **spread("resent_agreement", 0.2),
        "twin_agreement": 0.998, "twin_agreement_low": 0.99, "twin_agreement_high": 1.0, "logit_error_mean": 0.001,
        "logit_error_largest": 0.01, "logit_error_expected": 0.05, "logit_error_explained": True, "source": "a paper",
        "deviations": "", "guarantee": "no differential privacy", "client_learns": "tokens", "party_learns": "lengths",
        **more,
    }  # fmt: skip


def record(*rows: dict[str, Any]) -> RunRecord:
    """A record with one engine."""
    engine = {
        "table": ENGINES, "engine": "spu-semi2k-2pc", "parties": 2, "precision": 1e-5, "set_up_seconds": 0.5,
        "set_up_bytes": 1e6, "guarantee": "computational, against the second party of two; NONE against the first",
    }  # fmt: skip
    return new_record(KIND, config={}, seed=0, rows=[engine, *rows], provenance=ORIGIN)


def page(found: RunRecord, folder: Path) -> str:
    """The page's text."""
    return (write_report([found], folder) / "report.md").read_text(encoding="utf-8")


@pytest.fixture
def whole() -> RunRecord:
    """Two lengths, one of them composed, and a large shape."""
    systems = (("vanilla", 8.0, 100.0), ("mpcformer", 4.0, 50.0), ("merge", 1.0, 10.0))
    costs = [cost(name, 128, seconds, size) for name, seconds, size in systems]
    costs += [cost(name, 128, seconds, size, accounting=CACHED) for name, seconds, size in systems]
    costs += [cost(name, 512, seconds, size, basis=COMPOSED) for name, seconds, size in systems]
    costs += [
        cost(name, 512, seconds, size, basis=EXTRAPOLATED, model="smollm2-135m") for name, seconds, size in systems
    ]
    return record(*costs, *(model(name) for name in TITLES))


def test_the_opening_says_who_is_protected_from_whom(whole: RunRecord, tmp_path: Path) -> None:
    """A two-party protocol with a dealing party protects one side only; a reader must meet that first."""
    text = page(whole, tmp_path / "report")
    assert text.index("NONE against the first") < text.index("### What is promised")


def test_ratios_stand_beside_published_ones_and_name_what_they_are_of(whole: RunRecord, tmp_path: Path) -> None:
    """A published 26.5 beside our 8 without the setting would be a comparison of nothing."""
    text = page(whole, tmp_path / "report")
    line = next(
        line for line in text.splitlines() if "26.5 times as fast" in line and "small model, length 128" in line
    )
    assert "8 [7.2, 8.8] times as fast" in line
    assert "| 4 [3.6, 4.4] times as fast |" in next(line for line in text.splitlines() if "up to 10 times" in line)
    assert "80 % fewer bytes | 90.0 % fewer bytes" in text


def test_what_never_ran_is_labelled_in_its_heading(whole: RunRecord, tmp_path: Path) -> None:
    """An extrapolated second must not be read as a measured one."""
    text = page(whole, tmp_path / "report")
    assert "the small models, in full** (composed of operators)" in text
    assert "the shape of smollm2-135m, in full** (extrapolated from operators)" in text


def test_pictures_are_drawn_for_each_accounting(whole: RunRecord, tmp_path: Path) -> None:
    """A page that names a picture that is not there is broken."""
    folder = tmp_path / "report"
    text = page(whole, folder)
    names = sorted(item.name for item in (folder / "figures").glob("*.png"))
    assert len(names) == 3
    assert all(f"(figures/{name})" in text for name in names)


def test_an_unexplained_error_stands_out(tmp_path: Path) -> None:
    """A logit further off than the engine explains means a broken program, whatever the agreement is."""
    text = page(record(model("vanilla", logit_error_explained=False)), tmp_path / "report")
    assert "| **no** |" in text


def test_a_system_that_sends_more_says_so(tmp_path: Path) -> None:
    """A negative saving printed as "fewer" would be read as a gain."""
    rows = [cost("vanilla", 64, 8.0, 100.0), cost("merge", 64, 16.0, 150.0)]
    text = page(record(*rows), tmp_path / "report")
    assert "0.5 [0.45, 0.55] times as fast with 50.0 % more bytes" in text


def test_bytes_that_vary_have_an_interval(tmp_path: Path) -> None:
    """Under CHEETAH one run's bytes are an accident of what ran before."""
    ends = {"bytes_low": 4e7, "bytes_high": 6e7, "bytes_saved_low": 0.4, "bytes_saved_high": 0.6}
    more = {"bytes_saved_low": -0.7, "bytes_saved_high": -0.3}
    rows = [
        cost("vanilla", 64, 8.0, 100.0),
        cost("merge", 64, 4.0, 50.0, **ends),
        cost("mpcformer", 64, 9, 150, **more),
    ]
    text = page(record(*rows), tmp_path / "report")
    assert "| 50 [40, 60] |" in text
    assert "50.0 % [40.0 %, 60.0 %] fewer" in text
    assert "50.0 % [30.0 %, 70.0 %] more" in text


def test_resending_is_judged_by_what_it_writes_before_anything_else(whole: RunRecord, tmp_path: Path) -> None:
    """Its perplexity on true text, where nothing is resent, beside its speed would sell what does not work."""
    text = page(whole, tmp_path / "report")
    told = text[: text.index("### What is promised")]
    assert "what MERGE (ER and MM) writes has 3.5 [3.15, 3.85] times the perplexity" in told
    assert "20.0 % [18.0 %, 22.0 %] of its tokens" in told
    assert "MPCFormer (2Quad) writes" not in told


def test_an_empty_record_says_that_nothing_was_measured(tmp_path: Path) -> None:
    """A broken run must not look like a cheap one."""
    text = page(record(), tmp_path / "report")
    assert "no whole step was measured" in text
    assert NOT_MEASURED in text

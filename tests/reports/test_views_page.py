"""The page of recorded views: a dependence stands out, and a passed test is never sold as a proof."""

from pathlib import Path
from typing import Any

from audit.crypto_record import DEALER, INDEPENDENCE, INVERSION, VIEWS
from audit.provenance import Provenance
from audit.records import new_record
from reports.report import write_report

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={"numpy": "1.26.4"}, environment={"cpu_count": 2},
    created="2026-01-02T03:04:05+00:00", command="delaudit crypto views",
)  # fmt: skip


def labels(party: int) -> dict[str, Any]:
    """What rows of one party share."""
    return {"engine": "spu-semi2k-2pc", "party": party, "parties": 2, "guarantee": "against the second party"}


def test_of(party: int, feature: str, adjusted: float) -> dict[str, Any]:
    """One test of the family."""
    return {
        "table": INDEPENDENCE, **labels(party), "feature": feature, "statistic": 1.5, "p_value": adjusted / 10,
        "adjusted_p": adjusted, "rejected": adjusted <= 0.005, "level": 0.005, "pairs": 20, "view_parts": 99,
        "view_bytes": 55_914,
    }  # fmt: skip


test_of.__test__ = False  # type: ignore[attr-defined]  # a helper, whatever its name


def read(kind: str, party: int, share: float, *, above: bool) -> dict[str, Any]:
    """What a share, or the dealer's seed, gives away, beside random words."""
    return {"table": kind, **labels(party), "tokens": 320, "read": share, "read_low": share / 2, "read_high": share,
            "tries": 1, "chance": 0.002, "chance_low": 0.001, "chance_high": 0.003, "chance_draws": 100_000,
            "above_chance": above}  # fmt: skip


def page(folder: Path, *rows: dict[str, Any]) -> str:
    """The page's text."""
    record = new_record(VIEWS, config={}, seed=0, rows=rows, provenance=ORIGIN)
    return (write_report([record], folder / "report") / "report.md").read_text(encoding="utf-8")


def test_a_dependence_is_named_with_its_tests(tmp_path: Path) -> None:
    """A repeated mask that stands in a list of p-values only would be overlooked."""
    text = page(tmp_path, test_of(0, "bits", 1.0), test_of(1, "bits", 0.001), test_of(1, "timing", 1.0))
    assert "**The view depends on the prompt** for party 1 of spu-semi2k-2pc." in text
    assert "| 1 | **depends**: bits | 0.001 (bits) |" in text
    assert "| 0 | no dependence found | 1 (bits) |" in text


def test_a_dealer_that_reads_everything_stands_in_the_first_paragraph(tmp_path: Path) -> None:
    """All tests pass at the dealer, and it holds every secret: whoever reads one line must read this one."""
    rows = read(DEALER, 0, 1.0, above=True), read(INVERSION, 0, 0.003, above=False)
    text = page(tmp_path, test_of(0, "bits", 1.0), *rows)
    first = text.split("\n\n")[2]  # below the title and "In plain words"
    assert "No test found" in first
    assert "**Yet party 0 of spu-semi2k-2pc, which deals the multiplication triples, reads 100.0 % [50.0 %, " in first
    assert "the prompt is not protected from that party" in first
    assert "gives" not in first
    assert "no proof" in text.lower()
    assert "| share | 0.3 % [0.1 %, 0.3 %] | 320 | 0.2 % [0.1 %, 0.3 %] | 100,000 | not told |" in text
    assert "| dealer | 100.0 % [50.0 %, 100.0 %] | 320 | 0.2 % [0.1 %, 0.3 %] | 100,000 | **yes** |" in text


def test_a_dealer_that_reads_no_more_than_chance_is_not_accused(tmp_path: Path) -> None:
    """What was read is said, and nothing follows from it: the guarantee stays in the table."""
    text = page(tmp_path, test_of(0, "bits", 1.0), read(DEALER, 0, 0.002, above=False))
    first = text.split("\n\n")[2]  # below the title and "In plain words"
    assert "reads 0.2 % [0.1 %, 0.2 %] of the tokens, not told from the 0.2 % [0.1 %, 0.3 %] that random" in first
    assert "protect" not in first
    assert "against the second party" in text


def test_a_share_above_chance_stands_in_the_first_paragraph(tmp_path: Path) -> None:
    """A share that can be read is worse than any dependence: a table further down must not be its only place."""
    text = page(tmp_path, test_of(1, "bits", 1.0), read(INVERSION, 1, 0.5, above=True))
    assert "**The share of party 1 of spu-semi2k-2pc gives 50.0 % [25.0 %, 50.0 %] of the tokens away**" in text


def test_a_record_without_chance_accuses_nobody(tmp_path: Path) -> None:
    """An older record, or a hand-made one, lacks what reading is held against: that is said in place of a verdict."""
    row = {key: value for key, value in read(DEALER, 0, 1.0, above=True).items() if "chance" not in key}
    text = page(tmp_path, test_of(0, "bits", 1.0), row)
    assert "what random words give was not measured" in text
    assert "| not measured | not measured | not measured |" in text


def test_nothing_recorded_is_said(tmp_path: Path) -> None:
    """An empty record must not read as a passed test."""
    assert "No view was recorded" in page(tmp_path)

"""Noise and encryption on one table: guarantees named for what they are, and nothing claimed that no record shows."""

from pathlib import Path
from typing import Any

from audit.comparison_record import KIND as COMPARISON
from audit.crypto_record import COSTS, DEALER, ENGINES, IN_FULL, INDEPENDENCE, KIND, MEASURED, MODELS, VIEWS
from audit.provenance import Provenance
from audit.records import RunRecord, new_record
from reports.common_table import cost_section
from reports.report import write_report
from reports.rows import NOT_MEASURED

ORIGIN = Provenance(
    commit="0123abcd" * 5, dirty=False, versions={"numpy": "2.0.0"}, environment={"cpu_count": 2},
    created="2026-01-02T03:04:05+00:00", command="delaudit",
)  # fmt: skip
ENGINE = "spu-semi2k-2pc"


def record(kind: str, *rows: dict[str, Any], **config: Any) -> RunRecord:
    """A record of one kind."""
    return new_record(kind, config={"model": "smollm2-135m", **config}, seed=0, rows=rows, provenance=ORIGIN)


def noise(**more: Any) -> dict[str, Any]:
    """DEL at one setting."""
    return {
        "defence": "del", "projection": "d128-plain", "n": 4, "mu": 20.0, "delta": 1e-5,
        "claim": "mu-GDP (mu=20) per one token", "epsilon_exact_token": 274.2, "perplexity_over_clean": 7.5,
        "perplexity_over_clean_low": 7.0, "perplexity_over_clean_high": 8.0, "asr_top1_hmm": 0.72,
        "asr_strongest": 0.72, "strongest_attack": "hmm", "body_bytes_up_per_token": 64.5, **more,
    }  # fmt: skip


def encrypted(*more: dict[str, Any]) -> RunRecord:
    """One system on one engine."""
    engine = {"table": ENGINES, "engine": ENGINE, "guarantee": "NONE against the first party"}
    token = {"table": COSTS, "system": "merge", "title": "MERGE", "engine": ENGINE, "model": "small", "length": 128,
             "accounting": IN_FULL, "basis": MEASURED, "seconds": 2.0, "seconds_low": 1.9, "seconds_high": 2.1,
             "bytes": 12e6, "rounds": 48}  # fmt: skip
    model = {"table": MODELS, "system": "merge", "engine": ENGINE, "layers": 2, "hidden": 128,
             "perplexity_over_exact": 1.2, "written_perplexity_over_exact": 3.1, "twin_agreement": 0.998}  # fmt: skip
    return record(KIND, engine, token, {**token, "length": 16, "seconds": 99.0}, model, *more)


def line(sections: list[str], start: str) -> str:
    """The table's line that begins so."""
    return next(row for row in sections[2].splitlines() if row.startswith(f"| {start}"))


def test_each_guarantee_is_named_for_what_it_is() -> None:
    """An encrypted model without an epsilon must not look as if its epsilon had not been measured, or were zero."""
    found = cost_section([record("experiment", noise()), encrypted()])
    assert "exact ε = 274.2 a token at δ = 1e-05 (claimed: mu-GDP" in line(found, "del")
    assert "no differential privacy; NONE against the first party" in line(found, "MERGE")


def test_costs_stand_in_their_own_units_at_the_longest_context() -> None:
    """Megabytes of a generated token beside bytes of a prompt's token, at the length that the papers argue with."""
    found = cost_section([record("experiment", noise()), encrypted()])
    assert "| 64.5 up | one request a prompt |" in line(found, "del")
    assert "| 12 MB | 48 | 2 [1.9, 2.1] |" in line(found, "MERGE")
    assert "16 tokens" not in found[2]


def test_what_parties_read_comes_from_a_record_of_views_or_is_not_known() -> None:
    """That shares tell nothing is a claim of the protocol: the table shows what was recorded, or nothing."""
    both = [record("experiment", noise()), encrypted()]
    assert f"| {NOT_MEASURED} | 12 MB" in line(cost_section(both), "MERGE")
    rows = [
        {"table": INDEPENDENCE, "engine": ENGINE, "party": 0, "rejected": False},
        {"table": DEALER, "engine": ENGINE, "party": 0, "read": 1.0, "read_low": 0.6, "read_high": 1.0},
    ]
    seen = line(cost_section([*both, record(VIEWS, *rows)]), "MERGE")
    assert "party 0: 100.0 % [60.0 %, 100.0 %] (as dealer of triples)" in seen
    assert "was not found to depend" in seen


def test_a_comparison_gives_the_rows_of_its_first_mode() -> None:
    """Every contender at every level of four modes would bury the encrypted rows."""
    rows = [noise(contender="del d128", mode=mode, level=level) for mode in ("exact-epsilon", "nominal")
            for level in (35.0, 274.0)]  # fmt: skip
    found = cost_section([record(COMPARISON, *rows, noise(contender="x", mode="exact-epsilon", level=1.0,
                                                            reason="no epsilon")), encrypted()])  # fmt: skip
    names = [row.split(" | ")[0] for row in found[2].splitlines()[2:]]
    assert names[:2] == ["| del d128, exact-epsilon 35", "| del d128, exact-epsilon 274"]
    assert len(names) == 3


def test_the_table_stands_before_the_runs(tmp_path: Path) -> None:
    """One kind alone has a table too, and nothing to stand beside; without costs there is none."""
    assert cost_section([]) == []
    assert cost_section([record("experiment", noise())])[0] == "## Cost"
    assert cost_section([encrypted()])[0] == "## Cost"
    folder = write_report([record("experiment", noise()), encrypted()], tmp_path / "report")
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text.index("## Cost: noise and encryption side by side") < text.index("## Run 1")


def test_utility_is_of_true_text_and_of_what_a_system_writes() -> None:
    """A resending system meets none of its own errors on true text; and a ratio that is missing is not 1."""
    assert "1.2 on true text, 3.1 of what it writes" in line(
        cost_section([record("experiment", noise()), encrypted()]), "MERGE"
    )
    other = {"table": MODELS, "system": "merge", "engine": ENGINE, "layers": 2, "hidden": 128}
    found = cost_section([record("experiment", noise()), encrypted(other)])
    assert f"{NOT_MEASURED} on true text" in line(found, "MERGE")


def test_seconds_are_told_as_far_as_they_were_measured() -> None:
    """If this failed, what protecting a token takes would be missing where no service was measured."""
    alone = line(cost_section([record("experiment", noise(client_s_per_token=0.004))]), "del")
    assert "| client 0.004, server not measured |" in alone
    both = noise(client_s_per_token=0.004, client_ms_per_token=5.0, server_s_per_token=0.2)
    assert "| client 0.005, server 0.2 |" in line(cost_section([record("experiment", both)]), "del")

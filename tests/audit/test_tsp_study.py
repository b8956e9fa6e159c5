"""The study of encrypted sampling on a tiny model: paired differences, resuming, its record, its command, CKKS."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from audit.cli.tsp import tsp
from audit.records import RunRecord, new_record
from audit.tsp_encrypted import EncryptedStudy, likeliest, run_encrypted
from audit.tsp_rows import Sums, TspStudy, study_figures, study_rows
from audit.tsp_study import TspFound, run_study
from defenses.crypto.engines.ckks_process import interpreter
from defenses.crypto.sampling_circuit import SamplingCircuit
from defenses.crypto.tour import find_order
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.corpus import Corpus
from defenses.randomness import seeded_rng

STUDY = TspStudy(tokens=6, depths=(3, 9), draws=2, orders=("identity", "tsp"), window=4, resamples=100)


def corpus(seed: int, prompts: int = 8) -> Corpus:
    """Prompts of six tokens, two a document."""
    rows = seeded_rng(seed, "prompts").integers(0, 256, (prompts, 6))
    return Corpus(rows, np.arange(prompts) // 2, ({"name": f"text-{seed}", "sha256": "0" * 64},))


@pytest.fixture(scope="module")
def tour(llm: LLM) -> np.ndarray:
    """The tiny model's."""
    return find_order(llm.embedding, exhaustive=False)


@pytest.fixture(scope="module")
def found(llm: LLM, tour: np.ndarray) -> TspFound:
    """A small study."""
    return run_study(llm, tour, (corpus(0), corpus(1)), STUDY)


def test_rows_hold_every_condition_with_its_intervals(found: TspFound) -> None:
    """The clean model, then every order, depth and post-processing; each figure lies in its interval."""
    assert [row["defence"] for row in found.rows] == [
        "clean model", *(f"{order}, depth {depth}{post}" for order in ("identity", "tsp") for depth in (3, 9)
                         for post in ("", ", post-processed")),
    ]  # fmt: skip
    for row in found.rows[1:]:
        for key in ("cosine_error", "relative_error", "perplexity", "perplexity_over_clean", "collapse", "departed"):
            assert row[f"{key}_low"] - 1e-9 <= row[key] <= row[f"{key}_high"] + 1e-9
        assert ("cosine_error_minus_identity" in row) == (row["order"] == "tsp")
        assert ("cosine_error_minus_plain" in row) == row["post"]
    assert found.rows[1]["levels"] == SamplingCircuit(3).levels


def test_differences_are_those_of_the_rows(found: TspFound) -> None:
    """A paired difference is the difference of both rows' figures, and depths together are their mean."""
    rows = {row["defence"]: row for row in found.rows}
    for depth in (3, 9):
        own, other = rows[f"tsp, depth {depth}"], rows[f"identity, depth {depth}"]
        for key in ("cosine_error", "relative_error", "collapse"):
            assert own[f"{key}_minus_identity"] == pytest.approx(own[key] - other[key], abs=1e-12)
    figures = {figure.name: figure for figure in found.figures}
    mean = np.mean([rows[f"tsp, depth {depth}"]["cosine_error_minus_identity"] for depth in (3, 9)])
    assert figures["cosine_error: tsp minus identity"].value == pytest.approx(mean)
    assert figures["cosine_error: tsp minus identity"].n == 4


def test_a_difference_that_is_there_is_shown_and_none_is_not() -> None:
    """With the same deviations in both conditions a shift of 0.1 is found; no shift gives an interval that holds 0."""
    noise = seeded_rng(3, "noise").random(30)
    counts = np.full(30, 4.0)
    study = TspStudy(depths=(3,), orders=("identity", "tsp"), resamples=500)

    def sums(shift: float) -> Sums:
        return Sums({"cosine_error": (counts * (noise + shift), counts)})

    for shift in (0.0, -0.1):
        table = {(order, circuit): sums(shift if order == "tsp" else 0.0)
                 for order in ("identity", "tsp") for circuit in study.circuits()}  # fmt: skip
        figure = next(one for one in study_figures(table, study) if one.name == "cosine_error: tsp minus identity")
        assert figure.low is not None
        assert figure.high is not None
        assert figure.value == pytest.approx(shift)
        assert (figure.high < 0) == (shift < 0)


def test_a_share_that_no_document_shows_is_no_certain_zero() -> None:
    """Resampling 30 documents of which none collapsed shows no doubt; the exact limits are 11.6 % and, paired, both."""
    counts = np.full(30, 4.0)
    study = TspStudy(depths=(3,), orders=("identity", "tsp"), resamples=500)
    none = Sums({"collapse": (np.zeros(30), counts), "loss": (counts, counts)})
    found = {(order, one): none for order in ("identity", "tsp") for one in study.circuits()}
    row = study_rows(found, none, study, corpus(0, 60))[-1]
    limit = 1 - 0.025 ** (1 / 30)
    assert (row["collapse_low"], row["collapse_high"]) == (0.0, pytest.approx(limit))
    ends = (row["collapse_minus_plain_low"], row["collapse_minus_plain_high"])
    assert ends == (pytest.approx(-limit), pytest.approx(limit))


def test_it_resumes_where_it_was_stopped(llm: LLM, tour: np.ndarray, found: TspFound, tmp_path: Path) -> None:
    """Parts are kept; a second run computes none of them and finds the same, as does one that keeps nothing."""
    first = run_study(llm, tour, (corpus(0), corpus(1)), STUDY, tmp_path)
    parts = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(parts) == 2 + 2 + 8
    (tmp_path / "free-tsp-9-True.npz").unlink()
    second = run_study(llm, tour, (corpus(0), corpus(1)), STUDY, tmp_path)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    changed = {path.name for path in parts if after[path] != parts[path]}
    assert changed == {"free-tsp-9-True.npz"}
    assert first.rows == second.rows == found.rows


def test_it_fits_a_record(found: TspFound, tmp_path: Path) -> None:
    """Rows and figures survive the way to disk and back."""
    record = new_record("tsp-ordering", config=found.facts, seed=0, rows=found.rows, figures=found.figures)
    assert RunRecord.read(record.write(tmp_path / "record.json")) == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (9, 6)}, "rising"), ({"depths": ()}, "rising"), ({"orders": ("tsp",)}, "identity and tsp"),
        ({"orders": ("identity", "tsp", "x")}, "orders are"), ({"window": 99}, "window"), ({"draws": -1}, "draws"),
    ],
)  # fmt: skip
def test_studies_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    """Before a model is loaded."""
    with pytest.raises(UserError, match=message):
        TspStudy(**change)  # type: ignore[arg-type]


def test_a_tour_of_another_vocabulary_is_refused(llm: LLM) -> None:
    """It would mix the wrong rows."""
    with pytest.raises(UserError, match="the tour has 5 tokens"):
        run_study(llm, np.arange(5, dtype=np.int32), (corpus(0), corpus(1)), STUDY)


def test_the_likeliest_tokens_stand_in_the_tour_s_order(llm: LLM, tour: np.ndarray) -> None:
    """V tokens that no other token exceeds, in the tour's order, renormalised."""
    tokens, p = likeliest(llm, tour, np.array([5, 6, 7]), 20)
    assert p.sum() == pytest.approx(1)
    places = np.argsort(tour)[tokens]
    assert (np.diff(places) > 0).all()
    everything, whole = likeliest(llm, tour, np.array([5, 6, 7]), 256)
    kept = np.isin(everything, tokens)
    assert whole[kept].min() >= whole[~kept].max()
    with pytest.raises(UserError, match="has 256 tokens"):
        likeliest(llm, tour, np.array([5]), 257)


def test_a_token_is_sampled_under_ckks(llm: LLM, tour: np.ndarray) -> None:
    """The model's own embeddings come out of the encrypted circuit; the figures say it was no secure ring."""
    try:
        interpreter()
    except UserError as error:
        pytest.skip(str(error))
    study = EncryptedStudy(16, SamplingCircuit(6, 2, 2, post=True), scale_bits=50, secure=False, ring_bits=10)
    sample, figures = run_encrypted(llm, tour, np.array([1, 2, 3]), 0.4, study)
    assert sample.embedding_error < 1e-6
    named = {figure.name: figure for figure in figures}
    assert named["CKKS, V = 16: levels used"].value == study.circuit.levels + 1
    assert "no security" in named["CKKS, V = 16: seconds"].method
    assert named["CKKS, V = 16: key bytes sent, once"].value == sample.account.key_bytes > 0


def test_the_command_writes_a_record_and_a_report(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From options to report.md, with a tour that is made on the way; a second run finds the tour there."""
    monkeypatch.setattr("defenses.models.llm.load_llm", lambda _: llm)
    monkeypatch.setattr("defenses.crypto.tour.SMALL", 8)
    for name in ("data", "other"):
        letters = seeded_rng(0, name).integers(97, 122, (6, 40))
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join(json.dumps({"text": bytes(row.tolist()).decode()}) for row in letters), encoding="utf-8"
        )
    arguments = [
        "--model", "tiny", "--data", str(tmp_path / "data.jsonl"), "--calibration", str(tmp_path / "other.jsonl"),
        "--prompts", "4", "--repeats", "2", "--artifacts", str(tmp_path / "artifacts"), "--prompt-tokens", "6",
        "--tokens", "4", "--window", "3", "--depths", "3,8", "--draws", "1",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    done = CliRunner().invoke(tsp, [*arguments, "--make-tour"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "tsp, depth 8, post-processed" in done.output
    record = RunRecord.read(tmp_path / "out" / "record.json")
    assert record.kind == "tsp-ordering"
    assert (record.rows[0]["prompts"], record.rows[0]["documents"]) == (8, 4)
    assert {item["name"] for item in record.data} == {"data", "other"}
    assert not (tmp_path / "out" / ".unfinished").exists()
    again = CliRunner().invoke(tsp, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(again.stdout.splitlines()[-1])["rows"] == [dict(row) for row in record.rows]
    with pytest.raises(UserError, match="are the same text"):
        CliRunner().invoke(tsp, [*arguments, "--calibration", str(tmp_path / "data.jsonl")], catch_exceptions=False)
    with pytest.raises(UserError, match="numbers with commas"):
        CliRunner().invoke(tsp, [*arguments, "--depths", "a"], catch_exceptions=False)
    with pytest.raises(UserError, match="no readable tour"):
        CliRunner().invoke(tsp, [*arguments, "--artifacts", str(tmp_path / "none")], catch_exceptions=False)


def test_rows_without_free_generation_have_no_collapse(llm: LLM, tour: np.ndarray) -> None:
    """What was not measured is absent, not zero."""
    study = TspStudy(tokens=4, depths=(9,), draws=0, orders=("identity", "tsp"), free=(), window=3, resamples=100)
    rows = run_study(llm, tour, (corpus(0), corpus(1)), study).rows
    assert all("collapse" not in row for row in rows[1:])
    assert study_rows({}, Sums({"loss": (np.ones(3), np.ones(3))}), study, corpus(0))[0]["perplexity"] == np.e

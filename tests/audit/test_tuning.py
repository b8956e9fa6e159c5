"""Tuning: equal exact epsilons, a choice on other text than is reported, resumption, the command and its record."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from audit import tuning_scores
from audit.cli.main import COMMANDS
from audit.cli.tune import tune as command
from audit.config import parse_experiment
from audit.records import RunRecord
from audit.tuning import ALL, PLAIN, PROMPTED, SPLIT, Tuned, Tuning, _Choice, tune
from audit.tuning_scores import CHOICE_EVERY, Bench, Setting
from audit.workbench import Workbench
from defenses.data.workload import make_workload
from defenses.errors import UserError
from defenses.models.llm import load_llm
from defenses.pipeline.projection import save_projection, weighted_pca
from defenses.pipeline.prompt_training import save_prompt
from defenses.privacy.gaussian import GaussianProfile

PLAN = Tuning(
    (6.0,), projections=("d8-plain", "d16-plain", "d16-noise-aware"), bits=(1, 2), reference=("d16-plain", 2),
    screen=2, finalists=2, draws=2, attacks=("prior", "cosine", "map"),
)  # fmt: skip


@pytest.fixture(scope="module")
def places(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A store of three projections and two soft prompts, and two texts of different people."""
    root = tmp_path_factory.mktemp("tuning")
    llm = load_llm(str(model_folder), device="cpu")
    for name in ("d8-plain", "d16-plain", "d16-noise-aware"):
        d, _, objective = name[1:].partition("-")
        made = replace(weighted_pca(llm.embedding, np.ones(256, dtype=np.int64), int(d)), name=name)
        card = {"embedding": llm.fingerprint, "projection": name}
        place = root / "store" / "tiny" / f"projection-{name}.safetensors"
        save_projection(replace(made, objective=objective), place, card)
    vectors = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 0.05
    facts = {"embedding": llm.fingerprint, "projection": "d16-noise-aware", "n": 2, "mu": 3.0, "vectors": 4}
    save_prompt(llm, vectors, root / "store" / "tiny" / "prompt-noisy", facts)
    for name, seed in (("test", 0), ("public", 5)):
        lines = [json.dumps({"text": prompt.text}) for prompt in make_workload(seed=seed)[:24]]
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    return {"root": root, "model": str(model_folder), "store": str(root / "store")}


def bench_of(places: dict[str, Any], out: Path, data: str = "test") -> Bench:
    """A fresh bench on the tiny texts."""
    raw = {
        "name": "tune", "model": places["model"], "artifacts": places["store"],
        "data": {"source": str(places["root"] / f"{data}.jsonl"), "auxiliary": [str(places["root"] / "public.jsonl")],
                 "prefix_tokens": 20, "continuation_tokens": 8, "windows": 10},
        "grids": [{"defense": "identity"}],
    }  # fmt: skip
    return Bench(Workbench(parse_experiment(raw)), out)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where finished scores are kept."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def bench(places: dict[str, Any], out: Path) -> Bench:
    """The bench."""
    return bench_of(places, out)


@pytest.fixture(scope="module")
def found(bench: Bench) -> Tuned:
    """One epsilon, tuned."""
    return tune(bench, PLAN)


@pytest.fixture(scope="module")
def rows(found: Tuned) -> dict[str, dict[str, Any]]:
    """Rows by condition."""
    return {row["defence"]: row for row in found.rows}


def test_every_improvement_stands_alone_and_together(rows: dict[str, dict[str, Any]]) -> None:
    """Eleven conditions, two floors and the undefended prompt, each with figures and a paired ratio."""
    assert list(rows) == [
        PLAIN, "nominal accounting", "d and n", "noise-aware projection", PROMPTED, "posterior mean",
        "posterior mode", "split budget", "all but the soft prompt", ALL, SPLIT,
        "nothing sent", "nothing sent, soft prompt", "undefended",
    ]  # fmt: skip
    for row in rows.values():
        for key in ("perplexity", "over_plain", "over_prompted", "perplexity_over_clean", "agreement_top1"):
            assert row[f"{key}_low"] <= row[key] <= row[f"{key}_high"]
    assert rows[PLAIN]["over_plain"] == 1
    assert rows[PROMPTED]["over_prompted"] == 1
    over = rows[ALL]["perplexity"] / rows[PROMPTED]["perplexity"]
    assert rows[ALL]["over_prompted"] == pytest.approx(over)
    assert rows[PLAIN]["over_nothing"] == pytest.approx(rows[PLAIN]["perplexity"] / rows["nothing sent"]["perplexity"])
    assert rows["undefended"]["agreement_top1"] == 1


def test_all_keep_the_same_exact_epsilon(rows: dict[str, dict[str, Any]]) -> None:
    """Every uniform condition spends the token's epsilon, tightly; splits spend plain DEL's epsilon of the prompt."""
    uniform = [row for name, row in rows.items() if row.get("split") == "uniform" and name != "nominal accounting"]
    assert len(uniform) >= 8
    for row in uniform:
        assert 6.0 * (1 - 1e-6) <= row["epsilon_exact_token"] <= 6.0
    split, plain = rows["split budget"], rows[PLAIN]
    assert split["split"].startswith("last 16 : rest")
    assert split["epsilon_exact_prompt"] == pytest.approx(plain["epsilon_exact_prompt"], rel=1e-6)
    assert split["epsilon_exact_token"] > 6.0


def test_nominal_accounting_is_the_inverse_of_mu_gdp(rows: dict[str, dict[str, Any]]) -> None:
    """Its mu is the one whose GDP curve has the target; its exact epsilon is another."""
    row = rows["nominal accounting"]
    assert GaussianProfile(row["mu"]).epsilon(1e-5) == pytest.approx(6.0)
    assert abs(row["epsilon_exact_token"] - 6.0) > 1e-3


def test_each_alone_changes_one_thing(rows: dict[str, dict[str, Any]]) -> None:
    """An improvement alone differs from plain DEL in its own column and in no other."""
    columns = ("projection", "n", "decoder", "prompt_name", "split")
    changed = {
        name: {key for key in columns if rows[name][key] != rows[PLAIN][key]}
        for name in ("noise-aware projection", PROMPTED, "posterior mean", "posterior mode", "split budget")
    }
    assert changed == {
        "noise-aware projection": {"projection"}, "soft prompt": {"prompt_name"}, "posterior mean": {"decoder"},
        "posterior mode": {"decoder"}, "split budget": {"split"},
    }  # fmt: skip
    assert rows["d and n"]["decoder"] == "linear"
    assert rows["d and n"]["projection"] in {"d8-plain", "d16-plain"}
    assert rows["all but the soft prompt"]["prompt_name"] is None


def test_attacks_stand_beside_plain_and_tuned(rows: dict[str, dict[str, Any]]) -> None:
    """What the strongest attack reads is told for both, under as many draws of coins."""
    for name in (PLAIN, ALL):
        assert rows[name]["attack_seeds"] == 2
        assert rows[name]["asr_strongest_low"] <= rows[name]["asr_strongest"]
        assert rows[name]["asr_prior"] is not None
    assert "asr_strongest" not in rows["posterior mode"]


def test_the_choice_sees_no_text_of_the_figures_or_the_frequencies(bench: Bench, found: Tuned) -> None:
    """Validation, frequency and test windows are of different documents; the last round is on all windows."""
    seen = [{row.tobytes() for row in part} for part in (
        np.hstack([bench.validation.prefix, bench.validation.continuation]), bench.frequency_windows,
        np.hstack([bench.test.prefix, bench.test.continuation]))]  # fmt: skip
    assert not seen[0] & seen[1]
    assert not seen[2] & (seen[0] | seen[1])
    assert (bench.validation.clusters % CHOICE_EVERY == 0).all()
    stages = {(row["stage"], row["windows"]) for row in found.choices}
    assert stages == {("screen", 2), ("choice", bench.validation.n), ("split", bench.validation.n)}
    screened = sum(row["stage"] == "screen" for row in found.choices)
    assert screened == 3 * 2 * 3 + 2 * 3  # projections x bits x decoders, and soft prompts where there are any


def test_the_chosen_setting_is_the_best_of_the_last_round(found: Tuned, rows: dict[str, dict[str, Any]]) -> None:
    """Nothing that reached all validation windows had a lower perplexity there than what was chosen."""
    final = [row for row in found.choices if row["stage"] == "choice"]
    best = min(final, key=lambda row: row["perplexity"])
    for key in ("projection", "n", "decoder", "prompt_name"):
        assert rows[ALL][key] == best[key]


def test_a_broken_off_run_goes_on(
    places: dict[str, Any], out: Path, found: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run on the same folder computes nothing anew but what half a file was left of, and finds the same."""
    half = next((out / "scores").glob("*.npz"))
    half.write_bytes(half.read_bytes()[:50])
    fresh = bench_of(places, out)
    calls: list[int] = []
    honest = tuning_scores.score
    monkeypatch.setattr(tuning_scores, "score", lambda *args: calls.append(1) or honest(*args))
    monkeypatch.setattr("audit.tuning.invert", lambda *args, **more: pytest.fail("attacked anew"))
    again = tune(fresh, PLAN)
    assert calls == [1]
    assert [row["perplexity"] for row in again.rows] == pytest.approx([row["perplexity"] for row in found.rows])


def test_decoders_are_compared_on_the_same_views(bench: Bench) -> None:
    """Settings that differ in the decoder alone see the same coins: only the reading differs."""
    setting = _Choice(bench, PLAN, 6.0, PLAN.projections).plain()
    linear = bench.score(setting, bench.test)
    tilted = bench.score(replace(setting, decoder="posterior-mean"), bench.test)
    again = bench._score(setting, bench.test, None)
    np.testing.assert_allclose(again.nll, linear.nll, rtol=1e-5)
    assert not np.allclose(tilted.nll, linear.nll)


def test_a_prompts_budget_is_over_all_of_its_tokens(bench: Bench) -> None:
    """With --tokens the exact epsilon of so many tokens is the target, and a token has less."""
    choice = _Choice(bench, replace(PLAN, tokens=20), 30.0, PLAN.projections)
    defense = choice.plain().defense(bench.assets("d16-plain"))
    assert 30.0 * (1 - 1e-6) <= defense.prompt_profile(20).epsilon(1e-5) <= 30.0
    assert defense.profile().epsilon(1e-5) < 10


def test_what_any_noise_meets_is_left_out(bench: Bench) -> None:
    """An epsilon above all that a projection can spend has no smallest A: it is no candidate, and no reference."""
    choice = _Choice(bench, PLAN, 300.0, PLAN.projections)
    assert {one.n for one in choice.candidates() if one.projection == "d8-plain"} == {2}
    with pytest.raises(UserError, match="smaller one"):
        _Choice(bench, replace(PLAN, reference=("d8-plain", 1)), 300.0, PLAN.projections).plain()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epsilons": ()}, "--epsilon"),
        ({"epsilons": (0.0,)}, "--epsilon"),
        ({"delta": 1.0}, "--delta"),
        ({"bits": (9,)}, "--bits"),
        ({"tokens": 0}, "--tokens"),
        ({"screen": 0}, "screen"),
    ],
)
def test_bad_plans_are_one_line(settings: dict[str, Any], words: str) -> None:
    """Each bad option is refused by name."""
    with pytest.raises(UserError, match=words):
        Tuning(**{"epsilons": (1.0,), **settings})


def test_the_same_text_for_both_is_refused(places: dict[str, Any], tmp_path: Path) -> None:
    """Test text that is the public text is no test."""
    bench = bench_of(places, tmp_path, data="public")
    with pytest.raises(UserError, match="same text"):
        _ = bench.test


def test_the_nearest_prompt_is_the_projections_own_or_anyones(bench: Bench) -> None:
    """A projection without a soft prompt borrows the nearest of all; none is used where none is asked for."""
    setting = Setting("d16-noise-aware", 2, 4.0, soft_prompt=True)
    for one in (setting, replace(setting, projection="d8-plain")):
        artifact = bench.prompt(one)
        assert artifact is not None
        assert artifact.name == "prompt-noisy"
    assert bench.prompt(replace(setting, soft_prompt=False)) is None


def test_the_command_writes_a_record_and_a_page(places: dict[str, Any], tmp_path: Path) -> None:
    """`delaudit tune` prints a table, writes a record of kind "tuning" with all that was tried, and a page."""
    assert COMMANDS["tune"][:2] == ("audit.cli.tune", "tune")
    arguments = [
        "--epsilon", "6", "--model", places["model"], "--artifacts", places["store"],
        "--data", str(places["root"] / "test.jsonl"), "--public", str(places["root"] / "public.jsonl"),
        "--projections", "d16-plain,d16-noise-aware", "--bits", "2", "--reference", "d16-plain",
        "--reference-bits", "2", "--prefix-tokens", "20", "--continuation-tokens", "4", "--windows", "6",
        "--screen", "1", "--seeds", "1",
        "--attack", "map", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    for word in ("epsilon 6 of one token", "plain DEL", "all together", "over plain DEL", "map reads"):
        assert word in result.stdout
    record = RunRecord.read(tmp_path / "out" / "record.json")
    assert (record.kind, len(record.rows), len(record.data)) == ("tuning", 14, 2)
    assert {example["stage"] for example in record.examples} == {"screen", "choice", "split"}
    page = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "# What tuning gains at an exact epsilon" in page
    assert list((tmp_path / "out" / "report" / "figures").iterdir())

"""The real LLM and, where it is there, real text: slow, run by `python -m pytest -m slow`.

The model comes from its wheel on first use. Real text is looked for in the folder that DELAUDIT_DATA names.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from audit.config import parse_experiment
from audit.measures import perplexity_ratio, score
from audit.workbench import Workbench
from defenses.base import Assets
from defenses.baselines.projection_only import ProjectionOnly, ProjectionOnlyConfig
from defenses.models.llm import DEFAULT_MODEL
from defenses.pipeline.artifacts import find_projection, find_prompts, store_for
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.projection import weighted_pca
from defenses.pipeline.prompt_training import load_prompt
from defenses.randomness import seeded_rng

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("DELAUDIT_DATA", "/nonexistent"))
PROJECTION = "d128-noise-aware"
GRID = {"defense": "del", "projection": [PROJECTION]}


@pytest.fixture(scope="module")
def embedded() -> Workbench:
    """The real model on the embedded workload."""
    return Workbench(parse_experiment({"name": "slow", "grids": [GRID], "data": {"windows": 12}}))


def test_full_width_projection_leaves_perplexity_as_it_was(embedded: Workbench) -> None:
    """D = b without quantization: perplexity equals the clean model's within 1e-3 relative."""
    table = embedded.llm.embedding
    projection = weighted_pca(table, embedded.corpus.counts(len(table)), table.shape[1])
    defense = ProjectionOnly(ProjectionOnlyConfig(clip=True), Assets(table, projection))
    restored = defense.restore(defense.protect(embedded.pairs.prefix, seeded_rng(0, "identity")))
    through = np.exp(score(embedded.llm, embedded.pairs, restored, None).nll.mean())
    assert through == pytest.approx(np.exp(embedded.clean.nll.mean()), rel=1e-3)


def test_every_shipped_artifact_loads_on_its_model(embedded: Workbench) -> None:
    """Six projections (three widths, plain and noise-aware) and the prompts behind them, each with its card."""
    fingerprint = embedded.llm.fingerprint
    names = {
        path.stem.removeprefix("projection-") for path in store_for(DEFAULT_MODEL).glob("projection-*.safetensors")
    }
    assert names == {f"d{d}-{kind}" for d in (18, 64, 128) for kind in ("plain", "noise-aware")}
    for name in names:
        projection = find_projection(DEFAULT_MODEL, fingerprint, name)
        card = json.loads((store_for(DEFAULT_MODEL) / f"projection-{name}.json").read_text())
        assert (projection.d, projection.objective) == (card["d"], card["objective"])
    prompts = find_prompts(DEFAULT_MODEL, fingerprint, PROJECTION)
    assert {prompt.n for prompt in prompts} == {0, 4, 8}
    assert all(load_prompt(prompt.folder).shape == (100, 576) for prompt in prompts)


@pytest.mark.skipif(not (DATA / "wikitext2").is_dir(), reason="DELAUDIT_DATA names no folder with wikitext2")
def test_each_shipped_prompt_helps_on_wikitext() -> None:
    """At each shipped (n, mu) the paired 95 % interval of the perplexity ratio, with over without, is below one."""
    tables = {
        "name": "slow",
        "grids": [GRID],
        "data": {
            "source": f"{DATA}/wikitext2@official_test",
            "prefix_tokens": 64,
            "continuation_tokens": 64,
            "windows": 24,
        },
    }
    bench = Workbench(parse_experiment(tables))
    for prompt in find_prompts(DEFAULT_MODEL, bench.llm.fingerprint, PROJECTION):
        if not prompt.n:
            continue
        defense = Del(DelConfig(n=prompt.n, mu=prompt.mu), bench.assets(PROJECTION))
        restored = defense.restore(defense.protect(bench.pairs.prefix, seeded_rng(0, prompt.name)))
        without = score(bench.llm, bench.pairs, restored, None)
        using = score(bench.llm, bench.pairs, restored, load_prompt(prompt.folder))
        gain = perplexity_ratio("gain", using, without, bench.pairs, 0)
        assert gain["gain_high"] is not None
        assert gain["gain_high"] < 1, (prompt.name, gain)


def test_quickstart_on_the_real_model(tmp_path: Path) -> None:
    """The main job, cut to one noise level: record, report, MLflow store, and figures in their order."""
    from audit.cli.run import quickstart

    change = ["--set", "grids.2.parameters={n=[4], mu=[60]}", "--set", "data.windows=8"]
    done = CliRunner().invoke(quickstart, ["--out", str(tmp_path / "q"), "--json", *change], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    identity, _, defended = json.loads((tmp_path / "q" / "record.json").read_text())["rows"]
    assert identity["perplexity"] < defended["perplexity"]
    assert identity["asr_top1_cosine"] == 1.0
    assert defended["asr_top1_map"] > defended["asr_top1_cosine"] > defended["asr_prior"]
    assert (tmp_path / "q" / "report" / "report.md").exists()
    assert (tmp_path / "q" / "mlflow.db").exists()

"""`delaudit train prompt --private` as a person runs it: the claim in print and on the card, the audit, bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from datasets import Dataset

from audit.cli.train import train
from audit.dpsgd_accounting import dpsgd_guarantee
from defenses.errors import UserError
from defenses.pipeline.prompt_training import load_prompt

WORDS = [
    "ship",
    "left",
    "its",
    "harbour",
    "dawn",
    "crew",
    "watched",
    "lights",
    "town",
    "grow",
    "small",
    "grey",
    "water",
]
PRIVATE = ["--n", "4", "--mu", "20", "--vectors", "5", "--steps", "4", "--private", "--sample-rate", "0.2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with forty private documents, and public text for the projection."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 12)) for _ in range(40)]
    Dataset.from_dict({"text": texts}).to_json(tmp_path / "private.jsonl")
    (tmp_path / "public.txt").write_text(" ".join(texts))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _train(model: Path, *arguments: str, text: str = "private.jsonl") -> Result:
    return CliRunner().invoke(train, [*arguments, "--text", text, "--length", "24", "--model", str(model)])


def _projection(model: Path) -> list[str]:
    done = _train(model, "projection", "--d", "8", "--steps", "1", text="public.txt")
    assert done.exit_code == 0, done.exception
    return ["prompt", "--projection", "d8-plain"]


def test_the_claim_is_printed_and_on_the_card(folder: Path, model_folder: Path) -> None:
    """Epsilon on the card is the accountant's and within the target; no loss, count or hash of the text is there."""
    prompt = _projection(model_folder)
    done = _train(model_folder, *prompt, *PRIVATE, "--epsilon", "8")
    assert done.exit_code == 0, done.exception
    place = folder / "delaudit-artifacts" / "tiny" / "prompt-d8-plain-n4-mu20-private"
    assert load_prompt(place).shape == (5, 32)
    card = json.loads((place / "card.json").read_text())
    privacy = card["privacy"]
    assert privacy["epsilon"] == dpsgd_guarantee(privacy["noise_multiplier"], 0.2, 4, 1e-5).epsilon
    assert 7.9 < privacy["epsilon"] <= 8
    assert privacy["coins"].startswith("AES-128-CTR")
    assert re.search(r"claim: \((7\.9\d*|8), 1e-05\)-DP per training document", done.output)
    assert "metrics" not in card
    assert card["data"] == [{"name": "private.jsonl", "private": True}]


def test_the_audit_keeps_its_evidence(folder: Path, model_folder: Path) -> None:
    """With canaries the scores and coins are written, the bound is on the card, and the claim stands beside it."""
    prompt = _projection(model_folder)
    arguments = [*PRIVATE, "--noise-multiplier", "1", "--coins", "seeded", "--canaries", "12"]
    done = _train(model_folder, *prompt, *arguments)
    assert done.exit_code == 0, done.exception
    name = "prompt-d8-plain-n4-mu20-private-audited"
    with np.load(folder / "delaudit-work" / f"{name}.canaries.npz") as file:
        assert file["scores"].shape == file["included"].shape == (12,)
        assert file["included"].dtype == np.bool_
    privacy = json.loads((folder / "delaudit-artifacts" / "tiny" / name / "card.json").read_text())["privacy"]
    assert privacy["audit"]["canaries"] == 12
    assert 0 <= privacy["audit"]["epsilon_lower"] <= privacy["epsilon"]
    assert "one-run audit: epsilon >=" in done.output
    assert "proves nothing" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--private", "--epsilon", "8"], "--sample-rate"),
        (["--private", "--sample-rate", "0.2"], "either --epsilon or --noise-multiplier"),
        (["--private", "--sample-rate", "0.2", "--epsilon", "8", "--noise-multiplier", "1"], "either"),
        (["--private", "--sample-rate", "2", "--epsilon", "8"], "must be in (0, 1]"),
        (["--private", "--sample-rate", "0.2", "--epsilon", "-1"], "must be positive"),
        (["--private", "--sample-rate", "0.2", "--epsilon", "8", "--delta", "0"], "--delta"),
        (["--epsilon", "8"], "--epsilon needs --private"),
        (["--canaries", "8"], "--canaries needs --private"),
    ],
)
def test_bad_input_is_one_line(folder: Path, model_folder: Path, arguments: list[str], words: str) -> None:
    """Each mistake is named before anything is loaded; nothing is written."""
    prompt = ["prompt", "--projection", "d8-plain", "--n", "4", "--mu", "20"]
    done = _train(model_folder, *prompt, *arguments)
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)
    assert not (folder / "delaudit-artifacts").exists()


def test_a_delta_that_allows_publication_is_refused(folder: Path, model_folder: Path) -> None:
    """Delta of 1 / documents or more lets one document be published whole: it is refused with a better one named."""
    prompt = _projection(model_folder)
    done = _train(model_folder, *prompt, *PRIVATE, "--epsilon", "8", "--delta", "0.05")
    assert isinstance(done.exception, UserError)
    assert "published whole" in str(done.exception)

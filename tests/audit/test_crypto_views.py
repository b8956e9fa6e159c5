"""What parties see of two prompts: rows, tests, inversion and dealer, on parties made by hand and on SPU's own."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import click
import numpy as np
import pytest
from click.testing import CliRunner

from audit.crypto_record import DEALER, INDEPENDENCE, INVERSION, VIEWS
from audit.dealer import dealt_masks
from audit.independence import PAIRS_AT_LEAST
from audit.records import RunRecord, new_record
from defenses.crypto.engines.base import Outcome
from defenses.crypto.engines.recorder import Message, PartyView
from defenses.crypto.engines.spu_settings import SpuSettings
from defenses.crypto.extra import INSTALL
from defenses.crypto.sharing import Words, encode, split
from defenses.errors import UserError
from defenses.randomness import seeded_rng

pytest.importorskip("spu", reason=f"needs spu: {INSTALL}")

from audit.cli.main import cli
from audit.crypto_views import WIDTH, Prompts, ViewPlan, _nearest, views_study
from defenses.crypto.engines.processes import Recorded
from defenses.crypto.language_models import LanguageModel, load_language_model

Leak = Literal["", "clear", "mask"]
TOKENS = 8
PAIRS = PAIRS_AT_LEAST
SEMI2K = "spu-semi2k-2pc"


class Parties:
    """Parties made by hand: shares and opened values as SEMI2K has them, with seeded coins.

    Class attributes, which the fixture `parties` resets:
        leak: What is wrong with the second party's share of the prompt: nothing, it is the prompt, or its mask repeats.
        engines: Every engine.
        stop: At this run of all, it is interrupted.
    """

    leak: Leak
    engines: list["Parties"]
    stop: int | None

    def __init__(self, protocol: Any, *, record: bool, **_: Any) -> None:
        assert record
        self.settings = SpuSettings(protocol)
        self.parties, self.guarantee = self.settings.parties, self.settings.guarantee
        self.rng, self.inputs, self.open = seeded_rng(1, "parties", protocol), [], True
        Parties.engines.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def run_recorded(self, function: Callable[..., Any], x: np.ndarray, weights: np.ndarray) -> Recorded:
        """One run: shares of both inputs, and both opened behind the masks of a dealer."""
        assert self.open
        self.inputs.append(x)
        if len(self.inputs) == Parties.stop:
            raise KeyboardInterrupt
        shared = [self._shares(encode(values).ravel()) for values in (x, weights)]
        seed = int(self.rng.integers(1 << 62))
        masks = dealt_masks(seed, 0, x.size), dealt_masks(seed, -(-x.size // 2), weights.size)
        opened = np.concatenate([parts[-1] - mask for parts, mask in zip(shared, masks, strict=True)]).tobytes()
        packed = b"\x92\x00\xcf" + struct.pack(">Q", seed)
        views = []
        for rank in range(self.parties):
            noise = self.rng.bytes(len(opened))
            dealt = (_message(":3:GATHER", packed),) if rank == 0 else ()
            messages = (*dealt, _message(":4:ALLGATHER", noise if rank else opened))
            views.append(PartyView(rank, tuple(parts[rank].tobytes() for parts in shared), messages))
        return Recorded(Outcome(None, 0.0, 0, 0, ()), tuple(views))

    def _shares(self, words: Words) -> list[Words]:
        if Parties.leak == "clear":
            return [np.zeros_like(words), *[words] * (self.parties - 1)]
        if Parties.leak == "mask":
            return split(words, seeded_rng(2, "the same coins"), self.parties)
        return split(words, self.rng, self.parties)


def _message(key: str, payload: bytes) -> Message:
    return Message(1, key, payload, b"", 0.0)


@pytest.fixture
def parties(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of SPU's processes."""
    Parties.leak, Parties.engines, Parties.stop = "", [], None
    monkeypatch.setattr("audit.crypto_views.ProcessEngine", Parties)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """The one whose tokens and embeddings the command takes."""
    return load_language_model("vanilla")


def study(model: LanguageModel, *protocols: str, **more: Any) -> list[dict[str, Any]]:
    """As few pairs as the tests allow."""
    return views_study(ViewPlan(protocols or ("semi2k",), **{"pairs": PAIRS, "tokens": TOKENS, **more}), model)


def of(rows: list[dict[str, Any]], table: str, party: int | None = None) -> list[dict[str, Any]]:
    """A table's rows, of all parties or of one."""
    return [row for row in rows if row["table"] == table and party in {None, row["party"]}]


def test_prompts_are_two_of_the_workload_that_differ(model: LanguageModel) -> None:
    """If this failed, a view would be compared with itself, and nothing could depend on the prompt."""
    found, again, other = (Prompts.of(model, TOKENS, seed) for seed in (0, 0, 1))
    assert found.tokens.shape == (2, TOKENS)
    assert (found.tokens[0] != found.tokens[1]).any()
    np.testing.assert_array_equal(found.tokens, again.tokens)
    np.testing.assert_array_equal(found.weights, again.weights)
    assert (found.tokens != other.tokens).any()
    assert found.table.shape == (model.config.vocabulary, WIDTH)
    np.testing.assert_array_equal(found.table, np.asarray(model.parameters["embedding"])[:, :WIDTH])
    with pytest.raises(UserError, match="no two embedded prompts have 4000 tokens: ask for fewer"):
        Prompts.of(model, 4000, 0)


@pytest.mark.parametrize(
    "wrong", [{"pairs": PAIRS - 1}, {"tokens": 0}, {"level": 0.0}, {"level": 1.0}, {"level": np.nan}]
)
def test_a_plan_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    """If this failed, too few pairs could never reject, and "nothing found" would be certain beforehand."""
    with pytest.raises(UserError, match="must be at least"):
        ViewPlan(**wrong)


def test_tokens_are_read_by_the_largest_cosine(model: LanguageModel) -> None:
    """If this failed, an inversion would read less than it could, and a leak look harmless; the oracle is a loop."""
    prompts = Prompts.of(model, TOKENS, 0)
    read = seeded_rng(0, "read").normal(size=(5, WIDTH))
    for place, found in zip(read, _nearest(read.ravel(), prompts), strict=True):
        cosines = [float(place @ row / np.linalg.norm(row)) for row in prompts.table.astype(np.float64)]
        assert found == int(np.argmax(cosines))


def test_sound_shares_say_nothing_and_the_dealer_reads_all(model: LanguageModel, parties: None) -> None:
    """If this failed, sound protocols would be accused, or the party that knows every mask be called harmless.

    False alarm over both parties: 0.01, and coins are seeded. More than 4 of 256 tokens would be read by chance, which
    is about 0.0016 a token, less than once in 10,000 times.
    """
    rows = study(model)
    assert not [row["feature"] for row in of(rows, INDEPENDENCE) if row["rejected"]]
    for row in of(rows, INVERSION):
        assert row["tokens"] == 2 * PAIRS * TOKENS
        assert row["read"] <= 4 / 256
        assert not row["above_chance"]
        assert row["read_low"] <= row["chance_high"] < 0.01
    (dealer,) = of(rows, DEALER)
    assert (dealer["party"], dealer["read"], dealer["tokens"], dealer["above_chance"]) == (0, 1.0, TOKENS, True)
    assert 0.6 < dealer["read_low"] < dealer["read_high"] == 1.0
    assert dealer["largest_error"] <= 2.0**-19


def test_a_share_that_is_the_prompt_is_found_and_read(model: LanguageModel, parties: None) -> None:
    """If this failed, a protocol that hides nothing would pass: every run must be read against its own prompt."""
    Parties.leak = "clear"
    rows = study(model)
    assert {"bits", "equal words"} <= {row["feature"] for row in of(rows, INDEPENDENCE, 1) if row["rejected"]}
    (share,) = of(rows, INVERSION, 1)
    assert (share["read"], share["above_chance"]) == (1.0, True)
    assert of(rows, INVERSION, 0)[0]["read"] < 0.1


def test_a_mask_that_repeats_is_found_though_nothing_is_read(model: LanguageModel, parties: None) -> None:
    """If this failed, a broken twin would pass: its shares look uniform run by run, and inversion reads nothing."""
    Parties.leak = "mask"
    rows = study(model)
    assert "repeated masks" in {row["feature"] for row in of(rows, INDEPENDENCE, 1) if row["rejected"]}
    assert of(rows, INVERSION, 1)[0]["read"] < 0.1


def test_every_party_of_every_protocol_has_its_rows(model: LanguageModel, parties: None) -> None:
    """If this failed, a party would be left out, or the level be spent on each party anew."""
    rows = study(model, "semi2k", "aby3", level=0.06)
    family = list(dict.fromkeys(row["feature"] for row in of(rows, INDEPENDENCE)))
    assert {"structure", "bits", "repeated masks", "timing"} < set(family)
    for protocol, count in (("semi2k", 2), ("aby3", 3)):
        settings = SpuSettings(protocol)
        mine = [row for row in rows if row["engine"] == settings.name]
        for party in range(count):
            tests = of(mine, INDEPENDENCE, party)
            assert [row["feature"] for row in tests] == family
            assert {(row["level"], row["pairs"], row["parties"]) for row in tests} == {(0.06 / count, PAIRS, count)}
            assert len(of(mine, INVERSION, party)) == 1
        assert len(of(mine, DEALER)) == (protocol == "semi2k")
        assert {row["guarantee"] for row in mine} == {settings.guarantee}
    assert [len(one.inputs) for one in Parties.engines] == [2 * PAIRS + 1, 2 * PAIRS]
    record = new_record(VIEWS, config={}, seed=0, rows=rows)
    assert [dict(row) for row in record.rows] == rows


def test_each_prompt_is_run_as_often_as_the_other_and_in_random_order(model: LanguageModel, parties: None) -> None:
    """If this failed, drift between first and second runs would pass for a dependence on the prompt."""
    study(model)
    prompts = Prompts.of(model, TOKENS, 0)
    embedded = prompts.table[prompts.tokens]
    sides = [int(np.array_equal(x, embedded[1])) for x in Parties.engines[0].inputs[: 2 * PAIRS]]
    assert all(np.array_equal(x, embedded[side]) for x, side in zip(Parties.engines[0].inputs, sides, strict=False))
    pairs = {tuple(sides[at : at + 2]) for at in range(0, len(sides), 2)}
    assert pairs == {(0, 1), (1, 0)}


def test_a_study_repeats_and_ends_its_parties_when_it_is_interrupted(model: LanguageModel, parties: None) -> None:
    """If this failed, an interrupted study would leave processes behind, or a seed not name its figures."""
    assert study(model) == study(model)
    Parties.stop = 5
    with pytest.raises(KeyboardInterrupt):
        study(model)
    assert [one.open for one in Parties.engines] == [False] * 3


def command(*words: str) -> Any:
    """`delaudit crypto views` in this process, errors raised as they are."""
    return CliRunner().invoke(cli, ["crypto", "views", *words], standalone_mode=False, catch_exceptions=False)


@pytest.fixture
def engines_there(monkeypatch: pytest.MonkeyPatch, parties: None) -> None:
    """The command's own check is of SPU, which these tests do without."""
    monkeypatch.setattr("audit.cli.crypto_views.demand_engines", lambda: None)


def test_the_command_leaves_a_record_a_page_and_a_line_for_each_party(
    model: LanguageModel, engines_there: None, tmp_path: Path
) -> None:
    """If this failed, what a person reads would not be what the record holds."""
    Parties.leak = "clear"
    out = tmp_path / "views"
    words = ["--engine", "semi2k", "--pairs", str(PAIRS), "--tokens", str(TOKENS), "--out", str(out)]
    told = command(*words).stdout.splitlines()
    record = RunRecord.read(out / "record.json")
    assert (record.kind, record.seed, record.config["protocols"]) == (VIEWS, 0, ["semi2k"])
    assert [dict(row) for row in record.rows] == study(model)
    (line,) = (line for line in told if line.startswith(f"{SEMI2K}, party 1"))
    assert "DEPENDS on the prompt" in line
    assert "bits" in line
    assert any("its share of the embeddings gives 100.0% [" in line for line in told)
    assert any("as dealer of triples it gives" in line for line in told)
    page = (out / "report" / "report.md").read_text(encoding="utf-8")
    assert f"**The view depends on the prompt** for party 0 of {SEMI2K}, party 1 of {SEMI2K}." in page
    found = json.loads(command(*words, "--json").stdout)
    assert found["rows"] == [dict(row) for row in record.rows]
    assert found["written"]["record"] == str(out / "record.json")


def test_a_protocol_named_twice_is_recorded_once(engines_there: None, tmp_path: Path) -> None:
    """If this failed, each of its parties would be tested twice, and by chance be accused twice as often."""
    command(*["--engine", "aby3"] * 2, "--pairs", str(PAIRS), "--out", str(tmp_path))
    rows = [dict(row) for row in RunRecord.read(tmp_path / "record.json").rows]
    assert len(of(rows, INVERSION)) == 3
    for party in range(3):
        features = [row["feature"] for row in of(rows, INDEPENDENCE, party)]
        assert len(set(features)) == len(features)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--pairs", str(PAIRS - 1)], f"pairs must be at least {PAIRS}, not {PAIRS - 1}"),
        (["--level", "1.5"], "level between 0 and 1"),
        (["--tokens", "4000"], "ask for fewer"),
        (["--models", "nowhere"], "no weights of vanilla"),
    ],
)
def test_bad_input_is_refused_before_a_party_starts(
    engines_there: None, tmp_path: Path, wrong: list[str], message: str
) -> None:
    """If this failed, a mistake would cost the parties' start; and it must leave nothing."""
    with pytest.raises(UserError, match=message):
        command(*wrong, "--out", str(tmp_path / "out"))
    assert not Parties.engines
    assert not (tmp_path / "out").exists()


def test_an_interrupted_command_leaves_no_record(engines_there: None, tmp_path: Path) -> None:
    """If this failed, the views of some pairs would be reported as those of all."""
    Parties.stop = 7
    with pytest.raises(click.Abort):
        command("--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_spu_s_own_parties_pass_and_the_dealer_reads_all(model: LanguageModel, needs: Callable[..., None]) -> None:
    """If this failed, hand-made parties would not stand for the real ones. False alarm: 0.001, and two inversions."""
    needs("spu")
    rows = study(model, tokens=2, level=0.001)
    assert not [row["feature"] for row in of(rows, INDEPENDENCE) if row["rejected"]]
    assert all(row["read"] < 0.1 for row in of(rows, INVERSION))
    assert [row["read"] for row in of(rows, DEALER)] == [1.0]

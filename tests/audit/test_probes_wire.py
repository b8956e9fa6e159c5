"""Through the real client and the real service: only the bytes of the requests are used."""

import secrets
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from scipy.stats import binom

from audit.bounds import ESTIMATORS, BinomialFamily, EvidenceError
from audit.probes import Inputs, collect, corner_assets, repeated_sends, whole_prompt
from audit.probes.leaks import check_leaks
from audit.probes.wire import WireTarget, id_tokenizer, wire_target
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.errors import UserError
from defenses.pipeline.client import Client, Traffic
from defenses.pipeline.defense import Del, DelConfig
from defenses.pipeline.wire import parse

ONE = Inputs(np.array([[0]]), np.array([[1]]))
DEFENSE = Del(DelConfig(n=4, mu=1.0), corner_assets(16))
RESEEDED = partial(Client, coins=lambda: np.random.default_rng(3))


class Telling(Client):
    """A client with a header that depends on the prompt, and one that is random."""

    def _encode(self, text: str, traffic: Traffic) -> bytes:
        self._http.headers["x-first-word"] = text.split(maxsplit=1)[0]
        self._http.headers["x-request"] = secrets.token_hex(8)
        return super()._encode(text, traffic)


class Silent(Client):
    """A client that sends nothing."""

    def _stream(self, text: str, query: dict[str, int | float], traffic: Traffic) -> Iterator[str]:
        raise ConnectionError("no route")
        yield ""


@pytest.fixture(scope="module")
def wire() -> Iterator[WireTarget]:
    """DEL's own client and service."""
    with wire_target(DEFENSE) as target:
        yield target


def test_what_is_recorded_is_the_clients_message(wire: WireTarget) -> None:
    """The body is a message of the wire format with the tokens sent, from this table; the headers are there."""
    request = wire.send(np.array([5, 6, 7]))
    message = parse(request.body)
    assert (message.tokens, message.d, message.n) == (3, 16, 4)
    assert message.projection_id == DEFENSE.table.projection_id
    assert request.target.startswith(b"/v1/generate?max_new_tokens=1")
    assert dict(request.headers)[b"content-length"] == str(len(request.body)).encode()
    assert request.seconds > 0


def test_the_clients_coins_have_the_mechanisms_law(wire: WireTarget) -> None:
    """The sum of 60 messages' counts at a corner is binomial: not beyond the 1e-5 tails."""
    draws, _ = wire.sample(ONE, 60, np.random.default_rng(0), "single")
    total = sum(int(parse(draws.body(i, 0)).counts[:, DEFENSE.table.rows(np.array(0)) > 0].sum()) for i in range(60))
    positive = int((DEFENSE.table.rows(np.array(0)) > 0).sum())
    p_hi = 0.5 + 0.5 / DEFENSE.quantizer.a_over_c
    low, high = binom.ppf([5e-6, 1 - 5e-6], 60 * 15 * positive, p_hi)
    assert low <= total <= high


def test_the_sound_client_keeps_its_claim(wire: WireTarget) -> None:
    """200 draws a side through the socket do not refute the exact claim (coins are the system's: level 1e-4)."""
    rng = np.random.default_rng(1)
    family = BinomialFamily(240)
    result = collect(wire, ONE, 200, rng, family=family, train=200, through="wire", progress=False)
    profile = DEFENSE.profile().compose(result.uses)
    assert ESTIMATORS["whole-curve"].p_value(result.scores, profile, family, rng, level=1e-4) > 1e-4
    assert result.through == "wire"


def test_a_client_that_reseeds_its_coins_is_refuted() -> None:
    """Coins that start anew with every request are caught within 100 + 200 draws a side, in each of two seeds."""
    with wire_target(DEFENSE, RESEEDED) as target:
        for seed in range(2):
            rng = np.random.default_rng(seed)
            family = BinomialFamily(240)
            result = collect(target, ONE, 100, rng, family=family, train=200, through="wire", progress=False)
            p = ESTIMATORS["whole-curve"].p_value(result.scores, DEFENSE.profile(), family, rng)
            assert p <= 0.05


def test_a_defence_is_taken_through_its_own_wire() -> None:
    """Given a defence and "wire", a client and a service are started for it."""
    result = collect(
        DEFENSE, ONE, 20, np.random.default_rng(2), family=BinomialFamily(240), train=32, through="wire", progress=False
    )
    assert result.scores.samples == 20
    assert result.facts["mode"] == "single"


def test_encoding_time_is_a_score_only_where_asked(wire: WireTarget) -> None:
    """With timing the seconds are among the scores tried; without they are not."""
    for timing in (False, True):
        result = collect(
            wire,
            ONE,
            8,
            np.random.default_rng(3),
            family=BinomialFamily(240),
            train=32,
            timing=timing,
            through="wire",
            progress=False,
        )
        assert ("strength of encoding time" in result.facts) is timing


def test_no_leak_beside_the_counts(wire: WireTarget) -> None:
    """DEL's client: lengths, headers and their order are the same, no message repeats (64 bits of coins)."""
    report = check_leaks(wire, ONE, 40, np.random.default_rng(4))
    assert not report.lengths
    assert not report.target
    assert not report.order
    assert report.headers == report.varying == ()
    assert report.repeats == 0
    assert 0 <= report.timing_p <= 1


def test_headers_that_depend_on_the_prompt_are_named() -> None:
    """A header that tells the first word is a leak; one that is random is only listed."""
    with wire_target(DEFENSE, Telling) as target:
        report = check_leaks(target, ONE, 10, np.random.default_rng(5))
    assert report.headers == ("x-first-word",)
    assert report.varying == ("x-request",)
    assert any("x-first-word" in text for text in report.leaks)


def test_repeated_messages_are_counted() -> None:
    """Coins that start anew give equal messages for equal prompts: 38 of 40 repeat, far beyond chance."""
    with wire_target(DEFENSE, RESEEDED) as target:
        report = check_leaks(target, ONE, 20, np.random.default_rng(6))
    assert report.repeats == 38
    assert report.repeats_p < 1e-6
    assert any("repeat earlier ones" in text for text in report.leaks)


def test_chance_repeats_are_no_leak() -> None:
    """With 4 bits of coins a message, messages repeat by chance, and Markov's bound does not call it a leak."""
    small = Del(DelConfig(n=1, mu=0.5), corner_assets(4))
    with wire_target(small) as target:
        report = check_leaks(target, ONE, 20, np.random.default_rng(7))
    assert report.repeats >= 40 - 16
    assert report.repeats_p == 1.0


def test_a_client_that_fails_is_one_line() -> None:
    """What the client raises is an EvidenceError with its name."""
    with (
        wire_target(DEFENSE, Silent) as target,
        pytest.raises(EvidenceError, match="the client of del: sending a prompt raised ConnectionError: no route"),
    ):
        target.send(np.array([1]))


def test_other_defences_have_no_wire() -> None:
    """The HTTP service speaks DEL alone, and says so in one line."""
    with (
        pytest.raises(UserError, match="the defence identity has no client"),
        wire_target(Identity(IdentityConfig(), corner_assets(4))),
    ):
        pass


def test_lengths_of_prompts_differ_on_the_wire(wire: WireTarget) -> None:
    """T is in the clear, as docs/wire.md says: messages of 1 and of 3 tokens differ by their packed counts."""
    rng = np.random.default_rng(0)
    sizes = [wire.body_length(np.zeros((1, tokens), dtype=np.int64), rng) for tokens in (1, 3)]
    assert sizes[1] - sizes[0] == 2 * 16 * 4 // 8
    layout = wire.layout(0, rng)
    assert layout is not None
    assert (layout.header, layout.bits) == (32, 64)


def test_several_requests_make_one_draw(wire: WireTarget) -> None:
    """Two sends of a prompt are one draw of two bodies."""
    inputs = repeated_sends(whole_prompt(0, 1, 2))
    first, second = wire.sample(inputs, 3, np.random.default_rng(8), "single")
    assert first.bodies.shape == second.bodies.shape == (3, 2, 32 + 16)


def test_words_are_token_ids() -> None:
    """The audit's tokenizer gives each id back, for every token of the vocabulary."""
    assert id_tokenizer(50).encode(" ".join(map(str, range(50))), add_special_tokens=False).ids == list(range(50))

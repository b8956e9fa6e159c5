"""SPU as an engine: outputs, costs and errors of its three protocols."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from defenses.crypto.engines.spu import SpuEngine
from defenses.crypto.engines.spu_settings import SpuSettings
from defenses.errors import UserError

PROTOCOLS = ("semi2k", "aby3", "cheetah")


@pytest.fixture(scope="module")
def engines(needs: Callable[..., None]) -> dict[str, SpuEngine]:
    """One engine for each protocol: links and keys are made once."""
    needs("spu", "jax")
    return {protocol: SpuEngine(protocol) for protocol in PROTOCOLS}


def _linear(weights: dict[str, Any], x: Any) -> dict[str, Any]:
    return {"logits": x @ weights["kernel"] + weights["bias"], "sums": (x.sum(axis=0), x * x)}


def _product(a: Any, b: Any) -> Any:
    return a * b


def _inputs() -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(0)
    return {"kernel": rng.uniform(-1, 1, (8, 4)), "bias": rng.uniform(-1, 1, 4)}, rng.uniform(-1, 1, (3, 8))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_trees_go_in_and_come_out(engines: dict[str, SpuEngine], protocol: str) -> None:
    """The output has the function's own structure and the plaintext's numbers, up to the stated precision."""
    weights, x = _inputs()
    outcome = engines[protocol].run(_linear, weights, x)
    expected = _linear(weights, x)
    unit = engines[protocol].precision
    assert outcome.output.keys() == expected.keys()
    np.testing.assert_allclose(outcome.output["logits"], expected["logits"], atol=9 * unit)
    np.testing.assert_allclose(outcome.output["sums"][1], expected["sums"][1], atol=unit)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_product_is_within_the_stated_precision(engines: dict[str, SpuEngine], protocol: str) -> None:
    """The precision is a bound on the error of a product of numbers below 1, and no idle one."""
    x, y = np.random.default_rng(1).uniform(-1, 1, (2, 20_000)).astype(np.float32)
    output = engines[protocol].run(lambda a, b: a * b, x, y).output
    error = np.abs(output.astype(np.float64) - x.astype(np.float64) * y).max()
    assert engines[protocol].precision / 3 < error <= engines[protocol].precision


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_operators_add_up(engines: dict[str, SpuEngine], protocol: str) -> None:
    """A run's bytes and rounds are its operators', dearest first, and a product costs more than nothing."""
    weights, x = _inputs()
    outcome = engines[protocol].run(_linear, weights, x)
    assert outcome.bytes == sum(cost.bytes for cost in outcome.operators) > 0
    assert outcome.rounds == sum(cost.rounds for cost in outcome.operators) > 0
    seconds = [cost.seconds for cost in outcome.operators]
    assert seconds == sorted(seconds, reverse=True)
    assert {"pphlo.dot", "pphlo.multiply"} <= {cost.name for cost in outcome.operators}


def test_a_matrix_product_costs_what_the_protocol_says(engines: dict[str, SpuEngine]) -> None:
    """SEMI2K: each party sends its masked shares of both factors, and of half the product to cut it to f bits."""
    x, y = np.ones((8, 16)), np.ones((16, 4))
    outcome = engines["semi2k"].run(lambda a, b: a @ b, x, y)
    assert outcome.bytes == 2 * 8 * (8 * 16 + 16 * 4) + 8 * (8 * 4)
    assert outcome.rounds == 2


def test_cost_does_not_depend_on_the_numbers(engines: dict[str, SpuEngine]) -> None:
    """Bytes and rounds of a comparison are the same for other secrets, and with public weights a run is cheaper."""
    weights, x = _inputs()
    first = engines["semi2k"].run(_linear, weights, x)
    second = engines["semi2k"].run(_linear, weights, -7 * x)
    assert (first.bytes, first.rounds) == (second.bytes, second.rounds)
    public = engines["semi2k"].run(_linear, weights, x, public=(0,))
    assert public.bytes < first.bytes
    np.testing.assert_allclose(public.output["logits"], first.output["logits"], atol=1e-4)


def test_set_up_is_counted_once(engines: dict[str, SpuEngine]) -> None:
    """CHEETAH's base oblivious transfers are in the set-up's megabytes and in no run's bytes.

    Most runs of 1,500 products take what was made before; one in a few makes the next batch of triples.
    """
    engine = engines["cheetah"]
    assert engine.set_up.bytes > 10_000_000
    factors = np.ones((2, 1500))
    bytes_of_runs = [engine.run(_product, *factors).bytes for _ in range(8)]
    assert min(bytes_of_runs) < 200_000
    assert 500_000 < max(bytes_of_runs) < 5_000_000


def test_an_interrupted_run_leaves_nothing_to_the_next(
    needs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of an interrupted run still compute on the runtimes: the next run must have others."""
    needs("spu", "jax")
    engine = SpuEngine("semi2k")
    assert engine.run(_product, 2.0, 3.0).output == pytest.approx(6.0, abs=1e-4)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.run(_product, np.ones(100_000), np.ones(100_000))
    assert engine.run(_product, 3.0, 4.0).output == pytest.approx(12.0, abs=1e-4)


_STOPPED = """
import os, signal, sys, threading
import numpy as np
from defenses.crypto.engines.spu import SpuEngine
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
engine = SpuEngine()
engine.set_up
compute = SpuEngine._compute
def signalled(self, rank, *rest):
    if rank == 0:
        threading.Timer(0.2, os.kill, (os.getpid(), int(sys.argv[1]))).start()
    return compute(self, rank, *rest)
SpuEngine._compute = signalled
x = np.ones((1600, 1600), dtype=np.float32)
engine.run(lambda a, b: ((a @ b) @ a) @ b, x, x)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_is_stopped_in_a_run_ends_in_order(needs: Callable[..., None], number: int, code: int) -> None:
    """Native threads still compute then, and Python taking itself down under them would end in a crash."""
    needs("spu", "jax")
    command = [sys.executable, "-c", _STOPPED, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603 - our own
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize("wrong", [[np.nan], [1.0, -np.inf], [1e15], [1e300], np.array([2**40])])
def test_numbers_that_do_not_fit_are_refused(needs: Callable[..., None], wrong: Any) -> None:
    """SPU would change them without a word: 2^40 to 0, 10^15 to 1.76 10^13, NaN to 0."""
    needs("spu", "jax")
    with pytest.raises(UserError, match=r"not finite, or as large as 3\.52e\+13|32 bits"):
        SpuEngine("semi2k").run(_product, np.array(wrong), np.array(wrong))


def test_large_numbers_that_fit_are_kept(engines: dict[str, SpuEngine]) -> None:
    """The refusal begins where the format ends, and no earlier: a sum of 10^13 and 1 is right."""
    found = engines["semi2k"].run(lambda a, b: a + b, np.array([1e13]), np.array([1.0]))
    assert found.output == pytest.approx(1e13, rel=1e-6)


def test_nothing_is_written_to_the_terminal(engines: dict[str, SpuEngine], capfd: pytest.CaptureFixture[str]) -> None:
    """SPU's log stays in its file: a progress bar would be torn by it."""
    engines["semi2k"].run(lambda a: a + a, np.ones(4))
    SpuEngine("aby3").run(lambda a: a * a, np.ones(4))
    found = capfd.readouterr()
    assert found.out == found.err == ""


def test_more_fraction_bits_are_more_precise(needs: Callable[..., None]) -> None:
    """The ring of 128 bits and more fraction bits make products more exact, and the name says so."""
    needs("spu", "jax")
    x, y = np.random.default_rng(2).uniform(-1, 1, (2, 1000)).astype(np.float32)
    errors = []
    for options in ({"fraction_bits": 12}, {}, {"ring": 128}):
        engine = SpuEngine("semi2k", **options)
        output = engine.run(lambda a, b: a * b, x, y).output
        errors.append(float(np.abs(output.astype(np.float64) - x.astype(np.float64) * y).max()))
        assert errors[-1] <= engine.precision
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert SpuEngine("semi2k", ring=128).name == "spu-semi2k-2pc-ring128"


def test_what_cannot_be_compiled_is_one_line(engines: dict[str, SpuEngine]) -> None:
    """A function that SPU has no operator for, one that is wrong, and text for numbers end in a UserError."""
    import jax.numpy as jnp

    engine = engines["semi2k"]
    with pytest.raises(UserError, match="cannot be compiled for SPU") as raised:
        engine.run(lambda a: jnp.linalg.eigh(a)[0], np.eye(3))
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="cannot be compiled"):
        engine.run(lambda a, b: a @ b, np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(UserError, match="arrays of numbers"):
        engine.run(lambda a: a, np.array(["text"]))
    with pytest.raises(UserError, match="cannot be public"):
        engine.run(lambda a: a, np.ones(2), public=(1,))


def test_settings_are_checked_and_the_guarantee_is_named() -> None:
    """Wrong settings are refused, and SEMI2K is not said to protect from the party that deals its triples."""
    for wrong in ({"protocol": "spdz"}, {"ring": 32}, {"fraction_bits": 40}, {"exponential": "exact"}):
        with pytest.raises(UserError, match="SPU's"):
            SpuSettings(**wrong)  # type: ignore[arg-type]
    assert SpuSettings(fraction_bits=18) == SpuSettings()
    assert SpuSettings(ring=128, fraction_bits=26).name == "spu-semi2k-2pc-ring128"
    assert SpuSettings(ring=128, fraction_bits=18).name == "spu-semi2k-2pc-ring128-fraction_bits18"
    assert "NONE against the first party" in SpuSettings("semi2k").guarantee
    assert "no dealer" in SpuSettings("cheetah").guarantee
    assert "where no two collude" in SpuSettings("aby3").guarantee


def test_the_dealer_cannot_be_chosen_away(needs: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """SPU 0.9.5 refuses triples without a dealer; once a version has them, SEMI2K's guarantee must be rewritten."""
    needs("spu", "jax")
    from spu import libspu

    from defenses.crypto.engines import spu

    kinds, plain = libspu.RuntimeConfig.BeaverType, spu.runtime_config
    assert plain(SpuSettings("semi2k")).beaver_type == kinds.TrustedFirstParty

    def without_dealer(settings: SpuSettings) -> Any:
        config = plain(settings)
        config.beaver_type = kinds.MultiParty
        return config

    monkeypatch.setattr(spu, "runtime_config", without_dealer)
    with pytest.raises(UserError, match=r"could not run the set-up under spu-semi2k-2pc: .*unsupported beaver type"):
        SpuEngine("semi2k").run(lambda a: a * a, np.ones(2))

"""The sampling circuit under CKKS against its float64 twin: small rings that are not secure, and a slow secure one."""

from collections.abc import Iterator

import numpy as np
import pytest

from defenses.crypto.engines.ckks import CkksEngine
from defenses.crypto.engines.ckks_process import CkksSettings, interpreter
from defenses.crypto.sampling_circuit import SamplingCircuit, sampled
from defenses.crypto.sampling_ckks import EncryptedSampler, padded, rotations_for, settings_for
from defenses.errors import UserError
from defenses.randomness import seeded_rng

TOKENS = 30


def need_openfhe() -> None:
    """Skip where no interpreter has OpenFHE."""
    try:
        interpreter()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "post"])
def sampler(request: pytest.FixtureRequest) -> Iterator[EncryptedSampler]:
    """Thirty tokens of seven coordinates."""
    need_openfhe()
    circuit = SamplingCircuit(amplify=6, sign=2, sharpen=2, post=request.param)
    table = seeded_rng(0, "table").normal(size=(TOKENS, 7))
    with CkksEngine(settings_for(circuit, scale_bits=50, ring_bits=10, secure=False), rotations_for(TOKENS)) as engine:
        yield EncryptedSampler(engine, table, circuit)


@pytest.mark.parametrize("r", [0.03, 0.5, 0.97])
def test_it_agrees_with_its_twin(sampler: EncryptedSampler, r: float) -> None:
    """Weights and embedding are the float64 circuit's within 1,000 times the precision of one product."""
    p = seeded_rng(1, "p").dirichlet(np.ones(TOKENS))
    found = sampler.sample(p, r)
    assert found.weight_error < 1e3 * sampler._engine.precision
    assert found.embedding_error < 1e4 * sampler._engine.precision
    assert int(found.weights.argmax()) == sampled(p[None], np.array([r]))[0]
    assert found.twin_embedding.shape == (7,)


def test_it_takes_the_levels_that_the_circuit_states(sampler: EncryptedSampler) -> None:
    """The circuit's levels and one for the table: a context of that depth is deep enough, and used up."""
    found = sampler.sample(np.full(TOKENS, 1 / TOKENS), 0.4)
    assert found.account.levels_used == sampler.circuit.levels + 1


def test_a_sample_s_account_is_its_own(sampler: EncryptedSampler) -> None:
    """The second sample costs what the first did, and only what the protocol sends counts: p, and the mix back."""
    p = seeded_rng(3, "own").dirichlet(np.ones(TOKENS))
    first, second = (sampler.sample(p, r).account for r in (0.3, 0.6))
    engine = sampler._engine
    secret = sampler.encrypt(p)
    mixed = sampler.mix(sampler.weights(secret, 0.3))
    sizes = [engine.size(one) for one in (secret, *mixed)]
    assert first.bytes == second.bytes == sum(sizes)
    costs = [{row.name: (row.calls, row.bytes) for row in one.operators} for one in (first, second)]
    assert costs[0] == costs[1]
    assert costs[0]["encrypt"] == (1, sizes[0])
    assert costs[0]["decrypt"] == (len(mixed), sum(sizes[1:]))
    assert first.seconds == pytest.approx(sum(row.seconds for row in first.operators))
    assert {"setup", "rotations"}.isdisjoint(costs[0])
    assert first.key_bytes == second.key_bytes > 0


def test_precision_is_that_of_the_sample_s_weights(sampler: EncryptedSampler) -> None:
    """An earlier sample that came out worse must not be held against this one."""
    sampler._engine.check(sampler._engine.encrypt(np.zeros(4)), np.full(4, 0.5))
    found = sampler.sample(np.full(TOKENS, 1 / TOKENS), 0.4)
    assert found.account.precision_bits == pytest.approx(-np.log2(found.weight_error))


def test_vocabularies_that_do_not_fit_are_refused(sampler: EncryptedSampler) -> None:
    """Too many tokens for the slots, too shallow a context, a circuit without a cubic."""
    engine, table = sampler._engine, np.zeros((300, 2))
    with pytest.raises(UserError, match="slots"):
        EncryptedSampler(engine, table, sampler.circuit)
    with pytest.raises(UserError, match="levels"):
        EncryptedSampler(engine, table[:4], SamplingCircuit(amplify=30))
    with pytest.raises(UserError, match="at least one iteration"):
        EncryptedSampler(engine, table[:4], SamplingCircuit(amplify=0, sign=1, sharpen=0))


def test_sizes_and_keys() -> None:
    """Powers of two for the sums; one key for each bit."""
    assert [padded(n) for n in (1, 2, 3, 512, 513)] == [1, 2, 4, 512, 1024]
    assert rotations_for(512) == [-(1 << bit) for bit in range(9)]
    assert settings_for(SamplingCircuit(post=True), scale_bits=45) == CkksSettings(depth=54, scale_bits=45)


@pytest.mark.slow
def test_512_tokens_at_the_paper_s_depth_and_128_bits() -> None:
    """The whole circuit of the paper on 512 tokens, secure, without bootstrapping: minutes and 6 GB."""
    need_openfhe()
    circuit = SamplingCircuit(post=True)
    rng = seeded_rng(2, "large")
    table, p = rng.normal(size=(512, 64)), rng.dirichlet(np.full(512, 0.2))
    with CkksEngine(settings_for(circuit), rotations_for(512)) as engine:
        found = EncryptedSampler(engine, table, circuit).sample(p, 0.37)
        assert engine.ring == 1 << 17
    assert found.weight_error < 1e-6
    assert found.account.levels_used == 54

"""Secret sharing as a defence: one server's view is noise, both are the prompt."""

import numpy as np
import pytest
from scipy.stats import chisquare

from attacks.adversaries.cosine import Cosine
from audit.intervals import clopper_pearson
from defenses.base import Assets
from defenses.baselines.identity import Identity, IdentityConfig
from defenses.baselines.secret_sharing import SecretSharing, SecretSharingConfig
from defenses.errors import UserError
from defenses.randomness import seeded_rng

TOKENS = np.arange(256, dtype=np.int64).reshape(8, 32)


def test_both_servers_together_have_the_embeddings(assets: Assets) -> None:
    """Masks off, only fixed-point rounding is left: the utility of the protocol."""
    defense = SecretSharing(SecretSharingConfig(), assets)
    restored = defense.reconstruct(defense.share(TOKENS, seeded_rng(0, "sharing")))
    assert np.abs(restored - assets.embedding[TOKENS]).max() <= 2.0**-19 + 1e-7
    with pytest.raises(ValueError, match="both servers"):
        defense.reconstruct(defense.share(TOKENS, seeded_rng(0, "sharing"))[:1])


@pytest.mark.parametrize("server", [0, 1])
def test_one_server_sees_uniform_bytes(assets: Assets, server: int) -> None:
    """Whatever the tokens, every byte of a view is uniform (false alarm 2e-6), b words a token and no header."""
    defense = SecretSharing(SecretSharingConfig(server=server), assets)
    view = defense.protect(np.full((8, 64), 7), seeded_rng(1, "sharing"))
    assert view.bytes_per_token == 8 * assets.embedding.shape[1]
    counts = np.bincount(np.frombuffer(view.payload, dtype=np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-6


def test_inversion_is_at_chance(assets: Assets) -> None:
    """The attack that reads every plain embedding finds tokens of a share no more often than by chance (1 in 1e4)."""
    tokens = seeded_rng(2, "sharing").integers(0, assets.vocabulary, size=(40, 64))
    plain = Identity(IdentityConfig(), assets)
    assert Cosine(plain).guess(plain.protect(tokens, seeded_rng(3))).hits(tokens).mean() > 0.99
    defense = SecretSharing(SecretSharingConfig(), assets)
    hits = Cosine(defense).guess(defense.protect(tokens, seeded_rng(3))).hits(tokens)
    assert 1 / assets.vocabulary in clopper_pearson(int(hits.sum()), hits.size, 0.9999)


def test_the_config_is_checked() -> None:
    """A third server and a format that cannot hold embeddings are refused."""
    with pytest.raises(UserError, match="server"):
        SecretSharingConfig(server=2)
    for wrong in (41, -1, 18.5, True, "18"):
        with pytest.raises(UserError, match="fraction_bits must be a whole number from 0 to 40"):
            SecretSharingConfig(fraction_bits=wrong)  # type: ignore[arg-type]
    for wrong in (True, 1.0):
        with pytest.raises(UserError, match="server must be 0 or 1"):
            SecretSharingConfig(server=wrong)  # type: ignore[arg-type]


def test_the_claim_is_no_better_than_the_masks(assets: Assets) -> None:
    """Secrecy is perfect for truly random masks alone, and neither experiments nor the service draw those."""
    source = SecretSharing(SecretSharingConfig(), assets).claim.source
    assert "perfect with truly random masks" in source
    assert "computational" in source
    assert "PCG64" in source


@pytest.mark.parametrize("server", [0, 1])
def test_what_is_delivered_is_the_prompt_and_what_is_seen_is_one_share(assets: Assets, server: int) -> None:
    """Utility must be that of the true protocol, and attacks must get one server's view of the very same run."""
    defense = SecretSharing(SecretSharingConfig(server=server), assets)
    view, delivered = defense.deliver(TOKENS, seeded_rng(0, "sharing"))
    assert np.abs(delivered - assets.embedding[TOKENS]).max() <= 2.0**-18
    assert view == defense.share(TOKENS, seeded_rng(0, "sharing"))[server]

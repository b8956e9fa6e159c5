"""Projections: the start is optimal for its metric, training lowers its loss, files round-trip and refuse damage."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from defenses.base import Projection
from defenses.errors import UserError
from defenses.models.llm import LLM
from defenses.pipeline.artifacts import find_projection
from defenses.pipeline.noise import quantize_straight_through
from defenses.pipeline.probe import early_hidden_states, fisher_at_input, rms_normalised
from defenses.pipeline.projection import load_projection, rotated_svd, save_projection, weighted_pca
from defenses.pipeline.projection_training import ProjectionSettings, train_projection

RNG = np.random.default_rng(5)
TABLE = (RNG.normal(size=(300, 12)) * np.linspace(3, 0.1, 12)).astype(np.float32)
COUNTS = RNG.integers(1, 50, 300)


def _error(projection: Projection, metric: np.ndarray) -> float:
    """The weighted error that the start minimises, by its definition."""
    weights = COUNTS / COUNTS.sum()
    gap = TABLE - TABLE @ projection.encoder.T @ projection.decoder.T
    return float((weights * np.einsum("vi,ij,vj->v", gap, metric, gap)).sum())


def test_fisher_pca_is_optimal_in_its_own_metric() -> None:
    """Under a random metric, no random or plain-PCA code of the same rank beats the weighted one."""
    factor = RNG.normal(size=(12, 12))
    metric = factor @ factor.T
    best = _error(weighted_pca(TABLE, COUNTS, 4, metric, ridge=1e-9), metric)
    assert best < _error(weighted_pca(TABLE, COUNTS, 4), metric)
    for _ in range(20):
        basis = np.linalg.qr(RNG.normal(size=(12, 4)))[0]
        root = np.linalg.cholesky(metric).T
        encoder = basis.T @ root
        rival = Projection(encoder.astype(np.float32), (np.linalg.inv(root) @ basis).astype(np.float32), 1.0)
        assert best <= _error(rival, metric) * (1 + 1e-6)


def test_the_clip_leaves_99_percent_of_latents() -> None:
    """The start is scaled so that about 1 % of token-weighted coordinates lie outside [-c, c]."""
    projection = weighted_pca(TABLE, COUNTS, 4)
    outside = np.abs(TABLE @ projection.encoder.T) > projection.clip
    share = np.average(outside.mean(axis=1), weights=COUNTS)
    assert 0.005 <= share <= 0.0101


def test_full_width_is_lossless() -> None:
    """At d = b every embedding survives, clip included."""
    projection = weighted_pca(TABLE, COUNTS, 12)
    np.testing.assert_allclose(projection.latents(TABLE) @ projection.decoder.T, TABLE, atol=1e-4)


def test_files_round_trip_and_name_their_model(tmp_path: Path) -> None:
    """A saved projection loads as it was (to float16), and is refused on another model's table."""
    projection = weighted_pca(TABLE, COUNTS, 4)
    path = tmp_path / "tiny" / "projection-p.safetensors"
    save_projection(projection, path, {"embedding": "abc"})
    loaded = find_projection("tiny", "abc", "p", tmp_path)
    np.testing.assert_allclose(loaded.encoder, projection.encoder, rtol=1e-3, atol=1e-6)
    assert loaded.clip == projection.clip
    assert json.loads(path.with_suffix(".json").read_text())["embedding"] == "abc"
    with pytest.raises(UserError, match="belongs to the embedding table"):
        find_projection("tiny", "other", "p", tmp_path)
    with pytest.raises(UserError, match="there are p"):
        find_projection("tiny", "abc", "q", tmp_path)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    """Garbage says what it is not."""
    path = tmp_path / "projection-p.safetensors"
    path.write_bytes(b"garbage")
    with pytest.raises(UserError, match="not a readable projection"):
        load_projection(path)


def test_bad_width_is_refused() -> None:
    """D beyond b is one line."""
    with pytest.raises(UserError, match="between 1 and"):
        weighted_pca(TABLE, COUNTS, 13)


def test_early_states_equal_the_full_models(any_llm: LLM) -> None:
    """The stopped forward pass gives the very states of the whole one, on two architectures."""
    embeds = torch.from_numpy(any_llm.embedding[np.array([[1, 2, 3, 4]])])
    early = early_hidden_states(any_llm.model, embeds, 3)
    with torch.no_grad():
        whole = any_llm.model(inputs_embeds=embeds, output_hidden_states=True).hidden_states
    assert len(early) == 3
    for state, reference in zip(early, whole[1:4], strict=True):
        torch.testing.assert_close(state, reference)
    assert float(rms_normalised(early[0]).square().mean()) == pytest.approx(1.0, rel=1e-2)


def test_fisher_matrix_is_the_mean_outer_product(any_llm: LLM, token_windows: np.ndarray) -> None:
    """Against a loop over windows with autograd on each."""
    fisher = fisher_at_input(any_llm.model, token_windows[:3], batch=2)
    total = np.zeros((32, 32))
    for row in token_windows[:3]:
        ids = torch.from_numpy(row)[None]
        x = torch.from_numpy(any_llm.embedding[row])[None].requires_grad_()
        loss = torch.nn.functional.cross_entropy(
            any_llm.model(inputs_embeds=x).logits[0, :-1], ids[0, 1:], reduction="sum"
        )
        gradient = torch.autograd.grad(loss, x)[0][0].double().numpy()
        total += gradient.T @ gradient
    np.testing.assert_allclose(fisher, total / token_windows[:3].size, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("objective", ["plain", "noise-aware", "lm"])
def test_training_lowers_its_loss(llm: LLM, token_windows: np.ndarray, objective: str) -> None:
    """Each objective's loss falls from the start, and W_enc and W_dec have moved."""
    start = weighted_pca(llm.embedding, np.bincount(token_windows.ravel(), minlength=256), 8)
    settings = ProjectionSettings(objective=objective, steps=40, learning_rate=0.02, batch=8, mu_range=(20, 60))
    trained, losses = train_projection(llm, start, token_windows, settings)
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    assert trained.objective == objective
    assert np.abs(trained.encoder - start.encoder).max() > 0
    assert trained.clip == start.clip


def test_training_noise_has_the_mechanisms_mean_and_variance() -> None:
    """The torch quantizer is unbiased with variance ((A/c)^2 - v^2) / u, and clips before it draws."""
    latents = torch.tensor([-3.0, -1.0, -0.3, 0.0, 0.8, 5.0]).repeat(40_000, 1)
    decoded = quantize_straight_through(latents, n=3, a_over_c=1.7, generator=torch.Generator().manual_seed(0))
    inside = latents[0].clamp(-1, 1)
    variance = (1.7**2 - inside**2) / 7
    error = (decoded.mean(0) - inside) / (variance / len(latents)).sqrt()
    assert float(error.abs().max()) < 5
    np.testing.assert_allclose(decoded.var(0), variance, rtol=0.05)


def test_gradient_passes_straight_through_but_not_past_the_clip() -> None:
    """Inside [-c, c] the gradient is one, outside it is zero."""
    latents = torch.tensor([-2.0, -0.5, 0.5, 2.0], requires_grad=True)
    quantize_straight_through(latents, n=4, a_over_c=1.5, generator=torch.Generator().manual_seed(0)).sum().backward()
    assert latents.grad is not None
    assert latents.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("settings", [{"objective": "magic"}, {"n": 9}, {"mu_range": (5.0, 1.0)}])
def test_bad_settings_are_refused(settings: dict) -> None:
    """Each bad setting is one line."""
    with pytest.raises(UserError):
        ProjectionSettings(**settings)


def test_a_rotated_svd_keeps_the_top_directions_and_spreads_them(llm: LLM) -> None:
    """Its decoded table is the best rank-d one, 99 % of latents are inside the clip, and d = b loses nothing."""
    table = llm.embedding
    found = rotated_svd(table, 8, np.random.default_rng(0))
    u, s, vt = np.linalg.svd(table, full_matrices=False)
    np.testing.assert_allclose(table @ found.encoder.T @ found.decoder.T, (u[:, :8] * s[:8]) @ vt[:8], atol=1e-5)
    assert np.mean(np.abs(table @ found.encoder.T) <= found.clip) == pytest.approx(0.99, abs=0.002)
    whole = rotated_svd(table, 32, np.random.default_rng(0))
    np.testing.assert_allclose(table @ whole.encoder.T @ whole.decoder.T, table, atol=1e-5)
    with pytest.raises(UserError, match="between 1 and"):
        rotated_svd(table, 33, np.random.default_rng(0))

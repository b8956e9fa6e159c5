"""The latent table: its codes cannot leave the clip, its id names it, and a damaged bundle is refused."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from defenses.base import Projection
from defenses.errors import UserError
from defenses.pipeline.latents import ClientBundle, LatentTable
from defenses.pipeline.mechanism import Quantizer
from defenses.randomness import seeded_rng


def make_table(vocabulary: int = 40, d: int = 6, clip: float = 0.05, seed: int = 0) -> LatentTable:
    """A table of random codes."""
    return LatentTable(seeded_rng(seed).integers(-127, 128, (vocabulary, d)).astype(np.int8), clip)


def make_projection(b: int = 16, d: int = 6, clip: float = 0.05) -> tuple[Projection, np.ndarray]:
    """A random projection and embedding table whose latents often leave the clip."""
    rng = seeded_rng(1)
    encoder = rng.normal(size=(d, b)).astype(np.float32)
    return Projection(encoder, encoder.T.copy(), clip), rng.normal(0, 0.01, (50, b)).astype(np.float32)


def test_latents_are_the_projections_to_half_a_level() -> None:
    """Folding the encoder in changes no latent by more than half of a 127th of c, and keeps clipped ones at c."""
    projection, embedding = make_projection()
    table = LatentTable.from_projection(projection, embedding)
    exact = projection.latents(embedding)
    coded = table.latents(np.arange(50))
    assert (np.abs(exact) >= 0.0499).any()
    assert np.abs(coded - exact).max() <= 0.05 / 127 / 2 * (1 + 1e-5)
    assert np.array_equal(np.abs(coded) == np.float32(0.05), np.abs(table.codes) == 127)


@pytest.mark.parametrize("clip", [0.05, 0.1, 1.0, 3.1415926, 1e-6, 777.7])
def test_no_code_names_a_latent_outside_the_clip(clip: float) -> None:
    """Whatever the table and the clip, the reference sampler accepts every latent: |v| <= c exactly."""
    table = LatentTable(np.arange(-127, 128, dtype=np.int8).reshape(-1, 1), clip)
    latents = table.latents(np.arange(255))
    quantizer = Quantizer(n=4, d=1, clip=clip, a_over_c=1.5)
    assert np.abs(latents).max() == quantizer.clip == table.clip
    assert quantizer.sample(latents, seeded_rng(0)).shape == (255, 1)


def test_the_id_names_codes_width_and_clip() -> None:
    """Any change of codes, d or c changes the id; the same content has the same id."""
    table = make_table()
    changed = table.codes.copy()
    changed[3, 2] = -changed[3, 2] if changed[3, 2] else 1
    assert len(table.projection_id) == 16
    assert make_table().projection_id == table.projection_id
    others = [LatentTable(changed, 0.05), LatentTable(table.codes, 0.06), LatentTable(table.codes.reshape(60, 4), 0.05)]
    assert len({table.projection_id, *(other.projection_id for other in others)}) == 4


def test_a_table_cannot_be_changed() -> None:
    """The id would no longer name it."""
    codes = np.zeros((2, 2), dtype=np.int8)
    table = LatentTable(codes, 1.0)
    codes[0, 0] = 5
    assert table.codes[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        table.codes[0, 0] = 5


@pytest.mark.parametrize("codes", [np.full((2, 2), -128, np.int8), np.zeros((2, 2), np.uint8), np.zeros(4, np.int8)])
def test_wrong_codes_are_refused(codes: np.ndarray) -> None:
    """Code -128 would be a latent outside [-c, c]; other types and shapes are no table."""
    with pytest.raises(ValueError, match="code"):
        LatentTable(codes, 1.0)


@pytest.mark.parametrize("token", [-1, 40])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    """A negative id must not wrap round to another token's row."""
    with pytest.raises(ValueError, match="vocabulary"):
        make_table().rows(np.array([0, token]))


def test_an_embedding_that_is_no_number_is_refused() -> None:
    """NaN has no code."""
    projection, embedding = make_projection()
    embedding[0, 0] = np.nan
    with pytest.raises(ValueError, match="not a number"):
        LatentTable.from_projection(projection, embedding)


def test_a_bundle_comes_back_from_disk(tmp_path: Path) -> None:
    """Save and load give the same table and tokenizer, and leave no temporary file."""
    bundle = ClientBundle(make_table(), '{"model": "é"}')
    path = tmp_path / "deeper" / "bundle.safetensors"
    bundle.save(path)
    back = ClientBundle.load(path)
    assert back.table.projection_id == bundle.table.projection_id
    assert np.array_equal(back.table.codes, bundle.table.codes)
    assert back.table.clip == bundle.table.clip
    assert back.tokenizer_json == bundle.tokenizer_json
    assert [file.name for file in path.parent.iterdir()] == ["bundle.safetensors"]


def test_every_damaged_byte_is_noticed() -> None:
    """Any byte of the content changed, at every offset of a small bundle, is an error or changes nothing."""
    bundle = ClientBundle(make_table(vocabulary=4, d=3), "tokenizer")
    data = bundle.to_bytes()
    refused = 0
    for offset in range(len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 1
        try:
            back = ClientBundle.from_bytes(bytes(damaged))
        except UserError:
            refused += 1
        else:
            assert back.table.projection_id == bundle.table.projection_id
            assert back.tokenizer_json == bundle.tokenizer_json
    # Only the human-readable metadata may change unnoticed.
    assert refused > 0.6 * len(data)


@pytest.mark.parametrize("data", [b"", b"not a bundle", b"\xff" * 100])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    """A file that is no bundle gives one line that names it."""
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"other\.safetensors"):
        ClientBundle.load(path)


def test_other_tensors_are_refused() -> None:
    """A safetensors file without the bundle's tensors is no bundle."""
    with pytest.raises(UserError, match="not a client bundle"):
        ClientBundle.from_bytes(safetensors_numpy.save({"weight": np.zeros(3, np.float32)}))


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    """The error names the path."""
    with pytest.raises(UserError, match=r"none: cannot be read as a client bundle"):
        ClientBundle.load(tmp_path / "none")

"""Small programs that parties in separate processes can import: what views are recorded of, and what commands show."""

from typing import Any

import jax
import jax.numpy as jnp


def linear(x: Any, weights: Any) -> Any:
    """A linear map of secret vectors, (T, b) by (b, h): one product and no comparison."""
    return x @ weights


def attention(x: Any, weights: Any) -> Any:
    """One head of attention with everything that is dear under encryption, (T, b) by (b, b): (T, b).

    Products of secrets, exponentials, comparisons and a division.
    """
    keys = x @ weights
    scores = jax.nn.softmax(x @ keys.T / jnp.sqrt(x.shape[-1]), axis=-1)
    return scores @ keys

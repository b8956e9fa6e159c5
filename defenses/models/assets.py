"""What everybody knows about a public model, put together for defences and adversaries."""

import numpy as np
from numpy.typing import NDArray

from defenses.base import Assets, Projection
from defenses.models.hidden import hidden_states
from defenses.models.llm import LLM


def public_assets(llm: LLM, projection: Projection | None, counts: NDArray[np.int64] | None) -> Assets:
    """Assets of a loaded model.

    Args:
        llm: The frozen model.
        projection: A projection trained for it, or None.
        counts: How often each token occurs in public text, (V,); half a count is added to each (Krichevsky and
            Trofimov 1981), so that no token is impossible. None where there is no such text.
    """
    frequencies = None
    if counts is not None:
        smoothed = counts + 0.5
        frequencies = np.asarray(smoothed / smoothed.sum())
    return Assets(
        llm.embedding,
        projection,
        llm.name,
        hidden_states(llm),
        lambda token: str(llm.tokenizer.decode([token])),
        frequencies,
    )

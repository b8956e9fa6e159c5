"""The whole comparison of encrypted generation: engines, models and costs, as the rows of one record."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audit.crypto_costs import CostPlan, Meter, Row, cost_rows
from audit.crypto_models import agreement_text, load_models, model_row, text_windows
from audit.crypto_record import ENGINES
from defenses.crypto.engines.spu import SpuEngine

WINDOW, WINDOWS = 64, 8
"""Tokens of a window that is run through a model and its twin, at most; and windows at least: they are the clusters."""


def study(
    plan: CostPlan,
    *,
    engines: Sequence[str],
    ring: int,
    text: str,
    positions: int,
    store: Path | None,
    seed: int,
    work: Path,
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Measure every system on every engine.

    Args:
        plan: Lengths and repeats.
        engines: SPU protocols.
        ring: Bits of a share.
        text: For the agreement of encrypted models with their twins, as `agreement_text` takes it.
        positions: At least how many positions of it.
        store: Folder of trained models; None takes what is shipped.
        seed: Of the embedded text.
        work: Folder in which finished measurements are kept.

    Returns:
        Rows, and what a record says of the text.

    Raises:
        UserError: the extra, a model or the text is missing, or an engine fails.
    """
    models = load_models(store)
    data = agreement_text(text, seed)
    length = min(WINDOW, models[0].config.context, max(1, positions // WINDOWS))
    windows = text_windows(models[0], data, positions, length)
    rows: list[Row] = []
    for protocol in dict.fromkeys(engines):
        engine = SpuEngine(protocol, ring=ring)
        rows.append(_engine_row(engine))
        rows += [model_row(engine, model, windows, work) for model in models]
        rows += cost_rows(Meter(engine, work), plan, models[0].config)
    return rows, [{"name": data.name, "sha256": data.sha256, "documents": len(data.documents)}]


def _engine_row(engine: SpuEngine) -> Row:
    return {
        "table": ENGINES, "engine": engine.name, "parties": engine.parties, "guarantee": engine.guarantee,
        "precision": engine.precision, **asdict(engine.settings),
        "set_up_seconds": engine.set_up.seconds, "set_up_bytes": engine.set_up.bytes,
    }  # fmt: skip

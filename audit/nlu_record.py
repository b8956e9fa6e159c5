"""The record of understanding behind a defence: one flat row an arm, every figure with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from audit.curves import condition
from audit.nlu import CLEAN, LENGTHS, NluBench
from audit.nlu_statistics import Row
from audit.provenance import Provenance
from audit.records import RunRecord, new_record

KIND = "nlu"


def nlu_record(
    rows: Sequence[Row],
    config: Mapping[str, Any],
    bench: NluBench,
    public: Sequence[Mapping[str, Any]] = (),
    provenance: Provenance | None = None,
) -> RunRecord:
    """The record of a run.

    Args:
        rows: Of `nlu_row`, the clean arm first.
        config: The command's options.
        bench: What was measured on.
        public: Facts of the public text that denoisers and soft prompts trained on.
        provenance: None looks at this process.
    """
    settings = asdict(bench.settings)
    data = [*bench.task.facts, *public]
    facts = {**config, "settings": settings}
    return new_record(KIND, config=facts, seed=bench.settings.seed, rows=rows, data=data, provenance=provenance)


def told(record: RunRecord) -> str:
    """One line for each arm, as the command prints them."""
    names = [str(row["arm"]) if row["arm"] in {CLEAN, LENGTHS} else condition(row) for row in record.rows]
    wide = max(len(name) for name in names)
    lines = [f"{'defence':<{wide}} {'arm':<22} {'accuracy':<22} {'AUC':<22} {'AUC lost':<24} MSE"]
    for name, row in zip(names, record.rows, strict=True):
        figures = [f"{row[key]:.3f} [{row[f'{key}_low']:.3f}, {row[f'{key}_high']:.3f}]"
                   for key in ("accuracy", "auc", "auc_lost")]  # fmt: skip
        error = "-" if row.get("read_mse") is None else f"{row['read_mse']:.3g}"
        lines.append(f"{name:<{wide}} {row['arm']:<22} {figures[0]:<22} {figures[1]:<22} {figures[2]:<24} {error}")
    first = record.rows[0]
    lines.append(f"{first['task']}: {first['examples']} examples, commonest class {first['majority_accuracy']:.3f}")
    return "\n".join(lines)

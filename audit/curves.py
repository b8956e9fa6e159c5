"""The rows of a record as utility-privacy curves: what is a parameter, what a figure, which rows belong together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

# Numbers that say what was run; every other number in a row is a figure. Texts and switches are parameters too.
PARAMETERS = frozenset({
    "n", "d", "b", "mu", "a_over_c", "clip", "seed", "tokens", "delta", "temperature", "epsilon_target", "asr_target",
    "prompts", "vectors", "resamples", "level", "repeat", "kappa", "windows", "documents", "attack_tokens",
    "attack_documents", "attack_seeds",
    "calibration_tokens", "target_asr", "goal", "blind", "alpha", "confidence", "power_target", "samples",
})  # fmt: skip
PARAMETER_PREFIX = "parameter_"  # a defence's own parameter in the row of an audit: "parameter_scale"
# Rows that agree in these lie on one curve; along it the noise moves.
CURVE = ("defence", "n", "d", "projection", "model", "soft_prompt", "mode", "contender")
NAMED = ("n", "mu", "a_over_c")  # columns that a row's name shows by themselves
STANDARD_NAMES = {f"epsilon_{kind}_token": f"epsilon_{kind}" for kind in ("exact", "gdp", "pure")}
BOUNDS = ("_low", "_high")


def is_number(value: object) -> bool:
    """True for a float or an int, and not for a switch."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def parameters(row: Row) -> dict[str, Any]:
    """The part of a row that says what was run; what is null was not set."""
    return {
        key: value for key, value in row.items() if value is not None and (_is_parameter(key) or not is_number(value))
    }


def metrics(row: Row) -> dict[str, float]:
    """The measured part of a row, under the standard metric names."""
    return {
        STANDARD_NAMES.get(key, key): float(value)
        for key, value in row.items()
        if not _is_parameter(key) and is_number(value)
    }


def condition(row: Row) -> str:
    """A short name for a row: the claim that an audit tested, else "del d128-plain n=4 mu=60".

    Controls with a soft prompt say so. Contenders have names of their own.
    """
    if row.get("verdict") is not None and row.get("claim"):
        return str(row["claim"])
    if row.get("contender") is not None:
        return f"{row['contender']} at {row['mode']} {_text(row.get('level'))}"
    parts = [str(row[key]) for key in ("defence", "projection") if row.get(key)] or ["run"]
    parts += [f"{key}={row[key]:g}" for key in ("n", "mu") if is_number(row.get(key))]
    if row.get("mu") is None and is_number(row.get("a_over_c")):
        parts.append(f"A/c={row['a_over_c']:g}")
    if row.get("settings"):
        parts.append(str(row["settings"]))
    if row.get("prompt_name") and not is_number(row.get("epsilon_exact_token")):
        parts.append("with a soft prompt")
    return " ".join(parts)


def other_settings(parameters: Mapping[str, Any]) -> str | None:
    """Parameters that stand in a row's name: "epsilon=5 on=embedding", numbers to six digits; None without any."""
    others = [
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in parameters.items() if key not in NAMED
    ]  # fmt: skip
    return " ".join(others) or None


def curves(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows with an exact epsilon, grouped into curves, each in the order of its epsilon.

    A curve's name is its defence and whichever parameters tell it from the other curves. In a comparison it is its
    contender and its mode, and along it the level rises; contenders without any epsilon have curves, too.
    """
    groups: dict[tuple[str | None, ...], list[Row]] = {}
    for row in rows:
        if _place(row) is not None:
            groups.setdefault(tuple(_text(row.get(key)) for key in CURVE), []).append(row)
    telling = [i for i in range(1, len(CURVE)) if len({group[i] for group in groups}) > 1]
    return {
        _name(group, telling): sorted(members, key=lambda row: _place(row) or 0.0) for group, members in groups.items()
    }


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows as columns; a key that a row lacks is null there."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return {key: [row.get(key) for row in rows] for key in keys}


def _place(row: Row) -> float | None:
    """Where a row stands on its curve; None where it stands on none."""
    if row.get("contender") is not None and row.get("parameter_value") is None:
        return None  # its level could not be reached
    place = row.get("epsilon_exact_token") if row.get("contender") is None else row.get("level")
    return float(place) if place is not None and is_number(place) else None


def _is_parameter(key: str) -> bool:
    return key in PARAMETERS or key.startswith(PARAMETER_PREFIX)


def _name(group: Sequence[str | None], telling: Sequence[int]) -> str:
    if group[-1] is not None:
        return f"{group[-1]}, {group[-2]}"
    told = {CURVE[i]: group[i] for i in telling if group[i] is not None}
    projection = told.pop("projection", None)
    if projection is not None:
        told.pop("d", None)  # the projection's name fixes its width
    title = " ".join(part for part in (group[0] or "run", projection) if part)
    return ", ".join([title, *(f"{key}={value}" for key, value in told.items())])


def _text(value: object) -> str | None:
    return None if value is None else f"{value:g}" if is_number(value) else str(value)

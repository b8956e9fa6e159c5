"""Model folders that somebody else wrote: what is looked at before a library may read one.

Weights are read from safetensors alone. A pickle runs what its writer wished, and torch's `weights_only` is a list of
exceptions to that; so no .bin file is read even where a library would. No code of a model's own is run either
(`trust_remote_code` is false). A hub id goes through the same libraries with the same refusals.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from defenses.errors import UserError
from defenses.untrusted import MIB, json_value, read_limited, reason, shown

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
_SETTINGS = 16 * MIB
_ROOM = 8  # numbers that a model may have per byte of its weights: 2 at four bits each, and room for shared ones
_LAYERS = "sentence_transformers."


def check_folder(name: str, option: str) -> None:
    """See that a model's folder can be read without running anything; a hub id is left to the libraries.

    Args:
        name: The model as the user named it.
        option: The option that named it, for the line that says what is wrong.

    Raises:
        UserError: its weights are pickles or missing, it points out of itself, or names what would be run.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        where = f"{option} {folder}"
        try:
            _check(folder, where)
        except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
            raise UserError(f"{where}: {reason(error, 200)}: get the model again") from error


def _check(folder: Path, where: str) -> None:
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{where}: is an adapter, which names another model to load: merge the two and name the result")
    weights = _weights(folder, where)
    config = _settings(folder / "config.json", where) if (folder / "config.json").exists() else {}
    kernel = config.get("attn_implementation", config.get("_attn_implementation"))
    if isinstance(kernel, str) and "/" in kernel:
        raise UserError(f"{where}: config.json names code to fetch ({shown(kernel)}): remove attn_implementation")
    _check_sizes(config, sum(one.stat().st_size for one in weights), where)
    if (folder / "modules.json").exists():
        _check_modules(folder, where)


@contextmanager
def foreign(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises about a file into one line: their parsers promise no kind of error.

    Args:
        what: What is read, as in "--model FOLDER".
        remedy: What a person can do.

    Raises:
        UserError: the library raised something.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: cannot be loaded ({reason(error, 200)}); {remedy}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust: no Exception, and has no class to import
            raise
        raise UserError(f"{what}: cannot be loaded ({reason(error, 200)}); {remedy}") from error


def _weights(folder: Path, where: str) -> list[Path]:
    """The safetensors files of a folder's own model."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = _settings(index, where).get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) and _texts(shards.values()) else {""}
        if strange := sorted(one for one in names if "/" in one or "\\" in one or not one.endswith(".safetensors")):
            raise UserError(
                f"{where}: {index.name} names {shown(repr(strange[0]))}: weights are .safetensors beside it"
            )
        found = [folder / one for one in sorted(names)]
    else:
        found = sorted(folder.glob("*.safetensors"))
    if missing := [one.name for one in found if not one.is_file()]:
        raise UserError(f"{where}: {shown(missing[0])} is not there, or is no file: get the model again")
    if not found:
        pickles = sorted(one.name for one in folder.iterdir() if one.suffix in PICKLES)
        there = (
            f"{shown(pickles[0])} is a pickle, which may run anything" if pickles else "there is no .safetensors file"
        )
        raise UserError(f"{where}: {there}; give a model whose weights are .safetensors")
    return found


def _settings(file: Path, where: str) -> dict[str, Any]:
    try:
        found = json_value(read_limited(file, _SETTINGS, "model's settings"))
    except ValueError as error:
        raise UserError(f"{where}: {file.name} is no JSON ({shown(error)}): get the model again") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: {file.name} is no JSON object: get the model again")
    return found


def _check_sizes(config: dict[str, Any], bytes_: int, where: str) -> None:
    """See that settings promise no more numbers than the weights hold: what is missing a library would make."""
    hidden = next((config[name] for name in ("hidden_size", "n_embd") if config.get(name) is not None), 1)
    for name in ("hidden_size", "n_embd", "vocab_size", "intermediate_size", "num_hidden_layers", "n_layer", "n_inner"):
        count = config.get(name)
        if count is not None and (type(count) is not int or count < 0):
            raise UserError(f"{where}: config.json: {name} is {shown(repr(count))}, and should be a count")
        if count is not None and count * hidden > _ROOM * bytes_:
            raise UserError(
                f"{where}: config.json promises {name} = {shown(count)}, and the weights have {bytes_} bytes: they do "
                "not belong together; get the model again"
            )


def _check_modules(folder: Path, where: str) -> None:
    """See that a sentence encoder is made of its library's own parts, which lie inside its folder."""
    try:
        parts = json_value(read_limited(folder / "modules.json", _SETTINGS, "list of modules"))
    except ValueError as error:
        raise UserError(f"{where}: modules.json is no JSON ({shown(error)}): get the encoder again") from error
    if not isinstance(parts, list) or not all(isinstance(one, dict) for one in parts):
        raise UserError(f"{where}: modules.json is no list of modules: get the encoder again")
    for one in parts:
        kind, place = one.get("type"), one.get("path")
        if not isinstance(kind, str) or not kind.startswith(_LAYERS) or not kind.rpartition(".")[2][:1].isupper():
            raise UserError(
                f"{where}: modules.json names {shown(repr(kind))}, which is no {_LAYERS}* class: not loaded"
            )
        if not isinstance(place, str) or PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
            raise UserError(f"{where}: modules.json names the folder {shown(repr(place))}, outside of the encoder")
        if (
            any(file.suffix in PICKLES for file in (folder / place).glob("*"))
            and not (folder / place / "model.safetensors").exists()
        ):
            raise UserError(f"{where}: the weights in {shown(place)} are a pickle; they must be model.safetensors")


def _texts(values: Any) -> bool:
    return all(isinstance(one, str) for one in values)

"""Attack plug-ins as experiments name them: "map", or with options "resend:sends=16"."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from attacks.base import Attack, Knowledge, Tools, attacks
from defenses.base import Defense
from defenses.errors import UserError
from defenses.registry import pick

QUICK = ("prior", "cosine", "latent-l2", "latent-ml", "map", "hmm", "resend")
"""Token attacks that read thousands of tokens in seconds."""


@dataclass(frozen=True, eq=False)
class Adversary:
    """An attack plug-in with its options, before it meets a defence.

    Attributes:
        plugin: The class.
        options: Its parameters.
        text: As it was named.
    """

    plugin: type[Attack]
    options: Any
    text: str

    def against(self, defense: Defense[Any], tools: Tools) -> Attack:
        """The attack on one configured defence.

        Raises:
            Unavailable: the defence lacks something that the attack needs.
        """
        return self.plugin(defense, self.options, tools)


def adversary(text: str, target: str = "tokens") -> Adversary:
    """Read "NAME" or "NAME:KEY=VALUE,KEY=VALUE".

    Args:
        text: As written by a person.
        target: What it must guess.

    Raises:
        UserError: there is no such attack or option, a value is wrong, or it guesses something else.
    """
    name, _, rest = text.partition(":")
    plugin: type[Attack] = pick(attacks(), name.strip(), "attack")
    if plugin.target != target:
        raise UserError(f"the attack {name} guesses {plugin.target}, not {target}: name another one")
    known = {field.name for field in fields(plugin.Options)}
    given: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, separator, value = part.partition("=")
        if not separator or key.strip() not in known:
            choice = f"its options: {', '.join(sorted(known))}" if known else "it has no options"
            raise UserError(f"the attack {text}: write {name}:KEY=VALUE; {choice}")
        given[key.strip()] = value.strip()
    try:
        options: Any = TypeAdapter(plugin.Options).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"the attack {text}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return Adversary(plugin, options, text)


def token_adversaries(names: Iterable[str]) -> list[Adversary]:
    """Several at once; "quick" stands for all quick ones and "all" for every token attack that is installed.

    Raises:
        UserError: as for `adversary`.
    """
    found: dict[str, Adversary] = {}
    for name in names:
        every = [key for key, plugin in attacks().items() if plugin.target == "tokens"] if name == "all" else [name]
        for text in QUICK if name == "quick" else every:
            found.setdefault(text, adversary(text))
    return list(found.values())


def told(knowledge: Knowledge) -> str:
    """What an adversary knew, in words."""
    words = {
        "mechanism": "mechanism", "projection": "projection", "decoder": "decoder", "embedding": "embedding table",
        "prior_corpus": "public text", "language_model": "language model",
    }  # fmt: skip
    parts = [word for key, word in words.items() if getattr(knowledge, key)]
    sends = "one message" if knowledge.sends == 1 else f"{knowledge.sends} messages of each prompt"
    return f"{', '.join(parts) or 'nothing'}; {sends}"

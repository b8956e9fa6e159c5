"""Every system of encrypted generation, by name."""

from defenses.crypto import merge, mpcformer, pcft, vanilla
from defenses.crypto.system import System
from defenses.errors import UserError

SYSTEMS: dict[str, System] = {
    system.name: system
    for module in (vanilla, mpcformer, pcft, merge)
    for system in module.SYSTEMS
}  # fmt: skip
"""The reference first, then the others in the order of their papers."""

REFERENCE = "vanilla"


def find_system(name: str) -> System:
    """The system of that name.

    Raises:
        UserError: there is none.
    """
    if name not in SYSTEMS:
        raise UserError(f"there is no system {name!r}: choose one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]

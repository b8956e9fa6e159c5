"""Which SPU protocol runs, with which numbers, and what it guarantees to whom."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from defenses.crypto.extra import needed
from defenses.errors import UserError

ProtocolName = Literal["semi2k", "cheetah", "aby3"]
Exponential = Literal["default", "pade", "taylor", "prime"]
Logarithm = Literal["default", "pade", "newton", "minmax"]

PARTIES = {"semi2k": 2, "cheetah": 2, "aby3": 3}

GUARANTEES = {
    "semi2k": (
        "computational, against the second party of two, honest but curious; NONE against the first party, which deals "
        "the multiplication triples from seeds that it is sent and can compute every secret"
    ),
    "cheetah": "computational, against either one of two parties, honest but curious; no dealer",
    "aby3": "computational, against any one of three parties, honest but curious, where no two collude",
}
"""What each protocol promises as SPU 0.9.5 runs it.

SEMI2K takes its multiplication triples from a dealer. The released package holds one kind: the first party
("TrustedFirstParty"; in SPU's own source the class is called BeaverTfpUnsafe). Its "MultiParty" is refused when it
starts, and "TrustedThirdParty" needs a server that the package lacks. So the owner of the secrets must be the first
party, and the second party's own secrets, such as a model's weights, are not protected from it.
"""

_FRACTION_BITS = {64: 18, 128: 26}  # SPU's own defaults


@dataclass(frozen=True)
class SpuSettings:
    """What all parties must agree on.

    Attributes:
        protocol: "semi2k" (two parties; Cramer et al. 2018 without its defence against active cheating), "cheetah"
            (two parties; Huang et al. 2022) or "aby3" (three parties; Mohassel and Rindal 2018).
        ring: 64 or 128: numbers are integers modulo 2^ring.
        fraction_bits: f of the fixed-point format: x is held as x 2^f. 0 takes SPU's default, 18 or 26, and the
            default becomes 0: equal settings compare equal and have one name.
        exponential: How exp is approximated.
        logarithm: How log is approximated.

    Raises:
        UserError: a value is out of range.
    """

    protocol: ProtocolName = "semi2k"
    ring: int = 64
    fraction_bits: int = 0
    exponential: Exponential = "default"
    logarithm: Logarithm = "default"

    def __post_init__(self) -> None:
        allowed = {
            "protocol": get_args(ProtocolName), "ring": tuple(_FRACTION_BITS),
            "exponential": get_args(Exponential), "logarithm": get_args(Logarithm),
        }  # fmt: skip
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                listed = ", ".join(map(str, values))
                raise UserError(f"SPU's {name} must be one of {listed}, not {getattr(self, name)!r}")
        if type(self.fraction_bits) is not int or not 0 <= self.fraction_bits <= self.ring // 2:
            raise UserError(
                f"SPU's fraction_bits must be a whole number from 0 (the default) to {self.ring // 2}, not "
                f"{self.fraction_bits!r}: a product needs twice as many bits"
            )
        if self.fraction_bits == _FRACTION_BITS[self.ring]:
            object.__setattr__(self, "fraction_bits", 0)

    @property
    def parties(self) -> int:
        """How many parties compute."""
        return PARTIES[self.protocol]

    @property
    def fraction(self) -> int:
        """The f that is used."""
        return self.fraction_bits or _FRACTION_BITS[self.ring]

    @property
    def name(self) -> str:
        """How records call it, for example "spu-semi2k-2pc"; what is not the default is added."""
        plain = type(self)(protocol=self.protocol)
        changed = [
            f"-{key}{getattr(self, key)}"
            for key in ("ring", "fraction_bits", "exponential", "logarithm")
            if getattr(self, key) != getattr(plain, key)
        ]
        return f"spu-{self.protocol}-{self.parties}pc{''.join(changed)}"

    @property
    def guarantee(self) -> str:
        """What is promised to whom."""
        return GUARANTEES[self.protocol]

    @property
    def precision(self) -> float:
        """Largest absolute error of one product of numbers below 1 in absolute value.

        Each factor is cut to f bits when it is shared, which costs a product at most one unit of 2^-f each; cutting the
        product back to f bits costs one more, and under CHEETAH, whose truncation may be one too low, two. The last
        term is the rounding of the revealed number to float32.
        """
        return (4.0 if self.protocol == "cheetah" else 3.0) * 2.0**-self.fraction + 2.0**-25


def runtime_config(settings: SpuSettings) -> Any:
    """The same as SPU's RuntimeConfig, without profiling.

    Raises:
        UserError: SPU is not installed.
    """
    libspu = needed("spu.libspu")
    config = libspu.RuntimeConfig(
        protocol=getattr(libspu.ProtocolKind, settings.protocol.upper()),
        field=getattr(libspu.FieldType, f"FM{settings.ring}"),
        fxp_fraction_bits=settings.fraction,
    )
    modes = libspu.RuntimeConfig
    config.fxp_exp_mode = getattr(modes.ExpMode, f"EXP_{settings.exponential.upper()}")
    config.fxp_log_mode = getattr(modes.LogMode, f"LOG_{settings.logarithm.upper()}")
    return config

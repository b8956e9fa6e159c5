"""The least noise that keeps (epsilon, delta), for profiles without a closed form of it."""

import math
import sys
from collections.abc import Callable

from defenses.errors import UserError
from defenses.privacy.profile import PrivacyProfile

_EXACT = 1e-9  # relative, of the parameter that is found
_STEPS = 200  # of e^0.5 each
_FLAT, _FLOOR = 1e-3, math.log(1e-6)  # log delta that falls by less, below the latter, is all rounding


def greatest_within(curve: Callable[[float], PrivacyProfile], epsilon: float, delta: float, start: float) -> float:
    """The greatest x at which curve(x) is (epsilon, delta)-DP, to a relative 1e-9 and from below.

    Args:
        curve: Parameter -> profile; its delta at a fixed epsilon rises with x, from delta's floor to 1.
        epsilon: Finite and above 0.
        delta: Strictly between 0 and 1.
        start: Where the search starts, above 0.

    Raises:
        UserError: no x keeps it: a numerical profile does not reach so small a delta.
    """
    from scipy.optimize import brentq  # noqa: PLC0415 - a client with its noise given runs without scipy's optimizer

    def surplus(log_x: float) -> float:
        return math.log(max(curve(math.exp(log_x)).delta(epsilon), sys.float_info.min)) - math.log(delta)

    low = high = math.log(start)
    current = surplus(low)
    while current > 0:
        low, high, last = low - 0.5, low, current
        current = surplus(low)
        if current > max(0.0, last - _FLAT) and current + math.log(delta) < _FLOOR:
            raise UserError(f"delta = {delta:g} is below what the accountant resolves: ask for a larger one")
    for _ in range(_STEPS):
        if high > low and surplus(high) > 0:
            break
        low, high = max(low, high), high + 0.5
    else:
        raise UserError(f"({epsilon:g}, {delta:g}) is met by any noise: ask for a smaller epsilon or delta")
    root = float(brentq(surplus, low, high, xtol=_EXACT, rtol=1e-14))
    step = _EXACT
    while surplus(root) > 0:  # the root finder may stop on the wrong side; the guarantee may not
        root, step = root - step, 2 * step
    return math.exp(root)

"""Where a rising function of a positive parameter passes a goal: on a log scale, by bisection or by Brent's method.

Bisection halves the same range in the same way whatever the goal, so that several goals share their first steps and a
search that is run again repeats them: what is costly to evaluate is worth remembering.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.optimize import brentq

Function = Callable[[float], float]

_FAR = 60.0  # of the logarithm of value over goal: beyond, only the sign is told
_INWARD = 1e-9  # what counts as equal, and the step to the side that keeps the goal; both relative


@dataclass(frozen=True)
class Crossing:
    """A search's result.

    Attributes:
        place: The parameter; None where the goal is out of reach.
        value: The function there; None with it.
        least: The function at the lower end of the range.
        most: The function at the upper end.
    """

    place: float | None
    value: float | None
    least: float
    most: float


def bisect(function: Function, goal: float, bounds: tuple[float, float], *, steps: int, tolerance: float) -> Crossing:
    """Halve log(parameter) until the function is within `tolerance` of the goal, or `steps` times.

    Args:
        function: Rising, up to the noise of a measurement.
        goal: Its value that is looked for; out of reach unless it lies between the values at both ends, or within
            `tolerance` of one of them.
        bounds: The parameter's range, both ends above 0.
        steps: At most so many, besides the two ends.
        tolerance: How near the goal is near enough, at least 0.

    Returns:
        The evaluated parameter whose value is nearest to the goal.
    """
    low, high = (math.log(end) for end in bounds)
    least, most = function(bounds[0]), function(bounds[1])
    known = [(abs(least - goal), bounds[0], least), (abs(most - goal), bounds[1], most)]
    if not least - tolerance <= goal <= most + tolerance:
        return Crossing(None, None, least, most)
    for _ in range(steps):
        if min(known)[0] <= tolerance:
            break
        middle = (low + high) / 2
        value = function(math.exp(middle))
        known.append((abs(value - goal), math.exp(middle), value))
        low, high = (middle, high) if value < goal else (low, middle)
    _, place, value = min(known)
    return Crossing(place, value, least, most)


def crossing(function: Function, goal: float, bounds: tuple[float, float]) -> Crossing:
    """The parameter at which an exact, rising function has the value `goal` > 0, to a relative 1e-9.

    Where the function jumps over the goal, the side is taken that is not above it. Infinity counts as far above.
    """
    values: dict[float, float] = {}

    def at(place: float) -> float:
        if place not in values:
            values[place] = function(place)
        return values[place]

    def surplus(log_place: float) -> float:
        value = at(math.exp(log_place))
        return -_FAR if value <= 0 else min(_FAR, math.log(value) - math.log(goal))

    low, high = (math.log(end) for end in bounds)
    least, most = at(math.exp(low)), at(math.exp(high))
    if not least <= goal <= most:
        return Crossing(None, None, least, most)
    place = math.exp(float(brentq(surplus, low, high, xtol=1e-10, rtol=1e-12)))
    if at(place) > goal * (1 + _INWARD) and at(place * (1 - _INWARD)) <= goal:
        place *= 1 - _INWARD
    return Crossing(place, at(place), least, most)

"""What a service accepts: sizes, rates and times, and the buckets that rates are counted in.

A bucket is the generic cell rate algorithm (ITU-T I.371): one number for each client, the time at which its debt is
paid off. It has no queue, no timer and no history, so its memory is bounded by the number of clients that it keeps.
"""

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]

_MOST_CLIENTS = 4096


@dataclass(frozen=True)
class ServiceLimits:
    """What a service accepts. A rate of 0 is no limit; a rate's burst is what it allows in one minute.

    Attributes:
        max_tokens: The longest prompt in tokens.
        max_body: The longest message in bytes.
        max_new_tokens: The longest answer in tokens.
        max_queue: Requests that may wait while one is generated.
        max_connections: Open connections that are answered; half as many more are told that there are too many.
        requests_per_minute: Generations, and downloads of the bundle, for each client.
        tokens_per_minute: Prompt tokens for each client.
        failures_per_minute: Wrong or missing API tokens from each address.
        head_seconds: From the connection, or the first byte of a further request, to the end of the request's head.
        body_seconds: For a request's whole body.
        queue_seconds: The longest wait in line.
        generate_seconds: For one whole answer, once it is its turn.
        write_seconds: How long a peer may leave a full buffer unread.
        keep_alive_seconds: For an idle connection between two requests.
        grace_seconds: From the signal to stop until answers in progress are broken off.

    Raises:
        ValueError: where a limit is negative, or zero where that would refuse everything.
    """

    max_tokens: int = 1024
    max_body: int = 1 << 20
    max_new_tokens: int = 256
    max_queue: int = 128
    max_connections: int = 256
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    failures_per_minute: float = 0.0
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    queue_seconds: float = 100.0
    generate_seconds: float = 300.0
    write_seconds: float = 30.0
    keep_alive_seconds: float = 15.0
    grace_seconds: float = 30.0

    def __post_init__(self) -> None:
        may_be_zero = {"max_queue", "requests_per_minute", "tokens_per_minute", "failures_per_minute", "grace_seconds"}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (value > 0 or (value == 0 and field.name in may_be_zero)):
                raise ValueError(f"{field.name} must be positive, not {value}")


class RateLimiter:
    """So many units a minute for each key, in bursts of at most one minute's worth.

    The keys that were used last are kept. A forgotten key starts anew with a full burst.
    """

    def __init__(self, per_minute: float, *, burst: float = 0.0, clock: Clock = time.monotonic) -> None:
        self._seconds_a_unit = 60.0 / per_minute if per_minute else 0.0
        self._depth = max(60.0, burst * self._seconds_a_unit)
        self._clock = clock
        self._paid_off: OrderedDict[str, float] = OrderedDict()

    def wait_for(self, key: str, units: float = 1.0) -> float:
        """Seconds until `key` may spend that many units; 0 where it may now. Nothing is spent."""
        if not self._seconds_a_unit:
            return 0.0
        now = self._clock()
        return max(0.0, max(self._paid_off.get(key, now), now) + units * self._seconds_a_unit - self._depth - now)

    def spend(self, key: str, units: float = 1.0) -> float:
        """Spend the units where `key` may; else spend nothing and return the seconds to wait."""
        wait = self.wait_for(key, units)
        if self._seconds_a_unit and not wait:
            now = self._clock()
            self._paid_off[key] = max(self._paid_off.get(key, now), now) + units * self._seconds_a_unit
            self._paid_off.move_to_end(key)
            if len(self._paid_off) > _MOST_CLIENTS:
                self._paid_off.popitem(last=False)
        return wait

"""Whose turn it is: clients in turn, and each client's requests in the order in which they came."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable

from defenses.pipeline.service_refusal import ServiceError

_Place = asyncio.Future[None]


class Line:
    """A bounded line before one worker.

    Of several clients each has every turn but one of the others' in between, however many requests one of them sends.
    Where the line is full, a newcomer takes the last place of the client that holds most of them, if that client still
    has more than the newcomer; so a flood pushes itself out and nobody else.

    Attributes:
        length: Requests that wait or have the turn.
    """

    def __init__(self, max_queue: int, on_change: Callable[[int], None]) -> None:
        self.length = 0
        self._max_queue = max_queue
        self._on_change = on_change
        self._taken = False
        self._waiting: OrderedDict[str, deque[_Place]] = OrderedDict()

    async def enter(self, client: str, seconds: float) -> None:
        """Wait for the turn; `leave` gives it back.

        Raises:
            ServiceError: 503, where the line is full, or the turn does not come within `seconds`.
        """
        if not self._taken:
            self._taken = True
            self._count(1)
            return
        self._make_room(client)
        place: _Place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(place)
        self._count(1)
        try:
            async with asyncio.timeout(seconds):
                await place
        except BaseException as error:
            self._give_up(client, place)
            if isinstance(error, TimeoutError):
                raise ServiceError(503, "queue_timeout", f"no turn came within {seconds:g} s: try again") from error
            raise

    def leave(self) -> None:
        """Give the turn to the next request of the client whose turn it is."""
        self._count(-1)
        while self._waiting:
            client, places = self._waiting.popitem(last=False)
            place = places.popleft()
            if places:
                self._waiting[client] = places
            if not place.done():  # one that was just cancelled has not taken itself out yet
                place.set_result(None)
                return
        self._taken = False

    def refuse_all(self, refusal: ServiceError) -> None:
        """Refuse every request that waits."""
        for places in self._waiting.values():
            for place in places:
                _refuse(place, refusal)
        self._waiting.clear()

    def _make_room(self, client: str) -> None:
        if sum(len(places) for places in self._waiting.values()) < self._max_queue:
            return
        busy = ServiceError(503, "busy", f"{self._max_queue} requests are already waiting: try again later")
        longest = max(self._waiting, key=lambda name: len(self._waiting[name]), default=client)
        if len(self._waiting.get(longest, ())) <= len(self._waiting.get(client, ())) + 1:
            raise busy
        _refuse(self._waiting[longest].pop(), busy)
        self._tidy(longest)

    def _give_up(self, client: str, place: _Place) -> None:
        """Take back a place that is not waited for any more, whether or not the turn has just come to it."""
        if place.done() and not place.cancelled() and place.exception() is None:
            self.leave()
            return
        self._count(-1)
        if place in self._waiting.get(client, ()):
            self._waiting[client].remove(place)
            self._tidy(client)

    def _tidy(self, client: str) -> None:
        if not self._waiting[client]:
            del self._waiting[client]

    def _count(self, change: int) -> None:
        self.length += change
        self._on_change(self.length)


def _refuse(place: _Place, refusal: ServiceError) -> None:
    if not place.done():
        place.set_exception(refusal)

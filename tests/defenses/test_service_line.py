"""Turns: in fair order, bounded, and given back whatever happens to those that wait."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from defenses.pipeline.service_line import Line
from defenses.pipeline.service_refusal import ServiceError

Test = Callable[[], Coroutine[Any, Any, None]]


class Arrivals:
    """A line, the requests in it by client, and the order in which they had their turns."""

    def __init__(self, max_queue: int) -> None:
        self.lengths: list[int] = []
        self.line = Line(max_queue, self.lengths.append)
        self.served: list[str] = []

    async def send(self, client: str, seconds: float = 60) -> "asyncio.Task[None]":
        """One request, as far as it comes by itself."""

        async def request() -> None:
            await self.line.enter(client, seconds)
            self.served.append(client)

        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task

    async def work(self, turns: int) -> None:
        """End so many turns."""
        for _ in range(turns):
            self.line.leave()
            await asyncio.sleep(0)


def run(test: Test) -> None:
    """Run it in an event loop, for a minute at most; in a thread, since browser tests leave a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(asyncio.wait_for(test(), 60))).result()


def code_of(task: "asyncio.Task[None]") -> str:
    """The code of a request that was refused."""
    error = task.exception()
    assert isinstance(error, ServiceError)
    return error.code


def test_clients_take_turns() -> None:
    """A client with six requests waits for one of each other client's between any two of its own."""

    async def test() -> None:
        some = Arrivals(20)
        tasks = [await some.send(client) for client in ["flood"] * 6 + ["ada", "bob", "ada"]]
        await some.work(9)
        await asyncio.gather(*tasks)
        assert some.served == ["flood", "flood", "ada", "bob", "flood", "ada", "flood", "flood", "flood"]
        assert some.line.length == 0
        assert max(some.lengths) == 9

    run(test)


def test_one_client_is_served_in_order_of_arrival() -> None:
    """With a single client the line is a plain queue."""

    async def test() -> None:
        some = Arrivals(5)
        order: list[int] = []

        async def numbered(number: int) -> None:
            await some.line.enter("a", 60)
            order.append(number)

        tasks = [asyncio.create_task(numbered(number)) for number in range(5)]
        await asyncio.sleep(0)
        await some.work(5)
        await asyncio.gather(*tasks)
        assert order == list(range(5))

    run(test)


def test_a_flood_pushes_itself_out() -> None:
    """A full line is busy for who filled it; a newcomer takes the flood's last place, until they hold as many."""

    async def test() -> None:
        some = Arrivals(4)
        flood = [await some.send("flood") for _ in range(5)]
        assert code_of(await some.send("flood")) == "busy"
        ada = [await some.send("ada") for _ in range(3)]
        assert [code_of(task) for task in (flood[4], flood[3])] == ["busy", "busy"]
        assert code_of(ada[2]) == "busy"
        assert some.line.length == 5
        await some.work(5)
        assert some.served == ["flood", "flood", "ada", "flood", "ada"]
        assert some.line.length == 0

    run(test)


def test_a_line_of_no_places_is_busy_at_once() -> None:
    """With max_queue = 0 there is the turn and nothing behind it."""

    async def test() -> None:
        some = Arrivals(0)
        await some.send("a")
        assert code_of(await some.send("b")) == "busy"

    run(test)


def test_who_waits_too_long_is_told() -> None:
    """The wait has an end with a code of its own, and the place is free again."""

    async def test() -> None:
        some = Arrivals(1)
        await some.send("a")
        late = await some.send("b", seconds=0.01)
        await asyncio.wait({late})
        assert code_of(late) == "queue_timeout"
        assert some.line.length == 1
        await some.send("c")
        await some.work(1)
        assert some.served == ["a", "c"]

    run(test)


@pytest.mark.parametrize("after_turn", [False, True])
def test_who_leaves_the_line_holds_nobody_up(*, after_turn: bool) -> None:
    """A request that is cancelled, before or just as its turn comes, passes the turn on."""

    async def test() -> None:
        some = Arrivals(3)
        first, second, third = [await some.send(client) for client in ("a", "b", "c")]
        if after_turn:
            some.line.leave()
            second.cancel()
        else:
            second.cancel()
            some.line.leave()
        await asyncio.gather(first, second, third, return_exceptions=True)
        assert some.served == ["a", "c"]
        assert some.line.length == 1
        await some.work(1)
        assert some.line.length == 0
        await some.send("d")
        assert some.served == ["a", "c", "d"]

    run(test)


def test_the_end_refuses_all_that_wait() -> None:
    """At the end those in line are refused; who has the turn keeps it."""

    async def test() -> None:
        some = Arrivals(3)
        tasks = [await some.send(client) for client in ("a", "b", "b")]
        some.line.refuse_all(ServiceError(503, "stopping", "the service is stopping"))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [code_of(task) for task in tasks[1:]] == ["stopping", "stopping"]
        assert some.line.length == 1
        await some.work(1)
        assert some.line.length == 0

    run(test)

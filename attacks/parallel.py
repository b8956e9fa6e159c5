"""Prompts side by side: each thread takes a prompt, and the matrix library one core for each.

A likelihood is one matrix product and several passes over its result. Only the product uses all cores by itself; with a
prompt for each core the passes do, too. Nothing but the order of the work changes.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@cache
def _libraries() -> ThreadpoolController:
    """Matrix libraries that are loaded when this is first asked for, numpy's among them: to look takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def threads() -> int:
    """How many threads the matrix library has been given."""
    return max((library["num_threads"] for library in _libraries().info()), default=1)


def side_by_side(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """The work on each item, in their order; in as many threads as the matrix library has been given.

    Whatever the work raises is raised, that of the first item first.
    """
    together = min(threads(), len(items))
    if together < 2:
        return [work(item) for item in items]
    with _libraries().limit(limits=threads() // together), ThreadPoolExecutor(together) as pool:
        return list(pool.map(work, items))

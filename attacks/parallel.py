"""Prompts side by side: each thread takes a prompt, and the matrix library one core for each.

A likelihood is one matrix product and several passes over its result. Only the product uses all cores by itself; with a
prompt for each core the passes do, too. Nothing but the order of the work changes.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_info, threadpool_limits

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def threads() -> int:
    """How many threads the matrix library has been given."""
    return max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)


def side_by_side(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """The work on each item, in their order; in as many threads as the matrix library has been given.

    Whatever the work raises is raised, that of the first item first.
    """
    together = min(threads(), len(items))
    if together < 2:
        return [work(item) for item in items]
    with threadpool_limits(threads() // together, user_api="blas"), ThreadPoolExecutor(together) as pool:
        return list(pool.map(work, items))

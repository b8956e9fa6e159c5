"""How a worker gets its memory from the system: once, and keeps it.

Likelihoods, logits and cross entropies are arrays of many megabytes that live for milliseconds. The C library hands
each back to the system and asks for it anew, and the system fills every page with zeros under a lock: workers on one
machine then wait for each other. Kept pages cost no more than the peak that is reached anyway.
"""

import ctypes
import platform
from contextlib import suppress

# From malloc.h of glibc, see mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER, _PAD = (1 << 31) - 1, 1 << 26


def keep_memory() -> None:
    """Have malloc keep what it has got; where the C library is not glibc, nothing happens."""
    if platform.libc_ver()[0] != "glibc":
        return
    with suppress(OSError, AttributeError):
        malloc_option = ctypes.CDLL(None).mallopt
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _PAD)):
            malloc_option(option, value)

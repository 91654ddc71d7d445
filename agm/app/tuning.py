"""What the process is told of Python's threads and memory, for a gateway that runs for months."""

from __future__ import annotations

import ctypes
import gc
import sys

#: Seconds after which a thread that waits for the interpreter is given it.  Until then each call to the kernel that the
#: reactor makes wakes it in vain, and with Python's own 5 ms that are a hundred of them.
SWITCH_AFTER = 0.0005
#: Objects that the collector lets come before it looks through them.  Python's 700 are those of a handful of requests.
COLLECT_AFTER = 20_000


def switch_sooner() -> None:
    """Give the interpreter to a thread that waits for it after :data:`SWITCH_AFTER`."""
    sys.setswitchinterval(SWITCH_AFTER)


def settle_memory() -> None:
    """
    Tell the collector that what was made until now stays: it holds everything up while it looks at it.  Nor need
    it look for circles whenever a few requests more are under way than before: a request makes none.  What the start
    needed for a moment goes back to the system, where the C library (glibc) can be told so.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

"""
How many connections the process has file descriptors for.

Each client's connection may need one of an upstream's beside it, and the log, the state and name resolution need a few,
too.  Where the limit is soft it is raised to the hard one, as other servers do.
"""

from __future__ import annotations

import resource

#: Descriptors that no client's connection is counted for: listeners, files, name resolution, the pool's idle ones.
RESERVE = 48
#: More than this is not asked for.
MOST = 65536


def raise_limit() -> None:
    """Raise the soft limit of descriptors as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections() -> int:
    """Return how many clients can be served at once, each with an upstream of its own."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)
    return max((most - RESERVE) // 2, 4)

"""
Make what ``twistd agm`` runs of its options: the composition root.

This and a worker's program (:mod:`agm.app.worker`) are the only modules of the gateway that take the global reactor.
"""

from __future__ import annotations

from agm.app import rlimit as descriptors
from agm.app.assemble import make_alone, read_config
from agm.app.options import Options
from agm.app.service import LoggedService
from agm.net.clocks import use_steady_clock


def make_service(options: Options) -> LoggedService:
    """Make the service that twistd runs: a gateway, or the supervisor of several."""
    from twisted.internet import reactor

    use_steady_clock(reactor)  # first of all: nothing is scheduled yet
    descriptors.raise_limit()
    config = read_config(options)
    if (options["workers"] or config.gateway.workers) == 1:
        return make_alone(reactor, options, config)
    from agm.app.supervisor import make_supervisor  # who serves with one process needs nothing of it

    return make_supervisor(reactor, options, config)

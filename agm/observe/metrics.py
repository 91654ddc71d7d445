"""
The metrics of a gateway: what watches the event loop, and the door to what Prometheus reads.

What happened is counted as it happens (:mod:`agm.core.counters`), and how things stand is looked at when somebody asks
(:mod:`agm.observe.exposition`); nothing here is on a request's way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.task import LoopingCall

from agm.core.counters import Counters
from agm.observe.observed import Observed

if TYPE_CHECKING:
    from agm.observe.exposition import Exposition, Figures

#: Seconds between two looks at how late the reactor is.
LAG_EVERY = 0.5


class Metrics:
    """
    The metrics of one gateway.

    :param counters: what its requests were counted with.
    """

    def __init__(self, reactor: Any, observed: Observed, counters: Counters) -> None:
        self._reactor = reactor
        self._observed = observed
        self._counters = counters
        self._figures: Figures | None = None
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._due = 0.0

    def start(self) -> None:
        """Watch how late the reactor is, from now on."""
        self._due = self._reactor.seconds() + LAG_EVERY
        self._looking.start(LAG_EVERY, now=False)

    def stop(self) -> None:
        """Watch no longer."""
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> None:
        now = self._reactor.seconds()
        self._counters.lag.add(max(now - self._due, 0.0))
        # the next call is due at a multiple of the pace, also where one was left out
        self._due = now + LAG_EVERY - max(now - self._due, 0.0) % LAG_EVERY

    def expose(self, accept: str) -> Exposition:
        """All of it, in the newest form that an ``Accept`` header asks for: OpenMetrics or Prometheus text."""
        if self._figures is None:
            # with the first scrape: a gateway that nobody scrapes does not need Prometheus' library
            from agm.observe.exposition import Figures

            self._figures = Figures(self._observed, self._counters)
        return self._figures.expose(accept)

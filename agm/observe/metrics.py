"""
The metrics of a gateway: what watches the event loop, and the door to what Prometheus reads.

What happened is counted as it happens (:mod:`agm.core.counters`), and how things stand is looked at when somebody asks
(:mod:`agm.observe.exposition`); nothing here is on a request's way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.task import LoopingCall

from agm.core.counters import Counters
from agm.observe.machine_metrics import Family, add_up, read_ended, take_down
from agm.observe.observed import Observed
from agm.observe.peers import Peers

if TYPE_CHECKING:
    from agm.observe.exposition import Exposition, Figures

#: Seconds between two looks at how late the reactor is.
LAG_EVERY = 0.5
#: Seconds after a scrape within which another one is expected.
SCRAPED_WITHIN = 300.0


class Metrics:
    """
    The metrics of one gateway.

    :param counters: what its requests were counted with.
    :param peers: the workers of this machine, where it has several: the metrics are of them all.
    """

    def __init__(self, reactor: Any, observed: Observed, counters: Counters, peers: Peers | None = None) -> None:
        self._peers = peers
        #: Until when it is taken down each second what this worker has counted; somebody scrapes.
        self._scraped = 0.0
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
        if self._scraped:
            self.take_down()

    def _look(self) -> None:
        now = self._reactor.seconds()
        self._counters.lag.add(max(now - self._due, 0.0))
        # the next call is due at a multiple of the pace, also where one was left out
        self._due = now + LAG_EVERY - max(now - self._due, 0.0) % LAG_EVERY
        if now < self._scraped:
            self.take_down()

    def take_down(self) -> list[Family]:
        """Write down what this worker has counted, for when it has ended; returns it."""
        families = self._own().families()
        if self._peers is not None:
            take_down(self._peers.folder, self._peers.name, families)
        return families

    def tell(self) -> tuple[str, list[Family]]:
        """Tell another worker, whom somebody has asked: the name of this one, and what it has counted."""
        assert self._peers is not None, "only a worker is asked"
        self._scraped = self._reactor.seconds() + SCRAPED_WITHIN
        return self._peers.name, self.take_down()

    async def expose_all(self, accept: str) -> Exposition:
        """As :meth:`expose`, of all workers of this machine where it has several."""
        if self._peers is None:
            return self.expose(accept)
        from agm.observe.exposition import Sum

        answers, _ = await self._peers.ask("metrics")
        told = [msgspec.convert(answer.document, tuple[str, list[Family]]) for answer in answers]
        ended = read_ended(self._peers.folder, [name for name, _ in told])
        return Sum(add_up([families for _, families in told], ended)).expose(accept)

    def expose(self, accept: str) -> Exposition:
        """All of it, in the newest form that an ``Accept`` header asks for: OpenMetrics or Prometheus text."""
        return self._own().expose(accept)

    def _own(self) -> Figures:
        if self._figures is None:
            # with the first scrape: a gateway that nobody scrapes does not need Prometheus' library
            from agm.observe.exposition import Figures

            self._figures = Figures(self._observed, self._counters)
        return self._figures

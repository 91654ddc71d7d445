"""
The relay: an answer's bytes from the upstream to the client, as fast as the client takes them and no faster.

The relay is the producer that the client's connection pauses and resumes; it passes both on to the upstream, so that
a slow client holds back the upstream and memory stays bounded.  An answer that the upstream cannot complete is never
made to look complete: an SSE client gets an error event, and then, as every other, a connection that breaks off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from agm.core.wire.answer_filters import Framing, StreamFailure, error_event
from agm.net.stalls import Stall, Stalls
from agm.upstream.client import UpstreamBody
from agm.web.request import GatewayRequestOnWire

Outcome = Literal["ok", "aborted", "cancelled"]


@implementer(IPushProducer)
class Relay:
    """
    One answer's way.

    :param request: the client's; its head has not been written yet, and is with the first bytes.
    :param body: what the upstream sends, already filtered.
    :param stalls: watches a client that takes nothing for now.
    :param stall: seconds that the client may take nothing before it is given up.
    :param redact: takes secrets out of an error's document, which an upstream may have written.
    :param error_event: the last event of a stream that breaks off.
    """

    def __init__(
        self,
        request: GatewayRequestOnWire,
        body: UpstreamBody,
        framing: Framing,
        stalls: Stalls,
        stall: float,
        redact: Callable[[bytes], bytes] = bytes,
        error_event: Callable[[StreamFailure], bytes] = error_event,
    ) -> None:
        self._redact = redact
        self._error_event = error_event
        self._request = request
        self._body = body
        self._framing = framing
        self._stalls = stalls
        self._stall = stall
        self._behind: Stall | None = None
        self._gone = False
        self._done: Deferred[Outcome] = Deferred()
        self.sent = 0

    def run(self) -> Deferred[Outcome]:
        """Let the answer flow; fires when it has ended, one way or the other."""
        self._request.registerProducer(self, True)
        self._body.flow_to(self._write, self._ended)
        return self._done

    @property
    def paused(self) -> bool:
        """Whether the client has to read before more goes out."""
        return self._behind is not None

    def client_gone(self) -> None:
        """The client has left: stop the upstream."""
        self._gone = True
        self._disarm()
        self._body.abort("the client left")

    def give_up(self, why: str) -> None:
        """End the answer here, as one that the upstream broke off."""
        self._body.abort(why)

    def pauseProducing(self) -> None:
        """The client takes nothing more for now."""
        self._body.pause()
        self._arm()

    def resumeProducing(self) -> None:
        """The client takes more."""
        self._disarm()
        self._body.resume()

    def stopProducing(self) -> None:
        """The client's connection is going away."""
        self.client_gone()

    def _write(self, data: bytes) -> None:
        if not self._gone:
            self.sent += len(data)
            self._request.write(data)

    def _ended(self) -> None:
        self._disarm()
        outcome: Outcome = "cancelled" if self._gone else "aborted" if self._body.failed else "ok"
        if not self._gone:
            self._request.unregisterProducer()
            if outcome == "ok":
                self._request.finish()
            else:
                self._break_off()
        self._done.callback(outcome)

    def _break_off(self) -> None:
        if self._framing is Framing.SSE:
            failure = self._body.filter.failure
            if failure is None:
                why = self._body.broken or "the upstream aborted the answer"
                failure = StreamFailure.of(502, f"{why[:1].upper()}{why[1:]}.")
            self._write(self._error_event(attrs.evolve(failure, document=self._redact(failure.document))))
        if self._request.channel is not None:
            self._request.channel.break_off(self._request)

    def _arm(self) -> None:
        if self._behind is None:
            self._behind = self._stalls.watch(self._request.transport, self._stall, self._client_stalled)

    def _disarm(self) -> None:
        behind, self._behind = self._behind, None
        if behind is not None:
            behind.end()

    def _client_stalled(self) -> None:
        self._behind = None
        transport = self._request.transport
        self._body.abort(f"the client took nothing for {self._stall:g} seconds")
        transport.abortConnection()

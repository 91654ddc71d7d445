"""
The relay: an answer's bytes from the upstream to the client, as fast as the client takes them and no faster.

The relay is the producer that the client's connection pauses and resumes; it passes both on to the upstream, so that
a slow client holds back the upstream and memory stays bounded.  An answer that the upstream cannot complete is never
made to look complete: an SSE client gets an error event, and then, as every other, a connection that breaks off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from agm.core.answer import Answer
from agm.core.errors import GatewayError
from agm.core.wire.answer_filters import Framing, StreamFailure, error_event
from agm.net.stalls import Stall, Stalls
from agm.web.request import GatewayRequestOnWire

log = Logger()

Outcome = Literal["ok", "aborted", "cancelled"]


class Flow(Protocol):
    """What flows to a client: :class:`agm.upstream.client.UpstreamBody`, or the answer of a plugin's call."""

    @property
    def failed(self) -> bool:
        """Whether it has ended and is not complete."""

    @property
    def broken(self) -> str | None:
        """Why it is not complete, if nothing else tells."""

    @property
    def failure(self) -> StreamFailure | None:
        """The error that was reported in the middle of it."""

    def flow_to(self, sink: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        """Hand everything to `sink`, and call `on_end` once at the end, complete or not."""

    def pause(self) -> None:
        """Hand over nothing for now."""

    def resume(self) -> None:
        """Go on."""

    def abort(self, why: str) -> None:
        """End it now, as broken."""


class AnswerFlow:
    """The answer of a plugin's call on its way to a client; it is asked for more when the client has taken enough."""

    failure: StreamFailure | None = None

    def __init__(self, answer: Answer) -> None:
        self.broken: str | None = None
        self._answer = answer
        self._pulling: Deferred[None] | None = None
        self._gate: Deferred[None] | None = None
        self._paused = False
        self._ended = False

    @property
    def failed(self) -> bool:
        """See :class:`Flow`."""
        return self.broken is not None

    def flow_to(self, sink: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        """See :class:`Flow`."""
        self._pulling = Deferred.fromCoroutine(self._pull(sink))

        def ended(result: object) -> None:
            self._ended = True
            if isinstance(result, Failure):
                if result.check(GatewayError):
                    assert isinstance(result.value, GatewayError)
                    self.broken = self.broken or result.value.message.rstrip(".")
                elif self.broken is None:
                    log.failure("the answer of a plugin's call failed", failure=result)
                    self.broken = "the answer of a plugin's call failed"
            self._answer.close()
            on_end()

        self._pulling.addBoth(ended)

    async def _pull(self, sink: Callable[[bytes], None]) -> None:
        async for chunk in self._answer:
            sink(chunk)
            if self._paused:
                self._gate = Deferred()
                await self._gate

    def pause(self) -> None:
        """See :class:`Flow`."""
        self._paused = True

    def resume(self) -> None:
        """See :class:`Flow`."""
        self._paused = False
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.callback(None)

    def abort(self, why: str) -> None:
        """See :class:`Flow`."""
        if not self._ended and self._pulling is not None:
            self.broken = why
            self._pulling.cancel()


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
        body: Flow,
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
        #: The gateway's own error, a plugin's for example, where nothing has been written: it can still be the answer.
        self.refused: GatewayError | None = None

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
            elif (refused := self._own_error()) is not None:
                self.refused = refused
            else:
                self._break_off()
        self._done.callback(outcome)

    def _own_error(self) -> GatewayError | None:
        if self._request.startedWriting or self._framing is not Framing.UNARY or self._body.failure is None:
            return None
        return self._body.failure.own

    def _break_off(self) -> None:
        if self._framing is Framing.SSE:
            failure = self._body.failure
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

"""
Answers: a request's answer is opened, relayed to its client, and told to whoever counts how it ended.

The way to an answer is :mod:`agm.serving.calls`'s; here are the client's side of it, and the headers that it gets.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError

from agm.core.errors import GatewayError
from agm.core.wire.answer_filters import Framing
from agm.plugins.manager import HookFailed
from agm.serving.answers import FinalAnswer, OpenAnswer
from agm.serving.calls import Outcome, Prepared
from agm.serving.gateway import Gateway
from agm.web.browsers import NOSNIFF, apart
from agm.web.relay import Relay
from agm.web.request import JSON_TYPE, GatewayRequestOnWire

#: Headers of an upstream's answer that mean something to a client; all others are about the hop.
_PASSED_HEADERS = tuple(
    (name, name.lower())
    for name in (
        b"X-Gemini-Service-Tier",
        b"X-Cloudaicompanion-Trace-Id",
        b"Content-Range",
        b"Accept-Ranges",
        b"ETag",
    )
)
_SSE_HEADERS = (
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-cache"),
    (b"X-Accel-Buffering", b"no"),
    NOSNIFF,
)

#: Makes headers of an answer beside those that every one has.
MoreHeaders = Callable[[GatewayRequestOnWire, OpenAnswer], list[tuple[bytes, bytes]]]


class Answers:
    """
    Answers requests of one surface.

    :param more_headers: makes headers that this surface has beside the others; may raise a :class:`GatewayError`.
    """

    def __init__(self, gateway: Gateway, more_headers: MoreHeaders | None = None) -> None:
        self._gateway = gateway
        self._more_headers = more_headers

    async def answer(self, wire: GatewayRequestOnWire, prepared: Prepared) -> None:
        """
        Answer one request, from its first step to the end of its answer.

        :raises GatewayError: if it cannot be answered, and nothing has been sent.
        """
        gateway = self._gateway
        call = gateway.calls.begin(prepared)
        outcome: Outcome = "cancelled"
        sent = 0
        try:
            await call.prepare()
            _check_there(wire)
            opened = await call.open()
            if isinstance(opened, FinalAnswer):
                outcome = "error" if opened.status >= 400 else "ok"
                sent = len(opened.body)
                wire.send(opened.status, list(opened.headers), opened.body)
                return
            try:
                _check_there(wire)
                outcome = "aborted"
                wire.prepare(opened.answer.status, self._headers(wire, opened))
                if opened.body.ended and not opened.body.failed:  # it is here as a whole, and needs no relay
                    whole = opened.body.take()
                    outcome, sent = "ok", len(whole)
                    opened.close()
                    wire.send_prepared(whole)
                    return
                stall, redact = gateway.config.timeouts.client_stall, gateway.redactor.body
                relay = Relay(wire, opened.body, opened.framing, gateway.stalls, stall, redact)
                call.relaying(relay)
                relaying = relay.run()
                try:
                    outcome = await relaying
                except CancelledError:
                    if wire.channel is None:
                        relay.client_gone()
                        raise
                    relay.give_up(
                        "the gateway is stopping"
                        if wire.interrupted
                        else f"the answer took longer than {gateway.config.timeouts.total:g} seconds in all"
                    )
                finally:
                    sent = relay.sent
            finally:
                opened.close()
        except (GatewayError, HookFailed) as e:
            outcome = "error"
            call.failed(e)
            wire.code = e.status if isinstance(e, GatewayError) else 500
            raise
        finally:
            call.end(outcome, wire.code, sent)

    def _headers(self, wire: GatewayRequestOnWire, opened: OpenAnswer) -> list[tuple[bytes, bytes]]:
        """Make the headers of an answer."""
        given = opened.answer.first
        headers = [(name, given[lower]) for name, lower in _PASSED_HEADERS if lower in given]
        content_type = given.get(b"content-type")
        if opened.framing is Framing.SSE:
            headers += _SSE_HEADERS
        elif opened.framing is Framing.ARRAY or content_type is None:
            headers += (JSON_TYPE, NOSNIFF)
        else:
            headers.append((b"Content-Type", content_type))
            headers += apart(content_type, given.get(b"content-disposition"))
        if opened.plain and opened.answer.length is not None:
            headers.append((b"Content-Length", b"%d" % opened.answer.length))
        elif opened.framing is Framing.UNARY and opened.body.ended and not opened.body.failed:
            headers.append((b"Content-Length", b"%d" % opened.body.held))
        if self._gateway.config.gateway.show_account:
            headers.append((b"X-Agm-Account", opened.account.name.encode("ascii", "replace")))
        if self._more_headers is not None:
            headers += self._more_headers(wire, opened)
        return headers


def _check_there(wire: GatewayRequestOnWire) -> None:
    """
    Go on only if there is a client.  Who left was told to whoever was waited for, who may have kept it: a plugin, e.g.

    :raises CancelledError: if there is none.
    """
    if wire.channel is None:
        raise CancelledError

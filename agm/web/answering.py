"""
Answer a call: open an answer by attempts on accounts, relay it, and tell the observers how it ended.

:class:`AnsweringResource` is what every surface is made of whose answers come from an upstream.
"""

from __future__ import annotations

from collections.abc import Awaitable

from twisted.internet.defer import CancelledError

from agm.core.answer import Answer
from agm.core.client_keys import ClientKey
from agm.core.errors import GatewayError, UpstreamTimeout
from agm.core.request import Account, GatewayRequest
from agm.core.wire.answer_filters import Framing, error_event
from agm.plugins.hooks import HookFailed, Hooks
from agm.serving.answers import FinalAnswer, OpenAnswer
from agm.serving.calls import Outcome, Prepared
from agm.web.base import ApiResource, Visit
from agm.web.browsers import NOSNIFF, apart
from agm.web.relay import AnswerFlow, Flow, Relay
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
_PASSED_NAMES = frozenset(lower for _, lower in _PASSED_HEADERS)
_EVENTS = (
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-cache"),
    (b"X-Accel-Buffering", b"no"),
)
SSE_HEADERS = (*_EVENTS, NOSNIFF)


def with_plugins(
    hooks: Hooks, request: GatewayRequest, status: int, headers: list[tuple[bytes, bytes]], account: Account | None
) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with those that plugins add, or put in the place of others."""
    if not hooks.edits_headers:
        return headers
    shown = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
    added = hooks.answer_headers(shown, status, request, account)
    replaced = {name.lower().encode("latin-1") for name in added}
    return [
        *(pair for pair in headers if pair[0].lower() not in replaced),
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in added.items()),
    ]


class AnsweringResource(ApiResource):
    """A resource whose answers come from an upstream."""

    def claims(self, wire: GatewayRequestOnWire) -> bool:
        """Return whether a path is this resource's as a whole, whatever its first segment is."""
        return False

    def answer_model_call(self, visit: Visit, prepared: Prepared) -> Awaitable[None]:
        """As :meth:`answer`, for what counts among the calls that a client key may have answered at once."""
        if visit.key is not None and self.gateway.clients.limits_streams:
            return self._answer_one_of(visit.key, visit.wire, prepared)
        return self.answer(visit.wire, prepared)

    async def _answer_one_of(self, key: ClientKey, wire: GatewayRequestOnWire, prepared: Prepared) -> None:
        """As :meth:`answer`, for a client key that may have only so many calls answered at once."""
        with self.gateway.clients.stream_of(key):
            await self.answer(wire, prepared)

    async def answer(self, wire: GatewayRequestOnWire, prepared: Prepared) -> None:
        """
        Open an answer, relay it, and tell the observers how it ended.

        :raises GatewayError: if there is none, and nothing has been sent.
        """
        gateway = self.gateway
        call = gateway.calls.begin(prepared)
        outcome: Outcome = "cancelled"
        sent = 0
        try:
            opened = await call.open(wire.check_there)
            if isinstance(opened, FinalAnswer):
                outcome = "error" if opened.status >= 400 else "ok"
                sent = len(opened.body)
                account = call.account if opened.status >= 400 else None  # a list is put together from several
                form = _EVENTS if opened.framing is Framing.SSE else ()
                final = self._with_plugins(call.request, opened.status, [*opened.headers, *form], account)
                wire.send(opened.status, final, opened.body)
                return
            try:
                wire.check_there()
                outcome = "aborted"
                body: Flow
                if isinstance(opened, Answer):
                    status, body, account = opened.status, AnswerFlow(opened), call.account
                    headers = list(SSE_HEADERS if opened.framing is Framing.SSE else (JSON_TYPE, NOSNIFF))
                else:
                    status, body, account = opened.answer.status, opened.body, opened.account
                    headers = [*self.answer_headers(wire, opened), *opened.added]
                wire.prepare(status, self._with_plugins(call.request, status, headers, account))
                # one that is here as a whole needs no relay
                if isinstance(opened, OpenAnswer) and opened.body.ended and not opened.body.failed:
                    whole = opened.body.take()
                    outcome, sent = "aborted" if opened.reported else "ok", len(whole)
                    opened.close()
                    wire.send_prepared(whole)
                    return
                stall, redact = gateway.config.timeouts.client_stall, gateway.redactor.body
                event = error_event if isinstance(opened, Answer) else opened.error_event
                relay = Relay(wire, body, opened.framing, gateway.stalls, stall, redact, event)
                call.relaying(relay)
                relaying = relay.run()
                try:
                    outcome = await relaying
                    if relay.refused is not None:
                        raise relay.refused
                    if outcome == "ok" and status >= 400:
                        outcome = "error"
                    if isinstance(opened, OpenAnswer) and opened.reported and outcome == "ok":
                        outcome = "aborted"
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
        except CancelledError:
            if (
                wire.channel is not None and not wire.startedWriting
            ):  # the client gets an error, and is there to read it
                outcome, wire.code = "error", (wire.interrupted or UpstreamTimeout("")).status
            raise
        except Exception:
            if not wire.startedWriting:
                outcome, wire.code = "error", 500
            raise
        finally:
            call.end(outcome, wire.code, sent)

    def _with_plugins(
        self, request: GatewayRequest, status: int, headers: list[tuple[bytes, bytes]], account: Account | None
    ) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer with those that plugins add, or put in the place of others."""
        return with_plugins(self.gateway.hooks, request, status, headers, account)

    def answer_headers(self, wire: GatewayRequestOnWire, opened: OpenAnswer) -> list[tuple[bytes, bytes]]:
        """Make the headers of an answer."""
        given = opened.answer.first
        headers: list[tuple[bytes, bytes]] = []
        if not _PASSED_NAMES.isdisjoint(given):
            headers += [(name, given[lower]) for name, lower in _PASSED_HEADERS if lower in given]
        content_type = given.get(b"content-type")
        if opened.framing is Framing.SSE:
            headers += SSE_HEADERS
        elif opened.framing is Framing.ARRAY or content_type is None:
            headers += (JSON_TYPE, NOSNIFF)
        else:
            headers.append((b"Content-Type", content_type))
            headers += apart(content_type, given.get(b"content-disposition"))
        if opened.plain and opened.answer.length is not None:
            headers.append((b"Content-Length", b"%d" % opened.answer.length))
        elif opened.framing is Framing.UNARY and opened.body.ended and not opened.body.failed:
            headers.append((b"Content-Length", b"%d" % opened.body.held))
        if self.gateway.config.gateway.show_account:
            headers.append((b"X-Agm-Account", opened.account.name.encode("ascii", "replace")))
        return headers

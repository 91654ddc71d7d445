"""
Answers that a dialect translates on their way to its client: an event in, the client's bytes out, in the same turn.

The relay is the one of every other answer: a slow client holds the upstream back, one that leaves ends it, and a stream
that its upstream does not complete ends in the dialect's own error, and then its connection is aborted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from agm.core.answer import Answer
from agm.core.errors import NOT_JSON, GatewayError
from agm.core.wire.answer_filters import Framing, StreamFailure
from agm.core.wire.sse import EventReader, EventTooLarge
from agm.serving.gateway import Gateway
from agm.web.answering import SSE_HEADERS, with_plugins
from agm.web.base import Visit
from agm.web.relay import AnswerFlow, Flow, Relay
from agm.web.request import JSON_TYPE

log = Logger()


#: Headers that say how an answer is laid out, which is the translation's to say.
_OWN = frozenset({"content-type", "content-length", "transfer-encoding", "content-encoding"})


class Translation(Protocol):
    """What a dialect makes of the events of one stream."""

    def event(self, document: bytes) -> bytes:
        """
        Translate an event: its document as JSON in, the client's bytes out; none for an event that says nothing.

        :raises msgspec.DecodeError: if it is not what an answer consists of; the stream then breaks off.
        """

    def end(self) -> bytes:
        """Give the last bytes of a stream that came to a good end."""

    def failure(self, failure: StreamFailure) -> bytes:
        """Give the last bytes of a stream that breaks off: its dialect's error."""


async def relay_translated(
    gateway: Gateway, visit: Visit, answer: Answer, translation: Translation, headers: Sequence[tuple[str, str]] = ()
) -> None:
    """
    Relay an answer that streams, each event translated as it comes, and close it.

    Nothing more is read from the upstream while the client takes nothing.

    :param answer: of :meth:`agm.serving.gateway.Gateway.call`, with a good status.
    :param headers: beside those of a stream of events.
    """
    wire, config = visit.wire, gateway.config
    try:
        wire.check_there()
        wire.prepare(answer.status, _headers(gateway, answer, [*SSE_HEADERS, *_encoded(headers)]))
        inner: Flow = answer if hasattr(answer, "flow_to") else AnswerFlow(answer)  # type: ignore[assignment]
        relay = Relay(
            wire,
            _Translating(inner, translation, answer.framing),
            Framing.SSE,
            gateway.stalls,
            config.timeouts.client_stall,
            gateway.redactor.body,
            translation.failure,
        )
        try:
            outcome = await relay.run()
        except CancelledError:
            if wire.channel is None:
                relay.client_gone()
                raise
            outcome = "aborted"
            relay.give_up(
                "the gateway is stopping"
                if wire.interrupted
                else f"the answer took longer than {config.timeouts.total:g} seconds in all"
            )
        answer.close(outcome)
    finally:
        answer.close()


def send_translated(
    gateway: Gateway,
    visit: Visit,
    answer: Answer,
    body: bytes,
    *,
    status: int | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> None:
    """
    Send what has been made of an answer as a whole: JSON, unless the headers say otherwise.

    :param status: if it is not the answer's own.
    """
    made = _encoded(headers)
    if not any(name == b"Content-Type" for name, _ in made):
        made.append(JSON_TYPE)
    status = answer.status if status is None else status
    visit.wire.send(status, _headers(gateway, answer, made, status), body)


def _headers(
    gateway: Gateway, answer: Answer, headers: list[tuple[bytes, bytes]], status: int | None = None
) -> list[tuple[bytes, bytes]]:
    if answer.headers and (status or answer.status) < 400:  # what a plugin's answer has, or a cache's
        headers += _encoded([pair for pair in answer.headers.items() if pair[0] not in _OWN])
    if answer.account is not None and gateway.config.gateway.show_account:
        headers.append((b"X-Agm-Account", answer.account.encode("ascii", "replace")))
    if answer.request is None or not gateway.hooks.edits_headers:
        return headers
    account = next((one for one in gateway.pool.accounts if one.name == answer.account), None)
    return with_plugins(gateway.hooks, answer.request, status or answer.status, headers, account)


def _encoded(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]


class _Translating:
    """A :class:`agm.web.relay.Flow` that is another one, translated."""

    def __init__(self, inner: Flow, translation: Translation, framing: Framing) -> None:
        self._inner = inner
        self._translation = translation
        self._reader = EventReader()
        self._whole: list[bytes] | None = None if framing is Framing.SSE else []
        self._failure: StreamFailure | None = None

    @property
    def failed(self) -> bool:
        return self._failure is not None or self._inner.failed

    @property
    def broken(self) -> str | None:
        return self._inner.broken

    @property
    def failure(self) -> StreamFailure | None:
        return self._failure or self._inner.failure

    def flow_to(self, sink: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        def take(chunk: bytes) -> None:
            if self._failure is None:
                out = self._guarded(lambda: self._translated(chunk))
                if out:
                    sink(out)

        def end() -> None:
            if not self.failed:
                out = self._guarded(self._rest)
                if out:
                    sink(out)
            on_end()

        self._inner.flow_to(take, end)

    def pause(self) -> None:
        self._inner.pause()

    def resume(self) -> None:
        self._inner.resume()

    def abort(self, why: str) -> None:
        self._inner.abort(why)

    def _translated(self, chunk: bytes) -> bytes:
        if self._whole is not None:
            self._whole.append(chunk)
            return b""
        event = self._translation.event
        read = self._reader.feed(chunk)
        if len(read) == 1 and read[0] != b"[DONE]":
            return event(read[0])
        return b"".join([event(document) for document in read if document != b"[DONE]"])

    def _rest(self) -> bytes:
        last = b"".join(self._whole) if self._whole is not None else self._reader.close().data
        out = self._translation.event(last) if last and last != b"[DONE]" else b""
        return out + self._translation.end()

    def _guarded(self, work: Callable[[], bytes]) -> bytes:
        """Translate; what cannot be breaks the stream off, because what is left out would look complete."""
        try:
            return work()
        except GatewayError as e:
            self._failure = StreamFailure.ours(e)
        except (*NOT_JSON, msgspec.ValidationError, EventTooLarge):
            self._failure = StreamFailure.of(502, "The upstream's answer cannot be read.")
        except Exception:
            log.failure("an event of an answer could not be translated")
            self._failure = StreamFailure.of(500, "The gateway failed to translate the answer; its log says why.")
        self._inner.abort("it could not be translated")
        return b""

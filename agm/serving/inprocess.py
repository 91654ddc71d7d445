"""
Serve a call from within the process: the whole way of a request but for its authentication, and its stream.

It is what a dialect, a hedge or a shadow is made of: the answer's bytes come as they would go to a client, and no
faster than they are taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import CancelledError, Deferred

from agm.core.answer import NOTHING, Answer
from agm.core.client_keys import ClientKey
from agm.core.dialect import ForModel
from agm.core.errors import BadUpstreamAnswer, GatewayError, InvalidRequest
from agm.core.request import GatewayRequest
from agm.core.wire.answer_filters import Framing, StreamFailure
from agm.core.wire.target import METHODS, VERSIONS, ModelCall
from agm.observe.request_ids import new_request_id
from agm.plugins.hooks import HookFailed
from agm.serving.answers import FinalAnswer, OpenAnswer
from agm.serving.calls import Call, Calls, Outcome
from agm.serving.prepare import InboundCall

#: The status in the record of a call that nobody waits for any more.
CANCELLED = 499


class Caller(Protocol):
    """A client's request to a resource of a plugin: :class:`agm.web.base.Visit`."""

    @property
    def id(self) -> str:
        """The request's id."""

    @property
    def path(self) -> str:
        """Its path."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, without credentials."""

    @property
    def key(self) -> ClientKey | None:
        """The client key that it came with."""


async def call(
    calls: Calls,
    received_at: float,
    model: str,
    body: Mapping[str, Any] | bytes,
    *,
    method: str = "generateContent",
    version: str = "v1beta",
    visit: Caller | None = None,
    parent: GatewayRequest | None = None,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    dialect: str | None = None,
    for_model: ForModel | None = None,
) -> Answer:
    """
    Make a call as a plugin asks for it; see :meth:`agm.serving.gateway.Gateway.call`.

    :raises InvalidRequest: if it is none that can be made.
    """
    if visit is not None and parent is not None:
        raise InvalidRequest("gateway.call takes a visit or a parent, not both")
    if method not in METHODS:
        raise InvalidRequest(f"gateway.call has no method {method!r}; it has {', '.join(METHODS)}")
    if version not in VERSIONS:
        raise InvalidRequest(f"gateway.call has no version {version!r}; it has {', '.join(VERSIONS)}")
    model = model.removeprefix("models/")
    if not model or not model.isprintable():
        raise InvalidRequest(f"gateway.call needs the name of a model, not {model!r}")
    if parent is not None and parent.explaining:
        raise InvalidRequest("An explanation sends nothing, and a plugin wants to make a call for it.")
    if parent is not None and parent.parent is not None:
        # a hook that makes a call for every request would make one for that call, and so on without an end
        raise InvalidRequest(
            "gateway.call was given a parent that is itself a call of a plugin; look at request.parent, and make calls"
            " for clients' requests only"
        )
    given = NOTHING if visit is None else visit.headers
    inbound = InboundCall(
        id=new_request_id() if visit is None else visit.id,
        path=f"/{version}/models/{model}:{method}" if visit is None else visit.path,
        call=ModelCall(version, model, method),
        framing=_framing(method, parent),
        query=NOTHING if query is None else MappingProxyType(dict(query)),
        headers=given if headers is None else MappingProxyType({**given, **headers}),
        key=None if visit is None else visit.key,
        body=_encoded(body),
        received_at=received_at,
        parent=parent,
        dialect=dialect,
        for_model=for_model,
    )
    return await serve(calls, inbound)


async def model_for(
    calls: Calls,
    received_at: float,
    model: str,
    body: Mapping[str, Any] | bytes,
    *,
    visit: Caller | None,
    dialect: str,
) -> str:
    """Say which model would serve a call; see :meth:`agm.serving.gateway.Gateway.model_for`."""
    model = model.removeprefix("models/")
    inbound = InboundCall(
        id=new_request_id() if visit is None else visit.id,
        path=f"/v1beta/models/{model}:generateContent" if visit is None else visit.path,
        call=ModelCall("v1beta", model, "generateContent"),
        framing=Framing.UNARY,
        query=NOTHING,
        headers=NOTHING if visit is None else visit.headers,
        key=None if visit is None else visit.key,
        body=_encoded(body),
        received_at=received_at,
        dialect=dialect,
    )
    return (await calls.prepare(inbound, explaining=True).model()).model


def _encoded(body: Mapping[str, Any] | bytes) -> bytes:
    if isinstance(body, bytes):
        return body
    return bytes(body) if isinstance(body, bytearray) else msgspec.json.encode(body)


def _framing(method: str, parent: GatewayRequest | None) -> Framing:
    """As the client wants it, for a call that may answer its request."""
    if parent is not None and parent.method == method:
        return parent.framing
    return Framing.SSE if method == "streamGenerateContent" else Framing.UNARY


async def serve(calls: Calls, inbound: InboundCall) -> Answer:
    """
    Serve a call: prepare it, make its attempts, and hand over its answer.

    It counts as every call does: for its client key, the request log and the observers.  Its time is the caller's to
    bound: cancelling ends it.

    :raises GatewayError: if no account can serve it, or it may not be made.
    :raises HookFailed: if a plugin failed.
    """
    held = ExitStack()
    if inbound.key is not None and calls.clients.limits_streams:
        held.enter_context(calls.clients.stream_of(inbound.key))
    call = calls.begin(calls.prepare(inbound))
    outcome: Outcome = "cancelled"
    status = CANCELLED
    handed_over = False
    try:
        opened = await call.open()
        if isinstance(opened, FinalAnswer):
            outcome, status = "error" if opened.status >= 400 else "ok", opened.status
            return _Complete(call, opened)
        if isinstance(opened, Answer):
            handed_over = True
            return _PassedOn(call, opened, held)
        answer = _Streamed(call, opened, held)
        handed_over = True
        return answer
    except (GatewayError, HookFailed) as e:
        outcome, status = "error", e.status if isinstance(e, GatewayError) else 500
        call.failed(e)
        raise
    except CancelledError:
        raise
    except Exception:
        outcome, status = "error", 500
        raise
    finally:
        if not handed_over:
            held.close()
            call.end(outcome, status, 0 if not isinstance(call.opened, FinalAnswer) else len(call.opened.body))


def _read(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


class _Complete(Answer):
    """An answer that is in memory."""

    def __init__(self, call: Call, answer: FinalAnswer) -> None:
        self.status = answer.status
        self.request = call.request
        self.headers = _read(answer.headers)
        self.framing = answer.framing
        self._body: bytes | None = answer.body

    async def __anext__(self) -> bytes:
        body, self._body = self._body, None
        if body is None:
            raise StopAsyncIteration
        return body

    def close(self, outcome: Outcome = "cancelled") -> None:
        """It has ended."""


class _PassedOn(Answer):
    """The answer of a call that a plugin made, for the one that it answers with it."""

    def __init__(self, call: Call, inner: Answer, held: ExitStack) -> None:
        self.status, self.account, self.framing = inner.status, inner.account, inner.framing
        self.headers, self.request = inner.headers, call.request
        self._call: Call | None = call
        self._inner = inner
        self._held = held
        self._sent = 0

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._inner.__anext__()
        except StopAsyncIteration:
            self._finish("error" if self.status >= 400 else "ok")
            raise
        except GatewayError:
            self._finish("aborted")
            raise
        self._sent += len(chunk)
        return chunk

    def close(self, outcome: Outcome = "cancelled") -> None:
        """End both calls."""
        self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        self._inner.close()
        self._held.close()
        call, self._call = self._call, None
        if call is not None:
            call.end(outcome, self.status, self._sent)


class _Streamed(Answer):
    """
    An answer that flows: either the upstream is read again once what came is taken, or :meth:`flow_to` hands over what
    comes, until :meth:`pause`.
    """

    def __init__(self, call: Call, opened: OpenAnswer, held: ExitStack) -> None:
        self.status = opened.answer.status
        self.account = opened.account.name
        self.framing = opened.framing
        self.request = call.request
        if opened.added:
            self.headers = _read(opened.added)
        #: Bytes that were taken.
        self.sent = 0
        self._call: Call | None = call
        self._opened = opened
        self._held = held
        self._chunks: deque[bytes] = deque()
        self._waiting: Deferred[None] | None = None
        self._flows = False
        self._paused = True
        self._ended = False
        call.relaying(self)

    @property
    def paused(self) -> bool:
        """Whether something waits to be taken before more is read."""
        return bool(self._chunks) or self._paused

    @property
    def failure(self) -> StreamFailure | None:
        """The error that the upstream reported in the middle of it, if it did."""
        return self._opened.body.filter.failure

    # Pushed, as :class:`agm.web.relay.Flow` says

    @property
    def failed(self) -> bool:
        """Whether it has ended and is not complete."""
        return self._opened.body.failed

    @property
    def broken(self) -> str | None:
        """Why it is not complete, if nothing else tells."""
        return self._opened.body.broken

    def flow_to(self, sink: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        """Hand everything to `sink` as it comes, and call `on_end` once at the end; :meth:`close` must follow."""

        def take(data: bytes) -> None:
            self.sent += len(data)
            sink(data)

        self._flows, self._paused = True, False
        self._opened.body.flow_to(take, on_end)

    def pause(self) -> None:
        """Hand over nothing for now."""
        self._paused = True
        self._opened.body.pause()

    def resume(self) -> None:
        """Go on."""
        self._paused = False
        self._opened.body.resume()

    def abort(self, why: str) -> None:
        """End it now, as broken."""
        self._opened.body.abort(why)

    # Pulled

    async def read(self) -> bytes:
        body = self._opened.body
        if self._flows or not body.ended or body.failed:
            return await super().read()
        whole = body.take()  # it is here as a whole
        self.sent = len(whole)
        self._finish("ok")
        return whole

    async def __anext__(self) -> bytes:
        if not self._flows:
            self._flows, self._paused = True, False
            self._opened.body.flow_to(self._take, self._end)
        if not self._chunks and not self._ended:
            self._opened.body.resume()
            if not self._chunks and not self._ended:
                self._waiting = Deferred()
                try:
                    await self._waiting
                finally:
                    self._waiting = None
        if self._chunks:
            chunk = self._chunks.popleft()
            self.sent += len(chunk)
            return chunk
        body = self._opened.body
        if body.failed:
            self._finish("aborted")
            raise BadUpstreamAnswer(f"The upstream's answer is not complete: {body.broken or 'it ends in an error'}.")
        self._finish("ok")
        raise StopAsyncIteration

    def close(self, outcome: Outcome = "cancelled") -> None:
        """End the call; an answer that was not read to its end counts as cancelled, unless `outcome` says better."""
        self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        self._opened.close()
        self._held.close()
        call, self._call = self._call, None
        if call is not None:
            call.end(outcome, self.status, self.sent)

    def _take(self, data: bytes) -> None:
        self._chunks.append(data)
        self._opened.body.pause()
        self._wake()

    def _end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

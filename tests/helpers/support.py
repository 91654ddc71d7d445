"""
Tools of the tests: an upstream whose every byte a test writes, and a client that sees every byte it gets.

Both are plain sockets on loopback in the reactor of the test, so that a test reads as a dialogue.
"""

from __future__ import annotations

import gc
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from agm.net.writes import lowest

reactor: Any = _reactor

#: Seconds after which a test gives up waiting.
PATIENCE = 10.0


async def eventually(condition: Callable[[], object], what: str = "the condition", patience: float = PATIENCE) -> None:
    """Wait until a condition holds; fail the test if it does not within `patience` seconds."""
    waited, pause = 0.0, 0.0005
    while not condition():
        assert waited < patience, f"{what} did not come true"
        await deferLater(reactor, pause)
        waited += pause
        pause = min(pause * 1.5, 0.01)  # most conditions are a turn or two away


async def settle(seconds: float = 0.1) -> None:
    """Let the reactor run for a moment."""
    await deferLater(reactor, seconds)


class Wire(Protocol):
    """One end of a connection: everything that came is in `received`, in order."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.count = 0
        self.keep = True
        self.lost: Failure | None = None
        self.connected_once = False

    def connectionMade(self) -> None:
        self.connected_once = True

    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)
        if self.keep:
            self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self.transport.write(data)

    async def until(self, *parts: bytes) -> bytes:
        """Wait until all `parts` have come; return everything that did."""
        try:
            await eventually(lambda: all(part in self.received for part in parts))
        except AssertionError:
            raise AssertionError(f"{parts!r} did not come; {self.received[-2000:]!r} did") from None
        return self.received

    async def asked(self, count: int) -> None:
        """Wait until this many POST requests have come."""
        await eventually(lambda: self.received.count(b"POST ") >= count, f"{count} requests")

    async def closed(self) -> bytes:
        """Wait until the other end has closed; return everything that came."""
        await eventually(lambda: self.lost is not None, "the end of the connection")
        return self.received


class ScriptedUpstream(Factory):
    """An upstream that says what the test makes it say; `connections` are in the order in which they came."""

    noisy = False

    def __init__(self) -> None:
        self.connections: list[Wire] = []
        self._port = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self._port.getHost().port}"

    def buildProtocol(self, addr: Any) -> Wire:
        wire = Wire()
        self.connections.append(wire)
        return wire

    async def connection(self, number: int = 0) -> Wire:
        """The connection of this number, once its first request is complete in head and body."""
        await eventually(lambda: len(self.connections) > number, f"connection {number}")
        wire = self.connections[number]
        await eventually(lambda: _complete(wire.received), "a whole request")
        return wire

    async def stop(self) -> None:
        """Close everything."""
        await self._port.stopListening()
        for wire in self.connections:
            if wire.lost is None:
                wire.transport.abortConnection()
        await eventually(lambda: all(w.lost is not None for w in self.connections), "closed upstream connections")


def _complete(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return True


def found_out_within(transport: Any) -> float | None:
    """
    Seconds after which the kernel knows that the other side of a connection has gone for good; None if it never asks.
    """
    bound: socket.socket = lowest(transport).getHandle()
    if not bound.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
        return None
    silence, every, times = (
        bound.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
    )
    assert silence == 60
    return silence + every * times


#: For tests of it.
needs_keepalive = pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="the system does not tell of it")


async def connect(port: int) -> Wire:
    """A client's connection to a port of 127.0.0.1."""
    return await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Wire())


def post(target: str, body: bytes = b'{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}', *headers: str) -> bytes:
    """The bytes of a POST request."""
    lines = [
        f"POST {target} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(target: str, *headers: str, method: str = "GET") -> bytes:
    """The bytes of a request without a body."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *headers]).encode() + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def account(upstream: ScriptedUpstream | AnsweringUpstream, kind: str = "api-key", name: str = "a") -> str:
    """The configuration of an account that an upstream serves."""
    credential = 'api_key = "k"' if kind in ("api-key", "openai") else 'access_token = "t"\nproject = "p"'
    return f'[[accounts]]\nname = "{name}"\nkind = "{kind}"\n{credential}\nendpoints = ["{upstream.url}"]\n'


@contextmanager
def failures_logged() -> Iterator[list[dict[str, Any]]]:
    """The events of failures that are logged meanwhile, those of Deferreds that nobody waits for among them."""
    seen: list[dict[str, Any]] = []

    def watch(event: dict[str, Any]) -> None:
        if event.get("log_level") is LogLevel.critical or event.get("log_failure") is not None:
            seen.append(event)

    globalLogPublisher.addObserver(watch)
    yield seen
    gc.collect()  # an error in a Deferred that nobody waits for is logged when the Deferred goes
    globalLogPublisher.removeObserver(watch)


def deferred_call(d: Deferred[Any]) -> Any:
    """The result of a Deferred that has fired."""
    found: list[Any] = []
    d.addBoth(found.append)
    assert found, "the Deferred has not fired"
    return found[0]


class Asked:
    """A request that an :class:`AnsweringUpstream` got."""

    def __init__(self, request: Any) -> None:
        self.path = request.path.decode()
        self.uri = request.uri.decode()
        self.body = request.content.read()
        self.headers = {k.decode().lower(): v[0].decode() for k, v in request.requestHeaders.getAllRawHeaders()}
        #: The API key or the bearer token that it came with.
        self.credential = self.headers.get("x-goog-api-key") or self.headers.get("authorization", "").removeprefix(
            "Bearer "
        )


class AnsweringUpstream:
    """
    An upstream that answers as a function says: ``answer(asked) -> (status, body)`` or ``(status, body, headers)``; an
    empty tuple closes the connection instead.

    `asked` holds every request, in order.
    """

    def __init__(self, answer: Callable[[Asked], tuple[Any, ...]]) -> None:
        self.asked: list[Asked] = []
        upstream = self

        class Everything(Resource):
            isLeaf = True

            def render(self, request: Any) -> bytes | int:
                asked = Asked(request)
                upstream.asked.append(asked)
                said = answer(asked)
                if not said:
                    request.transport.abortConnection()
                    return NOT_DONE_YET
                status, body, *headers = said
                request.setResponseCode(status)
                request.setHeader("content-type", "application/json")
                for name, value in (headers[0] if headers else {}).items():
                    request.setHeader(name, value)
                return body if isinstance(body, bytes) else json.dumps(body).encode()

        site = Site(Everything())
        site.noisy = False
        self._port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self._port.getHost().port}"

    @property
    def credentials(self) -> list[str]:
        """The credentials of all requests, in order."""
        return [asked.credential for asked in self.asked]

    async def stop(self) -> None:
        """Stop listening."""
        await self._port.stopListening()


def google_error(code: int, status: str, message: str = "no", *details: dict[str, Any]) -> dict[str, Any]:
    """An error as Google sends it."""
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def info(reason: str, **metadata: str) -> dict[str, Any]:
    """An ErrorInfo of Google's."""
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "metadata": metadata}


def retry(delay: str) -> dict[str, Any]:
    """A RetryInfo of Google's."""
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}

"""
An upstream that misbehaves: a table of faults, and the factory that plays one of them on every connection.

A fault is a list of steps: bytes, which may depend on the kind of account and the framing that was asked for, and marks
for what sockets do.  Bytes are handed to the kernel at once, so that a reset comes after what was sent before it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any

import attrs
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from agm.testing import RunningGateway
from tests.helpers.support import Wire, chunk, eventually, reactor

KINDS = ("api-key", "vertex", "code-assist")
TARGETS = {
    "unary": "/v1beta/models/m:generateContent",
    "sse": "/v1beta/models/m:streamGenerateContent?alt=sse",
    "array": "/v1beta/models/m:streamGenerateContent?alt=json",
}
TEXTS = ("one, größe", "two")


#: The fixture ``clients``: connects a client.
Clients = Callable[[RunningGateway], Awaitable[Wire]]


def configuration(kind: str, *urls: str, timeouts: str = "", account: str = "", more: str = "") -> str:
    """
    Accounts of a kind at `urls`, which are asked in that order.

    :param timeouts: lines of ``[timeouts]``.
    :param account: lines for each account.
    :param more: tables of any other kind.
    """
    credential = 'api_key = "k"' if kind == "api-key" else 'access_token = "t"\nproject = "p"'
    tables = [
        f'[[accounts]]\nname = "a{n}"\nkind = "{kind}"\n{credential}\npriority = {n}\n{account}\n'
        f'endpoints = ["{url}"]\n'
        for n, url in enumerate(urls)
    ]
    return f'[timeouts]\n{timeouts}\n[pool]\nstrategy = "priority"\n{more}\n' + "".join(tables)


def document(text: str) -> dict[str, Any]:
    """One answer, or one event of it."""
    return {"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}}]}


@attrs.frozen
class Shape:
    """
    What an upstream of a `kind` answers where a client asked for `framing`: unary, sse or array.

    `surface` is ``openai`` for Google's own OpenAI surface, ``shaped`` for a path in Vertex AI's shape, and else empty.
    """

    kind: str
    framing: str
    surface: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.kind, self.framing, self.surface)))

    @property
    def target(self) -> str:
        """The target that the client asks for."""
        plain = TARGETS[self.framing]
        match self.surface:
            case "openai":
                return "/v1beta/openai/chat/completions"
            case "shaped":
                return plain.replace("/v1beta/", "/v1beta1/projects/p/locations/global/publishers/google/")
        return plain

    @property
    def body(self) -> bytes:
        """The body with which the client asks."""
        if self.surface == "openai":
            return json.dumps({"model": "m", "stream": self.framing == "sse"}).encode()
        return json.dumps({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}).encode()

    @property
    def collected(self) -> bool:
        """Whether the gateway has to have the answer whole before the client gets any of it."""
        return self.kind == "code-assist" and self.framing == "unary"

    @property
    def pieces(self) -> tuple[bytes, bytes]:
        """The good answer in two pieces, of which each shows the client something."""
        texts = [json.dumps(self._wrapped(document(text)), ensure_ascii=False).encode() for text in TEXTS]
        if self.framing == "unary":
            return texts[0][:60], texts[0][60:]
        if self.framing == "sse" or self.kind == "code-assist":
            return tuple(b"data: " + text + b"\r\n\r\n" for text in texts)  # type: ignore[return-value]  # two
        return b"[" + texts[0] + b"\n,\r\n", texts[1] + b"\n]"

    @property
    def whole(self) -> bytes:
        """The good answer."""
        return b"".join(self.pieces)

    def _wrapped(self, plain: dict[str, Any]) -> dict[str, Any]:
        return {"response": plain, "traceId": "t"} if self.kind == "code-assist" else plain

    @property
    def documents(self) -> list[Any]:
        """What the client gets to read of the good answer."""
        return [document(text) for text in (TEXTS[:1] if self.framing == "unary" else TEXTS)]

    def head(self, *lines: str, status: str = "200 OK", version: str = "1.1") -> bytes:
        """An answer's head, with further lines."""
        type_ = "text/event-stream" if self.pieces[0].startswith(b"data:") else "application/json"
        return "\r\n".join([f"HTTP/{version} {status}", f"Content-Type: {type_}", *lines, "", ""]).encode()

    @property
    def with_length(self) -> bytes:
        """The good answer, and nothing after it."""
        return self.head(f"Content-Length: {len(self.whole)}") + self.whole

    @property
    def chunks(self) -> bytes:
        """The good answer in chunks."""
        return self.head("Transfer-Encoding: chunked") + b"".join(map(chunk, self.pieces)) + b"0\r\n\r\n"


class Do(Enum):
    """What an upstream does besides sending."""

    CLOSE = "close in good order"
    RESET = "close with a reset"
    SHOWN = "wait until the client has something of the answer"
    SILENCE = "send nothing more"


class Ends(Enum):
    """What a fault comes to, by the rules of retries."""

    SERVED = "a complete answer, at the first attempt"
    ELSEWHERE = "another account is asked; without one it is 502"
    AGAIN = "another account is asked; without one the same again, as often as max_attempts says"
    LOST = "502, and nobody is asked again: the upstream may have acted on it"
    LATE = "504, and nobody is asked again"
    REFUSED = "the upstream's status goes to the client"
    CUT = "the client sees that its answer broke off; 502 if nothing of it was out"


Part = bytes | Do | Callable[[Shape], bytes]


@attrs.frozen(eq=False)
class Fault:
    """
    One way to misbehave.

    :param status: what the client gets if nobody else is asked.
    :param timeouts: lines of ``[timeouts]``.
    :param before: whether the steps begin with the connection, and do not wait for a request.
    :param drip: whether everything is sent byte by byte.
    """

    name: str
    ends: Ends
    steps: Sequence[Part]
    status: int = 502
    timeouts: str = ""
    before: bool = False
    drip: bool = False

    @property
    def breaks_midway(self) -> bool:
        """Whether something of a good answer comes before the fault."""
        return self.ends is Ends.CUT


def _chunked(shape: Shape) -> bytes:
    return shape.head("Transfer-Encoding: chunked")


def _first_chunk(shape: Shape) -> bytes:
    return _chunked(shape) + chunk(shape.pieces[0])


def _half_by_length(shape: Shape) -> bytes:
    return shape.head(f"Content-Length: {len(shape.whole)}") + shape.pieces[0]


def _head(*lines: str, **more: str) -> Callable[[Shape], bytes]:
    return lambda shape: shape.head(*lines, **more)


_ERROR = b'{"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}'
_SOON = "first_byte = 0.25"
_IDLE = "idle = 0.25"

FAULTS: Sequence[Fault] = (
    # no answer at all
    Fault("silence", Ends.LATE, [Do.SILENCE], timeouts=_SOON, status=504),
    Fault("closes as it accepts", Ends.LOST, [Do.CLOSE], before=True),
    Fault("closes before the head", Ends.LOST, [Do.CLOSE]),
    Fault("resets before the head", Ends.LOST, [Do.RESET]),
    # a head that is none, or not all of one
    Fault("half a status line, then closes", Ends.LOST, [b"HTTP/1.1 20", Do.CLOSE]),
    Fault("half a head, then closes", Ends.LOST, [b"HTTP/1.1 200 OK\r\nContent-Ty", Do.CLOSE]),
    Fault("half a head, then resets", Ends.LOST, [b"HTTP/1.1 200 OK\r\nContent-Ty", Do.RESET]),
    Fault("half a head, then silence", Ends.LATE, [b"HTTP/1.1 200 OK\r\nCont", Do.SILENCE], timeouts=_SOON, status=504),
    Fault("garbage", Ends.ELSEWHERE, [bytes(range(256)) * 4, Do.CLOSE]),
    Fault("another protocol", Ends.ELSEWHERE, [b"SSH-2.0-OpenSSH_9.2p1\r\n"]),
    Fault("a head of 500 KB", Ends.LOST, [_head(*(f"X-{n}: {'x' * 1000}" for n in range(500)))]),
    Fault("a header line without an end", Ends.LOST, [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 400_000]),
    Fault("a length of 5,000 digits", Ends.LOST, [_head("Content-Length: " + "9" * 5000), b"x"]),
    Fault("a length below nothing", Ends.LOST, [_head("Content-Length: -5"), b"hello"]),
    Fault("two lengths", Ends.LOST, [_head("Content-Length: 5", "Content-Length: 6"), b"hello!"]),
    Fault("a length and chunks", Ends.LOST, [_head("Content-Length: 5", "Transfer-Encoding: chunked"), b"5\r\nhello"]),
    Fault("a line break in a header", Ends.LOST, [b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 2\r\n\r\n{}"]),
    Fault("a switch of protocols", Ends.LOST, [b"HTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n\0"]),
    Fault("interim answers without an end", Ends.LOST, [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 20_000]),
    Fault(
        "gzip that nobody asked for",
        Ends.LOST,
        [_head("Content-Encoding: gzip", "Content-Length: 9"), b"\x1f\x8b......."],
    ),
    # a head, and nothing after it
    Fault("a head, then silence", Ends.LATE, [_head("Content-Length: 5"), Do.SILENCE], timeouts=_SOON, status=504),
    Fault("a head, then idles", Ends.LOST, [_head("Content-Length: 5"), Do.SILENCE], timeouts=_IDLE),
    Fault("a head, then closes", Ends.LOST, [_head("Content-Length: 5"), Do.CLOSE]),
    Fault("a head, then resets", Ends.LOST, [_head("Content-Length: 5"), Do.RESET]),
    Fault("a head, then a bad chunk", Ends.LOST, [_chunked, b"zz\r\nhello\r\n"]),
    Fault("a head, then a chunk too large", Ends.LOST, [_chunked, b"f" * 17 + b"\r\nhello\r\n"]),
    # answers that are empty, or are none
    Fault("an empty 200", Ends.AGAIN, [_head("Content-Length: 0")]),
    Fault("an empty 200 in chunks", Ends.AGAIN, [_chunked, b"0\r\n\r\n"]),
    Fault("204", Ends.AGAIN, [_head(status="204 No Content")]),
    Fault("204 with a length", Ends.AGAIN, [_head("Content-Length: 5", status="204 No Content")]),
    Fault("304", Ends.AGAIN, [_head("Content-Length: 5", status="304 Not Modified")]),
    Fault("a redirect", Ends.AGAIN, [_head("Location: http://127.0.0.1:1/", "Content-Length: 0", status="302 Found")]),
    # errors whose body is not what it should be
    Fault(
        "503 with half a body",
        Ends.AGAIN,
        [_head("Content-Length: 100", status="503 Busy"), _ERROR[:20], Do.CLOSE],
        status=503,
    ),
    Fault(
        "503, reset in its body",
        Ends.AGAIN,
        [_head("Content-Length: 100", status="503 Busy"), _ERROR[:20], Do.RESET],
        status=503,
    ),
    Fault(
        "503 with a bad chunk",
        Ends.AGAIN,
        [_head("Transfer-Encoding: chunked", status="503 Busy"), chunk(_ERROR[:20]), b"?\r\n"],
        status=503,
    ),
    Fault("503 until it closes", Ends.AGAIN, [_head(status="503 Busy"), _ERROR, Do.CLOSE], status=503),
    Fault(
        "503, silent in its body",
        Ends.AGAIN,
        [_head("Content-Length: 100", status="503 Busy"), _ERROR[:20], Do.SILENCE],
        timeouts="idle = 0.1",
        status=503,
    ),
    Fault("500 with no body", Ends.AGAIN, [_head("Content-Length: 0", status="500 Oh")], status=500),
    Fault(
        "400 with half a body",
        Ends.AGAIN,
        [_head("Content-Length: 100", status="400 Bad"), b'{"error": {"code": 400,', Do.CLOSE],
        status=400,
    ),
    Fault(
        "400 that is a web page",
        Ends.AGAIN,
        [_head("Content-Length: 9", status="400 Bad"), b"<html>no<"],
        status=400,
    ),
    # good answers in unusual clothes
    Fault("a good answer", Ends.SERVED, [lambda s: s.with_length]),
    Fault("a good answer in chunks", Ends.SERVED, [lambda s: s.chunks]),
    Fault("byte by byte", Ends.SERVED, [lambda s: s.with_length], drip=True),
    Fault("byte by byte, in chunks", Ends.SERVED, [lambda s: s.chunks], drip=True),
    Fault("after 100 Continue", Ends.SERVED, [b"HTTP/1.1 100 Continue\r\n\r\n", lambda s: s.with_length]),
    Fault(
        "after early hints",
        Ends.SERVED,
        [b"HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\nLink: </x>\r\n\r\n" * 3, lambda s: s.with_length],
    ),
    Fault(
        "HTTP/1.0 with a length",
        Ends.SERVED,
        [lambda s: s.head(f"Content-Length: {len(s.whole)}", version="1.0") + s.whole, Do.CLOSE],
    ),
    Fault(
        "closes after the answer, unannounced",
        Ends.SERVED,
        [lambda s: s.with_length, Do.CLOSE],
    ),
    Fault("resets after the answer", Ends.SERVED, [lambda s: s.with_length, Do.SHOWN, Do.RESET]),
    Fault("garbage after the answer", Ends.SERVED, [lambda s: s.with_length + b"garbage"]),
    Fault("garbage after the last chunk", Ends.SERVED, [lambda s: s.chunks + b"garbage"]),
    Fault(
        "a second answer after the answer",
        Ends.SERVED,
        [lambda s: s.with_length + b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"],
    ),
    Fault(
        "a second answer after the last chunk",
        Ends.SERVED,
        [lambda s: s.chunks + b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"],
    ),
    Fault(
        "half a second answer after the answer",
        Ends.SERVED,
        [lambda s: s.with_length + b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoi"],
    ),
    Fault(
        "a second answer a moment after the answer",
        Ends.SERVED,
        [lambda s: s.with_length, Do.SHOWN, b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"],
    ),
    # good answers that break off
    Fault("chunks without the last one", Ends.CUT, [_first_chunk, Do.SHOWN, Do.CLOSE]),
    Fault("reset between chunks", Ends.CUT, [_first_chunk, Do.SHOWN, Do.RESET]),
    Fault("closes within a chunk", Ends.CUT, [_first_chunk, Do.SHOWN, lambda s: b"ff\r\n" + s.pieces[1][:4], Do.CLOSE]),
    Fault("a bad chunk", Ends.CUT, [_first_chunk, Do.SHOWN, b"xyz\r\nbad\r\n0\r\n\r\n"]),
    Fault(
        "a chunk without its line end",
        Ends.CUT,
        [_first_chunk, Do.SHOWN, lambda s: b"1\r\n" + s.pieces[1][:1] + b"junk\r\n0\r\n\r\n"],
    ),
    Fault("shorter than its length", Ends.CUT, [_half_by_length, Do.SHOWN, Do.CLOSE]),
    Fault("reset before its length", Ends.CUT, [_half_by_length, Do.SHOWN, Do.RESET]),
    Fault("until it closes", Ends.CUT, [_head(), lambda s: s.whole, Do.SHOWN, Do.CLOSE]),
    Fault("HTTP/1.0 until it closes", Ends.CUT, [_head(version="1.0"), lambda s: s.whole, Do.SHOWN, Do.CLOSE]),
    Fault("HTTP/1.0 until a reset", Ends.CUT, [_head(version="1.0"), lambda s: s.whole, Do.SHOWN, Do.RESET]),
    Fault("silence in the middle", Ends.CUT, [_first_chunk, Do.SHOWN, Do.SILENCE], timeouts=_IDLE),
)


class _Talk(Protocol):
    """One connection of a misbehaving upstream."""

    transport: Any

    def __init__(self, upstream: MisbehavingUpstream) -> None:
        self._upstream = upstream
        self._received = b""
        self._steps: list[Part] = []
        self.playing = False
        self.lost: Failure | None = None

    def connectionMade(self) -> None:
        if self._upstream.fault.before:
            self._play()

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        while (request := self._first_request()) is not None:
            self._upstream.requests.append(request)
            if not self._upstream.fault.before:
                self._play()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def _first_request(self) -> bytes | None:
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if len(rest) < lengths[0]:
            return None
        request, self._received = head + found + rest[: lengths[0]], rest[lengths[0] :]
        return request

    def _play(self) -> None:
        shape, fault = self._upstream.shape, self._upstream.fault
        for step in fault.steps:
            part = step(shape) if callable(step) else step
            if fault.drip and isinstance(part, bytes):
                self._steps += [bytes([byte]) for byte in part]
            elif self._upstream.at_once and part is Do.SHOWN:
                continue
            else:
                self._steps.append(part)
        if not self.playing:
            self._next()

    def _next(self) -> None:
        self.playing = False
        while self._steps and self.lost is None:
            step = self._steps.pop(0)
            match step:
                case Do.CLOSE:
                    self.transport.loseConnection()
                case Do.RESET:
                    self.transport.abortConnection()
                case Do.SHOWN:
                    self.playing = True
                    self._upstream.wait_until_shown(self._next)
                    return
                case bytes():
                    self._send(step)
                    if self._upstream.fault.drip:
                        self.playing = True
                        reactor.callLater(0, self._next)
                        return

    def _send(self, data: bytes) -> None:
        try:
            sent = self.transport.getHandle().send(data)
        except OSError:  # the gateway has closed; the reactor will tell
            return
        if sent < len(data):
            self.transport.write(data[sent:])


class MisbehavingUpstream(Factory):
    """
    Listens, and plays `fault` at every request.

    :param at_once: everything that the fault sends before it closes goes out in one turn.
    :ivar requests: what was asked, in order.
    :ivar shown: says whether the client has something of its answer; the test sets it.
    """

    noisy = False

    def __init__(self, fault: Fault, shape: Shape, *, at_once: bool = False) -> None:
        self.fault = fault
        self.shape = shape
        self.at_once = at_once
        self.requests: list[bytes] = []
        self.connections: list[_Talk] = []
        self.shown: Callable[[], object] = lambda: True
        self._port = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self._port.getHost().port}"

    def buildProtocol(self, addr: Any) -> _Talk:
        talk = _Talk(self)
        self.connections.append(talk)
        return talk

    @property
    def open(self) -> int:
        """How many connections are open."""
        return sum(1 for talk in self.connections if talk.lost is None)

    @property
    def done(self) -> bool:
        """Whether all that the fault consists of has been played."""
        return not any(talk.playing for talk in self.connections)

    def wait_until_shown(self, then: Callable[[], None]) -> None:
        """Call `then` as soon as the client has something of its answer."""
        if self.shown():
            then()
        else:
            reactor.callLater(0.001, self.wait_until_shown, then)

    async def stop(self) -> None:
        """Close everything."""
        await self._port.stopListening()
        for talk in self.connections:
            if talk.lost is None:
                talk.transport.abortConnection()
        await eventually(lambda: not self.open, "closed upstream connections")

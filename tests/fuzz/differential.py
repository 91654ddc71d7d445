"""
Two readers, one input: mutated messages for the gateway's readers and for h11, an HTTP library of other people.

A message that is taken here must be the same message to h11: method, target, fields, body, and where it ends.  What
h11 takes and the gateway refuses must be one of :data:`STRICTER`, each of which is deliberate; what an upstream may
send although h11 refuses it is one of :data:`LOOSER`.  For answers it is the other way about: llhttp reads them here.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import h11
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from agm.core.wire.request_parser import END, Head, Malformed, RequestReader
from agm.upstream.answer import Answer
from agm.upstream.connection import Connection
from tests.fuzz.mutation import TOKENS, inputs, pieces
from tests.fuzz.targets import REQUESTS

#: So large that size is no reason for a difference.
MAX_HEAD = 1024 * 1024


@attrs.frozen
class Message:
    """
    A message as a reader sees it: `start` is its first line's parts, `size` how many bytes it takes with its body.

    `whole` is whether its end has come; `refused` why it is not taken at all, `body` is then what came before.
    """

    start: tuple[object, ...] = ()
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    whole: bool = False
    size: int = 0
    keep_alive: bool = False
    refused: str = ""


@attrs.define
class Outcome:
    """What a run has found: how often the readers agreed, which deliberate differences there were, and which others."""

    runs: int = 0
    taken: int = 0
    deliberate: Counter[str] = attrs.field(factory=Counter)
    unexplained: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count}" for name, count in self.deliberate.most_common())
        return f"{self.runs} inputs, {self.taken} messages taken alike, {len(self.unexplained)} unexplained; {kinds}"


# Requests

Rule = Callable[[bytes], object]


def _finds(pattern: bytes) -> Rule:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL).search


def _lengths(data: bytes) -> bool:
    return len(re.findall(rb"(?im)^content-length:", data)) > 1 or bool(re.search(rb"(?im)^content-length:.*,", data))


#: What h11 takes and the gateway does not, and how it is known.
STRICTER: Mapping[str, Rule] = {
    "a line that ends with LF or CR alone": _finds(rb"(?<!\r)\n|\r(?!\n)"),
    "a line that continues another": _finds(rb"\r\n[ \t]"),
    "a control character in a field": _finds(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]"),
    "a NUL in a chunk's extension": _finds(rb"\x00"),
    "a length given twice": _lengths,
    "a length beside chunked": lambda data: _finds(rb"content-length:")(data) and _finds(rb"transfer-encoding:")(data),
    "chunked in HTTP/1.0": _finds(rb" HTTP/1\.0\r?\n.*transfer-encoding:"),
    "a method of more than 32 letters": _finds(rb"(?:\A|\n)[^ \r\n]{33,} "),
    "a length of more than 18 digits": _finds(rb"content-length:[ \t]*[0-9]{19,}"),
    "a chunk's size of more than 15 digits": _finds(rb"\n[0-9a-f]{16,}"),
    "a chunk's line of more than 256 bytes": _finds(rb"\n[0-9a-f]+;[^\r\n]{200,}"),
    "an expectation": _finds(rb"\nexpect:"),
    "a trailer that frames or routes": _finds(
        rb"\n0+[^\r\n]*\r\n.*\n?(?:content-length|transfer-encoding|host|trailer):"
    ),
    "a version that is not 1": _finds(rb" HTTP/[02-9]\.[0-9]"),
    "HTTP/1.2 without a Host": _finds(rb" HTTP/1\.[2-9]"),
    "white space behind a chunk's size": _finds(rb"\n[0-9a-f]+[ \t]+\r\n"),
}
#: What the gateway takes and h11 does not: RFC 9112, section 2.2, asks a server to skip an empty line or two.
_BLANK = re.compile(rb"(?:\r\n){0,2}")


def ours(data: bytes, rng: random.Random | None = None) -> Message:
    """The first request, as the gateway's reader and its check of the Host see it."""
    reader = RequestReader(MAX_HEAD, 10_000)
    head: Head | None = None
    body = b""
    fed = 0
    try:
        for piece in [data] if rng is None else pieces(data, rng):
            reader.feed(piece)
            fed += len(piece)
            while (event := reader.next()) is not None:
                if isinstance(event, Head):
                    head = event
                    hosts = len(head.values(b"host"))
                    if hosts > 1 or (not hosts and head.version == b"HTTP/1.1"):
                        return Message(refused="the Host")
                elif event is END:
                    return _ours(head, body, fed - reader.buffered)
                else:
                    assert isinstance(event, bytes)
                    body += event
    except Malformed as e:
        return Message(refused=str(e), body=body)
    return _ours(head, body, 0)


def _ours(head: Head | None, body: bytes, size: int) -> Message:
    if head is None:
        return Message()
    fields = tuple((name, value.lower() if name == b"transfer-encoding" else value) for name, value in head.fields)
    return Message((head.method, head.target), fields, body, whole=size > 0, size=size, keep_alive=head.keep_alive)


def h11s(data: bytes) -> Message:
    """The first request, as h11 sees it."""
    blank = _BLANK.match(data)
    skipped = blank.end() if blank is not None else 0
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=10 * MAX_HEAD)
    message = _read(connection, data[skipped:])
    return attrs.evolve(message, size=message.size + skipped) if message.whole else message


def _read(connection: h11.Connection, data: bytes, *, ends: bool = False) -> Message:
    start: tuple[object, ...] = ()
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body = bytearray()
    try:
        for given in (data, b"") if ends and data else (data,):
            connection.receive_data(given)
            while True:
                event = connection.next_event()
                if isinstance(event, h11.Request):
                    start, fields = (event.method, event.target), tuple(event.headers)
                elif isinstance(event, h11.Response):
                    start, fields = (event.status_code,), tuple(event.headers)
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    size = len(data) - len(connection.trailing_data[0])
                    keeps = connection.their_state in (h11.DONE, h11.MIGHT_SWITCH_PROTOCOL)  # nothing is switched here
                    return Message(start, fields, bytes(body), whole=True, size=size, keep_alive=keeps)
                elif not isinstance(event, h11.InformationalResponse):
                    break
    except h11.RemoteProtocolError as e:
        return Message(start, fields, bytes(body), refused=str(e) or "refused")
    return Message(start, fields, bytes(body))


def compare_requests(runs: int, seed: int) -> Outcome:
    """Mutated requests for both readers, one after the other as far as both go on."""
    rng = random.Random(f"requests {seed}")
    outcome = Outcome()
    words = (
        *(
            b"Content-Length: ",
            b"Transfer-Encoding: ",
            b"chunked",
            b"Host: a\r\n",
            b"HTTP/1.0",
            b"HTTP/1.1",
            b"Connection: ",
        ),
        *(
            b"close",
            b"keep-alive",
            b"Expect: 100-continue\r\n",
            b"0\r\n\r\n",
            b"1\r\nx\r\n",
            b";a=b",
            b"Trailer: a\r\n",
        ),
    )
    for data in inputs(REQUESTS, rng, runs, (*TOKENS, *words)):
        outcome.runs += 1
        rest = data
        for _ in range(4):
            mine, theirs = ours(rest), h11s(rest)
            in_pieces = ours(rest, rng)
            if (mine != in_pieces) if not mine.refused else not in_pieces.refused:
                outcome.unexplained.append(f"in pieces {in_pieces}, whole {mine}: {rest!r}")
            why = _difference(mine, theirs)
            if why:
                rule = next((name for name, holds in STRICTER.items() if mine.refused and holds(rest)), None)
                if rule is None:
                    outcome.unexplained.append(f"{why}\n  here {mine}\n  h11 {theirs}\n  {rest!r}")
                else:
                    outcome.deliberate[rule] += 1
            outcome.taken += mine.whole and not why
            if why or not mine.whole or not mine.keep_alive:
                break
            rest = rest[mine.size :]
    return outcome


def _difference(mine: Message, theirs: Message) -> str:
    """What is different about a message that either takes; nothing if it is the same, or neither does."""
    if mine.refused:
        return "" if theirs.refused or not (theirs.whole or theirs.start) else "only h11 takes it"
    if not mine.start:  # more is waited for
        return "h11 has a request already" if theirs.start else ""
    if not theirs.start:
        return "only the gateway takes it"
    if (mine.start, mine.fields) != (theirs.start, theirs.fields):
        return "the heads differ"
    if theirs.refused:
        return "" if not mine.whole else "only the gateway takes its body"
    if mine.whole != theirs.whole:
        return "one of them sees its end"
    if mine.body != theirs.body:
        return "the bodies differ"
    return (
        "" if (mine.size, mine.keep_alive) == (theirs.size, theirs.keep_alive) or not mine.whole else "the ends differ"
    )


# Answers

_OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = [
    _OK + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    _OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n",
    _OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n",
    _OK + b"Date: Sun, 22 Nov 2026 00:00:00 GMT\r\nVary: Origin\r\nVary: X\r\nServer: ESF\r\n\r\nto the end",
    b"HTTP/1.1 100 Continue\r\n\r\n" + _OK + b"Content-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _OK + b"Content-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: x\r\n\r\n" + _OK + b"Content-Length: 0\r\n\r\n",
    _OK + b"Content-Length: " + b"0" * 30 + b"2\r\n\r\n{}",
    _OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 30 + b"2\r\n{}\r\n0\r\n\r\n",
    _OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nTransfer-Encoding: x\r\n\r\n",
    b"HTTP/1.1 000 No\r\nContent-Length: 2\r\n\r\n{}" + _OK + b"Content-Length: 2\r\n\r\n[]",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.0 200 OK\r\n\r\nto the end",
    b"HTTP/1.1 503 \r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    _OK + b"Content-Length: 2\r\n\r\n{}" + _OK + b"Content-Length: 2\r\n\r\n[]",
]


class _Reader(Protocol):
    def __init__(self) -> None:
        self.body = b""
        self.ended: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.body += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.ended = reason


class _Wire(StringTransport):
    """A transport that ends when it is told to."""

    connection: Any

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.disconnecting = True


def our_answer(chunks: Sequence[bytes]) -> Message:
    """The answer to a request, as the gateway's client sees it; the connection ends behind it."""
    kept: list[object] = []
    connection = Connection(kept.append)
    wire = _Wire()
    connection.makeConnection(wire)
    reader = _Reader()
    heads: list[Answer] = []
    failures: list[Failure] = []

    def begun(answer: Answer) -> None:
        heads.append(answer)
        answer.deliverBody(reader)

    connection.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"", None).addCallbacks(begun, failures.append)
    for chunk in chunks:
        if wire.disconnecting or reader.ended is not None:
            break
        connection.dataReceived(chunk)
    if not kept or reader.ended is None:
        connection.connectionLost(Failure(ConnectionDone()))
    if not heads:
        return Message(refused=str(failures[0].value))
    answer = heads[0]
    start = (answer.code,)
    fields = tuple(
        (name.lower(), value.lower() if name == b"Transfer-Encoding" else value)
        for name, values in answer.headers.getAllRawHeaders()
        for value in values
    )
    assert reader.ended is not None, "a body without an end"
    whole = reader.ended.check(ResponseDone, PotentialDataLoss) is not None
    return Message(start, fields, reader.body, whole=whole, refused="" if whole else str(reader.ended.value))


def h11s_answer(data: bytes) -> Message:
    """The same, as h11 sees it."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=10 * MAX_HEAD)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    return _read(connection, data, ends=True)


#: llhttp refuses much that h11 takes of a server; an answer that is refused is a failed attempt, and harms nobody.
STRICTER_THAN_H11 = "only h11 takes it"
#: What the gateway takes of an upstream although h11 does not, and how it is known.
LOOSER: Mapping[str, Rule] = {
    "empty lines before the answer": _finds(rb"\A[\r\n]|\r\n\r\n[\r\n]+HTTP"),
    "a trailer with the name of a framing field, which goes no further": _finds(
        rb"\n0+[^\n]*\r\n.*(?:content-length|transfer-encoding):"
    ),
    "a chunk's size with many zeros before it": _finds(rb"\n0{20}"),
    "a length with many zeros before it": _finds(rb"content-length:[ \t]*0{10}"),
    "a transfer coding of an interim answer": _finds(rb"HTTP/1\.1 1[0-9]{2}\s.*transfer-encoding:.*HTTP/1\.[01] "),
    "a control character in the reason phrase, which goes no further": _finds(
        rb"HTTP/1\.[0-9] [0-9]{3}[^\r\n]*[\x00\x0b\x0c]"
    ),
}


def compare_answers(runs: int, seed: int) -> Outcome:
    """Mutated answers for both readers."""
    rng = random.Random(f"answers {seed}")
    outcome = Outcome()
    words = (
        b"Content-Length: ",
        b"Transfer-Encoding: ",
        b"chunked",
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"Connection: close\r\n",
        b"0\r\n\r\n",
    )
    for data in inputs(ANSWERS, rng, runs, (*TOKENS, *words)):
        outcome.runs += 1
        mine, theirs = our_answer([data]), h11s_answer(data)
        cut = our_answer(pieces(data, rng))
        if (mine.whole, mine.start if mine.whole else 0, mine.body if mine.whole else 0) != (
            cut.whole,
            cut.start if mine.whole else 0,
            cut.body if mine.whole else 0,
        ):
            outcome.unexplained.append(f"in pieces {cut}, whole {mine}: {data!r}")
        if not mine.whole:
            if theirs.whole:
                outcome.deliberate[STRICTER_THAN_H11] += 1
            continue
        why = ""
        if not theirs.whole:
            why = "only the gateway takes it"
        elif mine.start != theirs.start or mine.body != theirs.body:
            why = "they differ"
        elif sorted(mine.fields) != sorted(theirs.fields):
            why = "the fields differ"
        if why:
            rule = next((name for name, holds in LOOSER.items() if holds(data)), None)
            if rule is None:
                outcome.unexplained.append(f"{why}\n  here {mine}\n  h11 {theirs}\n  {data!r}")
            else:
                outcome.deliberate[rule] += 1
        else:
            outcome.taken += 1
    return outcome


DIFFERENCES: Mapping[str, Callable[[int, int], Outcome]] = {
    "requests-and-h11": compare_requests,
    "answers-and-h11": compare_answers,
}

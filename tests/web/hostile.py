"""
The table of hostile requests, ``hostile.txt``: read here, sent by :mod:`test_hostile`; its head says how it is written.

Other tests take its requests as a beginning for worse ones.  Nothing is sent here.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

TABLE = Path(__file__).with_name("hostile.txt")
CALL = b"/v1beta/models/m:generateContent"


@attrs.frozen
class Row:
    """
    A request, and what must become of it.

    `answers` are statuses with the reason of an error or an empty one; `upstream` is the target and the body of what
    reaches the upstream, None for nothing; `end` is ``keep``, ``close`` or ``cut``.
    """

    group: str
    name: str
    answers: tuple[tuple[int, str], ...]
    upstream: tuple[bytes, bytes] | None
    end: str
    request: bytes


def rows() -> list[Row]:
    """The whole table."""
    return list(_rows(TABLE.read_text("utf-8")))


def _rows(text: str) -> Iterator[Row]:
    group = ""
    for line in text.splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif line and not line.startswith("#"):
            name, answers, upstream, end, request = line.split(" | ", 4)
            yield Row(
                group,
                name.strip(),
                () if answers.strip() == "-" else tuple(map(_answer, answers.split(","))),
                None if upstream.strip() == "-" else _upstream(upstream.strip()),
                end.strip(),
                expand(request),
            )


def _answer(text: str) -> tuple[int, str]:
    status, _, reason = text.strip().partition(" ")
    return int(status), reason


def _upstream(text: str) -> tuple[bytes, bytes]:
    target, _, body = text.partition(" ")
    return CALL if target == "CALL" else target.encode("ascii"), expand(body)


def expand(text: str) -> bytes:
    """The bytes that a request of the table stands for."""
    parts: list[bytes] = []
    at = 0
    while at < len(text):
        begin = text.find("<", at)
        if begin < 0:
            begin = len(text)
        parts.append(_unescaped(text[at:begin]))
        if begin == len(text):
            break
        end, depth = begin, 0
        while True:
            depth += {"<": 1, ">": -1}.get(text[end], 0)
            end += 1
            if not depth:
                break
        name, _, argument = text[begin + 1 : end - 1].partition(" ")
        parts.append(_piece(name, argument))
        at = end
    return b"".join(parts)


def _unescaped(text: str) -> bytes:
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def _piece(name: str, argument: str) -> bytes:
    times = re.fullmatch(r"(\d+)\*", name)
    if times is not None:
        return expand(argument) * int(times[1])
    if name == "gzips":
        count, _, argument = argument.partition(" ")
        return _encoded(gzip.compress(expand(argument), mtime=0) * int(count))
    return _PIECES[name](expand(argument))


def _encoded(body: bytes) -> bytes:
    return b"Content-Encoding: gzip\r\n" + _body(body)


def _body(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


_HOST = b"Host: 127.0.0.1\r\n"
_JSON = b"Content-Type: application/json\r\n"
_PIECES: dict[str, Callable[[bytes], bytes]] = {
    "host": lambda _: _HOST,
    "get": lambda _: b"GET /healthz HTTP/1.1\r\n" + _HOST,
    "call": lambda _: b"POST %b HTTP/1.1\r\n" % CALL + _HOST + _JSON,
    "bare": lambda _: b"POST %b HTTP/1.1\r\n" % CALL + _HOST,
    "got": lambda target: b"GET %b HTTP/1.1\r\n" % target + _HOST + b"\r\n",
    "to": lambda target: b"POST %b HTTP/1.1\r\n" % target + _HOST + _JSON + _body(b"{}"),
    "body": _body,
    "chunked": lambda _: b"Transfer-Encoding: chunked\r\n\r\n",
    "gzip": lambda body: _encoded(gzip.compress(body, mtime=0)),
    "gzip+": lambda body: _encoded(gzip.compress(body, mtime=0) + b"rubbish"),
}

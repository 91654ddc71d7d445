"""An answer over HTTP/1.1 read from its bytes alone, as strictly as a client ought to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs


def dechunk(answer: bytes) -> tuple[bytes, bool]:
    """Return the body of a chunked answer as far as it came, and whether its last chunk did."""
    return dechunk_body(answer.partition(b"\r\n\r\n")[2])


def dechunk_body(rest: bytes) -> tuple[bytes, bool]:
    """Do the same with what came behind the answer's head."""
    body = b""
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found:
            return body, False
        length = int(size, 16)
        if length == 0:
            return body, True
        body += rest[:length]
        rest = rest[length + 2 :]


@attrs.frozen
class Seen:
    """An answer as far as it came.  `complete` is what its framing says."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool

    @classmethod
    def parse(cls, received: bytes, *, ended: bool) -> Seen | None:
        """Read what a connection has brought; None without a head.  `ended` says whether a FIN came."""
        head, found, rest = received.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ")[1])
        if headers.get("transfer-encoding") == "chunked":
            return cls(status, headers, *dechunk_body(rest))
        if "content-length" in headers:
            length = int(headers["content-length"])
            return cls(status, headers, rest[:length], len(rest) >= length)
        return cls(status, headers, rest, ended)

    @property
    def events(self) -> list[Any]:
        """The documents of all events that are there in whole."""
        blocks = self.body.split(b"\r\n\r\n")[:-1]
        return [json.loads(block.removeprefix(b"data: ")) for block in blocks]

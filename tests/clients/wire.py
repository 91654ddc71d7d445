"""A client that sees every byte: requests and answers as they stand on the wire, over a socket that blocks."""

from __future__ import annotations

import json
import socket
from typing import Any

import attrs

from testbed.answers import dechunk
from testbed.processes import PATIENCE
from tests.clients.servers import CLIENT_KEY
from tests.helpers.support import get, post

HELLO = b'{"contents":[{"role":"user","parts":[{"text":"Hello, world"}]}]}'
KEY = f"x-goog-api-key: {CLIENT_KEY}"


@attrs.frozen
class Answer:
    """An answer as it came; `whole` tells whether its framing says that this is all of it."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool

    @property
    def json(self) -> Any:
        """The body, read as one JSON document."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[bytes]:
        """The lines of an event stream; the last of them is what stands behind the last line's end."""
        return self.body.replace(b"\r\n", b"\n").split(b"\n")

    @property
    def events(self) -> list[Any]:
        """The JSON of each event, which has to stand on one ``data:`` line."""
        return [json.loads(line.removeprefix(b"data: ")) for line in self.lines if line.startswith(b"data: ")]


def exchange(url: str, request: bytes) -> Answer:
    """Send a request that asks for its connection to be closed; what came until it was."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), PATIENCE) as connection:
        connection.sendall(request)
        try:
            while data := connection.recv(65_536):
                received += data
        except ConnectionResetError:
            pass
    return _read(bytes(received))


def _read(received: bytes) -> Answer:
    head, found, body = received.partition(b"\r\n\r\n")
    assert found, f"no whole head came: {received[:500]!r}"
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body, whole = dechunk(received)
    else:
        whole = len(body) == int(headers.get("content-length", -1))
    return Answer(int(first.split(" ")[1]), headers, body, whole)


def ask(url: str, target: str, body: bytes = HELLO, *headers: str, key: str = KEY) -> Answer:
    """The answer to a POST with the tests' client key."""
    return exchange(url, post(target, body, key, "Connection: close", *headers))


def look(url: str, target: str, *headers: str, method: str = "GET") -> Answer:
    """The answer to a request without a body."""
    return exchange(url, get(target, KEY, "Connection: close", *headers, method=method))


def call(model: str, framing: str = "unary") -> str:
    """The target of a call that generates: ``unary``, ``sse`` or ``array``."""
    method, query = {
        "unary": ("generateContent", ""),
        "sse": ("streamGenerateContent", "?alt=sse"),
        "array": ("streamGenerateContent", "?alt=json"),
    }[framing]
    return f"/v1beta/models/{model.removeprefix('models/')}:{method}{query}"

"""
How long an answer takes, from outside: over a kept connection, one request at a time.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import PROMPT, is_whole


class Asking:
    """A connection that makes one request after another."""

    def __init__(self, url: str, certificate: Path | None = None) -> None:
        scheme, _, rest = url.partition("://")
        host, _, port = rest.partition(":")
        self._host = host
        self._socket = socket.create_connection((host, int(port)), 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if scheme == "https":
            context = ssl.create_default_context(cafile=certificate)
            self._socket = context.wrap_socket(self._socket, server_hostname=host)

    def _request(self, target: str) -> bytes:
        head = f"POST {target} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(PROMPT)}\r\n\r\n".encode() + PROMPT

    def ask(self, target: str) -> float:
        """Make a request, and take its whole answer, which must be a 200; milliseconds."""
        request = self._request(target)
        began = time.perf_counter()
        self._socket.sendall(request)
        received = b""
        while not is_whole(received):
            data = self._socket.recv(65536)
            if not data:
                raise SystemExit(f"bench: an answer broke off after {received[:200]!r}")
            received += data
        taken = (time.perf_counter() - began) * 1e3
        if not received.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"bench: a request failed: {received[:200]!r}")
        return taken

    def begin(self, target: str) -> float:
        """Make a request, and wait for the first byte of its answer only; milliseconds."""
        began = time.perf_counter()
        self._socket.sendall(self._request(target))
        received = self._socket.recv(65536)
        taken = (time.perf_counter() - began) * 1e3
        if not received.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"bench: a request failed: {received[:200]!r}")
        return taken

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


@contextmanager
def asking(url: str, certificate: Path | None = None) -> Iterator[Asking]:
    """A connection that is closed in the end."""
    it = Asking(url, certificate)
    try:
        yield it
    finally:
        it.close()


def direct(target: str, kind: str) -> str:
    """What a gateway asks the upstream for a target of its own."""
    return "/v1internal:" + target.rpartition(":")[2] if kind == "code-assist" else target


def percentile(values: Sequence[float], at: float) -> float:
    """The value below which a fraction of the values is."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * at), len(ordered) - 1)]

"""Clients that make requests one after the other until they are told to stop, and what came of them."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from testbed.answers import Seen
from testbed.sockets import PROMPT

UNARY = "/v1beta/models/gemini-2.5-flash:generateContent"
STREAM = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
#: Seconds after which an answer is given up.
PATIENCE = 30.0


class Load:
    """
    Clients on connections of their own, which they keep for as long as the server lets them.

    :param kept: whether connections are kept; else each request has a new one.
    :param headers: further ones, each a line.
    :ivar answered: how many complete 200s came.
    :ivar errors: what else came, and how often.
    :ivar processes: how many answers came from each process, by the end of their request ids.
    """

    def __init__(
        self, address: tuple[str, int], clients: int, *, target: str = UNARY, kept: bool = True, headers: str = ""
    ) -> None:
        self._address = address
        self._kept = kept
        lines = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{headers}"
        self._request = f"{lines}Content-Length: {len(PROMPT)}\r\n\r\n".encode() + PROMPT
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.answered = 0
        self.errors: Counter[str] = Counter()
        self.processes: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each finish the request that it makes."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self) -> None:
        connection: socket.socket | None = None
        while not self._stopped.is_set():
            try:
                if connection is None:
                    connection = socket.create_connection(self._address, PATIENCE)
                connection.sendall(self._request)
                seen = _read(connection)
                error = "" if seen.status == 200 and seen.complete else f"{seen.status} {seen.body[:200]!r}"
            except OSError as e:
                seen, error = None, f"{type(e).__name__}: {e}"
            with self._lock:
                if error:
                    self.errors[error] += 1
                elif seen is not None:
                    self.answered += 1
                    self.processes[seen.headers.get("x-agm-request-id", "")[-8:]] += 1
            if error or not self._kept or seen is None or seen.headers.get("connection") == "close":
                if connection is not None:
                    connection.close()
                connection = None
        if connection is not None:
            connection.close()


def _read(connection: socket.socket) -> Seen:
    received = b""
    while True:
        data = connection.recv(65536)
        received += data
        seen = Seen.parse(received, ended=not data)
        if seen is not None and (seen.complete or not data):
            return seen
        if not data:
            raise ConnectionError("the connection was closed before an answer came")


@contextmanager
def under_load(url: str, clients: int, *, target: str = UNARY, kept: bool = True, headers: str = "") -> Iterator[Load]:
    """Clients that make requests meanwhile."""
    host, _, port = url.removeprefix("http://").partition(":")
    load = Load((host, int(port)), clients, target=target, kept=kept, headers=headers)
    load.start()
    try:
        yield load
    finally:
        load.stop()

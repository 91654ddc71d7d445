"""Clients on blocking sockets, for tests of a real process."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress

from testbed.answers import Seen

#: Seconds after which a test gives up on a socket.
PATIENCE = 20.0
PROMPT = json.dumps({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}).encode()


class Client:
    """One connection to ``http://host:port``, made within `patience` seconds; everything that came is in `received`."""

    def __init__(self, url: str, *, patience: float = PATIENCE) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.received = b""
        self.ended = self.broken = False
        self._socket = socket.create_connection((host, int(port)), patience)
        self._socket.settimeout(PATIENCE)

    def post(self, target: str, body: bytes = PROMPT, *headers: str, version: str = "1.1") -> None:
        """Send a request with a JSON body, and further headers."""
        lines = [
            f"POST {target} HTTP/{version}",
            "Host: 127.0.0.1",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def get(self, target: str) -> None:
        """Send a GET."""
        self.send(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def send(self, data: bytes) -> None:
        """Send bytes; a connection that is gone already says so when it is read."""
        with suppress(ConnectionError):
            self._socket.sendall(data)

    def until(self, part: bytes) -> None:
        """Read until something has come."""
        while part not in self.received:
            assert self.read(), f"{part!r} did not come; {self.received[-500:]!r} did"

    def finish(self) -> Seen | None:
        """Read to the end of an answer, or of the connection; None if no answer came."""
        while (seen := self.seen) is None or not seen.complete:
            if not self.read():
                break
        return self.seen

    def drain(self) -> None:
        """Read to the end of the connection."""
        while self.read():
            pass

    def look(self) -> bool:
        """Take what is there now; whether the connection is still open."""
        self._socket.setblocking(False)
        try:
            while self.read():
                pass
            return False
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(PATIENCE)

    @property
    def seen(self) -> Seen | None:
        """The answer as far as it came."""
        return Seen.parse(self.received, ended=self.ended)

    def read(self) -> bool:
        """Read what comes next; False at the end of the connection."""
        try:
            data = self._socket.recv(65536)
        except ConnectionError:
            self.broken = True
            return False
        self.received += data
        self.ended = not data
        return bool(data)

    def close(self) -> None:
        """Close it: by a FIN, if everything that came has been read."""
        self._socket.close()

    def reset(self) -> None:
        """Close it by a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def ask(url: str, target: str) -> tuple[int, bytes] | None:
    """Status and body of a GET on a connection of its own; None if it is refused or closed without an answer."""
    try:
        client = Client(url)
    except ConnectionError:
        return None
    client.get(target)
    seen = client.finish()
    client.close()
    return None if seen is None else (seen.status, seen.body)

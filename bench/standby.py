"""
An upstream in a thread, for measurements of what its connections go through: when each closes, and what it was asked.

What it does with a request is the model's name: `quick` answers, `silent` says nothing, `hold` sends one event and
falls silent, `flood` sends for as long as it is let, `stale` answers the first request of a connection and closes at
the second.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

QUICK = b'{"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]}'
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n\r\n"
_CHUNKED = b"Transfer-Encoding: chunked"
_EVENT = b'data: {"candidates": [{"content": {"parts": [{"text": "one"}]}}]}\r\n\r\n'
_ITEM = b'[{"candidates": [{"content": {"parts": [{"text": "one"}]}}]}\n'
_MODEL = re.compile(rb"/models/([a-z]+):([a-zA-Z]+)[^ ]*?(alt=sse)?[ &]")
_LARGE = 64 * 1024


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """One connection; `asked` are the models, in order, `lost` is when it closed."""

    transport: asyncio.Transport

    def __init__(self, upstream: Standby) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._pouring = b""
        self._free = True
        self.asked: list[str] = []
        self.lost: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._upstream.connections.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = time.monotonic()

    def pause_writing(self) -> None:
        self._free = False

    def resume_writing(self) -> None:
        self._free = True
        self._pour()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if len(body) < (int(length[1]) if length else 0):
            return
        self._buffer = b""
        asked = _MODEL.search(head)
        if asked is None:
            self.transport.abort()
            return
        self.asked.append(asked[1].decode())
        getattr(self, "_" + self.asked[-1])(asked[2] == b"streamGenerateContent", asked[3] is not None)

    def _quick(self, stream: bool, sse: bool) -> None:
        self.transport.write(_HEAD % (b"application/json", b"Content-Length: %d" % len(QUICK)) + QUICK)

    def _silent(self, stream: bool, sse: bool) -> None:
        pass

    def _hold(self, stream: bool, sse: bool) -> None:
        type_ = b"text/event-stream" if sse else b"application/json"
        first = _EVENT if sse else _ITEM if stream else b'{"candidates": "'
        self.transport.write(_HEAD % (type_, _CHUNKED) + chunk(first))

    def _flood(self, stream: bool, sse: bool) -> None:
        self._hold(stream, sse)
        text = b"x" * _LARGE
        self._pouring = chunk(
            b'data: {"t": "%b"}\r\n\r\n' % text if sse else b',{"t": "%b"}' % text if stream else text
        )
        self._pour()

    def _stale(self, stream: bool, sse: bool) -> None:
        if len(self.asked) > 1:
            self.transport.close()
        else:
            self._quick(stream, sse)

    def _pour(self) -> None:
        if self._free and self._pouring and not self.transport.is_closing():
            self.transport.write(self._pouring)
            asyncio.get_running_loop().call_soon(self._pour)


class Standby:
    """The upstream; `url` is where it is."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        """Close everything."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        # asyncio may call connection_lost twice where a write fails while a read does, and then complains of itself
        self._loop.set_exception_handler(lambda loop, context: None)
        listening = self._loop.create_server(lambda: Connection(self), "127.0.0.1", 0, backlog=4096)
        server = self._loop.run_until_complete(listening)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def under_way(self, model: str) -> list[Connection]:
        """The open connections that were last asked for a model."""
        return [it for it in self.connections if it.lost is None and it.asked and it.asked[-1] == model]


@contextmanager
def standby() -> Iterator[Standby]:
    """An upstream for as long as the block lasts."""
    upstream = Standby()
    upstream.start()
    try:
        yield upstream
    finally:
        upstream.stop()

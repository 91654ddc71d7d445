#!/usr/bin/env python3
"""
What Live sessions cost: CPU for each frame that is relayed, beside a bare relay of bytes on Twisted, and memory of each
session that is idle.

usage: python bench/live.py [--frames 4000] [--sessions 1000] [--rounds 5] [--check] [--json FILE]

One frame at a time goes to the upstream and another comes back, so that each is a turn of the relay's by itself; the
bytes of the relay are the same, handshake included.  Audio comes in frames of some tens of kibibytes.  For memory so
many sessions are set up and say nothing: what the gateway has grown by since it had 100 of them, divided.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from figures import Figure, compare, finish, parser
from harness import HERE, account, cpu_seconds, gateway, rss_kib

from agm.core.wire.websocket import BINARY, TEXT, frame

#: Sizes of frames, in bytes: a word of a transcription, and audio of a second and a half.
SIZES = (1024, 64 * 1024)
WARMING = 100
_PATH = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
_KEY = re.compile(rb"(?i)\r\nSec-WebSocket-Key: *([^\r\n]+)\r\n")
_MASK = b"\x12\x34\x56\x78"
_SETUP = frame(TEXT, b'{"setup": {"model": "models/gemini-live"}}', _MASK)
_COMPLETE = frame(BINARY, b'{"setupComplete": {}}')


def _until(sock: socket.socket, size: int) -> None:
    while size > 0:
        data = sock.recv(min(size, 1 << 20))
        if not data:
            raise SystemExit("bench: a session broke off")
        size -= len(data)


def _head(sock: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        data = sock.recv(4096)
        if not data:
            raise SystemExit(f"bench: no handshake after {received[:200]!r}")
        received += data
    return received


class Upstream:
    """Sets up every session, and answers each frame of one size with one of the same payload."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self._listening.getsockname()[1]
        self.size = SIZES[0]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        head = _head(sock)
        key = _KEY.search(head)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        _until(sock, len(_SETUP) - len(head.partition(b"\r\n\r\n")[2]))
        sock.sendall(_COMPLETE)
        size = self.size
        answer, asked = frame(BINARY, b"y" * size), len(frame(BINARY, b"x" * size, _MASK))
        while True:
            left = asked
            while left:
                try:
                    data = sock.recv(left)
                except ConnectionResetError:
                    return
                if not data:
                    return
                left -= len(data)
            sock.sendall(answer)

    def close(self) -> None:
        """Take no more."""
        self._listening.close()


def session(port: int) -> socket.socket:
    """A session that is set up."""
    sock = socket.create_connection(("127.0.0.1", port), 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(b"0123456789abcdef").decode()
    sock.sendall(
        f"GET {_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    received = _head(sock)
    if not received.startswith(b"HTTP/1.1 101 "):
        raise SystemExit(f"bench: refused: {received[:300]!r}")
    sock.sendall(_SETUP)
    _until(sock, len(_COMPLETE) - len(received.partition(b"\r\n\r\n")[2]))
    return sock


@contextmanager
def relay(upstream: Upstream) -> Iterator[tuple[int, int]]:
    """The bare relay: its port and its process."""
    command = [sys.executable, str(HERE / "relay.py"), "127.0.0.1", str(upstream.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().strip().rpartition(":")[2]), process.pid
        finally:
            process.terminate()


def cpu_per_frame(port: int, pid: int, size: int, count: int) -> float:
    """Microseconds of CPU for each frame that goes one way."""
    asked, answer = frame(BINARY, b"x" * size, _MASK), len(frame(BINARY, b"y" * size))
    with session(port) as sock:
        for warming in (True, False):
            before = cpu_seconds(pid)
            for _ in range(count // 10 if warming else count):
                sock.sendall(asked)
                _until(sock, answer)
            used = cpu_seconds(pid) - before
    return used * 1e6 / (2 * count)


def frames(options: Namespace) -> list[Figure]:
    """CPU for a frame of each size."""
    found = []
    with ExitStack() as stack:
        upstream = Upstream()
        stack.callback(upstream.close)
        it = stack.enter_context(gateway(account(f"http://127.0.0.1:{upstream.port}")))
        bare_port, bare_pid = stack.enter_context(relay(upstream))
        port, pid = int(it.url().rpartition(":")[2]), it.process.pid
        for size in SIZES:
            upstream.size = size
            values: dict[str, list[float]] = {"agm": [], "relay": []}
            for _ in range(options.rounds):
                values["agm"].append(cpu_per_frame(port, pid, size, options.frames))
                values["relay"].append(cpu_per_frame(bare_port, bare_pid, size, options.frames))
            what = f"a frame of {size // 1024} KiB in a Live session"
            found.append(
                compare(what, "µs", values, against="relay", goal=2.0, note=f"{options.frames:,} frames a round")
            )
    return found


def _settled(pid: int) -> int:
    found = rss_kib(pid)
    for _ in range(20):
        time.sleep(0.25)
        before, found = found, rss_kib(pid)
        if found >= before:
            break
    return found


def memory(options: Namespace) -> Figure:
    """Memory of a session in which nothing happens, in KiB."""
    with ExitStack() as stack:
        upstream = Upstream()
        stack.callback(upstream.close)
        it = stack.enter_context(gateway(account(f"http://127.0.0.1:{upstream.port}")))
        port, pid = int(it.url().rpartition(":")[2]), it.process.pid
        for _ in range(WARMING):
            stack.enter_context(session(port))
        base = _settled(pid)
        for _ in range(options.sessions):
            stack.enter_context(session(port))
        grew = _settled(pid) - base
    note = f"{options.sessions:,} sessions, without TLS"
    return compare(
        "memory of an idle Live session", "KiB", {"agm": [grew / options.sessions]}, against=None, goal=40.0, note=note
    )


def options(arguments: list[str] | None = None) -> Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--frames", type=int, default=4000, help="frames each way and round (default: 4000)")
    made.add_argument("--sessions", type=int, default=1000, help="sessions that are idle (default: 1000)")
    if not any(action.dest == "rounds" for action in made._actions):
        made.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    return made.parse_args(arguments)


def main() -> int:
    """Measure, and print."""
    import resource

    chosen = options()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 4 * (chosen.sessions + WARMING) + 100
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    threading.stack_size(64 * 1024)
    return finish([*frames(chosen), memory(chosen)], chosen)


if __name__ == "__main__":
    sys.exit(main())

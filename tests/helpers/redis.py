"""A Redis of the test's own, on a unix socket: it listens nowhere else and keeps nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest


@attrs.define
class Redis:
    """A server that runs; `address` is what ``[cluster] redis`` takes."""

    path: Path
    pid: int

    @property
    def address(self) -> str:
        """As the configuration has it."""
        return f"unix:{self.path}"

    def ask(self, *words: str) -> bytes:
        """Give it a command, and return the beginning of its answer."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(10)
            asking.connect(os.fspath(self.path))
            asking.sendall((" ".join(words) + "\r\n").encode())
            return asking.recv(65536)

    def pause(self) -> None:
        """Let it hang."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[Redis]:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("no redis-server: apt install redis-server")
    folder = tempfile.mkdtemp(prefix="agm-redis-")
    path = Path(folder) / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            server = Redis(path, process.pid)
            until = time.monotonic() + 20
            while not path.exists():
                assert time.monotonic() < until, "redis-server does not serve"
                time.sleep(0.02)
            yield server
        finally:
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis(_redis_server: Redis) -> Iterator[Redis]:
    """A server that knows nothing at first."""
    _redis_server.ask("FLUSHALL")
    yield _redis_server
    _redis_server.go_on()

"""A real Redis of Debian's on a unix socket, for tests."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from agm.config.cluster import RedisAddress


class RedisServer:
    """A server without TCP and without a file, in a temporary folder; ends with :meth:`end`."""

    def __init__(self) -> None:
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        assert binary is not None, "these tests need a Redis: apt install redis-server"
        self.folder = tempfile.mkdtemp(prefix="agm-redis-")
        self.path = str(Path(self.folder) / "s")
        self.address = RedisAddress(path=self.path)
        self._command = [binary, "--port", "0", "--unixsocket", self.path, "--unixsocketperm", "600", "--save", ""]
        self.begin()

    def begin(self) -> None:
        """Start it, empty, and wait until it answers."""
        self.process = subprocess.Popen(self._command, cwd=self.folder, stdout=subprocess.DEVNULL)
        for _ in range(1000):
            try:
                self.ask("PING")
                return
            except OSError:
                time.sleep(0.01)
        raise AssertionError("redis-server does not answer")

    def ask(self, *command: str) -> bytes:
        """Send a command by a socket of its own, and return the beginning of what comes back."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(self.path)
            connection.sendall(" ".join(command).encode() + b"\r\n")
            return connection.recv(65536)

    def stall(self) -> None:
        """Have it answer nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it answer again."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; all it knew is lost."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it, and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder)

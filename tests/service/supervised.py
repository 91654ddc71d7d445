"""The real ``twistd`` as a service manager starts it: with sockets that are bound already, and one to tell news to."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from testbed.processes import BIN, PATIENCE, Twistd, environment

#: Puts the sockets where systemd does, says whom they are for, and becomes the command.
_BECOME = """
import os, sys
names = sys.argv[1].split(",") if sys.argv[1] else []
held = [os.dup(int(number)) for number in sys.argv[2].split(",") if number]
held = [os.dup2(fd, 100 + n) for n, fd in enumerate(held)]
for n, fd in enumerate(held):
    os.dup2(fd, 3 + n)
if held:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(held)), LISTEN_FDNAMES=":".join(names))
os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[3], sys.argv[3:])
"""


@contextlib.contextmanager
def supervised(
    folder: Path,
    *arguments: str,
    sockets: Mapping[str, socket.socket] | None = None,
    command: Sequence[str] = (str(BIN / "twistd"), "-n", "--pidfile="),
    **more: str,
) -> Iterator[Twistd]:
    """``twistd arguments`` with inherited sockets by name, gone when the block ends; `more` is for its environment."""
    folder.mkdir(parents=True, exist_ok=True)
    sockets = sockets or {}
    numbers = [held.fileno() for held in sockets.values()]
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", _BECOME, ",".join(sockets), ",".join(map(str, numbers)), *command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=folder,
            env=environment(folder, **more),
            pass_fds=numbers,
        )
    twistd = Twistd(process, folder)
    try:
        yield twistd
    finally:
        twistd.end()


class News:
    """The socket that a service manager listens on."""

    def __init__(self, *, abstract: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory()  # a socket's path is short, and that of a test's folder may not be
        self.variable = f"@agm-test-{os.getpid()}-{id(self)}" if abstract else f"{self._folder.name}/notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.variable.replace("@", "\0", 1) if abstract else self.variable)
        self._socket.settimeout(PATIENCE)

    def next(self) -> dict[str, str]:
        """The next message, waited for."""
        lines = self._socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def until(self, name: str) -> dict[str, str]:
        """The next message that says something about `name`."""
        while name not in (message := self.next()):
            pass
        return message

    def __enter__(self) -> News:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
        self._folder.cleanup()

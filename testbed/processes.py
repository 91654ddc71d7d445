"""The real ``twistd``, as a person starts it: tests that need a whole process find it here."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from testbed.hermetic import outside
from testbed.watch import watch

#: The folder of the commands that were installed with the Python that runs the tests.
BIN = Path(sys.executable).parent
#: Seconds after which a test gives up waiting for a process.
PATIENCE = 30.0

_LISTENING = re.compile(r'listening on ([^\s"]+)')


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of the tests, with a home of its own."""
    own = {"HOME": home, "XDG_CONFIG_HOME": home / ".config", "XDG_STATE_HOME": home / ".local" / "state"}
    return {**os.environ, **{name: str(folder) for name, folder in own.items()}, **more}


def run_outside(*command: str | Path, cwd: Path) -> str:
    """
    Run a command that has to succeed, and return its output.

    It sees nothing of the Python that runs the tests, but reaches what who runs them does, and has pip's cache.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env={name: value for name, value in outside().items() if not name.startswith(("PYTHON", "COVERAGE"))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}"
    return done.stdout


def run(*args: Any, **kwargs: Any) -> subprocess.CompletedProcess[Any]:
    """As :func:`subprocess.run`, and what is printed is searched for secrets."""
    done: subprocess.CompletedProcess[Any] = subprocess.run(*args, **kwargs)
    for printed in (done.stdout, done.stderr):
        watch.look(
            "what a command has printed",
            printed.decode("utf-8", "replace") if isinstance(printed, bytes) else printed or "",
        )
    return done


def until(condition: Callable[[], object], what: str, *, patience: float = PATIENCE) -> None:
    """Wait until a condition holds; `patience` is in seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not seen"
        time.sleep(0.02)


@attrs.frozen(eq=False)
class Twistd:
    """A running ``twistd``; its log and its standard error are in files, and can be read at any time."""

    process: subprocess.Popen[bytes]
    _folder: Path

    @classmethod
    def start(cls, folder: Path, *arguments: str, env: Mapping[str, str] | None = None, commands: Path = BIN) -> Twistd:
        """Start ``twistd -n … arguments`` in a folder of its own; `commands` is where ``twistd`` is."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [commands / "twistd", "-n", "--pidfile=", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=environment(folder) if env is None else env,
            )
        watch.follow(folder)
        return cls(process, folder)

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return (self._folder / "stdout").read_text(encoding="utf-8", errors="replace")

    @property
    def errors(self) -> list[str]:
        """The lines on its standard error so far."""
        return (self._folder / "stderr").read_text(encoding="utf-8", errors="replace").splitlines()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition holds; fail with the log if it does not, or if the process ends before."""
        try:
            until(lambda: condition() or self.process.poll() is not None, what)
            assert condition(), f"{what}: not seen before the end"
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.log[-4000:]}\n{self.errors}") from None

    def until_logged(self, text: str) -> None:
        """Wait until a text is in the log."""
        self.until(lambda: text in self.log, text)

    def addresses(self, count: int = 1) -> Sequence[str]:
        """Wait until it listens; the addresses, e.g. ``http://127.0.0.1:40123`` or ``unix:/run/agm.sock``."""
        self.until(lambda: len(_LISTENING.findall(self.log)) >= count and "agm serves" in self.log, "listening")
        return _LISTENING.findall(self.log)

    def url(self) -> str:
        """Wait until it listens; its first address."""
        return self.addresses()[0]

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; the exit status."""
        return self.process.wait(PATIENCE)

    def stop(self) -> int:
        """SIGTERM, and wait for the end; the exit status."""
        self.signal()
        return self.wait()

    def end(self) -> None:
        """Have it gone: by SIGTERM, so that its coverage is written, or for certain."""
        if self.process.poll() is None:
            self.signal()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def kill(self) -> None:
        """End it for certain."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def running(
    folder: Path, *arguments: str, env: Mapping[str, str] | None = None, commands: Path = BIN
) -> Iterator[Twistd]:
    """Start a ``twistd`` that is gone when the block ends; arguments as for :meth:`Twistd.start`."""
    twistd = Twistd.start(folder, *arguments, env=env, commands=commands)
    try:
        yield twistd
    finally:
        twistd.kill()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connection(address: str) -> http.client.HTTPConnection:
    """Make a connection to an address as the log names it."""
    if address.startswith("unix:"):
        return UnixConnection(address.removeprefix("unix:"))
    return http.client.HTTPConnection(address.removeprefix("http://"), timeout=PATIENCE)


def get(address: str, target: str, **headers: str) -> tuple[int, bytes]:
    """Send a GET, and return status and body; names of headers are written with underscores."""
    client = connection(address)
    try:
        client.request("GET", target, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


def post(address: str, target: str, body: bytes) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Send a JSON body; the connection, and the answer with its body still to be read."""
    client = connection(address)
    client.request("POST", target, body, {"Content-Type": "application/json"})
    return client, client.getresponse()

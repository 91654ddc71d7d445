"""
The store of one machine's workers: a Redis or Valkey of their own, on a unix socket beside the state.

It listens nowhere else, is its owner's alone, writes what it holds to a file there, so that it survives a restart, and
ends with the gateway.  One that was left behind by a supervisor that was killed is ended first.  Where the
configuration names a store, ``[cluster] redis``, there is none of this.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from agm.config import Config
from agm.config.problems import fail
from agm.persist import pool_state as state

__all__ = ["PrivateStore", "StoreUnusable"]

#: What serves, the first that is installed.
PROGRAMS = ("valkey-server", "redis-server")
#: A unix socket's path has room for so many bytes, but one.
MOST_PATH = 107
#: Seconds between two questions whether it serves, for an answer, and after which it is given up.
ASK_EVERY, ANSWER, PATIENCE = 0.05, 0.5, 30.0
#: Seconds after which one that has ended is started again.
RESTART_AFTER = 1.0
#: Seconds after which one that was told to end is killed.
LAST = 10.0
#: So many of its last lines are told when it has ended.
KEPT_LINES = 3
#: Its process is a session of its own: Ctrl-C in a terminal ends the gateway first, and the store after that.  On Linux
#: it is told to end when the supervisor has, whatever has ended that (PR_SET_PDEATHSIG).
_IN_A_SESSION = (
    "import ctypes, os, signal, sys; os.setsid(); "
    "getattr(ctypes.CDLL(None), 'prctl', lambda *_: 0)(1, int(signal.SIGTERM)); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)

log = Logger()


class StoreUnusable(Exception):
    """The store does not serve; the message says why, and what to do."""


class PrivateStore:
    """
    A Redis or Valkey for the workers of this machine.

    :param folder: where its socket and its files are; made for the owner alone.
    :param program: the path of the server.
    :param temporary: whether the folder is removed in the end.
    :ivar address: as ``[cluster] redis`` has it.
    """

    def __init__(self, reactor: Any, folder: Path, program: str, *, temporary: bool = False) -> None:
        self._reactor = reactor
        self._folder = folder
        self._program = program
        self._temporary = temporary
        self._sockets: str | None = None
        self._path = folder / "redis.sock"
        if len(os.fsencode(self._path)) > MOST_PATH:
            self._sockets = tempfile.mkdtemp(prefix="agm-")
            self._path = Path(self._sockets) / "redis.sock"
        self.address = f"unix:{self._path}"
        self._lock: int | None = None
        self._process: _Server | None = None
        self._started: Deferred[None] | None = None
        self._stopped: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._give_up = 0.0
        self._said: list[str] = []

    @classmethod
    def for_config(cls, reactor: Any, config: Config, *, temporary: bool = False) -> PrivateStore | None:
        """
        Make the one that a configuration needs; None if it names another.

        :param temporary: nothing is to be kept.
        :raises SystemExit: if no server is installed.
        """
        if config.cluster.redis is not None:
            return None
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            fail(
                "several workers share what they know in a Redis or Valkey, and none is installed: "
                "apt install redis-server, or name one as [cluster] redis"
            )
        path = None if temporary else state.path_of(config)
        if path is None:
            return cls(reactor, Path(tempfile.mkdtemp(prefix="agm-store-")), program, temporary=True)
        return cls(reactor, path.with_name(f"{path.stem}-store"), program)

    def start(self) -> Deferred[None]:
        """
        Start it; fires when it serves.

        :returns: fails with :class:`StoreUnusable` if it cannot.
        """
        self._started = Deferred()
        started = self._started
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            self._lock = self._locked()
        except (OSError, StoreUnusable) as e:
            self._settle(StoreUnusable(str(e)))
            return started
        self._give_up = self._reactor.seconds() + PATIENCE
        self._clear()
        return started

    def _locked(self) -> int:
        """Hold the folder for this process alone; its end lets go of it, whatever ends it."""
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StoreUnusable(
                f"another gateway with workers uses {self._folder}: stop it, or give another configuration"
            ) from None
        return descriptor

    def _clear(self) -> None:
        """End what an earlier supervisor has left behind: nobody else has this folder."""
        if self._asked(b"SHUTDOWN\r\n") is not None:
            if self._reactor.seconds() > self._give_up:
                self._settle(StoreUnusable(f"the server at {self._path} does not end: end it, and start again"))
                return
            self._timer = self._reactor.callLater(ASK_EVERY, self._clear)
            return
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._launch()

    def _launch(self) -> None:
        self._timer = None
        command: Sequence[str] = (sys.executable, "-I", "-c", _IN_A_SESSION, self._program, "-")
        self._process = _Server(self, self._settings())
        self._reactor.spawnProcess(self._process, command[0], command, env={"PATH": os.environ.get("PATH", "")})
        self._give_up = self._reactor.seconds() + PATIENCE
        self._timer = self._reactor.callLater(ASK_EVERY, self._ask)

    def _settings(self) -> bytes:
        """What it reads from its standard input: paths may hold anything there, and nobody sees them in a list."""
        settings = {
            "port": "0",
            "unixsocket": _quoted(self._path),
            "unixsocketperm": "600",
            "dir": _quoted(self._folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "daemonize": "no",
            "logfile": '""',
            "loglevel": "warning",
            "databases": "1",
            "maxmemory-policy": "noeviction",
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items()).encode("utf-8", "surrogateescape")

    def _ask(self) -> None:
        """Look whether it serves; it does not while it reads its file."""
        self._timer = None
        answer = self._asked(b"PING\r\n")
        if answer is not None and answer.startswith(b"+PONG"):
            log.info("{program} serves the workers on {path}", program=Path(self._program).name, path=str(self._path))
            self._settle(None)
        elif self._reactor.seconds() > self._give_up:
            self._settle(StoreUnusable(f"{self._program} does not serve on {self._path}"))
        else:
            self._timer = self._reactor.callLater(ASK_EVERY, self._ask)

    def _asked(self, question: bytes) -> bytes | None:
        """Return the beginning of the answer to a question; empty where it closes, None where nobody listens."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(ANSWER)
            try:
                asking.connect(os.fspath(self._path))
            except OSError:
                return None
            try:
                asking.sendall(question)
                return asking.recv(100)
            except OSError:
                return b""

    def _settle(self, problem: StoreUnusable | None) -> None:
        started, self._started = self._started, None
        if started is not None and problem is not None:
            started.errback(problem)
        elif started is not None:
            started.callback(None)

    def said(self, line: str) -> None:
        """The server says something; its last words before an end that nobody asked for are told."""
        log.debug("store: {line}", line=line)
        self._said = [*self._said[1 - KEPT_LINES :], line]

    def ended(self, reason: Failure) -> None:
        """The server has ended, as it was told to or not."""
        self._process = None
        if self._stopped is not None:
            stopped, self._stopped = self._stopped, None
            stopped.callback(None)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        why = "; ".join([reason.getErrorMessage().rstrip("."), *self._said])
        if self._started is not None:
            self._settle(StoreUnusable(f"{self._program} ended before it served: {why}"))
            return
        log.error(
            "the workers' store ended ({why}); each worker goes on by itself, and it is started again in {after:g} s",
            why=why,
            after=RESTART_AFTER,
        )
        self._timer = self._reactor.callLater(RESTART_AFTER, self._launch)

    async def stop(self) -> None:
        """End it, after it has written what it holds."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._process is not None:
            self._stopped = Deferred()
            stopped = self._stopped
            self._process.signal(signal.SIGTERM)
            killing = self._reactor.callLater(LAST, self._process.signal, signal.SIGKILL)
            await stopped
            if killing.active():
                killing.cancel()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Server(ProcessProtocol):
    """The server's process, whose words go to the log."""

    def __init__(self, store: PrivateStore, settings: bytes) -> None:
        self._store = store
        self._settings = settings

    transport: Any

    def connectionMade(self) -> None:
        """It runs: tell it how."""
        self.transport.write(self._settings)
        self.transport.closeStdin()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.transport.pid is not None:
            os.kill(self.transport.pid, number)

    def outReceived(self, data: bytes) -> None:
        """Something that it says."""
        for line in data.decode("utf-8", "replace").splitlines():
            self._store.said(line.strip())

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        """It has ended."""
        self._store.ended(reason)


def _quoted(path: Path) -> str:
    text = os.fspath(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'

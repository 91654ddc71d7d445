"""The pipes between a worker and its supervisor: the log, news of the worker, and orders to it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["LogPipe", "News", "Orders"]

#: Bytes of the log that wait for a supervisor that reads none.
MOST_LOG = 1024 * 1024


class LogPipe:
    """
    The file to which the log is written: a pipe that may be full, for which nobody here waits.

    What does not fit into it waits, up to :data:`MOST_LOG` bytes; the lines after those are lost.

    :ivar lost: how many lines were lost.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self.lost = 0
        os.set_blocking(descriptor, False)

    def write(self, text: str) -> None:
        """Take lines; each call brings whole ones."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._size + len(data) > MOST_LOG:
                self.lost += data.count(b"\n")
            elif data:
                self._waiting.append(data)
                self._size += len(data)

    def flush(self) -> None:
        """Write as much as the pipe takes."""
        with self._lock:
            while self._waiting:
                data = self._waiting[0]
                try:
                    written = os.write(self._descriptor, data)
                except BlockingIOError:
                    return
                except OSError:  # nobody reads any more
                    written = len(data)
                self._size -= written
                if written < len(data):
                    self._waiting[0] = data[written:]
                else:
                    self._waiting.popleft()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor


class News:
    """Tells the supervisor how this worker is; it has what :class:`agm.app.systemd.ServiceManager` has."""

    watchdog = None

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)

    def ready(self, status: str) -> None:
        """It serves.  `status` is a line for a person."""
        self._tell("ready", status)

    def reloading(self) -> None:
        """It reads its configuration again; :meth:`ready` says when that is done."""
        self._tell("reloading", "")

    def stopping(self, status: str, patience: float) -> None:
        """It stops, and may take so many seconds."""
        self._tell("stopping", f"{patience:g}")

    def alive(self) -> None:
        """Nothing: that it turns is in the shared memory."""

    def _tell(self, word: str, argument: str) -> None:
        line = f"{word} {argument}".replace("\n", " ")[:1000]
        with suppress(OSError):  # there is no supervisor any more, or one that reads nothing
            os.write(self._descriptor, f"{line}\n".encode("utf-8", "backslashreplace"))


@implementer(IReadDescriptor)
class Orders:
    """
    Reads the supervisor's orders.

    :param obey: is called with each, and with None when no more can come.
    """

    def __init__(self, reactor: Any, descriptor: int, obey: Callable[[str | None], object]) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._obey = obey
        self._unfinished = b""
        self._ended = False
        os.set_blocking(descriptor, False)
        reactor.addReader(self)

    def fileno(self) -> int:
        """See ``IFileDescriptor``."""
        return self._descriptor

    def logPrefix(self) -> str:
        """See ``ILoggingContext``."""
        return "Orders"

    def doRead(self) -> None:
        """Read what has come."""
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.connectionLost(None)
            return
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        for line in lines:
            self._obey(line.decode("ascii", "replace"))

    def connectionLost(self, reason: Failure | None) -> None:
        """Nobody writes any more."""
        self._reactor.removeReader(self)
        if not self._ended:
            self._ended = True
            self._obey(None)

"""
Telling the service manager how the gateway is: sd_notify(3), a datagram of ``NAME=value`` lines to ``$NOTIFY_SOCKET``.

Without that variable nothing is sent, and a message that cannot be sent is passed over: a gateway serves whether
anybody listens to this or not.  Nothing is ever read from the socket, and nothing of a request is in a message.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

__all__ = ["Manager", "ServiceManager"]


class Manager(Protocol):
    """Whoever started the process and is told how it is; `watchdog` as in :class:`ServiceManager`."""

    @property
    def watchdog(self) -> float | None:
        """Seconds within which it wants to hear of the process again and again; None if it does not."""

    def ready(self, status: str) -> None:
        """It serves.  `status` is a line for a person."""

    def reloading(self) -> None:
        """It reads its configuration again; :meth:`ready` says when that is done."""

    def stopping(self, status: str, patience: float) -> None:
        """It stops, and may take so many seconds.  `status` is a line for a person."""

    def alive(self) -> None:
        """It still turns."""


@attrs.frozen
class ServiceManager:
    """
    Whoever started the process and waits for news of it.

    `address` is that of its socket, None where nobody waits; `watchdog` is the number of seconds within which it wants
    to hear of the process again and again, None if it does not.
    """

    address: bytes | None = None
    watchdog: float | None = None
    _monotonic: Callable[[], float] = time.monotonic

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int) -> ServiceManager:
        """
        As the environment says.

        :param pid: of this process; a watchdog may be meant for another.
        """
        path = environ.get("NOTIFY_SOCKET", "")
        if path.startswith("/"):
            address = os.fsencode(path)
        elif path.startswith("@") and len(path) > 1:
            address = b"\0" + os.fsencode(path[1:])  # the abstract namespace of Linux, which has no files
        else:
            return cls()
        interval = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        return cls(address, int(interval) / 1e6 if meant and interval.isdecimal() and int(interval) else None)

    def ready(self, status: str) -> None:
        """It serves.  `status` is a line for a person."""
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """It reads its configuration again; :meth:`ready` says when that is done."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={int(self._monotonic() * 1e6)}")

    def stopping(self, status: str, patience: float) -> None:
        """It stops, and may take so many seconds.  `status` is a line for a person."""
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(patience * 1e6)}\nSTATUS={status}")

    def alive(self) -> None:
        """It still turns: what a watchdog waits for."""
        self._tell("WATCHDOG=1")

    def _tell(self, message: str) -> None:
        if self.address is None:
            return
        # what cannot be told changes nothing, as sd_notify(3) has it
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(message.encode("utf-8"), self.address)

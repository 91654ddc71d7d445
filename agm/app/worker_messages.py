"""
What a supervisor and its workers say to each other, and by which descriptors.

The supervisor writes to the worker's standard input: first how to start, a line of JSON, then orders, a word a line.
The worker writes its log to its standard output, and news, a word and its argument a line, to a pipe of their own.
"""

from __future__ import annotations

import socket
from typing import Final

import attrs
import msgspec

__all__ = [
    "AGAIN",
    "ERRORS",
    "INTERRUPT",
    "LOG",
    "MEMORY",
    "NEWS",
    "ORDERS",
    "RELOAD",
    "RETIRE",
    "SOCKETS",
    "STOP",
    "SharedListener",
    "SharedSocket",
    "Start",
]

#: Descriptors of a worker; its sockets begin at the last.
ORDERS: Final = 0
LOG: Final = 1
ERRORS: Final = 2
NEWS: Final = 3
MEMORY: Final = 4
SOCKETS: Final = 5

#: Read the configuration again.
RELOAD: Final = "reload"
#: The whole gateway stops; as SIGTERM does to a gateway of one process, and as SIGINT.
STOP: Final = "SIGTERM"
INTERRUPT: Final = "SIGINT"
#: The same once more: waited long enough.
AGAIN: Final = "again"
#: Others serve in this one's place: take no connection, serve those that clients have kept, and end.
RETIRE: Final = "retire"


class SharedListener(msgspec.Struct, frozen=True):
    """A listener whose socket is bound: the domain of the socket, and the interface (None for a unix socket)."""

    description: str
    family: int
    interface: str | None


class Start(msgspec.Struct, frozen=True):
    """
    How a worker starts.

    :ivar number: its place among the workers, from 1 on; whoever replaces it has the same.
    :ivar slot: its own in the shared memory.
    :ivar listeners: in the order of their sockets' descriptors.
    :ivar config: the path of the configuration; None where there is none.
    :ivar demo: where the emulator of ``--demo`` is; None without.
    :ivar upload_key: what uploads are sealed with.
    :ivar count: how many workers there are to be.
    :ivar folder: where the workers' own sockets are.
    :ivar store: the address of the store that the workers share, as ``[cluster] redis`` has it; None where the
        configuration names one.
    """

    number: int
    slot: int
    count: int
    folder: str
    listeners: tuple[SharedListener, ...]
    config: str | None
    plugins: tuple[str, ...]
    log_format: str | None
    syslog: str | None
    demo: str | None
    upload_key: bytes
    store: str | None


@attrs.frozen
class SharedSocket:
    """A socket that a worker has got: its descriptor and its domain."""

    descriptor: int
    family: int

    @classmethod
    def all(cls, start: Start) -> list[SharedSocket]:
        """Those of a start, in the order of its listeners."""
        return [
            cls(SOCKETS + number, socket.AddressFamily(listener.family))
            for number, listener in enumerate(start.listeners)
        ]

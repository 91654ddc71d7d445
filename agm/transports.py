"""
Writing to a transport without waiting for the reactor's next turn, and knowing how much of it has not gone out.

Twisted's sockets put what is written aside, ask the reactor for a turn, and write then: two changes of the poll set and
a turn for each answer.  Nearly always the socket would have taken the bytes at once.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import tcp, unix

#: Transports that are a socket and nothing more; all others, TLS among them, are written to as ever.
_SOCKETS = frozenset({tcp.Client, tcp.Server, unix.Client, unix.Server})


def send(transport: Any, data: bytes | memoryview) -> None:
    """
    Write; now, if nothing that was written before still waits.

    A pull producer is asked for more when the transport has written: for its sake everything goes that way.
    """
    if (
        type(transport) in _SOCKETS
        and transport.connected
        and not transport.TLS
        and not transport.disconnecting
        and not transport._aborting
        and not transport._tempDataBuffer
        and transport.offset == len(transport.dataBuffer)
        and (transport.producer is None or transport.streamingProducer)
    ):
        try:
            sent = transport.socket.send(data)
        except OSError:  # it takes nothing now, or never will again: the transport finds out
            sent = 0
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(bytes(data))  # TLS takes nothing else


def unsent(transport: Any) -> int:
    """How many bytes wait in a transport, and in those below it, for the other side to take them."""
    total = 0
    while transport is not None:
        total += len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
        total += getattr(transport, "_tempDataLen", 0)
        transport = getattr(transport, "transport", None)
    return total

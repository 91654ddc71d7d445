"""
Writing to a transport without waiting for the next turn of the reactor, knowing how much was not taken, and closing.

Twisted's sockets put what is written aside, ask the reactor for a turn, and write then: two changes of the poll set and
a turn for each answer.  Nearly always the socket would have taken the bytes at once.
"""

from __future__ import annotations

from fcntl import ioctl
from sys import byteorder
from termios import TIOCOUTQ
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


def hang_up(transport: Any) -> None:
    """
    Close once what was written has gone out.

    A TLS transport says that nothing follows, but does not wait for the other side to say so, too (RFC 8446, section
    6.1): a client that keeps an idle connection for later does not read from it.
    """
    transport.loseConnection()
    if not getattr(transport, "_appSendBuffer", None):  # what TLS cannot encrypt yet keeps the socket open
        _lowest(transport).loseConnection()


def unsent(transport: Any) -> int:
    """How many bytes wait in a transport, or in the one below it, for the kernel to take them."""
    if type(transport) in _SOCKETS:
        return len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    lowest = _lowest(transport)
    waiting: int = len(getattr(lowest, "dataBuffer", b"")) - getattr(lowest, "offset", 0)
    waiting += getattr(lowest, "_tempDataLen", 0)
    return waiting


def untaken(transport: Any) -> int:
    """
    How many bytes wait for the other side to take them: here, and in the kernel where it tells.

    This is what shrinks as long as the other side reads, however slowly; the kernel takes more only once a good part of
    the megabytes that it holds has gone.
    """
    waiting = unsent(transport)
    try:
        held = ioctl(_lowest(transport).fileno(), TIOCOUTQ, bytes(4))
    except (AttributeError, OSError, ValueError):  # it is no socket, or closed
        return waiting
    return waiting + int.from_bytes(held, byteorder)


def _lowest(transport: Any) -> Any:
    """The transport at the bottom: a socket's, as a rule."""
    while (below := getattr(transport, "transport", None)) is not None:
        transport = below
    return transport

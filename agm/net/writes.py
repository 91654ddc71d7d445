"""
Writing to a transport without waiting for the next turn of the reactor, knowing how much was not taken, and closing.

Twisted's sockets put what is written aside, ask the reactor for a turn, and write then: two changes of the poll set and
a turn for each answer.  Nearly always the socket would have taken the bytes at once: :func:`send` writes them so.

Where a turn of the reactor brings several requests or answers, :func:`send_soon` is better yet.  Whoever gets bytes has
to be woken, which costs the sender more than the call itself, and on a virtual machine much more; who is awake already
need not be.  So what is written in a turn goes out at the end of that turn, one after the other: a later one finds the
receiver of an earlier one at work.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from sys import byteorder
from termios import TIOCOUTQ
from time import monotonic
from typing import Any

from twisted.internet import tcp, unix
from twisted.logger import Logger

from agm.net.sharedkeys import lay_out

#: Transports that are a socket and nothing more; all others, TLS among them, are written to as ever.
SOCKETS = frozenset({tcp.Client, tcp.Server, unix.Client, unix.Server})
#: A piece of more bytes than this goes out at once, and so does what has come together for one transport.
SMALL = 16 * 1024
#: Seconds after which what waits goes out, though the turn be long.
LONG_TURN = 0.002

#: Seconds of silence before the other side is asked whether it is there, seconds between two questions, and how many
#: may stay without an answer: one that is gone is found out within two minutes.
SILENCE, ASK_EVERY, ASK_TIMES = 60, 10, 5
#: The same as options of a socket, as far as the system has them; on a Mac the first has another name.
_KEEP_ALIVE = [
    (option, value)
    for names, value in (
        (("TCP_KEEPIDLE", "TCP_KEEPALIVE"), SILENCE),
        (("TCP_KEEPINTVL",), ASK_EVERY),
        (("TCP_KEEPCNT",), ASK_TIMES),
    )
    for option in [next((getattr(socket, name) for name in names if hasattr(socket, name)), None)]
    if option is not None
]

log = Logger()

#: What a socket of either side comes to have.
_BOTH = "reactor socket fileno protocol connected disconnecting logstr producer streamingProducer dataBuffer offset"
lay_out(tcp.Server, *_BOTH.split(), "_tempDataBuffer", "_tempDataLen", "server", "client", "sessionno", "hostname")
lay_out(tcp.Client, *_BOTH.split(), "_tempDataBuffer", "_tempDataLen", "connector", "addr", "realAddress", "doWrite")

#: What goes out at the end of this turn, by transport, in the order in which it was written.
_waiting: dict[Any, bytes] = {}
_since = 0.0
#: Whether somebody sees to it already.
_in_turn = False


def send_soon(transport: Any, data: bytes) -> None:
    """Write at the end of this turn of the reactor, as :func:`send` does."""
    global _since
    if (
        len(data) > SMALL
        or type(transport) not in SOCKETS
        or (transport.producer is not None and not transport.streamingProducer)  # it is asked for more when this is out
    ):
        send(transport, data)
        return
    before = _waiting.get(transport)
    if before is not None:
        _waiting[transport] = before + data
        if len(before) > SMALL:
            flush(transport)
        return
    if not _waiting:
        _since = monotonic()
        if not _in_turn:
            transport.reactor.callLater(0, _flush_all)
    elif monotonic() - _since > LONG_TURN:
        _flush_all()
    _waiting[transport] = data


@contextmanager
def turn() -> Iterator[None]:
    """While this lasts, sockets that are ready are handed out one after the other; what they write goes out then."""
    global _in_turn
    _in_turn = True
    try:
        yield
    finally:
        _in_turn = False
        _flush_all()


def flush(transport: Any) -> None:
    """Write what waits for the end of this turn."""
    data = _waiting.pop(transport, None)
    if data is not None:
        _send(transport, data)


def _flush_all() -> None:
    global _since
    while _waiting:
        for transport in list(_waiting):  # not the dict: to send something may have somebody write or flush
            try:
                flush(transport)
            except Exception:  # the others have nothing to do with it
                log.failure("writing to a connection failed")
    _since = monotonic()


def send(transport: Any, data: bytes | memoryview) -> None:
    """
    Write; now, if nothing that was written before still waits.

    A pull producer is asked for more when the transport has written: for its sake everything goes that way.
    """
    if _waiting:
        flush(transport)
    _send(transport, data)


def _can_take(transport: Any) -> bool:
    """Whether a socket has nothing to do but to take what is written to it."""
    return (
        type(transport) in SOCKETS
        and transport.connected
        and not transport.TLS
        and not transport.disconnecting
        and not transport._aborting
        and not transport._tempDataBuffer
        and transport.offset == len(transport.dataBuffer)
        and (transport.producer is None or transport.streamingProducer)
    )


def _send(transport: Any, data: bytes | memoryview) -> None:
    if _can_take(transport):
        try:
            sent = transport.socket.send(data)
        except OSError:  # it takes nothing now, or never will again: the transport finds out
            sent = 0
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(bytes(data))  # TLS takes nothing else


class _Settled:
    """Stands for what has made a connection, once it is made: that would only be told of its end, and do nothing."""

    def connectionLost(self, reason: Any) -> None:
        """Nobody waits for it."""


_SETTLED = _Settled()


def belongs_to(transport: Any, protocol: Any) -> None:
    """
    A connection that was made through endpoints has come to `protocol`: have the socket talk to it, and nobody between.

    Twisted's endpoints leave a protocol of their own there, which passes everything on, and keep what the connection
    was made with: a call for each read, and a kilobyte and a half for each connection.
    """
    while (below := getattr(transport, "transport", None)) is not None:
        protocol, transport = transport, below
    if type(transport) is tcp.Client and transport.connected:
        transport.protocol = protocol
        transport.connector.factory = None  # the two hold each other
        transport.connector = _SETTLED


def hang_up(transport: Any) -> None:
    """
    Close once what was written has gone out.

    A TLS transport says that nothing follows, but does not wait for the other side to say so, too (RFC 8446, section
    6.1): a client that keeps an idle connection for later does not read from it.
    """
    flush(transport)
    transport.loseConnection()
    if not getattr(transport, "_appSendBuffer", None):  # what TLS cannot encrypt yet keeps the socket open
        lowest(transport).loseConnection()


def unsent(transport: Any) -> int:
    """
    How many bytes wait in a transport, or in the one below it, for the kernel to take them; not those that go out at
    the end of this turn.
    """
    if type(transport) in SOCKETS:
        return len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    below = lowest(transport)
    waiting: int = len(getattr(below, "dataBuffer", b"")) - getattr(below, "offset", 0)
    waiting += getattr(below, "_tempDataLen", 0)
    return waiting


def untaken(transport: Any) -> int:
    """
    How many bytes wait for the other side to take them: here, and in the kernel where it tells.

    This is what shrinks as long as the other side reads, however slowly; the kernel takes more only once a good part of
    the megabytes that it holds has gone.
    """
    flush(transport)
    waiting = unsent(transport)
    try:
        held = ioctl(lowest(transport).fileno(), TIOCOUTQ, bytes(4))
    except (AttributeError, OSError, ValueError):  # it is no socket, or closed
        return waiting
    return waiting + int.from_bytes(held, byteorder)


def keep_alive(transport: Any) -> None:
    """
    Have the kernel ask over a silent connection whether the other side is there still.

    What is on the way (a router that translates addresses, a load balancer) forgets a connection over which nothing
    comes for some minutes, as while a model thinks; and a side that is gone for good says nothing of it.
    """
    handle = getattr(lowest(transport), "getHandle", None)
    if handle is None:  # no socket of Twisted's
        return
    connection = handle()
    if getattr(connection, "family", None) not in (socket.AF_INET, socket.AF_INET6):
        return
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:  # it is closed already, or the system knows no such option: what it does by itself has to do
        pass


def lowest(transport: Any) -> Any:
    """The transport at the bottom: a socket's, as a rule."""
    while (below := getattr(transport, "transport", None)) is not None:
        transport = below
    return transport

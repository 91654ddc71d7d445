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
from fcntl import ioctl
from sys import byteorder
from termios import TIOCOUTQ
from time import monotonic
from typing import Any

from twisted.internet import tcp
from twisted.logger import Logger

from agm.net.features import SOCKETS, enabled
from agm.net.interfaces import GatewayTransport
from agm.net.sharedkeys import lay_out

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
_waiting: dict[GatewayTransport, bytes] = {}
_since = 0.0
#: Whether somebody sees to it already.
_in_turn = False


def send_soon(transport: GatewayTransport, data: bytes) -> None:
    """Write at the end of this turn of the reactor, as :func:`send` does."""
    global _since
    if len(data) > SMALL or type(transport) not in SOCKETS:
        send(transport, data)
        return
    it: Any = transport
    if it.producer is not None and not it.streamingProducer:  # it is asked for more when this is out
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
            it.reactor.callLater(0, _flush_all)
    elif monotonic() - _since > LONG_TURN:
        _flush_all()
    _waiting[transport] = data


def begin_turn() -> None:
    """Sockets that are ready are handed out one after the other; what they write goes out with :func:`end_turn`."""
    global _in_turn
    _in_turn = True


def end_turn() -> None:
    """Write what has been held since :func:`begin_turn`."""
    global _in_turn
    _in_turn = False
    _flush_all()


def flush(transport: GatewayTransport) -> None:
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


def send(transport: GatewayTransport, data: bytes | memoryview) -> None:
    """
    Write; now, if nothing that was written before still waits.

    A pull producer is asked for more when the transport has written: for its sake everything goes that way.
    """
    if _waiting:
        flush(transport)
    _send(transport, data)


def _can_take(transport: Any) -> bool:
    """Return whether a socket has nothing to do but to take what is written to it."""
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


def _send(transport: GatewayTransport, data: bytes | memoryview) -> None:
    if _can_take(transport):
        it: Any = transport
        try:
            sent = it.socket.send(data)
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


def unwrap_endpoint_protocol(transport: GatewayTransport, protocol: object) -> None:
    """
    A connection that was made through endpoints has come to `protocol`: have the socket talk to it, and nobody between.

    Twisted's endpoints leave a protocol of their own there, which passes everything on, and keep what the connection
    was made with: a call for each read, and a kilobyte and a half for each connection.
    """
    it: Any = transport
    to: Any = protocol
    while (below := getattr(it, "transport", None)) is not None:
        to, it = it, below
    if enabled.unwrapped_endpoints and type(it) is tcp.Client and it.connected:
        it.protocol = to
        it.connector.factory = None  # the two hold each other
        it.connector = _SETTLED


def close_both_ways(transport: GatewayTransport) -> None:
    """
    Close once what was written has gone out.

    A TLS transport says that nothing follows, but does not wait for the other side to say so, too (RFC 8446, section
    6.1): a client that keeps an idle connection for later does not read from it.
    """
    flush(transport)
    transport.loseConnection()
    if enabled.closing_tls_both_ways and not getattr(transport, "_appSendBuffer", None):
        lowest(transport).loseConnection()  # else what TLS cannot encrypt yet keeps the socket open


def buffered(transport: GatewayTransport) -> int:
    """
    Count the bytes that wait in a transport, or in the one below it, for the kernel to take; not those that go out at
    the end of this turn.

    Where Twisted's buffers cannot be looked into, it is what the kernel holds: that is full as long as they are not
    empty.
    """
    it: Any = transport if type(transport) in SOCKETS else lowest(transport)
    if type(it) in SOCKETS:
        waiting: int = len(it.dataBuffer) - it.offset + it._tempDataLen
        return waiting
    return _held_by_kernel(it)


def unacked(transport: GatewayTransport) -> int:
    """
    Return how many bytes wait for the other side to take them: here, and in the kernel where it tells.

    This is what shrinks as long as the other side reads, however slowly; the kernel takes more only once a good part of
    the megabytes that it holds has gone.
    """
    flush(transport)
    below = lowest(transport)
    held = _held_by_kernel(below)
    return buffered(transport) + held if type(below) in SOCKETS else held


def _held_by_kernel(transport: Any) -> int:
    """Return how many bytes of a socket the other side has not acknowledged; 0 where the kernel does not tell."""
    try:
        held = ioctl(transport.fileno(), TIOCOUTQ, bytes(4))
    except (AttributeError, OSError, ValueError):  # it is no socket, or closed
        return 0
    return int.from_bytes(held, byteorder)


def keep_alive(transport: GatewayTransport) -> None:
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


def lowest(transport: object) -> Any:
    """Return the transport at the bottom: a socket's, as a rule."""
    while (below := getattr(transport, "transport", None)) is not None:
        transport = below
    return transport


def named_by_proxy(transport: GatewayTransport) -> tuple[Any] | None:
    """
    Return who is behind a proxy that has named it by the PROXY protocol, as far as bytes have come: its address, or
    None if the proxy knows of none; and nothing where the connection does not speak that.
    """
    it: Any = transport
    while (below := getattr(it, "transport", None)) is not None:
        if type(it).__module__.startswith("twisted.protocols.haproxy."):
            named, proxy = it.getPeer(), below.getPeer()
            return (None if named == proxy else named,)
        it = below
    return None

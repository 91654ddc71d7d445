"""Writing straight to a socket: nothing is lost, doubled, reordered or sent after an abort; producers are paused."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from agm.net.writes import LONG_TURN, SMALL, buffered, close_both_ways, flush, send, send_soon, unacked
from tests.helpers.support import Wire, connect, eventually, reactor

MIB = 1024 * 1024


class Pair:
    """Two ends of a connection; the port at which there are more, and what was accepted there."""

    def __init__(self, port: int, accepted: list[Wire], theirs: Wire) -> None:
        self.port, self.accepted, self.theirs = port, accepted, theirs
        self.transport: Any = accepted[0].transport


@pytest_twisted.async_yield_fixture
async def pair() -> AsyncIterator[Pair]:
    """A connection on loopback."""
    accepted: list[Wire] = []

    class Accepting(Factory):
        noisy = False

        def buildProtocol(self, addr: Any) -> Wire:
            accepted.append(Wire())
            return accepted[-1]

    port = reactor.listenTCP(0, Accepting(), interface="127.0.0.1")
    theirs = await connect(port.getHost().port)
    await eventually(lambda: accepted and accepted[0].connected_once, "the connection")
    yield Pair(port.getHost().port, accepted, theirs)
    await port.stopListening()
    for wire in (*accepted, theirs):
        wire.transport.abortConnection()
        await wire.closed()


@pytest_twisted.ensureDeferred
async def test_what_the_socket_takes_goes_at_once(pair: Pair) -> None:
    send(pair.transport, b"hello")
    assert not buffered(pair.transport)
    await pair.theirs.until(b"hello")


@pytest_twisted.ensureDeferred
async def test_what_it_does_not_take_waits_and_arrives_in_order(pair: Pair) -> None:
    pair.theirs.transport.pauseProducing()
    data = bytes(range(256)) * 4096 * 8
    send(pair.transport, data)
    send(pair.transport, b"then")
    pair.transport.write(b"and then")
    send(pair.transport, b"at last")
    assert 0 < buffered(pair.transport) < len(data)
    assert unacked(pair.transport) > buffered(pair.transport), "the kernel holds the rest"
    pair.theirs.transport.resumeProducing()
    await eventually(lambda: len(pair.theirs.received) >= len(data) + 19, "all of it")
    assert pair.theirs.received == data + b"then" + b"and then" + b"at last"
    await eventually(lambda: not unacked(pair.transport), "the kernel empty")


@implementer(IPushProducer)
class Pushing:
    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


@pytest_twisted.ensureDeferred
async def test_a_producer_is_paused_while_much_waits_and_resumed_then(pair: Pair) -> None:
    producer = Pushing()
    pair.transport.registerProducer(producer, True)
    pair.theirs.keep = False
    pair.theirs.transport.pauseProducing()
    sent = 0
    while not buffered(pair.transport):
        assert producer.told == []
        send(pair.transport, b"x" * 10_000)
        sent += 10_000
        assert sent < 64 * MIB
    while not producer.told:
        send(pair.transport, b"x" * 10_000)
        assert buffered(pair.transport) < MIB
    assert producer.told == ["pause"]
    pair.theirs.transport.resumeProducing()
    await eventually(lambda: len(producer.told) > 1, "its turn")
    assert producer.told == ["pause", "resume"]
    pair.transport.unregisterProducer()


@implementer(IPullProducer)
class Pulled:
    """Writes a piece each time it is asked."""

    def __init__(self, transport: Any, pieces: int) -> None:
        self._transport = transport
        self.left = pieces

    def resumeProducing(self) -> None:
        if self.left:
            self.left -= 1
            send(self._transport, b"piece,")
        else:
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.left = 0


@pytest_twisted.ensureDeferred
async def test_a_pull_producer_is_asked_until_it_has_no_more(pair: Pair) -> None:
    producer = Pulled(pair.transport, 5)
    pair.transport.registerProducer(producer, False)
    await pair.theirs.until(b"piece," * 5)
    await eventually(lambda: pair.transport.producer is None, "its end")


@pytest_twisted.ensureDeferred
async def test_nothing_is_sent_on_a_connection_that_was_aborted(pair: Pair) -> None:
    """An upstream must not get a request that counts as not sent."""
    pair.transport.abortConnection()
    send(pair.transport, b"too late")
    await pair.theirs.closed()
    assert pair.theirs.received == b""


@pytest_twisted.ensureDeferred
async def test_the_other_side_gone_is_told_by_the_transport(pair: Pair) -> None:
    """A write that fails raises nothing, whoever notices first."""
    with socket.create_connection(("127.0.0.1", pair.port)) as theirs:
        await eventually(lambda: len(pair.accepted) == 2, "another connection")
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ours = pair.accepted[1]
    for _ in range(10):
        send(ours.transport, b"x" * 100_000)
    await ours.closed()
    send(ours.transport, b"x")
    assert unacked(ours.transport) == buffered(ours.transport), "there is no socket to ask"


# -- At the end of the turn --------------------------------------------------------------------------


def arrived(wire: Wire) -> bytes:
    """What the kernel has for the other side, which has not had its turn yet."""
    sock: socket.socket = wire.transport.socket  # type: ignore[attr-defined]  # a TCP transport has one
    try:
        return sock.recv(1_000_000, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


@pytest_twisted.ensureDeferred
async def test_what_is_written_in_a_turn_goes_out_at_its_end_as_one(pair: Pair) -> None:
    send_soon(pair.transport, b"one,")
    send_soon(pair.transport, b"two")
    assert arrived(pair.theirs) == b""
    assert not buffered(pair.transport)
    await pair.theirs.until(b"one,two")


@pytest_twisted.ensureDeferred
async def test_nothing_overtakes_what_waits_for_the_end_of_the_turn(pair: Pair) -> None:
    send_soon(pair.transport, b"one,")
    send(pair.transport, b"two,")
    assert arrived(pair.theirs) == b"one,two,"
    send_soon(pair.transport, b"three,")
    send_soon(pair.transport, b"x" * (SMALL + 1))
    assert arrived(pair.theirs).startswith(b"one,two,three,xxx")
    send_soon(pair.transport, b"y")
    assert unacked(pair.transport) >= 0
    assert arrived(pair.theirs).endswith(b"y"), "who asks what is on its way has it sent first"
    send_soon(pair.transport, b"last")
    close_both_ways(pair.transport)
    assert (await pair.theirs.closed()) == b"one,two,three," + b"x" * (SMALL + 1) + b"ylast"


@pytest_twisted.ensureDeferred
async def test_much_for_one_connection_does_not_wait(pair: Pair) -> None:
    """Its producer has to be paused in time."""
    for _ in range(3):
        send_soon(pair.transport, b"x" * SMALL)
    assert len(arrived(pair.theirs)) >= 2 * SMALL
    flush(pair.transport)
    await eventually(lambda: len(pair.theirs.received) == 3 * SMALL, "all of it")


@pytest_twisted.ensureDeferred
async def test_a_long_turn_holds_up_nothing_that_was_written_early(pair: Pair) -> None:
    other = await connect(pair.port)
    await eventually(lambda: len(pair.accepted) == 2, "another connection")
    send_soon(pair.transport, b"early")
    time.sleep(LONG_TURN * 2)  # noqa: ASYNC251  # the turn is held up by something else: that is meant
    send_soon(pair.accepted[1].transport, b"late")
    assert arrived(pair.theirs) == b"early"
    await other.until(b"late")
    other.transport.abortConnection()
    await other.closed()


@pytest_twisted.ensureDeferred
async def test_what_waited_when_a_connection_was_aborted_is_never_sent(pair: Pair) -> None:
    """A client that leaves in the turn of its request: the upstream must not get that."""
    send_soon(pair.transport, b"too late")
    pair.transport.abortConnection()
    await pair.theirs.closed()
    assert pair.theirs.received == b""


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_gone_by_the_end_of_the_turn_keeps_nobody_elses_back(pair: Pair) -> None:
    other = await connect(pair.port)
    await eventually(lambda: len(pair.accepted) == 2, "another connection")
    ours = pair.accepted[1]
    send_soon(ours.transport, b"nobody reads this")
    send_soon(pair.transport, b"but this")
    ours.transport.connectionLost(Failure(ConnectionDone()))  # type: ignore[attr-defined]  # as the reactor would
    await pair.theirs.until(b"but this")
    await other.closed()
    assert other.received == b""


@pytest.mark.parametrize("write", [send, send_soon])
def test_a_transport_that_is_no_socket_is_written_to_as_ever(write: Callable[[Any, bytes], None]) -> None:
    transport = StringTransport()
    write(transport, b"hello")
    assert transport.value() == b"hello"
    assert unacked(transport) == buffered(transport) == 0
    close_both_ways(transport)
    assert transport.disconnecting

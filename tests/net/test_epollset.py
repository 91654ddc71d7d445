"""Sockets that are waited for together: what comes, what goes, who is gone, and what is left of them."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from agm.net.epollset import SocketSet, watch
from tests.helpers.support import Wire, connect, eventually, reactor, settle

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="only Linux has sets of descriptors")


class Adopted(Wire):
    """A connection whose socket is waited for with others; what comes may be more than it can bear."""

    def connectionMade(self) -> None:
        watch(self.transport)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        if data == b"fail":
            raise ValueError("this is too much")
        super().dataReceived(data)


@attrs.frozen
class Listening:
    """A port, and the connections that were accepted there."""

    port: int
    accepted: list[Adopted]

    async def pair(self) -> tuple[Adopted, Wire]:
        """Both ends of a new connection: that which was adopted, and the other."""
        count = len(self.accepted)
        theirs = await connect(self.port)
        await eventually(lambda: len(self.accepted) > count and self.accepted[-1].connected_once, "the connection")
        return self.accepted[-1], theirs


@pytest_twisted.async_yield_fixture
async def listening() -> AsyncIterator[Listening]:
    """A port on loopback; nothing of it is left afterwards."""
    accepted: list[Adopted] = []

    class Accepting(Factory):
        noisy = False

        def buildProtocol(self, addr: Any) -> Wire:
            accepted.append(Adopted())
            return accepted[-1]

    port = reactor.listenTCP(0, Accepting(), interface="127.0.0.1")
    yield Listening(port.getHost().port, accepted)
    await port.stopListening()
    for wire in accepted:
        wire.transport.abortConnection()
        await wire.closed()
    await eventually(lambda: not sets(), "an empty set to be nobody's")


def sets() -> list[SocketSet]:
    """The sets that the reactor watches."""
    return [it for it in reactor.getReaders() if isinstance(it, SocketSet)]


@pytest_twisted.ensureDeferred
async def test_what_comes_and_goes_does_so_as_ever_and_the_reactor_watches_one_descriptor(listening: Listening) -> None:
    pairs = [await listening.pair() for _ in range(5)]
    assert len(sets()) == 1
    assert not {ours.transport for ours, _ in pairs} & set(reactor.getReaders())
    for number, (ours, theirs) in enumerate(pairs):
        theirs.send(b"ask %d" % number)
        await ours.until(b"ask %d" % number)
        ours.send(b"answer %d" % number)
        await theirs.until(b"answer %d" % number)
    for _, theirs in pairs:
        theirs.transport.loseConnection()
        await theirs.closed()


@pytest_twisted.ensureDeferred
async def test_who_is_paused_gets_nothing_until_it_goes_on(listening: Listening) -> None:
    ours, theirs = await listening.pair()
    ours.transport.pauseProducing()
    theirs.send(b"later")
    await settle()
    assert ours.received == b""
    ours.transport.resumeProducing()
    await ours.until(b"later")


@pytest_twisted.ensureDeferred
async def test_what_a_socket_does_not_take_goes_out_when_there_is_room(listening: Listening) -> None:
    ours, theirs = await listening.pair()
    theirs.transport.pauseProducing()
    data = bytes(range(256)) * 4096 * 16
    ours.send(data)
    await settle()
    theirs.transport.resumeProducing()
    await eventually(lambda: len(theirs.received) == len(data), "all of it")
    assert theirs.received == data


@pytest.mark.parametrize("paused", [False, True])
@pytest_twisted.ensureDeferred
async def test_who_leaves_is_noticed_and_how(listening: Listening, *, paused: bool) -> None:
    for reset in (False, True):
        with socket.create_connection(("127.0.0.1", listening.port)) as theirs:
            await eventually(lambda: listening.accepted and listening.accepted[-1].lost is None, "the connection")
            ours = listening.accepted[-1]
            if paused:
                ours.transport.pauseProducing()
            if reset:
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if paused:  # who does not read is told nothing
            await settle()
            assert ours.lost is None
            ours.transport.resumeProducing()
        await ours.closed()
        assert isinstance(ours.lost, Failure)
        assert ours.lost.check(ConnectionLost if reset else ConnectionDone)


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_one_that_fails_takes_no_other_with_it(listening: Listening, logged_failures: list[Any]) -> None:
    (bad, theirs), (good, others) = await listening.pair(), await listening.pair()
    theirs.send(b"fail")
    others.send(b"fine")
    await good.until(b"fine")
    await bad.closed()
    assert isinstance(bad.lost, Failure)
    assert bad.lost.check(ValueError)
    assert len(logged_failures) == 1


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_one_whose_end_fails_takes_no_other_with_it(listening: Listening, logged_failures: list[Any]) -> None:
    (bad, theirs), (good, others) = await listening.pair(), await listening.pair()

    def fail(reason: Failure) -> None:
        bad.lost = reason
        raise ValueError("this end is no good")

    bad.connectionLost = fail  # type: ignore[method-assign]
    theirs.transport.loseConnection()
    await bad.closed()
    others.send(b"fine")
    await good.until(b"fine")
    assert len(logged_failures) == 1


@pytest_twisted.ensureDeferred
async def test_what_was_to_be_sent_before_is_sent_and_then_nobody_waits_for_room(listening: Listening) -> None:
    """A proxy that answers before it was asked: the question is still on its way when the connection is adopted."""
    ours, theirs = await listening.pair()
    plain: Any = theirs.transport
    plain.write(b"early")
    assert plain in reactor.getWriters()
    watch(plain)
    await ours.until(b"early")
    await settle()
    assert plain not in reactor.getWriters()
    (found,) = sets()
    assert found._events[plain.fileno()] == select.EPOLLIN
    theirs.transport.abortConnection()
    await theirs.closed()


@pytest_twisted.ensureDeferred
async def test_when_the_reactor_lets_go_of_all_everybody_is_told(listening: Listening) -> None:
    ours, theirs = await listening.pair()
    (found,) = sets()
    found.connectionLost(Failure(ConnectionLost()))
    assert isinstance(ours.lost, Failure)
    await theirs.closed()


def test_a_transport_that_is_no_socket_stays_where_it_is() -> None:
    transport = StringTransport()
    watch(transport)
    assert not hasattr(transport, "reactor")

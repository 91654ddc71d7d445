"""The gate between the processes that share a socket, and sockets that somebody else has bound."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from agm.net.sharing import AHEAD, SILENT, AcceptGate, AdoptingReactor, SharedMemory
from tests.helpers.support import eventually


class Counting:
    """Processes with their gates, in one memory."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.memory = SharedMemory.make(count)
        self.open = [0] * count
        self.gates = [
            AcceptGate(self.clock, self.memory, slot, lambda slot=slot: self.open[slot], self.clock.seconds)  # type: ignore[misc]
            for slot in range(count)
        ]
        for gate in self.gates:
            gate.start()

    def may(self) -> list[bool]:
        for gate in self.gates:
            gate.tell()
        return [gate.may_accept() for gate in self.gates]


def test_a_process_takes_no_more_than_one_connection_beyond_the_one_with_the_fewest() -> None:
    it = Counting(3)
    assert it.may() == [True] * 3
    it.open = [AHEAD + 1, AHEAD, 0]
    assert it.may() == [False, True, True]
    it.open = [AHEAD + 2, AHEAD + 1, 1]
    assert it.may() == [False, True, True]


def test_whoever_does_not_turn_holds_nobody_back() -> None:
    it = Counting(2)
    it.open = [5, 0]
    assert it.may() == [False, True]
    it.memory.put(1, 0, it.clock.seconds() - SILENT - 0.1)
    assert it.gates[0].may_accept()


def test_whoever_leaves_takes_none_and_is_waited_for_by_nobody() -> None:
    it = Counting(2)
    it.open = [5, 0]
    it.gates[1].shut()
    assert it.gates[0].may_accept()
    assert not it.gates[1].may_accept()
    it.gates[1].stop()
    assert it.memory.get(1) == (0, 0.0)


def test_a_thousand_connections_are_split_evenly_whoever_is_asked_first() -> None:
    it = Counting(4)
    for number in range(1000):
        order = [0, 0, 1, 0, 2, 3] if number % 2 else [3, 0, 1, 2]  # the first is always the same
        taker = next(slot for slot in order if it.gates[slot].may_accept())
        it.open[taker] += 1
        it.gates[taker].tell()
    assert max(it.open) - min(it.open) <= AHEAD + 1


class Greeter(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")
        self.transport.loseConnection()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_a_socket_that_is_bound_already_is_served_and_left_as_it_is(kind: str, tmp_path: Path) -> None:
    """The path of a unix socket is neither opened to everybody nor removed: it is not this process's."""
    path = tmp_path / "s"
    bound = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    bound.bind(os.fspath(path) if kind == "unix" else ("127.0.0.1", 0))
    bound.listen(5)
    if kind == "unix":
        path.chmod(0o600)
    memory = SharedMemory.make(1)
    gate = AcceptGate(reactor, memory, 0, lambda: 0)
    adopting = AdoptingReactor(reactor, os.dup(bound.fileno()), bound.family, gate)
    description = f"unix:{path}" if kind == "unix" else "tcp:80:interface=127.0.0.1"
    port = await serverFromString(adopting, description).listen(Factory.forProtocol(Greeter))
    with socket.socket(bound.family) as client:
        client.connect(bound.getsockname())
        client.setblocking(False)
        received: list[bytes] = []

        def read() -> bool:
            try:
                received.append(client.recv(100))
            except BlockingIOError:
                return False
            return True

        await eventually(read, "an answer")
    assert received == [b"hello"]
    await port.stopListening()
    if kind == "unix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(bound.family) as client:
        client.connect(bound.getsockname())  # who has bound it listens on
    bound.close()

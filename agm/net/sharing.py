"""
One listening socket for several processes: each takes connections through a gate, so that none gets more than others.

The kernel hands a connection to whoever asks first, which on a busy machine is the same process again and again.  So
the processes tell each other, in a piece of shared memory, how many connections each has open and that it still turns;
one accepts only while it has hardly more than the one with the fewest.  Who has not turned for a moment is not waited
for.  Nothing of a request is ever in that memory.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet import unix
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IReadDescriptor
from twisted.internet.task import LoopingCall
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["AcceptGate", "AdoptingReactor", "GatedPort", "SharedMemory", "let_go"]

#: Seconds between two signs of life, and after which a process without one holds nobody back.
BEAT = 0.1
SILENT = 0.3
#: How many more connections a process may have than the one with the fewest, and still take another.
AHEAD = 1
#: Seconds after which a closed gate is looked at again.
LOOK_AGAIN = 0.002

#: How many connections a process has open, and when it last turned, in seconds of the monotonic clock.
_SLOT = struct.Struct("=Qd")


class SharedMemory:
    """
    What the processes of a machine tell each other: a slot each, which it alone writes.

    :param descriptor: of the file, which has no name.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, 0)
        self.slots = len(self._map) // _SLOT.size

    @classmethod
    def make(cls, slots: int) -> SharedMemory:
        """Make one with so many slots, all of them empty."""
        with tempfile.TemporaryFile() as file:
            file.truncate(slots * _SLOT.size)
            return cls(os.dup(file.fileno()))

    def put(self, slot: int, connections: int, beat: float) -> None:
        """Write a slot; a `beat` of 0 is no sign of life."""
        _SLOT.pack_into(self._map, slot * _SLOT.size, connections, beat)

    def get(self, slot: int) -> tuple[int, float]:
        """Read a slot: open connections, and the last sign of life."""
        found: tuple[int, float] = _SLOT.unpack_from(self._map, slot * _SLOT.size)
        return found

    def fewest(self, without: int, since: float) -> int | None:
        """Find the fewest open connections of those with a sign of life `since` then; None if there is no other."""
        found = enumerate(_SLOT.iter_unpack(self._map))
        return min((count for slot, (count, beat) in found if slot != without and beat > since), default=None)

    def close(self) -> None:
        """Let go of it."""
        self._map.close()
        os.close(self.descriptor)


class AcceptGate:
    """
    Whether this process may take another connection.

    :param slot: its own.
    :param count: how many connections it has open.
    :param now: seconds of the monotonic clock, which all processes of a machine have in common.
    """

    def __init__(
        self,
        reactor: Any,
        memory: SharedMemory,
        slot: int,
        count: Callable[[], int],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._memory = memory
        self._slot = slot
        self._count = count
        self._now = now
        self._beating = LoopingCall(self.tell)
        self._beating.clock = reactor
        self._shut = False

    def start(self) -> None:
        """Give signs of life from now on."""
        self._beating.start(BEAT)

    def stop(self) -> None:
        """Give no more."""
        if self._beating.running:
            self._beating.stop()
        self._memory.put(self._slot, 0, 0.0)

    def shut(self) -> None:
        """Take no further connection; the signs of life go on, but nobody is to wait for this process."""
        self._shut = True
        self.tell()

    def tell(self) -> None:
        """Tell the others how many connections are open here."""
        count = 2**32 if self._shut else self._count()
        self._memory.put(self._slot, count, self._now())

    def may_accept(self) -> bool:
        """Tell whether another connection may be taken now."""
        if self._shut:
            return False
        now = self._now()
        mine = self._count()
        fewest = self._memory.fewest(self._slot, now - SILENT)
        return fewest is None or mine <= fewest + AHEAD


@implementer(IListeningPort, IReadDescriptor)
class GatedPort:
    """
    A port that takes one connection a turn, and only while the gate is open.

    While it is not, the port is taken out of the reactor: it would be handed out again and again.

    :param port: Twisted's own, which listens.
    """

    def __init__(self, reactor: Any, port: Any, gate: AcceptGate) -> None:
        self._reactor = reactor
        self._port = port
        self._gate = gate
        self._again: Any = None
        self.factory = port.factory
        self.socket = port.socket
        port.stopReading()
        reactor.addReader(self)

    def fileno(self) -> int:
        """See ``IFileDescriptor``."""
        found: int = self._port.fileno()
        return found

    def logPrefix(self) -> str:
        """See ``ILoggingContext``."""
        return "GatedPort"

    def doRead(self) -> None:
        """Take a connection, if the gate is open."""
        if self._gate.may_accept():
            self.take_one()
        elif self._again is None:
            self._reactor.removeReader(self)
            self._again = self._reactor.callLater(LOOK_AGAIN, self._look)

    def take_one(self) -> None:
        """Take a connection if one waits, whatever the gate says: who closes the socket has to."""
        if self._port.connected:
            self._port.numberAccepts = 1
            self._port.doRead()
            self._gate.tell()

    def _look(self) -> None:
        self._again = None
        self._reactor.addReader(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has given it up."""
        self._port.connectionLost(reason)

    def getHost(self) -> Any:
        """See ``IListeningPort``."""
        return self._port.getHost()

    def startListening(self) -> None:
        """It does already."""

    def stopListening(self) -> Deferred[None] | None:
        """Take no further connection, and close the socket; the others' stay open."""
        self._reactor.removeReader(self)
        if self._again is not None:
            self._again.cancel()
            self._again = None
        stopping: Deferred[None] | None = self._port.stopListening()
        return stopping


def let_go(port: Any) -> Any:
    """Stop listening here alone: Twisted would shut the socket down, which ends it for all who share it."""
    port._shouldShutdown = False  # noqa: SLF001  # in agm.net.features
    return port.stopListening()


class _SharedUNIXPort(unix.Port):
    """A unix socket that somebody else has bound, whose file stays as it is: neither opened to others, nor removed."""

    _shouldShutdown = False

    def __init__(self, bound: socket.socket, factory: Any, reactor: Any) -> None:
        super().__init__(bound.getsockname(), factory, reactor=reactor)
        self._bound = bound

    def startListening(self) -> None:
        """Wait for connections."""
        it: Any = self
        it.factory.doStart()
        it.connected = True
        it.socket = self._bound
        it.fileno = self._bound.fileno
        self.numberAccepts = 1
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket; its file is not this process's to remove."""
        super(unix.Port, self).connectionLost(reason)


@attrs.frozen
class AdoptingReactor:
    """
    A reactor for one endpoint, which listens on a socket that is bound already, whatever it was to be bound to.

    :param gate: for its connections.
    """

    _reactor: Any
    _descriptor: int
    _family: int
    _gate: AcceptGate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> GatedPort:
        """See ``IReactorTCP``."""
        return self._adopted(factory)

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> GatedPort:
        """See ``IReactorSSL``."""
        return self._adopted(TLSMemoryBIOFactory(contextFactory, False, factory))

    def listenUNIX(
        self, address: str, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> GatedPort:
        """See ``IReactorUNIX``."""
        return self._adopted(factory)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> GatedPort:
        """See ``IReactorSocket``."""
        return self._adopted(factory)

    def _adopted(self, factory: Any) -> GatedPort:
        if self._family == socket.AF_UNIX:
            bound = socket.socket(fileno=self._descriptor)
            bound.setblocking(False)
            port: Any = _SharedUNIXPort(bound, factory, self._reactor)
            port.startListening()
        else:
            os.set_blocking(self._descriptor, False)
            port = self._reactor.adoptStreamPort(self._descriptor, self._family, factory)
            os.close(self._descriptor)  # Twisted has its own copy, and with the last one the socket closes
        return GatedPort(self._reactor, port, self._gate)

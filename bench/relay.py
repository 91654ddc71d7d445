"""
A relay of bytes on Twisted, to compare with: what comes in at one side goes out at the other, and nobody reads it.

Run: ``python relay.py HOST PORT``.  It prints its address.  A side that does not take its bytes pauses the other.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

reactor: Any = _reactor


class Side(Protocol):
    """One of the two connections; the other is its `peer` once there is one."""

    transport: Any
    peer: Side | None = None

    def join(self, peer: Side) -> None:
        """Send to the other what comes here, at its pace."""
        self.peer = peer
        peer.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        assert self.peer is not None, "nothing is read before"
        self.peer.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.peer is not None:
            self.peer.transport.unregisterProducer()
            self.peer.transport.loseConnection()


class Outwards(Side):
    """The connection to the upstream."""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        inner: Side = self.factory.inner
        self.join(inner)
        inner.join(self)
        inner.transport.resumeProducing()


class Inwards(Side):
    """A client's connection."""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.pauseProducing()
        outwards: Any = ClientFactory.forProtocol(Outwards)
        outwards.inner, outwards.noisy = self, False
        reactor.connectTCP(sys.argv[1], int(sys.argv[2]), outwards)


if __name__ == "__main__":
    listening = Factory.forProtocol(Inwards)
    port = reactor.listenTCP(0, listening, interface="127.0.0.1")
    print(f"http://127.0.0.1:{port.getHost().port}", flush=True)
    reactor.run()

"""How every connection to an upstream begins: kept alive, watched, and ready once TLS is agreed on."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from agm.net.epollset import watch
from agm.net.writes import keep_alive
from agm.upstream.errors import NoHandshake


@implementer(IHandshakeListener)
class OpeningConnection(Protocol):
    """
    The beginning of a connection; a subclass speaks what follows, and calls :meth:`ended` when it is closed.

    :ivar ready: fires with the connection when something can be sent; None after that.
    :ivar lost: the connection is closed.
    """

    def __init__(self) -> None:
        self.ready: Deferred[Any] | None = Deferred()
        self.lost = False

    def connectionMade(self) -> None:
        """Connected; ready unless TLS is still to be agreed on."""
        transport: Any = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        keep_alive(transport)
        watch(transport)
        if ISSLTransport(transport, None) is None:
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        """TLS is agreed on, and the certificate verified; or there is none."""
        ready = self.ready
        if ready is not None and not ready.called:
            self.ready = None
            ready.callback(self)

    def ended(self, reason: Failure) -> bool:
        """Note that it is closed; fail :attr:`ready` if that came first, and tell whether it did."""
        self.lost = True
        if self.ready is None:
            return False
        if not self.ready.called:
            self.ready.errback(Failure(NoHandshake()) if reason.check(ConnectionClosed) else reason)
        return True

"""A proxy for tests: it opens connections as ``CONNECT`` asks, whatever their name, to the one upstream it knows."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.python.failure import Failure

from tests.helpers.support import ScriptedUpstream, eventually, reactor

GRANTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class SecureUpstream(ScriptedUpstream):
    """A scripted upstream behind TLS, for the name in `url`."""

    def __init__(self, options: CertificateOptions, host: str = "localhost") -> None:
        self.connections = []
        self._port = reactor.listenSSL(0, self, options, interface="127.0.0.1")
        self.port = self._port.getHost().port
        self.url = f"https://{host}:{self.port}"


class _Far(Protocol):
    """The proxy's connection to the upstream."""

    transport: Any

    def __init__(self, near: Tunnelled) -> None:
        self._near = near

    def dataReceived(self, data: bytes) -> None:
        self._near.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._near.transport.loseConnection()


class Tunnelled(Protocol):
    """A client's connection to the proxy: `head` is what it asked, `through` what went to the upstream."""

    transport: Any

    def __init__(self, proxy: ConnectProxy) -> None:
        self._proxy = proxy
        self._far: _Far | None = None
        self.head = b""
        self.through = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        if b"\r\n\r\n" in self.head:
            self._forward(data)
            return
        self.head += data
        if b"\r\n\r\n" in self.head:
            self.head, end, rest = self.head.partition(b"\r\n\r\n")
            self.head += end
            assert rest == b"", "nothing may come before the proxy has answered"
            answer = self._proxy.answer
            if answer != GRANTED:
                self.transport.write(answer)
                if self._proxy.closes:
                    self.transport.loseConnection()
                return
            connecting = connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self._proxy.upstream), _Far(self))
            connecting.addCallback(self._connected)

    def _connected(self, far: _Far) -> None:
        self._far = far
        self.transport.write(GRANTED)

    def _forward(self, data: bytes) -> None:
        self.through += data
        assert self._far is not None
        self._far.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        if self._far is not None:
            self._far.transport.loseConnection()


class ConnectProxy(Factory):
    """
    A proxy on loopback.

    :param upstream: the port that every connection goes to.
    :param answer: what it says to ``CONNECT``; `closes` is whether it hangs up then.
    :param options: for a proxy behind TLS.
    """

    noisy = False

    def __init__(
        self,
        upstream: int = 0,
        answer: bytes = GRANTED,
        *,
        closes: bool = False,
        options: CertificateOptions | None = None,
    ) -> None:
        self.upstream = upstream
        self.answer = answer
        self.closes = closes
        self.tunnels: list[Tunnelled] = []
        if options is None:
            self._port = reactor.listenTCP(0, self, interface="127.0.0.1")
        else:
            self._port = reactor.listenSSL(0, self, options, interface="127.0.0.1")
        self.port = self._port.getHost().port

    def buildProtocol(self, addr: Any) -> Tunnelled:
        tunnel = Tunnelled(self)
        self.tunnels.append(tunnel)
        return tunnel

    async def stop(self) -> None:
        """Close everything."""
        await maybeDeferred(self._port.stopListening)
        for tunnel in self.tunnels:
            if not tunnel.lost:
                tunnel.transport.abortConnection()
        await eventually(lambda: all(tunnel.lost for tunnel in self.tunnels), "closed tunnels")

"""
Connections through a proxy: ``CONNECT`` first, and then nothing but bytes between the gateway and the upstream.

A request, its headers and its credentials are never seen by the proxy: TLS to the upstream begins behind it, and an
upstream without TLS is reached by ``CONNECT``, too.  The proxy's own credentials go to the proxy alone, and, where it
has TLS, after that is agreed on.  What it says in an answer is repeated nowhere but for the status.
"""

from __future__ import annotations

import re
from typing import Any

from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import (
    IHandshakeListener,
    IProtocolFactory,
    ISSLTransport,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from agm import __version__
from agm.core.network import Proxy, authority

#: Bytes of a proxy's answer to ``CONNECT``, its empty line included.
MAX_HEAD = 32 * 1024

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r\n")


class ProxyFailed(Exception):
    """The proxy did not open the connection, so that nothing was sent.  The message holds nothing of its URL."""


def connect_request(host: str, port: int, proxy: Proxy) -> bytes:
    """Return what asks `proxy` for a connection to a host."""
    to = authority(host, port)
    lines = [f"CONNECT {to} HTTP/1.1", f"Host: {to}", f"User-Agent: agm/{__version__}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def is_open(answer: bytes) -> bool:
    """
    Return whether a proxy's answer, as far as it has come, opens the connection; False while it is not whole.

    :raises ProxyFailed: if it does not, or is none.
    """
    if not answer.startswith(b"HTTP/1."[: len(answer)]):
        raise ProxyFailed("the proxy's answer is not HTTP")
    head, end, rest = answer.partition(b"\r\n\r\n")
    if len(head) > MAX_HEAD:
        raise ProxyFailed(f"the proxy's answer is larger than {MAX_HEAD} bytes")
    if not end:
        return False
    line = _STATUS_LINE.match(answer)
    if line is None:
        raise ProxyFailed("the proxy's answer is not HTTP")
    status = int(line[1])
    if not 200 <= status < 300:
        raise ProxyFailed(_refusal(status))
    # RFC 9110, 9.3.6: a 2xx answer to CONNECT has no content, whatever its headers say; and no upstream speaks first.
    if rest:
        raise ProxyFailed("the proxy sent more than its answer")
    return True


def _refusal(status: int) -> str:
    match status:
        case 407:
            return "the proxy refused (407): it asks for a user and a password, or for others than those in its URL"
        case 502 | 503 | 504:
            return f"the proxy could not connect to the upstream ({status})"
    return f"the proxy refused to connect to the upstream ({status})"


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """
    A host behind a proxy.

    :param proxy: where the proxy listens, TLS to it included.
    :param ask: what asks it for the connection, see :func:`connect_request`.
    """

    def __init__(self, proxy: IStreamClientEndpoint, ask: bytes) -> None:
        self._proxy = proxy
        self._ask = ask

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """As :class:`IStreamClientEndpoint` says; fails with :class:`ProxyFailed`.  Cancelling closes everything."""
        factory = Factory.forProtocol(lambda: _Tunnel(self._ask, protocolFactory))
        factory.noisy = False
        connecting: Deferred[Any] = self._proxy.connect(factory)
        return connecting.addCallbacks(lambda tunnel: tunnel.opened, _unreachable)


def _unreachable(failure: Failure) -> Failure:
    if failure.check(DNSLookupError):
        return Failure(ProxyFailed("the proxy's name cannot be resolved"))
    if failure.check(ConnectError):
        return Failure(ProxyFailed("the proxy cannot be reached"))
    return failure


@implementer(IHandshakeListener)
class _Tunnel(Protocol):
    """
    The connection to a proxy: asks, and once that is granted hands its transport on.

    :ivar opened: fires with the protocol behind it.
    """

    transport: Any

    def __init__(self, ask: bytes, factory: IProtocolFactory) -> None:
        self._ask = ask
        self._factory = factory
        self._answer = b""
        self._inner: Any = None
        self.opened: Deferred[Any] = Deferred(lambda _: self.transport.abortConnection())

    def connectionMade(self) -> None:
        if ISSLTransport(self.transport, None) is None:
            self.transport.write(self._ask)

    def handshakeCompleted(self) -> None:
        """The proxy's certificate is verified."""
        self.transport.write(self._ask)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._answer += data
        try:
            granted = is_open(self._answer)
        except ProxyFailed as e:
            self.opened.errback(e)
            self.transport.abortConnection()
            return
        if granted:
            self._open()

    def _open(self) -> None:
        inner: Any = self._factory.buildProtocol(self.transport.getPeer())
        self._inner = inner
        inner.makeConnection(self.transport)
        # TLS of the transport is TLS to the proxy: whoever waits for a handshake of its transport has missed it
        if ISSLTransport.providedBy(self.transport) and IHandshakeListener.providedBy(inner):
            inner.handshakeCompleted()
        self.opened.callback(inner)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.opened.called:
            tls = reason.check(TLSError, VerificationError)
            why = "no verified TLS connection to the proxy can be made" if tls else "the proxy closed the connection"
            self.opened.errback(ProxyFailed(why))

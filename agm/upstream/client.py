"""
The HTTP client of the gateway, in two forms over the same connections.

A call of a model goes to the agent as it is: :meth:`UpstreamClient.send`.  treq wraps every request in cookies,
redirects and decoding, none of which a relay may do, at many times the cost of the request itself
(docs/performance.md).  Whatever is asked seldom and read whole goes through treq: :meth:`UpstreamClient.fetch`, the
token endpoints (:mod:`agm.upstream.credentials.google_transport`) and plugins (``gateway.http``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import MappingProxyType
from typing import Any, Protocol

import attrs
from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from agm.core.network import EnvironmentProxies, Network
from agm.core.wire.bytechain import ByteChain
from agm.net.interfaces import GatewayReactor
from agm.net.timers import Deadlines
from agm.net.trust import policy_of, tls_reason
from agm.upstream.agent import HeaderLines, Http1Agent
from agm.upstream.body import Collector, UpstreamBody
from agm.upstream.errors import BrokenAnswer, NoHandshake, NotHttp, TruncatedAnswer
from agm.upstream.origin import Origin
from agm.upstream.pool import ConnectionPool
from agm.upstream.tunnel import ProxyFailed
from agm.upstream.upload import WholeBody
from agm.upstream.websocket import Refused as SocketRefused
from agm.upstream.websocket import UpstreamSocket

__all__ = ["HTTPUpstreamClient", "UpstreamAnswer", "UpstreamBody", "UpstreamClient", "UpstreamFailed", "WholeAnswer"]


class UpstreamFailed(Exception):
    """No answer came.  `reason` is a word for it, the message a sentence without addresses of the person's network."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@attrs.frozen(eq=False, slots=False)
class UpstreamAnswer:
    """The head of an answer; its body waits until :meth:`deliver` or :meth:`read`."""

    status: int
    _response: Any

    @property
    def headers(self) -> Headers:
        """All headers."""
        headers: Headers = self._response.headers
        return headers

    def header(self, name: str) -> str | None:
        """Return the first value of a header; `name` in lower case."""
        value = self.first.get(name.encode("ascii"))
        return None if value is None else value.decode("latin-1")

    @property
    def first(self) -> Mapping[bytes, bytes]:
        """The first value of each header, by its name in lower case."""
        first: Mapping[bytes, bytes] = self._response.first
        return first

    @property
    def length(self) -> int | None:
        """The length of the body, if the upstream said it before."""
        return None if self._response.length is UNKNOWN_LENGTH else self._response.length

    def deliver(self, body: UpstreamBody) -> None:
        """Let the body flow into `body`."""
        whole: bytes | None = self._response.take()
        if whole is not None:
            body.take_in(whole)
            return
        body.abort_with(self.abort)
        self._response.deliverBody(body)

    def read(self, limit: int) -> Deferred[bytes]:
        """Return the body, or its first `limit` bytes, or what came of it before the upstream broke off."""
        done: Deferred[bytes] = Deferred(lambda _: self.abort())
        self._response.deliverBody(Collector(limit, done))
        return done

    def abort(self) -> None:
        """Close the connection at once."""
        self._response.abortConnection()


@attrs.frozen
class WholeAnswer:
    """A small answer that was read whole: its headers by any case of their names.  Only its status is in the repr."""

    status: int
    headers: Headers = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        values = self.headers.getRawHeaders(name.encode("ascii"))
        return values[0].decode("latin-1") if values else None


class Networks:
    """
    The agents for upstreams that are reached in different ways.

    Each :class:`Network` has connections of its own, so that none that was opened through one proxy, or trusting one
    authority, is ever used for a request that another account's settings send elsewhere.

    :param policy: how TLS servers are verified where no authorities are named.
    :param default: what a network leaves open.
    """

    def __init__(
        self,
        reactor: GatewayReactor,
        connect_timeout: float,
        policy: IPolicyForHTTPS | None,
        default: Network,
        environment: EnvironmentProxies,
    ) -> None:
        self._reactor = reactor
        self._connect_timeout = connect_timeout
        self._policy = policy or policy_of(None)
        self._default = default
        self._environment = environment
        self._connections: list[ConnectionPool] = []
        self._agents: dict[Network | None, Http1Agent] = {}

    def agent_of(self, network: Network | None) -> Http1Agent:
        """Return what sends requests over a network."""
        agent = self._agents.get(network)
        if agent is None:
            whole = self._default if network is None else network.over(self._default)
            agent = self._agents.get(whole)
            if agent is None:
                agent = self._agents[whole] = self._made(whole)
            self._agents[network] = agent
        return agent

    def _made(self, network: Network) -> Http1Agent:
        def proxy_of(origin: Origin) -> Any:
            scheme, host, port = origin
            return network.proxy_for(self._environment, scheme.decode("ascii"), host.decode("ascii"), port)

        policy = self._policy if network.authorities is None else policy_of(network.authorities)
        connections = ConnectionPool(self._reactor, policy, self._connect_timeout, proxy_of)
        self._connections.append(connections)
        return Http1Agent(connections)

    def counts(self) -> list[dict[str, tuple[int, int]]]:
        """Return how many connections there are to each host and port, for each network."""
        return [connections.count() for connections in self._connections]

    def default_to(self, default: Network) -> None:
        """From now on have networks leave this open.  Answers under way come to their end as they began."""
        if default != self._default:
            self._default = default
            self.close()

    def distrust(self) -> None:
        """Use no connection again that is idle now."""
        for connections in self._connections:
            connections.distrust()

    def close(self) -> None:
        """Close the idle connections."""
        for connections in self._connections:
            connections.close()
        self._connections.clear()
        self._agents.clear()


@implementer(IAgent)
class NetworkAgent:
    """
    Sends requests over a network, by the connections that it has at the time: settings may change meanwhile.

    :param network: None for the way of the gateway.
    """

    def __init__(self, networks: Networks, network: Network | None) -> None:
        self._networks = networks
        self._network = network

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """As :class:`twisted.web.iweb.IAgent` says; `uri` must be absolute."""
        return self._networks.agent_of(self._network).request(method, uri, headers, bodyProducer)


def _body_of(data: Any) -> IBodyProducer:
    """Return what produces a body: bytes as they are, so that an agent may send them again where nothing was lost."""
    producer: IBodyProducer = WholeBody(data) if isinstance(data, bytes) else IBodyProducer(data)
    return producer


class UpstreamClient(Protocol):
    """What sends requests to upstreams; :class:`HTTPUpstreamClient` does so over HTTP."""

    @property
    def deadlines(self) -> Deadlines:
        """The timers of answers."""

    async def send(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | ByteChain | IBodyProducer | None,
        *,
        timeout: float,
        network: Network | None = None,
    ) -> UpstreamAnswer:
        """
        Send a request and wait for the head of its answer.

        :param timeout: seconds until the head must have come.
        :param network: how the upstream is reached; None for the way of the gateway.
        :raises UpstreamFailed: if none came.
        """

    async def fetch(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | None = None,
        *,
        timeout: float,
        limit: int,
        network: Network | None = None,
    ) -> WholeAnswer:
        """
        Send a request, and read its answer whole: for questions that are small and asked seldom.

        :param timeout: seconds until the head must have come, and again for the body.
        :param limit: bytes of the body that are read; what is longer is cut there, and so is what broke off.
        :raises UpstreamFailed: if none came.
        """

    def treq(self, network: Network | None = None) -> HTTPClient:
        """Return a treq client that reaches upstreams in the same way."""

    def connections(self) -> dict[str, tuple[int, int]]:
        """Count the connections to each host and port: in use, and idle."""

    def default_to(self, network: Network) -> None:
        """From now on reach upstreams like this, where an account does not say otherwise."""

    def distrust(self) -> None:
        """Use no connection again that is idle now: what it leads through may have forgotten it."""

    def close(self) -> Deferred[None]:
        """Close idle connections, and leave no timer."""


class HTTPUpstreamClient:
    """
    Sends requests to upstreams.

    :param reactor: for connections and time.
    :param connect_timeout: seconds for a connection to be made, the proxy's part and TLS included.
    :param policy: how TLS servers are verified where no authorities are named; with the platform's trust roots and
        service-identity by default.
    :param network: how upstreams are reached, where an account does not say otherwise; through the proxies of
        `environ`, and with the platform's authorities, if not given.
    :param environ: the environment whose proxies are meant by ``"env"``.
    """

    def __init__(
        self,
        reactor: GatewayReactor,
        *,
        connect_timeout: float,
        policy: IPolicyForHTTPS | None = None,
        network: Network | None = None,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.deadlines = Deadlines(reactor)
        self._reactor: Any = reactor
        self._networks = Networks(
            reactor, connect_timeout, policy, network or Network("env"), EnvironmentProxies.of(environ)
        )

    async def send(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | ByteChain | IBodyProducer | None,
        *,
        timeout: float,
        network: Network | None = None,
    ) -> UpstreamAnswer:
        """
        Send a request and wait for the head of its answer.

        :param timeout: seconds until the head must have come.
        :param network: how the upstream is reached; None for the way of the gateway.
        :raises UpstreamFailed: if none came.  Cancelling closes the connection.
        """
        producer = WholeBody(body) if isinstance(body, bytes | ByteChain) else body
        answering: Deferred[Any] = self._networks.agent_of(network).request(
            method.encode("ascii"), url.encode("ascii"), HeaderLines(tuple(headers)), producer
        )
        response = await self._within(timeout, answering)
        return UpstreamAnswer(response.code, response)

    async def fetch(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | None = None,
        *,
        timeout: float,
        limit: int,
        network: Network | None = None,
    ) -> WholeAnswer:
        """
        Send a request through treq, and read its answer whole: for questions that are small and asked seldom.

        :param timeout: seconds until the head must have come, and again for the body.
        :param limit: bytes of the body that are read; what is longer is cut there, and so is what broke off.
        :param network: how the upstream is reached; None for the way of the gateway.
        :raises UpstreamFailed: if none came.  Cancelling closes the connection.
        """
        given = Headers()
        for name, value in headers:
            given.addRawHeader(name, value)
        response = await self._within(
            timeout,
            self.treq(network).request(
                method, url, headers=given, data=body, allow_redirects=False, unbuffered=True, reactor=self._reactor
            ),
        )
        done: Deferred[bytes] = Deferred(lambda _: collector.transport.stopProducing())
        collector = Collector(limit, done)
        response.deliverBody(collector)
        late = self.deadlines.after(timeout, done.cancel)
        try:
            content = await done
        except CancelledError:
            if late.pending:
                raise
            raise UpstreamFailed("ANSWER_TIMEOUT", "the upstream's answer did not come to its end in time") from None
        finally:
            late.cancel()
        return WholeAnswer(response.code, response.headers, content)

    async def _within(self, timeout: float, answering: Deferred[Any]) -> Any:
        """Wait for the head of an answer."""
        deadline = self.deadlines.after(timeout, answering.cancel)
        try:
            return await answering
        except CancelledError:
            if deadline.pending:
                raise
            raise UpstreamFailed(
                "FIRST_BYTE_TIMEOUT", f"the upstream did not answer within {timeout:g} seconds"
            ) from None
        except Exception as e:
            raise _failed(e) from e
        finally:
            deadline.cancel()

    async def open_socket(
        self,
        url: str,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        timeout: float,
        max_message: int,
        network: Network | None = None,
    ) -> UpstreamSocket:
        """
        Open a WebSocket.

        :param url: absolute, with the scheme ``http`` or ``https``: the socket is as secure as that.
        :param timeout: seconds until the upgrade must be granted.
        :param max_message: bytes of a message of the upstream.
        :raises Refused: if the upstream answers something else.
        :raises UpstreamFailed: if it does not answer.  Cancelling closes the connection.
        """
        socket = UpstreamSocket(max_message)
        opening = self._networks.agent_of(network).open_socket(url.encode("ascii"), tuple(headers), socket)
        opening.addErrback(_as_answer)
        answered = await self._within(timeout, opening)
        if isinstance(answered, SocketRefused):
            raise answered
        return socket

    def connections(self) -> dict[str, tuple[int, int]]:
        """Return how many connections there are to each host and port: in use, and idle."""
        found: dict[str, tuple[int, int]] = {}
        for host, (used, idle) in (pair for counted in self._networks.counts() for pair in counted.items()):
            before = found.get(host, (0, 0))
            found[host] = (before[0] + used, before[1] + idle)
        return found

    def treq(self, network: Network | None = None) -> HTTPClient:
        """
        Return a treq client over the same connections.  It keeps no cookie: none may pass from one account to another.

        :param network: how upstreams are reached; None for the way of the gateway.
        """
        nobodys: Any = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        return HTTPClient(NetworkAgent(self._networks, network), nobodys, _body_of)

    def default_to(self, network: Network) -> None:
        """From now on reach upstreams like this, where an account does not say otherwise."""
        self._networks.default_to(network)

    def distrust(self) -> None:
        """Use no connection again that is idle now: what it leads through may have forgotten it."""
        self._networks.distrust()

    def close(self) -> Deferred[None]:
        """Close idle connections, and leave no timer."""
        self._networks.close()
        self.deadlines.stop()
        return succeed(None)


def _as_answer(failure: Failure) -> object:
    """That an upstream refuses a WebSocket is an answer, and not the lack of one."""
    failure.trap(SocketRefused)
    return failure.value


def _failed(error: Exception) -> UpstreamFailed:
    if isinstance(error, DNSLookupError):
        return UpstreamFailed("DNS_FAILED", "the upstream's name cannot be resolved")
    if isinstance(error, ConnectTimeout):
        return UpstreamFailed("CONNECT_TIMEOUT", "no connection to the upstream was made within [timeouts] connect")
    if isinstance(error, ConnectError):
        return UpstreamFailed("CONNECT_FAILED", "the upstream cannot be reached")
    if isinstance(error, ProxyFailed):
        return UpstreamFailed("PROXY_FAILED", str(error))
    if isinstance(error, VerificationError | TLSError):
        return UpstreamFailed(
            "TLS_FAILED", f"no verified TLS connection to the upstream can be made: {tls_reason(error)}"
        )
    if isinstance(error, NoHandshake):
        return UpstreamFailed("TLS_FAILED", "the upstream closed the connection before TLS was agreed on")
    if isinstance(error, NotHttp):
        return UpstreamFailed("PROTOCOL_ERROR", "what the upstream sent is not HTTP")
    if isinstance(error, BrokenAnswer) and not isinstance(error, TruncatedAnswer):
        return UpstreamFailed("BROKEN_ANSWER", f"the upstream's answer cannot be read: {error}")
    return UpstreamFailed("CONNECTION_LOST", "the upstream closed the connection without an answer")

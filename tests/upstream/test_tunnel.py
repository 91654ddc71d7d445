"""Connections through a proxy: what it is told, what it is not, and what becomes of one that does not do its part."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from agm import __version__
from agm.core.network import Authorities, Network, Proxy
from agm.upstream.client import HTTPUpstreamClient, UpstreamFailed
from agm.upstream.credentials.google_transport import TreqRequest
from agm.upstream.tunnel import MAX_HEAD, ProxyFailed, connect_request, is_open
from tests.helpers.support import ScriptedUpstream, eventually, found_out_within, needs_keepalive, reactor, settle
from tests.upstream.certificates import TestAuthority
from tests.upstream.proxying import GRANTED, ConnectProxy, SecureUpstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OURS = TestAuthority("ours")
AUTHORITIES = Authorities("ours.pem", OURS.pem)
#: Resolved by nobody on this machine: whoever reaches it was told by the proxy.
HOST = "upstream.example"
PASSWORD = "canary-of-a-password"

Starts = Callable[..., Any]


def through(proxy: ConnectProxy | str, timeout: float = 5) -> HTTPUpstreamClient:
    """A client whose every request goes through a proxy."""
    url = proxy if isinstance(proxy, str) else f"http://127.0.0.1:{proxy.port}"
    return HTTPUpstreamClient(reactor, connect_timeout=timeout, network=Network(Proxy.parse(url), AUTHORITIES))


def sending(client: HTTPUpstreamClient, url: str, **more: Any) -> Deferred[Any]:
    headers = ((b"x-goog-api-key", b"canary-of-a-key"),)
    return Deferred.fromCoroutine(client.send("POST", f"{url}/x", headers, b"body", timeout=5, **more))


# What is said, without a socket


def test_what_a_proxy_is_asked() -> None:
    """The upstream's name, and nothing else about the request."""
    proxy = Proxy.parse("http://me:pass@proxy.example:3128")
    assert connect_request("h.example", 443, proxy) == (
        b"CONNECT h.example:443 HTTP/1.1\r\nHost: h.example:443\r\nUser-Agent: agm/" + __version__.encode() + b"\r\n"
        b"Proxy-Authorization: Basic " + base64.b64encode(b"me:pass") + b"\r\n\r\n"
    )
    assert b"Authorization" not in connect_request("::1", 443, Proxy.parse("http://proxy.example:3128"))


@pytest.mark.parametrize(
    "answer",
    [
        GRANTED,
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 204\r\n\r\n",
        b"HTTP/1.1 200 \r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_an_answer_of_the_second_hundred_opens_the_connection_once_it_is_whole(answer: bytes) -> None:
    """Whatever its headers say about a content, which it cannot have."""
    assert [is_open(answer[:cut]) for cut in range(len(answer))] == [False] * len(answer)
    assert is_open(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 canary\r\nProxy-Authenticate: Basic\r\n\r\ncanary", r"\(407\).*a user and a password"),
        (b"HTTP/1.1 403 canary\r\n\r\n", r"refused to connect to the upstream \(403\)"),
        (b"HTTP/1.1 302 canary\r\nLocation: http://canary/\r\n\r\n", r"refused.*\(302\)"),
        (b"HTTP/1.1 101 canary\r\n\r\n", r"refused.*\(101\)"),
        (b"HTTP/1.1 502 canary\r\n\r\n", r"could not connect to the upstream \(502\)"),
        (b"HTTP/1.1 504 canary\r\n\r\n", r"could not connect to the upstream \(504\)"),
        (GRANTED + b"canary", "more than its answer"),
        (b"SSH-2.0-canary\r\n", "not HTTP"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 20\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 2000 canary\r\n\r\n", "not HTTP"),
        (b"\x16\x03\x01", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD, "larger than"),
    ],
)
def test_any_other_answer_is_a_failure_that_repeats_nothing_of_it(answer: bytes, words: str) -> None:
    """Only its status is told, in words of our own."""
    with pytest.raises(ProxyFailed, match=words) as caught:
        is_open(answer)
    assert "canary" not in str(caught.value)


# On sockets


@pytest_twisted.ensureDeferred
async def test_a_request_goes_through_the_proxy_which_sees_nothing_of_it(start: Starts) -> None:
    """It is told a name and a port; what passes through it is TLS that leads to the upstream."""
    upstream = start(SecureUpstream(OURS.server(HOST), HOST))
    proxy = start(ConnectProxy(upstream.port))
    client = through(f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}")
    for _ in range(2):
        answering = sending(client, upstream.url)
        wire = await upstream.connection()
        await wire.until(b"canary-of-a-key", b"body")
        assert b"roxy" not in wire.received, "neither its credentials nor its name go any further"
        wire.received = b""
        wire.send(OK)
        assert await (await answering).read(10) == b"ok"
    (tunnel,) = proxy.tunnels
    assert tunnel.head.startswith(f"CONNECT {HOST}:{upstream.port} HTTP/1.1\r\n".encode())
    assert base64.b64encode(f"me:{PASSWORD}".encode()) in tunnel.head
    assert b"canary-of-a-key" not in tunnel.head + tunnel.through
    assert tunnel.through.startswith(b"\x16\x03"), "a TLS handshake"
    await client.close()
    await eventually(lambda: tunnel.lost and upstream.connections[0].lost is not None)


@pytest_twisted.ensureDeferred
async def test_an_upstream_without_tls_is_reached_by_connect_too(start: Starts) -> None:
    """The proxy is never handed a request."""
    upstream = start(ScriptedUpstream())
    port = int(upstream.url.rpartition(":")[2])
    proxy = start(ConnectProxy(port))
    client = through(proxy)
    answering = sending(client, f"http://{HOST}:{port}")
    wire = await upstream.connection()
    assert wire.received.startswith(b"POST /x HTTP/1.1\r\nHost: " + HOST.encode())
    wire.send(OK)
    assert await (await answering).read(10) == b"ok"
    assert proxy.tunnels[0].head.startswith(b"CONNECT ")
    await client.close()


@pytest.mark.parametrize("secure", [True, False], ids=["https upstream", "http upstream"])
@pytest_twisted.ensureDeferred
async def test_a_proxy_may_itself_be_behind_tls(start: Starts, secure: bool) -> None:
    """Two handshakes, one in the other, or one for the proxy alone."""
    upstream = start(SecureUpstream(OURS.server(HOST), HOST) if secure else ScriptedUpstream())
    port = int(upstream.url.rpartition(":")[2])
    proxy = start(ConnectProxy(port, options=OURS.server("localhost")))
    client = through(f"https://me:{PASSWORD}@localhost:{proxy.port}")
    for _ in range(2):
        answering = sending(client, f"http{'s' if secure else ''}://{HOST}:{port}")
        wire = await upstream.connection()
        wire.received = b""
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
        assert await (await answering).read(1_000_000) == b"x" * 1_000_000
    assert len(proxy.tunnels) == 1
    await client.close()


@needs_keepalive
@pytest.mark.parametrize("behind_tls", [True, False])
@pytest.mark.parametrize("secure", [True, False], ids=["https upstream", "http upstream"])
@pytest_twisted.ensureDeferred
async def test_a_tunnel_that_leads_nowhere_is_found_out(start: Starts, secure: bool, behind_tls: bool) -> None:
    upstream = start(SecureUpstream(OURS.server(HOST), HOST) if secure else ScriptedUpstream())
    port = int(upstream.url.rpartition(":")[2])
    proxy = start(ConnectProxy(port, options=OURS.server("localhost") if behind_tls else None))
    client = through(f"http{'s' if behind_tls else ''}://localhost:{proxy.port}")
    answering = sending(client, f"http{'s' if secure else ''}://{HOST}:{port}")
    (await upstream.connection()).send(OK)
    assert await (await answering).read(10) == b"ok"
    ((kept,),) = (connections._open for connections in client._networks._connections)
    assert (found_out_within(kept.transport) or 999) <= 120
    await client.close()


@pytest_twisted.ensureDeferred
async def test_a_proxy_that_is_not_believed_is_not_told_the_password(start: Starts) -> None:
    """Nor what the request is for."""
    proxy = start(ConnectProxy(options=TestAuthority("theirs").server("localhost")))
    with pytest.raises(UpstreamFailed, match="no verified TLS connection to the proxy") as caught:
        await sending(through(f"https://me:{PASSWORD}@localhost:{proxy.port}"), f"https://{HOST}")
    assert caught.value.reason == "PROXY_FAILED"
    assert [tunnel.head for tunnel in proxy.tunnels] == [b""]


@pytest_twisted.ensureDeferred
async def test_a_server_behind_a_proxy_is_verified_as_any_other(start: Starts) -> None:
    """A proxy that leads elsewhere gets no request."""
    upstream = start(SecureUpstream(OURS.server("elsewhere.example"), HOST))
    proxy = start(ConnectProxy(upstream.port))
    with pytest.raises(UpstreamFailed, match="for another name") as caught:
        await sending(through(proxy), upstream.url)
    assert caught.value.reason == "TLS_FAILED"
    assert upstream.connections[0].received == b""


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Authenticate\r\nContent-Length: 3\r\n\r\nno.", r"\(407\)"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", r"\(403\)"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", r"\(502\)"),
        (b"garbage\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000_000, "larger than"),
    ],
    ids=["407", "403", "502", "garbage", "endless head"],
)
@pytest_twisted.ensureDeferred
async def test_a_proxy_that_refuses_is_an_upstream_that_was_not_reached(
    start: Starts, answer: bytes, words: str, closes: bool
) -> None:
    """The connection to it is closed, nobody else has been asked, and the password is not told."""
    proxy = start(ConnectProxy(answer=answer, closes=closes))
    with pytest.raises(UpstreamFailed, match=words) as caught:
        await sending(through(f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}"), f"https://{HOST}")
    assert caught.value.reason == "PROXY_FAILED"
    assert PASSWORD not in f"{caught.value} {caught.value.__cause__}"
    await eventually(lambda: all(tunnel.lost for tunnel in proxy.tunnels))
    assert len(proxy.tunnels) == 1


@pytest_twisted.ensureDeferred
async def test_a_proxy_that_hangs_up_or_is_not_there_is_told_as_such(start: Starts) -> None:
    """With words of its own, so that nobody looks for the mistake at the upstream."""
    proxy = ConnectProxy(answer=b"", closes=True)
    with pytest.raises(UpstreamFailed, match="the proxy closed the connection") as caught:
        await sending(through(proxy), f"https://{HOST}")
    assert caught.value.reason == "PROXY_FAILED"
    await proxy.stop()
    for client, words in (
        (through(proxy), "the proxy cannot be reached"),
        (through("http://proxy.invalid:1"), "the proxy's name cannot be resolved"),
    ):
        with pytest.raises(UpstreamFailed, match=words) as caught:
            await sending(client, f"https://{HOST}")
        assert caught.value.reason == "PROXY_FAILED"


@pytest_twisted.ensureDeferred
async def test_one_time_limit_covers_the_proxy_and_tls_behind_it(start: Starts) -> None:
    """It is told which of them hung, and both connections are closed."""
    silent = start(ScriptedUpstream())
    proxy = start(ConnectProxy(answer=b"", closes=False))
    with pytest.raises(UpstreamFailed, match=r"the proxy did not connect within 0\.3 seconds") as caught:
        await sending(through(proxy, 0.3), f"https://{HOST}")
    assert caught.value.reason == "PROXY_FAILED"
    await eventually(lambda: proxy.tunnels[0].lost)
    proxy.answer, proxy.upstream = GRANTED, int(silent.url.rpartition(":")[2])
    with pytest.raises(UpstreamFailed, match="no connection to the upstream was made") as caught:
        await sending(through(proxy, 0.3), f"https://{HOST}")
    assert caught.value.reason == "CONNECT_TIMEOUT"
    await eventually(lambda: proxy.tunnels[1].lost)
    assert b"canary-of-a-key" not in silent.connections[0].received


@pytest.mark.parametrize("moment", ["connecting", "asked", "in TLS"])
@pytest_twisted.ensureDeferred
async def test_a_request_that_is_cancelled_leaves_no_tunnel(start: Starts, moment: str) -> None:
    """Whoever leaves while the way is being made leaves nothing behind."""
    silent = start(ScriptedUpstream())
    proxy = start(ConnectProxy(int(silent.url.rpartition(":")[2]), b"" if moment == "asked" else GRANTED))
    asking = sending(through(proxy), f"https://{HOST}")
    if moment == "asked":
        await eventually(lambda: proxy.tunnels and proxy.tunnels[0].head)
    elif moment == "in TLS":
        await eventually(lambda: silent.connections and silent.connections[0].received)
    asking.cancel()
    with pytest.raises(CancelledError):
        await asking
    await settle(0.05)
    await eventually(lambda: all(tunnel.lost for tunnel in proxy.tunnels))


@pytest_twisted.ensureDeferred
async def test_accounts_with_different_proxies_share_no_connection(start: Starts) -> None:
    """Nor does one without a proxy take that of another, though all of them go to one upstream."""
    upstream = start(SecureUpstream(OURS.server("localhost")))
    first, second = start(ConnectProxy(upstream.port)), start(ConnectProxy(upstream.port))
    url = f"http://127.0.0.1:{first.port}"
    networks = [
        None,
        Network(Proxy.parse(url)),
        Network(Proxy.parse(url.replace("//", "//me:pass@"))),
        Network(Proxy.parse(f"http://127.0.0.1:{second.port}")),
    ]
    client = HTTPUpstreamClient(reactor, connect_timeout=5, network=Network("none", AUTHORITIES))
    for number, network in enumerate(networks):
        answering = sending(client, upstream.url, network=network)
        (await upstream.connection(number)).send(OK)
        assert await (await answering).read(10) == b"ok"
    assert (len(first.tunnels), len(second.tunnels), len(upstream.connections)) == (2, 1, 4)
    await client.close()


@pytest_twisted.ensureDeferred
async def test_the_environments_proxy_is_used_and_its_exceptions_are_not_sent_there(start: Starts) -> None:
    """Loopback is an exception by itself."""
    upstream = start(SecureUpstream(OURS.server(HOST), HOST))
    proxy = start(ConnectProxy(upstream.port))
    environ = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": "direct.invalid"}
    client = HTTPUpstreamClient(reactor, connect_timeout=5, network=Network("env", AUTHORITIES), environ=environ)
    answering = sending(client, upstream.url)
    (await upstream.connection()).send(OK)
    assert (await answering).status == 200
    for direct, reason in (("https://direct.invalid", "DNS_FAILED"), ("https://localhost:1", "CONNECT_FAILED")):
        with pytest.raises(UpstreamFailed) as caught:
            await sending(client, direct)
        assert caught.value.reason == reason
    assert len(proxy.tunnels) == 1
    await client.close()


@pytest_twisted.ensureDeferred
async def test_a_variable_that_names_no_proxy_fails_the_request_rather_than_be_gone_around() -> None:
    """The message names the variable, and not what is in it."""
    environ = {"ALL_PROXY": f"socks5://me:{PASSWORD}@127.0.0.1:1080"}
    client = HTTPUpstreamClient(reactor, connect_timeout=5, environ=environ)
    with pytest.raises(UpstreamFailed, match="environment variable ALL_PROXY") as caught:
        await sending(client, f"https://{HOST}")
    assert caught.value.reason == "PROXY_FAILED"
    assert PASSWORD not in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_a_token_endpoint_is_reached_through_the_accounts_proxy(start: Starts) -> None:
    """google-auth's requests take the way of the account that they are for."""
    from twisted.internet.threads import deferToThread

    upstream = start(SecureUpstream(OURS.server(HOST), HOST))
    proxy = start(ConnectProxy(upstream.port))
    client = HTTPUpstreamClient(reactor, connect_timeout=5, network=Network("none"))
    network = Network(Proxy.parse(f"http://127.0.0.1:{proxy.port}"), AUTHORITIES)
    transport = TreqRequest(reactor, client.treq)
    asking = deferToThread(transport.over(network), f"{upstream.url}/token", "POST", b"grant")
    (await upstream.connection()).send(OK)
    assert (await asking).data == b"ok"
    assert len(proxy.tunnels) == 1
    await proxy.stop()
    await client.close()
    from google.auth.exceptions import TransportError

    with pytest.raises(TransportError, match="the proxy cannot be reached"):
        await deferToThread(transport.over(network), f"{upstream.url}/token", "POST", b"grant")

"""
How google-auth's requests reach an endpoint: what is sent, what is read, and every way in which there is no answer.

The endpoint is on loopback, the calls are made in a thread, as google-auth makes them.
"""

from __future__ import annotations

import datetime
import gzip
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth.exceptions import TransportError
from service_identity import VerificationError
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.threads import deferToThread
from twisted.web.server import Site
from zope.interface import implementer

from agm import __version__
from agm.upstream.client import HTTPUpstreamClient
from agm.upstream.credentials.google_transport import MAX_ANSWER, TokenAnswer, TreqRequest
from tests.helpers.support import ScriptedUpstream, eventually, reactor
from tests.upstream.token_server import CANARY, TokenServer


@pytest_twisted.async_yield_fixture
async def raw() -> AsyncIterator[ScriptedUpstream]:
    """An endpoint whose every byte the test writes."""
    running = ScriptedUpstream()
    yield running
    await running.stop()


@pytest_twisted.async_yield_fixture
async def transport() -> AsyncIterator[TreqRequest]:
    """The transport over the gateway's own client."""
    client = HTTPUpstreamClient(reactor, connect_timeout=5)
    yield TreqRequest(reactor, client.treq)
    await client.close()


def refused(transport: TreqRequest, url: str, **options: Any) -> str:
    """What a thread is told about a request that gets no answer."""
    with pytest.raises(TransportError) as caught:
        transport(url, **options)
    return str(caught.value)


@pytest_twisted.ensureDeferred
async def test_an_answer_is_what_the_endpoint_sent(transport: TreqRequest, server: TokenServer) -> None:
    """Status, headers by name in any case, and the bytes of the body."""
    server.script.append((200, b'{"a": 1}'))
    answer = await deferToThread(transport, server.url + "/token")
    assert (answer.status, answer.data) == (200, b'{"a": 1}')
    assert answer.headers["Content-Type"] == answer.headers["content-type"] == "application/json"
    assert answer.headers.get("X-None") is None
    assert "metadata-flavor" in set(answer.headers)
    assert len(answer.headers) == len(set(answer.headers))


@pytest_twisted.ensureDeferred
async def test_a_request_is_sent_as_google_auth_meant_it(transport: TreqRequest, server: TokenServer) -> None:
    """Its method, headers and body; our name; no compressed answer is asked for."""
    await deferToThread(
        transport, server.url + "/token?x=1", method="POST", body=b"a=b", headers={"X-Goog-Api-Client": "gl"}
    )
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.query, asked.body) == ("POST", "/token", b"x=1", b"a=b")
    assert asked.headers["x-goog-api-client"] == ["gl"]
    assert asked.headers["user-agent"] == [f"agm/{__version__}"]
    assert asked.headers["accept-encoding"] == ["identity"]


@pytest_twisted.ensureDeferred
async def test_a_body_of_text_is_sent_as_utf_8(transport: TreqRequest, server: TokenServer) -> None:
    """google-auth hands some bodies over as text."""
    await deferToThread(transport, server.url, method="POST", body="ü")
    assert server.asked[0].body == "ü".encode()


@pytest_twisted.ensureDeferred
async def test_a_bad_status_is_an_answer(transport: TreqRequest, server: TokenServer) -> None:
    """google-auth itself decides what a status means."""
    server.script.append((503, b"busy"))
    answer = await deferToThread(transport, server.url)
    assert (answer.status, answer.data) == (503, b"busy")


@pytest_twisted.ensureDeferred
async def test_a_redirect_is_not_followed(transport: TreqRequest, raw: ScriptedUpstream) -> None:
    """It would carry a secret to wherever it points."""
    asking = deferToThread(transport, raw.url, method="POST", body=b"secret")
    wire = await raw.connection()
    wire.send(b"HTTP/1.1 307 Over there\r\nLocation: " + raw.url.encode() + b"/other\r\nContent-Length: 0\r\n\r\n")
    assert (await asking).status == 307
    assert len(raw.connections) == 1


@pytest_twisted.ensureDeferred
async def test_cookies_are_not_sent_back(transport: TreqRequest, server: TokenServer) -> None:
    """Accounts share the client: what one is given must not go with another's request."""
    await deferToThread(transport, server.url + "/token")
    await deferToThread(transport, server.url + "/token")
    assert server.count == 2
    assert all("cookie" not in asked.headers for asked in server.asked)


@pytest_twisted.ensureDeferred
async def test_an_endless_answer_is_cut(transport: TreqRequest, raw: ScriptedUpstream) -> None:
    """A token has kilobytes; what goes on longer is not read."""
    asking = deferToThread(refused, transport, raw.url)
    wire = await raw.connection()
    wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    wire.send(b"%x\r\n%s\r\n" % (MAX_ANSWER, b"x" * MAX_ANSWER) + b"1\r\nx\r\n" * 3)
    assert await asking == f"the answer of the token endpoint is longer than {MAX_ANSWER} bytes"
    await wire.closed()


@pytest_twisted.ensureDeferred
async def test_an_answer_of_the_greatest_length_is_read(transport: TreqRequest, raw: ScriptedUpstream) -> None:
    """The limit itself is within it; an answer may end with its connection."""
    asking = deferToThread(transport, raw.url)
    wire = await raw.connection()
    wire.send(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * MAX_ANSWER)
    wire.transport.loseConnection()
    assert len((await asking).data) == MAX_ANSWER


@pytest_twisted.ensureDeferred
async def test_a_truncated_answer_is_none(transport: TreqRequest, raw: ScriptedUpstream) -> None:
    """Half a token would be refused later, and nobody would know why."""
    asking = deferToThread(refused, transport, raw.url)
    wire = await raw.connection()
    wire.send(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"access_token": "ya')
    wire.transport.loseConnection()
    assert await asking == "the token endpoint closed the connection before its answer was whole"


@pytest_twisted.ensureDeferred
async def test_a_compressed_answer_is_refused(transport: TreqRequest, raw: ScriptedUpstream) -> None:
    """A client that inflates would do so without a bound."""
    asking = deferToThread(refused, transport, raw.url)
    wire = await raw.connection()
    body = gzip.compress(b"{}")
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert await asking == "the token endpoint sent a compressed answer that was not asked for"
    await wire.closed()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"], ids=["head", "body"])
@pytest_twisted.ensureDeferred
async def test_a_stalled_endpoint_is_given_up(transport: TreqRequest, raw: ScriptedUpstream, sent: bytes) -> None:
    """The limit holds for the whole answer, and the connection is closed."""
    asking = deferToThread(refused, transport, raw.url, timeout=0.2)
    wire = await raw.connection()
    wire.send(sent)
    assert await asking == "the token endpoint did not answer within 0.2 seconds"
    await wire.closed()
    assert len(raw.connections) == 1


@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_is_not_there(transport: TreqRequest) -> None:
    """Nobody listens at the port."""
    port = reactor.listenTCP(0, Site(None), interface="127.0.0.1")
    number = port.getHost().port
    await port.stopListening()
    assert (
        await deferToThread(refused, transport, f"http://127.0.0.1:{number}/") == "the token endpoint cannot be reached"
    )


@pytest_twisted.ensureDeferred
async def test_a_connection_that_was_kept_too_long_is_replaced(transport: TreqRequest, raw: ScriptedUpstream) -> None:
    """The endpoint closes a kept-alive connection just as the next request is on its way."""
    asking = deferToThread(transport, raw.url)
    first = await raw.connection(0)
    first.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
    assert (await asking).data == b"1"
    first.received = b""
    asking = deferToThread(transport, raw.url)
    await first.until(b"\r\n\r\n")
    first.transport.loseConnection()
    second = await raw.connection(1)
    second.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2")
    assert (await asking).data == b"2"


@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_always_hangs_up_is_asked_twice(transport: TreqRequest, raw: ScriptedUpstream) -> None:
    """One more time, not for ever."""
    asking = deferToThread(refused, transport, raw.url)
    for number in range(2):
        (await raw.connection(number)).transport.loseConnection()
    assert await asking == "the token endpoint closed the connection before its answer was whole"
    assert len(raw.connections) == 2


@pytest_twisted.ensureDeferred
async def test_garbage_is_not_asked_for_again(transport: TreqRequest, raw: ScriptedUpstream) -> None:
    """What is not HTTP will not be the next time."""
    asking = deferToThread(refused, transport, raw.url)
    wire = await raw.connection()
    wire.send(b"SSH-2.0-OpenSSH\r\n\r\n")
    assert "or its answer not be read (" in await asking
    assert len(raw.connections) == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest_twisted.ensureDeferred
async def test_a_certificate_that_nobody_vouches_for(
    transport: TreqRequest, server: TokenServer, tmp_path: Path, host: str
) -> None:
    """Nothing is sent to a server that cannot prove its name."""
    key, certificate = self_signed(tmp_path)
    site = Site(server)
    port = reactor.listenSSL(0, site, DefaultOpenSSLContextFactory(key, certificate), interface="127.0.0.1")
    try:
        message = await deferToThread(
            refused, transport, f"https://{host}:{port.getHost().port}/token", method="POST", body=b"a"
        )
        assert message.startswith("the certificate of the token endpoint cannot be verified")
        assert server.count == 0
    finally:
        await port.stopListening()


def self_signed(folder: Path) -> tuple[str, str]:
    """The paths of a key and of a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return str(folder / "key.pem"), str(folder / "certificate.pem")


class FailingHTTP:
    """A client whose requests all end in the same way, as `fail_with` says."""

    def __init__(self, fail_with: Callable[[], Deferred[Any]]) -> None:
        self._fail_with = fail_with

    def request(self, method: str, url: str, **options: Any) -> Deferred[Any]:
        """Fail."""
        return self._fail_with()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DNSLookupError("a.example"), "the name of the token endpoint cannot be resolved"),
        (ConnectionRefusedError(), "the token endpoint cannot be reached"),
        (ConnectionDone(), "the token endpoint closed the connection before its answer"),
        (VerificationError([]), "the certificate of the token endpoint cannot be verified"),
        (ValueError(CANARY), "the token endpoint cannot be asked, or its answer not be read (ValueError)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest_twisted.ensureDeferred
async def test_why_there_is_no_answer(error: Exception, message: str) -> None:
    """Each cause has its sentence, which quotes nothing that came from elsewhere."""
    transport = TreqRequest(reactor, lambda network: FailingHTTP(lambda: fail(error)))
    said = await deferToThread(refused, transport, f"https://a.example/?key={CANARY}")
    assert said.startswith(message)
    assert CANARY not in said


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_never_made_counts_as_no_answer() -> None:
    """Giving up while connecting fails in a way of its own; the reason is the limit all the same."""

    def connecting() -> Deferred[Any]:
        return Deferred(lambda d: d.errback(ConnectingCancelledError(None)))

    message = await deferToThread(
        refused, TreqRequest(reactor, lambda network: FailingHTTP(connecting)), "https://a.example/", timeout=0.05
    )
    assert message == "the token endpoint did not answer within 0.05 seconds"


@pytest_twisted.ensureDeferred
async def test_closing_ends_what_is_under_way_and_refuses_the_rest(transport: TreqRequest, server: TokenServer) -> None:
    """Threads that wait go on, with an error, and find nothing to wait for."""
    server.held = True
    asking = deferToThread(refused, transport, server.url)
    await eventually(lambda: server.count == 1)
    transport.close()
    assert await asking == "the gateway is stopping"
    assert await deferToThread(refused, transport, server.url) == "the gateway is stopping"
    await eventually(lambda: server.left == 1, "the end of the connection")
    assert server.count == 1


@implementer(IReactorFromThreads)
class DeadReactor:
    """A reactor that has stopped: it takes calls, and never makes them."""

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """Forget about it."""


@pytest_twisted.ensureDeferred
async def test_nobody_waits_for_a_reactor_that_has_stopped() -> None:
    """A thread that asks too late gets its error from nobody but itself."""
    transport = TreqRequest(DeadReactor(), FailingHTTP(Deferred), grace=0.01)
    assert (
        await deferToThread(refused, transport, "https://a.example/", timeout=0.01)
        == "the reactor does not run any more"
    )


@pytest_twisted.ensureDeferred
async def test_the_reactor_s_own_thread_cannot_wait(transport: TreqRequest, server: TokenServer) -> None:
    """It would wait for itself."""
    with pytest.raises(RuntimeError, match="must not wait"):
        transport(server.url)
    assert server.count == 0


@pytest_twisted.ensureDeferred
async def test_a_request_with_a_client_certificate_is_not_sent_without_it(
    transport: TreqRequest, server: TokenServer
) -> None:
    """google-auth asks for one by a keyword; to leave it out would change what the request means."""
    message = await deferToThread(refused, transport, server.url, cert=("a.pem", "b.pem"))
    assert message == "this transport cannot send a request with cert"
    assert server.count == 0


def test_an_answer_shows_nothing_of_its_content() -> None:
    """Both headers and body may hold a token."""
    assert repr(TokenAnswer(200, {"a": CANARY}, CANARY.encode())) == "TokenAnswer(status=200)"

"""Listeners with TLS: which certificates clients see, how they are renewed, and what is said where they cannot be."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import SSL4ClientEndpoint, connectProtocol
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.internet.task import Clock

from agm.app.listeners import ListenerService
from agm.app.reload import LOOK_EVERY, QUIET, ConfigWatch
from agm.config import parse
from agm.core.listening import Description, ListenerRefused
from agm.testing import GatewayFactory, RunningGateway
from agm.web.certificates import ServerCertificate
from agm.web.endpoints import endpoint_of, problems_of
from tests.helpers.support import Wire, connect, get, reactor
from tests.upstream.certificates import TestAuthority, key_pem

ROOT = TestAuthority("root")
BETWEEN = TestAuthority("between", by=ROOT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a key, and a certificate that leads to the root by way of another."""
    put(tmp_path)
    return tmp_path


def put(folder: Path, name: str = "localhost", *, chain: bytes = BETWEEN.pem, until: int = 1) -> bytes:
    """Put another certificate in place, and its key; return the certificate as PEM text."""
    certificate, key = BETWEEN.server_pem(name, until=until)
    (folder / "cert.pem").write_bytes(certificate + chain)
    (folder / "key.pem").write_bytes(key)
    return certificate


def described(folder: Path, more: str = "") -> str:
    return f"ssl:0:interface=127.0.0.1:privateKey={folder}/key.pem:certKey={folder}/cert.pem{more}"


Listen = Callable[[str], Any]


@pytest_twisted.async_yield_fixture
async def listen(gateway: GatewayFactory) -> AsyncIterator[Listen]:
    """Have a gateway listen as described; returns it, the certificate, and the port."""
    services: list[ListenerService] = []

    async def start(description: str) -> tuple[RunningGateway, ServerCertificate, int]:
        running = await gateway("")
        endpoint, certificate = endpoint_of(reactor, description)
        assert certificate is not None
        service = ListenerService(reactor, endpoint, description, running.site)
        services.append(service)
        service.privilegedStartService()
        await service.bound
        return running, certificate, int(running.gateway.live.listening[-1].rpartition(":")[2])

    yield start
    for service in services:
        await maybeDeferred(service.stopService)


async def shown(port: int) -> bytes:
    """The certificate that a client sees who trusts the root alone, once it was served."""
    trusted = optionsForClientTLS("localhost", Certificate.loadPEM(ROOT.pem))
    client: Any = await connectProtocol(SSL4ClientEndpoint(reactor, "127.0.0.1", port, trusted), Wire())
    client.send(get("/healthz"))
    await client.until(b'{"status":"ok"}')
    seen: bytes = Certificate(client.transport.getPeerCertificate()).dumpPEM()
    client.transport.abortConnection()
    await client.closed()
    return seen


def about_it(lines: list[str]) -> list[str]:
    """What was logged of certificates."""
    return [line for line in lines if "certificate" in line]


@pytest.mark.parametrize("chain", ["in certKey", "in extraCertChain", "all in one file"])
@pytest_twisted.ensureDeferred
async def test_the_whole_chain_is_sent(folder: Path, listen: Listen, chain: str) -> None:
    """A client that knows the root alone is led to it by what the listener sends."""
    description = described(folder)
    certificate = put(folder)
    if chain == "in extraCertChain":
        certificate = put(folder, chain=b"")
        (folder / "chain.pem").write_bytes(BETWEEN.pem)
        description = described(folder, f":extraCertChain={folder}/chain.pem")
    elif chain == "all in one file":
        (folder / "server.pem").write_bytes(key_pem("localhost") + certificate + BETWEEN.pem)
        description = f"ssl:0:privateKey={folder}/server.pem:interface=127.0.0.1"
    _, _, port = await listen(description)
    assert await shown(port) == certificate


@pytest_twisted.ensureDeferred
async def test_a_renewed_certificate_is_shown_to_who_connects_from_then_on(
    folder: Path, listen: Listen, lines: list[str]
) -> None:
    """Once its writer is done, and those who are connected go on."""
    running, certificate, port = await listen(described(folder))
    clock = Clock()
    watch = ConfigWatch(clock, running.gateway, None, certificates=[certificate])
    watch.startService()
    before = await shown(port)
    client = await connect(running.port)
    new = put(folder)
    clock.advance(LOOK_EVERY)
    assert await shown(port) == before, "it may be half of it"
    clock.advance(LOOK_EVERY)
    assert await shown(port) == new
    assert sum("is in use from now on; it expires on " in line for line in lines) == 1
    client.send(get("/healthz"))
    await client.until(b'{"status":"ok"}')
    watch.stopService()
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_a_renewed_certificate_is_shown_at_once_on_sighup(folder: Path, listen: Listen) -> None:
    """The certificate and its key are others; a gateway without a configuration has them, too."""
    running, certificate, port = await listen(described(folder))
    watch = ConfigWatch(Clock(), running.gateway, None, certificates=[certificate])
    new = put(folder)
    await watch.reload()
    assert await shown(port) == new


@pytest_twisted.ensureDeferred
async def test_a_broken_certificate_leaves_the_old_one_in_force(folder: Path, listen: Listen, lines: list[str]) -> None:
    """It is told, and once; what is right again is taken up."""
    running, certificate, port = await listen(described(folder))
    clock = Clock()
    watch = ConfigWatch(clock, running.gateway, None, certificates=[certificate])
    watch.startService()
    before = await shown(port)
    (folder / "key.pem").write_bytes(key_pem("another"))
    clock.pump([LOOK_EVERY] * 3)
    assert not about_it(lines), "its certificate may be on the way"
    clock.pump([LOOK_EVERY] * int(2 * QUIET / LOOK_EVERY))
    (told,) = about_it(lines)
    assert told.endswith("; the previous certificate stays in use")
    assert f"its certificate does not match the key in '{folder}/key.pem'" in told
    assert await shown(port) == before
    os.unlink(folder / "cert.pem")
    await watch.reload()
    assert "cannot be read: No such file or directory" in about_it(lines)[-1]
    assert await shown(port) == before
    new = put(folder)
    clock.pump([LOOK_EVERY] * 2)
    assert await shown(port) == new
    watch.stopService()


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_is_only_written_again_is_not_told(
    folder: Path, listen: Listen, lines: list[str]
) -> None:
    running, certificate, _ = await listen(described(folder))
    clock = Clock()
    watch = ConfigWatch(clock, running.gateway, None, certificates=[certificate])
    watch.startService()
    os.utime(folder / "cert.pem", (1, 1))
    clock.pump([LOOK_EVERY] * 3)
    assert not about_it(lines)
    watch.stopService()


# What cannot be shown


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"key.pem": None}, "privateKey '{0}/key.pem' cannot be read: No such file or directory"),
        ({"cert.pem": None}, "certKey '{0}/cert.pem' cannot be read: No such file or directory"),
        ({"key.pem": b""}, "privateKey '{0}/key.pem' holds no private key in PEM form"),
        ({"cert.pem": b"x"}, "certKey '{0}/cert.pem' holds no certificate in PEM form"),
        ({"cert.pem": ROOT.pem.replace(b"MII", b"???")}, "certKey '{0}/cert.pem' holds a certificate that cannot be"),
        ({"key.pem": key_pem("localhost").replace(b"MIG", b"???")}, "holds a private key that cannot be read"),
        ({"key.pem": key_pem("localhost", b"canary-word")}, "needs a passphrase, which nobody could type at a restart"),
        ({"key.pem": key_pem("another")}, "certKey '{0}/cert.pem': its certificate does not match the key in"),
        (
            {"cert.pem": BETWEEN.pem + BETWEEN.server_pem("localhost")[0]},
            "certKey '{0}/cert.pem': the server's certificate must come first",
        ),
        ({"cert.pem": b" " * 5_000_000}, "certKey '{0}/cert.pem' is larger than any chain of certificates"),
    ],
)
def test_files_that_do_not_make_a_listener_end_the_start_with_a_line(
    folder: Path, files: dict[str, bytes | None], why: str
) -> None:
    for name, content in files.items():
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
    with pytest.raises(ListenerRefused) as refused:
        endpoint_of(reactor, described(folder))
    assert why.format(folder) in str(refused.value)
    assert "\n" not in str(refused.value)
    config = parse(f'[gateway]\nlisten = ["{described(folder)}"]\n', environ={}, path=folder / "agm.toml")
    (problem,) = problems_of(config)
    assert (problem.key, problem.message) == ("gateway.listen[0]", str(refused.value))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (":nonsense=1", "ssl has no argument nonsense"),
        (":backlog=many", "write a number for the port, and for backlog"),
        (":sslmethod=PIGEON_METHOD", "sslmethod: OpenSSL has no 'PIGEON_METHOD'; leave it out"),
        (":extraCertChain={0}/none", "extraCertChain '{0}/none' cannot be read: No such file or directory"),
        (":dhParameters={0}/none", "dhParameters '{0}/none' cannot be read: No such file or directory"),
        (":dhParameters={0}/cert.pem", "OpenSSL refuses the key, the certificates or the method: "),
    ],
)
def test_what_else_is_said_of_a_listener_has_to_be_right(folder: Path, more: str, why: str) -> None:
    with pytest.raises(ListenerRefused) as refused:
        endpoint_of(reactor, described(folder, more.format(folder)))
    assert why.format(folder) in str(refused.value)


def test_a_certificate_whose_time_is_over_is_doubted(folder: Path) -> None:
    """Not refused: a clock may be wrong, and an old certificate is better than no answer."""
    _, certificate = endpoint_of(reactor, described(folder))
    assert certificate is not None
    assert certificate.doubt() is None
    put(folder, until=0)
    certificate.renew()
    doubt = certificate.doubt()
    assert doubt is not None
    assert doubt.startswith(f"the certificate in '{folder}/cert.pem' ended on ")


def test_the_paths_of_a_listener_start_at_the_folder_of_the_configuration(folder: Path) -> None:
    """As a start reads them, a check, and whoever asks the gateway; those of --listen start where the person stands."""
    written = [
        "ssl:8443:privateKey=key.pem:certKey=sub/cert.pem:interface=127.0.0.1",
        "ssl:8443:key.pem:cert.pem",
        "ssl:8443",
        r"ssl:8443:privateKey=a\:b.pem",
        "ssl:8443:privateKey=/etc/key.pem",
        "ssl:8443:privateKey=~/key.pem",
        "unix:run/agm.sock:mode=660",
        "unix:/run/agm.sock",
        "tcp:8045:interface=127.0.0.1",
    ]
    text = f"[gateway]\nlisten = {[*written]!r}".replace("\\\\", "\\")
    config = parse(text, environ={"HOME": "/home/me"}, path=folder / "agm.toml")
    assert config.gateway.listen == (
        f"ssl:8443:privateKey={folder}/key.pem:certKey={folder}/sub/cert.pem:interface=127.0.0.1",
        f"ssl:8443:{folder}/key.pem:{folder}/cert.pem",
        f"ssl:8443:privateKey={folder}/server.pem",
        rf"ssl:8443:privateKey={folder}/a\:b.pem",
        "ssl:8443:privateKey=/etc/key.pem",
        "ssl:8443:privateKey=/home/me/key.pem",
        f"unix:{folder}/run/agm.sock:mode=660",
        "unix:/run/agm.sock",
        "tcp:8045:interface=127.0.0.1",
    )
    assert Description.parse(config.gateway.listen[3]).named["privateKey"] == f"{folder}/a:b.pem"


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ("tcp:many", "'tcp:many' is not a server endpoint: "),
        ("tcp:65536", "'tcp:65536': a port is a number from 0 to 65535"),
        ("ssl:", "write a number for the port, and for backlog"),
        ("unix:/s:mode=zz", "'unix:/s:mode=zz' is not a server endpoint: "),
        ("carrier:pigeon=1", "no package that is installed has endpoints of the kind carrier"),
    ],
)
def test_a_check_says_what_a_start_would_say_of_any_listener(description: str, why: str) -> None:
    (problem,) = problems_of(parse(f'[gateway]\nlisten = ["{description}"]\n', environ={}))
    assert why in problem.message


@pytest.mark.parametrize("description", ["systemd:domain=INET:index=0", "haproxy:tcp:8045", "tcp:8045", "tcp6:0"])
def test_a_check_has_nothing_against_what_only_a_start_can_make(description: str) -> None:
    assert list(problems_of(parse(f'[gateway]\nlisten = ["{description}"]\n', environ={}))) == []

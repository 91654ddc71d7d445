"""Requests that a proxy has passed on: not this machine's own, whoever the proxy runs beside, unless it is believed."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol, serverFromString

from agm.testing import GatewayFactory, RunningEmulator, RunningGateway, parse_config
from tests.helpers.support import Wire, connect, get, post, reactor
from tests.web.test_surface import say

CALL = "/v1beta/models/gemini-2.5-flash:generateContent"
FOR_ANOTHER = "X-Forwarded-For: 203.0.113.9"
FOR_ITSELF = "X-Forwarded-For: 127.0.0.1"
KEYS = (
    '[[auth.keys]]\nname = "ci"\nkey = "canary-ci-key"\n'
    '[[auth.keys]]\nname = "boss"\nkey = "canary-boss-key"\nadmin = true\n'
)
BELIEVED = '[gateway]\ntrusted_proxies = ["loopback"]\n'
#: What is the person's own, and the method that it takes.
OWN = [
    ("GET", "/_agm/status"),
    ("GET", "/_agm/events"),
    ("GET", "/_agm/accounts"),
    ("GET", "/_agm/keys"),
    ("GET", "/_agm/plugins"),
    ("GET", "/_agm/log"),
    ("POST", "/_agm/log/bodies"),
    ("POST", "/_agm/explain"),
    ("GET", "/metrics"),
]


async def status(running: RunningGateway, method: str, path: str, *headers: str) -> tuple[int, str]:
    """The status of an answer, and an error's reason."""
    body = b'{"contents": [{"parts": [{"text": "hi"}]}]}' if path == CALL else b'{"model": "m"}'
    request = post(path, body, *headers) if method == "POST" else get(path, *headers, method=method)
    answer = await say(running, request)
    details = answer.error.get("details", [{}]) if answer.status >= 400 else [{}]
    return answer.status, details[0].get("reason", "")


@pytest_twisted.ensureDeferred
async def test_auto_asks_nobody_here_and_everybody_whom_a_proxy_lets_through(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(KEYS + emulator.account())
    assert (await status(running, "POST", CALL))[0] == 200
    assert await status(running, "POST", CALL, FOR_ANOTHER) == (401, "CLIENT_KEY_MISSING")
    assert await status(running, "POST", CALL, FOR_ITSELF) == (401, "CLIENT_KEY_MISSING")
    assert await status(running, "POST", CALL, "Via: 1.1 x", "x-goog-api-key: wrong") == (401, "CLIENT_KEY_INVALID")
    assert (await status(running, "POST", CALL, FOR_ANOTHER, "x-goog-api-key: canary-ci-key"))[0] == 200
    assert (await status(running, "GET", "/healthz", FOR_ANOTHER))[0] == 200
    assert (await status(running, "GET", "/ui/", FOR_ANOTHER))[0] == 200


@pytest_twisted.ensureDeferred
async def test_a_mode_that_was_written_holds_as_it_was_written(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    off = await gateway('[auth]\nmode = "off"\n' + emulator.account())
    assert (await status(off, "POST", CALL, FOR_ANOTHER))[0] == 200
    assert await status(off, "GET", "/_agm/status", FOR_ANOTHER) == (403, "ADMIN_ONLY")
    strict = await gateway('[auth]\nmode = "strict"\n' + BELIEVED + KEYS + emulator.account())
    for header in (FOR_ITSELF, FOR_ANOTHER):
        assert await status(strict, "POST", CALL, header) == (401, "CLIENT_KEY_MISSING")
        assert await status(strict, "GET", "/healthz", header) == (401, "CLIENT_KEY_MISSING")


@pytest.mark.parametrize(("method", "path"), OWN)
@pytest.mark.parametrize("header", [FOR_ANOTHER, FOR_ITSELF, "Forwarded: for=127.0.0.1", "Via: 1.1 proxy"])
@pytest_twisted.ensureDeferred
async def test_what_is_the_persons_takes_an_admin_key_from_elsewhere(
    gateway: GatewayFactory, method: str, path: str, header: str
) -> None:
    running = await gateway(KEYS)
    assert await status(running, method, path, header) == (401, "CLIENT_KEY_MISSING")
    assert await status(running, method, path, header, "x-goog-api-key: canary-ci-key") == (403, "ADMIN_ONLY")
    if path == "/_agm/events":  # it would never end
        return
    boss = await status(running, method, path, header, "x-goog-api-key: canary-boss-key")
    assert boss[1] not in ("ADMIN_ONLY", "CLIENT_KEY_MISSING")


@pytest.mark.parametrize("mode", ["auto", "strict", "all_except_health"])
@pytest_twisted.ensureDeferred
async def test_conversations_are_kept_for_admins_alone(gateway: GatewayFactory, mode: str) -> None:
    """On this machine, too: who shows a key is held to it, and who need not show one there is whose machine it is."""
    running = await gateway(f'[auth]\nmode = "{mode}"\n{KEYS}')
    path, ordinary = "/_agm/log/bodies", "x-goog-api-key: canary-ci-key"
    assert await status(running, "POST", path, ordinary) == (403, "ADMIN_ONLY")
    assert (await status(running, "POST", path, "x-goog-api-key: canary-boss-key"))[1] == "NOT_FOUND"  # there is no log
    assert (await status(running, "POST", path))[1] == ("NOT_FOUND" if mode == "auto" else "CLIENT_KEY_MISSING")
    assert (await status(running, "GET", "/_agm/plugins", ordinary))[0] == 200
    assert (await status(running, "POST", "/_agm/explain", ordinary))[0] == 200


@pytest_twisted.ensureDeferred
async def test_a_proxy_that_is_believed_says_who_is_here(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(BELIEVED + KEYS + emulator.account())
    assert (await status(running, "POST", CALL, FOR_ITSELF))[0] == 200
    assert (await status(running, "GET", "/_agm/status", FOR_ITSELF))[0] == 200
    for headers in ([FOR_ANOTHER], ["X-Forwarded-For: 127.0.0.1, 203.0.113.9"], [FOR_ANOTHER, "Forwarded: for=::1"]):
        assert await status(running, "POST", CALL, *headers) == (401, "CLIENT_KEY_MISSING")
        assert await status(running, "GET", "/_agm/status", *headers) == (401, "CLIENT_KEY_MISSING")


@pytest_twisted.ensureDeferred
async def test_each_request_of_a_connection_is_somebodys_own(gateway: GatewayFactory) -> None:
    """A proxy sends those of many clients over one."""
    running = await gateway(BELIEVED + KEYS)
    client = await connect(running.port)
    for header, expected in ((FOR_ITSELF, 200), (FOR_ANOTHER, 401), (FOR_ITSELF, 200), ("A: b", 200), ("Via: c", 401)):
        client.received = b""
        client.send(get("/v1beta/models", header))
        assert b"HTTP/1.1 %d " % expected in await client.until(b"\r\n\r\n{", b"\n}\n")
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_who_comes_by_the_public_name_has_come_through_the_proxy(gateway: GatewayFactory) -> None:
    """Also where the proxy does not say that it is one."""
    running = await gateway('[gateway]\npublic_url = "https://ai.example.net"\n' + KEYS)
    public = b"GET /_agm/status HTTP/1.1\r\nHost: ai.example.net\r\n\r\n"
    assert (await say(running, public)).status == 401
    assert (await say(running, get("/_agm/status"))).status == 200


@pytest_twisted.ensureDeferred
async def test_with_a_public_url_and_no_key_whom_the_proxy_lets_through_is_let_in(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """The person is warned of it; what is the person's own stays closed; and a key that there was is asked for."""
    public = '[gateway]\npublic_url = "https://ai.example.net"\n' + emulator.account()
    running = await gateway(public)
    assert (await status(running, "POST", CALL, FOR_ANOTHER))[0] == 200
    assert await status(running, "GET", "/_agm/status", FOR_ANOTHER) == (403, "ADMIN_ONLY")
    await running.gateway.reload(parse_config(KEYS + public))
    assert await status(running, "POST", CALL, FOR_ANOTHER) == (401, "CLIENT_KEY_MISSING")
    await running.gateway.reload(parse_config(public))
    assert await status(running, "POST", CALL, FOR_ANOTHER) == (401, "CLIENT_KEY_MISSING")
    assert (await status(running, "POST", CALL))[0] == 200


@pytest_twisted.ensureDeferred
async def test_the_log_says_where_a_request_came_from(gateway: GatewayFactory, lines: list[str]) -> None:
    """As the proxy that is believed says it; of what is this machine's own it says nothing more."""
    running = await gateway(BELIEVED + KEYS)
    await status(running, "GET", "/v1beta/models/none", FOR_ANOTHER)
    await status(running, "GET", "/v1beta/models/none")
    said = [line.partition(": ")[2] for line in lines if "GET /v1beta/models/none" in line]
    assert [line.rpartition(" ")[2] for line in said if "from" in line] == ["203.0.113.9"]
    assert len(said) == 2


@pytest_twisted.ensureDeferred
async def test_where_no_key_could_let_anybody_in_the_log_says_what_helps(
    gateway: GatewayFactory, lines: list[str]
) -> None:
    running = await gateway()
    for _ in range(3):
        await status(running, "POST", CALL, FOR_ANOTHER)
    assert sum("agm key create" in line and "trusted_proxies" in line for line in lines) == 1


# Other listeners


Listening = Callable[[RunningGateway, str], Awaitable[Any]]


@pytest_twisted.async_yield_fixture
async def listen() -> AsyncIterator[Listening]:
    """A function that has a gateway listen at another endpoint, and gives its port."""
    ports: list[Any] = []

    async def start(running: RunningGateway, description: str) -> Any:
        ports.append(await serverFromString(reactor, description).listen(running.site))
        return ports[-1]

    yield start
    for port in ports:
        await maybeDeferred(port.stopListening)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as a socket needs it; there until its listeners have gone."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_is_this_machine_until_a_proxy_sends_through_it(
    gateway: GatewayFactory, folder: Path, listen: Listening
) -> None:
    for believed, expected in (("", 401), ('[gateway]\ntrusted_proxies = ["unix"]\n', 200)):
        running = await gateway(KEYS + believed)
        path = str(folder / f"{expected}.sock")
        await listen(running, f"unix:{path}")
        for header, answered in (("A: b", 200), (FOR_ITSELF, expected), (FOR_ANOTHER, 401)):
            client = await connectProtocol(UNIXClientEndpoint(reactor, path), Wire())
            client.send(get("/_agm/status", header, "Connection: close"))
            assert (await client.closed()).startswith(b"HTTP/1.1 %d " % answered), (believed, header)


@pytest.mark.parametrize(
    ("believed", "line", "answered"),
    [
        ("", "PROXY TCP4 203.0.113.9 127.0.0.1 4711 8045", 401),
        ("", "PROXY TCP4 127.0.0.1 127.0.0.1 4711 8045", 401),
        ("", "PROXY UNKNOWN ", 401),
        (BELIEVED, "PROXY UNKNOWN ", 401),
        (BELIEVED, "PROXY TCP4 203.0.113.9 127.0.0.1 4711 8045", 401),
        (BELIEVED, "PROXY TCP4 127.0.0.2 127.0.0.1 4711 8045", 200),
        (BELIEVED, "PROXY TCP6 ::1 ::1 4711 8045", 200),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_proxy_protocol_says_who_sends(
    gateway: GatewayFactory, listen: Listening, believed: str, line: str, answered: int
) -> None:
    running = await gateway(KEYS + believed)
    port = await listen(running, "haproxy:tcp:0:interface=127.0.0.1")
    client = await connect(port.getHost().port)
    client.send(line.encode() + b"\r\n" + get("/_agm/status") + get("/_agm/status", "Connection: close"))
    received = await client.closed()
    assert [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]] == [answered, answered]

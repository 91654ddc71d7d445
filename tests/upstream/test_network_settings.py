"""From the configuration to the connection: proxies and authorities of the gateway and of its accounts."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from agm import config as configuration
from agm.app.reload import needs_restart
from agm.config import Config, ConfigError, UpstreamConfig
from agm.core.network import Authorities, Network, Proxy
from agm.serving.secrets import secrets_of
from agm.testing import GatewayFactory, parse_config
from agm.upstream.accounts import account_source
from agm.upstream.client import HTTPUpstreamClient
from agm.upstream.credentials.refresher import Refresher
from tests.helpers.support import AnsweringUpstream, reactor
from tests.upstream.certificates import TestAuthority
from tests.upstream.proxying import ConnectProxy, SecureUpstream

UNARY = "/v1beta/models/gemini-2.5-flash:generateContent"
BODY = b'{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}'
GOOD = b'{"candidates": [{"content": {"parts": [{"text": "hello"}]}}]}'
ACCOUNT = '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\n'
PASSWORD = "canary-of-a-password"
OURS, THEIRS = TestAuthority("ours"), TestAuthority("theirs")


def problems(text: str, folder: Path | None = None, **environ: str) -> list[str]:
    """What is said about a configuration that is refused."""
    path = None if folder is None else folder / "agm.toml"
    with pytest.raises(ConfigError) as caught:
        configuration.parse(text, path=path, environ=environ)
    return [str(problem) for problem in caught.value.problems]


# The settings


def test_nothing_written_means_the_environments_proxy_and_the_platforms_authorities() -> None:
    """As with most programs."""
    assert Config().upstream == UpstreamConfig(proxy="env", ca_file=None)
    assert Config().upstream.network == Network("env")
    (account,) = parse_config(ACCOUNT).accounts
    assert account.network is None


def test_a_proxy_and_authorities_are_read_for_the_gateway_and_for_an_account(tmp_path: Path) -> None:
    """Paths start at the folder of the file."""
    (tmp_path / "ours.pem").write_bytes(OURS.pem)
    config = configuration.parse(
        f'[upstream]\nproxy = "none"\nca_file = "ours.pem"\n{ACCOUNT}proxy = "http://me:pass@proxy.example:3128"\n',
        path=tmp_path / "agm.toml",
        environ={},
    )
    assert config.upstream.network == Network("none", Authorities(str(tmp_path / "ours.pem"), OURS.pem))
    (account,) = config.accounts
    assert account.network == Network(Proxy.parse("http://me:pass@proxy.example:3128"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("8080", "expected a string, not an integer"),
        (
            '"socks5://proxy.example:1080"',
            'neither http nor https, and agm speaks to no other; or write "env" or "none"',
        ),
        (f'"http://me:{PASSWORD}@"', "names no host"),
        (f'"http://me:{PASSWORD}@proxy.example:1/x"', "goes on after its host"),
        ('"off on"', "characters that no URL has"),
    ],
)
@pytest.mark.parametrize("table", ["[upstream]\n", ACCOUNT])
def test_a_proxy_that_cannot_be_used_is_a_problem_with_its_cure(table: str, value: str, words: str) -> None:
    """And without the password that it may hold."""
    (problem,) = problems(f"{table}proxy = {value}\n")
    assert problem.startswith(
        "configuration: upstream.proxy: " if table[1] == "u" else "configuration: accounts[0].proxy: "
    )
    assert words in problem
    assert PASSWORD not in problem


def test_what_is_wrong_with_a_file_of_authorities_is_said_with_the_files_name(tmp_path: Path) -> None:
    """Each of the ways in which it can be wrong, at the configuration's check rather than at the first request."""
    (tmp_path / "der.pem").write_bytes(b"\x30\x82\x01\x0a")
    (tmp_path / "bad.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "key.pem").write_bytes(OURS.pem + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (tmp_path / "huge.pem").write_bytes(OURS.pem + b"#" * 5_000_000)
    for name, words in (
        ("missing.pem", "cannot be read: No such file"),
        ("der.pem", "openssl x509 -inform der"),
        ("bad.pem", "number 1 of 1"),
        ("key.pem", "holds a private key, too; name a file with nothing but certificates"),
        ("huge.pem", "larger than any bundle"),
    ):
        (problem,) = problems(f'[upstream]\nca_file = "{name}"\n', tmp_path)
        assert f"agm.toml: upstream.ca_file: '{tmp_path / name}'" in problem
        assert words in problem


def test_there_is_no_switch_that_turns_verification_off() -> None:
    """Nor a key that is near to one."""
    names = [name for name, _ in configuration.known_keys()]
    assert not [name for name in names if any(word in name for word in ("verify", "insecure", "check_hostname", "tls"))]
    for key in ("verify", "insecure", "ssl_verify"):
        assert "unknown key" in problems(f"[upstream]\n{key} = false\n")[0]


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("", True),
        (ACCOUNT, True),
        ('[upstream]\nproxy = "none"\n' + ACCOUNT, False),
        ('[upstream]\nproxy = "none"\n' + ACCOUNT + 'proxy = "env"\n', True),
        (ACCOUNT + 'proxy = "none"\n', False),
    ],
)
def test_a_variable_that_names_no_proxy_is_a_warning_where_it_would_be_used(text: str, warned: bool) -> None:
    """It holds without a change of the file, which is why the file is not refused for it."""
    config = configuration.parse(text, environ={"ALL_PROXY": f"socks5h://me:{PASSWORD}@127.0.0.1:1080"})
    assert bool(config.warnings) is warned
    for warning in config.warnings:
        assert "upstream.proxy: the environment variable ALL_PROXY names a proxy that is neither" in warning
        assert PASSWORD not in warning


def test_a_password_in_the_file_is_a_secret_like_any_other(tmp_path: Path) -> None:
    """It is in no repr, and a file with it that others can read is warned of."""
    path = tmp_path / "agm.toml"
    path.write_text(f'[upstream]\nproxy = "http://me:{PASSWORD}@proxy.example:3128"\n')
    path.chmod(0o644)
    config = configuration.load(path, environ={})
    assert PASSWORD not in repr(config)
    assert "bWU6" not in repr(config), "nor in the form that goes on the wire"
    assert any("chmod 600" in warning for warning in config.warnings)
    assert {PASSWORD, b64encode(f"me:{PASSWORD}".encode()).decode()} <= set(secrets_of(config)), (
        "what logs are kept from"
    )


def test_a_reload_takes_up_both() -> None:
    """No restart is asked for."""
    assert needs_restart(Config(), attrs.evolve(Config(), upstream=UpstreamConfig(proxy="none"))) == []


# Through a gateway


class GoodSecureUpstream(SecureUpstream):
    """Answers every request well, by itself."""

    def buildProtocol(self, addr: Any) -> Any:
        wire = super().buildProtocol(addr)
        received = wire.dataReceived

        def answering(data: bytes) -> None:
            received(data)
            if wire.received.endswith(BODY):
                wire.send(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(GOOD)
                )
                wire.send(GOOD)

        wire.dataReceived = answering  # type: ignore[method-assign]
        return wire


def table(name: str, url: str, **more: object) -> str:
    lines = "".join(f'{key} = "{value}"\n' for key, value in more.items())
    return f'[[accounts]]\nname = "{name}"\nkind = "api-key"\napi_key = "key-of-{name}"\nendpoints = ["{url}"]\n{lines}'


@pytest_twisted.ensureDeferred
async def test_an_account_behind_a_proxy_that_refuses_is_passed_over(
    gateway: GatewayFactory, start: Callable[[Any], Any]
) -> None:
    """Nothing was sent, so that another account serves; the record and the log say why, without the password."""
    good = start(AnsweringUpstream(lambda _: (200, GOOD)))
    proxy = start(ConnectProxy(answer=b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"))
    logged: list[Any] = []
    globalLogPublisher.addObserver(logged.append)
    running = await gateway(
        '[pool]\nstrategy = "priority"\n'
        + table("a", "https://upstream.example", proxy=f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}")
        + table("b", good.url)
        + "priority = 1\n"
    )
    answer = await running.fetch("POST", UNARY, body=BODY)
    globalLogPublisher.removeObserver(logged.append)
    assert answer.status == 200
    assert good.credentials == ["key-of-b"]
    failure = running.gateway.last_failures["a"].record
    assert failure.verdict is not None
    assert (failure.verdict.reason, failure.status) == ("PROXY_FAILED", None)
    assert "(407)" in failure.message
    assert PASSWORD not in f"{failure} {logged} {running.gateway.config}"
    assert b"key-of" not in proxy.tunnels[0].head + proxy.tunnels[0].through


@pytest_twisted.ensureDeferred
async def test_when_nobody_else_is_there_the_client_is_told_of_the_proxy(
    gateway: GatewayFactory, start: Callable[[Any], Any]
) -> None:
    """In Google's form, and without an address of the person's network."""
    proxy = start(ConnectProxy(answer=b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"))
    url = f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}"
    running = await gateway(f'[upstream]\nproxy = "{url}"\n' + table("a", "https://upstream.example"))
    answer = await running.fetch("POST", UNARY, body=BODY)
    assert answer.status in (502, 503)
    assert "PROXY_FAILED" in answer.body.decode()
    assert "(403)" in answer.json["error"]["message"]
    for secret in (PASSWORD, str(proxy.port), "upstream.example"):
        assert secret not in answer.body.decode()


@pytest_twisted.ensureDeferred
async def test_gateway_and_account_settings_reach_the_wire_and_a_reload_changes_them(
    gateway: GatewayFactory, start: Callable[[Any], Any], tmp_path: Path
) -> None:
    """One upstream of a private authority, through the gateway's proxy, an account's and none."""
    (tmp_path / "ours.pem").write_bytes(OURS.pem)
    upstream = start(GoodSecureUpstream(OURS.server("localhost")))
    first, second = start(ConnectProxy(upstream.port)), start(ConnectProxy(upstream.port))

    def config(ca: str, **accounts: str) -> Config:
        text = f'[upstream]\nproxy = "http://127.0.0.1:{first.port}"\n{ca}\n[pool]\nstate = "none"\n'
        for name, extra in accounts.items():
            text += table(name, upstream.url) + extra + "\n"
        return configuration.parse(text, path=tmp_path / "agm.toml", environ={})

    def tunnels() -> tuple[int, int, int]:
        return len(first.tunnels), len(second.tunnels), len(upstream.connections)

    running = await gateway(config('ca_file = "ours.pem"', a=""))
    assert (await running.fetch("POST", UNARY, body=BODY)).status == 200
    assert tunnels() == (1, 0, 1)
    await running.gateway.reload(config('ca_file = "ours.pem"', b=f'proxy = "http://127.0.0.1:{second.port}"'))
    assert (await running.fetch("POST", UNARY, body=BODY)).status == 200
    assert tunnels() == (1, 1, 2)
    await running.gateway.reload(config("", c='proxy = "none"\nca_file = "ours.pem"'))
    assert (await running.fetch("POST", UNARY, body=BODY)).status == 200
    assert tunnels() == (1, 1, 3)
    await running.gateway.reload(config("", d=""))
    answer = await running.fetch("POST", UNARY, body=BODY)
    assert "TLS_FAILED" in answer.body.decode(), "the authority was another account's"


@pytest_twisted.ensureDeferred
async def test_the_token_of_an_account_is_fetched_through_the_accounts_proxy(
    start: Callable[[Any], Any], tmp_path: Path
) -> None:
    """Its refresh token would otherwise leave by another door than its requests."""
    upstream = start(SecureUpstream(OURS.server("token.example"), "token.example"))
    proxy = start(ConnectProxy(upstream.port))
    (tmp_path / "ours.pem").write_bytes(OURS.pem)
    (tmp_path / "user.json").write_text(
        json.dumps(
            {
                "type": "authorized_user",
                "client_id": "c",
                "client_secret": "s",
                "refresh_token": "r",
                "token_uri": f"{upstream.url}/token",
            }
        )
    )
    text = '[[accounts]]\nname = "a"\nkind = "vertex"\nproject = "p"\ncredentials = "user.json"\nca_file = "ours.pem"\n'
    text += f'proxy = "http://127.0.0.1:{proxy.port}"\n'
    config = configuration.parse(text, path=tmp_path / "agm.toml", environ={})
    client = HTTPUpstreamClient(reactor, connect_timeout=5)
    refresher = Refresher(reactor, client.treq)
    refresher.start()
    credential = account_source(config.accounts[0]).credential(refresher)
    asking = Deferred.fromCoroutine(credential.headers())
    wire = await upstream.connection()
    token = b'{"access_token": "t", "expires_in": 3600}'
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(token) + token)
    assert dict(await asking)[b"authorization"] == b"Bearer t"
    assert len(proxy.tunnels) == 1
    await client.close()
    await refresher.stop()

"""``agm doctor`` as a person runs it: through real processes, against upstreams in the test."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from agm import __version__
from agm.config import Config, parse
from agm.diagnose.doctor import Finding
from agm.diagnose.doctor.sdks import _driven, _Sdk
from agm.diagnose.doctor.upstreams import endpoints, skew_of
from agm.testing import GatewayFactory, RunningEmulator
from agm.upstream.client import HTTPUpstreamClient
from testbed.processes import environment
from tests.helpers.commands import Command
from tests.helpers.support import AnsweringUpstream, google_error, reactor
from tests.upstream.certificates import TestAuthority
from tests.upstream.proxying import SecureUpstream

CANARY = "canary-3f9a"
Doctor = Callable[..., Awaitable[tuple[Command, list[dict[str, Any]]]]]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Runs ``agm doctor --json`` with a configuration of this text; its findings."""

    async def run(text: str, *arguments: str, **more: str) -> tuple[Command, list[dict[str, Any]]]:
        file = tmp_path / "agm.toml"
        file.write_text(text)
        file.chmod(0o600)
        before = files(tmp_path)
        command = Command.start(
            "doctor", "--json", "--config", str(file), *arguments, env=environment(tmp_path, **more), folder=tmp_path
        )
        await command.over.addTimeout(240, reactor)
        assert "Traceback" not in command.messages
        assert CANARY not in command.out.decode() + command.messages
        assert files(tmp_path) == before  # nothing is changed
        document = json.loads(command.out)
        assert document["ok"] is (command.status == 0)
        return command, document["findings"]

    return run


def files(folder: Path) -> dict[Path, int]:
    """Every file, and when it was changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def of(findings: list[dict[str, Any]], check: str) -> list[tuple[str, str]]:
    return [(each["level"], each["found"]) for each in findings if each["check"] == check]


@pytest.mark.slow
@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_setup_that_is_right_has_no_error(
    doctor: Doctor, gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """The gateway that runs is known by its version; endpoints, the clock, accounts and SDKs are looked at."""
    running = await gateway(emulator.account("work"))
    off = '[pool]\nstate = "none"\n'
    command, findings = await doctor(
        off + emulator.account("work") + emulator.account("cloud", "vertex"), "--url", running.url
    )
    assert command.status == 0, findings
    assert of(findings, "port") == [("ok", f"agm {__version__} answers at {running.url}")]
    ((level, found),) = of(findings, "endpoint")
    assert (level, found.startswith(f"{emulator.url}: answers in ")) == ("ok", True)
    assert [level for level, _ in of(findings, "clock")] == ["ok"]
    assert [found.split(":")[0] for _, found in of(findings, "account")] == ["work (api-key)", "cloud (vertex)"]
    sdks = of(findings, "sdk")
    assert all(level == "ok" for level, _ in sdks)
    for words in (
        "plain HTTP: interactions (with API keys), unary, stream of events, stream as an array, countTokens work with "
        "accounts of every kind",
        "unary, stream of events, countTokens, interactions (with API keys), Live work with accounts of every kind",
        "unary, stream as an array, countTokens work with accounts of every kind",
    ):
        assert any(found.endswith(words) for _, found in sdks), sdks
    assert [entry.rpc for entry in emulator.log if entry.rpc] == ["countTokens", "countTokens"]


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_what_is_wrong_is_an_error_with_a_cure_and_no_secret(doctor: Doctor, emulator: RunningEmulator) -> None:
    """An account that is refused, one that is not reached, one without its variable, and one that would be changed."""
    text = (
        '[pool]\nstate = "none"\n'
        f'[[accounts]]\nname = "refused"\nkind = "api-key"\napi_key = "bad-key-{CANARY}"\n'
        f'endpoints = ["{emulator.url}"]\n'
        f'[[accounts]]\nname = "away"\nkind = "api-key"\napi_key = "{CANARY}"\nendpoints = ["http://127.0.0.1:1"]\n'
        f'[[accounts]]\nname = "unset"\nkind = "api-key"\napi_key_env = "NOT_SET"\nendpoints = ["{emulator.url}"]\n'
        f'[[accounts]]\nname = "new"\nkind = "code-assist"\naccess_token = "{CANARY}"\nendpoints = ["{emulator.url}"]\n'
    )
    command, findings = await doctor(text, "--url", "http://127.0.0.1:1", GEMINI_API_KEY=CANARY)
    assert command.status == 1
    assert [level for level, _ in of(findings, "endpoint")] == ["ok", "error"]
    accounts = of(findings, "account")
    assert [(level, found.split(" ")[0]) for level, found in accounts] == [
        ("error", "refused"),
        ("warning", "away"),
        ("warning", "unset"),
        ("warning", "new"),
    ]
    assert "API_KEY_INVALID" in accounts[0][1]
    assert ("error", True) in [(level, "NOT_SET" in found) for level, found in of(findings, "configuration")]
    assert [each["check"] for each in findings if each["level"] == "error" and not each["cure"]] == []
    assert all(entry.rpc in (None, "", "countTokens") for entry in emulator.log)  # nobody was onboarded


@pytest.mark.slow
@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_an_upstream_that_repeats_the_key_has_it_taken_out(doctor: Doctor) -> None:
    """The fixture looks for it in all that is printed."""
    repeats = AnsweringUpstream(
        lambda asked: (403, google_error(403, "PERMISSION_DENIED", f"no right for {asked.credential} here"))
    )
    _, findings = await doctor(f'[pool]\nstate = "none"\n{account(repeats.url)}', "--url", "http://127.0.0.1:1")
    ((level, found),) = of(findings, "account")
    assert (level, "no right for" in found) == ("error", True)
    assert CANARY in [asked.credential for asked in repeats.asked]
    await repeats.stop()


@pytest.mark.slow
@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_offline_leaves_the_network_out(doctor: Doctor, emulator: RunningEmulator) -> None:
    """No endpoint and no account is asked; what is on this machine is looked at all the same."""
    _, findings = await doctor(emulator.account("work"), "--offline", "--url", "http://127.0.0.1:1")
    assert {each["check"] for each in findings} == {
        *("packages", "configuration", "files", "environment", "live", "port", "sdk"),
    }
    assert emulator.log == ()


@pytest.mark.slow
@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_person_reads_lines_without_colour_and_the_status_counts(tmp_path: Path) -> None:
    """A configuration that cannot be used does not end the rest."""
    (tmp_path / "agm.toml").write_text("max_bdy = 1\n")
    # not where a gateway of whoever runs the tests may be
    with socket.create_server(("127.0.0.1", 0)) as bound:
        free = f"http://127.0.0.1:{bound.getsockname()[1]}"
    where = ("--config", "agm.toml", "--url", free)
    command = Command.start("doctor", "--offline", *where, env=environment(tmp_path), folder=tmp_path)
    await command.over.addTimeout(240, reactor)
    lines = command.out.decode().splitlines()
    assert command.status == 1
    assert "\x1b" not in command.out.decode()
    assert lines[1].startswith(f"error   configuration {tmp_path}/agm.toml: max_bdy: unknown key")
    assert lines[2].strip() == "fix: correct the file; `agm config check` looks at it again"
    assert any(line.startswith("ok      sdk           plain HTTP: ") for line in lines)
    assert lines[-1].endswith(" findings: 1 error, 0 warnings")


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_client_key_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    command = Command.start("doctor", "--client-key-env", "NOT_SET", env=environment(tmp_path), folder=tmp_path)
    await command.ended()
    assert (command.status, "--client-key-env" in command.messages) == (1, True)


# The parts that need an upstream with a mind of its own


async def looked(config: Config, environ: Mapping[str, str], wall: float) -> tuple[list[Finding], set[str]]:
    """What the check of the endpoints finds, with this machine's clock at `wall`."""
    client = HTTPUpstreamClient(reactor, connect_timeout=5, network=config.upstream.network, environ=environ)
    unreachable: set[str] = set()
    try:
        found = [it async for it in endpoints(reactor, config, client, environ, lambda: wall, unreachable)]
    finally:
        await client.close()
    return found, unreachable


def account(url: str, name: str = "a", more: str = "") -> str:
    return f'[[accounts]]\nname = "{name}"\nkind = "api-key"\napi_key = "{CANARY}"\nendpoints = ["{url}"]\n{more}'


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(("off", "level"), [(0, "ok"), (-59, "ok"), (61, "error"), (-7200, "error")])
async def test_a_clock_that_is_wrong_is_an_error(off: float, level: str) -> None:
    """By more than a minute, in either direction."""
    upstream = AnsweringUpstream(lambda asked: (404, {}, {"date": "Sun, 22 Nov 2026 12:00:00 GMT"}))
    noon = 1795348800.0
    found, _ = await looked(parse(account(upstream.url), environ={}), {}, noon + off)
    assert [(each.level, each.check) for each in found] == [("ok", "endpoint"), (level, "clock")]
    if off:
        assert ("ahead of" in found[1].found) is (off > 60)
    assert [(asked.path, asked.credential) for asked in upstream.asked] == [("/", "")]
    await upstream.stop()


@pytest.mark.parametrize("date", ["", "yesterday", "Sun, 99 Nov 2026 12:00:00 GMT", "\x00"])
def test_a_date_that_is_none_says_nothing(date: str) -> None:
    assert skew_of(date, time.time()) is None


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_is_not_verified_is_an_error_until_its_authority_is_trusted(tmp_path: Path) -> None:
    """The cure names the setting."""
    authority = TestAuthority("a company")
    (tmp_path / "company.pem").write_bytes(authority.pem)
    server = SecureUpstream(authority.server("localhost"))
    for more, level, words in (
        ("", "error", "no verified TLS connection"),
        ('[upstream]\nca_file = "company.pem"\n', "ok", "TLS verified, answers in "),
    ):
        config = parse(account(server.url) + more, path=tmp_path / "agm.toml", environ={})
        so_far = len(server.connections)
        looking = Deferred.fromCoroutine(looked(config, {}, time.time()))
        if level == "ok":
            wire = await server.connection(so_far)
            wire.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        found, unreachable = await looking
        last = found[-1]
        assert (last.check, last.level, words in last.found) == ("endpoint", level, True)
        assert bool(unreachable) is (level == "error")
        assert level == "ok" or "[upstream] ca_file" in str(last.cure)
    await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_proxy_of_the_configuration_is_used_and_one_that_cannot_be_is_said() -> None:
    """Its name is looked up, not the endpoint's; its password is not shown."""
    text = account("https://upstream.invalid", more=f'proxy = "http://u:{CANARY}@127.0.0.1:1"\n')
    found, unreachable = await looked(parse(text, environ={}), {}, time.time())
    assert [each.check for each in found] == ["endpoint"]
    assert "by way of http://127.0.0.1:1" in found[0].found
    assert unreachable == {"https://upstream.invalid"}
    broken = {"HTTPS_PROXY": f"socks5://u:{CANARY}@h"}
    more, _ = await looked(parse(account("https://upstream.invalid"), environ={}), broken, time.time())
    assert [each.check for each in more] == ["proxy"]
    assert CANARY not in str(found) + str(more)


@pytest_twisted.ensureDeferred
async def test_a_name_that_does_not_exist_is_an_error() -> None:
    """Nothing is connected to then, and it is told once."""
    text = account("https://nobody.invalid") + account("https://nobody.invalid/prefix", "b")
    found, unreachable = await looked(parse(text, environ={}), {}, time.time())
    assert [(each.check, each.level) for each in found] == [("name", "error")]
    assert len(unreachable) == 2


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("printed", "level", "words"),
    [
        ('[{"url":"u","call":"unary","problem":null}]', "ok", "an SDK: unary work with accounts of every kind"),
        ('[{"url":"u","call":"unary","problem":"no text"}]', "error", "an SDK: unary with vertex: no text"),
        ("not JSON", "error", "an SDK cannot be driven: last line"),
        ("MISSING", "ok", "an SDK is not found from this folder"),
    ],
)
@pytest.mark.process
async def test_what_an_sdk_does_is_told(printed: str, level: str, words: str) -> None:
    """By the process that drives it."""
    script = f"echo '{printed}'; echo '{printed}' >&2; echo 'last line' >&2"
    sdk = _Sdk("an SDK", ["/bin/sh", "-c", script], b"MISSING")
    found = await _driven(reactor, sdk, {"u": "vertex"}, {})
    assert (found.level, found.found) == (level, words)


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_an_sdk_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the time that it has."""
    monkeypatch.setattr("agm.diagnose.doctor.sdks.PATIENCE", 0.2)
    found = await _driven(reactor, _Sdk("an SDK", ["/bin/sleep", "60"]), {}, {})
    assert (found.level, found.found) == ("error", "an SDK: not done within 0.2 seconds")
    ended: Deferred[None] = Deferred()
    reactor.callLater(0.2, ended.callback, None)
    await ended

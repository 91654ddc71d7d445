"""Reloading the configuration: what is put in force, what is refused, and what goes on undisturbed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import pytest_twisted
from support import JSON_HEAD, SSE_HEAD, ScriptedUpstream, chunk, connect, dechunk, eventually, get, post, reactor
from twisted.internet.task import Clock

from agm import config as configuration
from agm.reload import LOOK_EVERY, ConfigWatch, keeping, needs_restart
from agm.testing import GatewayFactory, parse_config

UNARY = "/v1beta/models/m:generateContent"


def accounts(upstream: ScriptedUpstream, *names: str, extra: str = "") -> str:
    return extra + "".join(
        f'[[accounts]]\nname = "{n}"\nkind = "api-key"\napi_key = "key-{n}"\nendpoints = ["{upstream.url}"]\n'
        for n in names
    )


async def answer(port: int, upstream: ScriptedUpstream, number: int) -> bytes:
    """Ask, answer on the upstream's connection `number`, and return what the upstream was asked."""
    client = await connect(port)
    client.send(post(UNARY, b"{}", "Connection: close"))
    up = await upstream.connection(number)
    up.send(JSON_HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
    await client.closed()
    return up.received


@pytest_twisted.ensureDeferred
async def test_a_changed_file_is_put_in_force_and_streams_go_on(
    gateway: GatewayFactory, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "agm.toml"
    path.write_text(accounts(upstream, "one"))
    running = await gateway(configuration.load(path, environ={}))
    clock = Clock()
    watch = ConfigWatch(clock, running.gateway, path)
    watch.startService()
    streaming = await connect(running.port)
    streaming.send(post("/v1beta/models/m:streamGenerateContent"))
    up = await upstream.connection(0)
    up.send(SSE_HEAD + chunk(b"data: {}\r\n\r\n"))
    await streaming.until(b"data: {}")

    path.write_text(accounts(upstream, "two", extra='[models.aliases]\n"m" = "mapped"\n'))
    clock.advance(LOOK_EVERY)
    await eventually(lambda: [a.name for a in running.gateway.pool.accounts] == ["two"])
    asked = await answer(running.port, upstream, 1)
    assert b"key-two" in asked
    assert b"/models/mapped:" in asked

    up.send(chunk(b"data: {}\r\n\r\n") + b"0\r\n\r\n")
    await streaming.until(b"\r\n0\r\n\r\n")
    assert dechunk(streaming.received) == (b"data: {}\r\n\r\n" * 2, True)
    watch.stopService()
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize("bad", ["[gateway\n", '[pool]\nstrategy = "stick"\n', '[[accounts]]\nname = "x"\n'])
@pytest_twisted.ensureDeferred
async def test_a_bad_file_is_refused_and_the_old_one_stays(
    gateway: GatewayFactory, upstream: ScriptedUpstream, tmp_path: Path, lines: list[str], bad: str
) -> None:
    path = tmp_path / "agm.toml"
    path.write_text(accounts(upstream, "one"))
    running = await gateway(configuration.load(path, environ={}))
    path.write_text(bad)
    await ConfigWatch(Clock(), running.gateway, path).reload()
    assert [a.name for a in running.gateway.pool.accounts] == ["one"]
    assert any(str(path) in line for line in lines)
    assert any("the old one stays in force" in line for line in lines)
    assert b"key-one" in await answer(running.port, upstream, 0)


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_gone_changes_nothing(
    gateway: GatewayFactory, upstream: ScriptedUpstream, tmp_path: Path, lines: list[str]
) -> None:
    path = tmp_path / "agm.toml"
    path.write_text(accounts(upstream, "one"))
    running = await gateway(configuration.load(path, environ={}))
    clock = Clock()
    watch = ConfigWatch(clock, running.gateway, path)
    watch.startService()
    path.unlink()
    for _ in range(3):
        clock.advance(LOOK_EVERY)
    assert sum("is gone" in line for line in lines) == 1
    assert [a.name for a in running.gateway.pool.accounts] == ["one"]
    watch.stopService()


@pytest_twisted.ensureDeferred
async def test_an_unchanged_account_keeps_what_is_known_of_it(
    gateway: GatewayFactory, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "agm.toml"
    path.write_text(accounts(upstream, "one", "two"))
    running = await gateway(configuration.load(path, environ={}))
    pool = running.gateway.pool
    for account in pool.accounts:
        pool.disable(account, "for this test")
    kept = running.gateway.credentials["one"]
    path.write_text(accounts(upstream, "one", "two").replace("key-two", "other-key"))
    await ConfigWatch(Clock(), running.gateway, path).reload()
    assert [account.name for account in pool.candidates("m", "generateContent")] == ["two"]
    assert running.gateway.credentials["one"] is kept


@pytest_twisted.ensureDeferred
async def test_client_keys_are_revoked_without_a_restart(gateway: GatewayFactory, tmp_path: Path) -> None:
    path = tmp_path / "agm.toml"
    path.write_text('[[auth.keys]]\nname = "a"\nkey = "first"\n')
    running = await gateway(configuration.load(path, environ={}), auth_mode="strict")
    path.write_text('[[auth.keys]]\nname = "a"\nkey = "second"\n')
    await ConfigWatch(Clock(), running.gateway, path).reload()
    for key, status in (("first", b"401"), ("second", b"200")):
        client = await connect(running.port)
        client.send(get("/healthz", f"x-api-key: {key}", "Connection: close"))
        assert (await client.closed()).split()[1] == status


@pytest_twisted.ensureDeferred
async def test_sighup_reloads(gateway: GatewayFactory, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    import signal

    path = tmp_path / "agm.toml"
    path.write_text(accounts(upstream, "one"))
    running = await gateway(configuration.load(path, environ={}))
    before = signal.getsignal(signal.SIGHUP)
    watch = ConfigWatch(reactor, running.gateway, path)
    watch.startService()
    path.write_text(accounts(upstream, "two"))
    os.kill(os.getpid(), signal.SIGHUP)
    await eventually(lambda: [a.name for a in running.gateway.pool.accounts] == ["two"])
    watch.stopService()
    assert signal.getsignal(signal.SIGHUP) is before


def test_what_takes_a_restart_is_named() -> None:
    """Settings that are read once are told apart from those that are in force at once."""
    before = parse_config("")
    after = parse_config('[gateway]\nmax_body = "1MiB"\n[timeouts]\nconnect = 1\nidle = 1\n[auth]\nmode = "strict"\n')
    assert needs_restart(before, after) == ["gateway.max_body", "auth.mode", "timeouts.connect"]
    assert needs_restart(before, before) == []
    assert needs_restart(before, parse_config("[otel]\nsample = 0.5\n[metrics]\naccounts = true\n")) == ["otel"]
    after = parse_config('[request_log]\nenabled = false\npath = "/r.db"\nmax_days = 1\n')
    assert needs_restart(before, after) == ["request_log.enabled", "request_log.path"]


def test_what_the_composition_root_sets_stays_set() -> None:
    """--demo's accounts survive a reload."""
    config = parse_config("")
    assert keeping(accounts=("x",))(config).accounts == ("x",)
    assert keeping()(config) == config

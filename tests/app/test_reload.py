"""Reloading the configuration: what is put in force, what is refused, and what goes on undisturbed."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import Clock

from agm import config as configuration
from agm.app.reload import LOOK_EVERY, PER_LOOK, QUIET, Changes, ConfigWatch, keeping, needs_restart
from agm.config import Secret
from agm.config.identity import Identity
from agm.testing import GatewayFactory, RunningGateway, parse_config
from testbed.answers import dechunk
from tests.helpers.support import JSON_HEAD, SSE_HEAD, ScriptedUpstream, chunk, connect, eventually, get, post, reactor
from tests.upstream.certificates import TestAuthority

REFUSED = "the new configuration is refused"
UNARY = "/v1beta/models/m:generateContent"


def accounts(upstream: ScriptedUpstream, *names: str, extra: str = "") -> str:
    return extra + "".join(
        f'[[accounts]]\nname = "{n}"\nkind = "api-key"\napi_key = "key-{n}"\nendpoints = ["{upstream.url}"]\n'
        for n in names
    )


def replace(path: Path, text: str) -> None:
    """Put a whole file in the place of another, as editors and agm do."""
    new = path.with_name("new")
    new.write_text(text)
    new.chmod(0o600)
    os.replace(new, path)


def look(clock: Clock, seconds: float = 2 * LOOK_EVERY) -> None:
    """Let the watch look at its files for so long; two looks tell that a file is not being written."""
    clock.pump([LOOK_EVERY] * round(seconds / LOOK_EVERY))


@attrs.define(eq=False)
class Watched:
    """A gateway whose files are watched, on a clock that only a test moves."""

    running: RunningGateway
    path: Path
    clock: Clock
    watch: ConfigWatch

    def look(self, seconds: float = 2 * LOOK_EVERY) -> None:
        """Let the watch look for so long."""
        look(self.clock, seconds)

    @property
    def ready(self) -> list[str]:
        """The accounts that can serve."""
        return [account.name for account in self.running.gateway.pool.candidates("m", "generateContent")]

    def why(self, name: str) -> str:
        """Why an account cannot serve."""
        return next(
            e.reason for e in self.running.gateway.pool.excluded("m", "generateContent") if e.account.name == name
        )

    async def key_of(self, name: str) -> bytes:
        """What an account's requests are authenticated with."""
        return (await self.running.gateway.credentials[name].headers())[0][1]


Watch = Callable[[str], Awaitable[Watched]]


@pytest_twisted.async_yield_fixture
async def watch(gateway: GatewayFactory, tmp_path: Path) -> AsyncIterator[Watch]:
    """A function that starts a gateway with a configuration, and a watch of its files."""
    started: list[Watched] = []

    async def start(text: str) -> Watched:
        path = tmp_path / "agm.toml"
        replace(path, text)
        running = await gateway(configuration.load(path, environ=os.environ))
        clock = Clock()
        watched = Watched(running, path, clock, ConfigWatch(clock, running.gateway, path))
        watched.watch.startService()
        started.append(watched)
        return watched

    yield start
    for each in started:
        each.watch.stopService()
        assert not each.clock.getDelayedCalls()


def with_keys(**sources: str) -> str:
    """Accounts, each with where its key is."""
    return "".join(
        f'[[accounts]]\nname = "{name}"\nkind = "api-key"\n{source}\nendpoints = ["http://127.0.0.1:1"]\n'
        for name, source in sources.items()
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

    replace(path, accounts(upstream, "two", extra='[models.aliases]\n"m" = "mapped"\n'))
    look(clock)
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
    assert any("the old one stays loaded" in line for line in lines)
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
    look(clock, 10.0)
    assert sum("is gone" in line for line in lines) == 1
    assert [a.name for a in running.gateway.pool.accounts] == ["one"]
    watch.stopService()


# Files that are being written


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_being_written_is_left_alone(watch: Watch, lines: list[str]) -> None:
    """Half of it has fewer accounts, and means the rest of them nothing ill."""
    whole = with_keys(a='api_key = "key-a"', b='api_key = "key-b"', c='api_key = "key-c"')
    it = await watch(whole)
    with it.path.open("w") as file:
        for part in ("", whole[: len(whole) // 2].rpartition("[[")[0], whole.rpartition("[[")[0]):
            file.seek(0)
            file.write(part)
            file.flush()
            it.look(QUIET - LOOK_EVERY)
            assert it.ready == ["a", "b", "c"]
        file.seek(0)
        file.write(whole.replace("key-c", "key-d"))
    it.look()
    await eventually(lambda: any("is loaded" in line for line in lines), "the whole file")
    assert await it.key_of("c") == b"key-d"
    assert sum("is loaded" in line for line in lines) == 1
    assert sum("when it has not changed for 3 seconds" in line for line in lines) > 0


@pytest.mark.parametrize("replaced", [False, True], ids=["in its place", "replaced"])
@pytest_twisted.ensureDeferred
async def test_the_last_account_goes_after_three_quiet_seconds(watch: Watch, replaced: bool) -> None:
    """Nobody means a file that a full disk has emptied; who does need not do more than wait."""
    it = await watch(with_keys(a='api_key = "key-a"'))
    if replaced:
        replace(it.path, "")
    else:
        it.path.write_text("")
    it.look(QUIET)
    assert it.ready == ["a"]
    it.look(2 * LOOK_EVERY)
    await eventually(lambda: not len(it.running.gateway.pool), "no account")


@pytest_twisted.ensureDeferred
async def test_the_last_account_goes_at_once_on_sighup(watch: Watch) -> None:
    it = await watch(with_keys(a='api_key = "key-a"'))
    it.path.write_text("")
    await it.watch.reload()
    assert not len(it.running.gateway.pool)


@pytest_twisted.ensureDeferred
async def test_a_client_key_is_revoked_as_fast_as_the_file_is_replaced(watch: Watch) -> None:
    """Where it is written in its place, three seconds after that."""
    keys = '[[auth.keys]]\nname = "a"\nkey = "first"\n[[auth.keys]]\nname = "b"\nkey = "second"\n'
    it = await watch(keys)

    def known() -> list[str]:
        return [key.name for key in it.running.gateway.clients.client_keys]

    replace(it.path, keys.partition('[[auth.keys]]\nname = "b"')[0])
    it.look()
    await eventually(lambda: known() == ["a"])
    it.path.write_text("# " + "x" * 200 + "\n")
    it.look(QUIET)
    assert known() == ["a"]
    it.look()
    await eventually(lambda: known() == [])


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_refused_is_told_once_and_when_it_is_done(watch: Watch, lines: list[str]) -> None:
    it = await watch(with_keys(a='api_key = "key-a"'))
    it.path.write_text("[[accounts")
    it.look(QUIET)
    assert not any(REFUSED in line for line in lines)
    it.look(2 * QUIET)
    await eventually(lambda: any(REFUSED in line for line in lines))
    assert sum(REFUSED in line for line in lines) == 1
    assert it.ready == ["a"]


# Files that a configuration is made from


@pytest_twisted.ensureDeferred
async def test_a_key_file_is_taken_up_as_the_configuration_is(watch: Watch, tmp_path: Path) -> None:
    """And only its account starts anew."""
    key = tmp_path / "a.key"
    replace(key, "canary-old-1\n")
    it = await watch(with_keys(a='api_key_file = "a.key"', b='api_key = "key-b"'))
    kept = it.running.gateway.credentials["b"]
    for account in it.running.gateway.pool.accounts:
        it.running.gateway.pool.disable(account, "its credential is refused")
    key.write_text("canary-new-1\n")
    it.look()
    await eventually(lambda: it.ready == ["a"], "the account back")
    assert await it.key_of("a") == b"canary-new-1"
    assert it.running.gateway.credentials["b"] is kept
    assert it.why("b") == "its credential is refused"


@pytest_twisted.ensureDeferred
async def test_half_a_key_is_not_sent(watch: Watch, tmp_path: Path) -> None:
    """A file that became shorter in its place may be on its way; nobody says that it is whole."""
    key = tmp_path / "a.key"
    replace(key, "canary-old-1\n")
    it = await watch(with_keys(a='api_key_file = "a.key"'))
    key.write_text("canary-n")
    it.look(QUIET)
    assert await it.key_of("a") == b"canary-old-1"
    key.write_text("canary-new-1\n")
    it.look()
    await eventually(lambda: it.running.gateway.config.accounts[0].api_key == Secret("canary-new-1"))
    replace(key, "canary-3\n")
    it.look()
    await eventually(lambda: it.running.gateway.config.accounts[0].api_key == Secret("canary-3"))


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_look_that_fails_is_not_the_last_one(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged_failures: list[dict[str, Any]]
) -> None:
    """Whatever nobody thought of."""
    it = await watch(with_keys(a='api_key = "key-a"'))
    with monkeypatch.context() as broken:
        broken.setattr(configuration, "load", lambda *_, **__: 1 / 0)
        replace(it.path, with_keys(a='api_key = "key-b"'))
        it.look()
    assert len(logged_failures) == 1
    it.look()
    await eventually(lambda: it.running.gateway.config.accounts[0].api_key == Secret("key-b"))


@pytest.mark.parametrize("harm", ["emptied", "gone", "quoted", "of nobody"])
@pytest_twisted.ensureDeferred
async def test_an_account_whose_secret_becomes_unusable_is_off_until_it_is_mended(
    watch: Watch, tmp_path: Path, lines: list[str], harm: str
) -> None:
    """After three quiet seconds; it is told with the cure, where the others serve and where nobody is left."""
    key = tmp_path / "a.key"
    replace(key, "canary-old-1\n")
    it = await watch(with_keys(a='api_key_file = "a.key"', b='api_key = "key-b"'))

    def do_harm() -> str:
        match harm:
            case "emptied":
                key.write_text("")
                return "the content of the key file 'a.key' is empty; put the key there"
            case "gone":
                key.unlink()
                return "the key file 'a.key' cannot be read: No such file or directory; put the key there"
            case "quoted":
                key.write_text("'canary-old-1'\n")
                return "the content of the key file 'a.key' has quotes around the key; write the key without them"
            case _:
                key.unlink()
                key.mkdir()
                return "the key file 'a.key' cannot be read: Is a directory; name a file with the key in it"

    why = do_harm()
    it.look(QUIET)
    assert it.ready == ["a", "b"]
    it.look()
    await eventually(lambda: it.ready == ["b"])
    assert it.why("a") == why
    assert any("accounts[0].api_key_file: " in line and "until then 'a' is off" in line for line in lines)
    (told, _) = (await it.running.fetch("GET", "/_agm/accounts")).json["accounts"]
    assert told["disabled"] == why

    replace(it.path, with_keys(a='api_key_file = "a.key"'))
    it.look(QUIET + 2 * LOOK_EVERY)
    await eventually(lambda: it.ready == [])
    refused = await it.running.ask("m")
    assert refused.status == 503
    assert f"An account is off: {why}." in refused.json["error"]["message"]
    assert str(tmp_path) not in refused.json["error"]["message"]

    if key.is_dir():
        key.rmdir()
    replace(key, "canary-old-1\n")
    it.look()
    await eventually(lambda: it.ready == ["a"])
    assert await it.key_of("a") == b"canary-old-1"
    assert any(line == "a: its secret is available again" for line in lines)


def a_login(refresh_token: str, **more: str) -> str:
    """What gcloud writes."""
    login = {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": "canary-secret",
        "refresh_token": refresh_token,
    }
    return json.dumps({**login, **more})


@pytest.mark.parametrize("place", ["adc", "file"])
@pytest_twisted.ensureDeferred
async def test_signing_in_again_brings_the_account_back(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], place: str
) -> None:
    """Wherever the login is; a token that another program has only renewed is no news."""
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    login = tmp_path / "application_default_credentials.json"
    replace(login, a_login("canary-revoked"))
    credentials = "adc" if place == "adc" else login.name
    it = await watch(f'[[accounts]]\nname = "a"\nkind = "vertex"\nproject = "p"\ncredentials = "{credentials}"\n')
    pool = it.running.gateway.pool
    pool.disable(pool.accounts[0], "the token endpoint refused the refresh token")
    login.write_text(a_login("canary-revoked", token="canary-token", expiry="2030-01-01T00:00:00Z"))
    it.look(10.0)
    assert it.ready == []
    assert not any("is loaded" in line for line in lines)
    login.write_text(a_login("canary-good"))
    it.look()
    await eventually(lambda: it.ready == ["a"])


@pytest_twisted.ensureDeferred
async def test_a_login_that_was_not_there_is_taken_up(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it a machine may have one of its own; that is known only when it is used."""
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    it = await watch('[[accounts]]\nname = "a"\nkind = "vertex"\nproject = "p"\ncredentials = "adc"\n')
    before = it.running.gateway.credentials["a"]
    replace(tmp_path / "application_default_credentials.json", a_login("canary-good"))
    it.look()
    await eventually(lambda: it.running.gateway.credentials["a"] is not before)


@pytest_twisted.ensureDeferred
async def test_what_was_only_touched_is_not_read_in_vain(watch: Watch, tmp_path: Path, lines: list[str]) -> None:
    """The configuration itself is: plugins may have been told to look."""
    key = tmp_path / "a.key"
    replace(key, "canary-old-1\n")
    it = await watch(with_keys(a='api_key_file = "a.key"'))
    os.utime(key, (1, 1))
    it.look(10.0)
    assert not any("is loaded" in line for line in lines)
    os.utime(it.path, (1, 1))
    it.look()
    await eventually(lambda: any("is loaded" in line for line in lines))


@pytest_twisted.ensureDeferred
async def test_authorities_are_taken_up_and_a_broken_file_leaves_them(
    watch: Watch, tmp_path: Path, lines: list[str]
) -> None:
    """What is mended is taken up, though the configuration that named it was refused."""
    one, two = TestAuthority("one").pem, TestAuthority("two").pem
    authorities = tmp_path / "ca.pem"
    authorities.write_bytes(one)
    it = await watch('[upstream]\nca_file = "ca.pem"\n')

    def trusted() -> bytes:
        found = it.running.gateway.config.upstream.ca_file
        assert found is not None
        return found.pem

    authorities.write_bytes(one[:100])
    it.look(2 * QUIET)
    await eventually(lambda: any(REFUSED in line for line in lines))
    assert trusted() == one
    authorities.write_bytes(two)
    it.look()
    await eventually(lambda: trusted() == two)
    other = tmp_path / "other.pem"
    replace(it.path, '[upstream]\nca_file = "other.pem"\n')
    it.look(2 * QUIET)
    await eventually(lambda: sum(REFUSED in line for line in lines) == 2)
    other.write_bytes(one)
    it.look()
    await eventually(lambda: trusted() == one)


def test_of_many_files_each_look_takes_a_few(tmp_path: Path) -> None:
    """The configuration every time, and every other in turn: nothing waits for ten thousand key files."""
    clock = Clock()
    changes = Changes(clock.seconds)
    files = [tmp_path / f"{number}" for number in range(3 * PER_LOOK)]
    for file in files:
        file.touch()
    read = {file: Identity.of(file) for file in files}
    for _ in range(4):
        assert changes.look(read) is None
    files[0].write_text("x")
    assert changes.look(read) == 0.0
    clock.advance(1.0)
    assert changes.look(read) == 1.0
    read[files[0]] = Identity.of(files[0])
    files[-1].write_text("x")
    looks = [changes.look(read) for _ in range(3)]
    assert 0.0 in looks
    clock.advance(1.0)
    assert changes.look(read) == 1.0, "what has changed is looked at each time"


# What goes on


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

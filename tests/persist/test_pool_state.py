"""What the pool keeps over a restart: all that matters, nothing secret, in a file that is always whole."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import Clock

from agm.config import Config, Secret, default_path, parse
from agm.core.classify import Fault, Verdict
from agm.core.ownership import KnownOwners
from agm.core.pool.exclusions import Cause
from agm.core.pool.pool import Pool
from agm.core.request import Account
from agm.persist.pool_state import PoolState, digest_of, path_of, written_at
from agm.upstream.accounts import account_source
from tests.helpers.support import eventually, reactor

GENERATE = "generateContent"
A = Account("a", "api-key", ("https://upstream",))


@attrs.define
class Life:
    """A pool with its state, from a start to a stop."""

    path: Path
    origin: object = "one"
    wall: float = 5000.0
    clock: Clock = attrs.Factory(Clock)
    pool: Pool = attrs.field(init=False)
    state: PoolState = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.pool = Pool([A], self.clock.seconds)
        self.state = PoolState(reactor, self.pool, self.path, lambda: self.wall + self.clock.seconds())
        self.state.start({"a": self.origin})

    def why(self, model: str = "m") -> Any:
        found = self.pool.excluded(model, GENERATE)
        return (found[0].cause, found[0].wait) if found else None


@pytest_twisted.ensureDeferred
async def test_a_restart_keeps_who_has_which_resource(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for life in range(3):
        owners = KnownOwners()
        state = PoolState(reactor, Pool([A], Clock().seconds), path, lambda: 5000.0, owners=owners)
        state.start({"a": "one"})
        assert owners.owner("files/abc") == (None if life == 0 else "a")
        assert owners.owner("cachedContents/gone") is None
        owners.remember("files/abc", "a")
        owners.remember("cachedContents/gone", "a")
        owners.forget("cachedContents/gone")
        await state.stop()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("wall", [30.0, 4000.0], ids=["before the first word of a time server", "set back"])
@pytest_twisted.ensureDeferred
async def test_a_start_with_a_wrong_clock_makes_no_rest_longer(tmp_path: Path, wall: float) -> None:
    """It cannot be earlier than when the file was written."""
    path = tmp_path / "state.json"
    first = Life(path)
    first.pool.failed(A, "m", Verdict(Fault.RATE, "RATE", 20.0))
    await first.state.stop()
    os.utime(path, (5000.0, 5000.0))
    pool = Pool([A], Clock().seconds)
    second = PoolState(reactor, pool, path, lambda: wall, not_before=written_at(path))
    second.start({"a": "one"})
    (found,) = pool.excluded("m", GENERATE)
    assert (found.cause, found.wait) == (Cause.RESTING, 20.0)
    await second.stop()
    assert written_at(tmp_path / "none.json") == 0.0


@pytest_twisted.ensureDeferred
async def test_a_restart_keeps_rests_and_what_is_disabled(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    first = Life(path)
    first.pool.failed(A, "m", Verdict(Fault.QUOTA, "DAILY", 600.0))
    first.pool.failed(A, "n", Verdict(Fault.FORBIDDEN, "PERMISSION_DENIED", message="No.", link="https://help"))
    first.pool.note_quota(A, "q", 0.0, 100.0)
    await first.state.stop()
    second = Life(path, wall=5030.0)
    assert second.why() == (Cause.RESTING, 570.0)
    assert second.why("n") == (Cause.ASIDE, 30.0)
    (aside,) = second.pool.excluded("n", "generateContent")
    assert (aside.message, aside.link) == ("No.", "https://help")
    assert second.why("q") == (Cause.RESERVE, 70.0)
    assert second.why("other") is None
    second.pool.failed(A, "n", Verdict(Fault.BLOCKED, "BILLING", message="Pay."))
    await second.state.stop()
    third = Life(path, wall=5031.0)
    assert third.why("other") == (Cause.ASIDE, 59.0)
    third.pool.disable(A, "revoked")
    await third.state.stop()
    fourth = Life(path, wall=99_000.0)
    assert fourth.why("other") == (Cause.DISABLED, None)
    await fourth.state.stop()


@pytest_twisted.ensureDeferred
async def test_the_state_of_the_first_release_is_read(tmp_path: Path) -> None:
    """It knew an account that is off by one word, and no message."""
    first = Life(tmp_path / "s")
    first.pool.failed(A, "m", Verdict(Fault.QUOTA, "DAILY", 600.0))
    await first.state.stop()
    written = json.loads((tmp_path / "s").read_text())
    written["accounts"]["a"]["disabled"] = "SERVICE_DISABLED"
    (tmp_path / "s").write_text(json.dumps(written))
    second = Life(tmp_path / "s")
    assert second.why("other") == (Cause.DISABLED, None)
    assert second.pool.reset("a")
    assert second.why() is None
    await second.state.stop()


@pytest_twisted.ensureDeferred
async def test_the_state_of_a_later_release_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Fields and causes that this release does not know are passed over."""
    first = Life(tmp_path / "s")
    first.pool.failed(A, "m", Verdict(Fault.QUOTA, "DAILY", 600.0))
    await first.state.stop()
    written = json.loads((tmp_path / "s").read_text())
    written["more"] = written["accounts"]["a"]["more"] = written["accounts"]["a"]["rests"][0]["more"] = {"x": [1]}
    written["accounts"]["a"]["rests"][0]["cause"] = "DREAMING"
    (tmp_path / "s").write_text(json.dumps(written))
    second = Life(tmp_path / "s")
    assert second.why() == (Cause.RESTING, 600.0)
    await second.state.stop()


@pytest_twisted.ensureDeferred
async def test_a_rest_that_ended_meanwhile_is_probed(tmp_path: Path) -> None:
    first = Life(tmp_path / "s")
    first.pool.failed(A, "m", Verdict(Fault.QUOTA, "DAILY", 60.0))
    await first.state.stop()
    second = Life(tmp_path / "s", wall=5100.0)
    assert second.why() is None
    with second.pool.lease(A, "m") as lease:
        assert lease.probe
    await second.state.stop()


@pytest.mark.parametrize("origin", ["another", None])
@pytest_twisted.ensureDeferred
async def test_an_account_that_was_changed_starts_anew(tmp_path: Path, origin: object) -> None:
    first = Life(tmp_path / "s")
    first.pool.disable(A, "revoked")
    await first.state.stop()
    second = Life(tmp_path / "s", origin=origin)
    assert second.why() is None
    await second.state.stop()


@pytest_twisted.ensureDeferred
async def test_a_change_is_in_the_file_soon_after_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    life = Life(path)
    life.pool.disable(A, "revoked")
    await eventually(path.exists)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "revoked" in path.read_text()
    life.pool.failed(A, "m", Verdict(Fault.QUOTA, "LATER", 60.0))
    await eventually(lambda: "LATER" in path.read_text())
    await life.state.stop()
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"agm":2,"accounts":{}}', '{"other": 1}', "\xff" * 10])
@pytest_twisted.ensureDeferred
async def test_what_is_not_our_state_is_set_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s"
    path.write_text(text, encoding="latin-1")
    life = Life(path)
    assert life.why() is None
    assert (tmp_path / "s.unusable").read_text(encoding="latin-1") == text
    life.pool.disable(A, "revoked")
    await life.state.stop()
    assert "revoked" in path.read_text()


def test_a_digest_tells_secrets_apart_and_shows_none() -> None:
    one, other = (digest_of((Secret(s), 1)) for s in ("canary-1", "canary-2"))
    assert one != other
    assert digest_of((Secret("canary-1"), 1)) == one
    assert "canary" not in str(one)
    assert digest_of(None) is None


def test_an_account_whose_login_was_replaced_is_another_one(tmp_path: Path) -> None:
    """What was held against the old credential ends with it; a setting that is as it is by default changes nothing."""
    login = tmp_path / "login.json"
    lines = '[[accounts]]\nname = "a"\nkind = "vertex"\nproject = "p"\ncredentials = "login.json"\n'

    def digest(token: str | None, text: str = lines) -> str | None:
        login.unlink(missing_ok=True)
        if token is not None:
            held = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": token}
            login.write_text(json.dumps(held))
        (entry,) = parse(text, environ={}, path=tmp_path / "agm.toml").accounts
        return digest_of(account_source(entry).origin)

    one = digest("canary-1")
    assert digest("canary-1") == one
    assert len({one, digest("canary-2"), digest(None)}) == 3
    assert digest("canary-1", lines + "priority = 0\nenabled = true\n") == one
    assert digest("canary-1", lines + "priority = 1\n") != one


def test_the_file_belongs_to_the_configuration(tmp_path: Path) -> None:
    def config(text: str = "", path: Path | None = None) -> Config:
        return parse(text, path=path, environ={})

    assert path_of(config()) is None
    own, other = path_of(config(path=default_path())), path_of(config(path=tmp_path / "x.toml"))
    assert own is not None
    assert other is not None
    assert own.name == "state.json"
    assert other.parent == own.parent
    assert other != own
    assert path_of(config('[pool]\nstate = "none"', tmp_path / "x.toml")) is None
    assert path_of(config('[pool]\nstate = "s.json"', tmp_path / "x.toml")) == tmp_path / "s.json"

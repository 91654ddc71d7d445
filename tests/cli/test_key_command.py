"""``agm key``: what is printed once, what is kept, and that a revoked key is gone."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_twisted

from agm.cli import main
from agm.cli.files import Refused
from agm.cli.key import moment
from agm.config import load
from agm.testing import GatewayFactory, RunningEmulator
from testbed.processes import environment, run
from tests.helpers.commands import Command


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration that the commands use; it is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("AGM_CONFIG", raising=False)
    return tmp_path / "agm" / "agm.toml"


def test_a_key_is_printed_once_and_its_digest_kept(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output holds the key alone, for `$(…)`; nothing else ever holds it."""
    options = ["--model", "gemini-*", "--model", "imagen-*", "--requests-per-minute", "60"]
    assert main(["key", "create", "laptop", *options]) == 0
    output = capsys.readouterr()
    assert re.fullmatch(r"agm_[A-Za-z0-9_-]{32}\n", output.out)
    key = output.out.strip()
    assert key not in output.err + file.read_text()
    (kept,) = load(file, environ={}).auth.keys
    assert kept.digest == hashlib.sha256(key.encode()).hexdigest()
    assert (kept.name, kept.models, kept.requests_per_minute) == ("laptop", ("gemini-*", "imagen-*"), 60)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert main(["key", "list"]) == 0
    assert key not in capsys.readouterr().out


def test_keys_differ(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has its own name, and none has a limit that nobody asked for."""
    for name in ("a", "b"):
        assert main(["key", "create", name]) == 0
    assert len(set(capsys.readouterr().out.split())) == 2
    for key in load(file, environ={}).auth.keys:
        assert (key.models, key.requests_per_minute) == ((), None)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["laptop"], "there is a client key 'laptop' already; choose another name, or revoke it first\n"),
        (["other", "--requests-per-minute", "0"], "requests_per_minute: 0 is not between 1 and"),
        ([" "], "auth.keys[1].name: is empty"),
    ],
)
def test_a_refused_key_is_not_printed(
    file: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    """It would let nobody in."""
    main(["key", "create", "laptop"])
    before = file.read_text()
    capsys.readouterr()
    assert main(["key", "create", *argv]) == 1
    output = capsys.readouterr()
    assert (output.out, file.read_text()) == ("", before)
    assert message in output.err


def test_a_variable_that_another_key_lacks_is_no_obstacle(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was so before; the gateway may have the variable where it is started."""
    file.parent.mkdir()
    file.write_text('[[auth.keys]]\nname = "a"\nkey_env = "NOT_SET_ANYWHERE"\n')
    assert main(["key", "create", "b"]) == 0
    assert "NOT_SET_ANYWHERE" not in capsys.readouterr().err
    assert [table["name"] for table in tomllib.loads(file.read_text())["auth"]["keys"]] == ["a", "b"]


def test_the_list_names_keys_and_limits(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a key nor a digest."""
    file.parent.mkdir()
    file.write_text(
        '[[auth.keys]]\nname = "a"\nkey = "canary"\nmodels = ["gemini-*"]\nrequests_per_minute = 6\n'
        "tokens_per_day = 5000\nexpires = 2099-01-31\n"
        '[[auth.keys]]\nname = "b"\nkey_env = "NOT_SET_ANYWHERE"\nexpires = 2099-01-31T18:00:00Z\n'
    )
    assert main(["key", "list", "--offline"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME  SOURCE   MODELS    LIMITS                           EXPIRES",
        "a     key      gemini-*  6 requests/min, 5000 tokens/day  2099-01-31",
        "b     key_env  -         -                                2099-01-31T18:00:00Z",
    ]
    assert main(["key", "list", "--json", "--offline"]) == 0
    none = dict.fromkeys(["requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day"])
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "a",
            "source": "key",
            "models": ["gemini-*"],
            **none,
            "requests_per_minute": 6,
            "tokens_per_day": 5000,
            "admin": False,
            "expires": "2099-01-31",
        },
        {"name": "b", "source": "key_env", "models": [], **none, "admin": False, "expires": "2099-01-31T18:00:00Z"},
    ]


def test_every_limit_can_be_given(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is in the configuration as it was given."""
    limits = ["--requests-per-minute", "1", "--requests-per-day", "2", "--tokens-per-minute", "3"]
    assert main(["key", "create", "a", *limits, "--tokens-per-day", "4", "--expires", "2099-01-31"]) == 0
    assert main(["key", "create", "b", "--expires", "2099-01-31T18:00+01:00"]) == 0
    first, second = load(file, environ={}).auth.keys
    assert (first.requests_per_minute, first.requests_per_day) == (1, 2)
    assert (first.tokens_per_minute, first.tokens_per_day) == (3, 4)
    assert first.expires == datetime(2099, 2, 1, tzinfo=UTC).timestamp()
    assert second.expires == datetime(2099, 1, 31, 17, tzinfo=UTC).timestamp()


NOW = datetime(2030, 6, 15, 12, 30, 15, 999, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("30d", "2030-07-15T12:30:15+00:00"),
        ("12h", "2030-06-16T00:30:15+00:00"),
        ("2w", "2030-06-29T12:30:15+00:00"),
        ("2030-06-15", "2030-06-15"),
        ("2030-06-15T18:00", "2030-06-15T18:00:00+00:00"),
        ("2030-06-15 18:00:00-03:00", "2030-06-15T18:00:00-03:00"),
    ],
)
def test_an_expiry_is_a_span_a_date_or_a_time(text: str, meant: str) -> None:
    """A span counts from now, a date's day still counts."""
    assert moment(text, NOW).isoformat() == meant


@pytest.mark.parametrize("text", ["", "d", "0d", "30", "30m", "tomorrow", "2030-13-01", "999999w", "2030-6-15"])
def test_an_expiry_that_cannot_be_understood_is_refused(text: str) -> None:
    """With all the ways to write it."""
    with pytest.raises(Refused, match="write 30d, 12h or 2w, a date like 2027-01-31, or 2027-01-31T18:00Z"):
        moment(text, NOW)


@pytest.mark.parametrize("text", ["2030-06-14", "2030-06-15T12:30:15Z"])
def test_a_key_cannot_be_made_that_has_expired_already(text: str) -> None:
    """It would let nobody in."""
    with pytest.raises(Refused, match=f"{text} is over already"):
        moment(text, NOW)


def put(file: Path, text: str) -> None:
    """Write a configuration into a folder that is not there yet."""
    file.parent.mkdir()
    file.write_text(text)


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_the_list_tells_what_was_used_today_where_the_gateway_runs(
    gateway: GatewayFactory, emulator: RunningEmulator, file: Path, tmp_path: Path
) -> None:
    """Of the keys that it knows; the others are in the configuration only."""
    key = '[[auth.keys]]\nname = "a"\nkey = "canary"\n'
    running = await gateway(emulator.account() + key)
    answer = await running.ask(key="canary")
    tokens = answer.json["usageMetadata"]["totalTokenCount"]
    put(file, key + '[[auth.keys]]\nname = "new"\nkey = "later"\n')
    env = environment(tmp_path, XDG_CONFIG_HOME=str(tmp_path))
    listed = Command.start("key", "list", "--url", running.url, env=env, folder=tmp_path)
    await listed.ended()
    assert listed.out.decode().splitlines() == [
        "NAME  SOURCE  MODELS  LIMITS  EXPIRES  TODAY",
        f"a     key     -       -       -        1 request, {tokens} tokens",
        "new   key     -       -       -        not in the running gateway",
    ]
    listed = Command.start("key", "list", "--json", "--url", running.url, env=env, folder=tmp_path)
    await listed.ended()
    assert [each["today"] for each in json.loads(listed.out)] == [{"requests": 1, "tokens": tokens}, None]


def test_an_empty_list_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error; the JSON is an empty array."""
    assert main(["key", "list"]) == 0
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "no client keys; `agm key create NAME` makes one\n")
    assert main(["key", "list", "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"


def test_a_revoked_key_is_gone(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others stay."""
    for name in ("laptop", "ci"):
        main(["key", "create", name])
    capsys.readouterr()
    assert main(["key", "revoke", "laptop"]) == 0
    assert capsys.readouterr().out == "revoked laptop\n"
    assert [key.name for key in load(file, environ={}).auth.keys] == ["ci"]
    assert main(["key", "revoke", "ci"]) == 0
    assert load(file, environ={}).auth.keys == ()


def test_a_name_that_is_not_there_gets_the_nearest(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that was pasted for its name is not shown."""
    assert main(["key", "revoke", "laptop"]) == 1
    assert capsys.readouterr().err == "no client key of this name; there is none at all\n"
    main(["key", "create", "laptop"])
    key = capsys.readouterr().out.strip()
    assert main(["key", "revoke", "labtop"]) == 1
    assert capsys.readouterr().err == "no client key of this name; did you mean 'laptop'?\n"
    assert main(["key", "revoke", key]) == 1
    assert key not in capsys.readouterr().err


def test_arguments_too_many_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A person may try to bring a key of their own."""
    with pytest.raises(SystemExit) as ended:
        main(["key", "create", "laptop", "canary"])
    assert ended.value.code == 2
    assert "canary" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["create", "list", "revoke"])
def test_each_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """To copy from."""
    with pytest.raises(SystemExit) as ended:
        main(["key", command, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  agm key {command}" in capsys.readouterr().out


@pytest.mark.process
def test_a_shell_gets_the_key_alone(file: Path) -> None:
    """`KEY=$(agm key create laptop)`."""
    ran = run(
        [sys.executable, "-m", "agm", "key", "create", "laptop"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0
    assert re.fullmatch(r"agm_[A-Za-z0-9_-]{32}\n", ran.stdout)
    assert ran.stdout.strip() not in ran.stderr


def test_a_key_for_an_operator_opens_the_admin_api(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "create", "operator", "--admin"]) == 0
    capsys.readouterr()
    assert [key.admin for key in load(file, environ={}).auth.keys] == [True]
    assert main(["key", "list", "--offline"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["operator", "key_sha256", "-", "admin", "-"]

"""``agm key``: what is printed once, what is kept, and that a revoked key is gone."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import sys
import tomllib
from pathlib import Path

import pytest
from processes import run

from agm.cli import main
from agm.config import load


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
        '[[auth.keys]]\nname = "b"\nkey_env = "NOT_SET_ANYWHERE"\n'
    )
    assert main(["key", "list"]) == 0
    assert capsys.readouterr().out == (
        "NAME  SOURCE   MODELS    REQUESTS PER MINUTE\na     key      gemini-*  6\nb     key_env  -         -\n"
    )
    assert main(["key", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "a", "source": "key", "models": ["gemini-*"], "requests_per_minute": 6},
        {"name": "b", "source": "key_env", "models": [], "requests_per_minute": None},
    ]


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

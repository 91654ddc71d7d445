"""``agm account test``: one real request through an account of each kind, and what is said when it does not work."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import pytest_twisted

from agm.core.models import Patterns, model_to_count
from agm.testing import RunningEmulator
from testbed.processes import environment
from tests.helpers.commands import Command

Run = Callable[..., Awaitable[Command]]


@pytest.fixture
def agm_test(tmp_path: Path) -> Run:
    """Runs ``agm account test`` with a configuration of this text, to its end."""

    async def run(text: str, *arguments: str) -> Command:
        file = tmp_path / "agm.toml"
        file.write_text(text)
        command = Command.start(
            "account", "test", "--config", str(file), *arguments, env=environment(tmp_path), folder=tmp_path
        )
        await command.ended()
        assert "Traceback" not in command.messages
        return command

    return run


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_every_kind_of_account_is_tried_in_its_own_way(agm_test: Run, emulator: RunningEmulator) -> None:
    """One count each, in the order of the configuration, and no generation."""
    team = f'[[accounts]]\nname = "team"\nkind = "code-assist"\naccess_token = "team"\nendpoints = ["{emulator.url}"]\n'
    text = emulator.account("work") + emulator.account("cloud", "vertex") + team
    command = await agm_test(text, "--all")
    assert command.status == 0, command.messages
    lines = command.out.decode().splitlines()
    assert [line.split(" counted ")[0] for line in lines] == [
        "work (api-key): ok, gemini-2.5-flash",
        "cloud (vertex): ok, gemini-2.5-flash",
        "team (code-assist): ok, gemini-2.5-flash",
    ]
    assert [entry.rpc for entry in emulator.log] == ["countTokens", "countTokens", "loadCodeAssist", "countTokens"]


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_failure_is_said_with_what_helps(agm_test: Run, emulator: RunningEmulator) -> None:
    """And makes the status 1, whatever the others do; only what was named is tried."""
    text = emulator.account("work") + emulator.account("invalid")
    command = await agm_test(text, "--all")
    assert command.status == 1
    assert command.out.decode().splitlines()[1:] == [
        "invalid (api-key): failed, 400 API_KEY_INVALID",
        "  API key not valid. Please pass a valid API key.",
        "  fix: create a new key and replace this one with it",
    ]
    command = await agm_test(text, "work")
    assert (command.status, command.out.count(b"\n")) == (0, 1)


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_the_document_holds_it_all(agm_test: Run, emulator: RunningEmulator) -> None:
    """For programs, and without a secret."""
    command = await agm_test(emulator.account("work"), "work", "--model", "emu-403disabled", "--json")
    assert command.status == 1
    (trial,) = json.loads(command.out)
    assert trial.pop("seconds") >= 0
    assert trial.pop("message")
    assert trial == {
        "ok": False,
        "account": "work",
        "kind": "api-key",
        "model": "emu-403disabled",
        "tokens": None,
        "models": None,
        "status": 403,
        "reason": "SERVICE_DISABLED",
        "cure": "enable generativelanguage.googleapis.com for the project, or for the key",
    }


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("emu-401", "fix: sign in again: agm login cloud"),
        ("emu-403", "fix: grant roles/aiplatform.user on project p"),
        ("emu-403validation", "fix: sign in to the account in a browser"),
        ("emu-404", "fix: choose another model with --model"),
        ("emu-429day", "fix: none: the account is fine, its quota is used up for now"),
        ("emu-503", "fix: try again later"),
    ],
)
@pytest.mark.process
async def test_each_failure_has_its_cure(agm_test: Run, emulator: RunningEmulator, model: str, words: str) -> None:
    """What a person can do differs."""
    command = await agm_test(emulator.account("cloud", "vertex"), "cloud", "--model", model)
    assert (command.status, command.out.decode().splitlines()[-1].strip()[: len(words)]) == (1, words)


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_login_that_has_ended_is_said_so(agm_test: Run, emulator: RunningEmulator, tmp_path: Path) -> None:
    """In the credential's own words, which name the cure."""
    login = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "revoked-1"}
    (tmp_path / "login.json").write_text(json.dumps({**login, "token_uri": f"{emulator.url}/token"}))
    text = (
        '[[accounts]]\nname = "cloud"\nkind = "vertex"\nproject = "p"\ncredentials = "login.json"\n'
        f'endpoints = ["{emulator.url}"]\n'
    )
    command = await agm_test(text, "cloud")
    assert command.status == 1
    assert "CREDENTIAL_UNAVAILABLE" in command.out.decode()
    assert "sign in again" in command.out.decode()
    assert "revoked-1" not in command.out.decode() + command.messages


@pytest.mark.slow
@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_what_cannot_be_tried_is_said(agm_test: Run, emulator: RunningEmulator) -> None:
    """Nothing is sent then."""
    for text, arguments, status, words in (
        ("", ["--all"], 1, "no accounts"),
        (emulator.account("work"), ["wrok"], 1, "no account of this name; the names are 'work'"),
        (emulator.account("work", extra="enabled = false"), ["work"], 1, "agm account enable work"),
        (emulator.account("work"), [], 2, "name an account, or write --all"),
        (emulator.account("work"), ["work", "--all"], 2, "name an account, or write --all"),
    ):
        command = await agm_test(text, *arguments)
        assert command.status == status
        assert words in command.messages
    command = await agm_test(emulator.account("work", extra='models = ["imagen-*"]'), "work")
    assert (command.status, "name one with --model" in command.out.decode()) == (1, True)
    assert emulator.log == ()


@pytest.mark.slow
@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_only_what_is_tried_needs_its_variable(agm_test: Run, emulator: RunningEmulator) -> None:
    """What another account, or a client key, refers to need not be set where the command runs."""
    text = emulator.account("work") + (
        f'[[accounts]]\nname = "other"\nkind = "api-key"\napi_key_env = "NOT_SET"\nendpoints = ["{emulator.url}"]\n'
        '[[auth.keys]]\nname = "laptop"\nkey_env = "NOT_SET_EITHER"\n'
    )
    command = await agm_test(text, "work")
    assert (command.status, command.messages) == (0, "")
    for arguments in (["other"], ["--all"]):
        command = await agm_test(text, *arguments)
        assert (command.status, command.messages) == (1, "")
        assert command.out.decode().endswith(
            "other (api-key): failed, CREDENTIAL_UNAVAILABLE\n"
            "  the environment variable NOT_SET is not set; write export NOT_SET=… before the start\n"
        )
        assert command.out.startswith(b"work (api-key): ok, ") is (arguments == ["--all"])


@pytest.mark.parametrize(
    ("patterns", "model"),
    [
        (("*",), "gemini-2.5-flash"),
        (("gemini-2.5-p*",), "gemini-2.5-pro"),
        (("listed-*",), "listed-model"),
        (("mine-*", "my-own"), "my-own"),
        (("imagen-4", "gemini-embedding-001"), "gemini-embedding-001"),
        (("mine-*",), None),
        (("imagen-4",), None),
    ],
)
def test_the_model_is_one_that_the_account_serves(patterns: tuple[str, ...], model: str | None) -> None:
    """A usual one, a listed one, or one that it names itself."""
    assert model_to_count(Patterns(patterns), ["listed-model"]) == model

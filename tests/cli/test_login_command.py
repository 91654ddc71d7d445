"""``agm login`` as a person runs it: the real command, the emulator behind it, and a script for a browser."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import treq
from twisted.web.client import Agent

from agm.cli import main
from agm.config import load
from agm.testing import GatewayFactory, RunningEmulator, parse_config
from testbed.processes import environment
from tests.helpers.commands import Command
from tests.helpers.support import eventually, reactor

SECRET = "canary-client-secret"

BROWSER = """
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode(), file=open("page.html", "w"))
except Exception as e:
    print(repr(e), file=open("page.html", "w"))
"""


@attrs.define(eq=False)
class Person:
    """Somebody with a home folder, an OAuth client of their own, and a browser."""

    home: Path
    emulator: RunningEmulator

    @property
    def file(self) -> Path:
        return self.home / ".config" / "agm" / "agm.toml"

    @property
    def stored(self) -> Path:
        return self.file.parent / "keys" / "cloud.json"

    def start(self, *arguments: str, browser: bool = True) -> Command:
        """Start ``agm login``."""
        opens = f"{sys.executable} {self.home / 'browser.py'} %s" if browser else "/nowhere/browser"
        env = environment(self.home, BROWSER=opens, AGM_TEST_SECRET=SECRET)
        return Command.start("login", *arguments, env=env, folder=self.home)

    async def run(self, *arguments: str, stdin: bytes = b"") -> Command:
        """Run ``agm login`` to its end.  No secret is printed by it."""
        command = self.start(*arguments)
        if stdin:
            command.transport.write(stdin)
        return await self.ended(command)

    async def ended(self, command: Command) -> Command:
        await command.ended()
        for secret in (SECRET, "1//emu"):
            assert secret not in (command.out + command.err).decode()
        return command


CLOUD = ("cloud", "--client", "client.json", "--project", "my-project")


@pytest.fixture
def person(tmp_path: Path, emulator: RunningEmulator) -> Person:
    client = {
        "client_id": "mine.apps",
        "client_secret": SECRET,
        "auth_uri": f"{emulator.url}/o/oauth2/v2/auth",
        "token_uri": f"{emulator.url}/token",
    }
    (tmp_path / "client.json").write_text(json.dumps({"installed": client}))
    (tmp_path / "browser.py").write_text(BROWSER)
    return Person(tmp_path, emulator)


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_person_signs_in_and_the_account_serves(person: Person, gateway: GatewayFactory) -> None:
    """From nothing to an answer: the browser, the file for its owner alone, the configuration, a request."""
    command = await person.run(*CLOUD, "--endpoint", person.emulator.url)
    assert (command.status, command.out.decode()) == (0, f"added cloud (vertex) to {person.file}\n"), command.messages
    assert "go back to the terminal" in (person.home / "page.html").read_text()
    held = json.loads(person.stored.read_text())
    assert stat.S_IMODE(person.stored.stat().st_mode) == 0o600
    assert (held["type"], held["client_id"], held["quota_project_id"]) == ("authorized_user", "mine.apps", "my-project")
    assert held["token_uri"] == f"{person.emulator.url}/token"
    config = load(person.file, environ={})
    assert (config.accounts[0].name, config.accounts[0].kind, config.accounts[0].project) == (
        "cloud",
        "vertex",
        "my-project",
    )
    running = await gateway(config)
    assert (await running.ask("gemini-2.5-flash")).status == 200


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_the_address_can_be_pasted_where_there_is_no_browser(person: Person) -> None:
    """The browser is on another machine, and shows the address that it cannot reach."""
    command = person.start(*CLOUD, "--no-browser", browser=False)
    await eventually(lambda: "Paste that address" in command.messages, "the question")
    found = re.search(r"^  (http\S+)$", command.messages, re.MULTILINE)
    assert found is not None
    answer = await treq.client.HTTPClient(Agent(reactor)).get(
        found[1], allow_redirects=False, headers={"Connection": "close"}
    )
    where = answer.headers.getRawHeaders("location", [""])[0]
    assert where.startswith("http://127.0.0.1:8085/?")
    command.transport.write(where.encode() + b"\n")
    await person.ended(command)
    assert command.status == 0, command.messages
    assert person.stored.exists()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("pasted", "words"),
    [
        (b"http://127.0.0.1:8085/?code=4/abc&state=other\n", "belongs to another sign-in"),
        (b"4/emu-person-99\n", "invalid_grant"),
        (b"\n", "nothing was pasted"),
    ],
)
@pytest.mark.process
async def test_a_wrong_paste_is_refused(person: Person, pasted: bytes, words: str) -> None:
    """With one line, and nothing written."""
    command = await person.run(*CLOUD, "--no-browser", stdin=pasted)
    assert command.status == 1
    assert command.messages.splitlines()[-1].partition("not signed in: ")[2].count(words) == 1
    assert not person.file.exists()


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_nobody_comes(person: Person) -> None:
    """The command says that no browser opened, and ends by itself."""
    command = person.start(*CLOUD, "--timeout", "0.5", browser=False)
    await person.ended(command)
    assert command.status == 1
    assert "No browser could be opened here" in command.messages
    assert command.messages.splitlines()[-1].startswith("not signed in: nobody signed in within 0.5 seconds")


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_an_interrupted_sign_in_ends_in_one_line(person: Person) -> None:
    """Ctrl-C, as everywhere; nothing is written."""
    command = person.start(*CLOUD, browser=False)
    await eventually(lambda: "No browser could be opened" in command.messages, "the wait for a browser")
    command.transport.signalProcess("INT")
    await person.ended(command)
    assert (command.status, command.messages.splitlines()[-1]) == (1, "interrupted; nothing was changed")
    assert not person.file.exists()


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_signing_in_again_replaces_what_the_account_had(person: Person) -> None:
    """After a revocation; the configuration stays as it is: a running gateway looks at the login itself."""
    assert (await person.run(*CLOUD)).status == 0
    before, old = person.file.stat().st_mtime_ns, person.stored.read_text()
    text = person.file.read_text()
    command = await person.run("cloud", "--client", "client.json")
    assert (command.status, command.out.decode()) == (0, "signed in cloud again\n"), command.messages
    assert person.file.read_text() == text
    assert person.file.stat().st_mtime_ns == before
    new = json.loads(person.stored.read_text())
    assert new["refresh_token"] != json.loads(old)["refresh_token"]
    assert new["quota_project_id"] == "my-project"
    assert stat.S_IMODE(person.stored.stat().st_mode) == 0o600


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_code_assist_account_needs_the_word_and_no_project(person: Person) -> None:
    """Before anybody has signed in for nothing; its name is the kind's where no address is known."""
    ask = ("--kind", "code-assist", "--client-id", "mine.apps", "--client-secret-env", "AGM_TEST_SECRET")
    uris = (
        "--auth-uri",
        f"{person.emulator.url}/o/oauth2/v2/auth",
        "--token-uri",
        f"{person.emulator.url}/token",
    )
    refused = await person.run(*ask, *uris)
    assert (refused.status, "--i-have-a-licence" in refused.messages) == (1, True)
    assert person.emulator.log == ()
    command = await person.run(*ask, *uris, "--i-have-a-licence")
    assert command.status == 0, command.messages
    (account,) = load(person.file, environ={}).accounts
    assert (account.name, account.kind, account.project) == ("code-assist", "code-assist", None)


# -- What is refused before a browser opens ----------------------------------------------------------


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command that must not get as far as a browser: its status and its last message."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("BROWSER", "/nowhere/browser")
    monkeypatch.delenv("AGM_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[Any, str]:
        try:
            status: Any = main(["login", *argv])
        except SystemExit as ended:
            status = ended.code
        err = capsys.readouterr().err
        assert "Sign in with the browser" not in err
        return status, err.splitlines()[-1]

    return run


def write_client(**client: str) -> None:
    Path("client.json").write_text(json.dumps({"installed": {"client_id": "i", "client_secret": "s", **client}}))


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["cloud", "--project", "p"], 2, "agm brings no OAuth client"),
        (["cloud", "--client-id", "i"], 2, "agm brings no OAuth client"),
        (["cloud", "--client", "client.json"], 2, "a vertex account needs --project"),
        (["cloud", "--client", "client.json", "--client-id", "i"], 2, "holds the id and the secret already"),
        (["cloud", "--client", "nowhere.json", "--project", "p"], 1, "--client: the file cannot be read"),
        (["cloud", "--client-id", "i", "--client-secret-env", "NOT_SET", "--project", "p"], 1, "no such variable"),
        (["cloud", "--client", "client.json", "--project", "p", "--token-uri", "http://x.example"], 1, "--token-uri"),
        (["cloud", "--client", "client.json", "--project", "p", "--auth-uri", "x"], 1, "--auth-uri"),
        (["cl oud", "--client", "client.json", "--project", "p"], 1, "is not a name"),
    ],
)
def test_what_cannot_work_is_said_first(refused: Any, argv: Sequence[str], status: int, words: str) -> None:
    """Nobody signs in to hear it afterwards."""
    write_client()
    found, message = refused(*argv)
    assert found == status
    assert words in message


def test_an_account_of_another_making_is_not_signed_in_over(refused: Any, tmp_path: Path) -> None:
    """Its credentials are not agm's to replace."""
    write_client()
    file = tmp_path / "agm" / "agm.toml"
    file.parent.mkdir()
    file.write_text('[[accounts]]\nname = "work"\nkind = "api-key"\napi_key = "k"\n')
    assert parse_config(file.read_text()).accounts[0].name == "work"
    os.chmod(file, 0o600)
    status, message = refused("work", "--client", "client.json", "--project", "p")
    assert (status, "agm did not write its credentials" in message) == (1, True)

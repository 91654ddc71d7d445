"""``agm init``, ``agm serve`` and ``agm ui``: from nothing to a gateway that answers, with the real commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_twisted

from agm.cli import make_parser
from agm.cli.serve import options_of
from agm.tap import Options
from agm.testing import RunningEmulator
from testbed.processes import environment, until
from tests.helpers.commands import Command

#: A key; the emulator takes any but ``invalid``.
KEY = "key-that-nobody-has-seen"


async def agm(folder: Path, *arguments: str, given: bytes = b"", **more: str) -> Command:
    """Run ``agm`` to its end; `given` is what comes through its standard input."""
    command = Command.start(*arguments, env=environment(folder, **more), folder=folder)
    command.transport.write(given)
    command.transport.closeStdin()
    await command.ended()
    assert "Traceback" not in command.messages
    assert KEY not in command.messages + command.out.decode()
    return command


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    """``agm serve`` in `folder`, until it listens; its address."""
    file = folder / "log"
    with file.open("wb") as log:
        command = [sys.executable, "-m", "agm", "serve", "--port", "0", *arguments]
        process = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=log, stderr=log)
    try:
        until(lambda: re.search(r"listening on (http://\S+)", file.read_text()), "the gateway listens")
        found = re.search(r"listening on (http://\S+)", file.read_text())
        assert found is not None
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def health_of(address: str) -> object:
    """What the gateway says of its health."""
    with urllib.request.urlopen(f"{address}/healthz") as answer:
        return json.load(answer)


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_key_is_tried_and_written_and_the_next_commands_are_named(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    """The key is in a file for its owner alone, and the commands name the configuration that was given."""
    done = await agm(
        tmp_path, "init", "--config", "my agm.toml", "--endpoint", emulator.url, given=KEY.encode() + b"\n"
    )
    assert done.status == 0, done.messages
    out = done.out.decode()
    assert "main (api-key): ok, gemini-2.5-flash counted" in out
    assert out.endswith("\nnext:\n  agm serve --config 'my agm.toml'\n  agm ui --config 'my agm.toml'\n")
    stored = tmp_path / "keys" / "main.key"
    assert stored.read_text() == f"{KEY}\n"
    assert stored.stat().st_mode & 0o777 == 0o600
    assert KEY not in (tmp_path / "my agm.toml").read_text()


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_key_that_does_not_work_is_refused_and_nothing_is_written(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    """With the reason, and the way to write it all the same."""
    refused = await agm(tmp_path, "init", "--config", "agm.toml", "--endpoint", emulator.url, given=b"invalid")
    assert refused.status == 1
    assert "API_KEY_INVALID" in refused.messages
    assert refused.messages.endswith("nothing was written; --no-test writes the configuration without a test\n")
    assert os.listdir(tmp_path) == []
    written = await agm(tmp_path, "init", "--config", "agm.toml", "--no-test", given=b"invalid")
    assert written.status == 0, written.messages
    assert (tmp_path / "agm.toml").exists()


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_configuration_with_accounts_is_left_alone(tmp_path: Path) -> None:
    """Before a key is asked for."""
    file = tmp_path / "agm.toml"
    await agm(tmp_path, "init", "--config", "agm.toml", "--no-test", "--api-key-env", "MY_KEY", MY_KEY=KEY)
    before = file.read_text()
    again = await agm(tmp_path, "init", "--config", "agm.toml", given=KEY.encode())
    assert again.status == 1
    assert "has accounts already: main\n`agm account add NAME` adds one" in again.messages
    assert file.read_text() == before


def test_serve_has_the_options_of_twistd() -> None:
    """Every one of them, and what is given reaches it as it was given."""
    longs = {name.rstrip("=") for name in Options().longOpt} - {"help", "version"}
    given = ["--port=0", "--listen=tcp:0", "--config=c.toml", "--plugin=a.b", "--log-format=json", "--demo"]
    given.append("--workers=2")
    assert {word.partition("=")[0].removeprefix("--") for word in given} == longs
    assert sorted(options_of(make_parser().parse_args(["serve", *given]))) == sorted(given)


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_serve_runs_until_it_is_interrupted_and_ui_says_where(tmp_path: Path) -> None:
    """Two in one folder; ``--demo`` answers, and the page's address is that of the gateway."""
    with serving(tmp_path, "--demo") as first, serving(tmp_path, "--demo") as second:
        for address in (first, second):
            assert health_of(address) == {"status": "ok"}
        page = await agm(tmp_path, "ui", "--no-browser", "--url", first)
        assert page.out.decode() == f"{first}/\n"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".pid")]


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_ui_opens_the_page_in_the_browser_of_the_environment(tmp_path: Path) -> None:
    """And keeps to itself what the browser writes."""
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho noise >&2\necho "$1" > opened\n')
    browser.chmod(0o755)
    with serving(tmp_path, "--demo") as address:
        done = await agm(tmp_path, "ui", "--url", address, BROWSER=f"{browser} %s")
    assert (done.status, done.out.decode(), done.messages) == (0, f"{address}/\n", "")
    assert (tmp_path / "opened").read_text() == f"{address}/\n"


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_without_a_gateway_ui_says_how_one_is_started(tmp_path: Path) -> None:
    """Or that a browser cannot reach the one that runs."""
    file = tmp_path / "agm.toml"
    file.write_text('[gateway]\nlisten = ["tcp:9:interface=127.0.0.1"]\n')
    nowhere = await agm(tmp_path, "ui", "--config", str(file))
    assert (nowhere.status, nowhere.out) == (1, b"")
    assert "`agm serve` starts one" in nowhere.messages


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_help_is_a_command_too(tmp_path: Path) -> None:
    """``agm help`` lists the commands, ``agm help NAME`` explains one."""
    assert (await agm(tmp_path, "help")).out == (await agm(tmp_path, "--help")).out
    assert (await agm(tmp_path, "help", "account", "add")).out == (await agm(tmp_path, "account", "add", "-h")).out

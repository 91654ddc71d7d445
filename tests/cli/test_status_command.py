"""``agm status`` and ``agm top``: what they show of a running gateway, and how they end."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from agm import __version__
from agm.cli.overview import Overview, sparkline
from agm.cli.status import another_version, text
from agm.cli.top import events, frame, merged
from agm.core.client_keys import digest
from agm.testing import GatewayFactory, RunningEmulator
from testbed.processes import environment
from tests.helpers.commands import Command
from tests.helpers.support import connect, eventually, post, reactor

NO_WAIT = "[pool]\nmax_wait = 0\nmax_attempts = 1\n"
Run = Callable[..., Awaitable[Command]]


@pytest.fixture
def agm(tmp_path: Path) -> Run:
    """Runs ``agm`` with arguments, to its end."""

    async def run(*arguments: str, **more: str) -> Command:
        command = Command.start(*arguments, env=environment(tmp_path, **more), folder=tmp_path)
        await command.ended()
        assert "Traceback" not in command.messages
        return command

    return run


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_status_shows_what_runs_who_rests_and_what_went_wrong(
    agm: Run, gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """On one screen; what is under way is there, too."""
    running = await gateway(NO_WAIT + emulator.account("work") + emulator.account("spare"))
    await running.ask()
    await running.ask("emu-429rpm-3000")
    client = await connect(running.port)
    client.send(post("/v1beta/models/emu-hang:streamGenerateContent"))
    await eventually(lambda: any(entry.model == "emu-hang" for entry in emulator.log), "the stream")
    command = await agm("status", "--url", running.url)
    assert command.status == 0, command.messages
    out = command.out.decode()
    lines = out.splitlines()
    assert re.match(rf"agm {re.escape(__version__)} at {running.url}, up \d+ s, pid \d+$", lines[0])
    assert re.search(r"^\d requests \(1 error\), 1 in flight", out, re.MULTILINE)
    assert re.search(r"^(work|spare)  +api-key  ready but for 1 model", out, re.MULTILINE)
    assert re.search(
        r"^(work|spare): emu-429rpm-3000: cooling down, 50 min left \(RESOURCE_EXHAUSTED\)$", out, re.MULTILINE
    )
    assert re.search(r"^\d+ s  +\w+  +streamGenerateContent  emu-hang", out, re.MULTILINE)
    assert re.search(r"^\d+ s ago  429 +error +RESOURCE_EXHAUSTED  emu-429rpm-3000", out, re.MULTILINE)
    document = json.loads((await agm("status", "--url", running.url, "--json")).out)
    assert document["gateway"]["version"] == __version__
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_status_without_a_gateway_is_status_1_and_says_what_starts_one(agm: Run, tmp_path: Path) -> None:
    """Nothing is on standard output."""
    (tmp_path / "agm.toml").write_text('[gateway]\nlisten = ["tcp:1:interface=127.0.0.1"]\n')
    for command in ("status", "top"):
        ended = await agm(command, "--config", "agm.toml")
        assert (ended.status, ended.out) == (1, b"")
        assert ended.messages == "no gateway runs at http://127.0.0.1:1: `twistd -n agm` starts one\n"


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_a_gateway_that_asks_for_a_key_says_how_to_show_one(
    agm: Run, gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """And is shown it."""
    key = f'[auth]\nmode = "strict"\n[[auth.keys]]\nname = "boss"\nkey_sha256 = "{digest("boss")}"\nadmin = true\n'
    running = await gateway(key + emulator.account("work"))
    refused = await agm("status", "--url", running.url)
    assert refused.status == 1
    assert "--client-key-env VAR" in refused.messages
    for command in ("status", "top"):
        shown = await agm(command, "--url", running.url, "--client-key-env", "KEY", KEY="boss")
        assert (shown.status, shown.out[:4]) == (0, b"agm ")


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_top_without_a_terminal_prints_one_frame(
    agm: Run, gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Without a colour."""
    running = await gateway(emulator.account("work"))
    command = await agm("top", "--url", running.url)
    assert command.status == 0
    assert command.out.startswith(b"agm ")
    assert b"\x1b" not in command.out


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
@pytest.mark.process
async def test_top_follows_the_gateway_until_a_key_ends_it(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path, key: bytes
) -> None:
    """The terminal gets its screen and its cursor back, and the status is 0."""
    running = await gateway(emulator.account("work"))
    command = Command()
    env = {**environment(tmp_path), "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    argv = [sys.executable, "-m", "agm", "top", "--url", running.url]
    reactor.spawnProcess(command, argv[0], argv, env, str(tmp_path), usePTY=True)
    await eventually(lambda: b"q ends" in command.out, "a frame")
    assert b"news-of-the-day" not in command.out
    await running.ask("news-of-the-day")
    await running.ask("emu-400")
    await eventually(lambda: b"emu-400" in command.out, "what happened since")
    command.transport.write(key)
    await command.ended()
    assert command.status == 0
    assert b"\x1b[?1049h" in command.out
    assert command.out.rindex(b"\x1b[?1049l") > command.out.rindex(b"q ends")
    assert command.out.rindex(b"\x1b[?25h") > command.out.rindex(b"\x1b[?25l")
    assert b"Traceback" not in command.out


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_top_says_that_a_gateway_is_gone(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path
) -> None:
    """And still ends with a key."""
    running = await gateway(emulator.account("work"))
    command = Command()
    env = {**environment(tmp_path), "TERM": "xterm", "COLUMNS": "140", "LINES": "40", "NO_COLOR": "1"}
    argv = [sys.executable, "-m", "agm", "top", "--url", running.url]
    reactor.spawnProcess(command, argv[0], argv, env, str(tmp_path), usePTY=True)
    await eventually(lambda: b"q ends" in command.out, "a frame")
    running.gateway.live.close()
    await eventually(lambda: b"connection lost: " in command.out, "word of the loss")
    assert re.search(rb"\x1b\[[0-9;]*3[0-7]m", command.out) is None  # NO_COLOR
    command.transport.write(b"q")
    await command.ended()
    assert command.status == 0


# Pure


def test_events_are_read_from_lines() -> None:
    """Fields that are not known are passed over, as the standard has it."""
    stream = (
        b': hello\n\nevent: status\ndata: {"a":1}\n\nid: 7\nevent: change\r\ndata:{"b":\r\ndata: 2}\r\n\r\ndata: {}\n'
    )
    assert list(events(io.BytesIO(stream))) == [("status", {"a": 1}), ("change", {"b": 2})]


def test_a_change_is_merged_into_what_is_known() -> None:
    """Counts by second overlap, requests come twice, parts are replaced; a status replaces everything."""
    before = {
        "at": 1,
        "accounts": ["old"],
        "models": ["same"],
        "requests": [{"id": "a", "n": 1}],
        "traffic": {"second": 3, "requests": [0, 1, 2, 3]},
    }
    change = {
        "at": 2,
        "accounts": ["new"],
        "requests": [{"id": "b"}, {"id": "a", "n": 2}],
        "traffic": {"second": 5, "requests": [4, 5, 6]},
        "untold": 0,
    }
    after = merged(before, "change", change)
    assert after == {
        "at": 2,
        "accounts": ["new"],
        "models": ["same"],
        "requests": [{"id": "b"}, {"id": "a", "n": 2}],
        "traffic": {"second": 5, "requests": [0, 1, 2, 4, 5, 6]},
        "untold": 0,
    }
    assert merged(after, "status", before) == before


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([0, 0], "  "), ([0, 1, 8], " ▁█"), ([9, 9, 0, 4, 8], " ▄█"), ([0, 0.01, 1000], " ▁█")],
)
def test_counts_are_bars_and_any_count_can_be_seen(values: list[float], bars: str) -> None:
    """The largest that is shown is full."""
    assert sparkline(values, 3) == bars


def account(name: str, disabled: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "api-key",
        "in_flight": 0,
        "max_concurrency": None,
        "disabled": disabled,
        "models": [],
        "quotas": [],
        "last_failure": None,
        "attempts": 0,
        "failed": 0,
        "priority": 0,
    }


def document(**parts: Any) -> dict[str, Any]:
    return {
        "at": 1000.0,
        "uptime": 90061.0,
        "totals": {"requests": 1, "errors": 0, "open": 0, "streams": 1, "prompt_tokens": 1234567, "output_tokens": 0}
        | {"sent": 5 * 2**20},
        "traffic": {"second": 0, "requests": [1], "errors": [0]},
        "gateway": {
            "version": "9",
            "pid": 7,
            "config": "/a\x1b[31m/agm.toml",
            "auth_mode": "off",
            "strategy": "sticky",
        },
        "accounts": [],
        "endpoints": [],
        "open": [],
        "requests": [],
        **parts,
    }


def drawn(shown: dict[str, Any], lost: str | None = None) -> str:
    """The frame of ``agm top`` as text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(frame(shown, "http://h", lost))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_nothing_of_a_document_reaches_the_terminal_but_text() -> None:
    """Escape sequences and rich's own markup are shown as they are written, without an effect."""
    shown = document(accounts=[account("[red]x\x1b]0;title\x07")])
    for words in (text(Overview(shown, "http://h")), drawn(shown)):
        assert "\x1b" not in words
        assert "\x07" not in words
        assert "[red]x" in words
        assert "1 request (0 errors), 0 in flight, 1 stream; 1,234,567 prompt" in words
        assert "up 25 h 2 min" in words
        assert "5.0 MiB sent" in words


def test_no_accounts_and_many_accounts_fit_on_a_screen() -> None:
    """Of many those are shown that a person may have to see to."""
    assert "agm account add NAME" in text(Overview(document(), "http://h"))
    many = [account(f"a{number}") for number in range(500)] + [account("broken", "why")]
    words = text(Overview(document(accounts=many), "http://h"))
    assert "broken: disabled: why" in words
    assert "501 accounts in all" in words
    assert len(words.splitlines()) < 40


def test_an_endpoint_that_is_left_alone_is_shown() -> None:
    """One that works is not."""
    endpoints = [
        {"endpoint": "https://good", "accounts": 1, "breaker": "closed", "seconds_left": None},
        {"endpoint": "https://bad", "accounts": 1, "breaker": "open", "seconds_left": 4.2},
    ]
    words = text(Overview(document(endpoints=endpoints), "http://h"))
    assert re.search(r"^https://bad +open +5 s$", words, re.MULTILINE)
    assert "https://good" not in words


def test_a_lost_gateway_is_said_in_the_frame() -> None:
    """Above what was known last."""
    assert "connection lost: gone; reconnecting" in drawn(document(), "gone")


def test_a_document_of_another_version_is_said_so() -> None:
    """With both versions, as far as they are known."""
    assert "is agm 9.9, this command is agm" in another_version({"gateway": {"version": "9.9"}})
    assert "of an unknown version" in another_version([])

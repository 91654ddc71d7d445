"""``agm log`` and ``agm usage``: what they read, how they show it, and what they say where there is nothing."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from agm.cli import main
from agm.cli.log import span, when
from agm.observe.requestlog import store as logfile
from agm.testing import GatewayFactory, RunningEmulator
from testbed.processes import environment
from tests.helpers.commands import Command
from tests.helpers.support import eventually

TRIED = [
    {"account": "home", "endpoint": "e.example", "chosen": "first", "after_ms": 0, "ms": 40, "status": 429,
     "fault": "rate", "reason": "RATE_LIMIT", "delay": 20.0},
    {"account": "work", "endpoint": "e.example", "chosen": "its turn", "after_ms": 41, "ms": 500, "probe": True},
]  # fmt: skip
PLAIN: dict[str, Any] = {
    "client_key": "laptop",
    "client": "curl/8",
    "method": "generateContent",
    "framing": "unary",
    "asked_model": "gpt-4o",
    "model": "gemini-2.5-flash",
    "account": "work",
    "attempts": 1,
    "status": 200,
    "outcome": "ok",
    "bytes_in": 100,
    "bytes_out": 12_345,
    "prompt_tokens": 1000,
    "output_tokens": 20,
    "cached_tokens": 5,
    "thought_tokens": 3,
    "tool_tokens": 0,
    "total_tokens": 1023,
    "first_byte": 0.25,
    "duration": 1.5,
    "finish_reason": "STOP",
    "timeline": "[]",
}
FAILED: dict[str, Any] = {
    **dict.fromkeys(logfile.TOKENS),
    "client_key": None,
    "account": None,
    "attempts": 2,
    "status": 503,
    "outcome": "error",
    "reason": "NO_ACCOUNT",
    "message": "Nobody is \x1b[31mthere.",
    "stopped": "No other account could serve it in time.",
    "first_byte": None,
    "finish_reason": None,
    "timeline": json.dumps(TRIED, separators=(",", ":")),
}
Answer = tuple[int, str, str]


class Book:
    """A request log that a test writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        logfile.make(path)
        self.connection = sqlite3.connect(path)
        logfile.prepare(self.connection, path)

    def put_aside(self) -> None:
        """Rename it, with what SQLite has beside it."""
        for part in list(self.path.parent.glob(f"{self.path.name}*")):
            part.rename(part.with_name(f"old-{part.name}"))

    def add(self, request: str, *, bodies: tuple[object, ...] | None = None, **different: Any) -> None:
        values = {**PLAIN, "request": request, "started": time.time() - 100, **different}
        row = [values.get(name) for name in logfile.COLUMNS]
        kept = [] if bodies is None else [(request, values["started"], *bodies)]
        logfile.insert(self.connection, [row], kept)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's folders, with a configuration."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("AGM_CONFIG", raising=False)
    config = tmp_path / ".config" / "agm" / "agm.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[[accounts]]\nname = "a"\nkind = "api-key"\napi_key_env = "NOT_SET_HERE"\n')
    return tmp_path


@pytest.fixture
def book(home: Path) -> Iterator[Book]:
    made = Book(home / "state" / "agm" / "requests.sqlite3")
    yield made
    made.connection.close()


@pytest.fixture
def agm(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs ``agm`` in this process: its status, its output, its messages."""

    def run(*arguments: str) -> Answer:
        status = main(list(arguments))
        found = capsys.readouterr()
        return status or 0, found.out, found.err

    return run


def requests_of(out: str) -> list[str]:
    return [row["request"] for row in json.loads(out)]


def test_the_latest_requests_are_listed_newest_last(agm: Callable[..., Answer], book: Book) -> None:
    """As a log is read; variables of the configuration need not be set for it."""
    for n in range(25):
        book.add(f"r{n}")
    status, out, _ = agm("log")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == [
        "TIME", "STATUS", "OUTCOME", "KEY", "MODEL", "ACCOUNT", "TRIES", "TOKENS", "FIRST", "TOTAL", "REQUEST",
    ]  # fmt: skip
    assert [line.split()[-1] for line in lines[1:]] == [f"r{n}" for n in range(5, 25)]
    assert "gemini-2.5-flash (gpt-4o)" in lines[1]
    assert "1000+23" in lines[1]
    assert len(agm("log", "--limit", "3")[1].splitlines()) == 4


def test_a_failure_shows_its_reason_and_no_control_characters(agm: Callable[..., Answer], book: Book) -> None:
    book.add("bad", **{**FAILED, "asked_model": "a\x1b[2Jb", "model": "a\x1b[2Jb"})
    _, out, _ = agm("log")
    assert "error NO_ACCOUNT" in out
    assert "\x1b" not in out
    assert "\x1b" not in agm("log", "--id", "bad")[1]


@pytest.mark.parametrize(
    "command",
    [
        ["log"],
        ["log", "--json"],
        ["log", "--csv"],
        ["log", "--bodies"],
        ["log", "--bodies", "--json"],
        ["log", "--id", "bad"],
        ["log", "--id", "bad", "--bodies", "--json"],
        *(["usage", "--by", by, *form] for by in ("model", "account", "key") for form in ([], ["--json"], ["--csv"])),
    ],
    ids=" ".join,
)
def test_no_form_of_the_log_does_anything_to_a_terminal(
    agm: Callable[..., Answer], book: Book, command: list[str]
) -> None:
    """ESC, the single bytes of the second set of controls that do the same, and what turns the order of text."""
    nasty = "a\x1b[2Jb\x9b31mc\x9d0;x\x9cd\u202ee\u2066f\rg\x7fh"
    words = dict.fromkeys(
        ("client_key", "client", "asked_model", "model", "account", "finish_reason", "reason", "message", "stopped"),
        nasty,
    )
    tried = json.dumps([{**TRIED[0], "chosen": nasty, "endpoint": nasty, "reason": nasty}], ensure_ascii=False)
    book.add("bad", **{**FAILED, **words, "timeline": tried}, bodies=(nasty.encode(), 1, nasty.encode(), 1))
    status, out, err = agm(*command)
    assert (status, err) == (0, "")
    assert all(line.isprintable() for line in out.split("\n")), out
    assert "h" in out
    if "--json" in command:
        (found,) = json.loads(out)
        assert nasty in found.values()


def test_one_request_is_shown_with_everything_that_was_tried_and_why_it_stopped(
    agm: Callable[..., Answer], book: Book
) -> None:
    book.add("good")
    book.add("bad", **FAILED)
    status, out, _ = agm("log", "--id", "bad")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "request   bad"
    assert "answer    503, error, from the gateway itself" in lines
    assert lines[-4:] == [
        "attempt 1 after 0 ms: home at e.example, first, 429, rate RATE_LIMIT, wait 20 s, 40 ms",
        "attempt 2 after 41 ms: work at e.example, its turn, no answer, a probe, 500 ms",
        "error     NO_ACCOUNT: Nobody is \ufffd[31mthere.",
        "stopped   No other account could serve it in time.",
    ]
    out = agm("log", "--id", "good")[1]
    assert "call      generateContent (unary) of gemini-2.5-flash, asked for as gpt-4o" in out
    assert "tokens    1,000 prompt, 20 output, 5 cached, 3 thought, 0 tool, 1,023 total" in out
    assert "finished  STOP" in out
    assert agm("log", "--id", "none") == (1, "", "no request none is in the log\n")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--errors"], ["bad"]),
        (["--status", "5xx"], ["bad"]),
        (["--status", "200"], ["old", "good"]),
        (["--outcome", "ok"], ["old", "good"]),
        (["--account", "home"], ["bad"]),
        (["--key", "laptop"], ["old", "good"]),
        (["--model", "gpt*"], ["old", "bad", "good"]),
        (["--since", "1h"], ["bad", "good"]),
        (["--until", "1h"], ["old"]),
        (["--since", "1h", "--errors"], ["bad"]),
        (["--bodies"], ["good"]),
    ],
)
def test_filters_choose(agm: Callable[..., Answer], book: Book, options: list[str], expected: list[str]) -> None:
    book.add("old", started=time.time() - 5000)
    book.add("bad", **FAILED)
    book.add("good", bodies=(b"q", 1, b"a", 1))
    assert requests_of(agm("log", "--json", *options)[1]) == expected


def test_json_and_csv_hold_every_column(agm: Callable[..., Answer], book: Book) -> None:
    book.add("bad", **FAILED)
    (row,) = json.loads(agm("log", "--json")[1])
    assert set(row) == {"id", *logfile.COLUMNS}
    assert row["timeline"] == TRIED
    (line,) = csv.DictReader(io.StringIO(agm("log", "--csv")[1]))
    assert set(line) == set(row)
    assert (line["request"], line["client_key"], line["status"]) == ("bad", "", "503")
    assert json.loads(line["timeline"]) == TRIED


def test_bodies_are_shown_as_far_as_they_were_kept(agm: Callable[..., Answer], book: Book) -> None:
    """Lines as lines, and nothing that a terminal would obey."""
    book.add("r1", bodies=(b'{\n"a": "\x1b]0;x"}', 900, None, None))
    book.add("r2")
    lines = agm("log", "--bodies")[1].splitlines()
    at = lines.index("body of the request, 900 bytes; what was kept:")
    assert lines[at + 1 :] == ["  {", '  "a": "\ufffd]0;x"}', "no body of the answer was kept"]
    assert "no bodies were kept of this request" in agm("log", "--id", "r2", "--bodies")[1]
    (row,) = json.loads(agm("log", "--id", "r1", "--bodies", "--json")[1])
    assert row["bodies"]["request_size"] == 900
    assert row["bodies"]["answer_body"] is None


def test_usage_sums_up_by_key_account_model_and_day(agm: Callable[..., Answer], book: Book) -> None:
    book.add("r1")
    book.add("r2", client_key="ci", model="gemini-2.5-pro")
    book.add("r3", **FAILED)
    status, out, _ = agm("usage")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["KEY", "REQUESTS", "ERRORS", "PROMPT", "OUTPUT", "CACHED", "THOUGHT", "TOOL", "TOTAL"]
    assert ["laptop", "1", "0", "1,000", "20", "5", "3", "0", "1,023"] in lines
    assert lines[-1] == ["total", "3", "1", "2,000", "40", "10", "6", "0", "2,046"]
    by_model = json.loads(agm("usage", "--by", "model", "--json")[1])
    assert [(it["model"], it["requests"]) for it in by_model] == [("gemini-2.5-flash", 2), ("gemini-2.5-pro", 1)]
    assert [it["account"] for it in json.loads(agm("usage", "--by", "account", "--json")[1])] == ["work", None]
    (day,) = csv.DictReader(io.StringIO(agm("usage", "--by", "day", "--csv", "--key", "ci")[1]))
    assert (day["requests"], day["total_tokens"]) == ("1", "1023")
    assert agm("usage", "--since", "1s")[2] == "no request\n"


def test_where_there_is_no_log_that_is_said(agm: Callable[..., Answer], home: Path) -> None:
    """And how to get at one."""
    for command in ("log", "usage"):
        status, out, messages = agm(command)
        assert (status, out) == (1, "")
        assert messages == f"{home / 'state' / 'agm' / 'requests.sqlite3'}: no request was logged there yet\n"
    config = home / ".config" / "agm" / "agm.toml"
    config.write_text("[request_log]\nenabled = false\n")
    assert "request_log.enabled is false" in agm("log")[2]
    config.unlink()
    assert "--file names a request log" in agm("usage")[2]


def test_another_file_can_be_read(agm: Callable[..., Answer], home: Path) -> None:
    """One that was moved away, also without a configuration; what is no log is refused."""
    (home / ".config" / "agm" / "agm.toml").unlink()
    book = Book(home / "moved.sqlite3")
    book.add("r1")
    book.connection.close()
    assert requests_of(agm("log", "--json", "--file", str(book.path))[1]) == ["r1"]
    connection = sqlite3.connect(book.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "was written by a newer agm" in agm("usage", "--file", str(book.path))[2]


def test_a_log_that_was_switched_off_can_still_be_read(agm: Callable[..., Answer], book: Book, home: Path) -> None:
    book.add("r1")
    (home / ".config" / "agm" / "agm.toml").write_text("[request_log]\nenabled = false\n")
    assert requests_of(agm("log", "--json")[1]) == ["r1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", "yesterday"], "write 1h (or s, m, d, w) for so long ago, or a date"),
        (["--status", "600"], "'600' is not a status: write it like 429, or 5xx"),
        (["--limit", "many"], "'many' is not a number of requests"),
        (["--for", "10m"], "--for is for: agm log bodies on"),
        (["bodies", "on"], "say for how long: agm log bodies on --for 10m"),
        (["bodies", "on", "--for", "10"], "'10' is not a time: write it like 90s, 10m, 1h, 2d or 1w"),
        (["--csv", "--json"], "--csv is for a list, and not beside --json"),
        (["--follow", "--id", "x"], "--follow is for a list"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["log", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_times_are_so_long_ago_or_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Etc/GMT-3")
    time.tzset()
    try:
        assert [span(text) for text in ("90s", "10m", "1h", "2d", "1w")] == [90, 600, 3600, 172_800, 604_800]
        assert abs(when("1h") - (time.time() - 3600)) < 60
        assert when("2027-01-31T03:00") == when("2027-01-31T00:00Z") == 1_801_353_600
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_following_shows_each_request_as_it_comes(tmp_path: Path) -> None:
    """From before there is a file, over a file that is put in its place, to the end by Ctrl-C."""
    path = tmp_path / "requests.sqlite3"
    command = Command.start(
        "log", "--follow", "--json", "--limit", "1", "--file", str(path), env=environment(tmp_path), folder=tmp_path
    )

    def shown() -> list[str]:
        return [json.loads(line)["request"] for line in command.out.decode().splitlines()]

    await eventually(lambda: "waiting for it" in command.messages, "the message")
    book = Book(path)
    book.add("r1")
    book.add("r2")
    await eventually(lambda: shown()[-1:] == ["r2"], "the first request")
    before = len(shown())
    book.add("r3")
    book.add("r4")
    await eventually(lambda: shown()[before:] == ["r3", "r4"], "the next requests")
    book.connection.close()
    book.put_aside()
    book = Book(path)
    book.add("r5")
    await eventually(lambda: shown()[-1] == "r5", "the request in the new file")
    command.transport.signalProcess("INT")
    await command.ended()
    assert command.status == 130
    assert command.messages.count("\n") == 1
    book.connection.close()


@pytest_twisted.ensureDeferred
@pytest.mark.process
async def test_bodies_are_switched_on_and_off_in_the_running_gateway(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path
) -> None:
    running = await gateway(emulator.account("work"), request_log_path=tmp_path / "r.sqlite3")
    context = running.gateway.calls.context

    async def agm(*arguments: str) -> Command:
        command = Command.start(*arguments, "--url", running.url, env=environment(tmp_path), folder=tmp_path)
        await command.ended()
        assert "Traceback" not in command.messages
        return command

    assert (await agm("log", "bodies")).out == b"bodies are not kept\n"
    assert (await agm("log", "bodies", "on", "--for", "10m")).out == b"bodies are kept for 10 min more\n"
    assert context.kept_answers > 0
    assert json.loads((await agm("log", "bodies", "--json")).out)["bodies_seconds_left"] > 0
    assert (await agm("log", "bodies", "off")).out == b"bodies are not kept\n"
    refused = await agm("log", "bodies", "on", "--for", "2d")
    assert refused.status == 1
    assert "Bodies are kept for 0 to 86400 seconds." in refused.messages

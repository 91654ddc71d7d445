"""How the log looks: one entry a line, no secret in any, and the same fields in each."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import syslog
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher, formatEventAsClassicLogText
from twisted.python.failure import Failure
from twisted.python.threadable import registerAsIOThread

from agm.core.redact import MARK, Redactor
from agm.observe import logging as logs
from testbed.processes import environment, get, running

SECRET = "canary-secret-1"


@attrs.frozen
class Logged:
    """A logger whose lines are read."""

    log: Logger
    lines: Callable[[], list[str]]


Make = Callable[..., Logged]


class Turns(Clock):
    """A reactor as far as a log needs one; it does not run yet."""

    running = False

    def __init__(self) -> None:
        super().__init__()
        self.at_the_end: list[Callable[[], object]] = []

    def callFromThread(self, call: Callable[[], object]) -> None:
        call()

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[[], object]) -> None:
        assert (phase, event) == ("after", "shutdown")
        self.at_the_end.append(call)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that gives a logger in front of an observer that writes to the standard output of a terminal."""

    def with_form(form: str = "text", level: str = "debug") -> Logged:
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        redactor = Redactor()
        redactor.add_permanent(SECRET)
        publisher = LogPublisher(logs.observer(Turns(), redactor, form, level, {"nodaemon": True}))
        return Logged(Logger("agm.test", observer=publisher), lambda: out.getvalue().splitlines())

    return with_form


def test_a_line_of_text_looks_as_twisteds_own(make: Make) -> None:
    seen: list[Any] = []
    out = make()
    logger = Logger("agm.test", observer=LogPublisher(out.log.observer, seen.append))
    logger.info("{request_id}: {method} {path} {status}", request_id="r1", method="GET", path="/x", status=200)
    logger.warn("no fields")
    logger.error(
        "{a.b} {c[0]} {call()}", a=attrs.make_class("A", {"b": attrs.field(default=1)})(), c=[2], call=lambda: 3
    )
    assert out.lines() == [(formatEventAsClassicLogText(event) or "").rstrip("\n") for event in seen]
    assert out.lines()[0].endswith(" [agm.test#info] r1: GET /x 200")
    assert out.lines()[2].endswith(" [agm.test#error] 1 2 3")


def test_a_line_of_json_has_the_time_the_level_the_logger_the_message_and_the_fields(make: Make) -> None:
    out = make("json")
    out.log.warn("{request_id}: {what}", request_id="r1", what='a "word"\n', count=3, ratio=0.5, on=True, obj=object())
    (line,) = out.lines()
    document = json.loads(line)
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "warn",
        "logger": "agm.test",
        "message": 'r1: a "word"\n',
        "request_id": "r1",
        "what": 'a "word"\n',
        "count": 3,
        "ratio": 0.5,
        "on": True,
    }


@pytest.mark.parametrize("level", ["debug", "info"])
def test_what_twisted_says_of_its_own_doings_is_for_debugging_and_its_warnings_are_not(make: Make, level: str) -> None:
    out = make(level=level)
    publisher = out.log.observer
    own = Logger("twisted.internet.base", observer=publisher)
    own.info("Main loop terminated.")
    own.warn("EMFILE")
    factory = Logger("my.plugin", observer=publisher)
    factory.info("Starting factory {factory!r}", factory=1)
    factory.info("Starting work")
    for text in ("GatewaySite starting on 8045", "(TCP Port 8045 Closed)", "a plugin is starting on its own"):
        publisher({"log_namespace": "log_legacy", "log_format": "{log_text}", "log_text": text,
                   "log_level": LogLevel.info, "log_system": "-"})  # fmt: skip
    told = [line.split("] ", 1)[1] for line in out.lines()]
    meant = ["EMFILE", "Starting work", "a plugin is starting on its own"]
    every = ["Main loop terminated.", "EMFILE", "Starting factory 1", "Starting work", "GatewaySite starting on 8045"]
    assert told == (meant if level == "info" else [*every, "(TCP Port 8045 Closed)", meant[-1]])
    assert all("#info" not in line for line in out.lines() if "terminated" in line or "factory" in line)


def test_the_time_of_json_is_utc_to_the_millisecond() -> None:
    (line,) = logs.json_lines(str)([{"log_format": "x", "log_time": 1.5, "log_level": LogLevel.info}])
    assert json.loads(line)["time"] == "1970-01-01T00:00:01.500Z"


def test_what_is_not_about_a_request_has_no_request_id(make: Make) -> None:
    out = make("json")
    out.log.info("{request_id}: x", request_id="-")
    assert "request_id" not in json.loads(out.lines()[0])


@pytest.mark.parametrize("form", logs.FORMATS)
def test_a_secret_is_in_no_line_wherever_it_was(make: Make, form: str) -> None:
    """In a field, in an exception, in what a plugin has printed, and where an event cannot be formatted."""
    out = make(form)
    out.log.info("{key} and {obj}", key=SECRET, obj=[SECRET])
    out.log.info("unused", key=f"x{SECRET}")
    try:
        raise RuntimeError(f"it was {SECRET}, {{'x-goog-api-key': 'abc1'}}")
    except RuntimeError:
        out.log.failure("failed for {key}", key=SECRET)
    out.log.info("{missing} {key}", key=SECRET)
    out.log.info("{x()}", x=lambda: f"Bearer {SECRET}")
    text = "\n".join(out.lines())
    assert SECRET not in text
    assert "abc1" not in text
    assert MARK in text
    assert "Traceback" in text


def test_a_traceback_is_a_field_of_json_and_below_the_line_of_text(make: Make) -> None:
    for form in logs.FORMATS:
        out = make(form)
        out.log.failure("it failed", failure=Failure(ValueError("no")))
        if form == "json":
            (line,) = out.lines()
            document = json.loads(line)
            assert document["message"] == "it failed"
            assert document["level"] == "critical"
            assert document["traceback"].startswith("Traceback")
            assert document["traceback"].endswith("no")
        else:
            first, *rest = out.lines()
            assert first.endswith("[agm.test#critical] it failed")
            assert rest
            assert all(line.startswith("\t") for line in rest)


@pytest.mark.parametrize("form", logs.FORMATS)
def test_an_entry_cannot_pretend_to_be_two_nor_move_a_terminals_cursor(make: Make, form: str) -> None:
    out = make(form)
    out.log.info("{path}", path="/a\r\n2026-01-01T00:00:00+0000 [agm#info] forged\x1b[2J\x9b\u202e\u2066\u2028")
    first, *rest = out.lines()
    assert all(line.startswith("\t") for line in rest)
    assert not {"\x1b", "\x9b", "\r", "\u202e", "\u2066", "\u2028"} & set("".join([first, *rest]))


def test_what_json_cannot_hold_is_told_as_text(make: Make) -> None:
    out = make("json")
    out.log.info("{name} {number}", name="\udcff", number=2**70)
    document = json.loads(out.lines()[0])
    assert document["number"] == str(2**70)
    assert document["name"] == "\\udcff"


@pytest.mark.parametrize("form", logs.FORMATS)
def test_what_is_logged_in_the_old_way_is_told_once(make: Make, form: str) -> None:
    out = make(form)
    event = {"log_format": "{log_legacy}", "log_legacy": "told", "log_time": 1.0, "log_level": LogLevel.critical}
    event |= {
        "log_failure": Failure(ValueError("no")),
        "message": ("x",),
        "isError": 1,
        "system": "-",
        "log_system": "-",
    }
    out.log.observer(event)
    assert len(out.lines()) == 1
    assert "told" in out.lines()[0]
    assert "isError" not in out.lines()[0]


@pytest.mark.parametrize("form", logs.FORMATS)
def test_nothing_is_no_line(make: Make, form: str) -> None:
    out = make(form)
    out.log.info("")
    out.log.observer({"log_time": 1.0})
    assert out.lines() == []


@pytest.mark.parametrize("form", logs.FORMATS)
@pytest.mark.parametrize("level", logs.LEVELS)
def test_what_is_less_important_than_the_level_is_not_logged(make: Make, form: str, level: str) -> None:
    out = make(form, level)
    for each in logs.LEVELS:
        getattr(out.log, each)("x")
    assert len(out.lines()) == len(logs.LEVELS) - logs.LEVELS.index(level)


# -- Places ------------------------------------------------------------------------------------------


@pytest.fixture
def usr1() -> Iterator[None]:
    """SIGUSR1 is afterwards as it was."""
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("usr1")
def test_a_log_file_is_twistds_and_is_rotated_on_sigusr1(tmp_path: Path) -> None:
    file = tmp_path / "twistd.log"
    observer: Any = logs.observer(Turns(), Redactor(), "text", "info", {"logfile": str(file)})
    log = Logger("agm.test", observer=observer)
    log.info("one")
    os.kill(os.getpid(), signal.SIGUSR1)
    log.info("two")
    assert file.read_text().endswith("two\n")
    assert (tmp_path / "twistd.log.1").read_text().endswith("one\n")


@pytest.mark.usefixtures("usr1")
def test_of_rotated_files_a_number_is_kept_and_nobody_else_s_is_touched(tmp_path: Path) -> None:
    """Also those are too many that an earlier version has left."""
    file = tmp_path / "twistd.log"
    for number in range(1, 31):
        (tmp_path / f"twistd.log.{number}").write_text(f"old {number}")
    others = {"twistd.log.20260105": "logrotate's", "twistd.log.old.3": "mine", "twistd.log.40": "unlike ours"}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    log = Logger("agm.test", observer=logs.observer(Turns(), Redactor(), "text", "info", {"logfile": str(file)}))
    for number in range(3):
        log.info("{number}", number=number)
        os.kill(os.getpid(), signal.SIGUSR1)
    rotated = {f"twistd.log.{number}" for number in range(1, logs.KEPT_FILES + 1)}
    assert {path.name for path in tmp_path.iterdir()} == {"twistd.log", *rotated, *others}
    assert [(tmp_path / f"twistd.log.{number}").read_text().rpartition(" ")[2] for number in (1, 2, 3, 4)] == [
        "2\n",
        "1\n",
        "0\n",
        "1",
    ]
    assert {name: (tmp_path / name).read_text() for name in others} == others


@pytest.mark.usefixtures("usr1")
def test_a_file_that_has_grown_is_rotated_and_the_oldest_goes(tmp_path: Path) -> None:
    file = tmp_path / "twistd.log"
    log = Logger("agm.test", observer=logs.observer(Turns(), Redactor(), "text", "info", {"logfile": str(file)}))
    for number in range(logs.KEPT_FILES + 4):
        log.info("{number} {text}", number=number, text="x" * 1_000_000)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == logs.KEPT_FILES + 1
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_001_000 * len(files)


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_a_character_that_the_terminal_lacks_costs_no_line(encoding: str) -> None:
    """Nor those that are written with it."""
    out = io.BytesIO()
    file = io.TextIOWrapper(out, encoding)
    observer = logs.FileObserver(Turns(), file, logs.text_lines(str))
    log = Logger("agm.test", observer=observer)
    log.info("before {text} after", text="gpt-4o \u2192 gemini \udcff")
    log.info("then")
    first, second = out.getvalue().decode(encoding).splitlines()
    arrow = "\u2192" if encoding == "utf-8" else "\\u2192"
    assert first.endswith(f"before gpt-4o {arrow} gemini \\udcff after")
    assert second.endswith("then")


def test_what_no_encoding_has_costs_no_entry_of_the_system_s_log() -> None:
    sent: list[str] = []
    observer = logs.syslog_observer(Redactor(), "text", "info", lambda priority, line: sent.append(line))
    Logger("agm.test", observer=observer).info("{text}", text="\u2192 \udcff")
    assert sent == ["[agm.test#info] \u2192 \\udcff"]


def test_lines_of_a_moment_are_written_together_but_none_waits_behind_a_warning(tmp_path: Path) -> None:
    file, reactor = tmp_path / "twistd.log", Turns()
    observer: Any = logs.observer(reactor, Redactor(), "text", "info", {"logfile": str(file)})
    log = Logger("agm.test", observer=observer)

    def written_words() -> list[str]:
        return [line.rpartition(" ")[2] for line in file.read_text().splitlines()]

    log.info("start")
    assert written_words() == ["start"]
    registerAsIOThread()
    reactor.running = True
    log.info("one")
    log.info("two")
    assert written_words() == ["start"]
    reactor.advance(logs.HOLD)
    assert written_words() == ["start", "one", "two"]
    log.info("three")
    log.warn("four")
    assert written_words()[3:] == ["three", "four"]
    log.info("five")
    reactor.running = False
    reactor.at_the_end[0]()
    log.info("six")
    assert written_words()[5:] == ["five", "six"]


@pytest.mark.parametrize("form", logs.FORMATS)
def test_events_that_are_made_lines_later_keep_their_place_and_no_secret(tmp_path: Path, form: str) -> None:
    file, reactor, redactor = tmp_path / "twistd.log", Turns(), Redactor()
    redactor.add_permanent(SECRET)
    log = Logger("agm.test", observer=logs.observer(reactor, redactor, form, "info", {"logfile": str(file)}))
    registerAsIOThread()
    reactor.running = True
    for number, text in enumerate(["one", SECRET, "three"]):
        log.info("{text} is number {number}", text=text, number=number, **{logs.LATER: ("text",)})
        log.info("then {number}", number=number)
    log.debug("{text}", text="unseen", **{logs.LATER: ("text",)})
    assert file.read_text() == ""
    reactor.advance(logs.HOLD)
    said = ["one is number 0", "then 0", f"{MARK} is number 1", "then 1", "three is number 2", "then 2"]
    if form == "json":
        documents = [json.loads(line) for line in file.read_text().splitlines()]
        assert [it["message"] for it in documents] == said
        assert documents[2]["text"] == MARK
        assert not any(name.startswith("log_") for it in documents for name in it)
    else:
        assert [line.partition("] ")[2] for line in file.read_text().splitlines()] == said


def test_threads_that_log_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    file, reactor = tmp_path / "twistd.log", Turns()
    log = Logger("agm.test", observer=logs.observer(reactor, Redactor(), "text", "info", {"logfile": str(file)}))

    def say() -> None:
        for number in range(2000):
            log.info("{number}", number=number)

    threads = [Thread(target=say) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert len(file.read_text().splitlines()) == 8000


def test_what_another_thread_logs_is_written_at_once(tmp_path: Path) -> None:
    file, reactor = tmp_path / "twistd.log", Turns()
    observer: Any = logs.observer(reactor, Redactor(), "text", "info", {"logfile": str(file)})
    registerAsIOThread()
    reactor.running = True
    thread = Thread(target=Logger("agm.test", observer=observer).info, args=("from afar",))
    thread.start()
    thread.join()
    assert file.read_text().endswith("from afar\n")
    assert reactor.getDelayedCalls() == []


def test_a_daemon_has_no_standard_output() -> None:
    with pytest.raises(SystemExit, match="no standard output"):
        logs.observer(Turns(), Redactor(), "text", "info", {"logfile": "-"})


@pytest.mark.parametrize("form", logs.FORMATS)
def test_the_systems_log_gets_priorities_and_lines(form: str) -> None:
    redactor, sent = Redactor(), []
    redactor.add_permanent(SECRET)
    observer: Any = logs.syslog_observer(redactor, form, "info", lambda priority, line: sent.append((priority, line)))
    assert ILogObserver.providedBy(observer)
    log = Logger("agm.test", observer=observer)
    log.debug("less important")
    log.info("key {key}", key=SECRET)
    log.warn("")
    log.error("two\nlines\0")
    if form == "text":
        assert sent == [
            (syslog.LOG_INFO, f"[agm.test#info] key {MARK}"),
            (syslog.LOG_ERR, "[agm.test#error] two"),
            (syslog.LOG_ERR, "\tlines\\x00"),
        ]
    else:
        assert [priority for priority, _ in sent] == [syslog.LOG_INFO, syslog.LOG_ERR]
        assert [json.loads(line)["message"] for _, line in sent] == [f"key {MARK}", "two\nlines\0"]


# -- twistd ------------------------------------------------------------------------------------------


def written(path: Path) -> str:
    """What is in a file, which need not be there yet."""
    return path.read_text() if path.exists() else ""


@pytest.mark.process
def test_a_process_logs_json_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    with running(tmp_path, "agm", "--demo", "--port", "0", "--log-format", "json") as twistd:
        twistd.url()
        assert twistd.stop() == 0
    documents = [json.loads(line) for line in twistd.log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= document.keys() for document in documents)
    assert documents[0]["message"].startswith("listening on http://127.0.0.1:")
    assert documents[2]["message"].startswith("dashboard: http://127.0.0.1:")
    assert documents[-1]["message"] == "SIGTERM: stopping"
    assert twistd.errors == []


@pytest.mark.process
def test_the_configuration_says_the_form_and_the_level(tmp_path: Path) -> None:
    (tmp_path / "agm.toml").write_text('[log]\nformat = "json"\nlevel = "warn"\n')
    with running(tmp_path, "agm", "--config", "agm.toml", "--port", "0") as twistd:
        twistd.until_logged("no account is configured")
        assert twistd.stop() == 0
    (document,) = [json.loads(line) for line in twistd.log.splitlines()]
    assert (document["level"], document["logger"]) == ("warn", "agm.app.service")


@pytest.mark.process
def test_twistds_log_file_takes_either_form(tmp_path: Path) -> None:
    options = ["--logfile", "to.log", "agm", "--demo", "--port", "0", "--log-format", "json"]
    with running(tmp_path, *options) as twistd:
        twistd.until(lambda: "agm serves" in written(tmp_path / "to.log"), "the start")
        assert twistd.stop() == 0
    assert twistd.log == ""
    assert all(json.loads(line) for line in (tmp_path / "to.log").read_text().splitlines())


@pytest.mark.process
def test_twistds_syslog_is_left_working(tmp_path: Path) -> None:
    with running(tmp_path, "--syslog", "--prefix", "agm-test", "agm", "--demo", "--listen", "unix:s") as twistd:
        twistd.until((tmp_path / "s").exists, "the socket")
        assert get(f"unix:{tmp_path / 's'}", "/healthz")[0] == 200
        assert twistd.stop() == 0
    assert (twistd.log, twistd.errors) == ("", [])


@pytest.mark.process
def test_an_observer_of_ones_own_goes_before(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from twisted.logger import textFileLogObserver\n"
        "def observer():\n    return textFileLogObserver(open('own.log', 'w'))\n"
    )
    options = ["--logger", "own.observer", "agm", "--demo", "--port", "0", "--log-format", "json"]
    env = environment(
        tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    with running(tmp_path, *options, env=env) as twistd:
        twistd.until(lambda: "agm serves" in written(tmp_path / "own.log"), "the start")
        assert twistd.stop() == 0
    assert not (tmp_path / "own.log").read_text().startswith("{")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["agm", "--log-format", "xml"], "agm: --log-format 'xml' is not a format: give text or json"),
        (["--logfile", "none/x.log", "agm", "--demo", "--port", "0"], "agm: cannot log to "),
    ],
)
@pytest.mark.process
def test_a_log_that_cannot_be_is_one_line(tmp_path: Path, options: list[str], said: str) -> None:
    with running(tmp_path, *options) as twistd:
        assert twistd.wait() == 1
    (line,) = twistd.errors
    assert line.startswith(said)


# -- The page ----------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "logging.md").read_text("utf-8")


def test_the_page_names_the_fields_and_shows_a_line_as_it_is() -> None:
    fields = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    (example,) = re.findall(r"```json\n(.*)\n```", PAGE)
    shown = json.loads(example)
    event = {
        "log_format": "{request_id}: {method} {path} {status} {sent}",
        "log_time": 1767601800.123,
        "log_level": LogLevel.info,
        "log_namespace": "agm.web.site",
        **{name: shown[name] for name in ("request_id", "method", "path", "status", "sent")},
    }
    assert logs.json_lines(str)([event]) == [f"{example}\n"]
    (failed,) = logs.json_lines(str)([{**event, "log_failure": Failure(ValueError("no"))}])
    assert set(json.loads(failed)) - {"method", "path", "status", "sent"} == set(fields)
    assert all(f"`{level}`" in PAGE for level in logs.LEVELS)
    (text,) = re.findall(r"```text\n(.*)\n```", PAGE)
    assert text.partition(" ")[2] == logs.text_lines(str)([event])[0].partition(" ")[2].rstrip("\n")

"""
How a gateway's log looks, and where it goes: text for a terminal, JSON for a service, both without secrets.

This is an observer of :mod:`twisted.logger` in the place of the one that twistd would install, at the same place: the
standard output, ``twistd --logfile`` or ``twistd --syslog``.  What others log passes through it, too: Twisted, plugins,
what is printed, warnings and failures that nobody looked at.  docs/logging.md describes the formats.

It never decides what is logged, but for the level.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import syslog
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from threading import get_ident
from typing import Any, Final

import msgspec
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python import threadable
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer, provider

from agm.core.redact import Redactor

__all__ = ["FORMATS", "LEVELS", "FileObserver", "json_lines", "observer", "syslog_observer", "text_lines"]

FORMATS: Final = ("text", "json")
#: From the least to the most important.
LEVELS: Final = ("debug", "info", "warn", "error", "critical")

#: Lines for events, of those that say something; of several at once, because what is looked for in each of them is
#: looked for in all of them together first.
Lines = Callable[[Sequence[LogEvent]], list[str]]
Redact = Callable[[str], str]
#: A field of an event all of whose fields are strings and numbers: it may be made a line later than it was logged.  Its
#: value are the names of those that hold what others have written, and in which alone a secret could be.
LATER: Final = "log_later"

_RANKS: Mapping[Any, int] = {LogLevel.levelWithName(name): rank for rank, name in enumerate(LEVELS)}
_INFO: Final = LEVELS.index("info")
#: How many rotated files are kept, of a megabyte each.
KEPT_FILES: Final = 20
#: Seconds for which a line may wait for others.
HOLD: Final = 0.2
_PRIORITIES: Mapping[Any, int] = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}
#: What a line of JSON has of its own, and what Twisted adds to events for observers of its older kind.
_OWN = frozenset(
    {"time", "level", "logger", "message", "traceback", "format", "system", "isError", "failure", "why", "logLevel"}
)
#: What Twisted says at level info of its own doings, as :mod:`twisted.python.log` and as factories have it.
_LEGACY_NOISE = re.compile(r"\S+ starting on \S+|\(\S+ Port \S+ Closed\)")
_FACTORY_NOISE = frozenset({"Starting factory {factory!r}", "Stopping factory {factory!r}"})
#: Characters by which a line is shown in another order than it has, or as more than one.
_ORDERING = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
#: Characters that a terminal acts upon, but for the tab and the end of a line.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)}
_CONTROLS |= {code: f"\\u{code:04x}" for code in _ORDERING}
#: Those that JSON would let stand.
_JSON_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *_ORDERING)}


def _ranked(event: LogEvent) -> tuple[LogEvent, int]:
    """Return an event and the rank of its level; what Twisted says of its own doings is for debugging."""
    rank = _RANKS.get(event.get("log_level"), _INFO)
    if rank == _INFO and LATER not in event and _is_noise(event):
        return {**event, "log_level": LogLevel.debug}, _RANKS[LogLevel.debug]
    return event, rank


def _is_noise(event: LogEvent) -> bool:
    namespace = event.get("log_namespace")
    if namespace == "log_legacy":
        return _LEGACY_NOISE.fullmatch(str(event.get("log_text"))) is not None
    return str(namespace).startswith("twisted.") or event.get("log_format") in _FACTORY_NOISE


# -- Lines -------------------------------------------------------------------------------------------


def _message(event: LogEvent) -> str:
    """Format the message of an event; never raises."""
    template = event.get("log_format")
    if (
        type(template) is str and "(" not in template
    ):  # twisted's own way, which can call fields, takes ten times as long
        try:
            return template.format_map(event)
        except Exception:  # noqa: S110  # the next line says what is wrong with it
            pass
    return formatEvent(event)


def _traceback(event: LogEvent) -> str:
    """Return the traceback of an event's failure; nothing where it has none, or has it in its message already."""
    failure = event.get("log_failure")
    if not isinstance(failure, Failure) or "log_legacy" in event:
        return ""
    try:
        return failure.getTraceback().rstrip("\n")
    except Exception as e:
        return f"(there is a failure, but no traceback: {type(e).__name__})"


def _level(event: LogEvent) -> str:
    return getattr(event.get("log_level"), "name", "info")


def text_lines(redact: Redact) -> Lines:
    """Lines for people: local time, where it is from, and what it says; as Twisted writes them."""
    second, shown = 0, ""

    def lines(events: Sequence[LogEvent]) -> list[str]:
        nonlocal second, shown
        made = []
        for event, text in zip(events, _plain(events, [_text(event) for event in events], redact), strict=True):
            if text:
                at = event.get("log_time", 0.0)
                if int(at) != second or not shown:
                    second = int(at)
                    shown = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at))
                made.append(f"{shown} [{_system(event)}] {_safe(text)}\n")
        return made

    return lines


def _plain(events: Sequence[LogEvent], texts: list[str], redact: Redact) -> list[str]:
    """Texts without secrets.  As good as never one has any, so all of them are looked through together."""
    looked_through: dict[str, None] = {}
    for event, text in zip(events, texts, strict=True):
        if LATER in event:
            for name in event[LATER]:
                looked_through[event[name]] = None
        else:
            looked_through[text] = None
    joined = "\n".join(looked_through)
    return texts if redact(joined) == joined else [redact(text) for text in texts]


def _text(event: LogEvent) -> str:
    if LATER in event:
        return str(event["log_format"].format_map(event))
    message, traceback = _message(event), _traceback(event)
    return f"{message}\n{traceback}" if traceback else message


def _system(event: LogEvent) -> str:
    system = event.get("log_system")
    return str(system) if system is not None else f"{event.get('log_namespace', '-')}#{_level(event)}"


def _safe(text: str) -> str:
    """Return a text that stays one entry, and does nothing to the terminal that shows it."""
    if text.isprintable():
        return text
    return text.translate(_CONTROLS).replace("\n", "\n\t")


def json_lines(redact: Redact) -> Lines:
    """
    Lines for programs: a JSON object each.

    ``time`` (RFC 3339, UTC, to the millisecond), ``level``, ``logger`` and ``message``; ``request_id`` where the event
    is about one; ``traceback``; and whatever fields of the event are strings, numbers or truth values.
    """

    def document(event: LogEvent) -> dict[str, Any]:
        message, traceback = _message(event), _traceback(event)
        if not message and not traceback:
            return {}
        moment = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
        made: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": _level(event),
            "logger": event.get("log_namespace", "-"),
            "message": message,
        }
        for name, value in event.items():
            if type(value) in _PLAIN and not name.startswith("log_") and name not in _OWN:
                made[name] = value
        if made.get("request_id") == "-":
            del made["request_id"]
        if traceback:
            made["traceback"] = traceback
        return made

    def lines(events: Sequence[LogEvent]) -> list[str]:
        documents = [made for made in map(document, events) if made]
        strings = "\n".join(value for made in documents for value in made.values() if type(value) is str)
        if redact(strings) != strings:
            documents = [
                {
                    name: redact(value) if type(value) is str and name != "time" else value
                    for name, value in made.items()
                }
                for made in documents
            ]
        return [
            f"{encoded if encoded.isprintable() else encoded.translate(_JSON_CONTROLS)}\n"
            for encoded in map(_encoded, documents)
        ]

    return lines


_PLAIN = frozenset({str, int, float, bool, type(None)})


def _encoded(document: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(document).decode("utf-8")
    except (UnicodeEncodeError, OverflowError, msgspec.MsgspecError):  # a lone surrogate, or a number beyond 64 bits
        plain = {
            name: str(value).encode("utf-8", "backslashreplace").decode("utf-8") for name, value in document.items()
        }
        return msgspec.json.encode(plain).decode("utf-8")


# -- Where they go -----------------------------------------------------------------------------------


def observer(reactor: Any, redactor: Redactor, form: str, level: str, twistd: Mapping[str, Any]) -> ILogObserver:
    """
    Make the log observer.

    :param reactor: where a file is rotated in.
    :param form: ``text`` or ``json``.
    :param level: one of :data:`LEVELS`; what is less important is not logged.
    :param twistd: the options of twistd, which say where to.
    :raises OSError: if its file cannot be written.
    """
    lines = json_lines(redactor.text) if form == "json" else text_lines(redactor.text)
    if twistd.get("syslog"):
        syslog.openlog(twistd.get("prefix") or "agm")
        return syslog_observer(redactor, form, level, syslog.syslog)
    return FileObserver(reactor, _file(reactor, twistd), lines, LEVELS.index(level))


@implementer(ILogObserver)
class FileObserver:
    """
    Writes lines to a file, those of a moment together: a call to the kernel for each would cost as much as all the rest
    of a line.

    What is a warning or worse is written at once, with all that came before it, and so is everything while no reactor
    runs: at the start, and at the end.
    """

    def __init__(self, reactor: Any, file: Any, lines: Lines, least: int = 0) -> None:
        self._reactor = reactor
        self._file = file
        self._lines = lines
        self._least = least
        #: Lines, and events that are to become some.
        self._held: deque[str | LogEvent] = deque()
        self._timer: IDelayedCall | None = None
        reactor.addSystemEventTrigger("after", "shutdown", self.flush)

    def __call__(self, event: LogEvent) -> None:
        """Write an event, now or soon; in any thread."""
        event, rank = _ranked(event)
        if rank >= self._least:
            if LATER in event:
                self._held.append(event)
            else:
                self._held.extend(self._lines([event]))
            if rank > _INFO or not self._is_due():
                self.flush()

    def write_lines(self, text: str) -> None:
        """Write lines that another process has made, with those of this one."""
        self._held.append(text)
        if not self._is_due():
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        held: list[str | LogEvent] = []
        with suppress(IndexError):  # other threads may be adding to it, and taking from it
            while True:
                held.append(self._held.popleft())
        lines: list[str] = []
        for are_lines, group in groupby(held, lambda it: type(it) is str):
            some: list[Any] = list(group)
            lines += some if are_lines else self._lines(some)
        text = "".join(lines)
        try:
            try:
                self._file.write(text)
            except UnicodeEncodeError:  # the terminal's encoding lacks a character of somebody's
                encoding = getattr(self._file, "encoding", "utf-8")
                self._file.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._file.flush()
        except (OSError, ValueError):  # a full disk, a closed pipe: there is nowhere to say so
            pass

    def _is_due(self) -> bool:
        """Return whether what is held will be written soon."""
        if not self._reactor.running or get_ident() != threadable.ioThread:
            return False
        if self._timer is None:
            self._timer = self._reactor.callLater(HOLD, self._time)
        return True

    def _time(self) -> None:
        self._timer = None
        self.flush()


class _RotatedFile(LogFile):
    """twistd's log file, of which so many rotated ones are kept; twistd itself keeps all."""

    def listLogs(self) -> list[int]:
        """The numbers of the rotated files: from 1 on, without a gap; whatever else ends with a number is another's."""
        last = 0
        while os.path.exists(f"{self.path}.{last + 1}"):
            last += 1
        return list(range(1, last + 1))


def _file(reactor: Any, twistd: Mapping[str, Any]) -> Any:
    """Return the file that twistd would log to; it is rotated on SIGUSR1, as twistd does."""
    name = twistd.get("logfile")
    if twistd.get("nodaemon") and name in (None, "", "-"):
        return sys.stdout
    if name == "-":
        raise SystemExit("agm: a daemon has no standard output to log to; give twistd -n, or another --logfile")
    file = _RotatedFile.fromFullPath(name or "twistd.log", maxRotatedFiles=KEPT_FILES)
    if not signal.getsignal(signal.SIGUSR1):

        def rotate(number: int, frame: object) -> None:
            reactor.callFromThread(file.rotate)

        signal.signal(signal.SIGUSR1, rotate)
    return file


def syslog_observer(redactor: Redactor, form: str, level: str, send: Callable[[int, str], None]) -> ILogObserver:
    """
    Make the observer for the system's log, which records the time and the level itself.

    Each line of a text is an entry, those after the first with a tab before them; a JSON object is one.

    :param send: takes a priority and a line.
    """
    as_json = json_lines(redactor.text)
    least = LEVELS.index(level)

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        event, rank = _ranked(event)
        level = event.get("log_level")
        if rank < least:
            return
        if form == "json":
            entry = "".join(as_json([event]))
        else:
            text = _text(event)
            entry = f"[{_system(event)}] {_safe(redactor.text(text))}" if text else ""
        if entry:
            priority = _PRIORITIES.get(level, syslog.LOG_INFO)
            entry = entry.encode("utf-8", "backslashreplace").decode("utf-8")  # syslog takes nothing else
            for line in entry.rstrip("\n").split("\n"):
                send(priority, line.replace("\0", ""))

    return observe

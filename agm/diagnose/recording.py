"""
A recording: requests and upstream answers in the order of their times, and the configuration that they are for.

docs/replay.md describes the form.  :mod:`agm.diagnose.replay` runs one.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Iterable, Sequence
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import attrs
import msgspec
import tomlkit

from agm import config as configuration
from agm.config import Config
from agm.core.classify import Fault
from agm.core.errors import NOT_JSON
from agm.core.wire.target import METHODS

#: When a recording begins that does not say it: seconds since the epoch, 2026-01-15 at noon.
NOON = 1_768_478_400.0
#: Seconds of the fake clock after the last request until a replay is given up.
PATIENCE = 7 * 86_400.0
#: Faults that are no answer, by their names in a recording: the reason that the gateway has for them.
NO_ANSWER = {
    "unreached": "CONNECT_FAILED",
    "close": "CONNECTION_LOST",
    "hang": "FIRST_BYTE_TIMEOUT",
    "token": "CREDENTIAL_UNAVAILABLE",
}


class RecordingError(Exception):
    """A recording cannot be read or replayed; the message says where and why."""


class Head(msgspec.Struct, forbid_unknown_fields=True):
    """The first line of a recording, which may be left out."""

    recording: Literal[1]
    about: str = ""
    #: When it begins: a time as in RFC 3339.
    starts: str | None = None
    #: The configuration that it was made for, as tables; accounts need no credential in it.
    config: dict[str, Any] | None = None

    def epoch(self) -> float:
        """
        Return when it begins, in seconds since the epoch.

        :raises ValueError: if `starts` is no time, or has no zone.
        """
        if self.starts is None:
            return NOON
        starts = datetime.fromisoformat(self.starts)
        if starts.tzinfo is None:
            raise ValueError("starts needs a zone: 2026-01-15T12:00:00Z")
        return starts.timestamp()


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A client's request, at a number of seconds after the beginning."""

    request: str
    model: str
    at: float = 0.0
    method: str = "generateContent"
    #: What its conversation is known by; without one it is a conversation of its own.
    conversation: str | None = None
    #: The name of its client key.
    key: str | None = None


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """What an account's upstream answers to the next attempt that it suits."""

    account: str
    status: int | None = None
    #: The whole body of an error.
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    #: Google's word in an error that is made up for it, and the seconds that it says to wait.
    reason: str | None = None
    delay: float | None = None
    #: What the error is about, by the value of a :class:`Fault`, where its reason alone does not tell.
    about: Fault | None = None
    #: A fault by name, instead of a status.
    fault: str | None = None
    #: Seconds to the first byte, and from there to the end.
    latency: float = 0.0
    lasts: float = 0.0
    model: str | None = None
    #: What a good answer says of its usage, in Google's words: ``{"promptTokenCount": 12}``.
    usage: dict[str, int] | None = None
    #: How often, or 0 for always; only from one time on, and until another.
    times: int = 1
    since: float = msgspec.field(name="from", default=0.0)
    until: float | None = None


@attrs.frozen
class Recording:
    """A recording: its head, its requests in the order of their times, and its answers in the order of the lines."""

    head: Head
    requests: tuple[Request, ...]
    answers: tuple[Answer, ...]


def read(text: str) -> Recording:
    """
    Read a recording from its text: a JSON object a line; empty lines and lines that begin with ``#`` say nothing.

    :raises RecordingError: with the number of the line that is wrong.
    """
    head = Head(1)
    requests: list[Request] = []
    answers: list[Answer] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            document = msgspec.json.decode(line)
            if not isinstance(document, dict):
                raise ValueError("expected an object")
            if "recording" in document:
                if requests or answers:
                    raise ValueError("the head must come first")
                head = msgspec.json.decode(line, type=Head)
                head.epoch()
            elif "request" in document:
                requests.append(_checked_request(msgspec.json.decode(line, type=Request), requests))
            elif "account" in document:
                answers.append(_checked_answer(msgspec.json.decode(line, type=Answer)))
            else:
                raise ValueError("it is neither a head nor a request nor an answer: no recording, request or account")
        except (*NOT_JSON, ValueError) as e:
            raise RecordingError(f"line {number}: {e}") from None
    if not requests:
        raise RecordingError("there is no request in it")
    return Recording(head, tuple(sorted(requests, key=lambda request: request.at)), tuple(answers))


def _checked_request(request: Request, others: Iterable[Request]) -> Request:
    if request.method not in METHODS:
        raise ValueError(f"there is no method {request.method!r}; there are {', '.join(METHODS)}")
    if not 0 <= request.at < PATIENCE * 52:
        raise ValueError(f"at {request.at} is no time: a number of seconds after the beginning")
    if any(request.request == other.request for other in others):
        raise ValueError(f"request {request.request!r} is there already")
    return request


def _checked_answer(answer: Answer) -> Answer:
    if (answer.status is None) == (answer.fault is None):
        raise ValueError("an answer has a status, or a fault by name")
    if answer.status is not None and not 200 <= answer.status <= 599:
        raise ValueError(f"{answer.status} is no status of an answer")
    if min(answer.latency, answer.lasts, answer.times, answer.delay or 0.0, answer.since) < 0:
        raise ValueError("no number in an answer can be less than 0")
    if answer.fault is not None and answer.fault not in (*NO_ANSWER, "empty", "cut"):
        emulated_error(answer.fault, "api-key", "m", 0.0)
    return answer


def config_for(recording: Recording, path: Path | None, changes: Sequence[tuple[str, str]] = ()) -> Config:
    """
    The configuration whose policy is tried, with stand-ins where credentials would be.

    :param path: its file; the recording's own tables if there is none.
    :param changes: dotted keys and TOML values that differ from it.
    :raises agm.config.ConfigError: if it cannot be used.
    :raises RecordingError: if there is none, or a change is not one.
    """
    if path is not None:
        try:
            document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            configuration.load(path, environ=os.environ)  # which says best what is wrong
            raise
    elif recording.head.config is not None:
        document = deepcopy(recording.head.config)
    else:
        raise RecordingError("it holds no configuration; name one with --config")
    for key, value in changes:
        _change(document, key, value)
    _stand_in(document)
    return configuration.parse(tomlkit.dumps(document), environ={}, path=path)


def _change(document: dict[str, Any], key: str, value: str) -> None:
    *tables, name = key.split(".")
    table: Any = document
    for part in tables:
        table = table.setdefault(part, {}) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        raise RecordingError(f"{key} cannot be set: there is no such table")
    try:
        table[name] = tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        table[name] = value  # a string without its quotes


#: The keys of an account, and of a client key, that say where its secret is.
_SECRETS = ("api_key", "api_key_env", "api_key_file", "access_token", "access_token_env", "credentials")
_KEY_SECRETS = ("key", "key_env", "key_sha256")


def _stand_in(document: dict[str, Any]) -> None:
    """Put stand-ins where the document says where secrets are, so that none is read or asked for."""
    for number, account in enumerate(_tables(document.get("accounts"))):
        named = {name for name in _SECRETS if account.pop(name, None) is not None}
        express = any(name.startswith("api_key") for name in named)
        account["api_key" if express or account.get("kind") == "api-key" else "access_token"] = f"replayed-{number}"
    auth = document.get("auth")
    for number, key in enumerate(_tables(auth.get("keys") if isinstance(auth, dict) else None)):
        for name in _KEY_SECRETS:
            key.pop(name, None)
        key["key_sha256"] = hashlib.sha256(b"replayed-%d" % number).hexdigest()


def _tables(value: object) -> list[dict[str, Any]]:
    return [table for table in value if isinstance(table, dict)] if isinstance(value, list) else []


def emulated_error(name: str, kind: str, model: str, now: float) -> tuple[int, bytes]:
    """
    Return the error that the emulator has for a fault: its status and body.

    :raises ValueError: if it has none.
    """
    from agm.emulator.errors import Circumstances, Kind, of_fault
    from agm.emulator.faults import from_step

    fault = from_step(name)
    error = None if fault is None else of_fault(Circumstances(kind=Kind(kind), model=model, now=now), fault)
    if error is None:
        raise ValueError(f"{name!r} is no fault that can be replayed: name an error, or {', '.join(NO_ANSWER)}")
    return error.status, msgspec.json.encode(error.document())

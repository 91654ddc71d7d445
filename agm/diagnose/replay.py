"""
A recorded sequence of requests and upstream answers, run against the policy of a configuration on a fake clock.

Every decision is made by the code that serves, :class:`agm.serving.prepare.Preparation`,
:class:`agm.serving.attempts.Attempts` and the pool, in front of a :class:`RecordedUpstream`.  Nothing listens, nothing
is sent, no credential is read, and no time passes. docs/replay.md describes the form of recordings and what is
printed.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import attrs
import msgspec
import tomlkit
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer

from agm import config as configuration
from agm import hookimpl
from agm.config import Config
from agm.core.classify import Fault
from agm.core.client_keys import ClientKey
from agm.core.errors import NOT_JSON, GatewayError
from agm.core.network import Network
from agm.core.pool.cooldown import ALL_MODELS, Remembered
from agm.core.request import AttemptRecord, RequestRecord
from agm.core.wire.answer_filters import Framing
from agm.core.wire.bytechain import Spliced
from agm.core.wire.target import METHODS, parse_call, quote_model
from agm.core.wire.usage import Usage
from agm.net.timers import Deadlines
from agm.plugins.hooks import HookFailed, Hooks
from agm.plugins.manager import make_plugin_manager
from agm.serving.attempts import Attempts, FinalAnswer, OpenAnswer
from agm.serving.gateway import Gateway
from agm.serving.health_checks import QUESTION
from agm.serving.prepare import Incoming, Preparation
from agm.upstream.client import UpstreamAnswer, UpstreamClient, UpstreamFailed
from agm.upstream.credentials.credential import CredentialError
from agm.upstream.credentials.refresher import Refresher

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
#: The header by which the recorded upstream knows whose request it is; it goes nowhere.
_WHOSE = b"x-agm-replayed"


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
    A recording from its text: a JSON object a line; empty lines and lines that begin with ``#`` say nothing.

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
                _epoch(head)
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
        _of_emulator(answer.fault, "api-key", "m", 0.0)
    return answer


def _epoch(head: Head) -> float:
    if head.starts is None:
        return NOON
    starts = datetime.fromisoformat(head.starts)
    if starts.tzinfo is None:
        raise ValueError("starts needs a zone: 2026-01-15T12:00:00Z")
    return starts.timestamp()


# -- The configuration -------------------------------------------------------------------------------


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


# -- The upstream ------------------------------------------------------------------------------------


class _Credential:
    """Says whose request it is."""

    kind = "access-token"
    refreshable = True
    project = None

    def __init__(self, name: str) -> None:
        self._headers = ((_WHOSE, name.encode("utf-8")),)

    async def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return self._headers

    def mark_rejected(self, headers: Sequence[tuple[bytes, bytes]] | None = None) -> None:
        """The next attempt asks the recording, as any does."""


class RecordedUpstream(UpstreamClient):
    """
    Answers as a recording says, and well where it says nothing.

    :param epoch: when the clock began, in seconds since the epoch, for times in errors.
    """

    def __init__(self, clock: Clock, answers: Iterable[Answer], epoch: float) -> None:
        self._clock = clock
        self.deadlines = Deadlines(clock)
        self._epoch = epoch
        self._answers = tuple(answers)
        self._left = [answer.times for answer in self._answers]

    def default_to(self, network: Network) -> None:
        """There is no network here."""

    async def send(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | Spliced | IBodyProducer | None,
        *,
        timeout: float,
        network: Network | None = None,
    ) -> UpstreamAnswer:
        """The answer that the recording has for this attempt, after its latency."""
        text = bytes(body) if isinstance(body, bytes | Spliced) else b""
        call = _Call.of(url, text)
        if call.method not in METHODS:  # a question about a project or a quota
            return self._answered(200, b'{"cloudaicompanionProject":"replayed","currentTier":{"id":"standard-tier"}}')
        account = next(value.decode("utf-8") for name, value in headers if name == _WHOSE)
        answer = self._due(account, call.model, own=QUESTION in text) or Answer(account, status=200)
        reason = NO_ANSWER.get(answer.fault or "")
        if reason == "FIRST_BYTE_TIMEOUT" or answer.latency > timeout:
            await deferLater(self._clock, timeout)
            raise UpstreamFailed("FIRST_BYTE_TIMEOUT", f"the upstream did not answer within {timeout:g} seconds")
        if answer.latency:
            await deferLater(self._clock, answer.latency)
        if reason == "CREDENTIAL_UNAVAILABLE":
            raise CredentialError("the recording has no token for the account")
        if reason is not None:
            raise UpstreamFailed(reason, f"the recording says {answer.fault}")
        if answer.fault == "empty":
            return self._answered(200, b"")
        if answer.fault not in (None, "cut"):
            assert answer.fault is not None
            status, error = _of_emulator(answer.fault, call.kind, call.model, self._epoch + self._clock.seconds())
            return self._answered(status, error)
        if answer.status is not None and answer.status >= 300:
            return self._answered(answer.status, _error(answer, answer.status, call))
        return self._answered(200, call.good(), answer.lasts, cut=answer.fault == "cut")

    def _due(self, account: str, model: str, *, own: bool) -> Answer | None:
        """The answer to an attempt; to a question of the gateway's `own`, only one that is there for always."""
        now = self._clock.seconds()
        for place, answer in enumerate(self._answers):
            if own and answer.times:
                continue
            if (
                answer.account in (account, "*")
                and answer.model in (model, None)
                and answer.since <= now < (float("inf") if answer.until is None else answer.until)
                and (self._left[place] or not answer.times)
            ):
                self._left[place] -= 1
                return answer
        return None

    def _answered(self, status: int, body: bytes, lasts: float = 0.0, *, cut: bool = False) -> UpstreamAnswer:
        return UpstreamAnswer(status, _Response(self._clock, status, body, lasts, cut))


@attrs.frozen
class _Call:
    """What an attempt asks for, as its URL and body tell."""

    kind: str
    method: str
    model: str
    framing: Framing

    @classmethod
    def of(cls, url: str, body: bytes) -> _Call:
        path, _, query = url.partition("?")
        target, _, method = path.rpartition(":")
        inside = "/v1internal" in target
        framing = Framing.UNARY
        if method == "streamGenerateContent":
            framing = Framing.SSE if inside or "alt=sse" in query else Framing.ARRAY
        if inside:
            named = re.search(rb'"model"\s*:\s*"(?:models/)?([^"]*)"', body)
            return cls("code-assist", method, named[1].decode("utf-8") if named else "", framing)
        kind = "vertex" if "/publishers/" in target else "api-key"
        return cls(kind, method, unquote(target.rpartition("/")[2]), framing)

    def good(self) -> bytes:
        """A good answer, whole."""
        document: dict[str, Any] = {"totalTokens": 1}
        if self.method in ("generateContent", "streamGenerateContent"):
            document = {"candidates": [{"content": {"parts": [{"text": "replayed"}]}, "finishReason": "STOP"}]}
        text = msgspec.json.encode({"response": document} if self.kind == "code-assist" else document)
        match self.framing:
            case Framing.SSE:
                return b"data: " + text + b"\r\n\r\n"
            case Framing.ARRAY:
                return b"[" + text + b"]"
        return text


class _Response:
    """An answer on its way, and the connection that it comes on."""

    def __init__(self, clock: Clock, status: int, body: bytes, lasts: float, cut: bool) -> None:
        self.headers = Headers()
        self.first: Mapping[bytes, bytes] = {}
        self.complete = False
        self.length = UNKNOWN_LENGTH
        self._clock = clock
        self._parts = [body] if status != 200 or not body else [body[: len(body) // 2 if cut else None], b""]
        self._lasts = lasts
        self._reason: Exception = ConnectionLost() if cut else ResponseDone()
        self._protocol: Any = None
        self._ending: IDelayedCall | None = None

    def take(self) -> bytes | None:
        return None

    def deliverBody(self, protocol: Any) -> None:
        self._protocol = protocol
        protocol.makeConnection(self)
        if self._parts[0]:
            protocol.dataReceived(self._parts[0])
        if len(self._parts) == 1:
            self._end()
        elif self._protocol is not None:
            self._ending = self._clock.callLater(self._lasts, self._end)

    def _end(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(self._reason))

    def abortConnection(self) -> None:
        if self._ending is not None and self._ending.active():
            self._ending.cancel()
        self._reason = ConnectionLost()
        self._end()

    stopProducing = abortConnection

    def pauseProducing(self) -> None:
        """It is in memory."""

    def resumeProducing(self) -> None:
        """It is in memory."""


#: Sentences of Google's by which agm's own words, and what an error is about, are told.
_SENTENCES = {
    "QUOTA_IS_ZERO": "limit: 0",
    "API_KEY_LEAKED": "Your API key was reported as leaked.",
    "SUSPENDED": "Your account has been suspended.",
    "ACCESS_DENIED": "Your project has been denied access.",
    "TERMS_OF_SERVICE": "This service has been disabled in this account for violation of Terms of Service.",
    "LOCATION_NOT_SUPPORTED": "User location is not supported for the API use.",
    "BILLING": "This API method requires billing to be enabled.",
    "API_KEY_BLOCKED": "Requests to this API generativelanguage.googleapis.com method x are blocked.",
    "NO_CREDENTIAL": "Method doesn't allow unregistered callers.",
    "NO_LICENCE": "You do not have a Gemini Code Assist license.",
    "final": "The input file cannot be read.",
    "missing": "You do not have permission to access the File recorded or it may not exist.",
    "unclear": "The caller does not have permission",
    "forbidden": "This project is not allowed to use the model.",
    "no-model": "The model is not found for the API version.",
}


def _error(answer: Answer, status: int, call: _Call) -> bytes:
    """The recorded body, or one in Google's words with the recorded reason and delay."""
    if answer.body is not msgspec.UNSET:
        return bytes(answer.body)
    reason = answer.reason or ""
    if reason.startswith("HTTP_"):
        return b"not an error of Google's"
    details: list[dict[str, Any]] = []
    kind = "type.googleapis.com/google.rpc."
    about = answer.about.value if answer.about else "no-model" if status == 404 else ""
    message = _SENTENCES.get(reason) or _SENTENCES.get(about, "recorded")
    if reason == "DAILY_QUOTA":
        details.append({"@type": f"{kind}QuotaFailure", "violations": [{"quotaId": "GenerateRequestsPerDay"}]})
    elif reason == "IAM_PERMISSION_DENIED":
        resource = {"forbidden": f"publishers/google/models/{call.model}", "blocked": "projects/p"}.get(about, "")
        details.append({"@type": f"{kind}ErrorInfo", "reason": reason, "metadata": {"resource": f"/{resource}"}})
    elif reason and reason not in _SENTENCES:
        details.append({"@type": f"{kind}ErrorInfo", "reason": reason})
    if answer.delay is not None:
        details.append({"@type": f"{kind}RetryInfo", "retryDelay": f"{answer.delay:.9f}s"})
    rpc = "FAILED_PRECONDITION" if status == 400 and reason in _SENTENCES else _STATUSES.get(status, "")
    return msgspec.json.encode({"error": {"code": status, "message": message, "status": rpc, "details": details}})


_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def _of_emulator(name: str, kind: str, model: str, now: float) -> tuple[int, bytes]:
    """The error that the emulator has for a fault: its status and body."""
    from agm.emulator.errors import Circumstances, Kind, of_fault
    from agm.emulator.faults import from_step

    fault = from_step(name)
    error = None if fault is None else of_fault(Circumstances(kind=Kind(kind), model=model, now=now), fault)
    if error is None:
        raise ValueError(f"{name!r} is no fault that can be replayed: name an error, or {', '.join(NO_ANSWER)}")
    return error.status, msgspec.json.encode(error.document())


# -- The replay --------------------------------------------------------------------------------------


@attrs.frozen
class Event:
    """Something that was decided or happened: `what` it was, at a number of seconds after the beginning."""

    time: float
    what: str
    fields: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"time": round(self.time, 6), "what": self.what, **self.fields}

    def line(self) -> str:
        """As a line of the timeline."""
        it = self.fields
        return f"{self.time:10.3f}  {it.get('request') or '':<10}  {self.what:<10}  {_TELL[self.what](it)}".rstrip()


def _seconds(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") + " s"


def _tell_request(it: Mapping[str, Any]) -> str:
    conversation = f", conversation {it['conversation']}" if it["conversation"] else ""
    key = f", key {it['key']}" if it["key"] else ""
    return f"{it['method']} of {it['model']}{conversation}{key}"


def _tell_attempt(it: Mapping[str, Any]) -> str:
    what = "ok" if it["fault"] is None else f"{it['reason']} ({it['fault']})"
    status = "no answer" if it["status"] is None else it["status"]
    asked = "" if it["delay"] is None else f", to wait {_seconds(it['delay'])}"
    took = f" after {_seconds(it['seconds'])}" if it["seconds"] else ""
    probe = ", a probe" if it["probe"] else ""
    return f"{it['number']}: {it['account']}, {status} {what}{asked}{took}  [{it['chosen']}{probe}]"


def _whom(it: Mapping[str, Any]) -> str:
    """The account, and the model that it rests for."""
    return f"{it['account']} for {'all models' if it['model'] == ALL_MODELS else it['model']}"


def _tell_rest(it: Mapping[str, Any]) -> str:
    how_long = "until a person acts" if it["seconds"] is None else f"for {_seconds(it['seconds'])}"
    return f"{_whom(it)} {how_long}: {it['reason']}"


def _tell_answer(it: Mapping[str, Any]) -> str:
    waited = f", waited {_seconds(it['waited'])}" if it["waited"] else ""
    by = f" by {it['account']}" if it["account"] else ""
    return f"{it['status']}{by}, attempts: {it['attempts']}{waited}"


_TELL = {
    "asks": _tell_request,
    "attempt": _tell_attempt,
    "rests": _tell_rest,
    "rested": lambda it: f"{_whom(it)}: one request may try it",
    "recovers": lambda it: _whom(it),
    "disabled": lambda it: f"{it['account']}: {it['reason']}",
    "served": _tell_answer,
    "failed": _tell_answer,
    "broken": _tell_answer,
}


@attrs.frozen
class Replayed:
    """What came of a replay: every event in its order, and the recording's and the policy's summary."""

    events: tuple[Event, ...]

    def summary(self) -> dict[str, Any]:
        """Counts: of requests by what came of them, waits, attempts per request, and all of it by account."""
        attempts = [event.fields for event in self.events if event.what == "attempt"]
        ends = [event for event in self.events if event.what in ("served", "failed", "broken")]
        waits = [event.fields["waited"] for event in ends if event.fields["waited"]]
        tried, served = (
            Counter(it["account"] for it in attempts),
            Counter(event.fields["account"] for event in ends if event.what == "served"),
        )
        return {
            "requests": len(ends),
            **{what: sum(event.what == what for event in ends) for what in ("served", "failed", "broken")},
            "waited": {"requests": len(waits), "seconds": round(sum(waits), 6), "longest": max(waits, default=0.0)},
            "attempts": {
                "all": len(attempts),
                "most": max((event.fields["attempts"] for event in ends), default=0),
                "per_request": round(len(attempts) / len(ends), 3),
            },
            "accounts": {name: {"attempts": tried[name], "served": served[name]} for name in sorted(tried)},
        }

    def text(self) -> str:
        """Timeline and summary, for a person to read."""
        found = self.summary()
        waited, attempts = found["waited"], found["attempts"]
        return "\n".join(
            [
                *(event.line() for event in self.events),
                "",
                f"requests  {found['requests']}: {found['served']} served, {found['failed']} failed, "
                f"{found['broken']} broken off",
                f"waited    {waited['requests']} requests, {_seconds(waited['seconds'])} in all, "
                f"the longest {_seconds(waited['longest'])}",
                f"attempts  {attempts['all']}: {attempts['per_request']:g} a request, at most {attempts['most']}",
                *(
                    f"account   {name}: {it['attempts']} attempts, {it['served']} served"
                    for name, it in found["accounts"].items()
                ),
            ]
        )


class Replay:
    """
    One run of a recording.

    :param plugins: as for :func:`agm.plugins.manager.make_plugin_manager`, beside those of the configuration.
    :param entry_points: whether installed plugins count.
    :raises agm.plugins.manager.PluginError: if a plugin cannot be used.
    """

    def __init__(
        self, recording: Recording, config: Config, *, plugins: Sequence[object] = (), entry_points: bool = True
    ) -> None:
        self._recording = recording
        self._clock = Clock()
        self._epoch = _epoch(recording.head)
        self._events: list[Event] = []
        self._open = 0
        self._known: dict[str, Remembered] = {}
        self._until: dict[tuple[str, str], float | None] = {}
        client = RecordedUpstream(self._clock, recording.answers, self._epoch)
        manager = make_plugin_manager(
            [*config.plugins.load, *plugins, self], folder=config.plugins.path, entry_points=entry_points
        )
        hooks = Hooks(manager, self._clock, config.plugins.timeout)
        nowhere: Any = None  # nothing is refreshed
        self._gateway = Gateway(
            self._clock, config, hooks, client, Refresher(self._clock, nowhere), "off", wall=self._wall
        )
        for name in self._gateway.credentials:
            self._gateway.credentials[name] = _Credential(name)
        self._gateway.pool.changed = self._notice

    def _wall(self) -> float:
        return self._epoch + self._clock.seconds()

    def run(self) -> Replayed:
        """
        Replay it.

        :raises RecordingError: if a request waits for something that is not in the recording.
        """
        clock = self._clock
        self._open = len(self._recording.requests)
        failures: list[Failure] = []
        for request in self._recording.requests:
            clock.callLater(request.at, self._start, request, failures)
        patience = self._recording.requests[-1].at + PATIENCE
        while self._open and not failures:
            calls = clock.getDelayedCalls()
            if not calls or clock.seconds() > patience:
                raise RecordingError("a request waits for something that is not in the recording")
            clock.advance(max(min(call.getTime() for call in calls) - clock.seconds(), 0.0))
        if failures:
            failures[0].raiseException()
        return Replayed(tuple(self._events))

    def _start(self, request: Request, failures: list[Failure]) -> None:
        Deferred.fromCoroutine(self._one(request)).addErrback(failures.append)

    def _say(self, what: str, **fields: Any) -> None:
        self._events.append(Event(self._clock.seconds(), what, fields))

    # One request

    async def _one(self, request: Request) -> None:
        gateway = self._gateway
        began = gateway.reactor.seconds()
        self._say(
            "asks",
            request=request.request,
            model=request.model,
            method=request.method,
            conversation=request.conversation,
            key=request.key,
        )
        preparation = Preparation(gateway, self._incoming(request))
        attempts: Attempts | None = None
        outcome: Literal["ok", "error", "aborted", "cancelled"] = "error"
        status, sent, streamed = 200, 0, 0.0
        first_byte: float | None = None
        told: tuple[Usage | None, str | None] = (None, None)
        try:
            attempts = await preparation.run()
            opened = await attempts.open()
            first_byte = gateway.reactor.seconds() - began
            if isinstance(opened, FinalAnswer):
                status, sent = opened.status, len(opened.body)
                outcome = "error" if status >= 400 else "ok"
            else:
                sent = await _taken(opened)
                streamed = gateway.reactor.seconds() - began - first_byte
                outcome = "aborted" if opened.body.failed else "ok"
                if opened.body.watch is not None:
                    told = opened.body.watch.read()
        except GatewayError as e:
            status = e.status
        except HookFailed:
            status = 500
        ended = gateway.reactor.seconds() - began
        records = () if attempts is None else tuple(attempts.records)
        account = records[-1].account if first_byte is not None and records else None
        times = (self._epoch + began, ended, first_byte)
        gateway.hooks.request_finished(
            RequestRecord(preparation.request, *times, status, outcome, sent, records, account, *told)
        )
        self._say(
            {"ok": "served", "aborted": "broken"}.get(outcome, "failed"),
            request=request.request,
            status=status,
            account=records[-1].account if records and outcome != "error" else None,
            attempts=len(records),
            waited=round(ended - streamed - sum(record.ended for record in records), 6) + 0.0,
        )
        self._open -= 1

    def _incoming(self, request: Request) -> Incoming:
        path = f"/v1beta/models/{quote_model(request.model)}:{request.method}"
        turn = {"role": "user", "parts": [{"text": request.conversation or f"request {request.request}"}]}
        return Incoming(
            id=request.request,
            path=path,
            call=parse_call(path.encode("ascii")),
            framing=Framing.SSE if request.method == "streamGenerateContent" else Framing.UNARY,
            query={},
            headers={},
            key=None if request.key is None else self._key(request.key),
            body=msgspec.json.encode({"contents": [turn]}),
            received_at=self._wall(),
        )

    def _key(self, name: str) -> ClientKey:
        """A key of the configuration, or one without limits."""
        try:
            return self._gateway.key_named(name)
        except GatewayError:
            return ClientKey(name, "")

    # What is decided on the way

    @hookimpl
    def agm_attempt_finished(self, attempt: AttemptRecord) -> None:
        """Note it."""
        verdict = attempt.verdict
        self._say(
            "attempt",
            request=attempt.request_id,
            number=attempt.number,
            account=attempt.account,
            endpoint=attempt.endpoint,
            chosen=attempt.chosen,
            probe=attempt.probe,
            status=attempt.status,
            fault=None if verdict is None else verdict.fault.value,
            reason=None if verdict is None else verdict.reason,
            delay=None if verdict is None else verdict.delay,
            seconds=round(attempt.ended, 6),
        )

    def _notice(self) -> None:
        """Tell what has changed in what the pool knows."""
        now = self._clock.seconds()
        before, self._known = self._known, self._gateway.pool.remember()
        for name, known in self._known.items():
            if known.disabled is not None and before.get(name, Remembered()).disabled is None:
                self._say("disabled", account=name, reason=known.disabled)
            for rest in known.all_rests:
                model, left = rest.model, rest.left
                until = None if left is None else round(now + left, 6)
                if (name, model) in self._until and self._until[name, model] == until:
                    continue
                self._until[name, model] = until
                self._say(
                    "rests",
                    account=name,
                    model=model,
                    cause=rest.cause,
                    reason=rest.reason,
                    seconds=None if left is None else round(left, 6),
                    strikes=rest.strikes,
                )
                if left is not None and until is not None:
                    self._clock.callLater(left, self._rested, name, model, until)
        resting = {(name, rest.model) for name, known in self._known.items() for rest in known.all_rests}
        for name, model in [at for at in self._until if at not in resting]:
            del self._until[name, model]
            self._say("recovers", account=name, model=model)

    def _rested(self, name: str, model: str, until: float) -> None:
        if self._until.get((name, model)) == until:
            self._say("rested", account=name, model=model)


async def _taken(answer: OpenAnswer) -> int:
    """Take an answer to its end, and give its account back; its size."""
    sizes: list[int] = []
    ended: Deferred[None] = Deferred()
    answer.body.flow_to(lambda data: sizes.append(len(data)), lambda: ended.callback(None))
    try:
        await ended
    finally:
        answer.close()
    return sum(sizes)

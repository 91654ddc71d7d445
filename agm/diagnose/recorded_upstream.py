"""
An upstream that answers as a recording says, on a fake clock: nothing is sent, and no credential is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import unquote

import attrs
import msgspec
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from agm.core.network import Network
from agm.core.wire.answer_filters import Framing
from agm.core.wire.bytechain import ByteChain
from agm.diagnose.recording import NO_ANSWER, Answer, emulated_error
from agm.diagnose.replay_clock import ReplayClock
from agm.net.timers import Deadlines
from agm.serving.health_checks import QUESTION
from agm.upstream.client import UpstreamAnswer, UpstreamFailed, WholeAnswer
from agm.upstream.credentials.credential import CredentialError

#: The header by which the recorded upstream knows whose request it is; it goes nowhere.
_WHOSE = b"x-agm-replayed"


class RecordedCredential:
    """Says to a :class:`RecordedUpstream` whose request it is."""

    kind = "access-token"
    refreshable = True
    project = None

    def __init__(self, name: str) -> None:
        self._headers = ((_WHOSE, name.encode("utf-8")),)

    async def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return self._headers

    def mark_rejected(self, headers: Sequence[tuple[bytes, bytes]] | None = None) -> None:
        """The next attempt asks the recording, as any does."""


class Answers(Protocol):
    """Says what upstreams answer."""

    def due(self, now: float, account: str, model: str, body: bytes, *, own: bool) -> Answer | None:
        """
        Give the answer to an attempt, at a number of seconds after the beginning; None for a good one at once.

        :param body: the request's.
        :param own: whether it is a question of the gateway's own.
        """


class RecordedAnswers:
    """The answers of a recording, each as often as it says."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._answers = tuple(answers)
        self._left = [answer.times for answer in self._answers]

    def due(self, now: float, account: str, model: str, body: bytes, *, own: bool) -> Answer | None:
        """See :class:`Answers`; a question of the gateway's own gets one that is there for always."""
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


class RecordedUpstream:
    """
    Answers as it was recorded, and well where nothing was.

    :param epoch: when the clock began, in seconds since the epoch, for times in errors.
    """

    def __init__(self, clock: ReplayClock, answers: Answers, epoch: float) -> None:
        self._clock = clock
        self.deadlines = Deadlines(clock)
        self._epoch = epoch
        self._answers = answers

    def connections(self) -> dict[str, tuple[int, int]]:
        """None: there is no network here."""
        return {}

    def default_to(self, network: Network) -> None:
        """There is no network here."""

    def distrust(self) -> None:
        """There is no connection here."""

    def close(self) -> Deferred[None]:
        """Leave no timer."""
        self.deadlines.stop()
        return succeed(None)

    async def send(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | ByteChain | IBodyProducer | None,
        *,
        timeout: float,
        network: Network | None = None,
    ) -> UpstreamAnswer:
        """Return the answer that the recording has for this attempt, after its latency."""
        text = bytes(body) if isinstance(body, bytes | ByteChain) else b""
        call = _Call.of(url, text)
        account = next(value.decode("utf-8") for name, value in headers if name == _WHOSE)
        now = self._clock.seconds()
        answer = self._answers.due(now, account, call.model, text, own=QUESTION in text)
        answer = answer or Answer(account, status=200)
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
            status, error = emulated_error(answer.fault, call.kind, call.model, self._epoch + self._clock.seconds())
            return self._answered(status, error)
        if answer.status is not None and answer.status >= 300:
            return self._answered(answer.status, _error(answer, answer.status, call))
        return self._answered(200, call.good(answer.usage), answer.lasts, cut=answer.fault == "cut")

    async def fetch(self, method: str, url: str, *_: object, **__: object) -> WholeAnswer:
        """Answer a question about a project or a quota."""
        found = b'{"cloudaicompanionProject":"replayed","currentTier":{"id":"standard-tier"}}'
        return WholeAnswer(200, Headers(), found)

    def treq(self, network: Network | None = None) -> HTTPClient:
        """Return a client for plugins that reaches nobody: a replay has no network."""
        return HTTPClient(_Nobody())

    def _answered(self, status: int, body: bytes, lasts: float = 0.0, *, cut: bool = False) -> UpstreamAnswer:
        return UpstreamAnswer(status, _Response(self._clock, status, body, lasts, cut))


@implementer(IAgent)
class _Nobody:
    """Reaches nobody."""

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        return fail(ConnectError(string="a replay reaches nobody"))


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

    def good(self, usage: dict[str, int] | None) -> bytes:
        """Return a good answer, whole, which says so of its usage."""
        document: dict[str, Any] = {"totalTokens": 1}
        if self.method in ("generateContent", "streamGenerateContent"):
            document = {"candidates": [{"content": {"parts": [{"text": "replayed"}]}, "finishReason": "STOP"}]}
        if usage is not None:
            document["usageMetadata"] = usage
        text = msgspec.json.encode({"response": document} if self.kind == "code-assist" else document)
        match self.framing:
            case Framing.SSE:
                return b"data: " + text + b"\r\n\r\n"
            case Framing.ARRAY:
                return b"[" + text + b"]"
        return text


class _Response:
    """An answer on its way, and the connection that it comes on."""

    def __init__(self, clock: ReplayClock, status: int, body: bytes, lasts: float, cut: bool) -> None:
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
    """Return the recorded body, or one in Google's words with the recorded reason and delay."""
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

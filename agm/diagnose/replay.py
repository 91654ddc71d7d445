"""
A recorded sequence of requests and upstream answers, run against the policy of a configuration on a fake clock.

Every decision is made by the code that serves, :class:`agm.serving.calls.Calls` and the pool, in front of a
:class:`~agm.diagnose.recorded_upstream.RecordedUpstream`.  Nothing listens, nothing is sent, no credential is read, and
no time passes.  docs/replay.md describes what is printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from agm import hookimpl
from agm.config import Config
from agm.core.answer import Answer
from agm.core.client_keys import ClientKey
from agm.core.errors import GatewayError
from agm.core.pool.cooldown import ALL_MODELS, Remembered
from agm.core.request import AttemptRecord, RequestRecord
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import parse_call, quote_model
from agm.diagnose.recorded_upstream import Answers, RecordedAnswers, RecordedCredential, RecordedUpstream
from agm.diagnose.recording import PATIENCE, Recording, RecordingError, Request
from agm.diagnose.replay_clock import ReplayClock
from agm.plugins.hooks import HookFailed, Hooks
from agm.plugins.manager import make_plugin_manager
from agm.serving.answers import FinalAnswer, OpenAnswer
from agm.serving.calls import Outcome
from agm.serving.gateway import Gateway
from agm.serving.prepare import InboundCall
from agm.upstream.credentials.refresher import Refresher


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
        name = _NAMES.get(self.what, self.what)
        return f"{self.time:10.3f}  {it.get('request') or '':<10}  {name:<10}  {_TELL[self.what](it)}".rstrip()


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
    """Return the account, and the model that it cools down for."""
    return f"{it['account']} for {'all models' if it['model'] == ALL_MODELS else it['model']}"


def _tell_cooldown(it: Mapping[str, Any]) -> str:
    how_long = "until manual action" if it["seconds"] is None else f"for {_seconds(it['seconds'])}"
    return f"{_whom(it)} {how_long}: {it['reason']}"


def _tell_answer(it: Mapping[str, Any]) -> str:
    waited = f", waited {_seconds(it['waited'])}" if it["waited"] else ""
    by = f" by {it['account']}" if it["account"] else ""
    return f"{it['status']}{by}, attempts: {it['attempts']}{waited}"


#: How a person reads the events whose names programs know.
_NAMES = {"asks": "request", "rests": "cooldown", "rested": "half-open", "broken": "aborted"}
_TELL = {
    "asks": _tell_request,
    "attempt": _tell_attempt,
    "rests": _tell_cooldown,
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
                f"{found['broken']} aborted",
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
    :param answers: what upstreams answer, in place of what the recording says.
    :param epoch: when the clock begins, in seconds since the epoch, in place of what the recording says.
    :ivar gateway: what serves.
    :raises agm.plugins.manager.PluginError: if a plugin cannot be used.
    """

    def __init__(
        self,
        recording: Recording,
        config: Config,
        *,
        plugins: Sequence[object] = (),
        entry_points: bool = True,
        answers: Answers | None = None,
        epoch: float | None = None,
    ) -> None:
        self._recording = recording
        self._clock = ReplayClock()
        self._epoch = recording.head.epoch() if epoch is None else epoch
        #: The records of the requests that have ended, and the gateway's own errors that ended some of them.
        self.records: dict[str, RequestRecord] = {}
        self.errors: dict[str, GatewayError] = {}
        self._events: list[Event] = []
        self._open = 0
        self._known: dict[str, Remembered] = {}
        self._until: dict[tuple[str, str], float | None] = {}
        client = RecordedUpstream(self._clock, answers or RecordedAnswers(recording.answers), self._epoch)
        manager = make_plugin_manager(
            [*config.plugins.load, *plugins, self],
            folder=config.plugins.path,
            disable=config.plugins.disable,
            entry_points=entry_points,
        )
        hooks = Hooks(manager, self._clock, config.plugins.timeout)
        nowhere: Any = None  # nothing is refreshed
        self.gateway = Gateway(
            self._clock,
            config,
            hooks,
            client,
            Refresher(self._clock, nowhere),
            "off",
            wall=self._wall,
            credential_of=lambda source: RecordedCredential(source.account.name),
        )
        self.gateway.pool.changed = self._notice

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
            if not clock.step() or clock.seconds() > patience:
                raise RecordingError("a request waits for something that is not in the recording")
        if failures:
            failures[0].raiseException()
        return Replayed(tuple(self._events))

    def _start(self, request: Request, failures: list[Failure]) -> None:
        Deferred.fromCoroutine(self._one(request)).addErrback(failures.append)

    def _say(self, what: str, **fields: Any) -> None:
        self._events.append(Event(self._clock.seconds(), what, fields))

    # One request

    async def _one(self, request: Request) -> None:
        gateway = self.gateway
        self._say(
            "asks",
            request=request.request,
            model=request.model,
            method=request.method,
            conversation=request.conversation,
            key=request.key,
        )
        call = gateway.calls.begin(gateway.calls.prepare(self._inbound(request)))
        outcome: Outcome = "error"
        status, sent, streamed = 200, 0, 0.0
        try:
            opened = await call.open()
            answered = gateway.reactor.seconds()
            if isinstance(opened, FinalAnswer):
                status, sent = opened.status, len(opened.body)
                outcome = "error" if status >= 400 else "ok"
            elif isinstance(opened, Answer):
                status, sent = opened.status, len(await opened.read())
                outcome = "error" if status >= 400 else "ok"
            else:
                sent = await _taken(opened)
                streamed = gateway.reactor.seconds() - answered
                outcome = "aborted" if opened.body.failed else "ok"
        except GatewayError as e:
            status = e.status
            self.errors[request.request] = e
        except HookFailed:
            status = 500
        record = self.records[request.request] = call.end(outcome, status, sent)
        records = record.attempts
        self._say(
            {"ok": "served", "aborted": "broken"}.get(outcome, "failed"),
            request=request.request,
            status=status,
            account=records[-1].account if records and outcome != "error" else None,
            attempts=len(records),
            waited=round(record.ended - streamed - sum(record.ended for record in records), 6) + 0.0,
        )
        self._open -= 1

    def _inbound(self, request: Request) -> InboundCall:
        path = f"/v1beta/models/{quote_model(request.model)}:{request.method}"
        turn = {"role": "user", "parts": [{"text": request.conversation or f"request {request.request}"}]}
        return InboundCall(
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
        """Return a key of the configuration, or one without limits."""
        try:
            return self.gateway.clients.named(name)
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
        before, self._known = self._known, self.gateway.pool.remember()
        for name, known in self._known.items():
            if known.disabled is not None and before.get(name, Remembered()).disabled is None:
                self._say("disabled", account=name, reason=known.disabled)
            for cooldown in known.all_cooldowns:
                model, left = cooldown.model, cooldown.left
                until = None if left is None else round(now + left, 6)
                if (name, model) in self._until and self._until[name, model] == until:
                    continue
                self._until[name, model] = until
                self._say(
                    "rests",
                    account=name,
                    model=model,
                    cause=cooldown.cause,
                    reason=cooldown.reason,
                    seconds=None if left is None else round(left, 6),
                    strikes=cooldown.strikes,
                )
                if left is not None and until is not None:
                    self._clock.callLater(left, self._rested, name, model, until)
        resting = {(name, cooldown.model) for name, known in self._known.items() for cooldown in known.all_cooldowns}
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

"""
What is going on now: the requests under way, the latest that ended, and one-second counts of the last five minutes.

Each request says when it begins, when its answer flows and when it ends; everything else is worked out when somebody
looks.  Nothing is kept on disk, no body is kept at all, and every collection has a bound.  What is asked of it is
answered as JSON documents, which docs/admin.md describes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from agm.core.errors import GatewayError
from agm.core.pool.pool import Pool
from agm.core.request import AttemptRecord, GatewayRequest, RequestRecord
from agm.core.wire.answer_filters import Framing
from agm.observe.finished import MAX_MESSAGE, MAX_TEXT, Finished, describe_attempt, describe_finished, tokens_of

#: Seconds of which counts are kept.
SECONDS = 300
#: How many of the requests that ended are kept.
FINISHED = 200
#: How many of the requests under way a document shows, the latest first.
SHOWN_OPEN = 100
#: Names of client keys and accounts whose use is counted; the one that was not used for the longest goes first.
MAX_NAMES = 20_000


class Asking(Protocol):
    """What prepares a request."""

    @property
    def request(self) -> GatewayRequest:
        """The request, as far as it is known."""


class Trying(Protocol):
    """What makes attempts for a request."""

    @property
    def records(self) -> Sequence[AttemptRecord]:
        """The attempts so far."""


class Relaying(Protocol):
    """An answer on its way to the client."""

    sent: int

    @property
    def paused(self) -> bool:
        """Whether the client has to read before more goes out."""


class Underway:
    """A request that has begun and not ended."""

    __slots__ = (
        "answer",
        "answer_size",
        "asking",
        "attempts",
        "began",
        "counted",
        "counted_at",
        "error",
        "relay",
        "stream",
    )

    def __init__(self, asking: Asking, began: float) -> None:
        self.asking = asking
        self.began = began
        #: What makes its attempts, once it is prepared.
        self.attempts: Trying | None = None
        #: The answer, once it flows; whether that is a stream.
        self.relay: Relaying | None = None
        self.stream = False
        #: The error that ended it, if one of the gateway's own did.
        self.error: Exception | None = None
        #: Bytes of the answer that are in the counts, and when they were put there.
        self.counted = 0
        self.counted_at = began
        #: The start of what the upstream answered, and how much that was in all, where answers are being kept.
        self.answer: bytes | None = None
        self.answer_size: int | None = None


class _Second:
    """The counts of one second; gauges are the most of it, `was_…` what they were when it began."""

    __slots__ = ("errors", "number", "open", "output", "prompt", "requests", "streams", "was_open", "was_streams")

    def __init__(self, number: int, open_: int, streams: int) -> None:
        self.number = number
        self.requests = self.errors = self.prompt = self.output = 0
        self.open = self.was_open = open_
        self.streams = self.was_streams = streams


class _Use:
    """What one client key has asked for."""

    __slots__ = ("errors", "last", "output", "prompt", "requests")

    def __init__(self) -> None:
        self.requests = self.errors = self.prompt = self.output = 0
        self.last = 0.0


class _Tries:
    """How an account was used."""

    __slots__ = ("attempts", "failed")

    def __init__(self) -> None:
        self.attempts = self.failed = 0


class Live:
    """
    What is going on.

    :param pool: says how many accounts a failed request could have asked yet.
    :param clock: seconds of a clock that never goes back.
    :param wall: seconds since the epoch.
    :ivar started: when it began, in seconds since the epoch: second 0 of the counts.
    :ivar listening: the addresses that are listened on.
    :ivar ended: how many requests have ended.
    :ivar told: is called with each request that has ended.
    """

    def __init__(self, pool: Pool, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._pool = pool
        self._clock = clock
        self._zero = clock()
        self.started = wall()
        self.listening: list[str] = []
        self.closed = False
        self._on_close: dict[object, Callable[[], object]] = {}
        self._ring: list[_Second | None] = [None] * SECONDS
        self._sent: list[tuple[int, int]] = [(-1, 0)] * SECONDS
        self._open: dict[Underway, None] = {}
        self._streams = 0
        #: Of them, Live sessions.
        self._sessions = 0
        self.finished: deque[Finished] = deque(maxlen=FINISHED)
        self.ended = 0
        self.told: Callable[[Finished, Underway, RequestRecord], object] | None = None
        self._errors = self._prompt = self._output = self._total_sent = 0
        self._keys: OrderedDict[str | None, _Use] = OrderedDict()
        self._accounts: OrderedDict[str, _Tries] = OrderedDict()

    # What requests say

    @property
    def uptime(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._zero

    def begin(self, asking: Asking) -> Underway:
        """A request has come; give what this returns to :meth:`relaying` and :meth:`end`."""
        now = self._clock()
        second = self._second(now)
        second.requests += 1
        underway = Underway(asking, now)
        self._open[underway] = None
        if len(self._open) > second.open:
            second.open = len(self._open)
        return underway

    def relaying(self, underway: Underway, relay: Relaying) -> None:
        """The answer of a request flows from now on."""
        now = self._clock()
        second = self._second(now)
        underway.relay = relay
        underway.counted_at = now
        if underway.asking.request.framing is not Framing.UNARY:
            underway.stream = True
            self._streams += 1
            self._sessions += underway.asking.request.framing is Framing.LIVE
            if self._streams > second.streams:
                second.streams = self._streams

    def end(self, underway: Underway, record: RequestRecord, most: int) -> None:
        """
        A request has ended.

        :param most: how many attempts it could have had.
        """
        now = self._clock()
        second = self._second(now)
        self._open.pop(underway, None)
        if underway.stream:
            self._streams -= 1
            self._sessions -= record.request.framing is Framing.LIVE
        if record.sent > underway.counted:
            since = underway.counted_at if underway.relay is not None else now
            self._count_sent(record.sent - underway.counted, since, now)
        request, attempts = record.request, record.attempts
        key = self._keys.get(request.client_key)
        if key is None:
            key = _bounded(self._keys, request.client_key, _Use())
        elif len(self._keys) == MAX_NAMES:
            self._keys.move_to_end(request.client_key)
        key.requests += 1
        key.last = record.started + record.ended
        failed = record.outcome == "error" or record.outcome == "aborted"
        if failed:
            second.errors += 1
            key.errors += 1
            self._errors += 1
        usage = record.usage
        if usage is not None:
            prompt, output = tokens_of(usage)
            second.prompt += prompt
            second.output += output
            key.prompt += prompt
            key.output += output
            self._prompt += prompt
            self._output += output
        for attempt in attempts:
            tries = self._accounts.get(attempt.account)
            if tries is None:
                tries = _bounded(self._accounts, attempt.account, _Tries())
            tries.attempts += 1
            if attempt.verdict is not None:
                tries.failed += 1
        self.ended += 1
        error = underway.error if isinstance(underway.error, GatewayError) else None
        finished = Finished(
            request.id,
            record.started,
            request.client_key,
            request.headers.get("user-agent", "")[:MAX_TEXT],
            request.method,
            request.framing,
            request.asked_model[:MAX_TEXT],
            request.model[:MAX_TEXT],
            record.status,
            record.outcome,
            record.first_byte,
            record.ended,
            record.sent,
            attempts,
            usage,
            record.finish_reason,
            None if error is None else error.error_reason,
            None if error is None else error.message[:MAX_MESSAGE],
            record.account,
            len(request.body.raw),
            self._not_asked(request, attempts) if failed else 0,
            most,
            request.parent,
            request.team,
            record.cost,
            request.dialect,
        )
        self.finished.append(finished)
        if self.told is not None:
            self.told(finished, underway, record)

    def _not_asked(self, request: GatewayRequest, attempts: Sequence[AttemptRecord]) -> int:
        return len(self._pool.candidates(request.model, request.method, {attempt.account for attempt in attempts}))

    # Counts

    def _second(self, now: float) -> _Second:
        number = int(now - self._zero)
        second = self._ring[number % SECONDS]
        if second is None or second.number != number:
            second = self._ring[number % SECONDS] = _Second(number, len(self._open), self._streams)
        return second

    def _count_sent(self, count: int, since: float, now: float) -> None:
        """Histogram bytes evenly over the seconds in which they were sent."""
        self._total_sent += count
        last = int(now - self._zero)
        if now - since < 1.0 and int(since - self._zero) == last:
            kept, sent = self._sent[last % SECONDS]
            self._sent[last % SECONDS] = (last, sent + count if kept == last else count)
            return
        first = max(min(int(since - self._zero), last), last - SECONDS + 1)
        share, rest = divmod(count, last - first + 1)
        for number in range(first, last + 1):
            at = number % SECONDS
            kept, sent = self._sent[at]
            self._sent[at] = (number, (sent if kept == number else 0) + share + (rest if number == last else 0))

    def _count_open(self, now: float) -> None:
        """Count what answers under way have sent until now."""
        for underway in self._open:
            if underway.relay is not None and underway.relay.sent > underway.counted:
                self._count_sent(underway.relay.sent - underway.counted, underway.counted_at, now)
                underway.counted, underway.counted_at = underway.relay.sent, now

    # What is asked

    def traffic(self, seconds: int = SECONDS) -> dict[str, Any]:
        """The counts of the last `seconds`, oldest first; the last one is not over yet."""
        now = self._clock()
        self._count_open(now)
        last = int(now - self._zero)
        columns: dict[str, list[int]] = {
            name: [] for name in ("requests", "errors", "open", "streams", "prompt_tokens", "output_tokens", "sent")
        }
        append = [column.append for column in columns.values()]
        open_, streams = len(self._open), self._streams
        for number in range(last, last - min(seconds, SECONDS), -1):
            second = self._ring[number % SECONDS]
            kept, sent = self._sent[number % SECONDS]
            if second is None or second.number != number:
                row = (0, 0, open_, streams, 0, 0)
            else:
                row = (second.requests, second.errors, second.open, second.streams, second.prompt, second.output)
                open_, streams = second.was_open, second.was_streams
            for put, value in zip(append, (*row, sent if kept == number else 0), strict=True):
                put(value)
        return {"second": last, **{name: column[::-1] for name, column in columns.items()}}

    def totals(self) -> dict[str, Any]:
        """The counts since the start."""
        return {
            "requests": self.ended,
            "errors": self._errors,
            "prompt_tokens": self._prompt,
            "output_tokens": self._output,
            "sent": self._total_sent,
            "open": len(self._open),
            "streams": self._streams,
            "sessions": self._sessions,
        }

    def relays(self) -> list[Relaying]:
        """Return the answers that flow."""
        return [underway.relay for underway in self._open if underway.relay is not None]

    def open_requests(self) -> list[dict[str, Any]]:
        """Return the requests under way, the latest first, up to :data:`SHOWN_OPEN` of them."""
        now = self._clock()
        latest = [underway for underway, _ in zip(reversed(self._open), range(SHOWN_OPEN), strict=False)]
        return [_describe_open(underway, now) for underway in latest]

    def latest(self, count: int = FINISHED) -> list[dict[str, Any]]:
        """Return the requests that ended last, the latest first."""
        return [describe_finished(one) for one, _ in zip(reversed(self.finished), range(count), strict=False)]

    def tries(self, account: str) -> dict[str, int]:
        """Return the usage of an account since the start."""
        tries = self._accounts.get(account)
        return {"attempts": 0, "failed": 0} if tries is None else {"attempts": tries.attempts, "failed": tries.failed}

    def key_use(self) -> Mapping[str | None, dict[str, Any]]:
        """Return the usage of client keys since the start, by name; None is for requests without one."""
        return {
            name: {
                "requests": use.requests,
                "errors": use.errors,
                "prompt_tokens": use.prompt,
                "output_tokens": use.output,
                "last_used": round(use.last, 3),
            }
            for name, use in self._keys.items()
        }

    # The end

    def until_close(self, who: object, close: Callable[[], object]) -> None:
        """Have `close` called when the gateway is about to stop, unless :meth:`leave` comes first."""
        self._on_close[who] = close

    def leave(self, who: object) -> None:
        """Whoever it was has ended."""
        self._on_close.pop(who, None)

    def close(self) -> None:
        """The gateway stops: whoever watches has to go, so that nobody waits for them."""
        self.closed = True
        waiting, self._on_close = self._on_close, {}
        for close in waiting.values():
            close()


def _bounded(known: OrderedDict[Any, Any], name: object, new: Any) -> Any:
    known[name] = new
    if len(known) > MAX_NAMES:
        known.popitem(last=False)
    return new


def _describe_open(underway: Underway, now: float) -> dict[str, Any]:
    request = underway.asking.request
    records = () if underway.attempts is None else underway.attempts.records
    return {
        "id": request.id,
        "at": round(request.received_at, 3),
        "client_key": request.client_key,
        "client": request.headers.get("user-agent", "")[:MAX_TEXT],
        "method": request.method,
        "dialect": request.dialect,
        "framing": request.framing.value,
        "asked": request.asked_model[:MAX_TEXT],
        "served": request.model[:MAX_TEXT],
        "state": "waiting" if underway.relay is None else "answering",
        "account": records[-1].account if records and underway.relay is not None else None,
        "seconds": round(now - underway.began, 3),
        "sent": 0 if underway.relay is None else underway.relay.sent,
        "attempts": [describe_attempt(record, request.received_at) for record in tuple(records)],
    }

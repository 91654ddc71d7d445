"""
Counts of what the gateway has done since its start: requests, attempts, errors, tokens, bytes, and how long it took.

They are plain numbers in dicts, so that a request costs a few microseconds; :mod:`agm.observe.metrics` gives them the
form in which they are read.  Clients choose models and upstreams choose words, and neither may make these grow: a name
that is not known beforehand is counted as ``other``, and so is every one beyond a fixed number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from http import HTTPStatus

from agm.core.kinds import COLLECTIONS, METHODS, OPENAI_COLLECTIONS, VERTEX_COLLECTIONS
from agm.core.request import RequestRecord
from agm.core.wire.answer_filters import Framing

OTHER = "other"
#: Words of upstreams and plugins for why something failed, and models: no more are told apart.
MAX_REASONS = 200
MAX_MODELS = 300
MAX_ACCOUNTS = 20_000
MAX_DIALECTS = 20

#: Seconds: an answer's first byte comes in tens of milliseconds or, after much thought, in minutes.
FIRST_BYTE_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 60.0, 120.0, 300.0)
DURATION_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

TOKENS = ("prompt", "output", "cached", "thoughts", "tool")

_RESOURCES = frozenset(
    {
        *COLLECTIONS,
        *(f"vertex.{name}" for name in (*VERTEX_COLLECTIONS, "operations")),
        *(f"openai.{name}" for name in OPENAI_COLLECTIONS),
    }
)
#: Resources are told apart by their collection: ``files.create`` and ``files.get`` are both ``files``.
_METHODS = {
    name: name.rpartition(".")[0] if name.rpartition(".")[0] in _RESOURCES else name
    for name in frozenset().union(*METHODS.values())
}
_FRAMINGS = {framing: framing.value for framing in Framing}
_CODES = {int(status): str(int(status)) for status in HTTPStatus}


class Histogram:
    """
    How many values fell into each of some buckets.

    :param bounds: the upper ends of the buckets, ascending; a last one without end comes after them.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value; one that is a bound is in the bucket below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class BoundedLabels(dict[str, str]):
    """
    Names that may be told apart: each is itself, but beyond the `most` first ones all are ``other``.

    It is looked up as a dict, and so costs nothing for a name that is known.
    """

    def __init__(self, most: int, known: Callable[[str], bool] = lambda name: True) -> None:
        super().__init__()
        self._most = most
        self._known = known

    def __missing__(self, name: str) -> str:
        if len(self) >= self._most or not self._known(name):
            return OTHER
        self[name] = name
        return name


class Counters:
    """
    The counts.

    :param known_model: whether a model is one of those that can be told apart.
    :param kind_of: the kind of an account, by its name.
    :ivar requests: by (method, framing, status, outcome).
    :ivar first_byte: seconds to the first byte of answers, by (method, framing).
    :ivar duration: seconds of answers that came to their end, likewise.
    :ivar attempts: by (kind of account, reason); the reason of a success is ``ok``.
    :ivar tries: by (account, reason), likewise.
    :ivar errors: that clients got, by (whose, reason): ``gateway`` or ``upstream``.
    :ivar tokens: by model, in the order of :data:`TOKENS`.
    :ivar costs: in US dollars, by model.
    :ivar unpriced: requests that an upstream has answered and whose price is not known, by model.
    :ivar dialects: requests of clients that speak another API, by (dialect, status, outcome).
    """

    def __init__(self, known_model: Callable[[str], bool], kind_of: Callable[[str], str]) -> None:
        self._kind_of = kind_of
        self._models = BoundedLabels(MAX_MODELS, known_model)
        self._reasons = BoundedLabels(MAX_REASONS)
        self._accounts = BoundedLabels(MAX_ACCOUNTS)
        self.requests: dict[tuple[str, str, str, str], int] = {}
        self.first_byte: dict[tuple[str, str], Histogram] = {}
        self.duration: dict[tuple[str, str], Histogram] = {}
        self.attempts: dict[tuple[str, str], int] = {}
        self.tries: dict[tuple[str, str], int] = {}
        self.errors: dict[tuple[str, str], int] = {}
        self.tokens: dict[str, list[int]] = {}
        self.costs: dict[str, float] = {}
        self.unpriced: dict[str, int] = {}
        self.dialects: dict[tuple[str, str, str], int] = {}
        self._dialects = BoundedLabels(MAX_DIALECTS)
        self.received = 0
        self.sent = 0
        self.lag = Histogram(LAG_BOUNDS)

    def finished(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        request, outcome = record.request, record.outcome
        method = _METHODS.get(request.method, OTHER)
        framing = _FRAMINGS[request.framing]
        code = _CODES.get(record.status) or f"{record.status // 100 % 10}xx"
        key = (method, framing, code, outcome)
        self.requests[key] = self.requests.get(key, 0) + 1
        if request.dialect is not None:
            spoken = (self._dialects[request.dialect], code, outcome)
            self.dialects[spoken] = self.dialects.get(spoken, 0) + 1
        self.received += len(request.body.raw)
        self.sent += record.sent
        if record.first_byte is not None and outcome != "error":
            place = (method, framing)
            spread = self.first_byte.get(place)
            if spread is None:
                spread = self.first_byte[place] = Histogram(FIRST_BYTE_BOUNDS)
                self.duration[place] = Histogram(DURATION_BOUNDS)
            spread.add(record.first_byte)
            if outcome == "ok":
                self.duration[place].add(record.ended)
        reason = "ok"
        for attempt in record.attempts:
            reason = "ok" if attempt.verdict is None else self._reasons[attempt.verdict.reason]
            pair = (self._kind_of(attempt.account), reason)
            self.attempts[pair] = self.attempts.get(pair, 0) + 1
            pair = (self._accounts[attempt.account], reason)
            self.tries[pair] = self.tries.get(pair, 0) + 1
        if outcome == "aborted":
            self._failed("upstream", "BROKEN_OFF")
        elif outcome == "error" and record.account is not None:  # an upstream's own words, passed on
            self._failed("upstream", reason)
        usage = record.usage
        if usage is not None:
            model = self._models[request.model]
            tokens = self.tokens.get(model)
            if tokens is None:
                tokens = self.tokens[model] = [0] * len(TOKENS)
            tokens[0] += usage.prompt
            tokens[1] += usage.output
            tokens[2] += usage.cached
            tokens[3] += usage.thoughts
            tokens[4] += usage.tool
        if record.account is not None and outcome != "error":
            if usage is None:
                model = self._models[request.model]
            if record.cost is None:
                self.unpriced[model] = self.unpriced.get(model, 0) + 1
            else:
                self.costs[model] = self.costs.get(model, 0.0) + record.cost

    def refused(self, reason: str) -> None:
        """Count an error of the gateway's own that a client got."""
        self._failed("gateway", self._reasons[reason])

    def _failed(self, whose: str, reason: str) -> None:
        pair = (whose, reason)
        self.errors[pair] = self.errors.get(pair, 0) + 1

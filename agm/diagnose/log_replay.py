"""
A policy tried on the requests of the log: what it would have refused, served, waited for and cost.

Requests come as they came, with their keys and models; accounts answer as the log says that they did: out of quota when
they were, in the same time, with the same tokens.  Every decision is made by the code that serves, through
:class:`agm.diagnose.replay.Replay`.  What accounts would have answered to requests that they never had is not known:
they are taken to answer well.  docs/replay.md describes what is printed.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from agm.config import Config
from agm.core.classify import UNSTATED_DELAY, Fault
from agm.core.errors import GatewayError
from agm.core.limits import DAY
from agm.core.money import known
from agm.core.request import RequestRecord
from agm.core.spending import Sums, begins, period
from agm.core.wire.target import METHODS, parse_call, quote_model
from agm.diagnose.recording import NO_ANSWER, Answer, Head, Recording, Request
from agm.diagnose.replay import Replay

#: Reasons of the gateway's own for which a request was refused that another policy may serve.
POLICY = frozenset(
    {
        "ALL_ACCOUNTS_RESTING",
        "BUDGET_SPENT",
        "CLIENT_KEY_LIMIT",
        "ENDPOINTS_FAIL",
        "MODEL_NOT_ALLOWED",
        "MODEL_NOT_SERVED",
        "NO_ACCOUNTS",
        "NO_ACCOUNT_READY",
    }
)
_OF_THE_REQUEST = frozenset({Fault.FINAL, Fault.MISSING, Fault.UNCLEAR})
_OF_THE_ACCOUNT = frozenset({Fault.CREDENTIAL, Fault.LOCKED, Fault.BLOCKED})
_OF_THE_MODEL = frozenset({Fault.FORBIDDEN, Fault.NO_MODEL})
_ANY_MODEL = "*"
_WHOSE = re.compile(rb'"request ([A-Za-z0-9_.-]{1,80})"')
_FAULTS = {reason: fault for fault, reason in NO_ANSWER.items()}
_TOKENS = {
    "prompt_tokens": "promptTokenCount",
    "output_tokens": "candidatesTokenCount",
    "cached_tokens": "cachedContentTokenCount",
    "thought_tokens": "thoughtsTokenCount",
    "tool_tokens": "toolUsePromptTokenCount",
    "total_tokens": "totalTokenCount",
}


class NothingToReplay(Exception):
    """There is no request in the log that can be replayed; the message says of which time."""


@attrs.frozen(eq=False)
class Logged:
    """A request of the log: its row by the names of columns, and the attempts of its timeline."""

    row: Mapping[str, Any]
    timeline: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """Its id."""
        return str(self.row["request"])

    @property
    def served(self) -> bool:
        """Whether its client got an answer, whole or not."""
        return bool(self.row["outcome"] != "error")

    @property
    def refused(self) -> bool:
        """Whether the gateway refused it before any upstream was asked."""
        return not self.served and not self.timeline

    def faults(self) -> Iterator[tuple[Mapping[str, Any], Fault]]:
        """Give the attempts that failed."""
        for attempt in self.timeline:
            if attempt.get("fault") is not None:
                yield attempt, Fault(attempt["fault"])


@attrs.frozen
class _Window:
    """A time in which an account answered with a failure: all that it is asked then is answered so."""

    start: float
    end: float
    attempt: Mapping[str, Any]
    fault: Fault


class LoggedAnswers:
    """
    What accounts answer, by what the log says of them.

    :param epoch: when the clock begins, in seconds since the epoch.
    """

    def __init__(self, requests: Iterable[Logged], epoch: float) -> None:
        self._epoch = epoch
        self._requests: dict[str, Logged] = {}
        successes: dict[tuple[str, str], list[float]] = defaultdict(list)
        failures: list[tuple[float, str, str, Mapping[str, Any], Fault]] = []
        counted: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for request in requests:
            self._requests[request.name] = request
            row = request.row
            for attempt in request.timeline:
                at = row["started"] + attempt["after_ms"] / 1000
                model = attempt.get("model") or row["model"]
                if attempt.get("fault") is None:
                    for of in (model, _ANY_MODEL):
                        successes[attempt["account"], of].append(at)
                else:
                    failures.append((at, attempt["account"], model, attempt, Fault(attempt["fault"])))
            if request.served and row["total_tokens"] is not None and row["first_byte"] is not None:
                counted[row["model"]].append(row)
        for times in successes.values():
            times.sort()
        self._successes = successes
        self._windows: dict[tuple[str, str], list[_Window]] = defaultdict(list)
        for at, account, model, attempt, fault in sorted(failures, key=lambda it: it[0]):
            self._add(at, account, model, attempt, fault)
        self._usual = {model: _usual(rows) for model, rows in counted.items()}

    def _add(self, at: float, account: str, model: str, attempt: Mapping[str, Any], fault: Fault) -> None:
        """Note when an account did not serve a model, or any."""
        if fault in (Fault.RATE, Fault.QUOTA):
            end = at + (UNSTATED_DELAY if attempt.get("delay") is None else attempt["delay"])
        elif fault in _OF_THE_ACCOUNT | _OF_THE_MODEL:
            model = _ANY_MODEL if fault in _OF_THE_ACCOUNT else model
            end = math.inf
        else:
            return
        times = self._successes.get((account, model), [])
        after = bisect_right(times, at)
        if after < len(times):
            end = min(end, times[after])
        windows = self._windows[account, model]
        if windows and windows[-1].end > end:  # what was said before holds longer
            attempt, fault, end = windows[-1].attempt, windows[-1].fault, windows[-1].end
        windows.append(_Window(at, end, attempt, fault))

    def due(self, now: float, account: str, model: str, body: bytes, *, own: bool) -> Answer | None:
        """See :class:`agm.diagnose.recorded_upstream.Answers`."""
        whose = None if own else _WHOSE.search(body)
        request = None if whose is None else self._requests.get(whose[1].decode("ascii"))
        if request is None:
            return None
        for attempt, fault in request.faults():
            same = attempt["account"] == account
            if fault in _OF_THE_REQUEST or (same and fault in (Fault.ENDPOINT, Fault.CAPACITY)):
                return _failed(account, attempt, fault, attempt.get("delay"))
        at = self._epoch + now
        for of in (model, _ANY_MODEL):
            windows = self._windows.get((account, of))
            if windows:
                window = windows[max(bisect_right(windows, at, key=lambda it: it.start) - 1, 0)]
                if window.start <= at < window.end:
                    delay = window.end - at if window.fault in (Fault.RATE, Fault.QUOTA) else None
                    return _failed(account, window.attempt, window.fault, delay)
        return self._good(account, model, request)

    def _good(self, account: str, model: str, request: Logged) -> Answer:
        row = request.row
        usage, latency, lasts = self._usual.get(model) or self._usual.get(row["model"]) or (None, 0.0, 0.0)
        good = next((it for it in request.timeline if it.get("fault") is None), None)
        if request.served and good is not None and row["first_byte"] is not None:
            latency, lasts = good["ms"] / 1000, max(row["duration"] - row["first_byte"], 0.0)
        if row["total_tokens"] is not None:
            usage = _usage(row)
        cut = row["outcome"] == "aborted" and row["account"] == account
        return Answer(
            account,
            status=None if cut else 200,
            fault="cut" if cut else None,
            latency=latency,
            lasts=lasts,
            usage=usage,
        )


def _usage(row: Mapping[str, Any]) -> dict[str, int]:
    return {name: row[column] for column, name in _TOKENS.items() if row[column]}


def _usual(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, int], float, float]:
    """Return what the requests for a model used and how long they took, on average."""
    usage = {name: round(sum(row[column] for row in rows) / len(rows)) for column, name in _TOKENS.items()}
    latency = sum(row["first_byte"] for row in rows) / len(rows)
    return usage, latency, max(sum(row["duration"] for row in rows) / len(rows) - latency, 0.0)


def _failed(account: str, attempt: Mapping[str, Any], fault: Fault, delay: float | None) -> Answer:
    status, reason = attempt.get("status"), attempt.get("reason")
    latency = attempt["ms"] / 1000
    if status is None or status < 300:
        return Answer(account, fault=_FAULTS.get(str(reason), "close"), latency=latency)
    about = fault if fault in _OF_THE_REQUEST | _OF_THE_MODEL | {Fault.BLOCKED} else None
    return Answer(account, status=status, reason=reason, delay=delay, about=about, latency=latency)


# -- Reading -----------------------------------------------------------------------------------------


def read_requests(connection: sqlite3.Connection, since: float, until: float) -> tuple[list[Logged], int]:
    """
    Read the calls of models that came in a time, and count what else did and is left out.

    That are resources, sessions and interactions, calls that plugins made, and what was refused for what it was.
    """
    rows = connection.execute(
        "SELECT * FROM requests WHERE started >= ? AND started < ? ORDER BY started", (since, until)
    )
    found: dict[str, Logged] = {}
    left_out = 0
    for row in map(dict, rows):
        logged = Logged(row, json.loads(row["timeline"]))
        if _can_be_replayed(logged) and logged.name not in found:
            found[logged.name] = logged
        else:
            left_out += 1
    return list(found.values()), left_out


def _can_be_replayed(logged: Logged) -> bool:
    row = logged.row
    if row["method"] not in METHODS or row.get("parent") is not None or row["framing"] == "live":
        return False
    if logged.refused and row["reason"] not in POLICY:
        return False
    try:
        parse_call(f"/v1beta/models/{quote_model(row['asked_model'])}:{row['method']}".encode("ascii"))
    except (GatewayError, ValueError):
        return False
    return bool(re.fullmatch(r"[A-Za-z0-9_.-]{1,80}", logged.name))


# -- The whole ---------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Tried:
    """What came of a policy: each request as it was, and as it would have been."""

    requests: Sequence[Logged]
    left_out: int
    records: Mapping[str, RequestRecord]
    errors: Mapping[str, GatewayError]
    waited: float

    def document(self) -> dict[str, Any]:
        """As JSON; docs/replay.md describes it."""
        pairs = [(it, self.records[it.name]) for it in self.requests]
        refused = [self._refusal(it) for it, record in pairs if self._is_refused(record)]
        models: Counter[tuple[str, str]] = Counter(
            (it.row["model"], record.request.model)
            for it, record in pairs
            if it.served and record.outcome != "error" and it.row["model"] != record.request.model
        )
        recorded_by = Counter(it.row["account"] for it, _ in pairs if it.served and it.row["account"] is not None)
        replayed_by = Counter(record.account for _, record in pairs if record.outcome != "error" and record.account)
        was_unpriced = sum(
            it.served and it.row["account"] is not None and it.row.get("cost") is None for it, _ in pairs
        )
        unpriced = sum(record.outcome != "error" and record.cost is None for _, record in pairs)
        return {
            "requests": len(pairs),
            "left_out": self.left_out,
            "from": pairs[0][0].row["started"],
            "until": pairs[-1][0].row["started"],
            "recorded": {
                "served": sum(it.served for it, _ in pairs),
                "refused": sum(it.refused for it, _ in pairs),
                "failed": sum(not it.served and not it.refused for it, _ in pairs),
                "attempts": sum(len(it.timeline) for it, _ in pairs),
                "cost": known(round(sum(it.row.get("cost") or 0.0 for it, _ in pairs), 6), was_unpriced),
                "unpriced": was_unpriced,
            },
            "replayed": {
                "served": sum(record.outcome != "error" for _, record in pairs),
                "refused": len(refused),
                "failed": sum(record.outcome == "error" and not self._is_refused(record) for _, record in pairs),
                "attempts": sum(len(record.attempts) for _, record in pairs),
                "cost": known(round(sum(record.cost or 0.0 for _, record in pairs), 6), unpriced),
                "unpriced": unpriced,
                "waited": round(self.waited, 3),
            },
            "refused": refused,
            "failed": [
                self._refusal(it)
                for it, record in pairs
                if it.served and record.outcome == "error" and not self._is_refused(record)
            ],
            "served": [
                {**_described(it), "account": record.account}
                for it, record in pairs
                if not it.served and record.outcome != "error"
            ],
            "models": [
                {"recorded": was, "replayed": is_, "requests": count} for (was, is_), count in models.most_common()
            ],
            "accounts": {
                name: {"recorded": recorded_by[name], "replayed": replayed_by[name]}
                for name in sorted(recorded_by | replayed_by)
            },
        }

    def _is_refused(self, record: RequestRecord) -> bool:
        return record.outcome == "error" and not record.attempts

    def _refusal(self, logged: Logged) -> dict[str, Any]:
        record, error = self.records[logged.name], self.errors.get(logged.name)
        last = record.attempts[-1].verdict if record.attempts else None
        violations = [it["violations"][0]["quotaId"] for it in getattr(error, "details", ()) if "violations" in it]
        reason = error.error_reason if error is not None else last.reason if last is not None else None
        return {
            **_described(logged),
            "reason": reason,
            "limit": violations[0] if violations else None,
            "would_be": record.status,
        }


def _described(logged: Logged) -> dict[str, Any]:
    row = logged.row
    return {
        "request": logged.name,
        "at": row["started"],
        "client_key": row["client_key"],
        "model": row["asked_model"],
        "was": {"status": row["status"], "outcome": row["outcome"], "account": row["account"], "reason": row["reason"]},
    }


def replay_log(connection: sqlite3.Connection, config: Config, since: float, until: float) -> Tried:
    """
    Try a policy on the requests of a log that came in a time, in seconds since the epoch.

    :param config: with stand-ins in place of credentials, as :func:`agm.diagnose.recording.config_for` makes it.
    :raises NothingToReplay: if there is none.
    """
    requests, left_out = read_requests(connection, since, until)
    if not requests:
        others = f"; {left_out} others are no calls of a model" if left_out else ""
        raise NothingToReplay(f"there is no request to replay in this time{others}")
    epoch = requests[0].row["started"]
    recording = Recording(
        Head(1),
        tuple(
            Request(
                it.name,
                it.row["asked_model"],
                it.row["started"] - epoch,
                it.row["method"],
                key=it.row["client_key"],
            )
            for it in requests
        ),
        (),
    )
    replay = Replay(recording, config, answers=LoggedAnswers(requests, epoch), epoch=epoch)
    _go_on(replay, connection, epoch)
    found = replay.run()
    waited = sum(event.fields["waited"] for event in found.events if "waited" in event.fields)
    return Tried(requests, left_out, replay.records, replay.errors, waited)


def _go_on(replay: Replay, connection: sqlite3.Connection, at: float) -> None:
    """Let limits and budgets begin with what was used of the day and the month before."""
    gateway = replay.gateway
    today = begins("day", at)
    rows = connection.execute(
        "SELECT client_key, count(*), total(total_tokens) FROM requests WHERE started >= ? AND started < ? "
        "AND client_key IS NOT NULL AND reason IS NOT 'CLIENT_KEY_LIMIT' GROUP BY 1",
        (today, at),
    )
    gateway.clients.allowances.load(int(at // DAY), ((row[0], (row[1], int(row[2]))) for row in rows))
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(requests)")}
    if "cost" not in columns:
        return
    spent: dict[str, dict[str, Sums]] = defaultdict(lambda: defaultdict(Sums))
    for row in connection.execute(
        "SELECT client_key, account, started >= ?, count(*), total(total_tokens), total(cost), total(cost IS NULL), "
        "min(started) FROM requests WHERE started >= ? AND started < ? AND account IS NOT NULL AND outcome != 'error' "
        "GROUP BY 1, 2, 3",
        (today, begins("month", at), at),
    ):
        key, account, is_today, count, tokens, cost, unpriced, since = row
        sums = Sums(count, int(tokens), cost, int(unpriced), since)
        team = next((it.team for it in gateway.clients.client_keys if it.name == key), None)
        for name in (f"account:{account}", key and f"key:{key}", team and f"team:{team}"):
            if name:
                spent[name][period("month", at)].add(sums)
                if is_today:
                    spent[name][period("day", at)].add(sums)
    gateway.money.spending.load(spent)
    gateway.money.budgets.take_note()
    gateway.money.hold_accounts()

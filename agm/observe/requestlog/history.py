"""
What the request log says of a stretch of time, for the dashboard: counts over time, how long accounts and keys took.

Synchronous, as :mod:`agm.observe.requestlog.store` is: the gateway asks in a thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MOST_STEPS", "described", "history"]

#: Steps that a stretch may be cut into.
MOST_STEPS = 1000
#: Requests whose durations are looked at, the latest: percentiles of more would keep the log's thread for seconds.
MOST_DURATIONS = 100_000
#: Accounts and keys that are told of, those with the most requests.
MOST_GROUPS = 100


def history(connection: sqlite3.Connection, since: float, until: float, steps: int) -> dict[str, Any]:
    """
    Sum up the requests of a stretch of time, step by step and by account and client key.

    :param since: seconds since the epoch; so is `until`.
    :param steps: how many parts the time is cut into.
    :returns: ``since``, ``until``, the seconds of a ``step``, a list each of ``requests``, ``errors``,
        ``prompt_tokens``, ``output_tokens``, ``p50`` and ``p95`` (seconds that requests took; None where there are
        none), and ``accounts`` and ``keys`` with their numbers and percentiles.
    """
    step = (until - since) / steps
    counts: dict[str, list[int]] = {
        name: [0] * steps for name in ("requests", "errors", "prompt_tokens", "output_tokens")
    }
    rows = connection.execute(
        "SELECT min(CAST((started - ?) / ? AS INTEGER), ?), count(*), total(outcome IN ('error', 'aborted')), "
        "total(prompt_tokens) + total(tool_tokens), total(output_tokens) + total(thought_tokens) "
        "FROM requests WHERE started >= ? AND started < ? GROUP BY 1",
        (since, step, steps - 1, since, until),
    )
    for at, *values in rows:
        for name, value in zip(counts, values, strict=True):
            counts[name][at] = int(value)
    durations: list[list[float]] = [[] for _ in range(steps)]
    accounts: dict[str | None, _Group] = {}
    keys: dict[str | None, _Group] = {}
    for started, account, key, outcome, first_byte, duration in connection.execute(
        "SELECT started, account, client_key, outcome, first_byte, duration FROM requests "
        "WHERE started >= ? AND started < ? ORDER BY started DESC LIMIT ?",
        (since, until, MOST_DURATIONS),
    ):
        if outcome == "ok":
            durations[min(int((started - since) / step), steps - 1)].append(duration)
        for groups, name in ((accounts, account), (keys, key)):
            groups.setdefault(name, _Group()).add(outcome, first_byte, duration)
    percentiles = [_percentiles(each) for each in durations]
    return {
        "since": since,
        "until": until,
        "step": step,
        **counts,
        "p50": [low for low, _ in percentiles],
        "p95": [high for _, high in percentiles],
        "accounts": _listed({name: group for name, group in accounts.items() if name is not None}),
        "keys": _listed(keys),
    }


class _Group:
    """The requests of an account or a key."""

    __slots__ = ("_durations", "_errors", "_first_bytes", "requests")

    def __init__(self) -> None:
        self.requests = self._errors = 0
        self._durations: list[float] = []
        self._first_bytes: list[float] = []

    def add(self, outcome: str, first_byte: float | None, duration: float) -> None:
        """Count one; how long those took that were answered in full."""
        self.requests += 1
        self._errors += outcome in ("error", "aborted")
        if outcome == "ok":
            self._durations.append(duration)
            if first_byte is not None:
                self._first_bytes.append(first_byte)

    def describe(self, name: str | None) -> dict[str, Any]:
        """As a JSON document."""
        (low, high), (first_low, first_high) = _percentiles(self._durations), _percentiles(self._first_bytes)
        return {
            "name": name,
            "requests": self.requests,
            "errors": self._errors,
            "p50": low,
            "p95": high,
            "first_byte_p50": first_low,
            "first_byte_p95": first_high,
        }


def _listed(groups: Mapping[str | None, _Group]) -> list[dict[str, Any]]:
    busiest = sorted(groups.items(), key=lambda pair: (-pair[1].requests, pair[0] or ""))[:MOST_GROUPS]
    return [group.describe(name) for name, group in busiest]


def _percentiles(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the median and the 95th percentile, by the nearest rank; None of nothing."""
    if not values:
        return None, None
    ordered = sorted(values)
    return ordered[_rank(50, len(ordered))], ordered[_rank(95, len(ordered))]


def _rank(percent: int, count: int) -> int:
    return -(-percent * count // 100) - 1


def described(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the log in the form of a request of ``/_agm/status``; what the log does not have is null."""
    told = row["total_tokens"] is not None
    return {
        "id": row["request"],
        "parent": row.get("parent"),
        "at": row["started"],
        "client_key": row["client_key"],
        "client": row["client"],
        "method": row["method"],
        "framing": row["framing"],
        "dialect": row.get("dialect"),
        "asked": row["asked_model"],
        "served": row["model"],
        "status": row["status"],
        "outcome": row["outcome"],
        "account": row["account"],
        "first_byte": row["first_byte"],
        "seconds": row["duration"],
        "sent": row["bytes_out"],
        "prompt_tokens": row["prompt_tokens"] + row["tool_tokens"] if told else None,
        "output_tokens": row["output_tokens"] + row["thought_tokens"] if told else None,
        "cost": row.get("cost"),
        "team": row.get("team"),
        "finish_reason": row["finish_reason"],
        "reason": row["reason"],
        "message": row["message"],
        "attempts": [_attempt(number, each, row["model"]) for number, each in enumerate(row["timeline"], 1)],
        "stopped": row["stopped"],
        "accounts_left": None,
        "attempts_left": None,
    }


def _attempt(number: int, tried: Mapping[str, Any], model: str) -> dict[str, Any]:
    return {
        "number": number,
        "account": tried["account"],
        "endpoint": tried["endpoint"],
        "model": tried.get("model") or model,
        "chosen": tried["chosen"],
        "probe": tried.get("probe", False),
        "after": tried["after_ms"] / 1000,
        "first_byte": None,
        "seconds": tried["ms"] / 1000,
        "status": tried.get("status"),
        "fault": tried.get("fault"),
        "reason": tried.get("reason"),
        "delay": tried.get("delay"),
        "message": tried.get("message", ""),
    }

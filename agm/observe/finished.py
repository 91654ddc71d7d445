"""A request that has ended, as it is shown to people: its JSON document, and why nothing more was tried for it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from agm.core.classify import Fault
from agm.core.request import AttemptRecord
from agm.core.wire.answer_filters import Framing
from agm.core.wire.usage import Usage

#: A text of a client's is shown up to this many characters.
MAX_TEXT = 200
MAX_MESSAGE = 500
#: Reasons of failed attempts after which no upstream can have acted on the request.
_NOT_SENT = frozenset(
    {
        "CONNECT_FAILED",
        "CONNECT_TIMEOUT",
        "DNS_FAILED",
        "PROXY_FAILED",
        "TLS_FAILED",
        "PROTOCOL_ERROR",
        "CREDENTIAL_UNAVAILABLE",
        "NO_PROJECT",
    }
)


class Finished(msgspec.Struct, frozen=True):
    """A request that has ended; see :class:`agm.core.request.RequestRecord`.  Its body is not kept."""

    id: str
    at: float
    client_key: str | None
    client: str
    method: str
    framing: Framing
    asked: str
    served: str
    status: int
    outcome: str
    first_byte: float | None
    seconds: float
    sent: int
    attempts: tuple[AttemptRecord, ...]
    usage: Usage | None
    finish_reason: str | None
    #: The gateway's own error that ended it.
    reason: str | None
    message: str | None
    #: The account whose answer the client got.
    account: str | None
    #: Bytes of the request's body.
    received: int
    #: Of a request that failed: how many accounts were ready and not asked; the most attempts that it could have had.
    ready: int
    most: int
    #: The id of the request for which a plugin made this one.
    parent: str | None = None
    #: The team of the client's key.
    team: str | None = None
    #: In US dollars; None where it is not known, or nothing was used.
    cost: float | None = None
    #: The dialect that its client speaks; None for Google's own API.
    dialect: str | None = None


def tokens_of(usage: Usage) -> tuple[int, int]:
    """Return the tokens of the prompt with what tools put there, and of the answer with its thoughts."""
    return usage.prompt + usage.tool, usage.output + usage.thoughts


def describe_finished(one: Finished) -> dict[str, Any]:
    """Return a request that has ended, as a JSON document."""
    served_by = next((a.account for a in reversed(one.attempts) if a.verdict is None), None)
    prompt, output = (None, None) if one.usage is None else tokens_of(one.usage)
    return {
        "id": one.id,
        "parent": one.parent,
        "dialect": one.dialect,
        "at": round(one.at, 3),
        "client_key": one.client_key,
        "client": one.client,
        "method": one.method,
        "framing": one.framing.value,
        "asked": one.asked,
        "served": one.served,
        "status": one.status,
        "outcome": one.outcome,
        "account": served_by,
        "first_byte": None if one.first_byte is None else round(one.first_byte, 4),
        "seconds": round(one.seconds, 4),
        "sent": one.sent,
        "prompt_tokens": prompt,
        "output_tokens": output,
        "cost": one.cost,
        "team": one.team,
        "finish_reason": one.finish_reason,
        "reason": one.reason,
        "message": one.message,
        "attempts": [describe_attempt(record, one.at) for record in one.attempts],
        "stopped": why_stopped(one),
        "accounts_left": one.ready,
        "attempts_left": max(one.most - len(one.attempts), 0),
    }


def describe_attempt(record: AttemptRecord, began: float) -> dict[str, Any]:
    """Return an attempt of a request that began at `began`, in seconds since the epoch, as a JSON document."""
    verdict = record.verdict
    return {
        "number": record.number,
        "account": record.account,
        "endpoint": record.endpoint,
        "model": record.model[:MAX_TEXT],
        "chosen": record.chosen,
        "probe": record.probe,
        "after": max(round(record.started - began, 4), 0.0),
        "first_byte": None if record.first_byte is None else round(record.first_byte, 4),
        "seconds": round(record.ended, 4),
        "status": record.status,
        "fault": None if verdict is None else verdict.fault.value,
        "reason": None if verdict is None else verdict.reason,
        "delay": None if verdict is None else verdict.delay,
        "message": record.message,
    }


def why_stopped(one: Finished) -> str:
    """Explain in a sentence why there was no further attempt."""
    if one.outcome == "ok":
        return "It was answered."
    if one.outcome == "aborted":
        return "The answer was aborted after its first byte had gone out; after that there is no retry."
    if one.outcome == "cancelled":
        return "The client left."
    last = one.attempts[-1] if one.attempts else None
    if last is None:
        return "The gateway refused it before any upstream was asked."
    verdict = last.verdict
    if verdict is None:
        return "The gateway failed after an upstream had answered."
    if verdict.fault is Fault.FINAL:
        return "The upstream's answer is about the request itself; no other account would answer otherwise."
    if verdict.fault is Fault.ENDPOINT and last.status is None and verdict.reason not in _NOT_SENT:
        return "The upstream may have acted on it already; it is not sent twice."
    if len(one.attempts) >= one.most:
        return f"[pool] max_attempts was reached, {one.most}."
    if verdict.fault is Fault.CAPACITY and _count(one.attempts, Fault.CAPACITY) > 1:
        return "Two attempts found that the model has no capacity, which holds for every account."
    return "No other account could serve it in time."


def _count(attempts: Collection[AttemptRecord], fault: Fault) -> int:
    return sum(1 for attempt in attempts if attempt.verdict is not None and attempt.verdict.fault is fault)

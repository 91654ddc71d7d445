"""A request that has ended, as rows of the request log, without secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

import attrs
import msgspec

from agm.core.request import AttemptRecord
from agm.core.wire.answer_filters import Framing
from agm.observe.finished import Finished, why_stopped

_NO_TOKENS = (None,) * 6
_FRAMINGS = {framing: framing.value for framing in Framing}


@attrs.frozen
class KeptBodies:
    """What is kept of a request's body and of its answer's, with their whole sizes."""

    request: bytes
    request_size: int
    answer: bytes | None
    answer_size: int | None

    def __len__(self) -> int:
        return len(self.request) + len(self.answer or b"")


def plain_rows(
    rows: list[tuple[object, ...]], batch: Sequence[Finished], redact: Callable[[str], str]
) -> list[tuple[object, ...]]:
    """The rows of a batch without secrets.  As good as never there is one, so all texts are looked through together."""
    texts: set[str] = set()
    for one in batch:
        texts.update(_texts(one))
    joined = "\x1f".join(texts)
    if redact(joined) == joined:
        return rows
    return [row_of(one, redact) for one in batch]


def _texts(one: Finished) -> Iterator[str]:
    """Return the texts of a row that others have written."""
    yield one.client
    yield one.asked
    yield one.served
    if one.message:
        yield one.message
    for attempt in one.attempts:
        if attempt.message:
            yield attempt.message


def row_of(one: Finished, redact: Callable[[str], str] = str) -> tuple[object, ...]:
    """Return a request as a row: values in the order of :data:`agm.observe.requestlog.store.COLUMNS`."""
    usage, last = one.usage, one.attempts[-1].verdict if one.attempts else None
    tokens = (
        _NO_TOKENS
        if usage is None
        else (usage.prompt, usage.output, usage.cached, usage.thoughts, usage.tool, usage.total)
    )
    timeline = [_attempt(attempt, one, redact) for attempt in one.attempts]
    return (
        one.id,
        round(one.at, 3),
        one.client_key,
        redact(one.client),
        one.method,
        _FRAMINGS[one.framing],
        redact(one.asked),
        redact(one.served),
        one.account,
        len(one.attempts),
        one.status,
        one.outcome,
        one.reason or (last.reason if last is not None else None),
        redact(one.message) if one.message else None,
        None if one.outcome == "ok" else why_stopped(one),
        one.received,
        one.sent,
        *tokens,
        None if one.first_byte is None else round(one.first_byte, 4),
        round(one.seconds, 4),
        one.finish_reason,
        _encode(timeline).decode(),
        one.parent,
        one.cost,
        one.team,
        one.dialect,
    )


class _Tried(msgspec.Struct, omit_defaults=True):
    """An attempt in the timeline, without what is not there; `account` comes first: the log is searched for it."""

    account: str
    endpoint: str
    chosen: str
    after_ms: int
    ms: int
    status: int | None = None
    fault: str | None = None
    reason: str | None = None
    delay: float | None = None
    message: str = ""
    probe: bool = False
    model: str | None = None


_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=256)
def _host(endpoint: str) -> str:
    return urlsplit(endpoint).netloc.rpartition("@")[2]


def _attempt(record: AttemptRecord, one: Finished, redact: Callable[[str], str]) -> _Tried:
    verdict = record.verdict
    return _Tried(
        record.account,
        _host(record.endpoint),
        record.chosen,
        max(round((record.started - one.at) * 1000), 0),
        round(record.ended * 1000),
        record.status,
        None if verdict is None else verdict.fault.value,
        None if verdict is None else verdict.reason,
        None if verdict is None else verdict.delay,
        redact(record.message),
        record.probe,
        None if record.model == one.served else redact(record.model),  # there was a fallback
    )


def body_row(one: Finished, bodies: KeptBodies, redact: Callable[[str], str]) -> tuple[object, ...]:
    """Return what is kept of a request's bodies as a row of the table ``bodies``."""

    def plain(body: bytes) -> bytes:
        return redact(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    answer = None if bodies.answer is None else plain(bodies.answer)
    return (one.id, round(one.at, 3), plain(bodies.request), bodies.request_size, answer, bodies.answer_size)

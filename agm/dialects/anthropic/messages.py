"""``POST /v1/messages``, streaming or not, and ``/v1/messages/count_tokens``."""

from __future__ import annotations

import msgspec

from agm.api import NOT_JSON, Visit
from agm.dialects.anthropic.answer import Stream, message
from agm.dialects.anthropic.request import read_count, read_request
from agm.dialects.base import Dialect, unreadable

__all__ = ["answer", "count"]


async def answer(dialect: Dialect, visit: Visit) -> None:
    """Answer with a message, or its events as they come."""
    asked = read_request(visit.wire.body)
    answer = await dialect.call(visit, asked.call)
    if asked.stream:
        stream = Stream(asked.call.model, visit.id, thinks=asked.thinks, one_call=asked.one_call)
        await dialect.stream(visit, answer, stream)
        return
    document = await answer.read()
    try:
        made = message(document, asked.call.model, thinks=asked.thinks, one_call=asked.one_call)
    except (*NOT_JSON, msgspec.ValidationError) as e:
        raise unreadable(e) from e
    dialect.send(visit, answer, made)


async def count(dialect: Dialect, visit: Visit) -> None:
    """Answer with the number of tokens, as the upstream counts them."""
    answer = await dialect.call(visit, read_count(visit.wire.body))
    found = await answer.json()
    total = found.get("totalTokens", 0)
    dialect.send(visit, answer, msgspec.json.encode({"input_tokens": total}))

"""What a dialect's plugin makes of a request of its client: a call of one of Google's models."""

from __future__ import annotations

from collections.abc import Callable

import attrs

#: What settles the part of a body that depends on the model that serves: the body and that model in, the body out.
ForModel = Callable[[bytes, str], bytes]


@attrs.frozen(slots=False)
class TranslatedCall:
    """
    A request of a dialect as a call of a model: what ``gateway.call`` takes.

    `model` is what the client wrote, `method` Google's (``streamGenerateContent``), `body` the document as JSON.
    `left_out` says what of the request the call does not say, with its place: no more than what is meant to guide a
    model, as a keyword of a schema; all else is refused.
    """

    model: str
    method: str
    body: bytes = attrs.field(repr=False)
    #: What a model takes in another form than the others; None for nothing.
    for_model: ForModel | None = None
    left_out: tuple[str, ...] = ()

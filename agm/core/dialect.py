"""What a dialect's plugin makes of a request of its client: a call of one of Google's models."""

from __future__ import annotations

import attrs


@attrs.frozen(slots=False)
class TranslatedCall:
    """
    A request of a dialect as a call of a model: what ``gateway.call`` takes.

    `model` is what the client wrote, `method` Google's (``streamGenerateContent``), `body` the document as JSON.
    """

    model: str
    method: str
    body: bytes = attrs.field(repr=False)

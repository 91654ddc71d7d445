"""Calls as the gateway hands them on, made without a client: for what is measured inside of one process."""

from __future__ import annotations

import msgspec

from agm.core.request import Body, GatewayRequest
from agm.core.wire.answer_filters import Framing


def call(text: str = "Hello") -> GatewayRequest:
    """Make a unary call with one question."""
    document = {"contents": [{"role": "user", "parts": [{"text": text}]}]}
    return GatewayRequest(
        id="0123456789abcdef",
        path="/v1beta/models/gemini-2.5-flash:generateContent",
        version="v1beta",
        method="generateContent",
        asked_model="gemini-2.5-flash",
        model="gemini-2.5-flash",
        framing=Framing.UNARY,
        query={},
        headers={},
        client_key=None,
        received_at=1_800_000_000.0,
        body=Body(msgspec.json.encode(document)),
        upstream_framing=Framing.UNARY,
        explaining=False,
    )

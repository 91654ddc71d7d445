"""What hooks receive: bodies that are parsed once and show nothing, values that do not change."""

from __future__ import annotations

import attrs
import pytest

from agm.core.errors import InvalidRequest
from agm.core.fingerprint import fingerprint
from agm.core.request import Account, Body, GatewayRequest, UpstreamRequest
from agm.core.wire.answer_filters import Framing
from agm.core.wire.bytechain import ByteChain

RAW = b'{"contents": [{"parts": [{"text": "a secret"}]}]}'


def test_a_body_is_parsed_when_somebody_looks_and_once() -> None:
    """Every plugin gets the same document."""
    body = Body(RAW)
    assert body.parses == 0
    document = body.json()
    assert document == {"contents": [{"parts": [{"text": "a secret"}]}]}
    assert body.json() is document
    assert body.parses == 1
    assert body.raw is RAW


def test_a_fingerprint_is_taken_once() -> None:
    """Whether there is one or not."""
    for raw in (RAW, b"{}", b"no JSON"):
        body = Body(raw)
        assert body.fingerprint == body.fingerprint == fingerprint(raw)
        assert body.parses == 1


def test_a_body_does_not_show_its_text() -> None:
    """It may be in a traceback, by itself or in a request."""
    body = Body(RAW)
    body.json()
    assert repr(body) == str(body) == "<Body of 49 bytes>"
    request = GatewayRequest(
        id="1",
        path="/v1beta/models/m:generateContent",
        version="v1beta",
        method="generateContent",
        asked_model="m",
        model="m",
        framing=Framing.UNARY,
        query={},
        headers={},
        client_key=None,
        received_at=0.0,
        body=body,
        upstream_framing=Framing.UNARY,
    )
    assert "secret" not in repr(request)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"a":1e400}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800 "}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_object_is_the_clients_fault(raw: bytes) -> None:
    """A 400 in Google's words, each time somebody looks; its bytes can still be passed on."""
    body = Body(raw)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=r"^Invalid JSON payload received\. "):
            body.json()
    assert body.raw == raw


def test_values_cannot_be_changed_by_a_plugin() -> None:
    """They are the same for all plugins and for the whole of a request."""
    account = Account("a", "api-key", ("https://x",))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        account.name = "b"  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        UpstreamRequest("/", (), b"", Framing.SSE).body = b"x"  # type: ignore[misc]


def test_a_body_in_pieces_is_whole_to_whoever_looks() -> None:
    """Plugins see bytes; only what sends it need not join it."""
    spliced = UpstreamRequest("/", (), ByteChain(b"{", memoryview(b'"a":1'), b"}"), Framing.UNARY)
    plain = UpstreamRequest("/", (), b'{"a":1}', Framing.UNARY)
    assert spliced.body == plain.body == b'{"a":1}'
    assert spliced == plain
    assert attrs.evolve(spliced, body=b"other").body == b"other"
    assert attrs.evolve(spliced, path="/x").body == plain.body
    assert '"a"' not in repr(spliced.content)


def test_an_account_may_serve_every_model_unless_told() -> None:
    """And each account's defaults are its own."""
    account = Account("a", "vertex", ())
    assert "anything" in account.models
    assert account.models is not Account("b", "vertex", ()).models

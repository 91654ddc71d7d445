"""Every hook meets a request of a dialect as it meets Google's own, on every kind of account, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from agm.testing import GatewayFactory
from tests.helpers.support import AnsweringUpstream, account, eventually
from tests.plugins.test_every_route import Recorder, answer, documented

MESSAGES = [{"role": "user", "content": "hi"}]
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "gemini-m", "messages": MESSAGES},
    "/v1/responses": {"model": "gemini-m", "input": "hi"},
    "/v1/messages": {"model": "gemini-m", "max_tokens": 9, "messages": MESSAGES},
}


@pytest.mark.parametrize("kind", ["api-key", "vertex", "code-assist"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ROUTES)
@pytest_twisted.ensureDeferred
async def test_the_hooks_meet_a_request(gateway: GatewayFactory, kind: str, path: str, stream: bool) -> None:
    """And what they return is in what goes out and in the record, with the account told."""
    upstream, recorder = AnsweringUpstream(answer), Recorder()
    running = await gateway(account(upstream, kind), plugins=[recorder])
    body = json.dumps({**ROUTES[path], "stream": stream}).encode()
    answered = await running.fetch("POST", path, body=body)
    assert answered.status == 200, answered.body
    await eventually(lambda: "agm_request_finished" in recorder.called, "the record")
    method = "streamGenerateContent" if stream else "generateContent"
    assert recorder.called == documented()["`generateContent`"]
    assert recorder.methods == {method}
    assert recorder.accounts == {"a"}
    assert (answered.headers["x-mine"], answered.headers["x-kept"]) == ("yes", "yes")
    assert b"hello" in answered.body
    request = recorder.record.request
    assert (request.path, request.dialect) == (path, "anthropic" if path.endswith("messages") else "openai")
    assert b'"answered"' in recorder.record.answer
    (asked,) = upstream.asked
    assert b'"edited"' in asked.body
    await upstream.stop()

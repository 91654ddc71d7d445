"""The example that takes personal data out of prompts."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
import redactor

from agm.testing import GatewayFactory, RunningEmulator
from tests.helpers.support import AnsweringUpstream, account

ADDRESS = "ada@example.org"


@pytest.mark.parametrize("kind", ["api-key", "code-assist"])
@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent"])
@pytest_twisted.ensureDeferred
async def test_what_was_found_does_not_leave_the_machine(
    gateway: GatewayFactory, emulator: RunningEmulator, lines: list[str], kind: str, method: str
) -> None:
    """The log has the number of finds, and none of them."""
    running = await gateway(emulator.account(kind=kind), plugins=[redactor])
    answer = await running.ask(text=f"Write to {ADDRESS} or bob@example.org", method=method)
    assert answer.status == 200
    assert "[EMAIL] or [EMAIL]" in emulator.log[0].body.decode()
    assert ADDRESS not in emulator.log[0].body.decode()
    assert any(line.endswith(": redacted 2 EMAIL") for line in lines)
    assert not any(ADDRESS in line for line in lines)


@pytest_twisted.ensureDeferred
async def test_functions_are_looked_through_and_media_are_not(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(emulator.account(), plugins=[redactor])
    media = "4111111111111111"  # would pass for a card, and is base64
    contents = [
        {
            "role": "user",
            "parts": [{"text": "4111 1111 1111 1111"}, {"inlineData": {"mimeType": "x/y", "data": media}}],
        },
        {"role": "model", "parts": [{"functionCall": {"name": "mail", "args": {"to": [ADDRESS]}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "mail", "response": {"from": ADDRESS}}}]},
    ]
    assert (await running.ask(body={"contents": contents})).status == 200
    first, second, third = emulator.documents[0]["contents"]
    assert first["parts"] == [{"text": "[CARD]"}, {"inlineData": {"mimeType": "x/y", "data": media}}]
    assert second["parts"][0]["functionCall"]["args"] == {"to": ["[EMAIL]"]}
    assert third["parts"][0]["functionResponse"]["response"] == {"from": "[EMAIL]"}


@pytest_twisted.ensureDeferred
async def test_a_pattern_of_ones_own_is_added(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(
        emulator.account() + "[plugins.redactor.patterns]\nSTAFF = 'E-\\d{6}'\n", plugins=[redactor]
    )
    await running.ask(text="Ask E-123456 about DE89 3704 0044 0532 0130 00.")
    assert emulator.documents[0]["contents"][0]["parts"] == [{"text": "Ask [STAFF] about [IBAN]."}]


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_pattern_that_is_none_ends_the_start(gateway: GatewayFactory) -> None:
    with pytest.raises(SystemExit, match="agm_configure of plugin redactor failed"):
        await gateway("[plugins.redactor.patterns]\nBAD = '('\n", plugins=[redactor])


@pytest_twisted.ensureDeferred
async def test_an_explanation_shows_the_edited_body_and_logs_nothing(
    gateway: GatewayFactory, emulator: RunningEmulator, lines: list[str]
) -> None:
    running = await gateway(emulator.account(), plugins=[redactor])
    explained = await running.explain(body={"contents": [{"parts": [{"text": ADDRESS}]}]})
    assert explained["edited_by"] == ["redactor"]
    assert explained["upstream"]["body"]["contents"] == [{"parts": [{"text": "[EMAIL]"}]}]
    assert not any("redacted" in line for line in lines)


#: By what they are: method, path, the document with an address in it, and headers.
ROUTES = {
    "a call": ("POST", "/v1beta/models/m:generateContent", {"contents": [{"parts": [{"text": ADDRESS}]}]}),
    "a text to embed": ("POST", "/v1beta/models/m:embedContent", {"content": {"parts": [{"text": ADDRESS}]}}),
    "texts of predict": ("POST", "/v1beta/models/m:predict", {"instances": [{"content": ADDRESS}]}),
    "a batch": (
        "POST",
        "/v1beta/models/m:batchGenerateContent",
        {
            "batch": {
                "displayName": ADDRESS,
                "inputConfig": {
                    "requests": {"requests": [{"request": {"contents": [{"parts": [{"text": ADDRESS}]}]}}]}
                },
            }
        },
    ),
    "a cached content": (
        "POST",
        "/v1beta/cachedContents",
        {"model": "models/m", "systemInstruction": {"parts": [{"text": ADDRESS}]}},
    ),
    "an interaction": ("POST", "/v1beta/interactions", {"model": "m", "input": ADDRESS, "system_instruction": ADDRESS}),
    "OpenAI's chat": (
        "POST",
        "/v1beta/openai/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": ADDRESS}]},
    ),
    "Vertex AI's path": (
        "POST",
        "/v1/projects/p/locations/global/publishers/google/models/m:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": ADDRESS}]}]},
    ),
    "a store": ("POST", "/v1beta/fileSearchStores", {"displayName": f"of {ADDRESS}"}),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest_twisted.ensureDeferred
async def test_it_holds_on_every_route(gateway: GatewayFactory, route: str) -> None:
    upstream = AnsweringUpstream(lambda asked: (200, {}))
    running = await gateway(account(upstream), plugins=[redactor])
    method, path, document = ROUTES[route]
    answer = await running.fetch(method, path, body=json.dumps(document).encode())
    assert answer.status == 200, answer.body
    (asked,) = upstream.asked
    assert ADDRESS not in asked.body.decode()
    assert "[EMAIL]" in asked.body.decode()
    await upstream.stop()


@pytest.mark.parametrize("query", ["?uploadType=media", "?uploadType=resumable"])
@pytest_twisted.ensureDeferred
async def test_what_it_cannot_look_through_does_not_leave_the_machine(gateway: GatewayFactory, query: str) -> None:
    upstream = AnsweringUpstream(lambda asked: (200, {}))
    running = await gateway(account(upstream), plugins=[redactor])
    answer = await running.fetch("POST", f"/upload/v1beta/files{query}", body=ADDRESS.encode())
    assert answer.status == 501
    assert "plugin redactor" in answer.json["error"]["message"]
    assert upstream.asked == []
    await upstream.stop()

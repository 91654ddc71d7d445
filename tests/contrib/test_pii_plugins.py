"""Personal data goes to no upstream on any route, and where answers are redacted it comes to no client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from agm.api import Framing
from agm.contrib import openai_upstream
from agm.contrib.pii_answers import PiiAnswers
from agm.contrib.pii_redactor import PiiRedactor
from agm.testing import GatewayFactory, build_request, check_plugin
from tests.helpers.support import AnsweringUpstream, Asked, ScriptedUpstream, account, eventually
from tests.helpers.websockets import accept, open_socket
from tests.plugins.test_every_route import KINDS, ROUTES, answer

ADDRESS = "ada@example.com"
HIDDEN = ADDRESS.replace("@", "\\u0040")
#: What is in no body that the gateway could show to a plugin.
REFUSED = ("`files.upload`, its beginning", "`files.upload`, its bytes")


@pytest_twisted.async_yield_fixture
async def upstream() -> AsyncIterator[AnsweringUpstream]:
    answering = AnsweringUpstream(answer)
    yield answering
    await answering.stop()


def with_address(document: Any) -> Any:
    """The same with an address in each text that is no name of a model or of a thing, and beside them."""
    if isinstance(document, dict):
        fixed = ("model", "ttl", "role")
        changed = {k: v if k in fixed else with_address(v) for k, v in document.items()}
        return {**changed, "labels": {"of": ADDRESS}}
    if isinstance(document, list):
        return [with_address(each) for each in document]
    return f"{document} {ADDRESS}" if isinstance(document, str) else document


@pytest.mark.parametrize(("kind", "route"), [(kind, route) for kind, routes in KINDS.items() for route in routes])
@pytest_twisted.ensureDeferred
async def test_nothing_of_a_request_goes_out_on_any_route(
    gateway: GatewayFactory, upstream: AnsweringUpstream, lines: list[str], kind: str, route: str
) -> None:
    """In clear, and where JSON's escapes hide it."""
    running = await gateway(account(upstream, kind), plugins=[openai_upstream, PiiRedactor()])
    method, path, body, headers = ROUTES[route]
    sent = body
    if isinstance(body, dict):
        text = json.dumps(with_address(body))
        sent = text.replace(ADDRESS, HIDDEN, 1).encode()
        assert sent.count(HIDDEN.encode()) == 1
    target = path if path.startswith("/") else f"/v1beta/{path}"
    typed = {"Content-Type": "text/plain"} if isinstance(body, bytes) else {}
    answered = await running.fetch(method, target, body=sent, headers={**headers, **typed})
    if route in REFUSED:
        assert (answered.status, upstream.asked) == (501, [])
        assert "PiiRedactor" in answered.json["error"]["message"]
        return
    assert answered.status == 200, answered.body
    (asked,) = upstream.asked
    assert b"example.com" not in asked.body
    assert b"[EMAIL]" in asked.body or not isinstance(body, dict)
    assert not any(ADDRESS in line for line in lines)
    assert not isinstance(body, dict) or any("redacted" in line and "EMAIL" in line for line in lines)


@pytest.mark.parametrize("load", [True, False])
@pytest_twisted.ensureDeferred
async def test_files_pass_where_the_settings_let_them_and_what_is_said_of_them_is_redacted(
    gateway: GatewayFactory, upstream: AnsweringUpstream, load: bool
) -> None:
    text = account(upstream) + "[plugins.pii_redactor]\npass_unseen = true\n"
    if load:
        text += '[plugins]\nload = ["agm.contrib.pii_redactor", "agm.contrib.pii_answers"]\n'
    running = await gateway(text, plugins=[] if load else [PiiRedactor(), PiiAnswers()])
    headers = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
    body = json.dumps({"file": {"displayName": f"for {ADDRESS}"}}).encode()
    assert (await running.fetch("POST", "/upload/v1beta/files", body=body, headers=headers)).status == 200
    assert json.loads(upstream.asked[0].body) == {"file": {"displayName": "for [EMAIL]"}}
    download = await running.fetch("GET", "/v1beta/files/f:download?alt=media")
    assert (download.status, download.body) == (200, b"\x00\x01")


@pytest_twisted.ensureDeferred
async def test_a_large_body_is_redacted_while_others_are_served(
    gateway: GatewayFactory, upstream: AnsweringUpstream, lines: list[str]
) -> None:
    running = await gateway(account(upstream), plugins=[PiiRedactor()])
    text = f"I am {ADDRESS}. " * 40_000
    large = Deferred.fromCoroutine(running.ask("large", text=text))
    await eventually(lambda: running.gateway.live.totals()["open"], "the large one")
    assert (await running.ask("small")).status == 200
    assert [asked.path.partition("models/")[2] for asked in upstream.asked] == ["small:generateContent"]
    assert (await large).status == 200
    assert upstream.asked[1].body.count(b"[EMAIL]") == 40_000
    assert ADDRESS.encode() not in upstream.asked[1].body
    assert any("redacted 40000 EMAIL" in line for line in lines)


@pytest_twisted.ensureDeferred
async def test_nothing_of_a_session_goes_out_or_comes_in(gateway: GatewayFactory) -> None:
    scripted = ScriptedUpstream()
    running = await gateway(account(scripted), plugins=[PiiRedactor(), PiiAnswers()])
    setup = {"setup": {"model": "models/m", "systemInstruction": {"parts": [{"text": f"I am {ADDRESS}"}]}}}
    client = await open_socket(running.port, setup=setup)
    up = await accept(scripted)
    assert json.loads(await up.message())["setup"]["systemInstruction"] == {"parts": [{"text": "I am [EMAIL]"}]}
    up.say({"setupComplete": {}})
    await client.message()
    client.say({"realtimeInput": {"text": f"I am {ADDRESS}"}})
    assert json.loads(await up.message(1)) == {"realtimeInput": {"text": "I am [EMAIL]"}}
    said = [
        {"serverContent": {"modelTurn": {"parts": [{"text": "Write to ada@exam"}]}}},
        {"serverContent": {"outputTranscription": {"text": "Write to ada@exam"}}},
        {"serverContent": {"modelTurn": {"parts": [{"text": "ple.com now"}]}}},
        {"serverContent": {"outputTranscription": {"text": "ple.com now"}}},
        {"serverContent": {"turnComplete": True}},
        {"toolCall": {"functionCalls": [{"id": "1", "name": "mail", "args": {"to": ADDRESS}}]}},
    ]
    for one in said:
        up.say(one)
    heard = [json.loads(await client.message(number)) for number in range(1, 1 + len(said))]
    assert ADDRESS not in json.dumps(heard)
    contents = [one.get("serverContent", {}) for one in heard]
    turns = [part["text"] for c in contents for part in c.get("modelTurn", {}).get("parts", ())]
    assert "".join(turns) == "Write to [EMAIL] now"
    assert "".join(c.get("outputTranscription", {}).get("text", "") for c in contents) == "Write to [EMAIL] now"
    assert heard[-1]["toolCall"]["functionCalls"][0]["args"] == {"to": "[EMAIL]"}
    client.close()
    await scripted.stop()


# Answers, event by event


def event(text: str | None = None, **more: Any) -> dict[str, Any]:
    content = {} if text is None else {"content": {"role": "model", "parts": [{"text": text}]}}
    return {"candidates": [{**content, "index": 0, **more}], "usageMetadata": {"totalTokenCount": 3}}


def streamed(events: Sequence[dict[str, Any]], framing: Framing = Framing.SSE) -> list[dict[str, Any]]:
    plugin, request = PiiAnswers(), build_request(framing=framing)
    found: list[dict[str, Any]] = []
    for each in events:
        changed = plugin.agm_transform_event(each, request)
        found += changed if isinstance(changed, list) else [changed]
    return found


def said(events: Sequence[dict[str, Any]], *, thought: bool = False) -> str:
    parts = [p for e in events for c in e["candidates"] for p in c.get("content", {}).get("parts", ())]
    return "".join(part.get("text", "") for part in parts if part.get("thought", False) is thought)


TEXT = "Dear Ada, ada.b@mail.example.com or +49 30 901820-0, card 4111 1111 1111 1111. That was all, 12 of 30."
LEFT = "Dear Ada, [EMAIL] or [PHONE], card [CARD]. That was all, 12 of 30."


@pytest.mark.parametrize("framing", [Framing.SSE, Framing.ARRAY])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 64, 1000])
def test_what_is_split_over_events_is_found_however_it_is_split(size: int, framing: Framing) -> None:
    pieces = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
    events = [*map(event, pieces[:-1]), event(pieces[-1], finishReason="STOP")]
    found = streamed(events, framing)
    assert said(found) == LEFT
    assert len(found) == len(pieces)
    found = streamed([*map(event, pieces), event(finishReason="STOP")], framing)
    assert said(found) == LEFT


def test_a_word_waits_and_no_more_than_that() -> None:
    found = streamed([event("Hello there, my"), event(" dear"), event(" friend"), event(".", finishReason="STOP")])
    texts = [e["candidates"][0]["content"]["parts"][0]["text"] for e in found]
    assert texts == ["Hello there, ", "my ", "dear ", "friend."]


def test_thoughts_candidates_and_calls_are_texts_of_their_own() -> None:
    thought = {"candidates": [{"content": {"parts": [{"text": "I think of ada@ex", "thought": True}]}}]}
    call = {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"to": ADDRESS}}}]}}]}
    other = {"candidates": [{"index": 1, "content": {"parts": [{"text": "bob@exam"}]}}]}
    ending = {"candidates": [{"index": 1, "content": {"parts": [{"text": "ple.org"}]}, "finishReason": "STOP"}]}
    events = [
        thought,
        event("ample.com is it ada@exam"),
        other,
        event("ple.com"),
        call,
        ending,
        event(finishReason="S"),
    ]
    found = streamed(events)
    assert said(found, thought=True) == "I think of ada@ex"  # where a text ends it has no more to wait for
    assert said(found) == "ample.com is it [EMAIL][EMAIL]"
    parts = [p for e in found for c in e["candidates"] for p in c.get("content", {}).get("parts", ())]
    (at,) = (number for number, part in enumerate(parts) if "functionCall" in part)
    assert parts[at]["functionCall"]["args"] == {"to": "[EMAIL]"}
    assert parts[at - 1] == {"text": "[EMAIL]"}  # before the call, as it was said


def test_the_openai_surface_is_redacted_in_its_pieces() -> None:
    def chunk(delta: dict[str, Any], ends: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": ends}]}

    def call(arguments: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}

    events = [
        chunk({"role": "assistant", "content": "Write to ada@exam"}),
        chunk({"content": "ple.com"}),
        chunk(call('{"to": "ada@ex')),
        chunk(call('ample.com"}')),
        chunk({}, "tool_calls"),
        {"choices": [], "usage": {"total_tokens": 3}},
    ]
    found = streamed(events)
    deltas = [c["delta"] for e in found for c in e["choices"]]
    assert "".join(d.get("content") or "" for d in deltas) == "Write to [EMAIL]"
    calls = [c["function"]["arguments"] for d in deltas for c in d.get("tool_calls", ())]
    assert "".join(calls) == '{"to": "[EMAIL]"}'


@pytest.mark.parametrize("stem", ["step", "content"])
def test_interactions_are_redacted_and_what_waits_comes_before_the_end_of_its_text(stem: str) -> None:
    def delta(text: str, number: int) -> dict[str, Any]:
        return {
            "event_type": f"{stem}.delta",
            "index": 0,
            "event_id": f"e{number}",
            "delta": {"type": "text", "text": text},
        }

    events = [
        {"event_type": f"{stem}.start", "index": 0},
        delta("Write to ada@exam", 1),
        delta("ple.com", 2),
        {"event_type": f"{stem}.stop", "index": 0, "event_id": "e3"},
        {"event_type": "interaction.completed", "interaction": {"steps": [{"text": f"Write to {ADDRESS}"}]}},
    ]
    found = streamed(events)
    assert [e["event_type"].partition(".")[2] for e in found] == [
        "start",
        "delta",
        "delta",
        "delta",
        "stop",
        "completed",
    ]
    assert "".join(e["delta"]["text"] for e in found if "delta" in e) == "Write to [EMAIL]"
    assert [e.get("event_id") for e in found] == [None, "e1", "e2", None, "e3", None]
    assert found[-1]["interaction"] == {"steps": [{"text": "Write to [EMAIL]"}]}


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"candidates": None},
        {"candidates": [None, {"content": None, "finishReason": "STOP"}, {"content": {"parts": "x"}}]},
        {"candidates": [{"content": {"parts": [None, "x", {"text": 5}]}}]},
        {"choices": [{"delta": None}, {"delta": {"content": None, "tool_calls": [{"function": None}]}}]},
        {"event_type": "step.delta", "delta": None},
        {"event_type": "step.stop", "index": [1]},
        {"serverContent": {"modelTurn": None, "outputTranscription": "x", "turnComplete": True}},
    ],
)
def test_odd_events_pass_as_they_are(odd: dict[str, Any]) -> None:
    (found,) = streamed([json.loads(json.dumps(odd))])
    assert found == odd


@pytest.mark.parametrize("way", ["generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent?alt=json"])
@pytest.mark.parametrize("kind", ["api-key", "code-assist"])
@pytest_twisted.ensureDeferred
async def test_an_answer_comes_without_them(gateway: GatewayFactory, lines: list[str], way: str, kind: str) -> None:
    pieces = [event("Write to ada@exam"), event("ple.com", finishReason="STOP")]
    whole = event(f"Write to {ADDRESS}", finishReason="STOP")

    def say(asked: Asked) -> tuple[Any, ...]:
        wrapped = [{"response": each} for each in pieces] if kind == "code-assist" else pieces
        if "alt=sse" in asked.uri:
            data = b"".join(b"data: " + json.dumps(each).encode() + b"\r\n\r\n" for each in wrapped)
            return 200, data, {"content-type": "text/event-stream"}
        return 200, {"response": whole} if kind == "code-assist" else whole

    answering = AnsweringUpstream(say)
    plugin = PiiAnswers()
    running = await gateway(account(answering, kind), plugins=[openai_upstream, plugin])
    answered = await running.fetch("POST", f"/v1beta/models/m:{way}", body=b'{"contents": []}')
    assert answered.status == 200
    found = answered.events if "sse" in way else answered.json if "json" in way else [answered.json]
    assert said(found) == "Write to [EMAIL]"
    assert not plugin._streams
    assert any("redacted 1 EMAIL of the answer" in line for line in lines)
    await answering.stop()


@pytest.mark.parametrize("plugin", [PiiRedactor, PiiAnswers])
def test_they_do_what_the_hookspecs_ask(plugin: type) -> None:
    settings = "[plugins.pii_redactor]\nfind = ['email']\npatterns = { STAFF = 'E-\\d{6}' }\n"
    check_plugin(plugin(), name="pii_redactor", settings=settings)


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_they_are_loaded_by_their_names_and_a_bad_pattern_ends_the_start(gateway: GatewayFactory) -> None:
    load = '[plugins]\nload = ["agm.contrib.pii_redactor", "agm.contrib.pii_answers"]\n'
    running = await gateway(load)
    assert {"agm.contrib.pii_redactor", "agm.contrib.pii_answers"} <= running.gateway.hooks.manager.origins.keys()
    with pytest.raises(SystemExit) as caught:
        await gateway(load + "[plugins.pii_redactor.patterns]\nX = '('\n")
    assert "[plugins.pii_redactor.patterns] X is no regular expression" in str(caught.value)

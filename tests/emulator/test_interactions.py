"""The Interactions API: what is said, how it goes out, what is kept, and what goes wrong on request."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from agm.emulator.replies import Cut, Hang, Reset
from tests.emulator.dialogue import KEY, Answered, Dialogue

OTHER = {"x-goog-api-key": "other"}
MODEL = "gemini-2.5-flash"
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


def create(emu: Dialogue, headers: Any = KEY, version: str = "v1beta", **message: Any) -> Answered:
    message = {"model": MODEL, "input": "Hello <there>", **message}
    if "agent" in message:
        del message["model"]
    return emu.ask("POST", f"/{version}/interactions", message, headers)


def events(answered: Answered) -> list[tuple[str, Any]]:
    """The events of a stream by name; the data of ``done`` is a text."""
    found = []
    for block in answered.body.decode().split("\n\n")[:-1]:
        name, _, data = block.partition("\n")
        text = "".join(line.removeprefix("data: ") for line in data.split("\n"))
        found.append((name.removeprefix("event: "), text if text == "[DONE]" else json.loads(text)))
    return found


def text_of(interaction: Any) -> str:
    return "".join(c["text"] for s in interaction["steps"] if s["type"] == "model_output" for c in s["content"])


# -- one document ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
def test_an_interaction_is_one_compact_document(emu: Dialogue, version: str) -> None:
    answered = create(emu, version=version)
    assert answered.header("content-type") == "application/json; charset=UTF-8"
    assert b"\n" not in answered.body
    assert b"\\u003cthere\\u003e" in answered.body
    found = answered.json
    assert list(found) == ["id", "status", "steps", "usage", "created", "updated", "service_tier", "object", "model"]
    assert (found["status"], found["object"], found["model"]) == ("completed", "interaction", MODEL)
    assert [step["type"] for step in found["steps"]] == ["thought", "model_output"]
    assert "Hello <there>" in text_of(found)
    usage = found["usage"]
    parts = usage["total_input_tokens"] + usage["total_output_tokens"] + usage["total_thought_tokens"]
    assert usage["total_tokens"] == parts
    assert answered.entry.model == MODEL
    assert answered.entry.rpc == "CreateInteraction"


def test_an_id_is_a_word_twice_in_base64(emu: Dialogue) -> None:
    name = create(emu).json["id"]
    coded = name.removeprefix("v1_")
    raw = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    assert raw[:2] == b"\x0a\x17"
    assert raw[25:27] == b"\x12\x17"
    assert raw[2:25] == raw[27:]
    assert create(emu).json["id"] != name


def test_the_same_calls_get_the_same_bytes() -> None:
    assert [create(Dialogue()).body for _ in range(2)] == [create(Dialogue()).body] * 2


def test_a_conversation_goes_on_and_is_its_owners(emu: Dialogue) -> None:
    first = create(emu, input="My name is Ada").json["id"]
    second = create(emu, input="And?", previous_interaction_id=first)
    assert 'Earlier you said: "My name is Ada"' in text_of(second.json)
    assert second.json["previous_interaction_id"] == first
    refused = create(emu, OTHER, previous_interaction_id=first)
    assert refused.status == 404
    assert refused.body == b'{"error":{"message":"Interaction not found.","code":"not_found"}}'


def test_input_is_a_text_contents_or_steps(emu: Dialogue) -> None:
    image = {"type": "image", "mime_type": "image/png", "data": base64.b64encode(b"12345").decode()}
    told = text_of(create(emu, input=[{"type": "text", "text": "look"}, image]).json)
    assert "look" in told
    assert "I received image/png of 5 bytes." in told
    steps = [
        {"type": "user_input", "content": [{"type": "text", "text": "one"}]},
        {"type": "model_output", "content": [{"type": "text", "text": "said"}]},
        {"type": "user_input", "content": "two"},
    ]
    told = text_of(create(emu, input=steps).json)
    assert '"two"' in told
    assert 'Earlier you said: "one"' in told


def test_a_function_is_called_and_its_result_is_read(emu: Dialogue) -> None:
    asked = create(emu, input="get weather", tools=[WEATHER]).json
    call = asked["steps"][-1]
    assert asked["status"] == "requires_action"
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "get_weather", {})
    result = {"type": "function_result", "call_id": call["id"], "name": "get_weather", "result": {"sky": "blue"}}
    told = create(emu, input=[result], previous_interaction_id=asked["id"], tools=[WEATHER]).json
    assert 'The function get_weather returned {"sky": "blue"}.' in text_of(told)


def test_formats_tools_and_limits_are_kept(emu: Dialogue) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    shaped = create(emu, response_format={"type": "text", "mime_type": "application/json", "schema": schema}).json
    assert isinstance(json.loads(text_of(shaped))["n"], int)
    pictured = create(emu, response_modalities=["image"]).json
    assert pictured["steps"][-1]["content"][0]["mime_type"] == "image/png"
    assert pictured["usage"]["output_tokens_by_modality"][0]["modality"] == "image"
    searched = create(emu, tools=[{"type": "google_search"}, {"type": "code_execution"}]).json
    assert [step["type"] for step in searched["steps"]] == [
        *("thought", "google_search_call", "google_search_result", "code_execution_call", "code_execution_result"),
        "model_output",
    ]
    short = create(emu, generation_config={"max_output_tokens": 1}).json
    assert short["status"] == "incomplete"
    assert len(text_of(short)) == 4
    thoughts = create(emu, generation_config={"thinking_summaries": "auto"}).json["steps"][0]
    assert thoughts["summary"][0]["type"] == "text"


# -- streams -----------------------------------------------------------------------------------------------------


def test_a_stream_has_named_events_and_an_end_of_its_own(emu: Dialogue) -> None:
    answered = create(emu, stream=True)
    assert answered.header("content-type") == "text/event-stream"
    assert b"\r" not in answered.body
    assert answered.body.endswith(b"\n\nevent: done\ndata: [DONE]\n\n")
    found = events(answered)
    assert [name for name, _ in found if name != "step.delta"] == [
        *("interaction.created", "interaction.status_update", "step.start", "step.stop", "step.start", "step.stop"),
        *("interaction.completed", "done"),
    ]
    assert all(data["event_type"] == name for name, data in found[:-1])
    created, completed = found[0][1]["interaction"], found[-2][1]["interaction"]
    assert list(created) == ["id", "status", "object", "model"]
    assert "steps" not in completed
    kept = emu.ask("GET", f"/v1beta/interactions/{created['id']}").json
    deltas = [data["delta"]["text"] for name, data in found if name == "step.delta" and "text" in data["delta"]]
    assert len(deltas) > 1
    assert "".join(deltas) == text_of(kept)
    assert completed["usage"] == kept["usage"]


def test_a_stream_goes_on_after_any_event(emu: Dialogue) -> None:
    whole = events(create(emu, stream=True))
    name = whole[0][1]["interaction"]["id"]
    for at, (_, data) in enumerate(whole[:-1]):
        rest = emu.ask("GET", f"/v1/interactions/{name}?stream=true&last_event_id={data['event_id']}")
        assert events(rest) == whole[at + 1 :]
    assert events(emu.ask("GET", f"/v1/interactions/{name}?stream=true")) == whole
    refused = emu.ask("GET", f"/v1/interactions/{name}?stream=true&last_event_id=nobody")
    assert (refused.status, refused.error["code"]) == (400, "invalid_request")
    assert emu.ask("GET", f"/v1/interactions/{name}?last_event_id=x").status == 400


def test_arguments_of_a_function_come_in_pieces(emu: Dialogue) -> None:
    found = events(create(emu, input="get weather", tools=[WEATHER], stream=True))
    start = [data["step"] for name, data in found if name == "step.start"][-1]
    assert start["arguments"] == {}
    assert start["name"] == "get_weather"
    deltas = [data["delta"] for name, data in found if name == "step.delta" and data["index"] == 1]
    assert "".join(delta["arguments"] for delta in deltas) == "{}"


# -- what is kept ------------------------------------------------------------------------------------------------


def test_in_the_background_it_ends_after_a_look(emu: Dialogue) -> None:
    begun = create(emu, agent="deep-research-preview", background=True).json
    assert (begun["status"], begun["agent"]) == ("in_progress", "deep-research-preview")
    assert "steps" not in begun
    path = f"/v1beta/interactions/{begun['id']}"
    assert [emu.ask("GET", path).json["status"] for _ in range(3)] == ["in_progress", "completed", "completed"]
    other = create(emu, background=True).json["id"]
    assert events(emu.ask("GET", f"/v1beta/interactions/{other}?stream=true"))[-1] == ("done", "[DONE]")


def test_it_is_cancelled_while_it_runs_and_deleted(emu: Dialogue) -> None:
    path = f"/v1beta/interactions/{create(emu, background=True).json['id']}"
    assert emu.ask("POST", f"{path}/cancel").json["status"] == "cancelled"
    assert emu.ask("POST", f"{path}/cancel").status == 400
    assert "Hello" in emu.ask("GET", f"{path}?include_input=true").json["input"]
    assert emu.ask("DELETE", path, headers=OTHER).status == 404
    assert emu.ask("DELETE", path).json == {}
    assert [emu.ask(method, path).status for method in ("GET", "DELETE")] == [404, 404]


def test_what_is_not_stored_cannot_be_looked_at(emu: Dialogue) -> None:
    made = create(emu, store=False, stream=True)
    found = events(made)
    assert all("event_id" not in data for _, data in found[:-1])
    assert emu.ask("GET", f"/v1beta/interactions/{found[0][1]['interaction']['id']}").status == 404
    assert create(emu, store=False, background=True).status == 400


def test_tokens_for_a_live_interaction(emu: Dialogue) -> None:
    path = f"/v1beta/interactions/{create(emu).json['id']}/auth_tokens"
    made = emu.ask("POST", path, {}).json
    assert made["auth_token"].startswith("auth_tokens/")
    assert made["expires_at"].endswith("Z")
    token = made["auth_token"].removeprefix("auth_tokens/")
    assert [emu.ask("DELETE", f"{path}/{token}").status for _ in range(2)] == [200, 404]


def test_an_environment_is_made_and_used_again(emu: Dialogue) -> None:
    name = create(emu, environment="remote").json["environment_id"]
    assert create(emu, environment=name).json["environment_id"] == name
    assert create(emu, OTHER, environment=name).status == 404
    assert emu.ask("GET", f"/v1beta/environments/{name}").json["status"] == "active"


def test_a_file_is_its_owners(emu: Dialogue) -> None:
    whole = {**KEY, "x-goog-upload-protocol": "raw", "content-type": "text/plain"}
    uri = emu.ask("POST", "/upload/v1beta/files", b"x", whole).json["file"]["uri"]
    named = [{"type": "document", "uri": uri, "mime_type": "text/plain"}]
    assert uri in text_of(create(emu, input=named).json)
    assert create(emu, OTHER, input=named).error["code"] == "permission_denied"


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        {"colour": 1},
        {"agent": "a", "model": MODEL},
        {"model": None},
        {"input": None},
        {"agent_config": {}},
        {"input": 7},
        {"input": [7]},
    ],
)
def test_a_bad_message_is_refused_with_a_word(emu: Dialogue, message: Any) -> None:
    answered = emu.ask("POST", "/v1beta/interactions", {"model": MODEL, "input": "hi", **message})
    assert (answered.status, answered.error["code"]) == (400, "invalid_request")


def test_callers_are_refused_as_on_every_streaming_path(emu: Dialogue) -> None:
    assert isinstance(create(emu, {"x-goog-api-key": "invalid"}).json, list)
    assert create(emu, {"x-goog-api-key": "invalid"}).reasons == ["API_KEY_INVALID"]
    assert create(emu, {}).status == 403
    assert isinstance(emu.ask("DELETE", "/v1/interactions/x", headers={}).json, dict)


def test_an_old_revision_is_refused(emu: Dialogue) -> None:
    assert create(emu, {**KEY, "api-revision": "2026-05-20"}).status == 200
    refused = create(emu, {**KEY, "api-revision": "2025-12-01"})
    assert refused.status == 400
    assert "legacy Interactions API schema" in refused.error["message"]


def test_quotas_models_and_scripts_hold(emu: Dialogue) -> None:
    emu.control("accounts", {"name": "k1", "credentials": ["k1"], "quotas": {"requests_per_minute": 1}})
    assert [create(emu).status for _ in range(2)] == [200, 429]
    emu.control("accounts", {"name": "k2", "credentials": ["k2"], "models": ["gemini-3*"]})
    assert create(emu, {"x-goog-api-key": "k2"}).error["code"] == "not_found"
    emu.control("script", {"account": "k3", "steps": ["503", "ok"]})
    assert [create(emu, {"x-goog-api-key": "k3"}).status for _ in range(2)] == [503, 200]


# -- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 404, 429, 499, 500, 503, 504])
def test_a_status_with_a_message_and_a_word(emu: Dialogue, status: int) -> None:
    answered = create(emu, model=f"emu-{status}", stream=True)
    assert answered.status == status
    assert list(answered.json["error"]) == ["message", "code"]
    assert isinstance(answered.error["code"], str)


def test_faults_of_a_stream(emu: Dialogue) -> None:
    def streamed(fault: str) -> Answered:
        return create(emu, model=f"emu-{fault}", stream=True)

    assert [name for name, _ in events(streamed("midstream"))] == ["interaction.created", "error"]
    assert events(streamed("errdata-3"))[-1][1]["error"]["code"] == "service_unavailable"
    assert streamed("errtail").body.endswith(b'"service_unavailable"\n  }\n}\n')
    for fault, step in (("cut", Cut()), ("drop-2", Cut()), ("rst-2", Reset()), ("hang-2", Hang()), ("close", Cut())):
        assert streamed(fault).reply.steps[-1] == step
    assert streamed("hang").reply.steps == (Hang(),)
    assert streamed("emptystream").body == b""
    assert sum(name == "step.delta" for name, _ in events(streamed("chunks-7"))) == 8
    assert streamed("noblank").body.endswith(b"data: [DONE]\n")
    assert b"[DONE]" not in streamed("nofinish").body
    assert events(streamed("multiline"))[-2][0] == "interaction.completed"
    assert len(streamed("giant-1").body) > 1024 * 1024
    assert streamed("latency-500").waits == [0.5]
    assert streamed("slow").waits
    assert events(streamed("blockprompt"))[-2][1]["interaction"]["status"] == "failed"
    with pytest.raises(json.JSONDecodeError):
        events(streamed("badjson"))
    assert events(streamed("drip-5"))[-1][0] == "done"
    assert len(streamed("drip-5").reply.steps) > 100
    assert "नमस्ते" in streamed("splitutf8").body.decode()


def test_faults_of_one_document(emu: Dialogue) -> None:
    def unary(fault: str) -> Answered:
        return create(emu, model=f"emu-{fault}")

    assert unary("midstream").error["code"] == "service_unavailable"
    assert isinstance(unary("errarray").json, list)
    assert unary("cut").reply.steps[-1] == Cut()
    assert unary("hang-1").reply.steps[-1] == Hang()
    assert unary("emptystream").body == b""
    assert len(unary("bigunary-1").body) == unary("bigunary-1").reply.length > 1024 * 1024
    assert unary("emptyparts").json["steps"][-1]["content"] == []
    assert [unary("503-once-x").status for _ in range(2)] == [503, 200]

"""Google's own OpenAI surface."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from agm.emulator.replies import Cut, Hang, Reset
from tests.emulator.dialogue import KEY, Dialogue

BEARER = {"authorization": "Bearer k1", "content-type": "application/json"}
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello get weather"}]


def ask(emu: Dialogue, path: str, body: Any = b"", method: str = "POST", headers: Any = BEARER) -> Any:
    return emu.ask(method, f"/v1beta/openai/{path}", body, headers)


def chat(emu: Dialogue, model: str = "m", **more: Any) -> Any:
    return ask(emu, "chat/completions", {"model": model, "messages": MESSAGES, **more})


def chunks(answered: Any) -> list[Any]:
    events = [event.removeprefix(b"data: ") for event in answered.body.split(b"\n\n") if event]
    return [event if event == b"[DONE]" else json.loads(event) for event in events]


def test_a_chat_says_what_the_developer_api_says(emu: Dialogue) -> None:
    """In other words; the key is a bearer token, or in Google's header."""
    answered = chat(emu)
    document = answered.json
    (choice,) = document["choices"]
    assert (document["object"], choice["finish_reason"]) == ("chat.completion", "stop")
    assert "Hello get weather" in choice["message"]["content"]
    assert "Be brief." in choice["message"]["content"]
    usage = document["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert answered.entry.account == "k1"
    assert answered.entry.model == "m"
    assert ask(emu, "chat/completions", {"model": "models/m", "messages": MESSAGES}, headers=KEY).json == document


def test_a_stream_ends_with_done(emu: Dialogue) -> None:
    """Its pieces are the whole, its usage comes where it is asked for."""
    found = chunks(chat(emu, stream=True, stream_options={"include_usage": True}))
    assert found.pop() == b"[DONE]"
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in found)
    whole = chat(emu).json
    assert said == whole["choices"][0]["message"]["content"]
    assert found[-1]["usage"] == whole["usage"]
    assert found[-1]["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in chunks(chat(emu, stream=True))[0]


def test_tools_are_called_and_their_results_read(emu: Dialogue) -> None:
    """By the names that the calls had."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]
    message = chat(emu, tools=tools).json["choices"][0]
    (call,) = message["message"]["tool_calls"]
    assert (message["finish_reason"], call["function"]["name"]) == ("tool_calls", "get_weather")
    assert json.loads(call["function"]["arguments"])["city"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    body = {"model": "m", "messages": [*MESSAGES, {"role": "assistant", "tool_calls": [call]}, result], "tools": tools}
    assert "get_weather returned" in ask(emu, "chat/completions", body).json["choices"][0]["message"]["content"]


def test_a_schema_is_kept_to(emu: Dialogue) -> None:
    """As for the Developer API."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    said = chat(emu, response_format=form).json["choices"][0]["message"]["content"]
    assert isinstance(json.loads(said)["n"], int)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("chat/completions", {"messages": MESSAGES}, 400),
        ("chat/completions", {"model": "m", "messages": []}, 400),
        ("chat/completions", {"model": "m", "messages": [{"role": "who", "content": "x"}]}, 400),
        ("chat/completions", b"no JSON", 400),
        ("chat/completions", {"model": "emu-429", "messages": MESSAGES}, 429),
        ("chat/completions", {"model": "emu-404", "messages": MESSAGES}, 404),
        ("embeddings", {"model": "e"}, 400),
        ("images/generations", {"model": "i"}, 400),
        ("responses", {"model": "m"}, 404),
    ],
)
def test_errors_are_arrays(emu: Dialogue, path: str, body: Any, status: int) -> None:
    """With Google's document in them."""
    answered = ask(emu, path, body)
    assert answered.status == status
    (document,) = answered.json
    assert document["error"]["code"] == status


def test_a_key_is_wanted(emu: Dialogue) -> None:
    """And a good one."""
    assert ask(emu, "models", method="GET", headers={}).status == 403
    assert ask(emu, "models", method="GET", headers={"authorization": "Bearer bad-key"}).status == 400


@pytest.mark.parametrize(("fault", "step"), [("cut", Cut), ("drop-2", Cut), ("rst", Reset), ("hang-1", Hang)])
@pytest.mark.parametrize("stream", [True, False])
def test_faults_end_an_answer_early(emu: Dialogue, fault: str, step: type, stream: bool) -> None:
    """Without the end that a good one has."""
    answered = chat(emu, f"emu-{fault}", stream=stream)
    assert isinstance(answered.reply.steps[-1], step)
    assert b"[DONE]" not in answered.body


def test_an_error_may_come_within_a_stream(emu: Dialogue) -> None:
    """After some good chunks."""
    good, *_, bad = [chunk for chunk in chunks(chat(emu, "emu-errdata-2", stream=True)) if chunk != b"[DONE]"]
    assert good["choices"]
    assert bad["error"]["code"] == 503


def test_vectors_are_numbers_or_base64(emu: Dialogue) -> None:
    """The same ones."""
    numbers = ask(emu, "embeddings", {"model": "e", "input": ["a", "b"], "dimensions": 6}).json
    packed = ask(emu, "embeddings", {"model": "e", "input": "b", "dimensions": 6, "encoding_format": "base64"}).json
    values = struct.unpack("<6f", base64.b64decode(packed["data"][0]["embedding"]))
    assert values == pytest.approx(numbers["data"][1]["embedding"], abs=1e-6)


def test_pictures_and_videos(emu: Dialogue) -> None:
    """A video takes a while."""
    made = ask(emu, "images/generations", {"model": "i", "prompt": "x", "n": 2}).json["data"]
    assert all(base64.b64decode(one["b64_json"]).startswith(b"\x89PNG") for one in made)
    form = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nveo\r\n'
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na cat\r\n--b--\r\n'
    )
    video = ask(emu, "videos", form, headers={**BEARER, "content-type": "multipart/form-data; boundary=b"}).json
    assert (video["status"], video["model"]) == ("queued", "veo")
    path = f"videos/{video['id']}"
    assert ask(emu, f"{path}/content", method="GET").status == 400
    assert [ask(emu, path, method="GET").json["status"] for _ in range(2)] == ["in_progress", "completed"]
    assert b"a cat" in ask(emu, f"{path}/content", method="GET").body
    assert ask(emu, "videos", method="GET").json["data"][0]["id"] == video["id"]
    assert ask(emu, path, method="GET", headers={"authorization": "Bearer other"}).status == 404
    assert ask(emu, path, method="DELETE").json["deleted"] is True


def test_a_batch_reads_a_file_and_writes_one(emu: Dialogue) -> None:
    """A line a request."""
    line = json.dumps({"custom_id": "1", "body": {"model": "m", "messages": MESSAGES}}).encode()
    form = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + line + b"\r\n--b--\r\n"
    )
    file = ask(emu, "files", form, headers={**BEARER, "content-type": "multipart/form-data; boundary=b"}).json
    assert (file["filename"], file["bytes"]) == ("a.jsonl", len(line))
    batch = ask(emu, "batches", {"input_file_id": file["id"], "endpoint": "/v1/chat/completions"}).json
    done = [ask(emu, f"batches/{batch['id']}", method="GET").json for _ in range(2)][-1]
    assert (done["status"], done["request_counts"]["completed"]) == ("completed", 1)
    answered = json.loads(ask(emu, f"files/{done['output_file_id']}/content", method="GET").body)
    assert answered["custom_id"] == "1"
    assert answered["response"]["body"] == chat(emu).json
    assert {one["id"] for one in ask(emu, "files", method="GET").json["data"]} == {file["id"], done["output_file_id"]}
    assert ask(emu, f"files/{file['id']}", method="DELETE").json["deleted"] is True
    again = ask(emu, "batches", {"input_file_id": done["output_file_id"]}).json
    assert ask(emu, f"batches/{again['id']}/cancel").json["status"] == "cancelled"
    assert len(ask(emu, "batches", method="GET").json["data"]) == 2


def test_models_are_listed_and_looked_up(emu: Dialogue) -> None:
    """With or without their prefix."""
    listed = {one["id"] for one in ask(emu, "models", method="GET").json["data"]}
    assert "models/gemini-2.5-flash" in listed
    for name in ("gemini-2.5-flash", "models/gemini-2.5-flash"):
        assert ask(emu, f"models/{name}", method="GET").json["id"] == "models/gemini-2.5-flash"
    assert ask(emu, "models/none", method="GET").status == 404

"""Google's own OpenAI surface: relayed byte for byte, with all that holds for any other call."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from agm import hookimpl
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.support import AnsweringUpstream, Asked, account

SHOWN = "[gateway]\nshow_account = true\n"
MESSAGES = [{"role": "user", "content": "Hello"}]
PATH = "/v1beta/openai/"


def accounts(emulator: RunningEmulator, *names: str) -> str:
    return SHOWN + "".join(map(emulator.account, names)) + '[pool]\nstrategy = "round-robin"\n'


async def post(running: RunningGateway, path: str, body: Any, **more: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await running.fetch("POST", PATH + path, body=data, **more)


def chat(model: str = "gemini-2.5-flash", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, **more}


@pytest_twisted.ensureDeferred
async def test_bytes_pass_as_they_are_both_ways(gateway: GatewayFactory) -> None:
    """The client's key is taken away, and the account's goes along as a bearer token."""
    said = b'{"choices": [],   "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}\n'

    def answer(asked: Asked) -> tuple[int, bytes]:
        return 200, said

    upstream = AnsweringUpstream(answer)
    running = await gateway(account(upstream))
    body = b'{ "messages": [{"role":"user","content":"\\u00e9"}], "model": "models/x", "extra_body": {"google": {}} }'
    answered = await post(running, "chat/completions?x=1", body, headers={"Authorization": "Bearer of-the-client"})
    (asked,) = upstream.asked
    assert (answered.body, asked.body) == (said, body)
    assert asked.headers["authorization"] == "Bearer k"
    assert "x-goog-api-key" not in asked.headers
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_a_stream_passes_with_its_end(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """[DONE] is part of this surface, whatever is set for the native one."""
    running = await gateway(accounts(emulator, "a").replace("[gateway]", '[gateway]\nsse_done = "drop"'))
    answer = await post(running, "chat/completions", chat(stream=True, stream_options={"include_usage": True}))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b"data: [DONE]\n\n")


@pytest_twisted.ensureDeferred
async def test_usage_limits_aliases_and_plugins_hold(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """The model is read out of the body."""
    records: list[Any] = []
    seen: list[Any] = []

    class Plugin:
        @hookimpl
        def agm_transform_event(self, event: dict[str, Any], request: Any) -> dict[str, Any]:
            seen.append(request.method)
            return {**event, "edited": True}

        @hookimpl
        def agm_request_finished(self, record: Any) -> None:
            records.append(record)

    keys = '[auth]\nmode = "strict"\n[[auth.keys]]\nname = "k"\nkey = "x"\nmodels = ["house"]\n'
    config = accounts(emulator, "a") + keys + '[models.aliases]\n"house" = "gemini-2.5-pro"\n'
    running = await gateway(config, plugins=[Plugin()])
    answer = await post(running, "chat/completions", chat("house"), key="x")
    assert (answer.status, answer.json["edited"], answer.json["model"]) == (200, True, "gemini-2.5-pro")
    streamed = await post(running, "chat/completions", chat("house", stream=True), key="x")
    assert b'"edited":true' in streamed.body
    assert b"[DONE]" in streamed.body
    assert (await post(running, "chat/completions", chat(), key="x")).status == 403
    assert (await post(running, "chat/completions", chat("house"))).status == 401
    assert set(seen) == {"openai.chat.completions"}
    usage = answer.json["usage"]
    assert (records[0].usage.prompt, records[0].usage.output) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert (records[0].usage.total, records[0].finish_reason) == (usage["total_tokens"], "stop")
    assert (records[0].request.asked_model, records[0].request.model) == ("house", "gemini-2.5-pro")


@pytest_twisted.ensureDeferred
async def test_a_failure_is_tried_elsewhere_and_the_last_one_told(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Google's array is read; what the client gets is one error object, with the time to wait."""
    running = await gateway(accounts(emulator, "a", "b"))
    once = await post(running, "chat/completions", chat("emu-503-once-x"))
    assert once.status == 200
    assert [entry.account for entry in emulator.log][-2:] in (["a", "b"], ["b", "a"], ["a", "a"], ["b", "b"])
    answer = await post(running, "chat/completions", chat("emu-429-30"))
    assert (answer.status, answer.json["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert int(answer.headers["retry-after"]) >= 29
    refused = await post(running, "chat/completions", {"model": "m", "messages": []})
    assert (refused.status, refused.json["error"]["code"]) == (400, 400)


@pytest_twisted.ensureDeferred
async def test_other_kinds_of_account_are_not_asked(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """501: they have no such surface."""
    running = await gateway(emulator.account("v", "vertex") + emulator.account("c", "code-assist"))
    assert (await post(running, "chat/completions", chat())).status == 501


FORM = {"Content-Type": "multipart/form-data; boundary=b"}
VIDEO = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nhouse\r\n'
    b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na cat\r\n--b--\r\n'
)


def upload(content: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    return head + content + b"\r\n--b--\r\n"


@pytest_twisted.ensureDeferred
async def test_videos_files_and_batches_are_asked_of_their_owner(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Whoever made them; a batch is made where its file is."""
    running = await gateway(accounts(emulator, "a", "b", "c") + '[models.aliases]\n"house" = "veo"\n')
    made = [await post(running, "videos", VIDEO, headers=FORM) for _ in range(3)]
    assert {answer.account for answer in made} == {"a", "b", "c"}
    assert {answer.json["model"] for answer in made} == {"veo"}
    for answer in made:
        looked = [await running.fetch("GET", f"{PATH}videos/{answer.json['id']}") for _ in range(2)]
        assert {one.account for one in looked} == {answer.account}
        content = await running.fetch("GET", f"{PATH}videos/{answer.json['id']}/content")
        assert (content.account, content.headers["content-type"]) == (answer.account, "video/mp4")
    line = json.dumps({"custom_id": "1", "body": chat()}).encode()
    for _ in range(3):
        file = await post(running, "files", upload(line), headers=FORM)
        name = file.json["id"]
        batch = await post(running, "batches", {"input_file_id": name, "endpoint": "/v1/chat/completions"})
        assert batch.account == file.account
        path = f"{PATH}batches/{batch.json['id'].replace('/', '%2F')}"
        done = [await running.fetch("GET", path) for _ in range(2)][-1]
        assert (done.account, done.json["status"]) == (file.account, "completed")
        output = await running.fetch("GET", f"{PATH}files/{done.json['output_file_id']}/content")
        assert (output.account, json.loads(output.body)["custom_id"]) == (file.account, "1")
    native = await running.fetch("GET", f"/v1beta/{name}")  # the same file, by Google's own path
    assert native.account == file.account


@pytest_twisted.ensureDeferred
async def test_lists_go_on_behind_an_id(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Every one once, whatever the size of a page."""
    running = await gateway(accounts(emulator, "a", "b", "c"))
    names = {(await post(running, "files", upload(b"x"), headers=FORM)).json["id"] for _ in range(7)}
    for limit in (1, 2, 3, 7, 20):
        found: list[str] = []
        after = ""
        while True:
            page = (await running.fetch("GET", f"{PATH}files?limit={limit}{after}")).json
            found += [one["id"] for one in page["data"]]
            if not page["has_more"]:
                break
            after = f"&after={found[-1]}"
        assert sorted(found) == sorted(names)
    assert (await running.fetch("GET", f"{PATH}files?after=nobody")).status == 400
    gone = next(iter(names))
    assert (await running.fetch("DELETE", f"{PATH}files/{gone}")).status == 200
    assert running.gateway.ownership.owner(gone) is None


@pytest_twisted.ensureDeferred
async def test_a_form_is_not_sent_past_a_plugin_that_edits(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """It cannot be shown one."""

    class Plugin:
        @hookimpl
        def agm_transform_request(self, body: dict[str, Any], request: Any) -> dict[str, Any]:
            return {**body, "user": "them"}

    running = await gateway(accounts(emulator, "a"), plugins=[Plugin()])
    assert (await post(running, "videos", VIDEO, headers=FORM)).status == 501
    assert (await post(running, "chat/completions", chat())).status == 200
    assert emulator.documents[-1]["user"] == "them"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "responses", 404),
        ("GET", "chat/completions", 405),
        ("POST", "models", 405),
        ("GET", "files/..", 400),
        ("POST", "chat/completions", 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_not_there_is_told(
    gateway: GatewayFactory, emulator: RunningEmulator, method: str, path: str, status: int
) -> None:
    """In Google's form."""
    running = await gateway(accounts(emulator, "a"))
    answer = await running.fetch(method, PATH + path, body=b"no JSON" if method == "POST" else None)
    assert (answer.status, answer.json["error"]["code"]) == (status, status)

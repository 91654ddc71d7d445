"""The Interactions API through the gateway: mapped, limited, counted, sent to its owner and sent once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted

from agm import hookimpl
from agm.core.wire.usage import Usage
from agm.testing import Answer, GatewayFactory, RunningEmulator, RunningGateway
from testbed.answers import dechunk
from tests.helpers.support import AnsweringUpstream, account, connect, eventually, post

MODEL = "gemini-2.5-flash"
ROUND = '[gateway]\nshow_account = true\n[pool]\nstrategy = "round-robin"\n'
KEYS = "".join(
    f'[[auth.keys]]\nname = "{name}"\nkey = "k-{name}"\n{extra}\n'
    for name, extra in (
        ("ada", 'team = "red"'),
        ("bob", 'team = "red"'),
        ("eve", 'team = "blue"'),
        ("sol", ""),
        ("held", f'models = ["{MODEL}", "deep-*"]'),
    )
)


def accounts(emulator: RunningEmulator, *names: str) -> str:
    return ROUND + "".join(emulator.account(name) for name in names)


async def create(running: RunningGateway, *, key: str | None = None, version: str = "v1beta", **asked: Any) -> Answer:
    message = {"model": MODEL, "input": "hi", **asked}
    if "agent" in message:
        del message["model"]
    body = json.dumps(message).encode()
    return await running.fetch("POST", f"/{version}/interactions", body=body, key=key)


#: A second may pass between two answers.
_TIMES = re.compile(rb'"(?:created|updated)": ?"[^"]+",')


async def stream(running: RunningGateway, model: str) -> bytes:
    """What a client sees of a stream, whole or not."""
    client = await connect(running.port)
    body = json.dumps({"model": model, "input": "hi", "stream": True}).encode()
    client.send(post("/v1beta/interactions", body, "Connection: close"))
    await eventually(lambda: client.lost is not None, "the end of the answer")
    return dechunk(client.received)[0]


def events(body: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        text = data.removeprefix("data: ")
        found.append((name.removeprefix("event: "), text if text == "[DONE]" else json.loads(text)))
    return found


# -- whose it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest_twisted.ensureDeferred
async def test_an_interaction_goes_on_at_its_owner(
    gateway: GatewayFactory, emulator: RunningEmulator, stream: bool
) -> None:
    running = await gateway(accounts(emulator, "a", "b", "c"))
    made = await create(running, stream=stream)
    name = events(made.body)[0][1]["interaction"]["id"] if stream else made.json["id"]
    for _ in range(3):
        again = await create(running, previous_interaction_id=name)
        assert (again.status, again.account) == (200, made.account)
        assert (await running.fetch("GET", f"/v1/interactions/{name}")).account == made.account
    resumed = await running.fetch("GET", f"/v1alpha/interactions/{name}?stream=true")
    assert (events(resumed.body)[-1][0], resumed.account) == ("done", made.account)
    assert (await running.fetch("DELETE", f"/v1/interactions/{name}")).status == 200
    assert (await running.fetch("GET", f"/v1/interactions/{name}")).status == 404


@pytest_twisted.ensureDeferred
async def test_one_in_the_background_is_looked_at_and_cancelled_where_it_runs(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(accounts(emulator, "a", "b", "c"))
    for _ in range(3):
        made = await create(running, background=True)
        path = f"/v1beta/interactions/{made.json['id']}"
        assert (await running.fetch("GET", path)).json["status"] == "in_progress"
        cancelled = await running.fetch("POST", f"{path}/cancel", body=b"")
        assert (cancelled.json["status"], cancelled.account) == ("cancelled", made.account)


@pytest_twisted.ensureDeferred
async def test_what_is_not_stored_is_not_remembered(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(accounts(emulator, "a", "b"))
    for asked in ({}, {"stream": True}):
        await create(running, store=False, **asked)
    assert len(running.gateway.ownership) == 0


@pytest_twisted.ensureDeferred
async def test_environments_agents_and_files_lead_to_their_owner(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(accounts(emulator, "a", "b", "c"))
    made = await create(running, environment="remote")
    for _ in range(3):
        again = await create(running, environment=made.json["environment_id"])
        assert (again.status, again.account) == (200, made.account)
    agent = await running.fetch("POST", "/v1beta/agents", body=b'{"id": "mine", "base_agent": "antigravity"}')
    whole = {"X-Goog-Upload-Protocol": "raw", "Content-Type": "text/plain"}
    file = await running.fetch("POST", "/upload/v1beta/files", body=b"words", headers=whole)
    for _ in range(3):
        assert (await create(running, agent="mine")).account == agent.account
        named = [{"type": "document", "uri": file.json["file"]["uri"], "mime_type": "text/plain"}]
        assert (await create(running, input=named)).account == file.account


@pytest_twisted.ensureDeferred
async def test_an_owner_that_nobody_remembers_is_found(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    name = (await create(await gateway(accounts(emulator, "c")))).json["id"]
    running = await gateway(accounts(emulator, "a", "b", "c"))
    assert (await create(running, previous_interaction_id=name)).account == "c"
    assert (await running.fetch("GET", f"/v1/interactions/{name}")).account == "c"
    assert (await create(running, previous_interaction_id="v1_nobodys")).status == 404
    assert running.gateway.pool.remember() == {}


@pytest_twisted.ensureDeferred
async def test_the_neighbours_are_listed_together(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    running = await gateway(accounts(emulator, "a", "b", "c"))
    for number in range(5):
        body = json.dumps({"id": f"agent-{number}"}).encode()
        assert (await running.fetch("POST", "/v1beta/agents", body=body)).status == 200
    found: list[str] = []
    token = ""
    while True:
        page = (await running.fetch("GET", f"/v1beta/agents?page_size=2&page_token={token}")).json
        found += [agent["id"] for agent in page["agents"]]
        token = page.get("next_page_token", "")
        if not token:
            break
    assert sorted(found) == [f"agent-{number}" for number in range(5)]
    voices = (await running.fetch("GET", "/v1beta/voices")).json["voices"]
    assert len({voice["id"] for voice in voices}) == len(voices) == 5, "Google's own are listed once"
    assert (await running.fetch("GET", "/v1beta/agents?page_size=x")).status == 400


# -- who may see it ----------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_an_interaction_answers_to_its_key_and_team_alone(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(accounts(emulator, "a", "b") + KEYS, auth_mode="strict")
    of_team = (await create(running, key="k-ada")).json["id"]
    alone = (await create(running, key="k-sol", stream=True)).body
    of_one = events(alone)[0][1]["interaction"]["id"]
    for name, key, status in (
        *((of_team, key, 200 if key in ("k-ada", "k-bob") else 404) for key in ("k-ada", "k-bob", "k-eve", "k-sol")),
        *((of_one, key, 200 if key == "k-sol" else 404) for key in ("k-ada", "k-eve", "k-sol")),
        ("v1_nobodys", "k-ada", 404),
    ):
        before = len(emulator.log)
        for answer in (
            await running.fetch("GET", f"/v1/interactions/{name}", key=key),
            await create(running, key=key, previous_interaction_id=name),
        ):
            assert answer.status == status, (name, key, answer.body)
        if status == 404:
            assert len(emulator.log) == before, "nobody is asked"
            assert (await running.fetch("DELETE", f"/v1/interactions/{name}", key=key)).status == 404


@pytest.mark.parametrize(
    ("resources", "seen"), [("shared", {"bob", "eve", "sol"}), ("team", {"bob"}), ("key", set[str]())]
)
@pytest_twisted.ensureDeferred
async def test_other_resources_are_shared_as_configured(
    gateway: GatewayFactory, emulator: RunningEmulator, resources: str, seen: set[str]
) -> None:
    config = accounts(emulator, "a", "b") + f'[auth]\nresources = "{resources}"\n' + KEYS
    running = await gateway(config, auth_mode="strict")
    cache = {"model": f"models/{MODEL}", "contents": [{"role": "user", "parts": [{"text": "long"}]}]}
    made = await running.fetch("POST", "/v1beta/cachedContents", body=json.dumps(cache).encode(), key="k-ada")
    whole = {"X-Goog-Upload-Protocol": "raw", "Content-Type": "text/plain"}
    file = await running.fetch("POST", "/upload/v1beta/files", body=b"words", headers=whole, key="k-ada")
    agent = await running.fetch("POST", "/v1beta/agents", body=b'{"id": "mine"}', key="k-ada")
    names = [made.json["name"], file.json["file"]["name"], f"agents/{agent.json['id']}"]
    for key in ("ada", "bob", "eve", "sol"):
        sees = key == "ada" or key in seen
        for name in names:
            got = await running.fetch("GET", f"/v1beta/{name}", key=f"k-{key}")
            assert got.status == (200 if sees else 404), (key, name, got.body)
            listed = await running.fetch("GET", f"/v1beta/{name.partition('/')[0]}", key=f"k-{key}")
            assert (name.rpartition("/")[2] in listed.body.decode()) == sees
        uses = {"contents": cache["contents"], "cachedContent": names[0]}
        assert (await running.ask(body=uses, key=f"k-{key}")).status == (200 if sees else 404)
        assert (await create(running, agent="mine", key=f"k-{key}")).status == (200 if sees else 404)
    unknown = await running.fetch("GET", "/v1beta/files/not-made-here", key="k-ada")
    assert unknown.status == (403 if resources == "shared" else 404)


@pytest_twisted.ensureDeferred
async def test_whose_it_is_survives_a_restart(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    config = accounts(emulator, "a", "b").replace("[pool]", f'[pool]\nstate = "{state}"') + KEYS
    first = await gateway(config, auth_mode="strict")
    name = (await create(first, key="k-ada")).json["id"]
    owners = first.gateway.ownership
    found = json.loads(json.dumps({"owners": owners.dump(), "makers": owners.dump_makers()}))  # type: ignore[attr-defined]
    assert found["makers"] == {f"interactions/{name}": ["ada", "red"]}
    again = await gateway(config, auth_mode="strict")
    again.gateway.ownership.load(map(tuple, found["owners"]), found["makers"])  # type: ignore[attr-defined]
    for key, status in (("k-bob", 200), ("k-eve", 404)):
        assert (await again.fetch("GET", f"/v1/interactions/{name}", key=key)).status == status


# -- models, limits, tokens --------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_aliases_and_limits_of_keys_hold(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    config = accounts(emulator, "a") + f'[models.aliases]\n"house" = "{MODEL}"\n"gemini-old-*" = "{MODEL}"\n' + KEYS
    running = await gateway(config, auth_mode="strict")
    made = await create(running, key="k-ada", model="house")
    assert made.json["model"] == MODEL
    assert emulator.documents[-1] == {"model": MODEL, "input": "hi"}
    assert (await create(running, key="k-ada", model=MODEL)).status == 200
    assert emulator.log[-1].body == json.dumps({"model": MODEL, "input": "hi"}).encode(), "as it was sent"
    for asked, status in (
        ({"model": MODEL}, 200),
        ({"agent": "deep-research"}, 200),
        ({"model": "gemini-2.5-pro"}, 403),
        ({"agent": "antigravity"}, 403),
        ({"agent": "deep-research", "agent_config": {"model": "gemini-2.5-pro"}}, 403),
    ):
        assert (await create(running, key="k-held", **asked)).status == status, asked
    twice = b'{"model": "gemini-2.5-pro", "model": "%b", "input": "hi"}' % MODEL.encode()
    assert (await running.fetch("POST", "/v1/interactions", body=twice, key="k-held")).status == 403
    schema = [{"type": "function", "name": "f", "parameters": {"model": "gemini-2.5-pro"}}]
    assert (await create(running, key="k-held", tools=schema)).status == 200
    loose = b"{model: 'gemini-2.5-pro', input: 'hi',}"
    assert (await running.fetch("POST", "/v1/interactions", body=loose, key="k-held")).status == 403
    assert (await running.fetch("POST", "/v1/interactions", body=b"{[", key="k-ada")).status == 400


class Seen:
    """A plugin that looks."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    @hookimpl
    def agm_request_finished(self, record: Any) -> None:
        self.records.append(record)


@pytest_twisted.ensureDeferred
async def test_tokens_are_counted_once(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    seen = Seen()
    running = await gateway(accounts(emulator, "a"), plugins=[seen])
    unary = (await create(running)).json
    counts = unary["usage"]
    told = Usage(
        prompt=counts["total_input_tokens"],
        output=counts["total_output_tokens"],
        thoughts=counts["total_thought_tokens"],
        total=counts["total_tokens"],
    )
    await create(running, stream=True)
    await running.fetch("GET", f"/v1/interactions/{unary['id']}")
    behind = (await create(running, background=True)).json["id"]
    for _ in range(3):
        await running.fetch("GET", f"/v1/interactions/{behind}")
    name = events(await stream(running, "emu-cut"))[0][1]["interaction"]["id"]
    for _ in range(2):
        await running.fetch("GET", f"/v1/interactions/{name}?stream=true")
    assert [record.usage is not None for record in seen.records] == [
        *(True, True, False),
        *(False, False, True, False),  # in the background: in progress twice, then done
        *(False, True, False),
    ]
    assert [record.usage for record in seen.records[:2]] == [told, told]
    assert (seen.records[0].request.method, seen.records[0].request.model) == ("interactions.create", MODEL)
    assert (seen.records[1].finish_reason, seen.records[7].outcome) == ("completed", "aborted")


@pytest_twisted.ensureDeferred
async def test_plugins_edit_what_is_asked_and_said(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    class Edits:
        @hookimpl
        def agm_transform_request(self, body: Any, request: Any) -> Any:
            return {**body, "input": f"{body['input']} (edited)"}

        @hookimpl
        def agm_transform_event(self, event: Any, request: Any) -> Any:
            return {**event, "marked": request.method}

    running = await gateway(accounts(emulator, "a", "b"), plugins=[Edits()])
    made = await create(running)
    assert made.json["marked"] == "interactions.create"
    assert "hi (edited)" in made.body.decode()
    streamed = await create(running, stream=True, previous_interaction_id=made.json["id"])
    found = events(streamed.body)
    assert found[-1] == ("done", "[DONE]")
    assert all(data["marked"] == "interactions.create" for _, data in found[:-1])
    assert streamed.account == made.account
    name = found[0][1]["interaction"]["id"]
    assert (await create(running, previous_interaction_id=name)).account == made.account


# -- to the byte, and once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sse_done", ["forward", "drop"])
@pytest_twisted.ensureDeferred
async def test_a_stream_passes_byte_for_byte_with_its_end(
    gateway: GatewayFactory, emulator: RunningEmulator, sse_done: str
) -> None:
    config = accounts(emulator, "a").replace("[pool]", f'sse_done = "{sse_done}"\n[pool]')
    running = await gateway(config)
    for fault in (MODEL, "emu-chunks-40", "emu-drip-7", "emu-splitutf8", "emu-multiline", "emu-nofinish"):
        emulator.state.reset()
        through = await create(running, model=fault, stream=True)
        emulator.state.reset()
        body = json.dumps({"model": fault, "input": "hi", "stream": True}).encode()
        straight = attrs.evolve(running, url=emulator.url)
        direct = await straight.fetch("POST", "/v1beta/interactions", body=body, key="a")
        assert _TIMES.sub(b"", through.body) == _TIMES.sub(b"", direct.body)
        assert through.headers["content-type"] == "text/event-stream"
        assert through.headers["x-accel-buffering"] == "no"
    assert through.body


@pytest_twisted.ensureDeferred
async def test_errors_keep_their_form_and_tell_when_to_come_again(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(accounts(emulator, "a"))
    refused = await create(running, colour=1)
    assert (refused.status, refused.json) == (
        400,
        {"error": {"message": "Unknown parameter 'colour'.", "code": "invalid_request"}},
    )
    limited = await create(running, model="emu-429rpm-30")
    assert limited.status == 429
    assert set(limited.json["error"]) == {"message", "code"}
    assert 25 <= int(limited.headers["retry-after"]) <= 31
    waiting = await create(running, model="emu-429rpm-30")
    assert waiting.json["error"]["status"] == "RESOURCE_EXHAUSTED", "the gateway's own word"


@pytest_twisted.ensureDeferred
async def test_a_stream_that_breaks_off_ends_with_an_event_of_its_form(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(accounts(emulator, "a"))
    cut = events(await stream(running, "emu-cut"))
    assert [name for name, _ in cut] == ["interaction.created", "error"]
    assert cut[1][1] == {
        "error": {"message": "The upstream aborted the answer.", "code": "bad_gateway"},
        "event_type": "error",
    }
    bare = events(await stream(running, "emu-errtail"))
    assert bare[-1][1]["error"]["code"] == "service_unavailable"
    told = (await create(running, model="emu-midstream", stream=True)).body
    assert events(told)[-1][1]["error"]["code"] == "service_unavailable"
    assert told.count(b"event: error") == 1


@pytest.mark.parametrize(
    ("fault", "asked", "status"),
    [
        *((f"emu-{status}", 1, status) for status in (400, 500, 504)),
        *((f"emu-{fault}", 2, 200) for fault in ("503-once-a", "429-30-once-b", "403disabled-once-c")),
        ("emu-close", 1, 502),
        ("emu-emptystream", 1, 502),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest_twisted.ensureDeferred
async def test_what_may_have_been_acted_on_is_sent_once(
    gateway: GatewayFactory, emulator: RunningEmulator, fault: str, asked: int, status: int, stream: bool
) -> None:
    running = await gateway(accounts(emulator, "a", "b", "c"))
    answer = await create(running, model=f"{fault}{'-s' if 'once' in fault and stream else ''}", stream=stream)
    assert (answer.status, len(emulator.log)) == (status, asked), answer.body


@pytest_twisted.ensureDeferred
async def test_the_revision_goes_along_and_no_credential_does(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    running = await gateway(accounts(emulator, "a"))
    headers = {"Api-Revision": "2026-05-20", "x-goog-api-key": "a-clients", "Cookie": "c"}
    await running.fetch("POST", "/v1/interactions?key=k&x=1", body=b'{"model": "m", "input": "a"}', headers=headers)
    sent = emulator.log[-1]
    assert sent.headers["api-revision"] == "2026-05-20"
    assert "cookie" not in sent.headers
    assert dict(sent.query) == {"x": "1"}
    assert sent.account == "a"


@pytest_twisted.ensureDeferred
async def test_paths_that_nobody_has_and_a_body_that_is_a_page(gateway: GatewayFactory) -> None:
    page = AnsweringUpstream(lambda asked: (200, b"<html>", {"Content-Type": "text/html"}))
    running = await gateway(account(page))
    try:
        assert (await running.fetch("GET", "/v1beta/decisions")).status == 405
        assert (await running.fetch("GET", "/v1beta/decisions/x")).status == 404
        assert (await running.fetch("DELETE", "/v1beta/interactions")).status == 405
        assert (await running.fetch("GET", "/v1beta/interactions/live")).status == 426
        assert (await create(running)).status == 502
    finally:
        await page.stop()


# -- secrets -----------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_secrets_reach_the_client_and_no_log(
    gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path
) -> None:
    log = tmp_path / "requests.sqlite"
    running = await gateway(accounts(emulator, "a"), request_log_path=log)
    kept = running.gateway.request_log
    assert kept is not None
    kept.keep_bodies(60)
    hook = b'{"uri": "https://example.com/x", "subscribed_events": ["interaction.completed"]}'
    made = (await running.fetch("POST", "/v1/webhooks", body=hook)).json
    path = f"/v1/webhooks/{made['id']}"
    fresh = (await running.fetch("POST", f"{path}:rotateSigningSecret", body=b"{}")).json["secret"]
    name = (await create(running)).json["id"]
    token = (await running.fetch("POST", f"/v1/interactions/{name}/auth_tokens", body=b"{}")).json["auth_token"]
    shown = b'{"id": "c", "type": "bearer_token", "token": "canary-secret-of-a-client"}'
    assert (await running.fetch("POST", "/v1/credentials", body=shown)).status == 200
    await kept.stop()
    written = log.read_bytes()
    assert b"interactions.create" in written
    assert b'"input"' in written or b'"input"' in written, "other bodies are kept"
    for secret in (made["new_signing_secret"], fresh, token, "canary-secret-of-a-client"):
        assert secret.encode() not in written
    assert running.gateway.redactor.text(f"x {fresh} y") == running.gateway.redactor.text("x " + token + " y")

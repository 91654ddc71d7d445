"""Which hooks meet which requests: recorded on every route, framing and kind, and as the table in the manual says."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from agm.api import Fault, KeepAnswer, Verdict, hookimpl
from agm.contrib import openai_upstream
from agm.testing import GatewayFactory
from tests.helpers.support import AnsweringUpstream, Asked, ScriptedUpstream, account, eventually
from tests.helpers.websockets import DEVELOPER, accept, open_socket

TEXT = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text("utf-8")
#: The hooks of a request, as the table's columns have them.
HOOKS = (
    "agm_look_up",
    "agm_map_model",
    "agm_answer_request",
    "agm_transform_request",
    "agm_filter_accounts",
    "agm_select_account",
    "agm_wrap_request",
    "agm_answer_headers",
    "agm_transform_event",
    "agm_attempt_finished",
    "agm_request_finished",
)
EVENT: dict[str, Any] = {"candidates": [{"content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}]}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
BATCH = {"batch": {"inputConfig": {"requests": {"requests": [{"request": CONTENTS}]}}}}
#: By the route as the table has it: HTTP method, path, body and headers.
ROUTES: dict[str, tuple[str, str, Any, dict[str, str]]] = {
    "`generateContent`": ("POST", "models/m:generateContent", CONTENTS, {}),
    "`streamGenerateContent`, events": ("POST", "models/m:streamGenerateContent?alt=sse", CONTENTS, {}),
    "`streamGenerateContent`, an array": ("POST", "models/m:streamGenerateContent?alt=json", CONTENTS, {}),
    "`countTokens`": ("POST", "models/m:countTokens", CONTENTS, {}),
    "`embedContent`": ("POST", "models/m:embedContent", {"content": {"parts": [{"text": "hi"}]}}, {}),
    "`predict`": ("POST", "models/m:predict", {"instances": [{"content": "hi"}]}, {}),
    "`batchGenerateContent`": ("POST", "models/m:batchGenerateContent", BATCH, {}),
    "`batches.list`": ("GET", "batches", None, {}),
    "`batches.get`": ("GET", "batches/b", None, {}),
    "`batches.cancel`": ("POST", "batches/b:cancel", {}, {}),
    "`cachedContents.create`": ("POST", "cachedContents", {"model": "models/m", **CONTENTS}, {}),
    "`cachedContents.update`": ("PATCH", "cachedContents/c?updateMask=ttl", {"ttl": "60s"}, {}),
    "`cachedContents.delete`": ("DELETE", "cachedContents/c", None, {}),
    "`fileSearchStores.create`": ("POST", "fileSearchStores", {"displayName": "x"}, {}),
    "`files.get`": ("GET", "files/f", None, {}),
    "`files.upload`, its beginning": (
        "POST",
        "/upload/v1beta/files",
        {"file": {"displayName": "x"}},
        {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"},
    ),
    "`files.upload`, its bytes": ("POST", "/upload/v1beta/files?uploadType=media", b"bytes", {}),
    "`files.download`": ("GET", "files/f:download?alt=media", None, {}),
    "`interactions.create`": ("POST", "interactions", {"model": "m", "input": "hi"}, {}),
    "`interactions.create`, events": ("POST", "interactions", {"model": "m", "input": "hi", "stream": True}, {}),
    "`interactions.get`": ("GET", "interactions/i", None, {}),
    "`interactions.cancel`": ("POST", "interactions/i/cancel", {}, {}),
    "`openai.chat.completions`": ("POST", "openai/chat/completions", {"model": "m", "messages": []}, {}),
    "`openai.chat.completions`, events": (
        "POST",
        "openai/chat/completions",
        {"model": "m", "messages": [], "stream": True},
        {},
    ),
    "`openai.files.get`": ("GET", "openai/files/file-f", None, {}),
    "`generateContent`, Vertex AI's path": (
        "POST",
        "/v1/projects/p/locations/global/publishers/google/models/m:generateContent",
        CONTENTS,
        {},
    ),
    "`files.download`, below /download": ("GET", "/download/v1beta/files/f:download?alt=media", None, {}),
}
#: What is no request with an answer.
SESSION = "`BidiGenerateContent`, a Live session"
#: What each request of a batch is, beside the batch.
INNER = {"`batchGenerateContent`": {"generateContent"}}
KEPT = KeepAnswer(headers={"X-Kept": "yes"})
#: Which of them each kind of account has, beside the calls that all have.
CALLS = tuple(ROUTES)[:6]
ON_VERTEX = "`generateContent`, Vertex AI's path"
KINDS = {
    "api-key": tuple(ROUTES),
    "vertex": (*CALLS, ON_VERTEX),
    "code-assist": CALLS[:4],
    "openai": (*CALLS[:3], CALLS[4], ON_VERTEX),  # a plugin's
}


class Recorder:
    """A plugin with every hook of a request, which notes that it was called, by which account and with which text."""

    may_pass_unseen = True

    def __init__(self) -> None:
        self.called: set[str] = set()
        self.methods: set[str] = set()
        self.accounts: set[str] = set()

    def _note(self, hook: str, request: Any) -> None:
        self.called.add(hook)
        self.methods.add(request.method)
        assert hook == "agm_look_up" or request.found == {"every.team": "a"}

    @hookimpl
    def agm_look_up(self, request: Any) -> dict[str, Any]:
        self._note("agm_look_up", request)
        return {"every.team": "a"}

    @hookimpl
    def agm_map_model(self, request: Any) -> None:
        self._note("agm_map_model", request)

    @hookimpl
    def agm_answer_request(self, request: Any) -> KeepAnswer:
        self._note("agm_answer_request", request)
        return KEPT

    @hookimpl
    def agm_transform_request(self, body: Any, request: Any) -> dict[str, Any]:
        self._note("agm_transform_request", request)
        for content in (*body.get("contents", ()), body.get("content", {"parts": []})):  # which reaches every kind
            content["parts"].append({"text": "edited"})
        return {**body, "labels": {"edited": "edited"}}

    @hookimpl
    def agm_filter_accounts(self, request: Any) -> None:
        self._note("agm_filter_accounts", request)

    @hookimpl
    def agm_select_account(self, request: Any) -> None:
        self._note("agm_select_account", request)

    @hookimpl
    def agm_wrap_request(self, request: Any) -> None:
        self._note("agm_wrap_request", request)

    @hookimpl
    def agm_answer_headers(self, request: Any, account: Any) -> dict[str, str]:
        self._note("agm_answer_headers", request)
        self.accounts.add(account.name)
        return {"X-Mine": "yes", "content-type": "application/x-mine"}

    @hookimpl
    def agm_transform_event(self, event: Any, request: Any, account: Any) -> dict[str, Any]:
        self._note("agm_transform_event", request)
        self.accounts.add(account.name)
        return {**event, "answered": True}

    @hookimpl
    def agm_attempt_finished(self, attempt: Any) -> None:
        self.called.add("agm_attempt_finished")

    @hookimpl
    def agm_request_finished(self, record: Any) -> None:
        self._note("agm_request_finished", record.request)
        self.record = record


def answer(asked: Asked) -> tuple[Any, ...]:
    """Answer a call with an event, a list with one resource, a download with bytes, all else with an object."""
    if asked.path == "/embeddings":
        return 200, {"data": [{"embedding": [0.5]}]}
    if asked.path == "/chat/completions":
        whole = {"choices": [{"message": {"content": "hello"}, "delta": {"content": "hello"}, "finish_reason": "stop"}]}
        if b'"stream":true' not in asked.body:
            return 200, whole
        return 200, f"data: {json.dumps(whole)}\n\ndata: [DONE]\n\n".encode(), {"content-type": "text/event-stream"}
    event = {"response": EVENT} if "v1internal" in asked.path else EVENT
    if b'"stream"' in asked.body:
        named = {"event_type": "interaction.complete", **EVENT}
        return 200, f"data: {json.dumps(named)}\n\n".encode(), {"content-type": "text/event-stream"}
    if "alt=sse" in asked.uri:
        return 200, f"data: {json.dumps(event)}\r\n\r\n".encode(), {"content-type": "text/event-stream"}
    if asked.path.endswith(":streamGenerateContent"):
        return 200, json.dumps([event]).encode()
    if asked.path.startswith("/upload/") and "media" not in asked.uri:
        return 200, b"", {"x-goog-upload-url": "/up?upload_id=x", "x-goog-upload-status": "active"}
    if "alt=media" in asked.uri:
        return 200, b"\x00\x01", {"content-type": "application/octet-stream"}
    if asked.path.endswith("/batches"):
        return 200, {"operations": [{"name": "batches/b"}]}
    return 200, event if ":" in asked.path else {"name": asked.path.partition("v1beta/")[2]}


@pytest_twisted.async_yield_fixture
async def upstream() -> AsyncIterator[AnsweringUpstream]:
    answering = AnsweringUpstream(answer)
    yield answering
    await answering.stop()


def documented() -> dict[str, set[str]]:
    """The table of the manual: the hooks of each route."""
    section = TEXT[TEXT.index("\n### Which hooks meet what\n") :]
    rows: list[list[str]] = []
    for line in section.splitlines()[2:]:
        if line.startswith("### "):
            break
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    heading, _, *rest = rows
    columns = [re.findall(r"`(\w+)`", cell) for cell in heading[1:]]
    return {
        row[0]: {f"agm_{hook}" for hooks, cell in zip(columns, row[1:], strict=True) if cell for hook in hooks}
        for row in rest
    }


def test_the_table_has_every_route() -> None:
    assert list(documented()) == [*ROUTES, SESSION]


@pytest.mark.parametrize(("kind", "route"), [(kind, route) for kind, routes in KINDS.items() for route in routes])
@pytest_twisted.ensureDeferred
async def test_the_hooks_meet_a_request_as_the_manual_says(
    gateway: GatewayFactory, upstream: AnsweringUpstream, kind: str, route: str
) -> None:
    """And what they return is in what goes out and in what comes back, with the account told."""
    recorder = Recorder()
    running = await gateway(account(upstream, kind), plugins=[openai_upstream, recorder])
    method, path, body, headers = ROUTES[route]
    answered = await running.fetch(
        method,
        path if path.startswith("/") else f"/v1beta/{path}",
        body=body if body is None or isinstance(body, bytes) else json.dumps(body).encode(),
        headers={**headers, **({"Content-Type": "text/plain"} if isinstance(body, bytes) else {})},
    )
    assert answered.status == 200, answered.body
    await eventually(lambda: "agm_request_finished" in recorder.called, "the record")
    assert recorder.called == documented()[route]
    (outer,) = recorder.methods - INNER.get(route, set())
    assert recorder.methods == {outer} | INNER.get(route, set())
    assert route.strip("`").startswith(outer)
    assert recorder.accounts == {"a"}
    assert (answered.headers["x-mine"], answered.headers["content-type"]) == ("yes", "application/x-mine")
    kept = "agm_answer_request" in recorder.called
    assert answered.headers.get("x-kept") == ("yes" if kept else None)
    assert recorder.record.answer == (answered.body if kept else None)
    (asked,) = upstream.asked
    assert (b"edited" in asked.body) is ("agm_transform_request" in recorder.called)
    assert (b'"answered"' in answered.body) is ("agm_transform_event" in recorder.called)


@pytest.mark.parametrize("kind", ["api-key", "vertex"])
@pytest_twisted.ensureDeferred
async def test_the_hooks_meet_a_session_as_the_manual_says(gateway: GatewayFactory, kind: str) -> None:
    scripted, recorder = ScriptedUpstream(), Recorder()
    running = await gateway(account(scripted, kind), plugins=[recorder])
    path = DEVELOPER
    if kind == "vertex":
        path = "/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent"
    name = "models/m" if kind == "api-key" else "publishers/google/models/m"
    client = await open_socket(running.port, path, setup={"setup": {"model": name}})
    up = await accept(scripted)
    assert json.loads(await up.message())["labels"] == {"edited": "edited"}
    up.say({"setupComplete": {}})
    assert json.loads(await client.message())["answered"] is True
    client.close()
    await eventually(lambda: "agm_request_finished" in recorder.called, "the record")
    assert recorder.called == documented()[SESSION]
    (method,) = recorder.methods
    assert method in (SESSION.split("`")[1], "LlmBidiService.BidiGenerateContent")
    assert recorder.accounts == {"a"}
    await scripted.stop()


@pytest.mark.parametrize(("kind", "route"), [(kind, route) for kind, routes in KINDS.items() for route in routes])
@pytest_twisted.ensureDeferred
async def test_an_error_is_classified_on_every_route(gateway: GatewayFactory, kind: str, route: str) -> None:
    """By a plugin, whose words the client gets in Google's form, with headers that a plugin adds."""
    asked: list[str] = []

    class Classifier:
        may_pass_unseen = True

        @hookimpl
        def agm_classify_error(self, status: int, body: bytes, account: Any, request: Any) -> Verdict:
            asked.append(f"{account.name} {request.method} {status} {body.decode()}")
            return Verdict(Fault.FINAL, "TEAPOT", message="It is a teapot.")

        @hookimpl
        def agm_transform_request(self, body: Any) -> None:
            pass

        @hookimpl
        def agm_answer_headers(self, status: int, account: Any) -> dict[str, str]:
            return {"X-Mine": f"{status} of {account.name}"}

    failing = AnsweringUpstream(lambda _: (418, b"<teapot>", {"content-type": "text/html"}))
    running = await gateway(account(failing, kind), plugins=[openai_upstream, Classifier()])
    method, path, body, headers = ROUTES[route]
    answered = await running.fetch(
        method,
        path if path.startswith("/") else f"/v1beta/{path}",
        body=body if body is None or isinstance(body, bytes) else json.dumps(body).encode(),
        headers={**headers, **({"Content-Type": "text/plain"} if isinstance(body, bytes) else {})},
    )
    assert answered.status == 418
    assert answered.json["error"]["message"] == "It is a teapot."
    assert answered.headers["x-mine"] == "418 of a"
    (told,) = asked
    assert re.fullmatch(r"a [A-Za-z.]+ 418 <teapot>", told)
    await failing.stop()

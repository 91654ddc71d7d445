"""The chains that edit bodies and answers: what may come in an event's place, who is blamed, what is not let past."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from agm.api import (
    ClientKey,
    EndStream,
    Fault,
    Forbidden,
    GatewayRequest,
    KeyRing,
    RequestRecord,
    Usage,
    Verdict,
    digest,
    hookimpl,
)
from agm.testing import GatewayFactory, RunningEmulator
from tests.helpers.support import AnsweringUpstream, Asked, ScriptedUpstream, account, connect, eventually, post

KINDS = ("api-key", "vertex", "code-assist")
TARGETS = {
    "sse": "/v1beta/models/m:streamGenerateContent?alt=sse",
    "array": "/v1beta/models/m:streamGenerateContent?alt=json",
}
WORDS = ("one", "two", "three")


def plugin(name: str = "mine", **hooks: Any) -> Any:
    """A plugin of some functions, each marked, and of attributes."""
    return SimpleNamespace(
        __name__=name, **{key: hookimpl(value) if key.startswith("agm_") else value for key, value in hooks.items()}
    )


def event(word: str) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [{"text": word}]}}]}


def word_of(document: dict[str, Any]) -> str:
    return str(document["candidates"][0]["content"]["parts"][0]["text"])


def answer(asked: Asked) -> tuple[Any, ...]:
    """Three events, or the first of them."""
    documents = [{"response": event(word)} if "v1internal" in asked.path else event(word) for word in WORDS]
    if "alt=sse" in asked.uri:
        body = b"".join(f"data: {json.dumps(document)}\r\n\r\n".encode() for document in documents)
        return 200, body, {"content-type": "text/event-stream"}
    return 200, documents[0]


@pytest_twisted.async_yield_fixture
async def answering() -> AsyncIterator[AnsweringUpstream]:
    upstream = AnsweringUpstream(answer)
    yield upstream
    await upstream.stop()


class Observer:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    @hookimpl
    def agm_request_finished(self, record: RequestRecord) -> None:
        self.records.append(record)

    async def told(self) -> RequestRecord:
        await eventually(lambda: self.records, "the record")
        return self.records[-1]


# What comes in the place of an event

REPLACED: dict[str, tuple[Callable[[dict[str, Any]], Any], list[str]]] = {
    "unchanged": (lambda found: None, ["one", "two", "three"]),
    "dropped": (lambda found: [] if word_of(found) == "two" else found, ["one", "three"]),
    "all dropped": (lambda found: [], []),
    "several": (lambda found: [event("before"), found], ["before", "one", "before", "two", "before", "three"]),
    "a good end": (lambda found: EndStream([event("end")]) if word_of(found) == "two" else None, ["one", "end"]),
    "an end without an event": (lambda found: EndStream() if word_of(found) == "two" else None, ["one"]),
    "an end at once": (lambda found: EndStream(), []),
}


@pytest.mark.parametrize("what", REPLACED)
@pytest.mark.parametrize("framing", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_an_event_is_replaced_by_none_several_or_an_end(
    gateway: GatewayFactory, answering: AnsweringUpstream, kind: str, framing: str, what: str
) -> None:
    """A whole answer in its framing, recorded as a good one, and asked for once."""
    replace, expected = REPLACED[what]
    observer = Observer()
    running = await gateway(
        account(answering, kind) + account(answering, kind, "b"),
        plugins=[observer, plugin(agm_transform_event=lambda event: replace(event))],
    )
    answered = await running.fetch("POST", TARGETS[framing], body=b'{"contents": []}')
    assert answered.status == 200
    documents = answered.events if framing == "sse" else answered.json
    assert [word_of(document) for document in documents] == expected
    assert (await observer.told()).outcome == "ok"
    assert len(answering.asked) == 1


@pytest.mark.parametrize("what", REPLACED)
@pytest.mark.parametrize("path", ["interactions", "openai/chat/completions"])
@pytest_twisted.ensureDeferred
async def test_the_same_holds_for_the_surfaces_beside_it(gateway: GatewayFactory, path: str, what: str) -> None:
    """In their own framing; an interaction's stream ends with its own last event, also where a plugin ends it."""

    def streamed(asked: Asked) -> tuple[Any, ...]:
        body = b"".join(f"data: {json.dumps(event(word))}\n\n".encode() for word in WORDS) + b"data: [DONE]\n\n"
        return 200, body, {"content-type": "text/event-stream"}

    replace, expected = REPLACED[what]
    upstream = AnsweringUpstream(streamed)
    observer = Observer()
    running = await gateway(
        account(upstream) + account(upstream, name="b"),
        plugins=[observer, plugin(agm_transform_event=lambda event: replace(event))],
    )
    body = json.dumps({"model": "m", "input": "hi", "messages": [], "stream": True}).encode()
    answered = await running.fetch("POST", f"/v1beta/{path}", body=body)
    assert answered.status == 200, answered.body
    documents = [json.loads(line[6:]) for line in answered.body.splitlines() if line.startswith(b"data: {")]
    assert [word_of(document) for document in documents] == expected
    if path == "interactions":
        assert answered.body.endswith(b"event: done\ndata: [DONE]\n\n")
    assert (await observer.told()).outcome == "ok"
    assert len(upstream.asked) == 1
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_a_good_end_does_not_wait_for_the_upstream(gateway: GatewayFactory, upstream: ScriptedUpstream) -> None:
    """One that would go on is cut off."""
    ends = plugin(agm_transform_event=lambda event: EndStream([event]))
    running = await gateway(account(upstream), plugins=[ends])
    client = await connect(running.port)
    client.send(post(TARGETS["array"]).replace(b"Host", b"Connection: close\r\nHost"))
    up = await upstream.connection()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = f"data: {json.dumps(event('one'))}\r\n\r\n".encode()
    up.send(head + b"%x\r\n%b\r\n" % (len(data), data))
    received = await client.closed()
    assert b"]" in received
    assert received.endswith(b"0\r\n\r\n")
    await eventually(lambda: up.lost is not None, "the end of the upstream's connection")


@pytest_twisted.ensureDeferred
async def test_each_plugin_of_the_chain_gets_each_event_that_the_one_before_made(
    gateway: GatewayFactory, answering: AnsweringUpstream
) -> None:
    doubling = plugin("doubling", agm_transform_event=lambda event: [event, event])
    shouting = plugin("shouting", agm_transform_event=lambda event: globals()["event"](word_of(event).upper()))
    running = await gateway(account(answering), plugins=[shouting, doubling])
    answered = await running.fetch("POST", TARGETS["sse"], body=b'{"contents": []}')
    assert [word_of(document) for document in answered.events] == ["ONE", "ONE", "TWO", "TWO", "THREE", "THREE"]


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize("made", [[], [{}, {}], EndStream(), EndStream([{}, {}])])
@pytest_twisted.ensureDeferred
async def test_a_unary_answer_stays_one_document(
    gateway: GatewayFactory, answering: AnsweringUpstream, made: Any
) -> None:
    running = await gateway(account(answering), plugins=[plugin(agm_transform_event=lambda event: made)])
    answered = await running.ask()
    assert answered.status == 500
    assert "hook agm_transform_event of plugin mine" in answered.json["error"]["message"]
    assert running.gateway.hooks.failures["mine", "agm_transform_event"] == 1


@pytest_twisted.ensureDeferred
async def test_a_list_of_several_accounts_is_edited_account_by_account(gateway: GatewayFactory) -> None:
    def listing(asked: Asked) -> tuple[Any, ...]:
        return 200, {"batches": [{"name": f"batches/of-{asked.credential}"}]}

    def edit(event: dict[str, Any], account: Any) -> dict[str, Any]:
        return {"batches": [{**batch, "displayName": account.name} for batch in event["batches"]]}

    upstream = AnsweringUpstream(listing)
    accounts = "".join(account(upstream, name=name).replace('"k"', f'"key-{name}"') for name in "ab")
    running = await gateway(accounts, plugins=[plugin(agm_transform_event=edit)])
    answered = await running.fetch("GET", "/v1beta/batches")
    assert answered.json["batches"] == [{"name": f"batches/of-key-{name}", "displayName": name} for name in "ab"]
    await upstream.stop()


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_resource_whose_editing_fails_is_500_with_the_plugins_name(gateway: GatewayFactory) -> None:
    """Nothing has gone to the client before a document is whole, and the connection stays."""

    def fail(event: Any) -> None:
        raise ValueError

    upstream = AnsweringUpstream(lambda asked: (200, {"name": "cachedContents/c", "displayName": "hidden"}))
    observer = Observer()
    running = await gateway(account(upstream), plugins=[observer, plugin(agm_transform_event=fail)])
    client = await connect(running.port)
    asking = b"GET /v1beta/cachedContents/c HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    client.send(asking)
    received = await client.until(b"PLUGIN_FAILED")
    assert received.startswith(b"HTTP/1.1 500 ")
    assert received.count(b"HTTP/1.1") == 1
    assert b"hidden" not in received
    told = await observer.told()
    assert (told.outcome, told.status) == ("error", 500)
    client.send(asking)
    await eventually(lambda: client.received.count(b"HTTP/1.1 500 ") == 2, "another answer on the same connection")
    await upstream.stop()


# What JSON cannot hold


@pytest.mark.expects_logged_failures
@pytest.mark.parametrize("hook", ["agm_transform_request", "agm_transform_event"])
@pytest.mark.parametrize("guilty", [0, 1])
@pytest_twisted.ensureDeferred
async def test_what_json_cannot_hold_is_blamed_on_its_plugin(
    gateway: GatewayFactory, answering: AnsweringUpstream, hook: str, guilty: int
) -> None:
    """Also where it was put in in place, and another plugin comes after."""

    def put(body: Any = None, event: Any = None) -> None:
        (body or event)["x"] = object()

    def leave(body: Any = None, event: Any = None) -> None:
        pass

    def made(name: str, bad: bool) -> Any:
        function = put if bad else leave
        if hook == "agm_transform_request":
            return plugin(name, agm_transform_request=lambda body: function(body=body))
        return plugin(name, agm_transform_event=lambda event: function(event=event))

    observer = Observer()
    plugins = [made("first", guilty == 0), made("second", guilty == 1), observer]
    running = await gateway(account(answering), plugins=plugins)
    answered = await running.ask()
    assert answered.status == 500
    assert f"hook {hook} of plugin {('first', 'second')[guilty]} failed" in answered.json["error"]["message"]
    record = await observer.told()
    assert (record.status, record.outcome) == (500, "error")


# What no plugin can be shown

FILE_BATCH = json.dumps({"batch": {"input_config": {"file_name": "files/f"}}}).encode()
START = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
UNSEEN: dict[str, tuple[str, str, bytes | None, dict[str, str], str]] = {
    "a small upload": ("POST", "/upload/v1beta/files?uploadType=media", b"bytes", {}, "agm_transform_request"),
    "a large upload": ("POST", "/upload/v1beta/files?uploadType=media", b"x" * 2**21, {}, "agm_transform_request"),
    "the beginning of one": ("POST", "/upload/v1beta/files", b"{}", START, "agm_transform_request"),
    "a batch in a file": ("POST", "/v1beta/models/m:batchGenerateContent", FILE_BATCH, {}, "agm_transform_request"),
    "a form of OpenAI's surface": (
        "POST",
        "/v1beta/openai/videos",
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n',
        {"Content-Type": "multipart/form-data; boundary=b"},
        "agm_transform_request",
    ),
    "a batch of OpenAI's surface": (
        "POST",
        "/v1beta/openai/batches",
        b'{"input_file_id": "file-f"}',
        {},
        "agm_transform_request",
    ),
    "a download": ("GET", "/v1beta/files/f:download?alt=media", None, {}, "agm_transform_event"),
    "bytes unasked for": ("GET", "/v1beta/files/f", None, {}, "agm_transform_event"),
}


@pytest.mark.parametrize("what", UNSEEN)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_shown_is_refused_in_the_plugin_s_name_unless_it_says_that_it_may_pass(
    gateway: GatewayFactory, what: str
) -> None:
    method, path, body, headers, hook = UNSEEN[what]
    upstream = AnsweringUpstream(lambda asked: (200, b"bytes", {"content-type": "application/octet-stream"}))
    other = "agm_transform_event" if hook == "agm_transform_request" else "agm_transform_request"
    for passes, hooks in ((False, [hook]), (True, [hook]), (True, [])):
        hooked = {name: (lambda request: None) for name in hooks}
        mine = plugin(may_pass_unseen=passes, **(hooked or {other: lambda request: None}))
        running = await gateway(account(upstream), plugins=[mine])
        asked = len(upstream.asked)
        answered = await running.fetch(method, path, body=body, headers=headers)
        if passes:
            assert answered.status == 200, answered.body
            continue
        assert answered.status == 501
        error = answered.json["error"]
        assert error["details"][0]["reason"] == "PLUGIN_CANNOT_SEE"
        assert "cannot be shown to plugin mine" in error["message"]
        assert len(upstream.asked) - asked == (what == "bytes unasked for")
    await upstream.stop()


# Tokens of a translated answer


def translate(event: dict[str, Any]) -> dict[str, Any]:
    """From the form of an upstream that is not Google's."""
    return {
        "candidates": [
            {"content": {"parts": [{"text": event["text"]}]}, **({"finishReason": "STOP"} if event["last"] else {})}
        ],
        "usageMetadata": {"promptTokenCount": event["in"], "candidatesTokenCount": event["out"]},
    }


@pytest.mark.parametrize("framing", ["unary", "sse", "array"])
@pytest_twisted.ensureDeferred
async def test_tokens_of_a_translated_answer_count(gateway: GatewayFactory, framing: str) -> None:
    """In the record, and for the limit of a key."""

    def foreign(asked: Asked) -> tuple[Any, ...]:
        documents = [{"text": "a", "in": 7, "out": n, "last": n == 5} for n in (1, 3, 5)]
        if "alt=sse" in asked.uri:
            body = b"".join(f"data: {json.dumps(document)}\n\n".encode() for document in documents)
            return 200, body, {"content-type": "text/event-stream"}
        return 200, documents[-1]

    upstream = AnsweringUpstream(foreign)
    observer = Observer()
    running = await gateway(
        account(upstream)
        + f'[[auth.keys]]\nname = "k"\nkey_sha256 = "{digest("client-key-0123")}"\ntokens_per_day = 12\n',
        plugins=[plugin(agm_transform_event=translate), observer],
        auth_mode="strict",
    )
    target = TARGETS.get(framing, "/v1beta/models/m:generateContent")
    answered = await running.fetch("POST", target, body=b'{"contents": []}', key="client-key-0123")
    assert answered.status == 200, answered.body
    record = await observer.told()
    assert record.usage == Usage(prompt=7, output=5, total=12)
    assert record.finish_reason == "STOP"
    assert (await running.ask(key="client-key-0123")).status == 429
    await upstream.stop()


# Errors in Google's form


@pytest_twisted.ensureDeferred
async def test_an_error_of_a_foreign_upstream_comes_out_in_google_s_form(gateway: GatewayFactory) -> None:
    upstream = AnsweringUpstream(lambda asked: (400, {"error": {"message": "bad", "type": "t", "code": None}}))

    def classify(status: int, body: bytes) -> Verdict:
        return Verdict(Fault.FINAL, "BAD_PROMPT", message=f"It says: {json.loads(body)['error']['message']}")

    running = await gateway(account(upstream), plugins=[plugin(agm_classify_error=classify)])
    answered = await running.ask()
    assert answered.status == 400
    error = answered.json["error"]
    assert (error["code"], error["message"], error["status"]) == (400, "It says: bad", "INVALID_ARGUMENT")
    assert error["details"][0]["reason"] == "BAD_PROMPT"
    plain = await gateway(account(upstream))
    assert (await plain.ask()).json["error"]["type"] == "t"  # as it is, where nobody says what it means
    await upstream.stop()


# Answer headers


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_header_that_says_how_the_answer_is_sent_is_no_plugin_s(
    gateway: GatewayFactory, answering: AnsweringUpstream
) -> None:
    """The first plugin's header counts; one that may not be is passed over with its whole result, and logged."""
    plugins = [
        plugin("a", agm_answer_headers=lambda headers: {"X-One": "of a", "X-Type": headers["content-type"]}),
        plugin("b", agm_answer_headers=lambda status: {"X-One": f"of b, {status}"}),
        plugin("c", agm_answer_headers=lambda: {"Content-Length": "1", "X-Two": "no"}),
        plugin("d", agm_answer_headers=lambda: {"X-Three": "a\r\nb"}),
    ]
    running = await gateway(account(answering), plugins=plugins)
    answered = await running.ask()
    assert answered.headers["x-one"] == "of b, 200"
    assert answered.headers["x-type"] == "application/json"
    assert not {"x-two", "x-three"} & answered.headers.keys()
    assert word_of(answered.json) == "one"
    assert set(running.gateway.hooks.failures) == {("c", "agm_answer_headers"), ("d", "agm_answer_headers")}


# Client keys


class Source:
    """A source of client keys that answers as a test says."""

    def __init__(self, lookup: Callable[[str], Any], **names: ClientKey) -> None:
        self.lookup = lookup
        self.named = names.get

    def __len__(self) -> int:
        return 1


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_key_service_that_is_down_is_503_and_an_error_of_its_own_is_what_it_says(
    gateway: GatewayFactory, answering: AnsweringUpstream
) -> None:
    """Another source that knows the key lets it in; where no key is needed, nobody is refused."""

    async def lookup(presented: str) -> None:
        if presented == "suspended-key":
            raise Forbidden("This key is suspended.", reason="SUSPENDED")
        raise OSError(presented)

    mine = plugin(agm_client_keys=lambda: [Source(lookup), KeyRing.of({"good": "good-key-0123"})])
    running = await gateway(account(answering), plugins=[mine], auth_mode="strict")
    down = await running.ask(key="any-key-01234")
    assert (down.status, down.headers["retry-after"]) == (503, "1")
    assert down.json["error"]["details"][0]["reason"] == "CLIENT_KEY_LOOKUP_FAILED"
    assert (await running.ask(key="good-key-0123")).status == 200
    suspended = await running.ask(key="suspended-key")
    assert (suspended.status, suspended.json["error"]["message"]) == (403, "This key is suspended.")
    assert (await running.ask()).status == 401
    assert (await (await gateway(account(answering), plugins=[mine])).ask(key="any-key-01234")).status == 200


# Explanations


@pytest_twisted.ensureDeferred
async def test_an_explanation_names_the_plugin_that_refuses_and_knows_a_plugin_s_keys(
    gateway: GatewayFactory, answering: AnsweringUpstream
) -> None:
    def refuse(model: str, request: GatewayRequest) -> None:
        if request.client_key == "visitor":
            raise Forbidden("No visitors.", reason="NO_VISITORS")

    visitor = ClientKey("visitor", digest("visitor-key"))
    keys = plugin("keys", agm_client_keys=lambda: [Source(lambda presented: None, visitor=visitor)])
    running = await gateway(account(answering), plugins=[keys, plugin("guard", agm_map_model=refuse)])
    found = await running.explain(key="visitor")
    assert (found["client_key"], found["refused_by"]) == ("visitor", "guard")
    assert found["error"]["message"] == "No visitors."
    said = {"error": 403, "message": "No visitors."}
    assert {"hook": "agm_map_model", "plugin": "guard", "said": said} in found["plugins"]
    assert "refused_by" not in await running.explain()
    unknown = await running.fetch("POST", "/_agm/explain", body=b'{"model": "m", "key": "nobody"}')
    assert unknown.status == 400


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_an_explanation_names_the_plugin_that_fails(
    gateway: GatewayFactory, answering: AnsweringUpstream
) -> None:
    def fail(body: Any) -> None:
        raise ValueError

    running = await gateway(account(answering), plugins=[plugin(agm_transform_request=fail)])
    found = await running.explain()
    assert found["error"]["code"] == 500
    assert found["refused_by"] == "mine"
    bare = await gateway("")
    assert (await bare.explain())["refused_by"] is None


# Records


@pytest_twisted.ensureDeferred
async def test_a_request_whose_time_is_over_is_recorded_as_failed(
    gateway: GatewayFactory, upstream: ScriptedUpstream
) -> None:
    """The client gets 504, and has not left."""
    observer = Observer()

    async def wait(body: Any) -> None:
        await Deferred()

    running = await gateway(
        account(upstream) + "[timeouts]\ntotal = 0.2\n", plugins=[observer, plugin(agm_transform_request=wait)]
    )
    assert (await running.ask()).status == 504
    record = await observer.told()
    assert (record.status, record.outcome) == (504, "error")
    assert not running.gateway.hooks.failures  # nor is the plugin to blame that was waited for


@pytest.mark.expects_logged_failures
@pytest_twisted.ensureDeferred
async def test_a_plugin_whose_own_work_is_cancelled_has_failed(
    gateway: GatewayFactory, answering: AnsweringUpstream
) -> None:
    async def cancel(body: Any) -> None:
        work: Deferred[None] = Deferred()
        work.cancel()
        await work

    running = await gateway(account(answering), plugins=[plugin(agm_transform_request=cancel)])
    assert (await running.ask()).status == 500
    assert running.gateway.hooks.failures["mine", "agm_transform_request"] == 1


@pytest_twisted.ensureDeferred
async def test_a_plugin_s_own_usage_hidden_from_the_client_still_counts(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """What the client is not told, the upstream has."""
    observer = Observer()

    def hide(event: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in event.items() if name != "usageMetadata"}

    running = await gateway(emulator.account(), plugins=[observer, plugin(agm_transform_event=hide)])
    answered = await running.ask(method="streamGenerateContent")
    assert b"usageMetadata" not in answered.body
    usage = (await observer.told()).usage
    assert usage is not None
    assert usage.total > 0

"""Files, cached contents, batches: every request about one reaches the account that has it, and no other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted

from agm import hookimpl
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway
from tests.helpers.support import AnsweringUpstream, Asked, account, connect, get, google_error, info, retry

CONTENTS = [{"role": "user", "parts": [{"text": "a long text"}]}]
CACHE = json.dumps({"model": "models/gemini-2.5-flash", "contents": CONTENTS}).encode()
SHOWN = "[gateway]\nshow_account = true\n"


def accounts(emulator: RunningEmulator, *names: str, extra: str = "") -> str:
    """A configuration with these accounts, which shows who served."""
    return SHOWN + "".join(emulator.account(name, extra=extra) for name in names)


async def make_cache(running: RunningGateway, **headers: str) -> tuple[str, str]:
    """The name of a new cached content, and the account that has it."""
    answer = await running.fetch("POST", "/v1beta/cachedContents", body=CACHE, headers=headers)
    assert answer.status == 200, answer.body
    assert answer.account is not None
    return str(answer.json["name"]), answer.account


def use(name: str) -> dict[str, Any]:
    """A question about a cached content."""
    return {"contents": [{"role": "user", "parts": [{"text": "what does it say?"}]}], "cachedContent": name}


@pytest_twisted.ensureDeferred
async def test_what_names_a_resource_goes_to_its_owner(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Read, change, use and remove: each of them on the account that made it, whoever's turn it is."""
    running = await gateway(accounts(emulator, "a", "b", "c") + '[pool]\nstrategy = "round-robin"\n')
    made = [await make_cache(running) for _ in range(3)]
    assert {owner for _, owner in made} == {"a", "b", "c"}
    for name, owner in made:
        assert (await running.fetch("GET", f"/v1beta/{name}")).account == owner
        patched = await running.fetch("PATCH", f"/v1beta/{name}?updateMask=ttl", body=b'{"ttl": "600s"}')
        assert (patched.status, patched.account) == (200, owner)
        for _ in range(2):
            assert (await running.ask(body=use(name))).account == owner
        assert (await running.ask(body=use(name), method="streamGenerateContent")).account == owner
        assert (await running.fetch("DELETE", f"/v1beta/{name}")).account == owner
    assert len(running.gateway.ownership) == 0


@pytest_twisted.ensureDeferred
async def test_an_owner_that_nobody_remembers_is_found(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """As after a restart: the accounts are asked in turn, and the one that has it is remembered."""
    first = await gateway(accounts(emulator, "c"))
    name, _ = await make_cache(first)
    running = await gateway(accounts(emulator, "a", "b", "c"))
    answer = await running.fetch("GET", f"/v1beta/{name}")
    assert (answer.status, answer.account) == (200, "c")
    before = len(emulator.log)
    assert (await running.ask(body=use(name))).account == "c"
    assert (await running.fetch("DELETE", f"/v1beta/{name}")).status == 200
    assert list(emulator.accounts[before:]) == ["c", "c"]


@pytest_twisted.ensureDeferred
async def test_an_owner_that_does_not_have_it_any_more_is_forgotten(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """What has expired or come under another account is searched for, not asked of the wrong one for ever."""
    first = await gateway(accounts(emulator, "c"))
    name, _ = await make_cache(first)
    running = await gateway(accounts(emulator, "a", "b", "c"))
    owners = running.gateway.ownership
    for ask in (running.fetch("GET", f"/v1beta/{name}"), running.ask(body=use(name))):
        owners.remember(name, "a")
        assert (await ask).status == 403
        assert owners.owner(name) is None
    assert (await running.fetch("GET", f"/v1beta/{name}")).account == "c"


@pytest_twisted.ensureDeferred
async def test_what_nobody_has_is_refused_in_googles_words_and_held_against_nobody(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """A wrong name, in a path or in a body, takes no account out."""
    running = await gateway(accounts(emulator, "a", "b"))
    answer = await running.fetch("GET", "/v1beta/files/nobody-s")
    assert answer.status == 403
    assert "permission to access the File" in answer.json["error"]["message"]
    assert (await running.ask(body=use("cachedContents/nobodys"))).status == 403
    assert running.gateway.pool.remember() == {}


@pytest_twisted.ensureDeferred
async def test_lists_are_of_all_accounts_and_go_on_where_they_ended(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Every resource once, whatever the size of a page."""
    running = await gateway(accounts(emulator, "a", "b", "c") + '[pool]\nstrategy = "round-robin"\n')
    made = {(await make_cache(running))[0] for _ in range(7)}
    whole = (await running.fetch("GET", "/v1beta/cachedContents")).json
    assert {cache["name"] for cache in whole["cachedContents"]} == made
    assert "nextPageToken" not in whole
    for size in (1, 2, 3, 5, 7):
        found: list[str] = []
        token = ""
        while True:
            page = (await running.fetch("GET", f"/v1beta/cachedContents?pageSize={size}&pageToken={token}")).json
            assert 1 <= len(page.get("cachedContents", ())) <= size  # SDKs break on an empty page after another
            found += [cache["name"] for cache in page.get("cachedContents", ())]
            token = page.get("nextPageToken", "")
            if not token:
                break
        assert sorted(found) == sorted(made)


@pytest.mark.parametrize(("query", "reason"), [("pageToken=x", "page token"), ("pageSize=-1", "pageSize")])
@pytest_twisted.ensureDeferred
async def test_a_list_refuses_what_it_cannot_read(
    gateway: GatewayFactory, emulator: RunningEmulator, query: str, reason: str
) -> None:
    running = await gateway(accounts(emulator, "a", "b"))
    answer = await running.fetch("GET", f"/v1beta/cachedContents?{query}")
    assert answer.status == 400
    assert reason in answer.json["error"]["message"]


@pytest_twisted.ensureDeferred
async def test_a_batch_belongs_to_who_was_given_it(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """A call of a model that makes something: made on one account, watched and cancelled there."""
    running = await gateway(accounts(emulator, "a", "b") + '[models.aliases]\n"house" = "gemini-2.5-pro"\n')
    requests = {"batch": {"inputConfig": {"requests": {"requests": [{"request": {"contents": CONTENTS}}]}}}}
    made = await running.fetch("POST", "/v1beta/models/house:batchGenerateContent", body=json.dumps(requests).encode())
    assert made.status == 200, made.body
    assert made.json["metadata"]["model"] == "models/gemini-2.5-pro"
    name = made.json["name"]
    assert (await running.fetch("GET", f"/v1beta/{name}")).account == made.account
    assert (await running.fetch("POST", f"/v1beta/{name}:cancel", body=b"{}")).account == made.account
    assert [b["name"] for b in (await running.fetch("GET", "/v1beta/batches")).json["operations"]] == [name]


@pytest_twisted.ensureDeferred
async def test_resources_of_two_accounts_cannot_be_used_together(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """The client is told, and no account is asked in vain."""
    running = await gateway(accounts(emulator, "a", "b"))
    running.gateway.ownership.remember("files/one", "a")
    running.gateway.ownership.remember("cachedContents/two", "b")
    part = {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/one"}}
    body = {"contents": [{"role": "user", "parts": [part]}], "cachedContent": "cachedContents/two"}
    answer = await running.ask(body=body)
    assert answer.status == 400
    assert "files/one" in answer.json["error"]["message"]
    assert not emulator.log


def owning(names: dict[str, str]) -> Callable[[Asked], tuple[Any, ...]]:
    """An upstream of accounts that have these resources each: what names another's is refused."""

    def answer(asked: Asked) -> tuple[Any, ...]:
        for name, whose in names.items():
            short = name.rpartition("/")[2]
            if short in asked.uri + asked.body.decode() and asked.credential != f"key-{whose}":
                words = f"You do not have permission to access {short} or it may not exist."
                return 403, google_error(403, "PERMISSION_DENIED", words)
        return 200, {"candidates": []}

    return answer


#: A resource of account b, in every way in which a call can name one.
NAMING = [
    b'{"contents": [{"parts": [{"fileData": {"fileUri": "files/f-of-b"}}]}]}',
    b'{"contents": [{"parts": [{"file_data": {"file_uri": "https://h/v1beta/files/f-of-b"}}]}]}',
    b'{"tools": [{"fileSearch": {"fileSearchStoreNames": ["fileSearchStores/s-of-b"]}}]}',
    b'{"tools": [{"file_search": {"file_search_store_names": ["fileSearchStores/s-of-b"]}}]}',
    b'{"instances": [{"prompt": "on", "video": {"uri": "https://h/v1beta/files/f-of-b:download?alt=media"}}]}',
    b'{"contents": [], "cachedContent": "cachedContents/c-of-b",}',
    b"{'contents': [], 'cached_content': 'cachedContents/c-of-b'}",
    b'{contents: [], cachedContent: "cachedContents/c-of-b"}',
    b'{"cachedContent": "cachedContents/c-of-b", "cachedContent": "cachedContents/nobodys"}',
    b'{"cachedContent": "cachedContents/nobodys", "cachedContent": "cachedContents/c-of-b"}',
    rb'{"cachedContent": "cachedContents\/c-of-b", "contents": []}',
    rb'{"cachedContent": "\u0063achedContents/c\u002dof-b"}',
    rb'{"cachedContent": "\cachedContent\s/c-of-b"}',
    b'{"contents": [{"parts": [{"text": "%b"}]}], "cachedContent": "cachedContents/c-of-b"}' % (b"x" * 2_000_000),
]


@pytest.mark.parametrize("body", NAMING, ids=range(len(NAMING)))
@pytest_twisted.ensureDeferred
async def test_a_name_leads_to_its_owner_however_it_is_written(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream], body: bytes
) -> None:
    """In any field and any spelling, in JSON of the standard or of Google's."""
    mine = {"files/f-of-b": "b", "fileSearchStores/s-of-b": "b", "cachedContents/c-of-b": "b"}
    upstream = upstreams(owning(mine))
    running = await gateway(keys(upstream, "a", "b", "c") + '[pool]\nstrategy = "round-robin"\n')
    for name, owner in mine.items():
        running.gateway.ownership.remember(name, owner)
    for method in ("generateContent", "countTokens", "predict", "batchEmbedContents"):
        for _ in range(2):
            assert (await running.ask(body=body, method=method)).account == "b"
    for path in ("models/m:predictLongRunning", "models/m:batchGenerateContent", "cachedContents", "tunedModels"):
        assert (await running.fetch("POST", f"/v1beta/{path}", body=body)).account == "b"
    assert set(upstream.credentials) == {"key-b"}


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_read_goes_on_where_nothing_depends_on_it(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream]
) -> None:
    """The upstream has words for it; but what may name a resource of one account is sent to nobody."""
    upstream = upstreams(lambda asked: (400, google_error(400, "INVALID_ARGUMENT", "Invalid JSON payload received.")))
    running = await gateway(keys(upstream, "a", "b"))
    broken = b'{"cachedContent": "cachedContents/c", "contents": [}'
    assert (await running.ask(body=broken)).json["error"]["message"] == "Invalid JSON payload received."
    running.gateway.ownership.remember("files/f", "a")
    assert (await running.ask(body=broken)).json["error"]["message"] == "Invalid JSON payload received."
    assert len(upstream.asked) == 2
    running.gateway.ownership.remember("cachedContents/c", "a")
    refused = await running.ask(body=broken)
    assert (refused.status, refused.json["error"]["details"][0]["reason"]) == (400, "BODY_UNREADABLE")
    assert "a bracket is wrong" in refused.json["error"]["message"]
    assert len(upstream.asked) == 2


@pytest_twisted.ensureDeferred
async def test_a_file_of_another_account_is_not_imported_into_a_store(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream]
) -> None:
    """The path names the store, the body the file: one account has to have both."""
    upstream = upstreams(owning({"fileSearchStores/s-of-b": "b", "files/f-of-a": "a", "files/f-of-b": "b"}))
    running = await gateway(keys(upstream, "a", "b"))
    for name in ("fileSearchStores/s-of-b", "files/f-of-a", "files/f-of-b"):
        running.gateway.ownership.remember(name, name[-1])
    path = "/v1beta/fileSearchStores/s-of-b:importFile"
    for body in (b'{"fileName": "files/f-of-a"}', b"{'file_name': 'files/f-of-a',}"):
        refused = await running.fetch("POST", path, body=body)
        assert (refused.status, refused.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
        assert refused.json["error"]["details"][0]["reason"] == "RESOURCES_OF_DIFFERENT_ACCOUNTS"
        assert "fileSearchStores/s-of-b and files/f-of-a" in refused.json["error"]["message"]
    assert not upstream.asked
    assert (await running.fetch("POST", path, body=b'{"fileName": "files/f-of-b"}')).account == "b"
    running.gateway.ownership.forget("fileSearchStores/s-of-b")
    assert (await running.fetch("POST", path, body=b'{"fileName": "files/f-of-b"}')).account == "b"
    assert running.gateway.ownership.owner("fileSearchStores/s-of-b") == "b"


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_held_against_what_it_is_about(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream]
) -> None:
    """A cache that has expired takes no file with it."""
    gone = google_error(403, "PERMISSION_DENIED", "CachedContent not found (or permission denied)")
    upstream = upstreams(lambda asked: (403, gone))
    running = await gateway(keys(upstream, "a", "b"))
    owners = running.gateway.ownership
    owners.remember("files/f", "b")
    owners.remember("cachedContents/c", "b")
    part = {"fileData": {"fileUri": "files/f"}}
    body = {"contents": [{"role": "user", "parts": [part]}], "cachedContent": "cachedContents/c"}
    assert (await running.ask(body=body)).status == 403
    assert (owners.owner("files/f"), owners.owner("cachedContents/c")) == ("b", None)


@pytest_twisted.ensureDeferred
async def test_what_an_agent_has_read_holds_it_to_nobody(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream]
) -> None:
    """A tool that lists the files of several accounts, and a text that mentions one, name nothing."""
    upstream = upstreams(lambda asked: (200, {"candidates": []}))
    running = await gateway(keys(upstream, "a", "b") + '[pool]\nstrategy = "round-robin"\n')
    running.gateway.ownership.remember("files/one", "a")
    running.gateway.ownership.remember("files/two", "b")
    listed = {"files": [{"uri": "files/one"}, {"uri": "files/two"}]}
    turns = [
        {"role": "user", "parts": [{"text": "files/one"}, {"text": 'compare "files/one" with files/two'}]},
        {"role": "model", "parts": [{"functionCall": {"name": "files", "args": {"of": ["files/one", "files/two"]}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "files", "response": listed}}]},
    ]
    assert (await running.ask(body={"contents": turns})).status == 200
    one = [{**turns[2], "parts": [{"functionResponse": {"name": "files", "response": {"uri": "files/one"}}}]}]
    assert {(await running.ask(body={"contents": one})).account for _ in range(3)} == {"a", "b"}
    turns.append({"role": "user", "parts": [{"fileData": {"fileUri": "files/two"}}]})
    assert {(await running.ask(body={"contents": turns})).account for _ in range(3)} == {"b"}


@pytest.mark.parametrize("kind", ["vertex", "code-assist"])
@pytest_twisted.ensureDeferred
async def test_other_kinds_of_accounts_have_no_such_resources(
    gateway: GatewayFactory, emulator: RunningEmulator, kind: str
) -> None:
    running = await gateway(emulator.account("a", kind=kind))
    for method, path in (("GET", "files"), ("GET", "files/x"), ("POST", "cachedContents"), ("DELETE", "batches/x")):
        answer = await running.fetch(method, f"/v1beta/{path}", body=b"{}" if method == "POST" else None)
        assert (answer.status, answer.json["error"]["status"]) == (501, "UNIMPLEMENTED")


@pytest_twisted.async_yield_fixture
async def upstreams() -> AsyncIterator[Callable[..., AnsweringUpstream]]:
    """A function that starts an upstream which answers as a function says."""
    started: list[AnsweringUpstream] = []

    def start(answer: Callable[[Asked], tuple[Any, ...]]) -> AnsweringUpstream:
        started.append(AnsweringUpstream(answer))
        return started[-1]

    yield start
    for upstream in started:
        await upstream.stop()


def keys(upstream: AnsweringUpstream, *names: str) -> str:
    return SHOWN + "".join(
        f'[[accounts]]\nname = "{name}"\nkind = "api-key"\napi_key = "key-{name}"\nendpoints = ["{upstream.url}"]\n'
        for name in names
    )


@pytest_twisted.ensureDeferred
async def test_while_the_owner_rests_the_client_is_told_for_how_long(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream]
) -> None:
    """Another account would say 403: none is asked."""
    busy = google_error(429, "RESOURCE_EXHAUSTED", "no", retry("47s"))
    upstream = upstreams(lambda asked: (429, busy))
    running = await gateway(keys(upstream, "a", "b"))
    running.gateway.ownership.remember("files/one", "b")
    part = {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/one"}}
    for _ in range(2):
        answer = await running.ask(body={"contents": [{"role": "user", "parts": [part]}]})
        assert answer.status == 429
        assert 40 < int(answer.headers["retry-after"]) <= 47
    assert upstream.credentials == ["key-b"]
    assert (await running.fetch("GET", "/v1beta/files/one")).status == 429
    assert set(upstream.credentials) == {"key-b"}


@pytest_twisted.ensureDeferred
async def test_the_request_goes_on_as_the_client_wrote_it_but_for_credentials(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream]
) -> None:
    """Query, body and type arrive; the client's key does not, in whatever form it came."""
    upstream = upstreams(lambda asked: (200, {"name": "fileSearchStores/s-1/documents/d"}))
    running = await gateway(keys(upstream, "a"))
    answer = await running.fetch(
        "POST",
        "/v1beta/fileSearchStores/s-1:importFile?key=client-key&fields=name&updateMask=a&updateMask=b",
        body=b'{"fileName": "files/x"}',
        headers={"Authorization": "Bearer client-key", "X-Goog-Api-Key": "client-key", "Cookie": "client-key"},
    )
    assert answer.status == 200
    asked = upstream.asked[0]
    assert asked.uri == "/v1beta/fileSearchStores/s-1:importFile?fields=name&updateMask=a&updateMask=b"
    assert asked.body == b'{"fileName": "files/x"}'
    assert asked.credential == "key-a"
    assert "client-key" not in str(asked.headers)
    assert running.gateway.ownership.owner("fileSearchStores/s-1") == "a"


@pytest_twisted.ensureDeferred
async def test_a_403_about_the_account_is_about_the_account(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream]
) -> None:
    """An API that is not enabled takes the account out for such requests, and another makes the resource."""
    refused = google_error(403, "PERMISSION_DENIED", "no", info("SERVICE_DISABLED"))
    upstream = upstreams(lambda asked: (403, refused) if asked.credential == "key-a" else (200, {"name": "corpora/c"}))
    running = await gateway(keys(upstream, "a", "b") + '[pool]\nstrategy = "priority"\n')
    answers = [await running.fetch("POST", "/v1beta/corpora", body=b"{}") for _ in range(3)]
    assert [answer.account for answer in answers] == ["b", "b", "b"]
    assert upstream.credentials == ["key-a", "key-b", "key-b", "key-b"]


@pytest_twisted.ensureDeferred
async def test_a_key_with_models_may_not_make_things_for_others(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """A batch is as good as a call; what is about no model is every key's."""
    key = '[auth]\nmode = "strict"\n[[auth.keys]]\nname = "k"\nkey = "a-client-key-0123"\nmodels = ["gemini-2.5-pro"]\n'
    running = await gateway(accounts(emulator, "a") + key)
    assert (await running.fetch("GET", "/v1beta/files")).status == 401
    assert (await running.fetch("GET", "/v1beta/files", key="a-client-key-0123")).status == 200
    answer = await running.fetch("POST", "/v1beta/cachedContents", body=CACHE, key="a-client-key-0123")
    assert answer.status == 403
    hidden = rb'{"mod\u0065l": "mod\u0065ls/gemini-2.5-flash", "contents": []}'
    assert (await running.fetch("POST", "/v1beta/cachedContents", body=hidden, key="a-client-key-0123")).status == 403
    batch = "/v1beta/models/gemini-2.5-flash:batchGenerateContent"
    assert (await running.fetch("POST", batch, body=b"{}", key="a-client-key-0123")).status == 403
    assert [entry.rpc for entry in emulator.log] == ["ListFiles"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("cachedContents", b'{"model": "models/gemini-2.5-pro",}'),
        ("cachedContents", b"{'model': 'models/gemini-2.5-pro'}"),
        ("cachedContents", b'{model: "models/gemini-2.5-pro"}'),
        ("cachedContents", b'{"model": "models/gemini-2.5-pro", "model": "models/gemini-2.5-flash"}'),
        ("cachedContents", b'{"model": "models/gemini-2.5-flash", "model": "models/gemini-2.5-pro"}'),
        ("cachedContents", rb'{"m\odel": "models\/gemini-2.5-pro"}'),
        ("cachedContents", b'{"model": "models/gemini-2.5-flash", "model"'),
        ("cachedContents", '{"model": "models/gemini-2.5-pro"}'.encode("utf-16-le")),
        ("tunedModels", b'{"baseModel": "models/gemini-2.5-pro"}'),
        ("tunedModels", b'{"base_model": "models/gemini-2.5-pro"}'),
        ("tunedModels", b'{"tuned_model_source": {"base_model": "models/gemini-2.5-pro"}}'),
        ("models/gemini-2.5-flash:batchGenerateContent", b'{"batch": {"model": "models/gemini-2.5-pro"}}'),
        (
            "models/gemini-2.5-flash:batchGenerateContent",
            b'{batch: {input_config: {requests: {requests: [{request: {model: "models/gemini-2.5-pro"}}]}}}}',
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_no_spelling_gets_a_key_past_its_models(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream], path: str, body: bytes
) -> None:
    """Every model that Google could find there counts, and where none can be found for sure nothing is sent."""
    upstream = upstreams(lambda asked: (200, {"name": "cachedContents/c"}))
    key = "a-client-key-0123"
    limited = f'[auth]\nmode = "strict"\n[[auth.keys]]\nname = "k"\nkey = "{key}"\nmodels = ["*-flash"]\n'
    running = await gateway(keys(upstream, "a") + limited)
    assert (await running.fetch("POST", f"/v1beta/{path}", body=body, key=key)).status in (400, 403)
    assert not upstream.asked
    allowed = body.replace(b"pro", b"flash") if b"\0" not in body and not body.endswith(b'"') else b"{}"
    forms = {"Content-Type": "application/x-protobuf", "X-HTTP-Method-Override": "GET"}
    answer = await running.fetch(
        "POST", f"/v1beta/{path}?$httpHeaders=Content-Type:x&$httpMethod=GET", body=allowed, key=key, headers=forms
    )
    assert answer.status == 200
    (asked,) = upstream.asked
    assert asked.headers["content-type"] == "application/json"
    assert "x-http-method-override" not in asked.headers
    assert asked.uri == f"/v1beta/{path}"


@pytest.mark.parametrize("path", ["files/../models", "files/a%2f%2e%2e", "files/a%3fb", "files/a%00", "files//a"])
@pytest_twisted.ensureDeferred
async def test_no_name_leads_elsewhere(gateway: GatewayFactory, emulator: RunningEmulator, path: str) -> None:
    """What a client writes cannot change the method, the host or the query of the upstream's URL."""
    running = await gateway(accounts(emulator, "a"))
    answer = await running.fetch("GET", f"/v1beta/{path}")
    assert answer.status in (400, 403)
    assert all(entry.path.startswith("/v1beta/files/") for entry in emulator.log)


@pytest_twisted.ensureDeferred
async def test_a_file_is_downloaded_byte_for_byte_or_in_part(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream]
) -> None:
    """A generated video, say: its type and range pass, also a plugin that edits answers and says that it may."""
    content = bytes(range(256)) * 4096

    def answer(asked: Asked) -> tuple[Any, ...]:
        if "range" in asked.headers:
            return 206, content[:5], {"content-type": "video/mp4", "content-range": f"bytes 0-4/{len(content)}"}
        return 200, content, {"content-type": "video/mp4"}

    class Editor:
        may_pass_unseen = True

        @hookimpl
        def agm_transform_event(self, event: Any, request: Any) -> Any:
            return {}

    upstream = upstreams(answer)
    running = await gateway(keys(upstream, "a"), plugins=[Editor()])
    whole = await running.fetch("GET", "/v1beta/files/video:download?alt=media")
    assert (whole.body, whole.headers["content-type"]) == (content, "video/mp4")
    part = await running.fetch("GET", "/v1beta/files/video:download?alt=media", headers={"Range": "bytes=0-4"})
    assert (part.status, part.body) == (206, content[:5])
    assert part.headers["content-range"] == f"bytes 0-4/{len(content)}"
    assert [asked.uri for asked in upstream.asked] == ["/v1beta/files/video:download?alt=media"] * 2


PAGE = b"<html><script>document.title='x'</script></html>"


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "TEXT/HTML; charset=utf-8",
        "text/html;charset=utf-7",
        "application/xhtml+xml",
        "image/svg+xml",
        "text/xml",
        "application/xml",
        "application/rss+xml",
        "text/javascript",
        "text/css",
        "multipart/x-mixed-replace; boundary=x",
        "application/x-shockwave-flash",
        "message/rfc822",
        "text/plain, text/html",
        "image/png,text/html",
        "text/plain;a=b, text/html",
        "text/plain text/html",
        "nonsense",
        "*/*",
        "",
    ],
)
@pytest.mark.parametrize("status", [200, 404])
@pytest_twisted.ensureDeferred
async def test_a_file_that_could_be_a_page_is_saved_and_runs_nothing(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream], content_type: str, status: int
) -> None:
    """In the gateway's own origin a script of it could ask for all that the person may."""
    upstream = upstreams(lambda asked: (status, PAGE, {"content-type": content_type}))
    running = await gateway(keys(upstream, "a"))
    running.gateway.ownership.remember("files/page", "a")
    answer = await running.fetch("GET", "/v1beta/files/page:download?alt=media")
    assert answer.headers["x-content-type-options"] == "nosniff"
    if answer.headers["content-type"].startswith("application/json"):  # an error in Google's form
        assert (answer.status, b"<" in answer.body) == (404, False)
    else:
        assert answer.headers["content-disposition"] == "attachment"
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"


@pytest.mark.parametrize(
    ("content_type", "said", "sent"),
    [
        ("text/html", 'inline; filename="a.html"', 'attachment; filename="a.html"'),
        ("text/html", "attachment; filename*=UTF-8''a", "attachment; filename*=UTF-8''a"),
        ("text/html", 'inline"; nonsense', "attachment"),
        ("text/html", "", "attachment"),
        ("video/mp4", 'attachment; filename="a.mp4"', 'attachment; filename="a.mp4"'),
        ("video/mp4", None, None),
        ("audio/wav", None, None),
        ("image/png", None, None),
        ("image/jpeg", 'inline; filename="a.jpg"', 'inline; filename="a.jpg"'),
        ("text/plain; charset=utf-8", None, None),
        ("text/csv", None, None),
        ("application/pdf", None, None),
        ("application/octet-stream", None, None),
        ("application/jsonl", None, None),
        ("application/json; charset=UTF-8", None, None),
        ("application/problem+json", None, None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_people_download_keeps_its_name_and_its_type(
    gateway: GatewayFactory,
    upstreams: Callable[..., AnsweringUpstream],
    content_type: str,
    said: str | None,
    sent: str | None,
) -> None:
    given = {"content-type": content_type} | ({} if said is None else {"content-disposition": said})
    running = await gateway(keys(upstreams(lambda asked: (200, b"content", given)), "a"))
    answer = await running.fetch("GET", "/v1beta/files/f:download?alt=media")
    assert (answer.body, answer.headers["content-type"]) == (b"content", content_type)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers.get("content-disposition") == sent
    assert ("content-security-policy" in answer.headers) is (content_type == "text/html")


@pytest_twisted.ensureDeferred
async def test_a_redirect_within_google_stays_within_the_gateway(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream]
) -> None:
    """Where a download goes on at the account's endpoint the client follows through the gateway, with its own key."""
    urls: list[str] = []

    def answer(asked: Asked) -> tuple[Any, ...]:
        if asked.path.startswith("/download/"):
            return 200, b"content", {"content-type": "video/mp4"}
        return 302, b"", {"location": f"{urls[0]}/download/v1beta/files/video:download?alt=media"}

    upstream = upstreams(answer)
    urls.append(upstream.url)
    running = await gateway(keys(upstream, "a", "b"))
    running.gateway.ownership.remember("files/video", "b")
    answered = await running.fetch("GET", "/v1beta/files/video:download?alt=media")  # treq follows
    assert (answered.status, answered.body, answered.account) == (200, b"content", "b")
    assert upstream.credentials == ["key-b", "key-b"]


@pytest_twisted.ensureDeferred
async def test_a_redirect_leads_to_the_public_address(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream]
) -> None:
    def answer(asked: Asked) -> tuple[Any, ...]:
        return 302, b"", {"location": f"{upstream.url}/download/v1beta/files/video:download?alt=media"}

    upstream = upstreams(answer)
    running = await gateway('[gateway]\npublic_url = "https://ai.example.net/gemini"\n' + account(upstream))
    client = await connect(running.port)
    client.send(get("/v1beta/files/video:download?alt=media"))
    received = await client.until(b"\r\n\r\n")
    assert b"\r\nLocation: https://ai.example.net/gemini/download/v1beta/files/video:download?alt=media\r\n" in received
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_a_list_leaves_out_who_cannot_be_asked(
    gateway: GatewayFactory, upstreams: Callable[..., AnsweringUpstream]
) -> None:
    """One account that is out of order does not hide the files of the others."""
    refused = google_error(400, "INVALID_ARGUMENT", "API key not valid.", info("API_KEY_INVALID"))

    def answer(asked: Asked) -> tuple[Any, ...]:
        if asked.credential == "key-b":
            return 400, refused
        return 200, {"files": [{"name": f"files/of-{asked.credential}"}]}

    running = await gateway(keys(upstreams(answer), "a", "b", "c"))
    for _ in range(2):
        listed = await running.fetch("GET", "/v1beta/files")
        assert [file["name"] for file in listed.json["files"]] == ["files/of-key-a", "files/of-key-c"]
    assert running.gateway.ownership.owner("files/of-key-c") == "c"

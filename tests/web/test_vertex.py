"""Clients of Vertex AI: their paths, served by whichever accounts can, with all that holds for any other call."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from agm import hookimpl
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway

SHOWN = "[gateway]\nshow_account = true\n"
BODY = json.dumps({"contents": [{"role": "user", "parts": [{"text": "Hello there"}]}]}).encode()
MODEL = "publishers/google/models/gemini-2.5-flash"
#: A person's own token, as clients with application default credentials send it.
TOKEN = "ya29.canary-of-a-person"
PERSON = {"Authorization": f"Bearer {TOKEN}", "x-goog-user-project": "canary-project-of-a-person"}


def vertex(emulator: RunningEmulator, name: str, project: str, location: str = "us-central1") -> str:
    return (
        f'[[accounts]]\nname = "{name}"\nkind = "vertex"\naccess_token = "{name}"\nproject = "{project}"\n'
        f'location = "{location}"\nendpoints = ["{emulator.url}"]\n'
    )


def place(project: str = "theirs", location: str = "us-central1") -> str:
    return f"/v1beta1/projects/{project}/locations/{location}"


async def post(running: RunningGateway, path: str, body: Any = BODY, **more: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await running.fetch("POST", path, body=data, **more)


# -- whose project serves


@pytest.mark.parametrize("before", ["/v1beta1", "/v1", "", place()])
@pytest_twisted.ensureDeferred
async def test_an_account_of_vertex_ai_serves_with_its_own_project(
    gateway: GatewayFactory, emulator: RunningEmulator, before: str
) -> None:
    """Whatever the path names; an account with a key is asked only if there is no other."""
    running = await gateway(SHOWN + emulator.account("key") + vertex(emulator, "v", "own"))
    for _ in range(3):
        answer = await post(running, f"{before}/{MODEL}:generateContent")
        assert (answer.status, answer.account) == (200, "v")
        assert answer.json["usageMetadata"]["trafficType"] == "ON_DEMAND"
    version = "v1" if before == "/v1" else "v1beta1"
    entry = emulator.log[-1]
    assert entry.path == f"/{version}/projects/own/locations/us-central1/{MODEL}:generateContent"
    assert entry.body == BODY


@pytest_twisted.ensureDeferred
async def test_the_project_that_a_path_names_comes_first(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Then its location; any other serves while that is used up."""
    accounts = vertex(emulator, "a", "one") + vertex(emulator, "b", "two", "eu") + vertex(emulator, "c", "two")
    running = await gateway(SHOWN + accounts)
    for project, location, expected in (("one", "x", "a"), ("two", "eu", "b"), ("two", "us-central1", "c")):
        for _ in range(2):
            answer = await post(running, f"{place(project, location)}/{MODEL}:generateContent")
            assert answer.account == expected
    emulator.state.script("a", ["429-90"])
    assert (await post(running, f"{place('one')}/{MODEL}:generateContent")).account in ("b", "c")


@pytest_twisted.ensureDeferred
async def test_a_persons_token_ends_at_the_door(
    gateway: GatewayFactory, emulator: RunningEmulator, lines: list[str]
) -> None:
    """It is not sent on, nor is the project that is to be billed; and no log has it."""
    running = await gateway(vertex(emulator, "v", "own"))
    assert (await post(running, f"{place()}/{MODEL}:generateContent", headers=PERSON)).status == 200
    strict = await gateway(
        vertex(emulator, "v", "own") + '[auth]\nmode = "strict"\n[[auth.keys]]\nname = "k"\nkey = "x"\n'
    )
    refused = await post(strict, f"{place()}/{MODEL}:generateContent", headers=PERSON)
    assert refused.status == 401
    assert "as the token of its credentials" in refused.json["error"]["message"]
    told = b"".join([refused.body, *("\n".join(lines)).encode().splitlines()])
    for entry in emulator.log:
        told += json.dumps([entry.headers, entry.path, entry.query]).encode()
    assert b"canary" not in told
    with_key = {**PERSON, "x-goog-api-key": "x"}
    assert (await post(strict, f"{place()}/{MODEL}:generateContent", headers=with_key)).status == 200


# -- accounts of other kinds


@pytest_twisted.ensureDeferred
async def test_an_account_with_a_key_serves_where_the_meaning_is_the_same(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Counts have Vertex AI's form, embeddings the Developer API's message."""
    running = await gateway(emulator.account("key"))
    assert (await post(running, f"{place()}/{MODEL}:generateContent")).status == 200
    streamed = await post(running, f"{place()}/{MODEL}:streamGenerateContent?alt=sse")
    assert streamed.body.startswith(b"data: {")
    assert b"finishReason" in streamed.body
    instruction = {"systemInstruction": {"parts": [{"text": "Be brief."}]}, **json.loads(BODY)}
    counted = (await post(running, f"{place()}/{MODEL}:countTokens", instruction)).json
    assert counted["totalBillableCharacters"] == len("Hellothere")
    assert counted["totalTokens"] > (await post(running, f"{place()}/{MODEL}:countTokens")).json["totalTokens"]
    request = {"content": {"parts": [{"text": "x"}]}, "embedContentConfig": {"outputDimensionality": 7}}
    embedded = await post(running, f"{place()}/publishers/google/models/gemini-embedding-001:embedContent", request)
    assert len(embedded.json["embedding"]["values"]) == 7
    texts = {"instances": [{"content": "x", "task_type": "CLUSTERING"}, {"content": "y"}], "parameters": {}}
    vectors = (await post(running, f"{place()}/publishers/google/models/text-embedding-004:predict", texts)).json
    assert [len(one["embeddings"]["values"]) for one in vectors["predictions"]] == [768, 768]
    assert emulator.log[-1].path.endswith("text-embedding-004:batchEmbedContents")
    refused = await post(
        running,
        f"{place()}/publishers/google/models/text-embedding-004:predict",
        {**texts, "parameters": {"autoTruncate": False}},
    )
    assert (refused.status, "autoTruncate" in refused.json["error"]["message"]) == (400, True)
    pictures = {"instances": [{"prompt": "x"}]}
    assert (await post(running, f"{place()}/publishers/google/models/imagen:predict", pictures)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"{MODEL}:computeTokens", {"contents": []}),
        ("POST", "publishers/google/models/veo:predictLongRunning", {"instances": [{"prompt": "x"}]}),
        ("POST", "cachedContents", {"model": "m"}),
        ("GET", "batchPredictionJobs", None),
        ("GET", "tuningJobs/5", None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_vertex_ai_alone_has_is_501_without_such_an_account(
    gateway: GatewayFactory, emulator: RunningEmulator, method: str, path: str, body: Any
) -> None:
    """And nobody else is asked."""
    running = await gateway(emulator.account("key"))
    before = len(emulator.log)
    answer = await running.fetch(method, f"{place()}/{path}", body=None if body is None else json.dumps(body).encode())
    assert (answer.status, answer.json["error"]["status"]) == (501, "UNIMPLEMENTED")
    assert len(emulator.log) == before


@pytest_twisted.ensureDeferred
async def test_express_mode_keeps_nothing(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """An account without a project is not asked for what a project has."""
    express = f'[[accounts]]\nname = "x"\nkind = "vertex"\napi_key = "x"\nendpoints = ["{emulator.url}"]\n'
    running = await gateway(express)
    assert (await post(running, f"{place()}/{MODEL}:generateContent")).status == 200
    refused = await running.fetch("GET", f"{place()}/cachedContents")
    assert refused.status == 501
    assert "project" in refused.json["error"]["message"] or "kind" in refused.json["error"]["message"]


# -- all that holds for any other call


@pytest_twisted.ensureDeferred
async def test_aliases_limits_and_plugins_hold(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """And the record of it is as any other's."""
    records: list[Any] = []

    class Plugin:
        @hookimpl
        def agm_transform_request(self, body: dict[str, Any], request: Any) -> dict[str, Any]:
            return {**body, "generationConfig": {"maxOutputTokens": 2}}

        @hookimpl
        def agm_request_finished(self, record: Any) -> None:
            records.append(record)

    keys = '[auth]\nmode = "strict"\n[[auth.keys]]\nname = "k"\nkey = "x"\nmodels = ["house"]\n'
    aliases = '[models.aliases]\n"house" = "gemini-2.5-pro"\n'
    running = await gateway(vertex(emulator, "v", "own") + keys + aliases, plugins=[Plugin()])
    answer = await post(running, f"{place()}/publishers/google/models/house:generateContent", key="x")
    assert answer.status == 200
    assert answer.json["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert emulator.log[-1].model == "gemini-2.5-pro"
    assert (await post(running, f"{place()}/{MODEL}:generateContent", key="x")).status == 403
    assert (await post(running, f"{place()}/{MODEL}:generateContent", key="y")).status == 401
    (record, *_) = records
    assert (record.request.asked_model, record.request.model, record.account) == ("house", "gemini-2.5-pro", "v")
    assert record.usage.total == answer.json["usageMetadata"]["totalTokenCount"]


@pytest_twisted.ensureDeferred
async def test_it_can_be_explained(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """By the version that such clients use."""
    running = await gateway(emulator.account("key") + vertex(emulator, "v", "own"))
    told = await running.explain(version="v1beta1", body=json.loads(BODY))
    assert told["account"]["name"] == "v"
    assert told["upstream"]["url"].endswith(f"/v1beta1/projects/own/locations/us-central1/{MODEL}:generateContent")


@pytest_twisted.ensureDeferred
async def test_models_are_listed_in_vertex_ais_form(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """The gateway's own list, page by page."""
    running = await gateway(vertex(emulator, "v", "own") + '[models.aliases]\n"house" = "gemini-2.5-pro"\n')
    found: list[str] = []
    token = ""
    while True:
        page = (await running.fetch("GET", f"/v1beta1/publishers/google/models?pageSize=5&pageToken={token}")).json
        found += [model["name"] for model in page["publisherModels"]]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert "publishers/google/models/house" in found
    assert len(set(found)) == len(found)
    one = await running.fetch("GET", f"{place()}/{MODEL}")
    assert one.json["name"] == MODEL
    assert (await running.fetch("GET", "/v1beta1/publishers/google/models/none")).status == 404


# -- what a project keeps

CACHE = {"model": f"projects/theirs/locations/us-central1/{MODEL}", **json.loads(BODY)}


@pytest_twisted.ensureDeferred
async def test_what_a_project_keeps_is_asked_of_its_owner(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """By its name with the project's number, by its id alone, and in a call; lists are of all projects."""
    accounts = vertex(emulator, "a", "one") + vertex(emulator, "b", "two")
    running = await gateway(SHOWN + emulator.account("key") + accounts + '[pool]\nstrategy = "round-robin"\n')
    made = [await post(running, f"{place()}/cachedContents", CACHE) for _ in range(4)]
    assert {answer.account for answer in made} == {"a", "b"}
    for answer in made:
        name, owner = answer.json["name"], answer.account
        assert answer.json["model"].startswith(name.partition("/cachedContents")[0])
        short = f"{place()}/cachedContents/{name.rpartition('/')[2]}"
        for path in (f"/v1beta1/{name}", short):
            assert (await running.fetch("GET", path)).account == owner
        used = await post(running, f"{place()}/{MODEL}:generateContent", {**json.loads(BODY), "cachedContent": name})
        assert (used.status, used.account) == (200, owner)
    listed = (await running.fetch("GET", f"{place()}/cachedContents")).json["cachedContents"]
    assert {one["name"] for one in listed} == {answer.json["name"] for answer in made}
    for answer in made:
        assert (await running.fetch("DELETE", f"/v1beta1/{answer.json['name']}")).account == answer.account
    assert len(running.gateway.ownership) == 0


@pytest_twisted.ensureDeferred
async def test_an_owner_that_nobody_remembers_is_found(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """As after a restart."""
    first = await gateway(vertex(emulator, "b", "two"))
    name = (await post(first, f"{place()}/cachedContents", CACHE)).json["name"]
    running = await gateway(SHOWN + vertex(emulator, "a", "one") + vertex(emulator, "b", "two"))
    answer = await running.fetch("GET", f"/v1beta1/{name}")
    assert (answer.status, answer.account) == (200, "b")


@pytest_twisted.ensureDeferred
async def test_a_video_is_fetched_where_it_is_made(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """The operation is named in the body of a POST."""
    accounts = vertex(emulator, "a", "one") + vertex(emulator, "b", "two")
    running = await gateway(SHOWN + accounts + '[pool]\nstrategy = "round-robin"\n')
    for _ in range(2):
        path = f"{place()}/publishers/google/models/veo"
        made = await post(running, f"{path}:predictLongRunning", {"instances": [{"prompt": "x"}]})
        name = made.json["name"]
        there = f"/v1beta1/{name.partition('/operations/')[0]}:fetchPredictOperation"
        for _ in range(2):
            looked = await post(running, there, {"operationName": name})
            assert (looked.status, looked.account) == (200, made.account)
        assert looked.json["done"] is True


@pytest_twisted.ensureDeferred
async def test_lists_of_one_project_are_asked_for_once(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """Two accounts of a project have the same."""
    running = await gateway(vertex(emulator, "a", "one") + vertex(emulator, "b", "one"))
    await post(running, f"{place()}/cachedContents", CACHE)
    before = len(emulator.log)
    await running.fetch("GET", f"{place()}/cachedContents")
    assert len(emulator.log) == before + 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/v1/{MODEL}:generateContent", 405),
        ("POST", "/v1/publishers/google/models", 405),
        ("GET", f"{place()}/datasets", 404),
        ("POST", "/v1/publishers/anthropic/models/claude:rawPredict", 404),
        ("GET", f"{place()}/cachedContents/..%2f..", 400),
        ("POST", "/v1internal:generateContent", 404),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_not_there_is_told(
    gateway: GatewayFactory, emulator: RunningEmulator, method: str, path: str, status: int
) -> None:
    """In Google's form."""
    running = await gateway(vertex(emulator, "v", "own"))
    answer = await running.fetch(method, path, body=BODY if method == "POST" else None)
    assert (answer.status, answer.json["error"]["code"]) == (status, status)

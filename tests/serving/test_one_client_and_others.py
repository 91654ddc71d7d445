"""What one client's requests lead to never changes what another client's plain request gets."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import pytest_twisted

from agm.core.pool.exclusions import Cause
from agm.testing import GatewayFactory, RunningGateway
from tests.helpers.support import AnsweringUpstream, Asked, eventually, google_error, info, reactor, settle

MODEL = "gemini-2.5-flash"
GOOD = {"candidates": [{"content": {"parts": [{"text": "good"}]}, "finishReason": "STOP"}]}
PAGE = b"<html><title>Blocked</title></html>"
HTML = {"content-type": "text/html"}


def good(asked: Asked) -> tuple[Any, ...]:
    """A good answer in the framing that was asked for."""
    if ":countTokens" in asked.path:
        return 200, {"totalTokens": 1}
    if "alt=sse" in asked.uri:
        return 200, b"data: " + json.dumps(GOOD).encode() + b"\r\n\r\n", {"content-type": "text/event-stream"}
    return 200, [GOOD] if ":stream" in asked.path else GOOD


def prompt(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **more}


@attrs.define
class Setting:
    """A gateway whose accounts share an upstream that a test scripts."""

    running: RunningGateway
    upstream: AnsweringUpstream

    async def ask(self, body: dict[str, Any] | None = None, target: str = "") -> tuple[int, bytes]:
        """Ask, for a plain answer if nothing else is said."""
        answer = await self.running.fetch(
            "POST", target or f"/v1beta/models/{MODEL}:generateContent", body=json.dumps(body or prompt()).encode()
        )
        return answer.status, answer.body

    @property
    def held(self) -> dict[str, Any]:
        """What is held against accounts, by name."""
        return dict(self.running.gateway.pool.remember())


Setup = Callable[..., Any]


@pytest_twisted.async_yield_fixture
async def setup(gateway: GatewayFactory) -> AsyncIterator[Setup]:
    upstreams: list[AnsweringUpstream] = []

    async def make(
        answer: Callable[[Asked], tuple[Any, ...]], count: int = 2, kind: str = "api-key", pool: str = ""
    ) -> Setting:
        upstream = AnsweringUpstream(answer)
        upstreams.append(upstream)
        secret = "api_key" if kind == "api-key" else "access_token"
        project = "" if kind == "api-key" else 'project = "p-own"\n'
        tables = [
            f'[[accounts]]\nname = "a{n}"\nkind = "{kind}"\npriority = {n}\n{secret} = "k{n}"\n{project}'
            f'endpoints = ["{upstream.url}"]\n'
            for n in range(count)
        ]
        return Setting(await gateway(f"[pool]\nmax_wait = 0\n{pool}\n" + "".join(tables)), upstream)

    yield make
    for upstream in upstreams:
        await upstream.stop()


# -- Any order of anything -------------------------------------------------------------------------------

#: What a request names or asks for, and how it is told from others: all but plain ones have their own answers.
FEATURES: dict[str, tuple[dict[str, Any], str]] = {
    "store": (prompt(tools=[{"fileSearch": {"fileSearchStoreNames": ["fileSearchStores/odd"]}}]), ""),
    "bucket": (prompt(odd={"fileData": {"fileUri": "gs://odd/x.mp4"}}), ""),
    "cache": (prompt(cachedContent="projects/odd/locations/global/cachedContents/1"), ""),
    "tool": (prompt(tools=[{"retrieval": {"vertexAiSearch": {"datastore": "odd"}}}]), ""),
    "model": (prompt(), "/v1beta/models/odd-{n}:generateContent"),
    "tuned": (prompt(), "/v1/tunedModels/odd-{n}:generateContent"),
    "version": (prompt(), f"/v1/models/{MODEL}:generateContent"),
    "method": ({"content": {"parts": [{"text": "odd"}]}}, f"/v1beta/models/{MODEL}:embedContent"),
    "count": (prompt(odd=1), f"/v1beta/models/{MODEL}:countTokens"),
    "stream": (prompt("odd"), f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"),
    "array": (prompt("odd"), f"/v1beta/models/{MODEL}:streamGenerateContent?alt=json"),
    "user project": (prompt("odd"), f"/v1beta/models/{MODEL}:generateContent?userProject=odd&%24userProject=odd"),
    "text": (prompt("API key not valid. odd"), ""),
}
#: Everything that an upstream may say of such a request, without a word about the account or the model.
ERRORS: tuple[tuple[Any, ...], ...] = (
    *(
        (status, google_error(status, name, message))
        for status, name, messages in (
            (400, "INVALID_ARGUMENT", ('Invalid value: "API key not valid. Please pass a valid API key."', "No.")),
            (400, "FAILED_PRECONDITION", ("The File odd is not in an ACTIVE state.",)),
            (401, "UNAUTHENTICATED", ("API keys are not supported by this API. Expected OAuth2 access token.",)),
            (
                403,
                "PERMISSION_DENIED",
                (
                    "The caller does not have permission",
                    "",
                    "You do not have permission to access the File odd or it may not exist.",
                    "Permission denied while accessing input file.",
                    "Request had insufficient authentication scopes.",
                    "Permission 'storage.objects.get' denied on resource '//storage/b' (or it may not exist).",
                ),
            ),
            (404, "NOT_FOUND", ("Not found: cached content metadata for 1.", "Requested entity was not found.", "")),
            (413, "INVALID_ARGUMENT", ("Too large.",)),
            (500, "INTERNAL", ("Internal error.",)),
            (503, "UNAVAILABLE", ("Overloaded.",)),
        )
        for message in messages
    ),
    (
        403,
        google_error(403, "PERMISSION_DENIED", "x", info("SERVICE_DISABLED", service="discoveryengine.googleapis.com")),
    ),
    (403, google_error(403, "PERMISSION_DENIED", "x", info("IAM_PERMISSION_DENIED", permission="storage.objects.get"))),
    (
        429,
        google_error(
            429,
            "RESOURCE_EXHAUSTED",
            "x",
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [{"quotaMetric": "discoveryengine.googleapis.com/x", "quotaId": "RequestsPerDay"}],
            },
        ),
    ),
    *((status, PAGE, HTML) for status in (200, 400, 401, 403, 404, 405, 407, 502)),
    (200, b""),
    (200, b": comment\n\n", {"content-type": "text/event-stream"}),
    (200, b"[1]"),
    (302, b"", {"location": "http://127.0.0.1:1/"}),
    (),
)


@pytest.mark.parametrize("kind", ["api-key", "vertex", "code-assist"])
@pytest.mark.parametrize("seed", range(4))
@pytest_twisted.ensureDeferred
async def test_no_sequence_of_one_clients_requests_changes_what_a_plain_one_gets(
    setup: Setup, kind: str, seed: int
) -> None:
    """Any error of any request that is not plain, in any order: every plain one is served at its first attempt."""
    chance = random.Random(f"{kind} {seed}")
    said: tuple[Any, ...] = ()

    def answer(asked: Asked) -> tuple[Any, ...]:
        odd = "odd" in asked.path or b"odd" in asked.body or ("/v1/" in asked.path and kind == "api-key")
        if odd or (kind == "api-key" and ":embedContent" in asked.path):
            return said
        if kind == "code-assist" and ":countTokens" not in asked.path:
            return 200, {"response": GOOD}
        return good(asked)

    setting = await setup(
        answer, kind=kind, pool=f'strategy = "{chance.choice(("round-robin", "sticky", "priority"))}"'
    )
    story: list[str] = []
    for _ in range(30):
        name, said = chance.choice(list(FEATURES)), chance.choice(ERRORS)
        body, target = FEATURES[name]
        if kind != "api-key" and "/v1/" in target:
            continue  # there the version is the gateway's to choose
        if "contents" in body:
            body = {**body, "contents": [{"role": "user", "parts": [{"text": f"odd {chance.random()}"}]}]}
        status, _ = await setting.ask(body, target.format(n=chance.randrange(5)))
        story.append(f"{name}: {said} -> {status}")
        await settle(0)
        before = len(setting.upstream.asked)
        status, _ = await setting.ask(prompt(f"plain {chance.random()}"))
        plain = [asked for asked in setting.upstream.asked[before:] if b"plain" in asked.body]
        assert (status, len(plain)) == (200, 1), "\n".join(story)
        assert not setting.held, "\n".join(story)


# -- The gateway's own question ------------------------------------------------------------------------------


def refusing(name: str, when: Callable[[Asked], bool]) -> Callable[[Asked], tuple[Any, ...]]:
    """An upstream that refuses one account without a reason, where it is asked so."""

    def answer(asked: Asked) -> tuple[Any, ...]:
        if asked.credential == name and when(asked):
            return 403, google_error(403, "PERMISSION_DENIED", "The caller does not have permission")
        return good(asked)

    return answer


@pytest_twisted.ensureDeferred
async def test_an_account_that_refuses_the_gateways_own_question_is_set_aside(setup: Setup) -> None:
    """After two conversations; clients are served by the other account all the time."""
    setting = await setup(refusing("k0", lambda asked: True), pool='strategy = "priority"')
    assert (await setting.ask(prompt("one")))[0] == 200
    assert (await setting.ask(prompt("one")))[0] == 200
    assert not setting.held
    assert (await setting.ask(prompt("two")))[0] == 200
    await eventually(lambda: setting.held, "what is held")
    (rest,) = setting.held["a0"].cooldowns
    assert (rest.model, rest.cause, rest.reason) == (MODEL, "ASIDE", "PERMISSION_DENIED")
    assert rest.message == "The caller does not have permission"
    asked = [(it.credential, it.path.rpartition(":")[2]) for it in setting.upstream.asked]
    assert asked.count(("k0", "countTokens")) == 1
    assert (await setting.ask(prompt("three")))[0] == 200
    assert len(setting.upstream.asked) == len(asked) + 1


@pytest_twisted.ensureDeferred
async def test_an_account_that_answers_the_gateways_own_question_goes_on(setup: Setup) -> None:
    """What is refused is about these requests: they are served by the other account, and nothing is held."""
    setting = await setup(refusing("k0", lambda asked: b"odd" in asked.body), pool='strategy = "priority"')
    for n in range(5):
        assert (await setting.ask(prompt(f"odd {n}")))[0] == 200
    await settle()
    assert not setting.held
    paths = [it.path.rpartition(":")[2] for it in setting.upstream.asked]
    assert paths.count("countTokens") == 1, "it is not asked again within a minute"
    before = len(setting.upstream.asked)
    assert (await setting.ask(prompt("plain")))[0] == 200
    assert [it.credential for it in setting.upstream.asked[before:]] == ["k0"]


@pytest_twisted.ensureDeferred
async def test_the_answer_goes_to_the_client_where_every_account_refuses(setup: Setup) -> None:
    """As Google gave it."""
    setting = await setup(
        lambda asked: (403, google_error(403, "PERMISSION_DENIED", "The caller does not have permission"))
    )
    status, body = await setting.ask()
    assert (status, json.loads(body)["error"]["message"]) == (403, "The caller does not have permission")
    assert len(setting.upstream.asked) == 2


@pytest_twisted.ensureDeferred
async def test_words_that_the_own_question_meets_count(setup: Setup) -> None:
    """Where it is told more than the clients were."""

    def answer(asked: Asked) -> tuple[Any, ...]:
        if ":countTokens" in asked.path and asked.credential == "k0":
            return 403, google_error(403, "PERMISSION_DENIED", "Your API key was reported as leaked.")
        return refusing("k0", lambda asked: True)(asked)

    setting = await setup(answer, pool='strategy = "priority"')
    for text in ("one", "two"):
        assert (await setting.ask(prompt(text)))[0] == 200
    await eventually(lambda: setting.held, "what is held")
    assert setting.held["a0"].disabled == "API_KEY_LEAKED"


@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_answers_the_own_question_oddly_as_well_is_left_alone(setup: Setup) -> None:
    """And comes back by itself; another account's endpoint serves meanwhile."""
    on = True

    def answer(asked: Asked) -> tuple[Any, ...]:
        return (403, PAGE, HTML) if on else good(asked)

    setting = await setup(answer, count=1)
    pool = setting.running.gateway.pool
    for _ in range(5):
        if not pool.excluded(MODEL, "generateContent"):
            assert (await setting.ask())[0] == 403
            await settle()
    assert pool.excluded(MODEL, "generateContent")[0].cause is Cause.ENDPOINT
    count = len(setting.upstream.asked)
    status, body = await setting.ask()
    assert (status, len(setting.upstream.asked)) == (503, count)
    assert b"ENDPOINTS_FAIL" in body
    assert not setting.held, "nothing lasting"
    on = False
    pool.reset("a0")
    assert (await setting.ask())[0] == 200


@pytest_twisted.ensureDeferred
async def test_no_question_is_asked_beyond_what_an_account_may_serve_at_once(setup: Setup) -> None:
    """Nor after the end."""
    setting = await setup(refusing("k0", lambda asked: True), pool='strategy = "priority"')
    gateway = setting.running.gateway
    context = gateway.calls.context
    account = attrs.evolve(gateway.pool.accounts[0], max_concurrency=1)
    gateway.pool.replace([account, gateway.pool.accounts[1]], ())
    with gateway.pool.lease(account, MODEL):
        context.checks.ask_account(context, account, MODEL, 403)
    context.checks.ask_account(context, account, MODEL, 403)
    context.checks.ask_account(context, account, MODEL, 403)
    context.checks.stop()
    await settle()
    assert len(setting.upstream.asked) <= 1


# -- What is not Google's -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["generateContent", "streamGenerateContent?alt=sse", "streamGenerateContent?alt=json"]
)
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (PAGE, "text/html"),
        (b"", "text/html"),
        (b": one\n\n: two\n\n", "text/event-stream"),
        (b"Blocked: by policy", "text/plain"),
        (b"{}", "application/json"),
        (b"[{}]", "application/json"),
        (b"\x1f\x8b\x08", "application/json"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_200_that_is_not_what_was_asked_for_is_a_failed_attempt(
    setup: Setup, query: str, body: bytes, kind: str
) -> None:
    """Another account serves; alone, the client gets 502, and nothing that looks complete."""
    right = {"generateContent": b"{}", "streamGenerateContent?alt=json": b"[{}]"}
    if body == right.get(query):
        return
    setting = await setup(
        lambda asked: (200, body, {"content-type": kind}) if asked.credential == "k0" else good(asked),
        pool='strategy = "priority"',
    )
    target = f"/v1beta/models/{MODEL}:{query}"
    status, answer = await setting.ask(target=target)
    assert (status, b'"good"' in answer) == (200, True)
    gateway = setting.running.gateway
    gateway.pool.replace(gateway.pool.accounts[:1], ())
    status, answer = await setting.ask(target=target)
    assert (status, json.loads(answer)["error"]["code"]) == (502, 502)


@pytest.mark.parametrize("encoding", ["gzip", "br"])
@pytest_twisted.ensureDeferred
async def test_the_status_of_a_compressed_error_counts(setup: Setup, encoding: str) -> None:
    """Something on the way compresses: a 429 rests the account; what can be inflated is read, too."""
    import gzip

    error = google_error(429, "RESOURCE_EXHAUSTED", "Please retry in 30s.")
    body = gzip.compress(json.dumps(error).encode())
    setting = await setup(lambda asked: (429, body, {"content-encoding": encoding}), count=1)
    began = reactor.seconds()
    status, answer = await setting.ask()
    assert status == 429
    (rest,) = setting.held["a0"].cooldowns
    assert rest.left is not None
    assert (rest.left > 25) == (encoding == "gzip")
    assert reactor.seconds() - began < 25
    assert (b"Please retry" in answer) == (encoding == "gzip")

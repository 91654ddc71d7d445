"""The attempts of a request: which account and endpoint serve it, what a failure leads to, and what the client gets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest
import pytest_twisted
import treq
from twisted.web.client import Agent

from agm.testing import GatewayFactory, RunningGateway
from tests.helpers.support import AnsweringUpstream, Asked, google_error, info, reactor, retry

Answer = Callable[[Asked], tuple[Any, ...]]
GOOD = {"candidates": [{"content": {"parts": [{"text": "good"}]}, "finishReason": "STOP"}]}


@attrs.define
class Setting:
    """A gateway before an upstream that a test scripts."""

    running: RunningGateway
    upstream: AnsweringUpstream

    async def ask(self, model: str = "m", text: str = "hi", method: str = "generateContent") -> tuple[int, Any, Any]:
        """Ask for an answer: its status, document and headers."""
        client = treq.client.HTTPClient(Agent(reactor))
        body = json.dumps({"contents": [{"role": "user", "parts": [{"text": text}]}]}).encode()
        answer = await client.post(
            f"{self.running.url}/v1beta/models/{model}:{method}",
            data=body,
            headers={"Content-Type": "application/json", "Connection": "close"},
        )
        return answer.code, json.loads(await answer.content()), answer.headers

    @property
    def counts(self) -> dict[str, int]:
        """How many requests came with each credential."""
        return {c: self.upstream.credentials.count(c) for c in sorted(set(self.upstream.credentials))}


Setup = Callable[..., Awaitable[Setting]]


@pytest_twisted.async_yield_fixture
async def setup(gateway: GatewayFactory) -> AsyncIterator[Setup]:
    upstreams: list[AnsweringUpstream] = []

    async def make(
        answer: Answer, count: int = 3, kind: str = "api-key", extra: str = "", account: str = ""
    ) -> Setting:
        upstream = AnsweringUpstream(answer)
        upstreams.append(upstream)
        tables = []
        for n in range(count):
            credential = f'api_key = "k{n}"' if kind == "api-key" else f'access_token = "k{n}"\nproject = "p"'
            tables.append(
                f'[[accounts]]\nname = "a{n}"\nkind = "{kind}"\n{credential}\nendpoints = ["{upstream.url}"]\n{account}'
            )
        return Setting(await gateway(extra + "\n".join(tables)), upstream)

    yield make
    for upstream in upstreams:
        await upstream.stop()


def failing(error: dict[str, Any], *names: str, headers: dict[str, str] | None = None) -> Answer:
    """An upstream that fails for these credentials, or for the first one that comes."""
    chosen = set(names)

    def answer(asked: Asked) -> tuple[Any, ...]:
        if not names and not chosen:
            chosen.add(asked.credential)
        if asked.credential in chosen:
            return error["error"]["code"], error, headers or {}
        return 200, GOOD

    return answer


ROTATING = {
    "429 with a long delay": google_error(429, "RESOURCE_EXHAUSTED", "slow", retry("30s")),
    "429 of the day": google_error(
        429,
        "RESOURCE_EXHAUSTED",
        "day",
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
        },
        retry("1s"),
    ),
    "429 without details": google_error(429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later."),
    "quota exhausted": google_error(429, "RESOURCE_EXHAUSTED", "quota", info("QUOTA_EXHAUSTED", quotaResetDelay="1h")),
    "403": google_error(403, "PERMISSION_DENIED", "off", info("SERVICE_DISABLED")),
    "404": google_error(404, "NOT_FOUND", "models/m is not found for API version v1beta"),
    "500": google_error(500, "INTERNAL"),
    "503": google_error(503, "UNAVAILABLE"),
    "504": google_error(504, "DEADLINE_EXCEEDED"),
    "capacity": google_error(503, "UNAVAILABLE", "No capacity", info("MODEL_CAPACITY_EXHAUSTED")),
}


@pytest.mark.parametrize("name", ROTATING)
@pytest_twisted.ensureDeferred
async def test_a_failing_account_is_hidden_by_another_at_once(setup: Setup, name: str) -> None:
    setting = await setup(failing(ROTATING[name]))
    assert (await setting.ask())[:2] == (200, GOOD)
    assert len(setting.upstream.asked) == 2
    assert len(setting.counts) == 2


RESTING = [name for name in ROTATING if name not in ("500", "503", "504", "capacity")]


@pytest.mark.parametrize("name", RESTING)
@pytest_twisted.ensureDeferred
async def test_an_account_that_rests_for_a_model_is_not_asked_for_it_but_for_others(setup: Setup, name: str) -> None:
    setting = await setup(failing(ROTATING[name], "k0"), extra='[pool]\nstrategy = "priority"\n', count=2)
    for _ in range(6):
        assert (await setting.ask())[0] == 200
    assert setting.counts == {"k0": 1, "k1": 6}
    await setting.ask("other")
    await setting.ask("other2")
    await setting.ask("other3")
    assert (setting.counts["k0"] > 1) == (name != "403"), "a service that is off is so for every model"


@pytest.mark.parametrize("name", ["500", "503", "504", "capacity"])
@pytest_twisted.ensureDeferred
async def test_a_passing_failure_is_not_held_against_the_account(setup: Setup, name: str) -> None:
    failed: list[Asked] = []

    def answer(asked: Asked) -> tuple[Any, ...]:
        if not failed:
            failed.append(asked)
            return ROTATING[name]["error"]["code"], ROTATING[name]
        return 200, GOOD

    setting = await setup(answer, count=2)
    for number in range(8):
        assert (await setting.ask(text=str(number)))[0] == 200
    assert min(setting.counts.values()) >= 3


@pytest.mark.parametrize(
    ("status", "code"), [(400, "INVALID_ARGUMENT"), (413, "INVALID_ARGUMENT"), (499, "CANCELLED"), (409, "ABORTED")]
)
@pytest_twisted.ensureDeferred
async def test_an_answer_to_the_clients_own_mistake_goes_to_it_as_it_is(setup: Setup, status: int, code: str) -> None:
    error = google_error(status, code, "your own", {"@type": "type.googleapis.com/google.rpc.BadRequest"})
    setting = await setup(lambda _: (status, error))
    assert (await setting.ask())[:2] == (status, error)
    assert len(setting.upstream.asked) == 1


@pytest_twisted.ensureDeferred
async def test_a_short_delay_is_waited_out_on_the_same_account(setup: Setup) -> None:
    times: list[float] = []

    def answer(asked: Asked) -> tuple[Any, ...]:
        times.append(reactor.seconds())
        return (429, google_error(429, "RESOURCE_EXHAUSTED", "slow", retry("0.2s"))) if len(times) == 1 else (200, GOOD)

    setting = await setup(answer)
    assert (await setting.ask())[0] == 200
    assert len(setting.counts) == 1
    assert times[1] - times[0] >= 0.2


@pytest_twisted.ensureDeferred
async def test_a_401_is_replayed_once_on_the_same_account(setup: Setup) -> None:
    seen: list[Asked] = []

    def answer(asked: Asked) -> tuple[Any, ...]:
        seen.append(asked)
        return (401, google_error(401, "UNAUTHENTICATED")) if len(seen) == 1 else (200, GOOD)

    setting = await setup(answer)
    assert (await setting.ask())[0] == 200
    assert len(seen) == 2
    assert len(setting.counts) == 1


@pytest_twisted.ensureDeferred
async def test_a_refused_credential_is_off_after_its_replay_and_another_account_serves(setup: Setup) -> None:
    error = google_error(401, "UNAUTHENTICATED")
    setting = await setup(failing(error, "k0"), extra='[pool]\nstrategy = "priority"\n', count=2)
    for number in range(6):
        assert (await setting.ask(f"m{number % 3}"))[0] == 200
    assert setting.counts == {"k0": 2, "k1": 6}


@pytest.mark.parametrize(
    "error",
    [
        google_error(400, "INVALID_ARGUMENT", "API key not valid.", info("API_KEY_INVALID")),
        google_error(403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another API key."),
        google_error(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
    ],
    ids=["invalid", "leaked", "location"],
)
@pytest_twisted.ensureDeferred
async def test_an_account_that_is_refused_as_such_is_asked_once(setup: Setup, error: dict[str, Any]) -> None:
    setting = await setup(failing(error, "k0"), extra='[pool]\nstrategy = "priority"\n', count=2)
    for number in range(6):
        assert (await setting.ask(f"m{number % 3}"))[0] == 200
    assert setting.counts == {"k0": 1, "k1": 6}


@pytest_twisted.ensureDeferred
async def test_attempts_end_at_max_attempts_with_the_last_error(setup: Setup) -> None:
    error = google_error(503, "UNAVAILABLE", "This model is currently experiencing high demand.")
    setting = await setup(lambda _: (503, error), count=5, extra="[pool]\nmax_attempts = 4\n")
    status, document, headers = await setting.ask()
    assert status == 503
    assert document["error"]["message"] == error["error"]["message"]
    assert document["error"]["details"][0]["@type"].endswith("RetryInfo")
    assert headers.getRawHeaders("retry-after") == ["1"]
    assert len(setting.upstream.asked) == 4
    assert len(setting.counts) == 4


@pytest_twisted.ensureDeferred
async def test_a_model_without_capacity_is_asked_of_one_other_account_only(setup: Setup) -> None:
    setting = await setup(lambda _: (503, ROTATING["capacity"]), count=3)
    assert (await setting.ask())[0] == 503
    assert len(setting.counts) == 2


@pytest_twisted.ensureDeferred
async def test_when_all_accounts_rest_the_answer_is_429_with_the_earliest_recovery(setup: Setup) -> None:
    delays = {"k0": "50s", "k1": "20s", "k2": "40s"}
    setting = await setup(
        lambda asked: (429, google_error(429, "RESOURCE_EXHAUSTED", "slow", retry(delays[asked.credential])))
    )
    first = await setting.ask()
    again = await setting.ask()
    assert first[0] == again[0] == 429
    assert len(setting.upstream.asked) == 3, "the second request asked nobody"
    for _, document, headers in (first, again):
        wait = next(d["retryDelay"] for d in document["error"]["details"] if d["@type"].endswith("RetryInfo"))
        assert 19 < float(wait.rstrip("s")) <= 20
        assert headers.getRawHeaders("retry-after") == ["20"]
    assert (await setting.ask("other"))[0] == 429
    assert len(setting.upstream.asked) == 6, "another model is another quota"


@pytest_twisted.ensureDeferred
async def test_what_is_told_after_a_probe_that_failed_is_what_holds(setup: Setup) -> None:
    setting = await setup(
        lambda _: (429, google_error(429, "RESOURCE_EXHAUSTED", "slow", retry("2.2s"))),
        count=1,
        extra="[pool]\nmax_wait = 0\n",
    )
    from tests.helpers.support import settle

    await setting.ask()
    await settle(2.3)
    waits = []
    for _ in range(2):  # the probe, which fails, and the next request, which asks nobody
        status, document, headers = await setting.ask()
        assert status == 429
        told = next(d["retryDelay"] for d in document["error"]["details"] if d["@type"].endswith("RetryInfo"))
        waits.append(float(told.rstrip("s")))
        assert int(headers.getRawHeaders("retry-after")[0]) >= waits[-1]
    assert len(setting.upstream.asked) == 2
    assert 0 <= waits[0] - waits[1] < 1


@pytest_twisted.ensureDeferred
async def test_an_account_serves_again_when_its_rest_is_over(setup: Setup) -> None:
    seen: list[Asked] = []

    def answer(asked: Asked) -> tuple[Any, ...]:
        seen.append(asked)
        return (429, google_error(429, "RESOURCE_EXHAUSTED", "slow", retry("2.1s"))) if len(seen) == 1 else (200, GOOD)

    setting = await setup(answer, count=1, extra="[pool]\nmax_wait = 0\n")
    assert (await setting.ask())[0] == 429
    assert (await setting.ask())[0] == 429
    from tests.helpers.support import settle

    await settle(2.2)
    assert (await setting.ask())[0] == 200
    assert len(seen) == 2


@pytest_twisted.ensureDeferred
async def test_a_second_endpoint_is_tried_before_another_account(gateway: GatewayFactory) -> None:
    good = AnsweringUpstream(lambda _: (200, GOOD))
    bad = AnsweringUpstream(lambda _: (503, google_error(503, "UNAVAILABLE")))
    running = await gateway(
        f'[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k0"\nendpoints = ["{bad.url}", "{good.url}"]\n'
        f'[[accounts]]\nname = "b"\nkind = "api-key"\napi_key = "k0"\nendpoints = ["{bad.url}", "{good.url}"]\n'
    )
    assert (await Setting(running, good).ask())[0] == 200
    assert (len(bad.asked), len(good.asked)) == (1, 1)
    await bad.stop()
    await good.stop()


@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_cannot_be_reached_is_passed_over(gateway: GatewayFactory) -> None:
    good = AnsweringUpstream(lambda _: (200, GOOD))
    gone = AnsweringUpstream(lambda _: (200, GOOD))
    await gone.stop()
    running = await gateway(
        f'[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\nendpoints = ["{gone.url}", "{good.url}"]\n'
    )
    assert (await Setting(running, good).ask())[0] == 200
    alone = await gateway(f'[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\nendpoints = ["{gone.url}"]\n')
    status, document, _ = await Setting(alone, good).ask()
    assert (status, document["error"]["status"]) == (502, "UNAVAILABLE")
    assert "127.0.0.1" not in document["error"]["message"]
    await good.stop()


@pytest_twisted.ensureDeferred
async def test_an_only_account_is_asked_again_after_a_passing_failure(setup: Setup) -> None:
    seen: list[Asked] = []

    def answer(asked: Asked) -> tuple[Any, ...]:
        seen.append(asked)
        return (500, google_error(500, "INTERNAL")) if len(seen) == 1 else (200, GOOD)

    setting = await setup(answer, count=1)
    assert (await setting.ask())[0] == 200


@pytest.mark.parametrize("kind", ["api-key", "vertex", "code-assist"])
@pytest_twisted.ensureDeferred
async def test_an_error_array_becomes_an_error_object(setup: Setup, kind: str) -> None:
    error = google_error(400, "INVALID_ARGUMENT", "in an array")
    setting = await setup(lambda _: (400, [error]), kind=kind)
    assert (await setting.ask(method="streamGenerateContent"))[1] == error


@pytest_twisted.ensureDeferred
async def test_an_error_that_is_not_googles_becomes_one(setup: Setup) -> None:
    setting = await setup(lambda _: (403, b"<html>no</html>"))
    status, document, _ = await setting.ask()
    assert status == 403
    assert document["error"]["status"] == "PERMISSION_DENIED"
    assert "html" not in document["error"]["message"]


@pytest_twisted.ensureDeferred
async def test_a_method_that_no_accounts_kind_has_is_501_and_an_unserved_model_404(setup: Setup) -> None:
    setting = await setup(lambda _: (200, {"response": GOOD}), kind="code-assist", account='models = ["gemini-*"]\n')
    assert (await setting.ask("gemini-x", method="embedContent"))[0] == 501
    status, document, _ = await setting.ask("other")
    assert (status, document["error"]["status"]) == (404, "NOT_FOUND")
    assert "Call ListModels" in document["error"]["message"]


@pytest_twisted.ensureDeferred
async def test_code_assist_is_asked_in_its_envelope_with_a_new_request_id_per_attempt(setup: Setup) -> None:
    failed: list[Asked] = []

    def answer(asked: Asked) -> tuple[Any, ...]:
        if not failed:
            failed.append(asked)
            return 503, google_error(503, "UNAVAILABLE")
        return 200, {"response": GOOD, "traceId": "t"}

    setting = await setup(answer, kind="code-assist")
    assert (await setting.ask("gemini-2.5-flash-image"))[:2] == (200, GOOD)
    envelopes = [json.loads(asked.body) for asked in setting.upstream.asked]
    assert {asked.uri for asked in setting.upstream.asked} == {"/v1internal:generateContent"}
    assert envelopes[0]["requestId"] != envelopes[1]["requestId"]
    assert envelopes[1]["request"]["sessionId"] == envelopes[0]["request"]["sessionId"]
    assert envelopes[0]["requestType"] == "image_gen"
    assert envelopes[0]["project"] == "p"
    assert envelopes[0]["model"] == "gemini-2.5-flash-image"
    assert envelopes[0]["userAgent"].startswith("agm/")
    assert set(envelopes[0]) == {"project", "model", "requestId", "requestType", "userAgent", "request"}
    assert set(envelopes[0]["request"]) == {"contents", "sessionId"}


@pytest_twisted.ensureDeferred
async def test_vertex_is_asked_at_the_paths_of_its_project_or_in_express_mode(gateway: GatewayFactory) -> None:
    upstream = AnsweringUpstream(lambda _: (200, GOOD))
    where = f'endpoints = ["{upstream.url}"]'
    with_project = await gateway(
        f'[[accounts]]\nname = "v"\nkind = "vertex"\naccess_token = "t"\nproject = "p"\nlocation = "eu"\n{where}\n'
    )
    express = await gateway(f'[[accounts]]\nname = "v"\nkind = "vertex"\napi_key = "k"\n{where}\n')
    for running in (with_project, express):
        for model in ("m", "publishers/other/models/m", "tunedModels/7"):
            collection = "" if model.startswith("tunedModels") else "models/"
            client = treq.client.HTTPClient(Agent(reactor))
            answer = await client.post(
                f"{running.url}/v1beta/{collection}{model}:generateContent", data=b"{}", headers={"Connection": "close"}
            )
            assert answer.code == 200
            await answer.content()
    assert [asked.path for asked in upstream.asked] == [
        "/v1beta1/projects/p/locations/eu/publishers/google/models/m:generateContent",
        "/v1beta1/projects/p/locations/eu/publishers/other/models/m:generateContent",
        "/v1beta1/projects/p/locations/eu/endpoints/7:generateContent",
        "/v1beta1/publishers/google/models/m:generateContent",
        "/v1beta1/publishers/other/models/m:generateContent",
        "/v1beta1/endpoints/7:generateContent",
    ]
    assert upstream.asked[0].headers["authorization"] == "Bearer t"
    assert upstream.asked[3].headers["x-goog-api-key"] == "k"
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_a_conversation_stays_on_its_account_and_new_ones_take_turns(setup: Setup) -> None:
    setting = await setup(lambda _: (200, GOOD))
    for _ in range(4):
        await setting.ask(text="one conversation")
    assert len(setting.counts) == 1
    for number in range(30):
        await setting.ask(text=f"conversation {number}")
    assert min(setting.counts.values()) >= 9


@pytest_twisted.ensureDeferred
async def test_a_sticky_conversation_yields_when_its_account_rests(setup: Setup) -> None:
    broken: set[str] = set()

    def answer(asked: Asked) -> tuple[Any, ...]:
        if asked.credential in broken:
            return 429, google_error(429, "RESOURCE_EXHAUSTED", "slow", retry("30s"))
        return 200, GOOD

    setting = await setup(answer)
    await setting.ask()
    broken.add(setting.upstream.credentials[-1])
    assert (await setting.ask())[0] == 200
    assert (await setting.ask())[0] == 200
    assert len(setting.upstream.asked) == 4
    assert setting.upstream.credentials[-1] == setting.upstream.credentials[-2], "it stays where it has moved"


@pytest_twisted.ensureDeferred
async def test_a_conversation_that_moved_to_the_only_account_left_does_not_jump_back(setup: Setup) -> None:
    resting = [True]

    def answer(asked: Asked) -> tuple[Any, ...]:
        if asked.credential == first and resting:
            resting.clear()
            return 429, google_error(429, "RESOURCE_EXHAUSTED", "slow", retry("2.1s"))
        return 200, GOOD

    first = ""
    setting = await setup(answer, count=2)
    await setting.ask()
    first = setting.upstream.credentials[-1]
    assert (await setting.ask())[0] == 200
    other = setting.upstream.credentials[-1]
    assert other != first
    from tests.helpers.support import settle

    await settle(2.2)
    await setting.ask(text="another conversation")  # the account that rested is probed, and serves again
    await setting.ask(text="one more")
    assert first in setting.upstream.credentials[-2:]
    await setting.ask()
    assert setting.upstream.credentials[-1] == other


@pytest_twisted.ensureDeferred
async def test_round_robin_takes_turns_whatever_the_conversation(setup: Setup) -> None:
    setting = await setup(lambda _: (200, GOOD), extra='[pool]\nstrategy = "round-robin"\n')
    for _ in range(9):
        await setting.ask()
    assert setting.counts == {"k0": 3, "k1": 3, "k2": 3}


@pytest_twisted.ensureDeferred
async def test_an_alias_maps_the_model_exact_first_then_the_most_specific(setup: Setup) -> None:
    setting = await setup(
        lambda _: (200, GOOD),
        extra='[models.aliases]\n"gpt-*" = "wide"\n"gpt-4o*" = "narrow"\n"gpt-4o" = "exact"\n',
    )
    for model in ("gpt-3", "gpt-4o-mini", "gpt-4o", "plain"):
        await setting.ask(model)
    assert [asked.path.split("/")[-1].split(":")[0] for asked in setting.upstream.asked] == [
        "wide",
        "narrow",
        "exact",
        "plain",
    ]


@pytest_twisted.ensureDeferred
async def test_an_account_takes_no_more_requests_at_once_than_it_may(gateway: GatewayFactory) -> None:
    from tests.helpers.support import JSON_HEAD, ScriptedUpstream, connect, post

    upstream = ScriptedUpstream()
    running = await gateway(
        '[pool]\nmax_wait = 0\n[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\nmax_concurrency = 1\n'
        f'endpoints = ["{upstream.url}"]\n'
    )
    first = await connect(running.port)
    first.send(post("/v1beta/models/m:generateContent"))
    up = await upstream.connection()
    second = await connect(running.port)
    second.send(post("/v1beta/models/m:generateContent"))
    await second.until(b"429 Too Many Requests", b"Retry-After: 1", b"max_concurrency")
    up.send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
    await first.until(b"{}")
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_a_request_waits_for_an_account_that_is_near(gateway: GatewayFactory) -> None:
    from tests.helpers.support import JSON_HEAD, ScriptedUpstream, connect, eventually, post

    upstream = ScriptedUpstream()
    running = await gateway(
        '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\nmax_concurrency = 1\n'
        f'endpoints = ["{upstream.url}"]\n'
    )
    pool = running.gateway.pool
    clients = [await connect(running.port) for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(post(f"/v1beta/models/m:generateContent?n={number}"))
        await eventually(lambda n=number: sum(pool.loads().values()) + pool.waiting("m") == n + 1)  # type: ignore[misc]
    clients[1].transport.abortConnection()
    await eventually(lambda: pool.waiting("m") == 1, "the end of a wait whose client has left")
    up = await upstream.connection()
    up.send(JSON_HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
    await clients[0].until(b"200 OK", b"{}")
    up = await upstream.connection(1)
    up.send(JSON_HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
    await clients[2].until(b"200 OK", b"{}")
    assert len(upstream.connections) == 2
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_a_rest_that_ends_soon_is_waited_out(setup: Setup) -> None:
    times: list[float] = []

    def answer(asked: Asked) -> tuple[Any, ...]:
        times.append(reactor.seconds())
        return (429, google_error(429, "RESOURCE_EXHAUSTED", "slow", retry("2.1s"))) if len(times) == 1 else (200, GOOD)

    setting = await setup(answer, count=1)
    assert (await setting.ask())[0] == 200
    assert len(times) == 2
    assert times[1] - times[0] >= 2.1


@pytest_twisted.ensureDeferred
async def test_a_wait_ends_with_429_when_nothing_will_be_ready_in_time(setup: Setup) -> None:
    setting = await setup(
        lambda _: (429, google_error(429, "RESOURCE_EXHAUSTED", "slow", retry("2.2s"))),
        extra="[pool]\nmax_wait = 2\n",
        count=1,
    )
    assert (await setting.ask())[0] == 429
    assert (await setting.ask())[0] == 429
    assert len(setting.upstream.asked) == 1


@pytest.mark.parametrize("status", [404, 408, 502])
@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_does_not_answer_as_google_is_passed_over(gateway: GatewayFactory, status: int) -> None:
    good = AnsweringUpstream(lambda _: (200, GOOD))
    odd = AnsweringUpstream(lambda _: (status, b"<html>not here</html>"))
    running = await gateway(
        f'[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\nendpoints = ["{odd.url}", "{good.url}"]\n'
    )
    assert (await Setting(running, good).ask())[0] == 200
    assert (len(odd.asked), len(good.asked)) == (1, 1)
    await odd.stop()
    await good.stop()


@pytest_twisted.ensureDeferred
async def test_what_an_upstream_may_have_acted_on_is_not_sent_again(gateway: GatewayFactory) -> None:
    from tests.helpers.support import ScriptedUpstream, connect, post

    upstream = ScriptedUpstream()
    running = await gateway(
        "".join(
            f'[[accounts]]\nname = "{n}"\nkind = "api-key"\napi_key = "k{n}"\nendpoints = ["{upstream.url}"]\n'
            for n in "ab"
        )
    )
    client = await connect(running.port)
    client.send(post("/v1beta/models/m:generateContent"))
    (await upstream.connection()).transport.loseConnection()
    await client.until(b"502 Bad Gateway", b"CONNECTION_LOST")
    assert len(upstream.connections) == 1
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_a_model_that_always_fails_costs_the_others_nothing(setup: Setup) -> None:
    def answer(asked: Asked) -> tuple[Any, ...]:
        return (200, GOOD) if "good" in asked.path else (503, google_error(503, "UNAVAILABLE"))

    setting = await setup(answer)
    for number in range(12):
        assert (await setting.ask(f"bad-{number % 4}"))[0] == 503
    assert (await setting.ask("good"))[0] == 200

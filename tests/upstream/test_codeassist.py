"""What Code Assist is asked about an account: as dialogues on a fake clock, and through a gateway with the emulator."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.web.http_headers import Headers

from agm import hookimpl
from agm.core.request import Account
from agm.testing import GatewayFactory, RunningEmulator
from agm.upstream.client import UpstreamFailed, WholeAnswer
from agm.upstream.codeassist import (
    BELIEVED,
    ONBOARDING_PATIENCE,
    POLL_EVERY,
    QUOTA_AFTER_429,
    QUOTA_DELAY,
    QUOTA_EVERY,
    CodeAssist,
    NoProject,
    NotTold,
    Onboarding,
    Quota,
    Refused,
    models_of,
    onboarded,
    project_of,
    quotas_of,
)
from agm.upstream.credentials.credential import CredentialError
from tests.helpers.support import AnsweringUpstream, Asked, eventually, google_error, info

# -- What the service says ---------------------------------------------------------------------------

TIER = {"id": "standard-tier", "name": "Standard"}
OWN = {"id": "legacy-tier", "isDefault": True, "userDefinedCloudaicompanionProject": True}


def test_an_account_with_a_tier_has_the_project_that_comes_with_it() -> None:
    """As text, or as an object with an id."""
    assert project_of({"currentTier": TIER, "cloudaicompanionProject": "p-1"}) == "p-1"
    assert project_of({"currentTier": TIER, "cloudaicompanionProject": {"id": "p-1", "name": "x"}}) == "p-1"


def test_an_account_without_a_tier_goes_through_the_default_one() -> None:
    """Whatever else is allowed."""
    tiers = [TIER, {"id": "free-tier", "isDefault": True, "userDefinedCloudaicompanionProject": True}]
    assert project_of({"allowedTiers": tiers}) == Onboarding("free-tier")


@pytest.mark.parametrize(
    ("loaded", "words"),
    [
        ({"currentTier": TIER}, "names no project for this account (tier standard-tier)"),
        ({"currentTier": TIER, "cloudaicompanionProject": "../x"}, "names no project"),
        ({"allowedTiers": [OWN]}, "the Code Assist tier legacy-tier requires a project"),
        ({}, "into no tier by itself; check its licence"),
        ({"allowedTiers": [TIER, 5, None]}, "into no tier by itself"),
        (
            {"allowedTiers": "free-tier", "ineligibleTiers": [{"reasonMessage": "Not in\nyour place"}]},
            "Not in your place",
        ),
        ({"ineligibleTiers": [{"reasonCode": "UNSUPPORTED_LOCATION"}]}, "UNSUPPORTED_LOCATION"),
    ],
)
def test_an_account_without_a_way_to_a_project_is_told_the_cure(loaded: dict[str, Any], words: str) -> None:
    """In one line, with what the service says about it."""
    with pytest.raises(NoProject) as refused:
        project_of(loaded)
    assert words in refused.value.reason
    assert refused.value.reason.isprintable()


def test_an_onboarding_ends_with_a_project_or_a_reason() -> None:
    """And until then it goes on."""
    project = {"cloudaicompanionProject": {"id": "p-2"}}
    assert onboarded({"name": "operations/1"}) is None
    assert onboarded({"done": False, "response": project}) is None
    assert onboarded({"done": True, "response": project}) == "p-2"
    with pytest.raises(NoProject, match="did not take this account in: No seat"):
        onboarded({"done": True, "error": {"code": 9, "message": "No seat"}})
    with pytest.raises(NoProject, match="named no project"):
        onboarded({"done": True})


RESET = "2026-11-23T00:00:00Z"
RESET_SECONDS = 1795392000.0


def test_quotas_are_read_from_buckets_and_from_models_alike() -> None:
    """A missing fraction is nothing left, as proto3 JSON has it; of two for a model the lower counts."""
    buckets = [
        {"modelId": "a", "remainingFraction": 0.75, "resetTime": RESET},
        {"modelId": "a", "remainingFraction": 0.5, "resetTime": RESET},
        {"modelId": "b", "resetTime": RESET},
        {"modelId": "c", "remainingFraction": 7, "resetTime": RESET},
    ]
    assert quotas_of({"buckets": buckets}) == [
        Quota("a", 0.5, RESET_SECONDS),
        Quota("b", 0.0, RESET_SECONDS),
        Quota("c", 1.0, RESET_SECONDS),
    ]
    models = {"a": {"quotaInfo": {"remainingFraction": 1, "resetTime": RESET}}, "b": {}, "c": None}
    assert quotas_of({"models": models}) == [Quota("a", 1.0, RESET_SECONDS)]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"buckets": None},
        {"buckets": [{"modelId": "a", "remainingFraction": 0.5}]},
        {"buckets": [{"modelId": "a", "remainingFraction": 0.5, "resetTime": "soon"}]},
        {"buckets": [{"modelId": "a", "remainingFraction": 0.5, "resetTime": "2026-11-23T00:00:00"}]},
        {"buckets": [{"modelId": "a", "remainingFraction": "0.5", "resetTime": RESET}]},
        {"buckets": [{"modelId": "a", "remainingFraction": True, "resetTime": RESET}]},
        {"buckets": [{"modelId": 5, "remainingFraction": 0.5, "resetTime": RESET}]},
        {"models": [1]},
    ],
)
def test_a_quota_that_cannot_be_read_is_none(document: dict[str, Any]) -> None:
    """Nothing is guessed: a wrong note would keep an account from serving."""
    assert quotas_of(document) == []


def test_models_are_listed_in_geminis_shape() -> None:
    """With what is known, and nothing made up."""
    told = {
        "gemini-x": {"displayName": "X", "maxTokens": 10, "maxOutputTokens": 5, "supportsThinking": True},
        "gemini-y": {"maxTokens": "10"},
        "gemini-z": None,
    }
    x, y = models_of({"models": told})
    assert (x["name"], x["displayName"], x["inputTokenLimit"], x["outputTokenLimit"], x["thinking"]) == (
        "models/gemini-x",
        "X",
        10,
        5,
        True,
    )
    assert x["supportedGenerationMethods"] == ["generateContent", "streamGenerateContent", "countTokens"]
    assert y.keys() == {"name", "baseModelId", "version", "displayName", "supportedGenerationMethods"}
    assert models_of({"models": []}) == models_of({}) == []


# -- Dialogues on a fake clock -----------------------------------------------------------------------


@attrs.define(eq=False)
class Question:
    """A request that came to the service; the test answers it."""

    method: str
    url: str
    headers: dict[bytes, bytes]
    body: Any
    answered: Deferred[Any]

    def answer(self, document: object, status: int = 200) -> None:
        self.answered.callback(WholeAnswer(status, Headers({"Retry-After": ["7"]}), json.dumps(document).encode()))


class Service:
    """In place of the client: collects questions, oldest first."""

    def __init__(self) -> None:
        self.questions: list[Question] = []

    async def fetch(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | None,
        *,
        timeout: float,
        limit: int,
        network: object,
    ) -> WholeAnswer:
        assert timeout > 0
        assert limit > 0
        question = Question(method, url, dict(headers), json.loads(body) if body else None, Deferred())
        self.questions.append(question)
        return await question.answered

    @property
    def last(self) -> Question:
        return self.questions[-1]


@attrs.define(eq=False)
class Token:
    """A credential that counts its refreshes."""

    user_project: bool = False
    refreshable: bool = True
    refreshes: int = 0
    kind: str = "google"
    project: str | None = None

    async def headers(self) -> Sequence[tuple[bytes, bytes]]:
        found = [(b"authorization", b"Bearer t%d" % self.refreshes)]
        return [*found, (b"x-goog-user-project", b"billing")] if self.user_project else found

    def mark_rejected(self, headers: Sequence[tuple[bytes, bytes]] | None = None) -> None:
        self.refreshes += 1


@attrs.define(eq=False)
class Notes:
    """Whoever takes note of quotas."""

    taken: list[tuple[str, str, float, float]] = attrs.Factory(list)

    def note_quota(self, account: Account, model: str, remaining: float, resets_at: float) -> None:
        self.taken.append((account.name, model, remaining, resets_at))


class Talk:
    """A :class:`CodeAssist` with one account, its service and its clock, which is an hour behind the world's."""

    def __init__(self, *, project: str | None = None, endpoints: int = 1, **token: Any) -> None:
        self.clock = Clock()
        self.service = Service()
        self.token = Token(**token)
        self.notes = Notes()
        self.account = Account(
            "team", "code-assist", tuple(f"https://ca{n}.example" for n in range(endpoints)), project=project
        )
        client: Any = self.service
        self.about = CodeAssist(
            self.clock, client, {"team": self.token}, self.notes, lambda: self.clock.seconds() + 3600.0
        )
        self.about.of([self.account], [])

    def asking(self) -> Deferred[Account]:
        return Deferred.fromCoroutine(self.about.with_project(self.account))

    def discovered(self) -> None:
        """Let the account have its project."""
        asking = self.asking()
        self.service.last.answer({"currentTier": TIER, "cloudaicompanionProject": "p-1"})
        assert result(asking).project == "p-1"


def result(d: Deferred[Any]) -> Any:
    """What a Deferred came to; it must have."""
    found: list[Any] = []
    d.addBoth(found.append)
    assert found, "it has not fired"
    return found[0]


def failure(d: Deferred[Any], kind: type[Exception]) -> Any:
    """The exception that a Deferred failed with."""
    failed = result(d)
    assert isinstance(failed.value, kind), failed
    return failed.value


def test_an_account_with_a_project_is_asked_nothing() -> None:
    """Nor is one of another kind."""
    talk = Talk(project="mine")
    assert result(talk.asking()) is talk.account
    other = Account("k", "api-key", ("https://x.example",))
    assert result(Deferred.fromCoroutine(talk.about.with_project(other))) is other
    assert talk.service.questions == []


def test_the_question_names_agm_and_nobody_else() -> None:
    """No editor, no plugin of Google's, no other program's name."""
    talk = Talk()
    asking = talk.asking()
    question = talk.service.last
    assert (question.method, question.url) == ("POST", "https://ca0.example/v1internal:loadCodeAssist")
    assert question.body == {
        "metadata": {
            "ideType": "IDE_UNSPECIFIED",
            "platform": "PLATFORM_UNSPECIFIED",
            "pluginType": "PLUGIN_UNSPECIFIED",
        }
    }
    assert question.headers.keys() == {b"Content-Type", b"User-Agent", b"Accept-Encoding", b"authorization"}
    assert question.headers[b"User-Agent"].startswith(b"agm/")
    talk.about.stop()
    assert failure(asking, NotTold).reason == "STOPPING"


def test_all_who_wait_do_so_for_one_question() -> None:
    """And one who leaves does not end it for the others."""
    talk = Talk()
    waiting = [talk.asking() for _ in range(50)]
    waiting[0].cancel()
    failure(waiting[0], CancelledError)
    assert len(talk.service.questions) == 1
    talk.service.last.answer({"currentTier": TIER, "cloudaicompanionProject": "p-1"})
    assert {result(each).project for each in waiting[1:]} == {"p-1"}
    assert result(talk.asking()).project == "p-1"
    assert len(talk.service.questions) == 1
    assert talk.about.known(talk.account).project == "p-1"


def test_a_failed_question_is_asked_again_by_the_next_request() -> None:
    """A failure is not remembered here: what it means for the account is the pool's."""
    talk = Talk()
    first = talk.asking()
    talk.service.last.answer(google_error(503, "UNAVAILABLE"), 503)
    refused = failure(first, Refused)
    assert (refused.status, refused.retry_after) == (503, "7")
    talk.discovered()


def test_an_onboarding_is_looked_at_every_five_seconds_until_it_is_done() -> None:
    """Hiccups in between do not end it."""
    talk = Talk()
    asking = talk.asking()
    talk.service.last.answer({"allowedTiers": [{"id": "free-tier", "isDefault": True}]})
    onboarding = talk.service.last
    assert onboarding.url.endswith("/v1internal:onboardUser")
    assert onboarding.body["tierId"] == "free-tier"
    assert "cloudaicompanionProject" not in onboarding.body
    onboarding.answer({"name": "operations/o-1"})
    for number, (document, status) in enumerate([({"name": "operations/o-1"}, 200), ({}, 503), ({}, 429)], 3):
        talk.clock.advance(POLL_EVERY - 0.1)
        assert len(talk.service.questions) == number - 1
        talk.clock.advance(0.1)
        assert len(talk.service.questions) == number
        assert (talk.service.last.method, talk.service.last.url) == (
            "GET",
            "https://ca0.example/v1internal/operations/o-1",
        )
        talk.service.last.answer(document, status)
    talk.clock.advance(POLL_EVERY)
    talk.service.last.answer({"done": True, "response": {"cloudaicompanionProject": {"id": "p-9"}}})
    assert result(asking).project == "p-9"


def test_an_onboarding_that_does_not_end_is_given_up() -> None:
    """The request fails as if the upstream had not answered, and the next one goes on with it."""
    talk = Talk()
    asking = talk.asking()
    talk.service.last.answer({"allowedTiers": [{"id": "free-tier", "isDefault": True}]})
    talk.service.last.answer({"name": "operations/o-1"})
    looks = 0
    while talk.clock.getDelayedCalls() and looks < 1000:
        looks += 1
        talk.clock.advance(POLL_EVERY)
        talk.service.last.answer({"name": "operations/o-1"})
    assert failure(asking, NotTold).reason == "ONBOARDING_TIMEOUT"
    assert looks == ONBOARDING_PATIENCE / POLL_EVERY


def test_an_onboarding_that_nobody_can_ask_about_is_a_failure() -> None:
    """A name becomes part of a path: an odd one is not followed."""
    talk = Talk()
    asking = talk.asking()
    talk.service.last.answer({"allowedTiers": [{"id": "free-tier", "isDefault": True}]})
    talk.service.last.answer({"name": "operations/../../x?y"})
    assert failure(asking, NotTold).reason == "ONBOARDING_FAILED"


@pytest.mark.parametrize("status", [400, 404, 412])
def test_a_refusal_that_is_nobodys_request_is_the_accounts(status: int) -> None:
    """A client must not get a 400 for what it did not write."""
    talk = Talk()
    asking = talk.asking()
    talk.service.last.answer(google_error(status, "FAILED_PRECONDITION", "Precondition failed"), status)
    assert "Precondition failed" in failure(asking, NoProject).reason


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{"])
def test_an_answer_that_is_no_object_is_a_failure(content: bytes) -> None:
    """A captive portal says 200 to everything."""
    talk = Talk()
    asking = talk.asking()
    talk.service.last.answered.callback(WholeAnswer(200, Headers(), content))
    assert failure(asking, NotTold).reason == "NOT_JSON"


def test_a_question_goes_to_the_next_endpoint_when_one_fails() -> None:
    """Not when it says no."""
    talk = Talk(endpoints=2)
    asking = talk.asking()
    talk.service.last.answer({}, 500)
    assert talk.service.last.url.startswith("https://ca1.example/")
    talk.service.last.answered.errback(UpstreamFailed("CONNECT_FAILED", "no"))
    failure(asking, NotTold)
    again = talk.asking()
    talk.service.last.answer(google_error(403, "PERMISSION_DENIED"), 403)
    assert failure(again, Refused).status == 403
    assert len(talk.service.questions) == 3


def test_a_401_leads_to_one_refresh() -> None:
    """And to a failure if that did not help."""
    talk = Talk()
    asking = talk.asking()
    talk.service.last.answer({}, 401)
    assert talk.service.last.headers[b"authorization"] == b"Bearer t1"
    talk.service.last.answer({}, 401)
    assert failure(asking, Refused).status == 401
    assert talk.token.refreshes == 1
    fixed = Talk(refreshable=False)
    once = fixed.asking()
    fixed.service.last.answer({}, 401)
    assert failure(once, Refused).status == 401


def test_a_403_to_the_user_project_leads_to_one_question_without_it() -> None:
    """If that helps, it is left out from then on."""
    talk = Talk(user_project=True)
    asking = talk.asking()
    assert talk.service.last.headers[b"x-goog-user-project"] == b"billing"
    talk.service.last.answer({}, 403)
    assert b"x-goog-user-project" not in talk.service.last.headers
    talk.service.last.answer({"currentTier": TIER, "cloudaicompanionProject": "p-1"})
    assert result(asking).project == "p-1"
    credential = ((b"authorization", b"x"), (b"x-goog-user-project", b"billing"))
    assert talk.about.headers(talk.account, credential) == [(b"authorization", b"x")]
    vertex = Account("team", "vertex", ())
    assert talk.about.headers(vertex, credential) == credential
    talk.about.of([talk.account], [])  # a changed account starts anew
    assert talk.about.headers(talk.account, credential) == credential


def test_a_403_without_the_header_too_keeps_the_header() -> None:
    """It was not the header."""
    talk = Talk(user_project=True)
    asking = talk.asking()
    talk.service.last.answer({}, 403)
    talk.service.last.answer({}, 403)
    assert failure(asking, Refused).status == 403
    asking = talk.asking()
    assert talk.service.last.headers[b"x-goog-user-project"] == b"billing"
    talk.about.stop()
    failure(asking, NotTold)


def test_a_credential_that_cannot_be_had_is_said_so() -> None:
    """As for a model call."""

    class Broken(Token):
        async def headers(self) -> Any:
            raise CredentialError("revoked", permanent=True)

    talk = Talk()
    talk.about._credentials = {"team": Broken()}
    assert failure(talk.asking(), CredentialError).permanent


def test_a_project_that_was_refused_is_asked_for_anew_but_not_all_the_time() -> None:
    """A model that the account lacks gets a 404, too: that must not ask for the project each time."""
    talk = Talk()
    assert not talk.about.forget_project(talk.account)
    talk.discovered()
    talk.clock.advance(BELIEVED - 1)
    assert not talk.about.forget_project(talk.account)
    talk.clock.advance(1)
    assert talk.about.forget_project(talk.account)
    assert not talk.about.forget_project(talk.account)
    assert len(talk.service.questions) == 1
    talk.discovered()
    assert len(talk.service.questions) == 2


def test_a_changed_account_is_asked_anew_and_a_kept_one_is_not() -> None:
    """An answer that comes late is not the changed account's."""
    talk = Talk()
    talk.discovered()
    talk.about.of([talk.account], ["team"])
    assert result(talk.asking()).project == "p-1"
    talk.about.of([talk.account], [])
    late = talk.asking()
    question = talk.service.last
    talk.about.of([talk.account], [])
    question.answer({"currentTier": TIER, "cloudaicompanionProject": "p-old"})
    assert result(late).project == "p-old"
    assert talk.about.known(talk.account).project is None


def test_a_stop_ends_what_is_under_way() -> None:
    """Whoever waits hears of it; no timer is left."""
    talk = Talk()
    asking = talk.asking()
    talk.service.last.answer({"allowedTiers": [{"id": "free-tier", "isDefault": True}]})
    talk.service.last.answer({"name": "operations/o-1"})
    talk.about.stop()
    assert failure(asking, NotTold).reason == "STOPPING"
    assert talk.clock.getDelayedCalls() == []


def quota_questions(talk: Talk) -> list[Question]:
    return [question for question in talk.service.questions if question.url.endswith(":retrieveUserQuota")]


def test_quotas_are_read_after_a_call_but_not_after_each() -> None:
    """Every ten minutes of use; sooner after a 429, but not after each of those either."""
    talk = Talk(project="mine")

    def asked_after(seconds: float, status: int | None) -> int:
        before = len(quota_questions(talk))
        talk.clock.advance(seconds)
        talk.about.attempted(talk.account, status)
        talk.clock.advance(QUOTA_DELAY)
        return len(quota_questions(talk)) - before

    assert asked_after(0, None) == 0
    assert asked_after(0, 200) == 1
    assert talk.service.last.body == {"project": "mine"}
    assert asked_after(QUOTA_AFTER_429 - 2, 429) == 0
    assert asked_after(1, 429) == 1
    assert asked_after(QUOTA_EVERY - 2, 200) == 0
    assert asked_after(1, 200) == 1
    talk.about.stop()
    assert talk.clock.getDelayedCalls() == []


def test_what_is_left_is_noted_in_the_reactors_time() -> None:
    """The service tells the time of the world."""
    talk = Talk(project="mine")
    talk.about.attempted(talk.account, 200)
    talk.clock.advance(QUOTA_DELAY)
    buckets = [{"modelId": "m", "remainingFraction": 0.25, "resetTime": RESET}]
    talk.service.last.answer({"buckets": buckets})
    assert talk.notes.taken == [("team", "m", 0.25, RESET_SECONDS - 3600.0)]


@pytest.mark.parametrize("status", [403, 404, 500, 501])
def test_a_quota_that_is_not_told_is_no_failure(status: int) -> None:
    """Not every account may read it."""
    talk = Talk(project="mine")
    talk.about.attempted(talk.account, 200)
    talk.clock.advance(QUOTA_DELAY)
    talk.service.last.answer({}, status)
    assert talk.notes.taken == []


def test_nobody_is_asked_for_quotas_that_nobody_wants() -> None:
    """Other kinds have none to ask for, either; and an account whose project is not known cannot be asked."""
    talk = Talk(project="mine")
    talk.about.attempted(Account("team", "vertex", ("https://x.example",), project="p"), 200)
    talk.about._quotas = object()
    talk.about.attempted(talk.account, 200)
    nameless = Talk()
    nameless.about.attempted(nameless.account, 200)
    for each in (talk, nameless):
        each.clock.advance(QUOTA_DELAY)
        assert each.service.questions == []


def test_a_notice_says_what_this_kind_is_for_once() -> None:
    """At the start, and not at each reload; never without such an account."""
    said: list[Mapping[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if event["log_level"] is LogLevel.warn:
            said.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        talk = Talk()
        talk.about.of([talk.account], ["team"])
        talk.about.of([], [])
        assert [event["accounts"] for event in said] == ["team"]
        silent = CodeAssist(talk.clock, Any, {}, object(), talk.clock.seconds)  # type: ignore[arg-type]
        silent.of([Account("k", "api-key", ())], [])
        assert len(said) == 1
    finally:
        globalLogPublisher.removeObserver(observe)


# -- Through a gateway -------------------------------------------------------------------------------

TEAM = '[[accounts]]\nname = "{name}"\nkind = "code-assist"\naccess_token = "{name}"\nendpoints = ["{url}"]\n'


@pytest_twisted.ensureDeferred
async def test_requests_carry_the_project_that_was_discovered(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """One question for all of them, and plugins see the account with its project."""
    seen: list[str | None] = []

    class Watcher:
        @hookimpl
        def agm_wrap_request(self, account: Account) -> None:
            seen.append(account.project)

    running = await gateway(TEAM.format(name="team", url=emulator.url), plugins=[Watcher()])
    for _ in range(3):
        assert (await running.ask("gemini-2.5-flash")).status == 200
    asked = [entry.path for entry in emulator.log]
    assert asked[:1] == ["/v1internal:loadCodeAssist"]
    assert asked.count("/v1internal:loadCodeAssist") == 1
    projects = [json.loads(e.body)["project"] for e in emulator.log if e.path.endswith(":generateContent")]
    assert projects == seen == ["project-team"] * 3


@pytest_twisted.ensureDeferred
async def test_a_new_account_is_onboarded_and_serves(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """The client notices nothing but the time that it takes."""
    emulator.state.account_named("team").tier = None
    running = await gateway(TEAM.format(name="team", url=emulator.url))
    running.gateway.code_assist.poll_every = 0.01
    assert (await running.ask("gemini-2.5-flash")).status == 200
    assert [entry.rpc for entry in emulator.log][:3] == ["loadCodeAssist", "onboardUser", "GetOperation"]


@pytest_twisted.ensureDeferred
async def test_an_account_without_a_project_is_disabled_and_another_serves(gateway: GatewayFactory) -> None:
    """With the reason, until a person acts; alone, the client gets a 503 that says it."""

    def answer(asked: Asked) -> tuple[Any, ...]:
        if asked.path.endswith(":loadCodeAssist"):
            return 200, {"ineligibleTiers": [{"reasonMessage": "No licence"}]}
        return 200, {"candidates": [{"content": {"parts": [{"text": "good"}]}}]}

    upstream = AnsweringUpstream(answer)
    tables = TEAM.format(name="team", url=upstream.url)
    other = f'[[accounts]]\nname = "work"\nkind = "api-key"\napi_key = "k"\nendpoints = ["{upstream.url}"]\n'
    strategy = '[pool]\nstrategy = "priority"\n'
    running = await gateway(strategy + tables + other + "priority = 1\n")
    for _ in range(2):
        assert (await running.ask("m")).text == "good"
    assert [asked.path for asked in upstream.asked].count("/v1internal:loadCodeAssist") == 1
    alone = await gateway(tables)
    refused = await alone.ask("m")
    assert (refused.status, "No licence" in refused.json["error"]["message"]) == (503, True)
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_a_project_that_is_refused_is_discovered_anew_within_the_request(gateway: GatewayFactory) -> None:
    """An administrator moved the licence; a project that was found a moment ago is believed."""
    current = "p-1"

    def answer(asked: Asked) -> tuple[Any, ...]:
        if asked.path.endswith(":loadCodeAssist"):
            return 200, {"currentTier": TIER, "cloudaicompanionProject": current}
        if json.loads(asked.body)["project"] != current:
            return 403, google_error(403, "PERMISSION_DENIED", "no", info("CONSUMER_INVALID"))
        return 200, {"response": {"candidates": [{"content": {"parts": [{"text": "good"}]}}]}}

    upstream = AnsweringUpstream(answer)
    running = await gateway(TEAM.format(name="team", url=upstream.url))
    assert (await running.ask("m")).text == "good"
    current = "p-2"
    long_ago = running.gateway.code_assist._projects["team"]
    running.gateway.code_assist._projects["team"] = attrs.evolve(long_ago, at=long_ago.at - BELIEVED)
    assert (await running.ask("m")).text == "good"
    current = "p-3"
    assert (await running.ask("m")).status == 403
    await upstream.stop()


def with_user_project(url: str, allow: Callable[[Asked], bool]) -> Callable[[Asked], tuple[Any, ...]]:
    def answer(asked: Asked) -> tuple[Any, ...]:
        if not allow(asked):
            return 403, google_error(403, "PERMISSION_DENIED", "no", info("USER_PROJECT_DENIED"))
        return 200, {"response": {"candidates": [{"content": {"parts": [{"text": "good"}]}}]}}

    return answer


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("helps", [True, False])
async def test_a_call_that_is_refused_with_a_user_project_is_tried_once_without(
    gateway: GatewayFactory, helps: bool
) -> None:
    """If that helps, later calls are sent without at once; if not, the account rests as after any 403."""
    from agm.upstream.accounts import AccountSource

    upstream = AnsweringUpstream(
        with_user_project("", lambda asked: helps and "x-goog-user-project" not in asked.headers)
    )
    account = Account("team", "code-assist", (upstream.url,), project="p")

    class Source:
        @hookimpl
        def agm_accounts(self) -> list[AccountSource]:
            return [AccountSource(account, lambda refresher: Token(user_project=True))]

    running = await gateway(plugins=[Source()])
    statuses = [(await running.ask("m")).status for _ in range(2)]
    headers = ["x-goog-user-project" in asked.headers for asked in upstream.asked if "Quota" not in asked.path]
    if helps:
        assert (statuses, headers) == ([200, 200], [True, False, False])
    else:
        assert (statuses[0], headers) == (403, [True, False])
    await upstream.stop()


@pytest_twisted.ensureDeferred
async def test_the_list_of_models_holds_what_code_assist_tells(
    gateway: GatewayFactory, emulator: RunningEmulator
) -> None:
    """Within the patterns of the account, without a word from the configuration."""
    models = 'models = ["gemini-*"]\n[models]\nlist = ["mine"]\n'
    running = await gateway(TEAM.format(name="team", url=emulator.url) + models)
    listed = (await running.fetch("GET", "/v1beta/models?pageSize=1000")).json["models"]
    names = [model["name"] for model in listed]
    assert names[0] == "models/mine"
    assert "models/gemini-2.5-pro" in names
    pro = next(model for model in listed if model["name"] == "models/gemini-2.5-pro")
    assert (pro["thinking"], pro["inputTokenLimit"]) == (True, 1048576)
    assert {entry.path for entry in emulator.log} == {"/v1internal:fetchAvailableModels"}  # nobody is onboarded for it


@pytest_twisted.ensureDeferred
async def test_a_429_makes_the_gateway_look_at_the_quota(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """A moment later, once."""
    running = await gateway(emulator.account("team", "code-assist"))
    about = running.gateway.code_assist
    about.quota_delay = 0.01
    about._quotas = notes = Notes()
    assert (await running.ask("emu-429day")).status == 429
    await eventually(lambda: notes.taken, "a note of the quota")
    assert {model for _, model, _, _ in notes.taken} >= {"gemini-2.5-pro"}
    assert [entry.path for entry in emulator.log].count("/v1internal:retrieveUserQuota") == 1


@pytest_twisted.ensureDeferred
async def test_an_unanswered_question_sends_the_request_to_another_account(gateway: GatewayFactory) -> None:
    """It has gone nowhere yet, so it may; nothing is held against the account."""
    upstream = AnsweringUpstream(lambda _: (200, {"candidates": [{"content": {"parts": [{"text": "good"}]}}]}))
    tables = TEAM.format(name="team", url="http://127.0.0.1:1")
    other = f'[[accounts]]\nname = "work"\nkind = "api-key"\napi_key = "k"\nendpoints = ["{upstream.url}"]\n'
    running = await gateway('[pool]\nstrategy = "priority"\n' + tables + other + "priority = 1\n")
    assert (await running.ask("m")).text == "good"
    alone = await gateway(tables)
    refused = await alone.ask("m")
    assert (refused.status, "did not tell the account's project" in refused.json["error"]["message"]) == (502, True)
    await upstream.stop()

"""
What Code Assist is asked about an account beside its model calls: its project, what is left of its quota, its models.

A project that the configuration does not name is discovered when it is first needed, by one question at a time for each
account, and remembered until it is refused.  Quota and models are read where the service tells them; that it does not
is never an error.  Nobody is signed in here and no OAuth client is brought along; the questions say that they come from
agm, and name no editor and no plugin of Google's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import quote

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from agm import __version__
from agm.core import documents
from agm.core.errors import NOT_JSON
from agm.core.request import Account
from agm.upstream.client import UpstreamClient, UpstreamFailed
from agm.upstream.credentials.credential import Credential, CredentialError, Headers

#: Seconds between two looks at an onboarding, as the service wants them.
POLL_EVERY = 5.0
#: Seconds after which an onboarding that is not done is given up; the next request that needs it goes on with it.
ONBOARDING_PATIENCE = 120.0
#: Seconds for an answer to a question about an account.
PATIENCE = 30.0
#: Seconds between two looks at an account's quota, and the fewest after which a 429 is a reason to look again.
QUOTA_EVERY = 600.0
QUOTA_AFTER_429 = 10.0
#: Seconds between a model call and the look at the quota that follows it: nothing is to compete with the calls.
QUOTA_DELAY = 1.0
#: Seconds for which a project that was just discovered is believed, whatever is refused.
BELIEVED = 60.0
MAX_ANSWER = 4 * 1024 * 1024

#: Who is asking: none of the editors and plugins that the service has names for.
METADATA: Mapping[str, str] = {
    "ideType": "IDE_UNSPECIFIED",
    "platform": "PLATFORM_UNSPECIFIED",
    "pluginType": "PLUGIN_UNSPECIFIED",
}
_METHODS = ("generateContent", "streamGenerateContent", "countTokens")
_FREE_TIER = "free-tier"
_USER_PROJECT = b"x-goog-user-project"

log = Logger()


class Refused(Exception):
    """Code Assist answered a question about an account with an error that a model call could have got as well."""

    def __init__(self, status: int, body: bytes, retry_after: str | None) -> None:
        super().__init__(f"Code Assist answered {status}")
        self.status = status
        self.body = body
        self.retry_after = retry_after


class NoProject(Exception):
    """The account has no project, and gets none until a person acts; `reason` is a sentence that says how."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotTold(Exception):
    """Nobody answered a question about an account.  The request that needed it has gone nowhere yet."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class QuotaNotes(Protocol):
    """Who wants to know what is left of quotas: the pool."""

    def note_quota(self, account: Account, model: str, remaining: float, resets_at: float) -> None:
        """
        Take note.

        :param remaining: the fraction that is left, from 0 to 1.
        :param resets_at: seconds of the reactor's clock.
        """


# -- What the service says ---------------------------------------------------------------------------


@attrs.frozen
class Quota:
    """What is left of an account's requests for a model: a fraction from 0 to 1, until a time since the epoch."""

    model: str
    remaining: float
    resets_at: float


@attrs.frozen
class Onboarding:
    """What an account has to go through before it has a project."""

    tier: str


def project_of(loaded: Mapping[str, Any]) -> str | Onboarding:
    """
    Return the project in an answer of ``loadCodeAssist``, or the way to one.

    :raises NoProject: if there is none that agm could find by itself.
    """
    if isinstance(loaded.get("currentTier"), dict):
        project = _project_id(loaded.get("cloudaicompanionProject"))
        if project is None:
            raise NoProject(
                f"Code Assist names no project for this account (tier {_id(loaded['currentTier'])});"
                " write the one that it is licensed for as its project in the configuration"
            )
        return project
    allowed = [tier for tier in _dicts(loaded.get("allowedTiers")) if isinstance(tier.get("id"), str)]
    tier = next((tier for tier in allowed if tier.get("isDefault") is True), None)
    if tier is None:
        raise NoProject(f"Code Assist takes this account into no tier by itself{_ineligibility(loaded)}")
    if tier["id"] != _FREE_TIER and tier.get("userDefinedCloudaicompanionProject") is True:
        raise NoProject(
            f"the Code Assist tier {_id(tier)} requires a project of your own;"
            " write it as the account's project in the configuration"
        )
    return Onboarding(tier["id"])


def _ineligibility(loaded: Mapping[str, Any]) -> str:
    reasons = [
        _readable(tier.get("reasonMessage") or tier.get("reasonCode"))
        for tier in _dicts(loaded.get("ineligibleTiers"))
        if tier.get("reasonMessage") or tier.get("reasonCode")
    ]
    return f": {reasons[0]}" if reasons else "; check its licence"


def onboarded(operation: Mapping[str, Any]) -> str | None:
    """
    Return the project that an onboarding ended with, or None while it goes on.

    :raises NoProject: if it ended without one.
    """
    if operation.get("done") is not True:
        return None
    error = operation.get("error")
    if isinstance(error, dict):
        raise NoProject(f"Code Assist did not take this account in: {_readable(error.get('message'))}")
    response = operation.get("response")
    project = _project_id(response.get("cloudaicompanionProject")) if isinstance(response, dict) else None
    if project is None:
        raise NoProject(
            "Code Assist took this account in, but named no project; write one as its project in the configuration"
        )
    return project


def quotas_of(document: Mapping[str, Any]) -> list[Quota]:
    """The quotas in an answer of ``retrieveUserQuota`` or ``fetchAvailableModels``; of two for a model the lower."""
    told: list[tuple[Any, Any]] = [(bucket.get("modelId"), bucket) for bucket in _dicts(document.get("buckets"))]
    models = document.get("models")
    if isinstance(models, dict):
        told += [(name, model.get("quotaInfo")) for name, model in models.items() if isinstance(model, dict)]
    found: dict[str, Quota] = {}
    for name, info in told:
        if not isinstance(name, str) or not isinstance(info, dict):
            continue
        resets_at = _moment(info.get("resetTime"))
        # proto3 JSON leaves out what is 0: a reset without a fraction means that nothing is left
        fraction = info.get("remainingFraction", 0)
        if resets_at is None or isinstance(fraction, bool) or not isinstance(fraction, int | float):
            continue
        quota = Quota(name, min(max(float(fraction), 0.0), 1.0), resets_at)
        if name not in found or quota.remaining < found[name].remaining:
            found[name] = quota
    return list(found.values())


def models_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the models in an answer of ``fetchAvailableModels``, in Gemini's shape."""
    models = document.get("models")
    found = []
    for name, told in models.items() if isinstance(models, dict) else ():
        if not name or not isinstance(told, dict):
            continue
        display = told.get("displayName")
        model: dict[str, Any] = {
            "name": f"models/{name}",
            "baseModelId": name,
            "version": "001",
            "displayName": display if isinstance(display, str) and display else name,
        }
        for ours, theirs in (("inputTokenLimit", "maxTokens"), ("outputTokenLimit", "maxOutputTokens")):
            limit = told.get(theirs)
            if isinstance(limit, int) and not isinstance(limit, bool):
                model[ours] = limit
        model["supportedGenerationMethods"] = list(_METHODS)
        if isinstance(told.get("supportsThinking"), bool):
            model["thinking"] = told["supportsThinking"]
        found.append(model)
    return found


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _project_id(value: object) -> str | None:
    """A project as the service names it: an id, or an object with one.  It becomes part of requests: no odd ones."""
    named = value.get("id") if isinstance(value, dict) else value
    return named if isinstance(named, str) and re.fullmatch(r"[A-Za-z0-9.:_-]{1,100}", named) else None


def _id(tier: Mapping[str, Any]) -> str:
    return _readable(tier.get("id"))


def _readable(text: object) -> str:
    """Words of the service as a line can show them."""
    shown = text if isinstance(text, str) and text else "it does not say why"
    return "".join(char if char.isprintable() else " " for char in shown[:200])


def _moment(value: object) -> float | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


# -- Asking ------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class _Found:
    project: str
    at: float


@attrs.define(eq=False)
class _Search:
    """A discovery under way, and who waits for it."""

    account: Account
    running: Deferred[None] | None = None
    waiting: dict[Deferred[str], None] = attrs.field(factory=dict)


class CodeAssist:
    """
    The questions about all code-assist accounts, and the answers that are remembered.

    :param credentials: of the accounts, by name; looked at when they are needed.
    :param quotas: who wants to know about quotas.  Nobody is asked where it is not a :class:`QuotaNotes`.
    :param wall: seconds since the epoch.
    """

    def __init__(
        self, reactor: Any, client: UpstreamClient, credentials: Mapping[str, Credential], quotas: object, wall: Any
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._credentials = credentials
        self._quotas = quotas
        self._wall = wall
        self._projects: dict[str, _Found] = {}
        self._searches: dict[str, _Search] = {}
        self._without_user_project: set[str] = set()
        self._quota_asked: dict[str, float] = {}
        self._reading: set[Deferred[None]] = set()
        self._noticed = False
        #: Seconds between two looks at an onboarding, and between a call and the look at the quota that follows it.
        self.poll_every = POLL_EVERY
        self.quota_delay = QUOTA_DELAY

    def of(self, accounts: Iterable[Account], kept: Collection[str]) -> None:
        """
        From now on these are the accounts.

        :param kept: names of those that have not changed: what is known of them stays.
        """
        names = [account.name for account in accounts if account.kind == "code-assist"]
        for known in (self._projects, self._quota_asked):
            for name in [name for name in known if name not in kept]:
                del known[name]
        self._without_user_project.intersection_update(kept)
        # whoever waits for one that is gone gets its answer still; whoever comes now starts anew
        for name in [name for name in self._searches if name not in kept]:
            del self._searches[name]
        if names and not self._noticed:
            self._noticed = True
            log.warn(
                "Code Assist accounts are configured: {accounts}. They are for people and companies who hold a licence"
                " for Code Assist, with credentials of an OAuth client that you may use: Google no longer lets"
                " individuals in through its command line tool's login, and its terms forbid other software to use"
                " that tool's client. Gemini API keys and Vertex AI are open to everybody.",
                accounts=", ".join(names),
            )

    def stop(self) -> None:
        """End what is under way."""
        for running in [search.running for search in self._searches.values()] + list(self._reading):
            if running is not None:
                running.cancel()

    # Projects

    def known(self, account: Account) -> Account:
        """Return the account with its project, as far as that is known without asking."""
        found = self._projects.get(account.name) if account.kind == "code-assist" else None
        return account if found is None or account.project is not None else attrs.evolve(account, project=found.project)

    async def with_project(self, account: Account) -> Account:
        """
        Return the account with its project, which Code Assist is asked for if nobody has named it.

        All who wait do so for the same answer; giving up does not end the question for the others.

        :raises NoProject: if the account has none.
        :raises Refused: if the service says no to the question.
        :raises CredentialError: if the account has no credential.
        :raises NotTold: if there is no answer.
        """
        if account.kind != "code-assist" or account.project is not None:
            return account
        if account.name not in self._projects:
            search = self._searches.get(account.name)
            if search is None:
                search = self._searches[account.name] = _Search(account)
            waiting: Deferred[str] = Deferred(lambda d: search.waiting.pop(d, None))
            search.waiting[waiting] = None
            if search.running is None:
                search.running = Deferred.fromCoroutine(self._search(search))
            return attrs.evolve(account, project=await waiting)
        return self.known(account)

    def forget_project(self, account: Account) -> bool:
        """
        Say that an upstream refused a request with the account's project.

        :returns: whether that was discovered long enough ago for another to be likely; it is asked for anew then.
        """
        found = self._projects.get(account.name)
        if found is None or account.project is not None or self._reactor.seconds() - found.at < BELIEVED:
            return False
        del self._projects[account.name]
        return True

    async def _search(self, search: _Search) -> None:
        project: str | None = None
        why: Exception = NotTold("STOPPING", "the gateway is stopping")
        try:
            project = await self._discovered(search.account)
        except CancelledError:
            pass
        except (NoProject, Refused, CredentialError) as e:
            why = e
        except UpstreamFailed as e:
            why = NotTold(e.reason, f"Code Assist did not tell the account's project: {e}")
        except Exception:
            log.failure("the project of account {account} could not be discovered", account=search.account.name)
            why = NotTold("INTERNAL", "the account's project could not be discovered because of an internal error")
        if self._searches.get(search.account.name) is search:
            del self._searches[search.account.name]
            if project is not None:
                self._projects[search.account.name] = _Found(project, self._reactor.seconds())
        for each in list(search.waiting):
            if each.called:
                continue  # one before it has cancelled it just now
            if project is None:
                each.errback(why)
            else:
                each.callback(project)

    async def _discovered(self, account: Account) -> str:
        found = project_of(await self._project_question(account, "loadCodeAssist", {"metadata": METADATA}))
        if isinstance(found, Onboarding):
            log.info(
                "account {account} is new to Code Assist: it is taken into its default tier, {tier}",
                account=account.name,
                tier=found.tier,
            )
            found = await self._onboard(account, found.tier)
        log.info("account {account} has the Code Assist project {project}", account=account.name, project=found)
        return found

    async def _onboard(self, account: Account, tier: str) -> str:
        began = self._reactor.seconds()
        operation = await self._project_question(account, "onboardUser", {"tierId": tier, "metadata": METADATA})
        name = operation.get("name")
        while (project := onboarded(operation)) is None:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*", name):
                raise UpstreamFailed("ONBOARDING_FAILED", "Code Assist began an onboarding that nobody can ask about")
            if self._reactor.seconds() - began + self.poll_every > ONBOARDING_PATIENCE:
                raise UpstreamFailed(
                    "ONBOARDING_TIMEOUT", f"the onboarding at Code Assist is not done after {ONBOARDING_PATIENCE:g} s"
                )
            await deferLater(self._reactor, self.poll_every)
            try:
                operation = await self._ask(account, "GET", f"/v1internal/{quote(name)}", None)
            except (Refused, UpstreamFailed) as e:
                if isinstance(e, Refused) and e.status < 500 and e.status != 429:
                    raise
        return project

    async def _project_question(self, account: Account, method: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """As :meth:`_ask`, but a refusal that no other request could get is the account's."""
        try:
            return await self._ask(account, "POST", f"/v1internal:{method}", document)
        except Refused as e:
            if e.status in (401, 403, 408, 429) or e.status >= 500:
                raise
            raise NoProject(
                f"Code Assist does not tell this account's project ({method}: {e.status}, {_message(e.body)});"
                " write it as its project in the configuration, or check its licence"
            ) from None

    # Headers

    def headers(self, account: Account, credential: Headers, *, without: bool = False) -> Headers:
        """
        Return the authentication headers of a model call.

        :param without: leave out ``x-goog-user-project``, which Code Assist refuses for some projects.
        """
        if account.kind == "code-assist" and (without or account.name in self._without_user_project):
            return [(name, value) for name, value in credential if name != _USER_PROJECT]
        return credential

    def works_without_user_project(self, account: Account) -> None:
        """Say that the account was refused with ``x-goog-user-project``, and served without."""
        self._without_user_project.add(account.name)

    # Quota and models

    def attempted(self, account: Account, status: int | None) -> None:
        """Say that a model call has ended: now and then, and after a 429, the account's quota is read."""
        if account.kind != "code-assist" or status is None or not hasattr(self._quotas, "note_quota"):
            return
        now = self._reactor.seconds()
        asked = self._quota_asked.get(account.name)
        if asked is None or now - asked >= (QUOTA_AFTER_429 if status == 429 else QUOTA_EVERY):
            project = self.known(account).project
            if project is not None:
                self._quota_asked[account.name] = now
                reading = Deferred.fromCoroutine(self._read_quota(account, project))
                self._reading.add(reading)
                reading.addBoth(lambda _: self._reading.discard(reading))

    async def _read_quota(self, account: Account, project: str) -> None:
        try:
            await deferLater(self._reactor, self.quota_delay)
            document = await self._ask(account, "POST", "/v1internal:retrieveUserQuota", {"project": project})
            self._note(account, quotas_of(document))
        except CancelledError:
            pass
        except (Refused, CredentialError, UpstreamFailed) as e:
            log.info("the quota of account {account} could not be read: {why}", account=account.name, why=str(e))
        except Exception:
            log.failure("the quota of account {account} could not be read", account=account.name)

    def _note(self, account: Account, quotas: Sequence[Quota]) -> None:
        note = getattr(self._quotas, "note_quota", None)
        if note is not None:
            offset = self._reactor.seconds() - self._wall()
            for quota in quotas:
                note(account, quota.model, quota.remaining, quota.resets_at + offset)

    async def models(self, account: Account) -> list[dict[str, Any]]:
        """
        Return the account's models in Gemini's shape; what is told of their quota is taken note of.

        :raises Refused: if the service does not tell them.
        :raises CredentialError: if the account has no credential.
        :raises UpstreamFailed: if there is no answer.
        """
        project = self.known(account).project
        question = {} if project is None else {"project": project}
        document = await self._ask(account, "POST", "/v1internal:fetchAvailableModels", question)
        self._note(account, quotas_of(document))
        return models_of(document)

    # One question

    async def _ask(
        self, account: Account, method: str, path: str, document: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        """
        Return the answer to a question about an account, from the first of its endpoints that gives one.

        A 401 is followed by one refresh, a 403 to ``x-goog-user-project`` by one question without it.
        """
        body = None if document is None else msgspec.json.encode(document)
        failure: Exception = UpstreamFailed("NO_ENDPOINT", "the account has no endpoint")
        for endpoint in account.endpoints:
            try:
                return await self._ask_endpoint(account, method, endpoint + path, body)
            except (UpstreamFailed, Refused) as e:
                failure = e
                if isinstance(e, Refused) and e.status < 500:
                    break
        raise failure

    async def _ask_endpoint(self, account: Account, method: str, url: str, body: bytes | None) -> Mapping[str, Any]:
        credential = self._credentials.get(account.name)
        if credential is None:
            raise CredentialError("the account was taken out of the configuration")
        refreshed = without = False
        while True:
            given = await credential.headers()
            headers = self.headers(account, given, without=without)
            answer = await self._client.fetch(
                method,
                url,
                (
                    (b"Content-Type", b"application/json"),
                    (b"User-Agent", f"agm/{__version__}".encode("ascii")),
                    (b"Accept-Encoding", b"identity"),
                    *headers,
                ),
                body,
                timeout=PATIENCE,
                limit=MAX_ANSWER,
                network=account.network,
            )
            if answer.status == 401 and credential.refreshable and not refreshed:
                refreshed = True
                credential.mark_rejected(given)
            elif answer.status == 403 and not without and any(name == _USER_PROJECT for name, _ in headers):
                without = True
            else:
                break
        if not 200 <= answer.status < 300:
            raise Refused(answer.status, answer.body, answer.header("retry-after"))
        if without:
            self.works_without_user_project(account)
        try:
            document = documents.decode(answer.body)
        except NOT_JSON:
            document = None
        if not isinstance(document, dict):
            raise UpstreamFailed("NOT_JSON", "Code Assist answered with something that is no JSON object")
        return document


def _message(body: bytes) -> str:
    """Return what an error says."""
    try:
        error = documents.decode(body)["error"]
        return _readable(error["message"])
    except (*NOT_JSON, KeyError, TypeError, IndexError):
        return "no error of Google's"

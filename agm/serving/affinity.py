"""
Requests that only one account can serve, because they name what it has; and requests about such resources themselves.

The way of a request is :mod:`agm.serving.attempts`'s; here is what differs.  :class:`PinnedAttempts` asks the owner
and nobody else: while it rests, the client is told for how long.  :class:`ResourceAttempts` carries a request about
files, cached contents and the like as the client wrote it.  Whatever an account's answer names is remembered as its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from agm.core import documents, ownership
from agm.core.bodies import MOST, Reading, Unreadable
from agm.core.classify import Fault, Verdict
from agm.core.errors import NOT_JSON, BadUpstreamAnswer, GatewayError, InvalidRequest
from agm.core.pool.candidates import Candidates
from agm.core.pool.exclusions import Cause, Exclusion, nothing_left
from agm.core.pool.lease import Lease
from agm.core.request import Account, AccountChoice, AttemptRecord, Body, GatewayRequest, ModelChoice, UpstreamRequest
from agm.core.wire.answer_filters import AnswerFilter, CollectedBody, Framing, PlainBody
from agm.serving.attempts import MAX_ERROR, Attempts, Failed, FinalAnswer, OpenAnswer
from agm.upstream.client import UpstreamAnswer, UpstreamBody

if TYPE_CHECKING:
    from agm.serving.gateway import Gateway

#: How many accounts are asked for a resource whose owner nobody remembers.
MAX_SEARCH = 64
#: So much of a refusal is looked through for what it is about.
MAX_TOLD = 8 * 1024
#: A page of a merged list has at least so many resources, if there are so many and the client does not say how many.
DEFAULT_PAGE = 50
#: An upstream's page of a list is refused beyond this many bytes.
MAX_LIST = documents.MOST_BYTES


def owner_of(gateway: Gateway, names: Sequence[str]) -> tuple[str, str] | None:
    """
    The account that has what a request names, and one of its resources; None if no owner is known.

    :raises InvalidRequest: if the resources belong to several accounts: no account could serve the request.
    """
    found = _owners(gateway, names)
    if len(found) > 1:
        raise InvalidRequest(
            f"The request names resources of different accounts of this gateway, {' and '.join(found.values())}; no "
            "account can read them all. Create them anew, in one request after the other that names the first.",
            reason="RESOURCES_OF_DIFFERENT_ACCOUNTS",
        )
    return next(iter(found.items()), None)


def _owners(gateway: Gateway, names: Sequence[str]) -> dict[str, str]:
    """The accounts that have what is named, and the first resource of each."""
    found: dict[str, str] = {}
    for name in names:
        account = gateway.ownership.owner(name)
        if account is not None and account in gateway.credentials:
            found.setdefault(account, name)
    return found


async def pause(gateway: Gateway, body: bytes) -> None:
    """Let others be served before a large body is looked through once more."""
    if len(body) > documents.LARGE:
        await deferLater(gateway.reactor, 0)


async def read(gateway: Gateway, body: bytes, *, most: int = MOST) -> Reading:
    """
    What a body says; whatever else is due is done in between if that takes long.

    :raises Unreadable: if it cannot be read.
    """
    reading = Reading(body, most=most)
    while reading.go_on():
        await deferLater(gateway.reactor, 0)
    return reading


async def names_in(gateway: Gateway, body: Body) -> list[str]:
    """
    The owned resources that a body names: as far as their owners are known, every one of them.

    Most bodies cost a search of their bytes.  In one that is strict JSON the names are found by what stands around
    them; that is enough where one of them is sure and all belong to one account.  Any other is read as Google reads it.

    :raises InvalidRequest: if it cannot be read.
    """
    raw, collections = body.raw, gateway.ownership.collections
    if not collections or not raw:
        return []
    if not ownership.may_name(raw, collections) and (b"\\" not in raw or body.strict):
        return []
    await pause(gateway, raw)
    if body.strict:
        await pause(gateway, raw)
        found = ownership.written_in(raw, collections)
        if found is not None:
            owners = _owners(gateway, list(found)).keys()
            if len(owners) < 2 and owners == _owners(gateway, [name for name, sure in found.items() if sure]).keys():
                return list(found)
    try:
        return list((await read(gateway, raw)).names)
    except Unreadable as e:
        raise InvalidRequest(
            f"Invalid JSON payload received: {e}. It may name a file or the like, which one account of this gateway "
            "has, so it is not sent to just any of them.",
            reason="BODY_UNREADABLE",
        ) from None


async def make_attempts(gateway: Gateway, request: GatewayRequest, body: bytes, mapped: ModelChoice) -> Attempts:
    """
    The attempts of a call: pinned to the owner of what it names, if it names something that has one.

    :raises InvalidRequest: if what it names belongs to several accounts, or cannot be read.
    """
    if len(gateway.ownership):
        tuned = ownership.root(request.model)
        names = [] if tuned is None else [tuned]
        names += await names_in(gateway, request.body if body is request.body.raw else Body(body))
        owned = owner_of(gateway, names)
        if owned is not None:
            return PinnedAttempts(gateway, request, body, mapped, owner=owned[0], owned=owned[1], named=tuple(names))
    return Attempts(gateway, request, body, mapped)


@attrs.define(eq=False)
class PinnedAttempts(Attempts):
    """The attempts of a request that names what one account has: on that account only."""

    #: The account, and the resource that it has; without them any account will do.
    owner: str | None = attrs.field(kw_only=True, default=None)
    owned: str = attrs.field(kw_only=True, default="")
    #: Everything that the request names, whoever has it.
    named: tuple[str, ...] = attrs.field(kw_only=True, default=())

    def _eligible(self) -> tuple[Candidates, Mapping[str, str]]:
        accounts, refused = super()._eligible()
        if self.owner is None:
            return accounts, refused
        owner = accounts.named(self.owner)
        return Candidates.of(() if owner is None else (owner,)), refused

    def _exclusions(self, refused: Mapping[str, str]) -> list[Exclusion]:
        exclusions = super()._exclusions(refused)
        if self.owner is None:
            return exclusions
        why = f"{self.owned} is not its own"
        others = [a for a in self.gateway.pool.accounts if a.name != self.owner]
        mine = [e for e in exclusions if e.account.name == self.owner]
        return [*mine, *(Exclusion(account, Cause.OWNER, why) for account in others)]

    def select(self, accounts: Sequence[Account]) -> AccountChoice:
        if self.owner is None:
            return super().select(accounts)
        return AccountChoice(accounts[0], f"{self.owned} is its own")

    def _soonest(self) -> float | None:
        if self.owner is None:
            return super()._soonest()
        if self.owner in self._given_up:
            return None
        for e in self.gateway.pool.excluded(self.request.model, self.request.method, self.request.version):
            if e.account.name == self.owner:
                return 0.0 if e.cause in (Cause.BUSY, Cause.PROBING) else e.wait
        return 0.0

    def _classified(self, status: int, body: bytes, retry_after: str | None, account: Account) -> Failed:
        failure = super()._classified(status, body, retry_after, account)
        if failure.verdict.fault is Fault.MISSING:
            self._disowned(account, body)
        return failure

    def _disowned(self, account: Account, body: bytes) -> None:
        """An account says that it does not have a resource: deleted, expired, or never its own."""
        owners = self.gateway.ownership
        for name in ownership.refused(self.named, body[:MAX_TOLD].decode("utf-8", "replace")):
            if owners.owner(name) == account.name:
                owners.forget(name)

    def _recovery(self, last: Failed) -> float:
        if self.owner is None:
            return super()._recovery(last)
        soonest = self._soonest()
        return max(last.verdict.delay or 0.0, soonest or 0.0) or 1.0


class _Noted(PlainBody):
    """A body that passes as it is, and is handed over once it is complete, unless it is too large to be looked at."""

    def __init__(self, note: Callable[[bytes], None]) -> None:
        self._note = note
        self._kept: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._size <= ownership.MAX_READ:
            self._kept.append(chunk)
        else:
            self._kept.clear()
        return chunk

    def close(self) -> bytes:
        self._note(b"".join(self._kept))
        return b""


@attrs.define(eq=False)
class ResourceAttempts(PinnedAttempts):
    """
    The attempts of a request about a resource, or about a whole collection of them.

    `name` is the resource that owns what is asked for, None for a collection; `path` starts with a slash and holds the
    query; `headers` are the client's, as far as they go along.
    """

    name: str | None = attrs.field(kw_only=True)
    path: str = attrs.field(kw_only=True)
    http_method: str = attrs.field(kw_only=True)
    headers: tuple[tuple[bytes, bytes], ...] = attrs.field(kw_only=True)

    def at(self, account: str) -> ResourceAttempts:
        """The same on one account only; attempts of their own."""
        return ResourceAttempts(
            self.gateway,
            self.request,
            self.body,
            self.mapped,
            owner=account,
            owned=self.name or "a list",
            named=self.named,
            name=self.name,
            path=self.path,
            http_method=self.http_method,
            headers=self.headers,
        )

    def _wrapped(self, account: Account) -> UpstreamRequest:
        return UpstreamRequest(self.path, self.headers, self.body, Framing.UNARY, method=self.http_method)

    async def _first_bytes(
        self, answer: UpstreamAnswer, wrapped: UpstreamRequest, account: Account, lease: Lease, timeout: float
    ) -> OpenAnswer | Failed:
        if not 200 <= answer.status < 400:
            return await super()._first_bytes(answer, wrapped, account, lease, timeout)
        owners = self.gateway.ownership
        if self.name is not None:
            if self.http_method == "DELETE" and self.path.partition("?")[0].endswith(f"/{self.name}"):
                owners.forget(self.name)
            else:
                owners.remember(self.name, account.name)
        return opened(self.gateway, answer, lease, made=self.http_method == "POST")

    async def one_route(self) -> tuple[Lease, str, Sequence[tuple[bytes, bytes]]]:
        """
        A leased account, the endpoint to ask and the headers with its credential, for what can be sent only once.

        :raises GatewayError: if there is no account.
        :raises CredentialError: if it has no credential; the lease is given back.
        """
        route = await self._first()
        try:
            return route.lease, route.url, await self._credential(route.account)
        except BaseException:
            route.lease.release()
            raise

    def judge(self, lease: Lease, status: int, body: bytes, retry_after: str | None) -> tuple[Verdict, FinalAnswer]:
        """
        What the failure of a request means that was sent by :meth:`one_route`, and what the client gets.

        What follows for the account is drawn; nothing is sent again.
        """
        account = lease.account
        failure = self._classified(status, body, retry_after, account)
        credential = self.gateway.credentials.get(account.name)
        if failure.verdict.fault is Fault.CREDENTIAL and credential is not None and credential.refreshable:
            credential.mark_rejected(self._presented.get(account.name))  # the next request shows a fresh one
        else:
            self.gateway.pool.failed(account, self.request.model, failure.verdict, lease)
        return failure.verdict, self._last_word(failure)

    def _classified(self, status: int, body: bytes, retry_after: str | None, account: Account) -> Failed:
        failure = super()._classified(status, body, retry_after, account)
        of_the_resource = status in (403, 404) and not self.request.model
        if of_the_resource and failure.verdict.fault in (Fault.NO_MODEL, Fault.FORBIDDEN, Fault.UNCLEAR):
            self._disowned(account, body)
            return attrs.evolve(failure, verdict=Verdict(Fault.MISSING, failure.verdict.reason))
        return failure


def opened(gateway: Gateway, answer: UpstreamAnswer, lease: Lease, *, made: bool) -> OpenAnswer:
    """
    An answer as it is, of which the head has come: that says enough.  It may well be empty, or a large file.

    What it names is remembered as its account's once it has passed; `made` as for :func:`learn`.
    """
    account = lease.account.name
    json = (answer.header("content-type") or "").startswith("application/json") and answer.status < 300
    passing: AnswerFilter
    if answer.status >= 400:  # it may repeat what it was shown
        passing = CollectedBody(gateway.redactor.body, limit=MAX_ERROR)
    else:
        passing = _Noted(lambda body: learn(gateway, account, body, made=made)) if json else PlainBody()
    flow = UpstreamBody(passing, gateway.deadlines, gateway.config.timeouts.idle)
    answer.deliver(flow)
    return OpenAnswer(answer, flow, lease.account, Framing.UNARY, answer.status < 400, lease)


def learn(gateway: Gateway, account: str, answer: bytes, *, made: bool) -> None:
    """
    Remember what an account's answer names as its own.

    :param made: whether the request has made something; then an older owner of the same name does not count.
    """
    owners = gateway.ownership
    for name in ownership.names_told(answer):
        if made or owners.owner(name) not in gateway.credentials:
            owners.remember(name, account)


@attrs.define(eq=False)
class Search:
    """
    The attempts of a request for a resource whose owner nobody remembers: account after account, until one has it.

    To the others it is forbidden or not found, so nothing is done twice.  `records` are those of all attempts.
    """

    attempts: ResourceAttempts
    records: list[AttemptRecord] = attrs.Factory(list)

    async def open(self) -> OpenAnswer | FinalAnswer:
        """
        The answer of the account that has it, or what the last one said.

        :raises GatewayError: if nobody can be asked, or somebody who may have it cannot be asked now.
        """
        accounts, exclusions = self.attempts.candidates()
        found: FinalAnswer | None = None
        trouble: GatewayError | FinalAnswer | None = None
        for account in list(accounts)[:MAX_SEARCH]:
            attempts = self.attempts.at(account.name)
            try:
                answer = await attempts.open()
            except GatewayError as e:
                trouble = e
                continue
            finally:
                self.records += attempts.records
            if isinstance(answer, OpenAnswer) or answer.status not in (401, 403, 404, 429, 500, 502, 503, 504):
                return answer
            if answer.status in (403, 404):
                found = answer
            else:
                trouble = answer
        if isinstance(trouble, GatewayError):
            raise trouble
        if trouble is not None:
            return trouble
        if found is None or any(e.wait is not None for e in exclusions):
            request = self.attempts.request
            raise nothing_left(request.model, request.method, request.version, exclusions)
        return found


@attrs.define(eq=False)
class Lists:
    """
    The attempts of a request for a list, which is put together from all accounts' lists.

    What an account has that cannot be asked is left out: one that is out of order must not hide all the others.

    :param page_size: how many the client wants; None leaves it to the upstreams.
    :param page: where the list goes on; None for its beginning.
    :param path_of: the path with the page size and the token of an upstream's own list.
    """

    attempts: ResourceAttempts
    page_size: int | None
    page: ownership.Page | None
    path_of: Callable[[int | None, str], str]
    records: list[AttemptRecord] = attrs.Factory(list)

    async def open(self) -> OpenAnswer | FinalAnswer:
        """
        One page.

        :raises GatewayError: if nobody can be asked, or the page token is of an account that has left.
        """
        accounts, exclusions = self.attempts.candidates()
        marks = {ownership.mark(account.name): account.name for account in self.gateway_accounts(accounts, exclusions)}
        order = list(marks)
        token = ""
        if self.page is not None:
            if self.page.account not in marks:
                raise InvalidRequest("The page token is not valid any more: the accounts have changed.")
            order, token = order[order.index(self.page.account) :], self.page.token
        ready = {account.name for account in accounts}
        documents: list[dict[str, Any]] = []
        refused: FinalAnswer | GatewayError | None = None
        count, wanted, following = 0, self.page_size or DEFAULT_PAGE, None
        for number, word in enumerate(order):
            if marks[word] not in ready:
                continue
            attempts = self.attempts.at(marks[word])
            full = count >= wanted
            size = 1 if full else None if self.page_size is None else wanted - count
            attempts.path = self.path_of(size, "" if number else token)
            try:
                document = await self._document(attempts)
            except GatewayError as e:
                refused = e
                continue
            finally:
                self.records += attempts.records
            if isinstance(document, FinalAnswer):
                refused = document
                verdict = attempts.records[-1].verdict
                if document.status == 400 and verdict is not None and verdict.fault is Fault.FINAL:
                    return document  # the client's own mistake: every account says the same
                continue
            if full:  # it is only asked whether it has any: SDKs break on a last page that is empty
                if ownership.listed(document):
                    following = ownership.Page(word, "")
                    break
                continue
            documents.append(document)
            count += ownership.listed(document)
            if document.get("nextPageToken"):
                following = ownership.Page(word, str(document["nextPageToken"]))
                break
        if not documents:
            if isinstance(refused, FinalAnswer):
                return refused
            request = self.attempts.request
            raise refused or nothing_left(request.model, request.method, request.version, exclusions)
        body = msgspec.json.format(msgspec.json.encode(ownership.merged(documents, following)), indent=2) + b"\n"
        return FinalAnswer(200, (), body)

    @staticmethod
    def gateway_accounts(accounts: Sequence[Account], exclusions: Sequence[Exclusion]) -> list[Account]:
        """Those that have lists at all, asked or not, in an order that stays the same while they rest and get well."""
        able = [*accounts, *(e.account for e in exclusions if e.cause is not Cause.METHOD)]
        return sorted(able, key=lambda account: (account.priority, account.name))

    async def _document(self, attempts: ResourceAttempts) -> dict[str, Any] | FinalAnswer:
        answer = await attempts.open()
        if isinstance(answer, FinalAnswer):
            return answer
        try:
            body = await whole(answer.body)
        finally:
            answer.close()
        try:
            document = documents.decode(body)
        except NOT_JSON:
            document = None
        if not isinstance(document, dict):
            raise BadUpstreamAnswer("The upstream's list cannot be read.")
        return document


async def whole(body: UpstreamBody) -> bytes:
    """
    A body, read whole.

    :raises BadUpstreamAnswer: if it breaks off, or is larger than any list.
    """
    chunks: list[bytes] = []
    done: Deferred[None] = Deferred(lambda _: body.abort("it is no longer wanted"))

    def take(data: bytes) -> None:
        chunks.append(data)
        if body.received > MAX_LIST:
            body.abort("it is too large")

    def end() -> None:
        if not done.called:
            done.callback(None)

    body.flow_to(take, end)
    await done
    if body.failed:
        raise BadUpstreamAnswer(f"The upstream's answer is not complete: {body.broken}.")
    return b"".join(chunks)

"""
Requests about resources that accounts have for themselves: files, cached contents, batches and the like.

They are sent as the client wrote them, and what an account's answer names is remembered as its own.  Whoever has a
resource of unknown owner is searched for (:class:`Search`), and a list is put together from all accounts' lists
(:class:`Lists`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred

from agm.core import documents, ownership
from agm.core.classify import Fault, Verdict
from agm.core.errors import NOT_JSON, BadUpstreamAnswer, GatewayError, InvalidRequest
from agm.core.ownership import Maker
from agm.core.pool.exclusions import Cause, Exclusion
from agm.core.pool.lease import Lease
from agm.core.request import Account, AttemptRecord, GatewayRequest, ModelChoice, UpstreamRequest
from agm.core.wire import openai, vertex
from agm.core.wire.answer_filters import AnswerFilter, CollectedBody, Framing, PlainBody
from agm.core.wire.usage import UsageWatch
from agm.plugins.hooks import Hooks
from agm.serving.affinity import AffinityRouting, route_names
from agm.serving.answers import MAX_ERROR, Failed, FinalAnswer, OpenAnswer
from agm.serving.attempts import Attempts
from agm.serving.chains import check_bytes_in, edited
from agm.serving.context import ServingContext
from agm.serving.routing import Routing
from agm.serving.wrapping import MAX_COLLECTED
from agm.upstream.client import UpstreamAnswer, UpstreamBody

#: How many accounts are asked for a resource whose owner nobody remembers.
MAX_SEARCH = 64
#: A page of a merged list has at least so many resources, if there are so many and the client does not say how many.
DEFAULT_PAGE = 50
#: An upstream's page of a list is refused beyond this many bytes.
MAX_LIST = documents.MOST_BYTES


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


@attrs.frozen(eq=False)
class ResourceCall:
    """
    A request about a resource, or about a whole collection of them.

    `name` is the resource that owns what is asked for, None for a collection; `named` everything that the request
    names; `path` starts with a slash and holds the query; `headers` are the client's, as far as they go along.
    """

    request: GatewayRequest
    mapped: ModelChoice
    http_method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    name: str | None
    named: tuple[str, ...]
    #: Whose request it is, for what it makes.
    maker: Maker | None = attrs.field(kw_only=True, default=None)
    #: It is of Google's OpenAI surface.
    openai: bool = attrs.field(kw_only=True, default=False)

    def attempts(self, context: ServingContext) -> Attempts:
        """
        Make its attempts: on the owner of what it names, or on any account.

        :raises InvalidRequest: if what it names belongs to several accounts.
        """
        return self._attempts(context, route_names(context, self.request, self.named))

    def attempts_at(self, context: ServingContext, account: str) -> Attempts:
        """Make attempts on one account only."""
        resource = self.name or "a list"
        return self._attempts(context, AffinityRouting(context, self.request, account, resource, self.named))

    def _attempts(self, context: ServingContext, routing: Routing) -> Attempts:
        wrapping = ResourceWrapping(context, self)
        placed = wrapping if self.request.place is None else PlacedWrapping(wrapping)
        return Attempts(context, self.request, routing, placed, self.mapped)


@attrs.define(eq=False)
class ResourceWrapping:
    """Sends a request about a resource as the client wrote it, and opens its answer at the head."""

    _context: ServingContext
    _call: ResourceCall

    def wrap(self, account: Account) -> UpstreamRequest:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        call = self._call
        framing, method = Framing.UNARY, call.http_method
        return UpstreamRequest(call.path, call.headers, call.body, framing, method=method, bearer=call.openai)

    def is_good(self, status: int) -> bool:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return 200 <= status < 400

    def at_head(self, answer: UpstreamAnswer, lease: Lease) -> OpenAnswer:
        """See :class:`agm.serving.wrapping.Wrapping`; whose the resource is, is remembered or forgotten."""
        call, owners = self._call, self._context.ownership
        if call.name is not None:
            itself = call.openai or call.path.partition("?")[0].endswith(f"/{call.name}")
            if call.http_method == "DELETE" and itself:
                owners.forget(call.name)
            else:
                owners.remember(call.name, lease.account.name)
        told = openai.names_told if call.openai else ownership.names_told
        made = call.http_method == "POST"
        return opened(self._context, answer, lease, call.request, made=made, maker=call.maker, told=told)

    def filter(self, wrapped: UpstreamRequest) -> AnswerFilter:
        """Pass everything; nothing is waited for behind the head."""
        return PlainBody()

    def watch(self) -> UsageWatch | None:
        """Watch nothing: no tokens are used."""
        return None

    def open(self, answer: UpstreamAnswer, flow: UpstreamBody, account: Account, lease: Lease) -> OpenAnswer:
        """Open what was opened at its head already."""
        return OpenAnswer(answer, flow, account, Framing.UNARY, True, lease)

    def judge(self, failure: Failed) -> Failed:
        """See :class:`agm.serving.wrapping.Wrapping`: what is refused is the resource, and not the account."""
        of_the_resource = failure.status in (403, 404) and not self._call.request.model
        if of_the_resource and failure.verdict.fault in (Fault.NO_MODEL, Fault.FORBIDDEN, Fault.UNCLEAR):
            return attrs.evolve(failure, verdict=Verdict(Fault.MISSING, failure.verdict.reason))
        return failure


@attrs.define(eq=False)
class PlacedWrapping:
    """Sends a request about what a project keeps with the place of the account that serves it."""

    _resource: ResourceWrapping

    def wrap(self, account: Account) -> UpstreamRequest:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        wrapped = self._resource.wrap(account)
        assert account.project is not None  # none without is eligible
        return UpstreamRequest(
            vertex.placed(wrapped.path, account.project, account.location),
            wrapped.headers,
            vertex.with_place(wrapped.body, account.project, account.location),
            Framing.UNARY,
            method=wrapped.method,
        )

    def is_good(self, status: int) -> bool:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return self._resource.is_good(status)

    def at_head(self, answer: UpstreamAnswer, lease: Lease) -> OpenAnswer | None:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return self._resource.at_head(answer, lease)

    def filter(self, wrapped: UpstreamRequest) -> AnswerFilter:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return self._resource.filter(wrapped)

    def watch(self) -> UsageWatch | None:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return self._resource.watch()

    def open(self, answer: UpstreamAnswer, flow: UpstreamBody, account: Account, lease: Lease) -> OpenAnswer:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return self._resource.open(answer, flow, account, lease)

    def judge(self, failure: Failed) -> Failed:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return self._resource.judge(failure)


def check_seen(hooks: Hooks, answer: UpstreamAnswer) -> None:
    """
    Check that a good answer which is no JSON may pass the plugins that edit answers.

    :raises Unimplemented: if it may not; its connection is closed.
    """
    if answer.length == 0 or answer.status in (204, 304):
        return
    try:
        check_bytes_in(hooks, "The bytes of this answer")
    except GatewayError:
        answer.abort()
        raise


def opened(
    context: ServingContext,
    answer: UpstreamAnswer,
    lease: Lease,
    request: GatewayRequest,
    *,
    made: bool,
    maker: Maker | None = None,
    told: Callable[[bytes], Sequence[str]] = ownership.names_told,
) -> OpenAnswer:
    """
    An answer as it is, of which the head has come: that says enough.  It may well be empty, or a large file.

    What it names is remembered as its account's once it has passed; `made`, `maker` and `told` as for
    :func:`remember_names`.

    :raises Unimplemented: if plugins edit answers, and this one cannot be shown to them.
    """
    account, hooks = lease.account.name, context.hooks
    json = (answer.header("content-type") or "").startswith("application/json") and answer.status < 300
    passing: AnswerFilter
    plain = answer.status < 400
    if answer.status >= 400:  # it may repeat what it was shown
        passing = CollectedBody(context.redactor.body, limit=MAX_ERROR)
    elif json and hooks.edits_events:

        def noted(body: bytes) -> bytes:
            remember_names(context, account, body, made=made, maker=maker, told=told)
            return body

        passing = CollectedBody(edited(hooks, request, lease.account, noted, alone=True), limit=MAX_COLLECTED)
        plain = False
    elif json:
        passing = _Noted(lambda body: remember_names(context, account, body, made=made, maker=maker, told=told))
    else:
        check_seen(hooks, answer)
        passing = PlainBody()
    flow = UpstreamBody(passing, context.deadlines, context.config.timeouts.idle)
    answer.deliver(flow)
    return OpenAnswer(answer, flow, lease.account, Framing.UNARY, plain, lease, maker=maker)


def remember_names(
    context: ServingContext,
    account: str,
    answer: bytes,
    *,
    made: bool,
    maker: Maker | None = None,
    told: Callable[[bytes], Sequence[str]] = ownership.names_told,
) -> None:
    """
    Remember what an account's answer names as its own.

    :param made: whether the request has made something; then an older owner of the same name does not count.
    :param maker: whose request it was.
    :param told: finds the names in an answer.
    """
    owners = context.ownership
    for name in told(answer):
        if made or owners.owner(name) not in context.credentials:
            owners.remember(name, account, maker if made else None)


@attrs.define(eq=False)
class Search:
    """
    The attempts of a request for a resource whose owner nobody remembers: account after account, until one has it.

    To the others it is forbidden or not found, so nothing is done twice.  `records` are those of all attempts.
    """

    context: ServingContext
    call: ResourceCall
    records: list[AttemptRecord] = attrs.Factory(list)

    async def open(self) -> OpenAnswer | FinalAnswer:
        """
        Ask for the answer of the account that has it, or what the last one said.

        :raises GatewayError: if nobody can be asked, or somebody who may have it cannot be asked now.
        """
        accounts, exclusions = self.call.attempts(self.context).candidates()
        found: FinalAnswer | None = None
        trouble: GatewayError | FinalAnswer | None = None
        for account in list(accounts)[:MAX_SEARCH]:
            attempts = self.call.attempts_at(self.context, account.name)
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
            request = self.call.request
            raise self.context.nothing_left(request, exclusions)
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

    context: ServingContext
    call: ResourceCall
    page_size: int | None
    page: ownership.Page | None
    path_of: Callable[[int | None, str], str]
    #: The field in which a list says where it goes on.
    goes_on: str = "nextPageToken"
    #: Whether one may be listed, by its name; None for all.
    shows: Callable[[str], bool] | None = None
    #: The field says only whether it does: the client names the last one that it got.
    behind_an_id: bool = False
    records: list[AttemptRecord] = attrs.Factory(list)

    async def open(self) -> OpenAnswer | FinalAnswer:
        """
        One page.

        :raises GatewayError: if nobody can be asked, or the page token is of an account that has left.
        """
        accounts, exclusions = self.call.attempts(self.context).candidates()
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
            full = count >= wanted
            size = 1 if full else None if self.page_size is None else wanted - count
            call = attrs.evolve(self.call, path=self.path_of(size, "" if number else token))
            attempts = call.attempts_at(self.context, marks[word])
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
            if document.get(self.goes_on):
                following = ownership.Page(word, str(document[self.goes_on]))
                break
        if not documents:
            if isinstance(refused, FinalAnswer):
                return refused
            request = self.call.request
            raise refused or self.context.nothing_left(request, exclusions)
        merged = ownership.merged(documents, following, goes_on=self.goes_on)
        if self.behind_an_id:
            merged = {name: value for name, value in merged.items() if name not in ("first_id", "last_id")}
            merged[self.goes_on] = following is not None
        return FinalAnswer(200, (), msgspec.json.format(msgspec.json.encode(merged), indent=2) + b"\n")

    @staticmethod
    def gateway_accounts(accounts: Sequence[Account], exclusions: Sequence[Exclusion]) -> list[Account]:
        """Those that have lists at all, asked or not; their order stays the same while they cool down and recover."""
        able = [*accounts, *(e.account for e in exclusions if e.cause is not Cause.METHOD)]
        return sorted(able, key=lambda account: (account.priority, account.name))

    async def _document(self, attempts: Attempts) -> dict[str, Any] | FinalAnswer:
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
        return document if self.shows is None else self._shown(document, self.shows)

    def _shown(self, document: dict[str, Any], shows: Callable[[str], bool]) -> dict[str, Any]:
        """A list without what may not be listed; what Google has for everybody may."""
        collection = self.call.request.method.split(".")[-2]  # of openai.files.list, too

        def may(item: object) -> bool:
            if not isinstance(item, dict) or item.get("type") == "prebuilt":
                return True
            named = f"{collection}/{item['id']}" if "id" in item else str(item.get("name"))
            name = ownership.root(named)
            return name is not None and shows(name)

        return {
            key: [item for item in value if may(item)] if isinstance(value, list) else value
            for key, value in document.items()
        }


async def whole(body: UpstreamBody) -> bytes:
    """
    Return a body, read whole.

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

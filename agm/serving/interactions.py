"""
Requests of the Interactions API and of the collections beside it: one way for all of them, told apart by a table.

:data:`agm.core.kinds.ID_COLLECTIONS` is the table.  A creation of an interaction names its model or agent in its body,
which is mapped, held to limits and routed as for any call; what an answer tells of its account is remembered before
the client can ask for it; and what an upstream may have acted on is never sent a second time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import attrs
import msgspec

from agm.core import documents, ownership
from agm.core.answer import KeepAnswer
from agm.core.bodies import Unreadable
from agm.core.classify import Fault, Verdict
from agm.core.errors import NOT_JSON, InvalidRequest
from agm.core.kinds import ID_COLLECTIONS, IdCollection
from agm.core.ownership import OwnedTarget
from agm.core.pool.lease import Lease
from agm.core.request import Account, ModelChoice, UpstreamRequest
from agm.core.wire import interactions
from agm.core.wire.answer_filters import (
    AnswerFilter,
    CollectedBody,
    Framing,
    PlainBody,
    PlainDocument,
    StreamFailure,
    Transform,
    plain_event,
)
from agm.core.wire.interactions import EditedEvents, NamedEvents
from agm.core.wire.target import bare_model
from agm.core.wire.usage import INTERACTIONS, KeepingWatch, Usage, UsageWatch
from agm.plugins.builtin.wrapping import USER_AGENT
from agm.serving.affinity import read
from agm.serving.answers import Failed, OpenAnswer
from agm.serving.attempts import Attempts
from agm.serving.calls import Calls
from agm.serving.chains import edited, edited_body
from agm.serving.context import ServingContext
from agm.serving.fallbacks import FallingBack
from agm.serving.inbound import Inbound
from agm.serving.prepare import Answered, answer_of, falling_back
from agm.serving.resources import Lists, ResourceCall, Search, check_seen
from agm.serving.routing import Routing
from agm.serving.sharing import check_sees, maker_of, sees
from agm.serving.wrapping import MAX_COLLECTED
from agm.upstream.client import UpstreamAnswer, UpstreamBody

#: After these statuses an upstream may have acted on a request.
_PERHAPS_DONE = frozenset({408, 500, 502, 504})
#: So many interactions are remembered whose tokens have not been counted yet.
MAX_UNCOUNTED = 10_000
#: Fields of answers that hold a secret, which no log may have.
_SECRETS = ("new_signing_secret", "secret", "auth_token")
#: The statuses with which an interaction has ended, so that its count is the last.
_ENDED = frozenset(
    {"completed", "failed", "cancelled", "incomplete", "requires_action", "requires_continuation", "budget_exceeded"}
)


#: Headers of a client's that go along.
_FORWARDED = ("accept", "api-revision", "x-server-timeout", "if-match", "if-none-match", "range")


def forwarded_headers(headers: Mapping[str, str], *, content: bool) -> tuple[tuple[bytes, bytes], ...]:
    """
    Return the headers that go along with a request.

    :param headers: the client's, by their names in lower case.
    :param content: whether it has a body, which is JSON.
    """
    found = [(n.title().encode("ascii"), headers[n].encode("latin-1")) for n in _FORWARDED if n in headers]
    if content:
        found.append((b"Content-Type", b"application/json"))
    return (*found, (b"User-Agent", USER_AGENT.encode("ascii")))


class Uncounted:
    """Interactions whose tokens nobody has seen counted: those in the background, and those that broke off."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        """Remember one; the oldest is forgotten first."""
        self._names[name] = None
        if len(self._names) > MAX_UNCOUNTED:
            self._names.popitem(last=False)

    def discard(self, name: str) -> None:
        """Its tokens have been counted."""
        self._names.pop(name, None)


class _CountingWatch(UsageWatch):
    """
    Counts the tokens of an interaction once, in whichever answer tells them first.

    :ivar name: the interaction, as soon as it is known.
    """

    __slots__ = ("_uncounted", "name")

    def __init__(self, uncounted: Uncounted, name: str | None) -> None:
        super().__init__(names=INTERACTIONS)
        self._uncounted = uncounted
        self.name = name

    def read(self) -> tuple[Usage | None, str | None]:
        """See :class:`UsageWatch`; what is told before the end is not counted yet."""
        return _counted(self._uncounted, self.name, *super().read())


class _KeepingCount(KeepingWatch):
    """The same, of an answer that is kept for a person."""

    __slots__ = ("_uncounted", "name")

    def __init__(self, uncounted: Uncounted, name: str | None, most: int) -> None:
        super().__init__(most, names=INTERACTIONS)
        self._uncounted = uncounted
        self.name = name

    def read(self) -> tuple[Usage | None, str | None]:
        return _counted(self._uncounted, self.name, *super().read())


def _counted(
    uncounted: Uncounted, name: str | None, usage: Usage | None, status: str | None
) -> tuple[Usage | None, str | None]:
    if usage is None or (status is not None and status not in _ENDED):
        if name is not None:
            uncounted.add(name)
        return None, status
    if name is not None:
        uncounted.discard(name)
    return usage, status


@attrs.frozen(eq=False, kw_only=True)
class IdInbound(Inbound):
    """A request of the Interactions API or a neighbour as it came in."""

    asked: OwnedTarget
    http_method: str

    @property
    def row(self) -> IdCollection:
        """The collection's row of the table."""
        return ID_COLLECTIONS[self.asked.collection]

    @property
    def creates(self) -> bool:
        """Whether a model or an agent is asked."""
        return self.row.runs and self.http_method == "POST" and self.asked.name is None


class PrepareIdCall:
    """
    The steps before a request of the Interactions API or a neighbour is sent.

    :param uncounted: see :class:`Uncounted`.
    :param lists: makes the attempts of a merged list, of the call and the names that may be shown.
    :param explaining: nothing will be sent; count nothing and remember nothing.
    :ivar request: the request as plugins see it.
    """

    def __init__(
        self,
        calls: Calls,
        inbound: IdInbound,
        uncounted: Uncounted,
        lists: Callable[[IdCall, Callable[[str], bool]], Lists] | None = None,
        *,
        explaining: bool = False,
    ) -> None:
        self._calls = calls
        self._inbound = inbound
        self._uncounted = uncounted
        self._lists = lists
        read_ = interactions.read_creation(inbound.body) if inbound.creates else None
        self._creation = read_
        streams = inbound.parameters.get("stream") == "true" if read_ is None else read_.stream is True
        framing = Framing.SSE if streams else Framing.UNARY
        asked = "" if read_ is None else read_.asks
        method = inbound.asked.method(inbound.http_method)
        shown = b"" if inbound.row.secret else inbound.body
        self.request = inbound.describe(
            inbound.asked.version, method, asked, framing, shown=shown, explaining=explaining
        )

    async def run(self) -> Attempts | Search | Lists | Answered | FallingBack:
        """
        Take the steps.

        :raises GatewayError: if the request may not be made.
        :raises HookFailed: if a plugin that edits bodies failed.
        """
        calls, hooks, inbound = self._calls, self._calls.context.hooks, self._inbound
        self.request = await hooks.look_up(self.request)
        named, models = await self._read(inbound.body)
        choice = self._mapped(models)
        if inbound.key is not None:
            counting = not self.request.explaining
            if calls.clients.shared is not None and counting:
                await calls.clients.pay(inbound.key)
            for model in models:
                calls.clients.admit(inbound.key, model, counting=False)
            calls.clients.admit(inbound.key, self.request.asked_model, self.request.method, counting=counting)
        keep: KeepAnswer | None = None
        if inbound.creates:
            answered, keep = await answer_of(hooks, self.request, choice)
            if answered is not None:
                return answered
        attempts = await self._with_model(choice, named, keep)
        if not isinstance(attempts, Attempts) or not inbound.creates or not self._names_a_model:
            return attempts
        return falling_back(calls.models, choice, attempts, lambda other: self._again(other, named, keep))

    async def _again(self, choice: ModelChoice, named: list[str], keep: KeepAnswer | None) -> Attempts:
        """Make the attempts with another model."""
        self.request = attrs.evolve(self.request, model=choice.model)
        attempts = await self._with_model(choice, named, keep)
        assert isinstance(attempts, Attempts), "what fell back named nothing that is searched for"
        return attempts

    async def _with_model(
        self, choice: ModelChoice, named: list[str], keep: KeepAnswer | None
    ) -> Attempts | Search | Lists:
        context, inbound = self._calls.context, self._inbound
        body = inbound.body
        if context.hooks.edits_requests and not inbound.row.secret:  # what holds secrets is no plugin's to see
            body = await edited_body(context.hooks, body, self.request)
            named, _ = await self._read(body)
        body = self._of_model(body, choice)
        name = None if inbound.asked.name is None else ownership.root(inbound.asked.name)
        mine = maker_of(inbound.key)
        check_sees(context, mine, [] if name is None else [name], known=False)
        check_sees(context, mine, named)
        call = IdCall(
            self.request,
            choice,
            inbound.http_method,
            inbound.asked.path + inbound.query,
            inbound.forwarded,
            body,
            name,
            tuple(dict.fromkeys([*([] if name is None else [name]), *named])),
            maker=mine,
            uncounted=self._uncounted,
            inbound=inbound,
            kept=inbound.creates and (self._creation is None or self._creation.store is not False),
        )
        attempts = self._attempts(call)
        if isinstance(attempts, Attempts):
            attempts.keep = keep
        return attempts

    @property
    def _names_a_model(self) -> bool:
        """Whether a model is asked, and no agent."""
        return self._creation is not None and isinstance(self._creation.model, str)

    def _attempts(self, call: IdCall) -> Attempts | Search | Lists:
        context, inbound = self._calls.context, self._inbound
        unknown = [known for known in call.named if context.ownership.owner(known) not in context.credentials]
        able = sum(call.request.method in account.methods for account in context.pool.accounts)
        if able < 2 or self.request.explaining:
            return call.attempts(context)
        if len(unknown) < len(call.named):  # the owner of some is known
            return call.attempts(context)
        if call.name is not None or any(map(ownership.is_private, unknown)):
            return Search(context, call)
        if self._lists is not None and inbound.http_method == "GET" and inbound.asked.name is None:
            return self._lists(call, lambda name: sees(context, maker_of(inbound.key), name))
        return call.attempts(context)

    async def _read(self, body: bytes) -> tuple[list[str], list[str]]:
        """
        Return what a body names: resources, and models and agents.

        :raises InvalidRequest: if it cannot be read.
        """
        if not body.strip():
            return [], []
        try:
            reading = await read(self._calls.context, body, ids=True)
        except Unreadable as e:
            raise InvalidRequest(
                f"Invalid JSON payload received: {e}. What it names, one account of this gateway may have, so it is "
                "not sent to just any of them.",
                reason="BODY_UNREADABLE",
            ) from None
        runs = self._inbound.creates
        return list(reading.names), list(dict.fromkeys(filter(None, map(bare_model, reading.models)))) if runs else []

    def _mapped(self, models: Sequence[str]) -> ModelChoice:
        """Return the model that serves, and why; an agent is as it was asked for."""
        creation = self._creation
        if self._inbound.creates and creation is None and models:  # as Google reads it, and no other JSON parser
            self.request = attrs.evolve(self.request, asked_model=models[0], model=models[0])
        request = self.request
        if not request.asked_model or not self._names_a_model:
            return ModelChoice(request.asked_model, "as asked")
        catalog = self._calls.models.catalog
        choice = self._calls.context.hooks.map_model(catalog.id_of(request.asked_model), request)
        self.request = attrs.evolve(request, model=choice.model)
        return choice

    def _of_model(self, body: bytes, choice: ModelChoice) -> bytes:
        """Return the body with the model that serves in it."""
        creation = self._creation
        if creation is None or not self._names_a_model or bare_model(str(creation.model)) == choice.model:
            return body
        return interactions.with_model(body, choice.model)


@attrs.frozen(eq=False)
class IdCall(ResourceCall):
    """A request of the Interactions API or a neighbour, ready to be attempted."""

    uncounted: Uncounted = attrs.field(kw_only=True)
    inbound: IdInbound = attrs.field(kw_only=True)
    #: Whether what is created is kept by the upstream, so that it can be asked for again.
    kept: bool = attrs.field(kw_only=True, default=False)

    def _attempts(self, context: ServingContext, routing: Routing) -> Attempts:
        return Attempts(context, self.request, routing, IdWrapping(context, self), self.mapped)


class IdWrapping:
    """Sends such a request as the client wrote it, and reads of its answer what it tells of its account."""

    def __init__(self, context: ServingContext, call: IdCall) -> None:
        self._context = context
        self._call = call
        self._account = ""
        self._for: Account | None = None
        self._streams = False
        self._counting: _CountingWatch | _KeepingCount | None = None

    def wrap(self, account: Account) -> UpstreamRequest:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        call, self._for = self._call, account
        return UpstreamRequest(call.path, call.headers, call.body, call.request.framing, method=call.http_method)

    def is_good(self, status: int) -> bool:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return 200 <= status < 300

    def at_head(self, answer: UpstreamAnswer, lease: Lease) -> OpenAnswer | None:
        """Wait for what a model says; of all else the head tells enough."""
        call, owners = self._call, self._context.ownership
        self._account = lease.account.name
        content_type = answer.header("content-type") or ""
        self._streams = content_type.startswith("text/event-stream")
        if call.name is not None:
            if call.http_method == "DELETE" and call.path.partition("?")[0].endswith(f"/{call.name}"):
                owners.forget(call.name)
                call.uncounted.discard(call.name)
            else:
                owners.remember(call.name, self._account)
        if self._streams or call.inbound.creates:
            return None
        json = content_type.startswith("application/json")
        edits = self._edits
        passing: AnswerFilter
        if json and edits:
            change = self._learning(self._edited(lambda document: document, alone=True))
            passing = CollectedBody(change, limit=MAX_COLLECTED)
        elif json:
            passing = _Told(self._learn, lambda: None, first=False)
        else:
            if edits:
                check_seen(self._context.hooks, answer)
            passing = PlainBody()
        flow = UpstreamBody(passing, self._context.deadlines, self._context.config.timeouts.idle, self.watch())
        answer.deliver(flow)
        return OpenAnswer(answer, flow, lease.account, Framing.UNARY, not (json and edits), lease)

    @property
    def _edits(self) -> bool:
        """Whether plugins edit the answer; what holds secrets is not theirs to see."""
        return self._context.hooks.edits_events and not self._call.inbound.row.secret

    def _edited(self, cut: Transform, *, alone: bool) -> Transform:
        assert self._for is not None, "it has been wrapped for an account"
        return edited(self._context.hooks, self._call.request, self._for, cut, alone=alone)

    def filter(self, wrapped: UpstreamRequest) -> AnswerFilter:
        """See :class:`agm.serving.wrapping.Wrapping`; the names in an answer are remembered before it passes."""
        redact, edits = self._context.redactor.body, self._edits
        if self._streams:
            if edits:
                return EditedEvents(self._edited(_any_event, alone=False), self._learn_of_event)
            return NamedEvents(self._learn_of_event, redact)
        if edits:
            change = self._edited(plain_event, alone=True)
            return CollectedBody(self._learning(change), limit=MAX_COLLECTED)
        return _Told(self._learn, self._begins)

    def watch(self) -> UsageWatch | None:
        """See :class:`agm.serving.wrapping.Wrapping`: what is told again is not counted again."""
        call = self._call
        kept = 0 if call.inbound.row.secret or not call.inbound.row.runs else self._context.kept_answers
        known = call.name in call.uncounted
        if call.inbound.creates or known:
            uncounted, name = call.uncounted, call.name if known else None
            watch = _KeepingCount(uncounted, name, kept) if kept else _CountingWatch(uncounted, name)
            self._counting = watch
            return watch
        return None

    def judge(self, failure: Failed) -> Failed:
        """See :class:`agm.serving.wrapping.Wrapping`: what may have been acted on is not sent again."""
        if self._call.http_method not in ("GET", "HEAD") and failure.status in _PERHAPS_DONE:
            failure = attrs.evolve(failure, final=True)
        refused = failure.status in (403, 404) and not self._call.request.model
        if refused and failure.verdict.fault in (Fault.NO_MODEL, Fault.FORBIDDEN, Fault.UNCLEAR, Fault.MISSING):
            return attrs.evolve(failure, verdict=Verdict(Fault.FINAL, failure.verdict.reason))
        return failure

    def open(self, answer: UpstreamAnswer, flow: UpstreamBody, account: Account, lease: Lease) -> OpenAnswer:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        framing = Framing.SSE if self._streams else Framing.UNARY
        plain = isinstance(flow.filter, PlainBody)
        return OpenAnswer(answer, flow, account, framing, plain, lease, error_event=interactions.error_event)

    # What an answer tells

    def _learning(self, change: Transform) -> Transform:
        def learn_and_change(document: bytes) -> bytes:
            self._learn(document)
            return change(document)

        return learn_and_change

    def _begins(self) -> None:
        """An answer has begun, whose id comes with its first bytes or later."""

    def _learn(self, body: bytes) -> None:
        """Remember what a document names."""
        if len(body) > ownership.MAX_READ:
            found = interactions.first_id(body)
            names = [] if found is None else [f"{self._call.inbound.asked.collection}/{found}"]
        else:
            try:
                document = documents.decode(body)
            except NOT_JSON:
                return
            names = ownership.ids_told(self._call.inbound.asked.collection, document)
            for field in _SECRETS:
                if isinstance(document, dict) and isinstance(document.get(field), str):
                    self._context.redactor.add_transient(document[field])
        self._remember(names)

    def _learn_of_event(self, data: bytes) -> None:
        self._remember(list(interactions.names_in_event(data)))

    def _remember(self, names: Sequence[str]) -> None:
        call, owners = self._call, self._context.ownership
        made = call.http_method == "POST" and (call.kept or not call.inbound.creates)
        for name in names:
            private = ownership.is_private(name)
            if call.inbound.creates and private and not call.kept:
                continue
            if owners.owner(name) not in self._context.credentials:
                owners.remember(name, self._account, call.maker if made else None)
            if private and self._counting is not None and call.inbound.creates:
                self._counting.name = name


class _Told(PlainDocument):
    """
    A document that passes as it is, and is handed over as soon as its beginning tells its id, and once it is whole.

    :param first: whether an empty one is an answer that is missing.
    """

    def __init__(self, learn: Callable[[bytes], None], begins: Callable[[], None], *, first: bool = True) -> None:
        super().__init__()
        self._learn = learn
        self._first = first
        self._kept: list[bytes] = []
        self._size = 0
        self._early = False

    def feed(self, chunk: bytes) -> bytes:
        passed = super().feed(chunk) if self._first else chunk
        self._size += len(chunk)
        if self._size <= ownership.MAX_READ:
            self._kept.append(chunk)
        if not self._early and self._first and (b'"id"' in chunk or self._size > len(chunk)):
            start = b"".join(self._kept)[: interactions.MAX_ID]
            found = interactions.first_id(start)
            if found is not None:
                self._early = True
                self._learn(msgspec.json.encode({"id": found}))
            elif len(start) >= interactions.MAX_ID:
                self._early = True
        return passed

    def close(self) -> bytes:
        if self._size <= ownership.MAX_READ:
            self._learn(b"".join(self._kept))
        if self._first and not self._size and self.failure is None:
            self.failure = StreamFailure.of(502, "The upstream's answer is empty.")
        return b""


def _any_event(document: bytes) -> bytes:
    """An event as it is, an error too: that passes here."""
    return document

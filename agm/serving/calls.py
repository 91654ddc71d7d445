"""
A call from its beginning to its end: prepared, attempted, answered, and told to whoever counts and observes.

:class:`Calls` is how a request enters, from the web or from within the process.  :meth:`Calls.begin` gives a
:class:`Call`; :meth:`Call.open` makes its attempts; whoever has asked takes the answer, and :meth:`Call.end` says what
became of it, exactly once.  No Twisted request is seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import attrs

from agm.core.answer import Answer
from agm.core.counters import Counters
from agm.core.request import Account, AttemptRecord, GatewayRequest, RequestRecord
from agm.core.wire.answer_filters import WatchedFilter
from agm.core.wire.usage import KeepingWatch, Usage
from agm.observe.activity import Live, Relaying, Underway
from agm.serving.answers import FinalAnswer, OpenAnswer
from agm.serving.attempts import Attempts
from agm.serving.client_auth import ClientAuthenticator
from agm.serving.context import ServingContext
from agm.serving.fallbacks import FallingBack
from agm.serving.model_directory import ModelDirectory
from agm.serving.money import Money
from agm.serving.prepare import InboundCall, MakeWrapping, PrepareCall
from agm.serving.wrapping import CallWrapping

Outcome = Literal["ok", "error", "aborted", "cancelled"]


class Opening(Protocol):
    """What opens an answer, and knows what was tried for it: :class:`agm.serving.attempts.Attempts` and the like."""

    @property
    def records(self) -> Sequence[AttemptRecord]:
        """The attempts so far."""

    async def open(self) -> OpenAnswer | FinalAnswer | Answer:
        """Open the answer.  :raises GatewayError: if there is none."""


class Prepared(Protocol):
    """The steps before an answer can be opened: :class:`agm.serving.prepare.PrepareCall` and the like."""

    @property
    def request(self) -> GatewayRequest:
        """The request, as far as it is known."""

    async def run(self) -> Opening:
        """Take the steps.  :raises GatewayError: if the request may not be made."""


@attrs.frozen(eq=False)
class Calls:
    """What calls enter by, under one configuration: a reload makes another."""

    context: ServingContext
    models: ModelDirectory
    clients: ClientAuthenticator
    money: Money
    live: Live
    counters: Counters

    def prepare(
        self, inbound: InboundCall, *, wrapping: MakeWrapping = CallWrapping, explaining: bool = False
    ) -> PrepareCall:
        """Make the steps for a call of a model; see :class:`PrepareCall`."""
        return PrepareCall(self.context, self.models, self.clients, inbound, wrapping=wrapping, explaining=explaining)

    def begin(self, prepared: Prepared) -> Call:
        """Begin a call: from now on it is in flight, until :meth:`Call.end`."""
        return Call(self, prepared)


class Call:
    """
    One call in flight.

    :ivar opened: its answer, once there is one.
    """

    __slots__ = ("_attempts", "_began", "_calls", "_first_byte", "_prepared", "_underway", "opened")

    def __init__(self, calls: Calls, prepared: Prepared) -> None:
        self._calls = calls
        self._prepared = prepared
        self._began: float = calls.context.reactor.seconds()
        self._underway: Underway = calls.live.begin(prepared)
        self._attempts: Opening | None = None
        self._first_byte: float | None = None
        self.opened: OpenAnswer | FinalAnswer | Answer | None = None

    @property
    def request(self) -> GatewayRequest:
        """The request, as far as it is known."""
        return self._prepared.request

    @property
    def account(self) -> Account | None:
        """
        The account of the last attempt, or of the call that a plugin answers with.

        None before the first attempt, or where it has left the pool.
        """
        records = () if self._attempts is None else self._attempts.records
        name = records[-1].account if records else None
        if isinstance(self.opened, Answer):
            name = self.opened.account
        return next((account for account in self._calls.context.pool.accounts if account.name == name), None)

    async def open(self, check: Callable[[], None] | None = None) -> OpenAnswer | FinalAnswer | Answer:
        """
        Prepare it, and make its attempts.

        Until an :class:`OpenAnswer` is closed its account is leased.

        :param check: called before the first attempt; raises if the answer is not wanted any more.
        :raises GatewayError: if the request may not be made, no account can serve, or the last attempt brought no
            answer at all.
        :raises HookFailed: if a plugin that edits bodies failed.
        """
        attempts = self._attempts = self._underway.attempts = await self._prepared.run()
        if check is not None:
            check()
        opened = self.opened = await attempts.open()
        self._first_byte = self._calls.context.reactor.seconds() - self._began
        return opened

    def relaying(self, relay: Relaying) -> None:
        """Say that the answer flows from now on."""
        self._calls.live.relaying(self._underway, relay)

    def failed(self, error: Exception) -> None:
        """Say which error of the gateway's own ends it; :meth:`end` must follow."""
        self._underway.error = error

    def end(self, outcome: Outcome, status: int, sent: int) -> RequestRecord:
        """
        Say how it ended, and tell whoever counts and observes; returns what they are told.

        :param status: that the client got.
        :param sent: bytes of the body that the client got.
        """
        calls, underway, opened = self._calls, self._underway, self.opened
        context = calls.context
        attempts = () if self._attempts is None else tuple(self._attempts.records)
        account: str | None = None
        answer: bytes | None = None
        usage: Usage | None = None
        finish_reason: str | None = None
        if isinstance(opened, OpenAnswer):
            body = opened.body
            account, watch = opened.account.name, body.watch
            if outcome == "ok":
                answer = body.kept
            if watch is not None:
                usage, finish_reason = watch.read()
            if isinstance(body.filter, WatchedFilter):
                watch = body.filter.watch  # what the client was told counts, as far as it was told
                given, why = watch.read()
                usage, finish_reason = given or usage, why or finish_reason
            if context.kept_answers and isinstance(watch, KeepingWatch):
                underway.answer, underway.answer_size = watch.kept, watch.size
        elif isinstance(opened, FinalAnswer):
            account = attempts[-1].account if attempts else None
            if context.kept_answers:
                underway.answer, underway.answer_size = opened.body[: context.kept_answers], len(opened.body)
        request = self._prepared.request
        if outcome == "error" and isinstance(self._attempts, Attempts | FallingBack) and self._attempts.spent:
            context.storms.refused(request.model)
        record = RequestRecord(
            request=request,
            started=request.received_at,
            ended=context.reactor.seconds() - self._began,
            first_byte=self._first_byte,
            status=status,
            outcome=outcome,
            sent=sent,
            attempts=attempts,
            account=account,
            usage=usage,
            finish_reason=finish_reason,
            answer=answer,
            cost=calls.money.cost(request, usage) if isinstance(opened, OpenAnswer) else None,
        )
        calls.live.end(underway, record, context.config.pool.max_attempts)
        calls.counters.finished(record)
        calls.clients.charge(record)
        calls.money.charge(record)
        context.hooks.request_finished(record)
        return record

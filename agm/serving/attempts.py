"""
The attempts of a request: lease an account → wrap → send → first byte, again until one is good or nothing is left.

:meth:`Attempts.open` ends with an answer whose first bytes are there, on an account that is leased until
:meth:`OpenAnswer.close`; until then nothing has gone to the client, so everything can still be tried elsewhere.  Where
attempts go is a :class:`~agm.serving.routing.Routing`'s to say, what they look like a
:class:`~agm.serving.wrapping.Wrapping`'s.  No Twisted request and no socket is seen here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from agm.config import TimeoutsConfig
from agm.core.answer import KeepAnswer
from agm.core.classify import ABOUT_THE_REQUEST, SHORT_DELAY, Fault, Verdict
from agm.core.errors import (
    BadUpstreamAnswer,
    GatewayError,
    Unavailable,
    UpstreamTimeout,
    error_info,
    status_body,
    with_retry_info,
)
from agm.core.pool.breaker import Trouble
from agm.core.pool.candidates import Candidates
from agm.core.pool.exclusions import Cause, Exclusion
from agm.core.pool.lease import Lease
from agm.core.pool.waiters import Share, is_batch
from agm.core.remedies import remedy
from agm.core.request import (
    Account,
    AccountChoice,
    AttemptRecord,
    GatewayRequest,
    LastFailure,
    ModelChoice,
    UpstreamRequest,
)
from agm.core.wire import envelope
from agm.core.wire.answer_filters import Framing, KeptAnswer
from agm.core.wire.gzip import inflate
from agm.serving.answers import MAX_ERROR, Failed, FinalAnswer, OpenAnswer, Route
from agm.serving.context import ServingContext
from agm.serving.records import record_attempt
from agm.serving.routing import Routing
from agm.serving.wrapping import Wrapping
from agm.upstream.client import UpstreamAnswer, UpstreamBody, UpstreamFailed
from agm.upstream.codeassist import NoProject, NotTold, Refused
from agm.upstream.credentials.credential import CredentialError

#: Seconds before the same account is tried again because there is no other.
SAME_ACCOUNT_PAUSE = 0.25

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

log = Logger()


def first_byte_within(headers: Mapping[str, str], limits: TimeoutsConfig) -> float:
    """
    Seconds within which an upstream must begin its answer.

    ``X-Server-Timeout`` of the client, in seconds, lengthens ``first_byte``, up to ``total``: the client is ready to
    wait, and the upstream gets the header as well.  A shorter one is the upstream's to keep, and one that is no number
    is the upstream's to refuse.
    """
    asked = headers.get("x-server-timeout")
    if asked is None or _SECONDS.fullmatch(asked) is None:
        return limits.first_byte
    return max(limits.first_byte, min(float(asked), limits.total))


#: Faults after which another model may serve, and causes for which an account serves another sooner.
SPENT = frozenset({Fault.RATE, Fault.QUOTA, Fault.CAPACITY})
NONE_LEFT = frozenset({Cause.RESTING, Cause.RESERVE, Cause.PROBING, Cause.BUSY})

#: Failures of :class:`UpstreamFailed` after which nothing of the request can have got anywhere.
_UNREACHED = frozenset({"CONNECT_FAILED", "CONNECT_TIMEOUT", "DNS_FAILED", "PROXY_FAILED", "TLS_FAILED"})


@attrs.define(eq=False)
class Attempts:
    """
    The attempts of one request, and their records.

    :param mapped: the model that serves, and why.
    """

    context: ServingContext
    request: GatewayRequest
    routing: Routing
    wrapping: Wrapping
    mapped: ModelChoice
    #: Whether the answer is kept for the observers, and what goes out with it.
    keep: KeepAnswer | None = None
    #: What has been recorded of the request before, with another model.
    before: Sequence[AttemptRecord] = ()
    #: What is told of each attempt beside the reason for its account.
    because: str = ""
    #: Whether it came to nothing because of quota or capacity alone.
    spent: bool = attrs.field(init=False, default=False)
    #: Those that have ended, in order.
    records: list[AttemptRecord] = attrs.field(init=False, factory=list)
    #: Accounts that this request does not ask again, though others may.
    _given_up: frozenset[str] = attrs.field(init=False, default=frozenset())
    _refreshed: frozenset[str] = attrs.field(init=False, default=frozenset())
    #: What was last shown for each account: others may have been given something newer by the time it is refused.
    _presented: dict[str, Sequence[tuple[bytes, bytes]]] = attrs.field(init=False, factory=dict)
    _waited: frozenset[str] = attrs.field(init=False, default=frozenset())
    _without_user_project: frozenset[str] = attrs.field(init=False, default=frozenset())
    _capacity: int = attrs.field(init=False, default=0)
    #: Seconds that this request has spent in the queue for an account.
    _lined_up: float = attrs.field(init=False, default=0.0)
    #: What makes a date of the reactor's time: the same for all attempts, though the clock be set between them.
    _epoch: float | None = attrs.field(init=False, default=None)

    async def open(self) -> OpenAnswer | FinalAnswer:
        """
        Return the first good answer, or the last error.

        :raises GatewayError: if no account can serve, or the last attempt brought no answer at all.
        """
        most = self.context.config.pool.max_attempts
        route: Route | None = await self._first()
        last: Failed | None = None
        number = 0
        try:
            while route is not None:
                number += 1
                outcome = await self._attempt(number, route)
                if isinstance(outcome, OpenAnswer):
                    route = None  # its lease is the answer's now
                    if self.keep is not None:
                        outcome.added = self.keep.lines
                    return outcome
                last = outcome
                if last.final or last.verdict.fault in ABOUT_THE_REQUEST or number >= most:
                    self._consequence(route, last)
                    break
                route = await self._next(route, last)
        finally:
            if route is not None:
                route.lease.release()
        assert last is not None, "there was a first route"
        self.spent = not last.final and last.verdict.fault in SPENT
        return self._last_word(last)

    # Choosing

    def candidates(self) -> tuple[Candidates, list[Exclusion]]:
        """
        Return the accounts that may serve the next attempt, and why each of the others may not.

        :raises HookFailed: if a plugin's filter fails.
        """
        accounts, refused = self.routing.eligible(self._given_up)
        return accounts, self.routing.exclusions(refused, self._given_up)

    def wait_in_line(self) -> float | None:
        """
        For a request without a candidate: seconds after which one may come, 0 for at any moment, if it would wait for
        that; None if it would be refused at once.
        """
        now: float = self.context.reactor.seconds()
        until = now + self.context.config.pool.max_wait - self._lined_up
        return self.routing.soonest(self._given_up) if self._worth_waiting(until) else None

    def select(self, accounts: Sequence[Account]) -> AccountChoice:
        """Choose one of `accounts`, which are not empty."""
        return self.routing.select(accounts)

    def _take(self) -> Route | None:
        """Lease an account that may serve now; None if there is none."""
        accounts, _ = self.routing.eligible(self._given_up)
        if not accounts:
            return None
        choice, request = self.routing.select(accounts), self.request
        lease = self.context.pool.lease(choice.account, request.model, request.method, request.version)
        return self._along(lease, choice.reason) or Route.of(lease, 0, choice.reason)

    @staticmethod
    def _along(lease: Lease, reason: str) -> Route | None:
        """Return the next endpoint of an account that is leased already; None if there is no other."""
        endpoint = lease.next_endpoint()
        return None if endpoint is None else Route.of(lease, endpoint, reason)

    async def _first(self) -> Route:
        """Return the first route, after a wait if it must be; raises if there is none."""
        request, pool = self.request, self.context.pool
        pool.wake(request.model)  # those who wait go first
        route = self._take() or await self._line_up()
        if route is None:
            _, exclusions = self.candidates()
            self.spent = any(exclusion.cause in NONE_LEFT for exclusion in exclusions)
            raise self.context.nothing_left(request, exclusions)
        return route

    async def _next(self, route: Route, failure: Failed) -> Route | None:
        """Choose the route of the next attempt after `failure`, and apply its consequence to the account."""
        account, verdict = route.account, failure.verdict
        match verdict.fault:
            case Fault.CREDENTIAL if account.name not in self._refreshed and account.name in self.context.credentials:
                self._refreshed |= {account.name}
                self.context.credentials[account.name].mark_rejected(self._presented.get(account.name))
                return attrs.evolve(route, reason="again, with a fresh credential")
            case Fault.RATE if (
                verdict.delay is not None and verdict.delay <= SHORT_DELAY and account.name not in self._waited
            ):
                self._waited |= {account.name}
                await self._pause(verdict.delay)
                return attrs.evolve(route, reason="retry after the short delay that was asked for")
            case fault if fault in _PERHAPS_THE_PROJECT and (again := self._otherwise(account, failure)):
                return attrs.evolve(route, reason=again)
            case Fault.ENDPOINT if failure.trouble is not None:
                other_endpoint = self._along(route.lease, "the next endpoint of the same account")
                if other_endpoint is not None:
                    return other_endpoint
        self._consequence(route, failure)
        if verdict.fault is Fault.CAPACITY:
            self._capacity += 1
            if self._capacity > 1:
                route.lease.release()
                return None
        if verdict.fault is not Fault.QUOTA and not (verdict.fault is Fault.RATE and _long(verdict)):
            self._given_up |= {account.name}  # the others are cooling down now, and may be asked when that is over
        other = self._take()
        if other is None and failure.trouble is not None and failure.status is not None:
            # nobody else is there, and the upstream says that it did not answer this one
            await self._pause(SAME_ACCOUNT_PAUSE)
            route.lease.start_over()
            other = self._along(route.lease, "again, because there is no other account")
            if other is not None:
                return other
        route.lease.release()
        return other or await self._line_up()

    def _otherwise(self, account: Account, failure: Failed) -> str | None:
        """Explain why a Code Assist account that refused may still serve, with another project; None if not."""
        if account.kind != "code-assist" or failure.verdict.reason == "VALIDATION_REQUIRED":
            return None
        if failure.status == 403 and failure.user_project:
            self._without_user_project |= {account.name}
            return "again, without x-goog-user-project"
        if failure.status in (403, 404) and self.context.code_assist.forget_project(account):
            return "again, after asking for its project anew"
        return None

    def _consequence(self, route: Route, failure: Failed) -> None:
        """Tell the pool what a failure means for the account; where it does not tell, the gateway may ask itself."""
        pool, account, request, verdict = self.context.pool, route.account, self.request, failure.verdict
        pool.failed(account, request.model, verdict, route.lease)
        if verdict.fault in _TOLD:
            log.warn(
                "{request_id}: account {account} is {what}: {reason}. {message} Fix: {fix}.",
                request_id=request.id,
                account=account.name,
                what=_TOLD[verdict.fault].format(model=request.model),
                reason=verdict.reason,
                message=verdict.message,
                fix=remedy(account, verdict.fault, verdict.reason) or "see the message",
            )
        if (
            verdict.fault is Fault.UNCLEAR
            and failure.status in (400, 403, 404)
            and pool.doubt(account, request.model, _conversation(request), route.lease)
        ):
            self.context.checks.ask_account(self.context, account, request.model, failure.status)

    async def _pause(self, seconds: float) -> None:
        await deferLater(self.context.reactor, seconds)

    async def _line_up(self) -> Route | None:
        """
        Wait for an account until it is this request's turn; None as soon as it is clear that none comes in time.

        In all a request waits for no longer than ``[pool] max_wait``.
        """
        request, pool, reactor = self.request, self.context.pool, self.context.reactor
        began: float = reactor.seconds()
        until = began + self.context.config.pool.max_wait - self._lined_up
        if not self._worth_waiting(until):
            return None
        done: Deferred[Route | None] = Deferred()
        timer: IDelayedCall | None = None

        def try_acquire() -> bool:
            if not done.called:
                try:
                    route = self._take()
                except Exception:
                    done.errback(Failure())
                    return True
                if route is None and self._worth_waiting(until):
                    return False
                done.callback(route)
            return True

        def look() -> None:
            nonlocal timer
            timer = None
            pool.wake(request.model, news=True)
            if not done.called:
                timer = reactor.callLater(self._next_look(until), look)

        share = Share(request.client_key, request.weight, is_batch(request.method))
        waiter = pool.wait(request.model, request.method, try_acquire, request.version, share)
        timer = reactor.callLater(self._next_look(until), look)
        try:
            return await done
        finally:
            waiter.leave()
            if timer is not None and timer.active():
                timer.cancel()
            self._lined_up += reactor.seconds() - began

    def _worth_waiting(self, until: float) -> bool:
        now = self.context.reactor.seconds()
        soonest = self.routing.soonest(self._given_up)
        return soonest is not None and now < until and now + soonest <= until

    def _next_look(self, until: float) -> float:
        """Seconds until a cooldown is over or the patience is; what comes free earlier is offered."""
        left: float = max(until - self.context.reactor.seconds(), 0.0)
        soonest = self.routing.soonest(self._given_up)
        return min(max(soonest, 0.001), left) if soonest else left

    # Sending

    async def try_once(self, route: Route, *, patience: float) -> OpenAnswer | Failed:
        """
        Send it along one route and no other, for a question of the gateway's own.

        :param patience: seconds to wait for the first byte.
        """
        return await self._attempt(1, route, patience)

    async def _attempt(self, number: int, route: Route, patience: float | None = None) -> OpenAnswer | Failed:
        """One try: lease, wrap, send, and wait for the first byte."""
        context, wrapping, request, account = self.context, self.wrapping, self.request, route.account
        began: float = context.reactor.seconds()
        if self._epoch is None:
            self._epoch = context.wall() - began
        within = patience or first_byte_within(request.headers, context.config.timeouts)
        answer: UpstreamAnswer | None = None
        outcome: OpenAnswer | Failed | None = None
        try:
            located = account if account.project is not None else await context.code_assist.with_project(account)
            wrapped = wrapping.wrap(located)
            bare = account.name in self._without_user_project
            credential = context.code_assist.headers(account, await self._credential(account), without=bare)
            if wrapped.bearer:
                credential = _as_bearer(credential)
            answer = await context.client.send(
                wrapped.method,
                route.url + wrapped.path,
                (*wrapped.headers, *credential),
                wrapped.content,
                timeout=within,
                network=account.network,
            )
            left = max(within - (context.reactor.seconds() - began), 0.0)
            if not wrapping.is_good(answer.status):
                outcome = await self._refusal(answer, located, left)
            else:
                outcome = wrapping.at_head(answer, route.lease) or await self._first_bytes(
                    answer, wrapped, located, route.lease, left
                )
            if isinstance(outcome, Failed):
                outcome = attrs.evolve(outcome, user_project=any(n == b"x-goog-user-project" for n, _ in credential))
            elif bare:
                context.code_assist.works_without_user_project(account)
        except (UpstreamFailed, CredentialError, Refused, NotTold, NoProject) as e:
            outcome = self._not_answered(e, route)
        finally:
            failure = outcome if isinstance(outcome, Failed) else None
            record = record_attempt(
                context,
                request,
                route.lease,
                number=len(self.before) + number,
                endpoint=route.url,
                chosen=route.reason + self.because,
                started=began + self._epoch,
                seconds=context.reactor.seconds() - began,
                good=isinstance(outcome, OpenAnswer),
                status=None if answer is None else answer.status,
                verdict=failure.verdict if failure else None,
                message=failure.message if failure else "",
            )
            self.records.append(record)
            context.code_assist.attempted(account, record.status)
            if failure is not None and failure.verdict.fault not in ABOUT_THE_REQUEST:
                context.last_failures[account.name] = LastFailure(record, context.reactor.seconds())
        if failure is None:
            context.pool.endpoint_answered(route.url, request.model, good=True)
            context.pool.succeeded(account, request.model, route.lease)
            return outcome
        if failure.trouble is not None:
            if context.pool.endpoint_failed(route.url, request.model, failure.trouble, route.lease):
                context.checks.ask_endpoint(context, account, route.url)
        elif failure.status is not None:
            context.pool.endpoint_answered(route.url, request.model, good=True)
        log.info(
            "{request_id}: attempt {number} failed: {reason} ({about}), {message}",
            request_id=request.id,
            number=number,
            reason=failure.verdict.reason,
            about=failure.verdict.fault.value,
            message=failure.message,
        )
        return failure

    def _not_answered(
        self, error: UpstreamFailed | CredentialError | Refused | NotTold | NoProject, route: Route
    ) -> Failed:
        """Say what an attempt without an answer means: the upstream gave none, or the account could not ask."""
        account = route.account
        match error:
            case UpstreamFailed():
                return _unanswered(error)
            case CredentialError():
                if error.permanent:
                    self.context.pool.disable(account, error.reason, route.lease)
                return Failed(Verdict(Fault.ENDPOINT, "CREDENTIAL_UNAVAILABLE"), None, b"", error.reason)
            case Refused():  # a question of the gateway's own: no client's request can be to blame
                refused = self.classify(error.status, error.body, error.retry_after, account)
                if refused.verdict.fault in (*ABOUT_THE_REQUEST, Fault.UNCLEAR):
                    refused = attrs.evolve(refused, verdict=attrs.evolve(refused.verdict, fault=Fault.BLOCKED))
                return refused
            case NotTold():
                return Failed(Verdict(Fault.ENDPOINT, error.reason), None, b"", str(error))
            case NoProject():
                self.context.pool.disable(account, error.reason, route.lease)
                return Failed(Verdict(Fault.FORBIDDEN, "NO_PROJECT"), None, b"", error.reason)

    async def _credential(self, account: Account) -> Sequence[tuple[bytes, bytes]]:
        credential = self.context.credentials.get(account.name)
        if credential is None:
            raise CredentialError("the account was taken out of the configuration")
        headers = self._presented[account.name] = await credential.headers()
        return headers

    async def _first_bytes(
        self, answer: UpstreamAnswer, wrapped: UpstreamRequest, account: Account, lease: Lease, timeout: float
    ) -> OpenAnswer | Failed:
        """Wait until an answer shows what it is."""
        limits, deadlines = self.context.config.timeouts, self.context.deadlines
        passing = self.wrapping.filter(wrapped)
        if self.keep is not None:
            passing = KeptAnswer(passing, self.keep.most)
        within = first_byte_within(self.request.headers, limits)
        silent = limits.idle + timeout if within > limits.first_byte else limits.idle  # who asked for it may wait
        flow = UpstreamBody(passing, deadlines, limits.idle, self.wrapping.watch(), first=silent)
        answer.deliver(flow)
        timed_out = False
        if not flow.has_bytes and not flow.ended:

            def expire() -> None:
                nonlocal timed_out
                timed_out = True
                flow.abort("the first byte did not come in time")

            timer = deadlines.after(timeout, expire)
            try:
                await flow.first()
            except CancelledError:
                flow.abort("cancelled")
                raise
            finally:
                timer.cancel()
        if timed_out:
            message = "the upstream did not begin its answer in time"
            verdict = Verdict(Fault.ENDPOINT, "FIRST_BYTE_TIMEOUT")
            return Failed(verdict, 504, b"", message, final=True, trouble=Trouble.ODD)
        if flow.has_bytes or passing.complete:
            return self.wrapping.open(answer, flow, account, lease)
        if passing.failure is not None:
            if passing.failure.own is not None:
                raise passing.failure.own
            failure = passing.failure
            if failure.foreign:
                return Failed.foreign(failure.message)
            said = failure.document if failure.original is None else failure.original
            return self.classify(failure.code, said, answer.header("retry-after"), account)
        if flow.broken is not None:
            verdict = Verdict(Fault.ENDPOINT, "CONNECTION_LOST")
            return Failed(verdict, None, b"", flow.broken, final=True, trouble=Trouble.ODD)
        if flow.received and wrapped.framing is Framing.SSE:
            return Failed.foreign("there is no event in the upstream's answer")
        verdict = Verdict(Fault.ENDPOINT, "EMPTY_ANSWER")
        return Failed(verdict, 502, b"", "the upstream's answer is empty", trouble=Trouble.STATED)

    async def _refusal(self, answer: UpstreamAnswer, account: Account, timeout: float) -> Failed:
        """Read an error, and classify it."""
        reading = answer.read(MAX_ERROR)
        reading.addTimeout(min(timeout, self.context.config.timeouts.idle), self.context.reactor)
        try:
            body = await reading
            if answer.header("content-encoding") in ("gzip", "x-gzip"):  # unasked, by something on the way
                body = inflate(body, MAX_ERROR)
        except CancelledError:
            answer.abort()
            raise
        except Exception:  # the timeout, or what cannot be read: what the status says is enough
            body = b""
        return self.classify(answer.status, body, answer.header("retry-after"), account)

    def classify(self, status: int, body: bytes, retry_after: str | None, account: Account) -> Failed:
        """Say what an upstream's error means, and note what it says of whose resources are."""
        context = self.context
        headers: Mapping[str, str] = {} if retry_after is None else {"retry-after": retry_after}
        verdict = (
            context.hooks.classify_error(status, body, headers, account, self.request)
            if status >= 400
            else Verdict(Fault.ENDPOINT, f"HTTP_{status}")
        )
        foreign = status >= 400 and not context.hooks.is_own(verdict)
        if verdict.message or verdict.link:  # they are kept and shown
            redact = context.redactor.text
            link = None if verdict.link is None else redact(verdict.link)
            verdict = attrs.evolve(verdict, message=redact(verdict.message), link=link)
        trouble = None
        if verdict.fault is Fault.ENDPOINT:
            trouble = Trouble.ODD if envelope.error_document(body) is None else Trouble.STATED
        message = f"the upstream answered {status}"
        told = verdict.message if foreign else ""
        if not told and account.upstream.read_error is not None:  # whose own form no client can read
            told = f"The upstream answered {status}."
        failure = self.wrapping.judge(Failed(verdict, status, body, message, stated=True, trouble=trouble, told=told))
        if failure.verdict.fault is Fault.MISSING:
            self.routing.missing(account, body)
        return failure

    # What can be sent once only

    async def lease_route(self) -> tuple[Route, Sequence[tuple[bytes, bytes]]]:
        """
        Lease an account for what can be sent only once: its route, and the headers with its credential.

        Its lease is the caller's to release; :meth:`judge` says what a failure means.

        :raises GatewayError: if there is no account.
        :raises CredentialError: if it has no credential; the lease is released.
        """
        route = await self._first()
        try:
            return route, await self._credential(route.account)
        except BaseException:
            route.lease.release()
            raise

    def judge(self, lease: Lease, status: int, body: bytes, retry_after: str | None) -> tuple[Verdict, FinalAnswer]:
        """
        Say what the failure of a request means that was sent by :meth:`lease_route`, and what the client gets.

        What follows for the account is drawn; nothing is sent again.
        """
        account = lease.account
        failure = self.classify(status, body, retry_after, account)
        credential = self.context.credentials.get(account.name)
        if failure.verdict.fault is Fault.CREDENTIAL and credential is not None and credential.refreshable:
            credential.mark_rejected(self._presented.get(account.name))  # the next request shows a fresh one
        else:
            self.context.pool.failed(account, self.request.model, failure.verdict, lease)
        return failure.verdict, self._last_word(failure)

    # Giving up

    def _last_word(self, last: Failed) -> FinalAnswer:
        """The answer when nothing is left to try."""
        status = last.status
        if status is None or status < 400 or not last.stated:
            raise self._own_error(last)
        body = envelope.error_document(last.body)
        if last.told:
            body = status_body(status, last.told, details=(error_info(last.verdict.reason),))
        elif body is None:
            what = "something that is not an error of Google's" if last.body else "an error without a body"
            body = status_body(status, f"The upstream answered {status} with {what}.")
        else:
            body = msgspec.json.format(body, indent=2) + b"\n"
        body = self.context.redactor.body(body)  # an upstream may repeat what it was shown
        headers: list[tuple[bytes, bytes]] = []
        if status in (429, 503):
            wait = self.routing.recovery(last.verdict, self._given_up)
            request = self.request
            away = self.context.pool.excluded(request.model, request.method, request.version)
            body = with_retry_info(body, wait, self.context.returns(away).rstrip())
            headers.append((b"Retry-After", b"%d" % max(1, -int(-wait // 1))))
        return FinalAnswer(status, tuple(headers), body)

    def _own_error(self, last: Failed) -> GatewayError:
        message = f"{last.message[:1].upper()}{last.message[1:]}."
        if last.verdict.reason in ("CONNECT_TIMEOUT", "FIRST_BYTE_TIMEOUT"):
            return UpstreamTimeout(message, reason=last.verdict.reason)
        if last.verdict.reason in ("CREDENTIAL_UNAVAILABLE", "NO_PROJECT"):
            return Unavailable(
                message, reason=last.verdict.reason, retry_after=self.routing.recovery(last.verdict, self._given_up)
            )
        return BadUpstreamAnswer(message, reason=last.verdict.reason)


#: Faults for which a Code Assist account may have to be asked with another project, or without one.
_PERHAPS_THE_PROJECT = frozenset({Fault.FORBIDDEN, Fault.NO_MODEL, Fault.BLOCKED, Fault.UNCLEAR})


#: What is told of an account for whom somebody may have to do something.
_TOLD = {
    Fault.CREDENTIAL: "disabled, needs manual action",
    Fault.LOCKED: "disabled, needs manual action",
    Fault.BLOCKED: "set aside for all models, retried later",
    Fault.FORBIDDEN: "set aside for {model}, retried later",
}


def _conversation(request: GatewayRequest) -> str:
    """Return the key of a request's conversation; a request without one is its own."""
    return request.body.fingerprint or request.id


def _long(verdict: Verdict) -> bool:
    """Return whether the pool makes the account cool down for it."""
    return verdict.delay is None or verdict.delay > SHORT_DELAY


def _unanswered(error: UpstreamFailed) -> Failed:
    """
    Classify a missing answer.

    A request that an upstream has got may have been acted on, and is not sent a second time.  A kept-alive connection
    that turned out to be closed is no such case: the client has sent it on a new one already.
    """
    if error.reason in _UNREACHED:
        return Failed(Verdict(Fault.ENDPOINT, error.reason), None, b"", str(error), trouble=Trouble.UNREACHED)
    status = 504 if error.reason == "FIRST_BYTE_TIMEOUT" else None
    final = error.reason != "PROTOCOL_ERROR"  # what does not speak HTTP has not served anything
    return Failed(Verdict(Fault.ENDPOINT, error.reason), status, b"", str(error), final=final, trouble=Trouble.ODD)


def _as_bearer(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Credential headers with an API key as a bearer token."""
    return [
        (b"Authorization", b"Bearer " + value) if name.lower() == b"x-goog-api-key" else (name, value)
        for name, value in headers
    ]

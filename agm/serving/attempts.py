"""
A request's whole way, a line a step: map the model → build → lease an account → wrap → send → first byte.

:func:`open_answer` ends with an answer whose first bytes are there, on an account that is leased until
:meth:`OpenAnswer.close`; until then nothing has gone to the client, so everything can still be tried elsewhere.  What
comes after, the relay, is the web's (:mod:`agm.web.relay`).  No Twisted request and no socket is seen here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from agm.config import TimeoutsConfig
from agm.core.classify import ABOUT_THE_REQUEST, SHORT_DELAY, Fault, Verdict
from agm.core.errors import BadUpstreamAnswer, GatewayError, Unavailable, UpstreamTimeout, status_body, with_retry_info
from agm.core.pool.breaker import Trouble
from agm.core.pool.candidates import Candidates
from agm.core.pool.exclusions import Cause, Exclusion, earliest, nothing_left
from agm.core.pool.lease import Lease
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
from agm.core.wire.answer_filters import (
    AnswerFilter,
    CollectedBody,
    EventPipe,
    Framing,
    PlainArray,
    PlainBody,
    PlainDocument,
    PlainEvents,
    Transform,
    plain_event,
)
from agm.core.wire.gzip import inflate
from agm.core.wire.usage import KeepingWatch, UsageWatch
from agm.plugins.hooks import HookFailed
from agm.upstream.client import UpstreamAnswer, UpstreamBody, UpstreamFailed
from agm.upstream.codeassist import NoProject, NotTold, Refused
from agm.upstream.credentials.credential import CredentialError

if TYPE_CHECKING:
    from agm.serving.gateway import Gateway

#: An error's body is read up to this many bytes.
MAX_ERROR = 1024 * 1024
#: A unary answer that has to be read whole is refused beyond this many bytes.
MAX_COLLECTED = 256 * 1024 * 1024
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


@attrs.frozen
class FinalAnswer:
    """An answer that is complete in memory: an error of the upstream's that goes to the client."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@attrs.define(eq=False)
class OpenAnswer:
    """A good answer whose first bytes have come.  :meth:`close` gives its account back."""

    answer: UpstreamAnswer
    body: UpstreamBody
    account: Account
    framing: Framing
    #: Whether the body passes byte for byte, so that the upstream's Content-Length holds.
    plain: bool
    _lease: Lease
    _closed: bool = attrs.field(init=False, default=False)

    def close(self) -> None:
        """Give the account back, and the connection if it is still in use.  Only the first call counts."""
        if not self._closed:
            self._closed = True
            self._lease.release()
            self.body.abort("the answer is no longer wanted")


@attrs.frozen(eq=False, slots=False)
class Route:
    """Where an attempt goes, and why: a leased account and the number of its endpoint."""

    lease: Lease
    account: Account
    url: str
    reason: str

    @classmethod
    def of(cls, lease: Lease, endpoint: int, reason: str) -> Route:
        """The route to an endpoint of a lease's account, by its number."""
        account = lease.account
        return cls(lease, account, account.endpoints[endpoint], reason)


@attrs.frozen
class Failed:
    """An attempt that gave nothing: what it meant, and what the client would get if it was the last."""

    verdict: Verdict
    status: int | None
    body: bytes
    message: str
    #: The status is what the upstream said, rather than what we make of it.
    stated: bool = False
    #: The upstream may have acted on the request, or may be working on it still: it must not be sent again.
    final: bool = False
    #: What it says about the endpoint; None for nothing.
    trouble: Trouble | None = None
    #: It was sent with ``x-goog-user-project``.
    user_project: bool = False


#: Failures of :class:`UpstreamFailed` after which nothing of the request can have got anywhere.
_UNREACHED = frozenset({"CONNECT_FAILED", "CONNECT_TIMEOUT", "DNS_FAILED", "PROXY_FAILED", "TLS_FAILED"})


@attrs.define(eq=False)
class Attempts:
    """The attempts of one request, and their records."""

    gateway: Gateway
    request: GatewayRequest
    #: The client's body after all plugins' edits.
    body: bytes
    #: The model that serves, and why.
    mapped: ModelChoice
    records: list[AttemptRecord] = attrs.Factory(list)
    #: Accounts that this request does not ask again, though others may.
    _given_up: frozenset[str] = frozenset()
    _refreshed: frozenset[str] = frozenset()
    #: What was last shown for each account: others may have been given something newer by the time it is refused.
    _presented: dict[str, Sequence[tuple[bytes, bytes]]] = attrs.Factory(dict)
    _waited: frozenset[str] = frozenset()
    _without_user_project: frozenset[str] = frozenset()
    _capacity: int = 0
    #: Seconds that this request has spent in the line for an account.
    _lined_up: float = 0.0
    #: What makes a date of the reactor's time: the same for all attempts, though the clock be set between them.
    _epoch: float | None = None

    async def open(self) -> OpenAnswer | FinalAnswer:
        """
        The first good answer, or the last error.

        :raises GatewayError: if no account can serve, or the last attempt brought no answer at all.
        """
        most = self.gateway.config.pool.max_attempts
        route: Route | None = await self._first()
        last: Failed | None = None
        number = 0
        try:
            while route is not None:
                number += 1
                outcome = await self._attempt(number, route)
                if isinstance(outcome, OpenAnswer):
                    route = None  # its lease is the answer's now
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
        return self._last_word(last)

    # Choosing

    def candidates(self) -> tuple[Candidates, list[Exclusion]]:
        """
        The accounts that may serve the next attempt, and why each of the others may not.

        :raises HookFailed: if a plugin's filter fails.
        """
        accounts, refused = self._eligible()
        return accounts, self._exclusions(refused)

    def _eligible(self) -> tuple[Candidates, Mapping[str, str]]:
        """The accounts that may serve, and those that plugins have taken away, with their reasons."""
        request, pool = self.request, self.gateway.pool
        accounts = pool.candidates(request.model, request.method, self._given_up, request.version)
        refused: Mapping[str, str] = {}
        if accounts:
            refused = self.gateway.hooks.filter_accounts(accounts, request)
            if refused:
                without = {*self._given_up, *refused}
                accounts = pool.candidates(request.model, request.method, without, request.version)
        return accounts, refused

    def _exclusions(self, refused: Mapping[str, str]) -> list[Exclusion]:
        request, pool = self.request, self.gateway.pool
        exclusions = pool.excluded(request.model, request.method, request.version)
        if refused:
            ready = pool.candidates(request.model, request.method, self._given_up, request.version)
            exclusions += [Exclusion(a, Cause.PLUGIN, refused[a.name]) for a in ready if a.name in refused]
        return exclusions

    def wait_in_line(self) -> float | None:
        """
        For a request without a candidate: seconds after which one may come, 0 for at any moment, if it would wait for
        that; None if it would be refused at once.
        """
        now: float = self.gateway.reactor.seconds()
        until = now + self.gateway.config.pool.max_wait - self._lined_up
        return self._soonest() if self._worth_waiting(until) else None

    def select(self, accounts: Sequence[Account]) -> AccountChoice:
        """One of `accounts`, which are not empty."""
        return self.gateway.hooks.select_account(accounts, self.request, self.gateway.pool.loads())

    def _take(self) -> Route | None:
        """Lease an account that may serve now; None if there is none."""
        accounts, _ = self._eligible()
        if not accounts:
            return None
        choice, request = self.select(accounts), self.request
        lease = self.gateway.pool.lease(choice.account, request.model, request.method, request.version)
        return self._along(lease, choice.reason) or Route.of(lease, 0, choice.reason)

    @staticmethod
    def _along(lease: Lease, reason: str) -> Route | None:
        """The next endpoint of an account that is leased already; None if there is no other."""
        endpoint = lease.next_endpoint()
        return None if endpoint is None else Route.of(lease, endpoint, reason)

    async def _first(self) -> Route:
        """The first route, after a wait if it must be; raises if there is none."""
        request, pool = self.request, self.gateway.pool
        pool.wake(request.model)  # those who have waited longer go first
        route = self._take() or await self._line_up()
        if route is None:
            _, exclusions = self.candidates()
            raise nothing_left(request.model, request.method, request.version, exclusions)
        return route

    async def _next(self, route: Route, failure: Failed) -> Route | None:
        """Where the next attempt goes after `failure`; draws the failure's consequence for the account."""
        account, verdict = route.account, failure.verdict
        match verdict.fault:
            case Fault.CREDENTIAL if account.name not in self._refreshed and account.name in self.gateway.credentials:
                self._refreshed |= {account.name}
                self.gateway.credentials[account.name].mark_rejected(self._presented.get(account.name))
                return attrs.evolve(route, reason="again, with a fresh credential")
            case Fault.RATE if (
                verdict.delay is not None and verdict.delay <= SHORT_DELAY and account.name not in self._waited
            ):
                self._waited |= {account.name}
                await self._pause(verdict.delay)
                return attrs.evolve(route, reason="again, after the short wait that was asked for")
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
            self._given_up |= {account.name}  # the others are resting now, and may be asked when that is over
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
        """Why a Code Assist account that refused may serve yet, with another project; None if it will not."""
        if account.kind != "code-assist" or failure.verdict.reason == "VALIDATION_REQUIRED":
            return None
        if failure.status == 403 and failure.user_project:
            self._without_user_project |= {account.name}
            return "again, without x-goog-user-project"
        if failure.status in (403, 404) and self.gateway.code_assist.forget_project(account):
            return "again, after asking for its project anew"
        return None

    def _consequence(self, route: Route, failure: Failed) -> None:
        """Tell the pool what a failure means for the account; where it does not tell, the gateway may ask itself."""
        pool, account, request, verdict = self.gateway.pool, route.account, self.request, failure.verdict
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
            self.gateway.checks.ask_account(account, request.model, failure.status)

    async def _pause(self, seconds: float) -> None:
        await deferLater(self.gateway.reactor, seconds)

    async def _line_up(self) -> Route | None:
        """
        Wait for an account behind those who came earlier; None as soon as it is clear that none comes in time.

        In all a request waits for no longer than ``[pool] max_wait``.
        """
        request, pool, reactor = self.request, self.gateway.pool, self.gateway.reactor
        began: float = reactor.seconds()
        until = began + self.gateway.config.pool.max_wait - self._lined_up
        if not self._worth_waiting(until):
            return None
        done: Deferred[Route | None] = Deferred()
        timer: IDelayedCall | None = None

        def offer() -> bool:
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

        ticket = pool.wait(request.model, request.method, offer, request.version)
        timer = reactor.callLater(self._next_look(until), look)
        try:
            return await done
        finally:
            ticket.leave()
            if timer is not None and timer.active():
                timer.cancel()
            self._lined_up += reactor.seconds() - began

    def _worth_waiting(self, until: float) -> bool:
        now = self.gateway.reactor.seconds()
        soonest = self._soonest()
        return soonest is not None and now < until and now + soonest <= until

    def _next_look(self, until: float) -> float:
        """Seconds until a rest is over or the patience is; what comes free earlier is offered."""
        left: float = max(until - self.gateway.reactor.seconds(), 0.0)
        soonest = self._soonest()
        return min(max(soonest, 0.001), left) if soonest else left

    def _soonest(self) -> float | None:
        """Seconds until an account may be free for this; None if that takes a person."""
        request = self.request
        return self.gateway.pool.soonest(request.model, request.method, self._given_up, request.version)

    # Sending

    async def try_once(self, route: Route, *, patience: float) -> OpenAnswer | Failed:
        """
        Send it along one route and no other, for a question of the gateway's own.

        :param patience: seconds to wait for the first byte.
        """
        return await self._attempt(1, route, patience)

    async def _attempt(self, number: int, route: Route, patience: float | None = None) -> OpenAnswer | Failed:
        """One try: lease, wrap, send, and wait for the first byte."""
        gateway, request, account = self.gateway, self.request, route.account
        began: float = gateway.reactor.seconds()
        if self._epoch is None:
            self._epoch = gateway.wall() - began
        within = patience or first_byte_within(request.headers, gateway.config.timeouts)
        answer: UpstreamAnswer | None = None
        outcome: OpenAnswer | Failed | None = None
        try:
            located = account if account.project is not None else await gateway.code_assist.with_project(account)
            wrapped = self._wrapped(located)
            bare = account.name in self._without_user_project
            credential = gateway.code_assist.headers(account, await self._credential(account), without=bare)
            answer = await gateway.client.send(
                wrapped.method,
                route.url + wrapped.path,
                (*wrapped.headers, *credential),
                wrapped.content,
                timeout=within,
                network=account.network,
            )
            left = max(within - (gateway.reactor.seconds() - began), 0.0)
            outcome = await self._first_bytes(answer, wrapped, located, route.lease, left)
            if isinstance(outcome, Failed):
                outcome = attrs.evolve(outcome, user_project=any(n == b"x-goog-user-project" for n, _ in credential))
            elif bare:
                gateway.code_assist.works_without_user_project(account)
        except UpstreamFailed as e:
            outcome = _unanswered(e)
        except CredentialError as e:
            if e.permanent:
                gateway.pool.disable(account, e.reason, route.lease)
            outcome = Failed(Verdict(Fault.ENDPOINT, "CREDENTIAL_UNAVAILABLE"), None, b"", e.reason)
        except Refused as e:  # a question of the gateway's own: no client's request can be to blame
            outcome = self._classified(e.status, e.body, e.retry_after, account)
            if outcome.verdict.fault in (*ABOUT_THE_REQUEST, Fault.UNCLEAR):
                outcome = attrs.evolve(outcome, verdict=attrs.evolve(outcome.verdict, fault=Fault.BLOCKED))
        except NotTold as e:
            outcome = Failed(Verdict(Fault.ENDPOINT, e.reason), None, b"", str(e))
        except NoProject as e:
            gateway.pool.disable(account, e.reason, route.lease)
            outcome = Failed(Verdict(Fault.FORBIDDEN, "NO_PROJECT"), None, b"", e.reason)
        finally:
            ended = gateway.reactor.seconds() - began
            failure = outcome if isinstance(outcome, Failed) else None
            record = AttemptRecord(
                request_id=request.id,
                number=number,
                account=account.name,
                chosen=route.reason,
                endpoint=route.url,
                model=request.model,
                started=began + self._epoch,
                first_byte=ended if isinstance(outcome, OpenAnswer) else None,
                ended=ended,
                status=None if answer is None else answer.status,
                verdict=failure.verdict if failure else None,
                message=failure.message if failure else "",
                probe=route.lease.probe,
            )
            self.records.append(record)
            gateway.hooks.attempt_finished(record)
            gateway.code_assist.attempted(account, record.status)
            if failure is not None and failure.verdict.fault not in ABOUT_THE_REQUEST:
                gateway.last_failures[account.name] = LastFailure(record, gateway.reactor.seconds())
        if failure is None:
            gateway.pool.endpoint_answered(route.url, request.model, good=True)
            gateway.pool.succeeded(account, request.model, route.lease)
            return outcome
        if failure.trouble is not None:
            if gateway.pool.endpoint_failed(route.url, request.model, failure.trouble, route.lease):
                gateway.checks.ask_endpoint(account, route.url)
        elif failure.status is not None:
            gateway.pool.endpoint_answered(route.url, request.model, good=True)
        log.info(
            "{request_id}: attempt {number} failed: {reason} ({about}), {message}",
            request_id=request.id,
            number=number,
            reason=failure.verdict.reason,
            about=failure.verdict.fault.value,
            message=failure.message,
        )
        return failure

    def _wrapped(self, account: Account) -> UpstreamRequest:
        """The request for an account."""
        return self.gateway.hooks.wrap_request(self.request, account, self.body)

    async def _credential(self, account: Account) -> Sequence[tuple[bytes, bytes]]:
        credential = self.gateway.credentials.get(account.name)
        if credential is None:
            raise CredentialError("the account was taken out of the configuration")
        headers = self._presented[account.name] = await credential.headers()
        return headers

    async def _first_bytes(
        self, answer: UpstreamAnswer, wrapped: UpstreamRequest, account: Account, lease: Lease, timeout: float
    ) -> OpenAnswer | Failed:
        """Wait until an answer shows what it is."""
        reactor, limits = self.gateway.reactor, self.gateway.config.timeouts
        if not 200 <= answer.status < 300:
            reading = answer.read(MAX_ERROR)
            reading.addTimeout(min(timeout, limits.idle), reactor)
            try:
                body = await reading
                if answer.header("content-encoding") in ("gzip", "x-gzip"):  # unasked, by something on the way
                    body = inflate(body, MAX_ERROR)
            except CancelledError:
                answer.abort()
                raise
            except Exception:  # the timeout, or what cannot be read: what the status says is enough
                body = b""
            return self._classified(answer.status, body, answer.header("retry-after"), account)
        passing = self._filter(wrapped)
        method = self.request.method
        watch: UsageWatch | None = None
        if self.gateway.kept_answers:
            watch = KeepingWatch(self.gateway.kept_answers, embeds=method == "predict")
        elif method != "countTokens":  # it uses none
            watch = UsageWatch(embeds=method == "predict")
        within = first_byte_within(self.request.headers, limits)
        silent = limits.idle + timeout if within > limits.first_byte else limits.idle  # who asked for it may wait
        flow = UpstreamBody(passing, self.gateway.deadlines, limits.idle, watch, first=silent)
        answer.deliver(flow)
        timed_out = False
        if not flow.has_bytes and not flow.ended:

            def expire() -> None:
                nonlocal timed_out
                timed_out = True
                flow.abort("the first byte did not come in time")

            timer = self.gateway.deadlines.after(timeout, expire)
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
        if flow.has_bytes:
            return OpenAnswer(answer, flow, account, self.request.framing, isinstance(passing, PlainBody), lease)
        if passing.failure is not None:
            if passing.failure.own is not None:
                raise passing.failure.own
            failure = passing.failure
            if failure.foreign:
                return _foreign(failure.message)
            return self._classified(failure.code, failure.document, answer.header("retry-after"), account)
        if flow.broken is not None:
            verdict = Verdict(Fault.ENDPOINT, "CONNECTION_LOST")
            return Failed(verdict, None, b"", flow.broken, final=True, trouble=Trouble.ODD)
        if flow.received and wrapped.framing is Framing.SSE:
            return _foreign("there is no event in the upstream's answer")
        verdict = Verdict(Fault.ENDPOINT, "EMPTY_ANSWER")
        return Failed(verdict, 502, b"", "the upstream's answer is empty", trouble=Trouble.STATED)

    def _classified(self, status: int, body: bytes, retry_after: str | None, account: Account) -> Failed:
        headers: Mapping[str, str] = {} if retry_after is None else {"retry-after": retry_after}
        verdict = (
            self.gateway.hooks.classify_error(status, body, headers, account, self.request)
            if status >= 400
            else Verdict(Fault.ENDPOINT, f"HTTP_{status}")
        )
        if verdict.message or verdict.link:  # they are kept and shown
            redact = self.gateway.redactor.text
            link = None if verdict.link is None else redact(verdict.link)
            verdict = attrs.evolve(verdict, message=redact(verdict.message), link=link)
        trouble = None
        if verdict.fault is Fault.ENDPOINT:
            trouble = Trouble.ODD if envelope.error_document(body) is None else Trouble.STATED
        return Failed(verdict, status, body, f"the upstream answered {status}", stated=True, trouble=trouble)

    def _filter(self, wrapped: UpstreamRequest) -> AnswerFilter:
        """What the answer's body goes through."""
        gateway, framing = self.gateway, self.request.framing
        change: Transform = envelope.unwrap if wrapped.wrapped else plain_event
        if gateway.hooks.edits_events:
            change = self._edited(change)
        elif not wrapped.wrapped and wrapped.framing is framing:
            match framing:
                case Framing.UNARY:
                    return PlainDocument()
                case Framing.ARRAY:
                    return PlainArray(gateway.redactor.body)
                case Framing.SSE if gateway.config.gateway.sse_done == "forward":
                    return PlainEvents()
        if framing is Framing.UNARY:
            return CollectedBody(change, limit=MAX_COLLECTED)
        return EventPipe(change, framing, forward_done=gateway.config.gateway.sse_done == "forward")

    def _edited(self, cut: Transform) -> Transform:
        hooks, request = self.gateway.hooks, self.request

        def change(document: bytes) -> bytes:
            plain = cut(document)
            event = msgspec.json.decode(plain)
            if not isinstance(event, dict):
                return plain
            try:
                return msgspec.json.encode(hooks.transform_event(event, request))
            except HookFailed as e:
                raise GatewayError(f"{e}. The gateway's log says why.", reason="PLUGIN_FAILED") from e

        return change

    # Giving up

    def _last_word(self, last: Failed) -> FinalAnswer:
        """The answer when nothing is left to try."""
        status = last.status
        if status is None or status < 400 or not last.stated:
            raise self._own_error(last)
        body = envelope.error_document(last.body)
        if body is None:
            what = "something that is not an error of Google's" if last.body else "an error without a body"
            body = status_body(status, f"The upstream answered {status} with {what}.")
        else:
            body = msgspec.json.format(body, indent=2) + b"\n"
        body = self.gateway.redactor.body(body)  # an upstream may repeat what it was shown
        headers: list[tuple[bytes, bytes]] = []
        if status in (429, 503):
            wait = self._recovery(last)
            body = with_retry_info(body, wait)
            headers.append((b"Retry-After", b"%d" % max(1, -int(-wait // 1))))
        return FinalAnswer(status, tuple(headers), body)

    def _own_error(self, last: Failed) -> GatewayError:
        message = f"{last.message[:1].upper()}{last.message[1:]}."
        if last.verdict.reason in ("CONNECT_TIMEOUT", "FIRST_BYTE_TIMEOUT"):
            return UpstreamTimeout(message, reason=last.verdict.reason)
        if last.verdict.reason in ("CREDENTIAL_UNAVAILABLE", "NO_PROJECT"):
            return Unavailable(message, reason=last.verdict.reason, retry_after=self._recovery(last))
        return BadUpstreamAnswer(message, reason=last.verdict.reason)

    def _recovery(self, last: Failed) -> float:
        """Seconds until some account may serve this again."""
        pool, request = self.gateway.pool, self.request
        if pool.candidates(request.model, request.method, self._given_up, request.version):
            return 1.0
        soonest = earliest(pool.excluded(request.model, request.method, request.version))
        if soonest is not None:  # the pool may let an account rest for longer than its upstream said
            return soonest
        return 1.0 if last.verdict.delay is None else last.verdict.delay


#: Faults for which a Code Assist account may have to be asked with another project, or without one.
_PERHAPS_THE_PROJECT = frozenset({Fault.FORBIDDEN, Fault.NO_MODEL, Fault.BLOCKED, Fault.UNCLEAR})


#: What is told of an account for whom somebody may have to do something.
_TOLD = {
    Fault.CREDENTIAL: "off until somebody acts",
    Fault.LOCKED: "off until somebody acts",
    Fault.BLOCKED: "set aside for all models, and tried again in a while",
    Fault.FORBIDDEN: "set aside for {model}, and tried again in a while",
}


def _conversation(request: GatewayRequest) -> str:
    """What tells a request's conversation from others; a request without one is by itself."""
    return request.body.fingerprint or request.id


def _foreign(message: str) -> Failed:
    """An answer that says 200 and is none of Google's: somebody else has answered, and nothing was acted on."""
    message = message.rstrip(".")
    return Failed(
        Verdict(Fault.ENDPOINT, "NOT_AN_ANSWER"), 502, b"", message[:1].lower() + message[1:], trouble=Trouble.ODD
    )


def _long(verdict: Verdict) -> bool:
    """Whether the pool makes the account rest for it."""
    return verdict.delay is None or verdict.delay > SHORT_DELAY


def _unanswered(error: UpstreamFailed) -> Failed:
    """
    What it means that no answer came.

    A request that an upstream has got may have been acted on, and is not sent a second time.  A kept-alive connection
    that turned out to be closed is no such case: the client has sent it on a new one already.
    """
    if error.reason in _UNREACHED:
        return Failed(Verdict(Fault.ENDPOINT, error.reason), None, b"", str(error), trouble=Trouble.UNREACHED)
    status = 504 if error.reason == "FIRST_BYTE_TIMEOUT" else None
    final = error.reason != "PROTOCOL_ERROR"  # what does not speak HTTP has not served anything
    return Failed(Verdict(Fault.ENDPOINT, error.reason), status, b"", str(error), final=final, trouble=Trouble.ODD)

"""
Live sessions on accounts: which may hold one, what the first message looks like to each, and how an opening is judged.

To the attempts of a call an opening is a request as every other: :class:`SessionClient` sends the first message and
waits for the upstream's first, and what is closed before that is an answer with the status that says the same.  So
another account is tried by the same rules as ever, as long as nothing of the session has gone to the client.  A session
counts against its account's ``max_sessions`` and not against ``max_concurrency``: an hour of talk would starve calls.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed

from agm.core import live
from agm.core.classify import Verdict
from agm.core.client_keys import ClientKey
from agm.core.errors import TooManyRequests, status_body
from agm.core.live import LiveWatch
from agm.core.network import Network
from agm.core.pool.candidates import Candidates
from agm.core.pool.exclusions import Cause, Exclusion
from agm.core.pool.lease import Lease
from agm.core.request import Account, AccountChoice, GatewayRequest, UpstreamRequest
from agm.core.wire.answer_filters import AnswerFilter, Framing, PlainBody
from agm.core.wire.bytechain import ByteChain
from agm.core.wire.usage import GENERATE, INTERACTIONS, Names, UsageWatch
from agm.core.wire.websocket import Closing, Violation, frame
from agm.serving.affinity import AffinityRouting
from agm.serving.answers import Failed, OpenAnswer
from agm.serving.attempts import Attempts
from agm.serving.context import ServingContext
from agm.serving.prepare import PrepareCall
from agm.serving.routing import Routing
from agm.serving.wrapping import Wrapping
from agm.upstream.client import UpstreamAnswer, UpstreamBody, UpstreamFailed
from agm.upstream.websocket import FirstMessage, Refused, UpstreamSocket

#: Seconds for which a handle is pinned to its account: Vertex AI's are good for a day.
HANDLE_SECONDS = 86_400.0


class Sessions:
    """How many sessions each account holds, and each client key."""

    def __init__(self) -> None:
        self.of_accounts: Counter[str] = Counter()
        self.of_keys: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """All of them, as far as they have an account."""
        return self.of_accounts.total()

    def admit(self, key: ClientKey | None) -> Callable[[], None]:
        """
        Count a session of a client key; returns what counts it no more.

        :raises TooManyRequests: if the key has as many as it may.
        """
        if key is None:
            return lambda: None
        if key.max_sessions is not None and self.of_keys[key.name] >= key.max_sessions:
            raise TooManyRequests(
                f"This client key has max_sessions, {key.max_sessions}, open. Retry when one of them has ended.",
                reason="CLIENT_KEY_SESSIONS",
                retry_after=1.0,
            )
        return _counted(self.of_keys, key.name)

    def hold(self, account: Account) -> Callable[[], None]:
        """Count a session of an account; returns what counts it no more."""
        return _counted(self.of_accounts, account.name)

    def is_full(self, account: Account) -> bool:
        """Return whether an account holds as many as it may."""
        return account.max_sessions is not None and self.of_accounts[account.name] >= account.max_sessions


def _counted(counts: Counter[str], name: str) -> Callable[[], None]:
    counts[name] += 1
    counted = True

    def release() -> None:
        nonlocal counted
        if counted:
            counted = False
            counts[name] -= 1
            if not counts[name]:
                del counts[name]

    return release


@attrs.define(eq=False)
class SessionRouting:
    """Routes as `inner` does, but to no account that holds as many sessions as it may."""

    _context: ServingContext
    _inner: Routing
    _sessions: Sessions

    def _full(self) -> frozenset[str]:
        return frozenset(account.name for account in self._context.pool.accounts if self._sessions.is_full(account))

    def eligible(self, given_up: frozenset[str]) -> tuple[Candidates, Mapping[str, str]]:
        """See :class:`agm.serving.routing.Routing`."""
        return self._inner.eligible(given_up | self._full())

    def exclusions(self, refused: Mapping[str, str], given_up: frozenset[str]) -> list[Exclusion]:
        """See :class:`agm.serving.routing.Routing`."""
        full, known = self._full(), self._inner.exclusions(refused, given_up)
        excluded = {e.account.name for e in known}
        return [
            *known,
            *(
                Exclusion(a, Cause.BUSY, f"it holds max_sessions, {a.max_sessions}, sessions")
                for a in self._context.pool.accounts
                if a.name in full and a.name not in excluded
            ),
        ]

    def select(self, accounts: Sequence[Account]) -> AccountChoice:
        """See :class:`agm.serving.routing.Routing`."""
        return self._inner.select(accounts)

    def soonest(self, given_up: frozenset[str]) -> float | None:
        """See :class:`agm.serving.routing.Routing`; a session may last for an hour, and is not waited for."""
        return self._inner.soonest(given_up | self._full())

    def recovery(self, verdict: Verdict, given_up: frozenset[str]) -> float:
        """See :class:`agm.serving.routing.Routing`."""
        return self._inner.recovery(verdict, given_up)

    def missing(self, account: Account, body: bytes) -> None:
        """See :class:`agm.serving.routing.Routing`."""
        self._inner.missing(account, body)


class SocketAnswer:
    """What has come of an opening, in the place of an HTTP answer: good once the first message is here."""

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[bytes, bytes] | None = None,
        socket: UpstreamSocket | None = None,
        first: FirstMessage | None = None,
    ) -> None:
        self.status = status
        self.first: Mapping[bytes, bytes] = headers or {}
        self.length = None
        self.socket = socket
        self.message = first
        self._body = body

    def header(self, name: str) -> str | None:
        """Return the first value of a header; `name` in lower case."""
        value = self.first.get(name.encode("ascii"))
        return None if value is None else value.decode("latin-1")

    def read(self, limit: int) -> Deferred[bytes]:
        """Return the error's document."""
        return succeed(self._body[:limit])

    def abort(self) -> None:
        """Close the connection at once."""
        if self.socket is not None:
            self.socket.abort()


class SessionBody:
    """The session in the place of an answer's body: its `watch` tells the usage."""

    #: What is said passes as it is; plugins edit it message by message, on its way to the client.
    filter: AnswerFilter = PlainBody()
    #: No plugin has its frames kept.
    kept: bytes | None = None

    def __init__(self, answer: SocketAnswer, watch: LiveWatch) -> None:
        self.watch = watch
        self._answer = answer

    def abort(self, why: str) -> None:
        """Close the connection at once."""
        self._answer.abort()


@attrs.define(eq=False)
class SessionClient:
    """
    Opens sessions where a request would be sent; everything else of a client's is `inner`'s.

    :param raw: the client's first message as it came, and `payload` what it says.
    :param token: the client's ephemeral token, which is shown in place of the account's credential.
    """

    inner: Any
    opcode: int
    payload: bytes
    raw: bytes
    max_message: int
    token: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def send(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes | ByteChain | Any,
        *,
        timeout: float,
        network: Network | None = None,
    ) -> SocketAnswer:
        """
        Open a socket, say the first message, and wait for the first answer.

        :raises UpstreamFailed: if the upstream cannot be reached.
        """
        if self.token is not None:
            shown = (b"authorization", b"x-goog-api-key", b"x-goog-user-project")
            headers = [pair for pair in headers if pair[0].lower() not in shown]
            headers.append((b"Authorization", b"Token " + self.token.encode("ascii")))
        try:
            socket = await self.inner.open_socket(
                url, headers, timeout=timeout, max_message=self.max_message, network=network
            )
        except Refused as e:
            return SocketAnswer(e.status if e.status >= 300 else 502, e.body, e.headers)
        socket.write(self.raw if body == self.payload else frame(self.opcode, bytes(body), os.urandom(4)))
        first = FirstMessage(socket)
        socket.deliver(first)
        deadline = self.inner.deadlines.after(timeout, first.done.cancel)
        try:
            await first.done
        except CancelledError:
            socket.abort()
            if deadline.pending:
                raise
            raise UpstreamFailed(
                "SETUP_TIMEOUT", f"the upstream did not set up the session within {timeout:g} seconds"
            ) from None
        finally:
            deadline.cancel()
        if first.has_come:
            return SocketAnswer(200, socket=socket, first=first)
        socket.abort()
        if first.violation is not None:
            return SocketAnswer(502, status_body(502, f"The upstream broke the protocol: {first.violation.message}."))
        if first.closing is None:
            return SocketAnswer(
                502, status_body(502, "The upstream closed the connection before the setup was complete.")
            )
        try:
            status, document = live.status_of(Closing.of(first.closing))
        except Violation as e:
            status, document = 502, status_body(502, f"The upstream broke the protocol: {e.message}.")
        return SocketAnswer(status, document)


@attrs.define(eq=False)
class SessionWrapping:
    """
    Sends a first message as `inner` makes it, and opens the session once the upstream has answered.

    :param on_handle: called with the account and each handle that resumes the session.
    :param names: what the session's API calls its counts.
    :ivar release: counts the session no more; the account of the last attempt holds it until then.
    """

    _inner: Wrapping
    _sessions: Sessions
    _on_handle: Callable[[Account, str], object]
    _names: Names
    release: Callable[[], object] = lambda: None

    def wrap(self, account: Account) -> UpstreamRequest:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        self.release()
        self.release = self._sessions.hold(account)
        return self._inner.wrap(account)

    def is_good(self, status: int) -> bool:
        """See :class:`agm.serving.wrapping.Wrapping`."""
        return status == 200

    def at_head(self, answer: UpstreamAnswer, lease: Lease) -> OpenAnswer:
        """See :class:`agm.serving.wrapping.Wrapping`; the lease is over, the session counts by itself."""
        opened = cast(SocketAnswer, answer)
        account = lease.account
        body = SessionBody(opened, LiveWatch(lambda handle: self._on_handle(account, handle), self._names))
        lease.release()
        return OpenAnswer(answer, cast(UpstreamBody, body), account, Framing.LIVE, True, lease)

    def filter(self, wrapped: UpstreamRequest) -> AnswerFilter:
        """Pass everything; nothing is waited for behind the first message."""
        return PlainBody()

    def watch(self) -> UsageWatch | None:
        """Watch nothing here: the session does."""
        return None

    def judge(self, failure: Failed) -> Failed:
        """Nothing to correct: errors are classified for calls."""
        return self._inner.judge(failure)

    def open(self, answer: UpstreamAnswer, flow: UpstreamBody, account: Account, lease: Lease) -> OpenAnswer:
        """See :class:`agm.serving.wrapping.Wrapping`; a session is open with its head."""
        return self.at_head(answer, lease)


@attrs.define(eq=False)
class PrepareSession:
    """
    The steps before a session is opened: those of a call, and then where it may go.

    :param pinned: the account that has the handle, the token or the interaction; None for any.
    """

    _context: ServingContext
    _call: PrepareCall
    _sessions: Sessions
    _client: SessionClient
    _pinned: tuple[str, str] | None
    _on_handle: Callable[[Account, str], object]
    wrapping: SessionWrapping | None = None

    @property
    def request(self) -> GatewayRequest:
        """The request, as far as it is known."""
        return self._call.request

    async def run(self) -> Attempts:
        """
        Take the steps.

        :raises GatewayError: if the session may not be opened.
        :raises HookFailed: if a plugin failed.
        """
        prepared = await self._call.attempts()
        request = prepared.request
        routing: Routing = prepared.routing
        if self._pinned is not None:
            owner, what = self._pinned
            routing = AffinityRouting(self._context, request, owner, what, ())
        names = INTERACTIONS if request.method == live.INTERACTION else GENERATE
        self.wrapping = SessionWrapping(prepared.wrapping, self._sessions, self._on_handle, names)
        context = attrs.evolve(self._context, client=cast(Any, self._client))
        return Attempts(
            context, request, SessionRouting(context, routing, self._sessions), self.wrapping, prepared.mapped
        )

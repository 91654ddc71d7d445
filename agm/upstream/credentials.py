"""
Credentials of accounts: what goes into the authentication headers of an upstream request, always fresh.

An API key and a fixed access token are what they are.  Everything else is google-auth's (:mod:`agm.upstream.google`),
which works in the threads of a :class:`Refresher`.  Nothing here blocks the reactor, and no secret gets into an error,
a log or a repr.  google-auth itself is not imported before there is an account that needs it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from agm.core.network import Network

if TYPE_CHECKING:
    from google.auth.transport import Request

    from agm.upstream.google_transport import TokenHTTP, TreqRequest

T = TypeVar("T")

#: Threads of a :class:`Refresher`.
THREADS = 4
#: Seconds that a stop waits for them.
STOP_PATIENCE = 1.0

Headers = Sequence[tuple[bytes, bytes]]


class CredentialError(Exception):
    """
    There is no credential for a request.

    `reason` is a sentence for people, without a secret in it; `permanent` says that a person must act before it can be
    any better.  The status that a client gets is the caller's.
    """

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent


class Credential(Protocol):
    """What authenticates an account's requests.  All of it is for the reactor's thread."""

    @property
    def kind(self) -> str:
        """``api-key``, ``access-token`` or ``google``."""

    async def headers(self) -> Headers:
        """
        The authentication headers of one upstream request, in lower case, fresh.

        :raises CredentialError: if there are none.
        """

    def mark_rejected(self, headers: Headers | None = None) -> None:
        """
        Say that the upstream answered 401: the next call of :meth:`headers` must refresh first.

        :param headers: what it was answered to; what :meth:`headers` gave last if not told.
        """

    @property
    def refreshable(self) -> bool:
        """Whether a refresh could help after a 401."""

    @property
    def project(self) -> str | None:
        """The project that the credential itself names, if any is known."""


@attrs.frozen(eq=False)
class ApiKey:
    """An API key of the Gemini Developer API, or of Vertex AI in express mode."""

    _key: str = attrs.field(repr=False)
    kind: str = attrs.field(default="api-key", init=False)
    refreshable: bool = attrs.field(default=False, init=False, repr=False)
    project: str | None = attrs.field(default=None, init=False, repr=False)

    async def headers(self) -> Headers:
        """``x-goog-api-key``."""
        return ((b"x-goog-api-key", header_value(self._key, "the API key")),)

    def mark_rejected(self, headers: Headers | None = None) -> None:
        """Nothing can be refreshed."""


@attrs.frozen(eq=False)
class StaticToken:
    """An access token from elsewhere: it is used as it is, for as long as the upstream takes it."""

    _token: str = attrs.field(repr=False)
    kind: str = attrs.field(default="access-token", init=False)
    refreshable: bool = attrs.field(default=False, init=False, repr=False)
    project: str | None = attrs.field(default=None, init=False, repr=False)

    async def headers(self) -> Headers:
        """``authorization``."""
        return ((b"authorization", b"Bearer " + header_value(self._token, "the access token")),)

    def mark_rejected(self, headers: Headers | None = None) -> None:
        """Nothing can be refreshed."""


def header_value(text: str, what: str) -> bytes:
    """
    A secret as it goes into a header.

    :raises CredentialError: if it cannot; `what` says to people what it is.
    """
    if not is_header_value(text):
        raise CredentialError(f"{what} is empty or holds a character that cannot be in a header", permanent=True)
    return text.encode("ascii")


def is_header_value(text: object) -> TypeGuard[str]:
    """Whether a value can go into a header."""
    # RFC 9110's field content without white space: nothing in it can end a header.
    return isinstance(text, str) and re.fullmatch(r"[!-~]+", text) is not None


class Refreshed:
    """The base of credentials whose :class:`Refresher` is told each of their secrets as soon as it is known."""


# -- Threads -----------------------------------------------------------------------------------------


class _DaemonThread(Thread):
    """A process may end while it works: what blocks here may block for long."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


class _Threads(ThreadPool):
    threadFactory = _DaemonThread


class Refresher:
    """
    The threads in which google-auth may block, and the transport that it uses there.

    They are few and nobody else's: name resolution and the like never wait behind a slow token endpoint.

    :param http: a treq client for the transport.
    :param threads: how many calls run at the same time; others queue.
    :param meet: called with each secret that a credential turns out to have, so that it can be kept out of sight.
    """

    def __init__(
        self, reactor: Any, http: TokenHTTP, *, threads: int = THREADS, meet: Callable[[str], object] | None = None
    ) -> None:
        self._meet = meet
        self._reactor = reactor
        self._http = http
        self._size = threads
        self._threads: _Threads | None = None
        self._request: TreqRequest | None = None
        self._stopped = False
        self._waiting: set[Deferred[Any]] = set()
        self._trigger: Any = None
        #: How often a token was asked for, by ``ok``, ``failed`` or ``refused`` (for good).
        self.outcomes: Counter[str] = Counter()

    @property
    def request(self) -> Request:
        """The transport, for use within :meth:`run`."""
        return self.request_over(None)

    def request_over(self, network: Network | None) -> Request:
        """The same for token endpoints that are reached over another network."""
        assert self._request is not None, "it is for what runs in a thread"
        return self._request.over(network)

    def meet(self, secret: object) -> None:
        """Take note of what must not be seen; anything but text is none."""
        if self._meet is not None and isinstance(secret, str):
            self._meet(secret)

    def seconds(self) -> float:
        """The reactor's time, from any thread."""
        return float(self._reactor.seconds())

    def start(self) -> None:
        """Take calls.  A stop of the reactor implies :meth:`stop`."""
        if self._threads is None:
            self._stopped = False
            self._request = None
            self._threads = _Threads(0, self._size, "credentials")
            self._threads.start()
            self._trigger = self._reactor.addSystemEventTrigger("during", "shutdown", self._shut_down)

    def _shut_down(self) -> Deferred[None]:
        self._trigger = None  # it has fired, and cannot be removed any more
        return self.stop()

    def stop(self) -> Deferred[None]:
        """
        Fail what is waiting, end what is under way, and fire when the threads have ended.

        That is waited for only a moment.  A thread that blocks for longer ends with the process.
        """
        stopped: Deferred[None] = Deferred()
        threads, self._threads = self._threads, None
        self._stopped = True
        if self._trigger is not None:
            trigger, self._trigger = self._trigger, None
            self._reactor.removeSystemEventTrigger(trigger)
        if threads is None:
            stopped.callback(None)
            return stopped
        if self._request is not None:
            self._request.close()
        for waiting in list(self._waiting):
            self._settle(waiting, Failure(_stopping()))

        def done() -> None:
            if patience.active():
                patience.cancel()
            if not stopped.called:
                stopped.callback(None)

        def join() -> None:
            threads.stop()
            self._reactor.callFromThread(done)

        patience = self._reactor.callLater(STOP_PATIENCE, done)
        # joining waits, and must not do so here: a thread may need the reactor once more to see that it is over
        _DaemonThread(target=join).start()
        return stopped

    async def run(self, fn: Callable[[], T]) -> T:
        """
        Call `fn` in one of the threads, and return or raise what it does.

        Cancelling gives up waiting; the call itself goes on.

        :raises CredentialError: if the refresher has stopped, or stops meanwhile.
        """
        if self._stopped:
            raise _stopping()
        assert self._threads is not None, "the refresher has not been started"
        if self._request is None:
            # what calls this has imported google-auth by now; a gateway without such an account does not need it
            from agm.upstream.google_transport import TreqRequest

            self._request = TreqRequest(self._reactor, self._http)
        waiting: Deferred[T] = Deferred(self._waiting.discard)
        self._waiting.add(waiting)

        def ended(_: bool, result: T | Failure) -> None:
            self._reactor.callFromThread(self._settle, waiting, result)

        self._threads.callInThreadWithCallback(ended, fn)
        return await waiting

    def _settle(self, waiting: Deferred[Any], result: object) -> None:
        if waiting in self._waiting:
            self._waiting.discard(waiting)
            waiting.callback(result)  # a Failure makes it fail


def _stopping() -> CredentialError:
    return CredentialError("the gateway is stopping")

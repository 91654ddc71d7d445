"""
The threads in which google-auth may block while it gets tokens, and how they end.

Nothing here knows a credential, and google-auth is not imported before something is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from agm.core.network import Network
from agm.upstream.credentials.credential import CredentialError

if TYPE_CHECKING:
    from google.auth.transport import Request

    from agm.upstream.credentials.google_transport import TreqFor, TreqRequest

T = TypeVar("T")

#: Threads of a :class:`Refresher`.
THREADS = 4
#: Seconds that a stop waits for them.
STOP_PATIENCE = 1.0


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

    :param http: gives treq clients for the transport.
    :param threads: how many calls run at the same time; others queue.
    :param on_secret: called with each secret that a credential turns out to have, so that it can be kept out of sight.
    """

    def __init__(
        self, reactor: Any, http: TreqFor, *, threads: int = THREADS, on_secret: Callable[[str], object] | None = None
    ) -> None:
        self._on_secret = on_secret
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
        """Return the same for token endpoints that are reached over another network."""
        assert self._request is not None, "it is for what runs in a thread"
        return self._request.over(network)

    def found_secret(self, secret: object) -> None:
        """Take note of what must not be seen; anything but text is none."""
        if self._on_secret is not None and isinstance(secret, str):
            self._on_secret(secret)

    def seconds(self) -> float:
        """Return the reactor's time, from any thread."""
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
            from agm.upstream.credentials.google_transport import TreqRequest

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

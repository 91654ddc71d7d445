"""What comes of an attempt: an answer that flows, one that is complete, or a failure; and the route it went along."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from agm.core.classify import Fault, Verdict
from agm.core.ownership import Maker
from agm.core.pool.breaker import Trouble
from agm.core.pool.lease import Lease
from agm.core.request import Account
from agm.core.wire.answer_filters import Framing, StreamFailure, error_event
from agm.upstream.client import UpstreamAnswer, UpstreamBody

#: An error's body is read up to this many bytes.
MAX_ERROR = 1024 * 1024


@attrs.frozen
class FinalAnswer:
    """An answer that is complete in memory: an error of the upstream's, or what a plugin answers without one."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    #: How the body is laid out.
    framing: Framing = Framing.UNARY


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
    #: How an SSE answer tells that it breaks off.
    error_event: Callable[[StreamFailure], bytes] = error_event
    #: Whose request it is, where it may make something.
    maker: Maker | None = None
    #: Headers that a plugin wants to go out with it.
    added: tuple[tuple[bytes, bytes], ...] = ()
    _closed: bool = attrs.field(init=False, default=False)

    @property
    def reported(self) -> bool:
        """Whether the upstream told of an error within an answer that passed as it came."""
        return getattr(self.body.filter, "reported", False)

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
        """Return the route to an endpoint of a lease's account, by its number."""
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
    #: The words of a plugin's verdict, which the client gets in place of the upstream's; "" for none.
    told: str = ""
    #: It was sent with ``x-goog-user-project``.
    user_project: bool = False

    @classmethod
    def foreign(cls, message: str) -> Failed:
        """An answer that says 200 and is none of Google's: somebody else has answered, and nothing was acted on."""
        message = message.rstrip(".")
        return cls(
            Verdict(Fault.ENDPOINT, "NOT_AN_ANSWER"), 502, b"", message[:1].lower() + message[1:], trouble=Trouble.ODD
        )

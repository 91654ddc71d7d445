"""
Leases: the right to one request at a time on an account, given back exactly once.

A lease keeps what belongs to its request alone.  What follows from giving it back, and which endpoint is to be asked,
the lender says; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from agm.core.pool.cooldown import Cooldown, Member


class Lender(Protocol):
    """Whom leases are of: the pool."""

    def take_back(self, lease: Lease) -> None:
        """A lease has been given back, which happens once."""

    def endpoint_for(self, lease: Lease) -> int | None:
        """Return the number of the next endpoint that the lease's request is to ask; None if there is no other."""


class Lease:
    """
    The right to one request at a time on an account; `async with` or ``try/finally`` gives it back.

    `model`, `version` and `method` are what it was taken for.  `probe` says that the account has cooled down for the
    model, and that this is the one request that tries it.  The other attributes are the lender's own: `member` is what
    it knows of the account, `probed` are the cooldowns that this request probes, `taken` is its count of leases,
    `tried` holds the numbers of the endpoints that were asked, and `claimed` is the base URL of the one that this
    request tries for all.
    """

    def __init__(
        self,
        lender: Lender,
        member: Member,
        model: str,
        probed: Sequence[Cooldown],
        taken: int,
        version: str = "",
        method: str = "",
    ) -> None:
        self.account = member.account
        self.model = model
        self.version = version
        self.method = method
        self.probe = bool(probed)
        self.member = member
        self.probed = probed
        self.taken = taken
        self.tried: set[int] = set()
        self.claimed: str | None = None
        self._lender = lender
        self._out = True

    def release(self) -> None:
        """Give the account back.  Only the first call counts."""
        if self._out:
            self._out = False
            self._lender.take_back(self)

    def next_endpoint(self) -> int | None:
        """
        Return the number of the endpoint to ask, another one with each call; None when there is no other.

        Endpoints that fail are passed over; the first request after an endpoint's breaker has opened tries it for all.
        """
        return self._lender.endpoint_for(self)

    def start_over(self) -> None:
        """Ask all endpoints again."""
        self.tried.clear()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

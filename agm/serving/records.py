"""The records of one request's attempts: made in one place, and told to the observers as they are made."""

from __future__ import annotations

import attrs

from agm.core.classify import Verdict
from agm.core.pool.lease import Lease
from agm.core.request import AttemptRecord, GatewayRequest
from agm.serving.context import ServingContext


@attrs.define(eq=False)
class AttemptRecords:
    """The attempts of one request, in order."""

    _context: ServingContext
    done: list[AttemptRecord] = attrs.Factory(list)
    #: What makes a date of the reactor's time: the same for all attempts, though the clock be set between them.
    _epoch: float | None = None

    def begin(self) -> float:
        """Begin an attempt: its time by the reactor's clock, for :meth:`add`."""
        now: float = self._context.reactor.seconds()
        if self._epoch is None:
            self._epoch = self._context.wall() - now
        return now

    def add(
        self,
        request: GatewayRequest,
        lease: Lease,
        *,
        number: int,
        endpoint: str,
        chosen: str,
        began: float,
        good: bool,
        status: int | None,
        verdict: Verdict | None,
        message: str,
    ) -> AttemptRecord:
        """
        Record an attempt that has ended now, with its first byte or without an answer.

        :param number: from 1.
        :param chosen: why this account.
        :param began: from :meth:`begin`.
        :param good: whether an answer's first bytes have come.
        """
        context = self._context
        ended = context.reactor.seconds() - began
        assert self._epoch is not None, "it has begun"
        record = AttemptRecord(
            request_id=request.id,
            number=number,
            account=lease.account.name,
            chosen=chosen,
            endpoint=endpoint,
            model=request.model,
            started=began + self._epoch,
            first_byte=ended if good else None,
            ended=ended,
            status=status,
            verdict=verdict,
            message=message,
            probe=lease.probe,
        )
        self.done.append(record)
        context.hooks.attempt_finished(record)
        return record

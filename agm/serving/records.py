"""The record of an attempt: made in one place, and told to the observers as it is made."""

from __future__ import annotations

from agm.core.classify import Verdict
from agm.core.pool.lease import Lease
from agm.core.request import AttemptRecord, GatewayRequest
from agm.serving.context import ServingContext


def record_attempt(
    context: ServingContext,
    request: GatewayRequest,
    lease: Lease,
    *,
    number: int,
    endpoint: str,
    chosen: str,
    started: float,
    seconds: float,
    good: bool,
    status: int | None,
    verdict: Verdict | None,
    message: str,
) -> AttemptRecord:
    """
    Record an attempt that has ended, with the first bytes of an answer (`good`) or without, and tell the observers.

    :param number: from 1.
    :param chosen: why this account.
    :param started: in seconds since the epoch.
    :param seconds: that it took.
    """
    record = AttemptRecord(
        request_id=request.id,
        number=number,
        account=lease.account.name,
        chosen=chosen,
        endpoint=endpoint,
        model=request.model,
        started=started,
        first_byte=seconds if good else None,
        ended=seconds,
        status=status,
        verdict=verdict,
        message=message,
        probe=lease.probe,
    )
    context.hooks.attempt_finished(record)
    return record

"""Classification of upstream errors, as :mod:`agm.core.classify` reads them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from agm import hookimpl
from agm.core.classify import Verdict, classify
from agm.core.request import Account, GatewayRequest


@hookimpl(trylast=True)
def agm_classify_error(
    status: int, body: bytes, headers: Mapping[str, str], account: Account, request: GatewayRequest
) -> Verdict | None:
    """Read Google's own words; those of a plugin's kind are that one's to read."""
    if account.upstream.read_error is not None:
        return None
    return classify(
        status,
        body,
        now=time.time(),
        retry_after=headers.get("retry-after"),
        kind=account.kind,
        project=account.project,
        model=request.model,
    )

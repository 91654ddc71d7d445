"""
What attempts at upstreams need, as one frozen record; and what they ask of each part of it that has several forms.

A record is of one configuration: a reload makes another, and a request goes on with the one that it began with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from agm.config import Config
from agm.core.alerts import QuotaStorms
from agm.core.errors import GatewayError
from agm.core.forecast import returns
from agm.core.ownership import Ownership
from agm.core.pool.exclusions import Exclusion, nothing_left
from agm.core.pool.pool import Pool
from agm.core.redact import Redactor
from agm.core.request import Account, GatewayRequest, LastFailure
from agm.net.timers import Deadlines
from agm.observe.requestlog.writer import RequestLog
from agm.plugins.hooks import Hooks
from agm.upstream.client import UpstreamClient
from agm.upstream.codeassist import CodeAssist
from agm.upstream.credentials.credential import Credential


class Doubts(Protocol):
    """What finds out whether an account or an endpoint serves, where no client's request can tell."""

    def ask_account(self, context: ServingContext, account: Account, model: str, status: int | None) -> None:
        """Ask an account that has refused several conversations for a model, with this status."""

    def ask_endpoint(self, context: ServingContext, account: Account, url: str) -> None:
        """Ask an endpoint that has answered oddly several times."""


@attrs.frozen(eq=False)
class ServingContext:
    """
    What attempts need.

    `reactor` gives time and connections; `wall` gives seconds since the epoch, for records.
    """

    config: Config
    reactor: Any
    wall: Callable[[], float]
    hooks: Hooks
    pool: Pool
    client: UpstreamClient
    #: Of the accounts, by name.
    credentials: Mapping[str, Credential]
    code_assist: CodeAssist
    deadlines: Deadlines
    #: Which account has a file, a cached content or the like.
    ownership: Ownership
    #: Takes the secrets that are held here out of whatever is shown.
    redactor: Redactor
    checks: Doubts
    #: Counts what was refused for want of quota.
    storms: QuotaStorms
    #: Of each account, the last attempt that failed through no fault of its request.
    last_failures: dict[str, LastFailure]
    #: Where requests are recorded; None for nowhere.
    request_log: RequestLog | None = None

    def nothing_left(self, request: GatewayRequest, exclusions: Sequence[Exclusion]) -> GatewayError:
        """Make the error for a request that no account can serve; it says when they are expected back."""
        outlook = self.returns(exclusions)
        return nothing_left(request.model, request.method, request.version, exclusions, outlook)

    def returns(self, exclusions: Iterable[Exclusion]) -> str:
        """Say when accounts are expected back, by name where ``[gateway] show_account`` lets clients know names."""
        return returns(exclusions, self.wall(), names=self.config.gateway.show_account)

    @property
    def kept_answers(self) -> int:
        """How many bytes of each answer are kept for the request log."""
        return 0 if self.request_log is None else self.request_log.kept_answers

"""
The gateway's own question, for where an account or an endpoint is in doubt and no client's request can tell.

A refusal without a reason, or an odd answer, may be about what one client sends.  Before anybody else is affected, the
gateway asks something that nothing is wrong with: ``countTokens`` of one word, on that account and model.  Only what is
said to that question counts.  It costs nothing, is asked once at a time about each subject, and not again within
:data:`PAUSE` seconds once it was answered well.
"""

from __future__ import annotations

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from agm.core.classify import Fault
from agm.core.models import model_to_count
from agm.core.pool.breaker import Trouble, origin
from agm.core.request import Account, Body, GatewayRequest, ModelChoice
from agm.core.wire.answer_filters import Framing
from agm.serving.answers import Failed, OpenAnswer, Route
from agm.serving.attempts import Attempts
from agm.serving.context import ServingContext
from agm.serving.routing import PoolRouting
from agm.serving.wrapping import CallWrapping

#: Seconds after a good answer during which the same is not asked again.
PAUSE = 60.0
#: Seconds to wait for the answer.
PATIENCE = 10.0
#: How many subjects are remembered to have answered well; model names are the clients' to invent.
MAX_SUBJECTS = 1000
#: What is asked, as it stands in the request's body, however that is wrapped.
QUESTION = b'"contents":[{"role":"user","parts":[{"text":"Hello"}]}]'
_BODY = b"{" + QUESTION + b"}"
METHOD = "countTokens"

log = Logger()


@attrs.define(eq=False)
class HealthChecks:
    """Asks accounts and endpoints in doubt, and tells the pool what came of it."""

    #: What is being asked, by subject.
    _asking: dict[tuple[str, ...], Deferred[None]] = attrs.Factory(dict)
    #: When a subject answered well, in seconds of the reactor's clock.
    _well: dict[tuple[str, ...], float] = attrs.Factory(dict)
    _count: int = 0

    def ask_account(self, context: ServingContext, account: Account, model: str, status: int | None) -> None:
        """
        Ask an account that has refused several conversations for a model without a reason of its own.

        :param status: how it refused them: only the same refusal confirms it.
        """
        self._start(context, ("account", account.name, model), account, model, None, status)

    def ask_endpoint(self, context: ServingContext, account: Account, url: str) -> None:
        """Ask an endpoint that has answered oddly several times, for a model that no client has invented."""
        model = model_to_count(account.models, context.config.models.list)
        if model is not None:
            self._start(context, ("endpoint", origin(url)), account, model, url, None)

    def stop(self) -> None:
        """Ask nothing more, and wait for no answer."""
        for asking in list(self._asking.values()):
            asking.cancel()

    def _start(
        self,
        context: ServingContext,
        subject: tuple[str, ...],
        account: Account,
        model: str,
        url: str | None,
        status: int | None,
    ) -> None:
        now = context.reactor.seconds()
        if subject in self._asking or now - self._well.get(subject, -PAUSE) < PAUSE:
            return
        if METHOD not in account.methods or context.pool.is_full(account):
            return
        asking = self._asking[subject] = Deferred.fromCoroutine(
            self._ask(context, subject, account, model, url, status)
        )
        asking.addErrback(lambda failure: failure.trap(CancelledError))
        asking.addErrback(lambda failure: log.failure("a health check failed", failure=failure))
        asking.addBoth(lambda _: self._asking.pop(subject, None))

    async def _ask(
        self,
        context: ServingContext,
        subject: tuple[str, ...],
        account: Account,
        model: str,
        url: str | None,
        status: int | None,
    ) -> None:
        self._count += 1
        request = GatewayRequest(
            id=f"health-check-{self._count}",
            path=f"/v1beta/models/{model}:{METHOD}",
            version="v1beta",
            method=METHOD,
            asked_model=model,
            model=model,
            framing=Framing.UNARY,
            query={},
            headers={},
            client_key=None,
            received_at=context.wall(),
            body=Body(_BODY),
            upstream_framing=Framing.UNARY,
        )
        lease = context.pool.lease(account, model, METHOD, request.version)
        route = Route(lease, account, url or context.pool.first_endpoint(account, model), "a health check")
        try:
            wrapping = CallWrapping(context, request, _BODY)
            choice = ModelChoice(model, "unchanged")
            attempts = Attempts(context, request, PoolRouting(context, request), wrapping, choice)
            outcome = await attempts.try_once(route, patience=PATIENCE)
            if isinstance(outcome, OpenAnswer):
                outcome.close()
            self._conclude(context, subject, route, outcome, status)
        finally:
            lease.release()

    def _conclude(
        self,
        context: ServingContext,
        subject: tuple[str, ...],
        route: Route,
        outcome: OpenAnswer | Failed,
        status: int | None,
    ) -> None:
        pool, account, model = context.pool, route.account, route.lease.model
        if isinstance(outcome, OpenAnswer):
            self._note_well(subject, context.reactor.seconds())
            pool.trust(account, model)
            return
        verdict = outcome.verdict
        if status is None and outcome.trouble is Trouble.ODD:
            pool.confirm_endpoint_failure(route.url)
            log.warn("{endpoint} does not answer a health check either: {why}", endpoint=route.url, why=outcome.message)
        elif verdict.fault is Fault.UNCLEAR and outcome.status == status:
            pool.failed(account, model, attrs.evolve(verdict, fault=Fault.FORBIDDEN), route.lease)
            log.warn(
                "account {account} is set aside for {model}: it refuses a health check, too ({reason}: {message})",
                account=account.name,
                model=model,
                reason=verdict.reason,
                message=verdict.message,
            )
        else:  # what was said is about something else; where words tell, they count
            pool.failed(account, model, verdict, route.lease)

    def _note_well(self, subject: tuple[str, ...], now: float) -> None:
        self._well.pop(subject, None)
        self._well[subject] = now
        if len(self._well) > MAX_SUBJECTS:
            del self._well[next(iter(self._well))]

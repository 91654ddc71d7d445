"""
Whether an account works: one real ``countTokens`` through it, the way a client's request goes.

It costs nothing and generates nothing.  The gateway that it is tried in is made for that, and serves nobody: its pool
holds one account at a time, so that no other can answer in its place.
"""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred

from agm.config import Config
from agm.core import documents
from agm.core.answer import Answer
from agm.core.errors import NOT_JSON, GatewayError
from agm.core.models import model_to_count
from agm.core.remedies import remedy
from agm.core.request import Account, Body, GatewayRequest
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import parse_call, quote_model
from agm.plugins.hooks import HookFailed
from agm.serving.answers import FinalAnswer, OpenAnswer
from agm.serving.attempts import Attempts
from agm.serving.fallbacks import FallingBack
from agm.serving.gateway import Gateway
from agm.serving.prepare import Answered, InboundCall
from agm.upstream.client import UpstreamFailed
from agm.upstream.credentials.credential import CredentialError
from agm.upstream.reports import ask_for_models, models_in

_QUESTION = b'{"contents":[{"role":"user","parts":[{"text":"Hello"}]}]}'
#: Seconds to wait for an upstream's answer: a count takes a moment.
PATIENCE = 30.0
#: An answer is read up to this many bytes.
MAX_ANSWER = 1024 * 1024


@attrs.frozen
class Trial:
    """
    What came of it.

    `tokens` is what was counted, None if nothing was; `models` how many the account listed, where its kind counts no
    tokens; `status` is the HTTP status of the last answer, None if there
    was none; `reason` is Google's word for the failure or agm's, `message` a sentence, `cure` what a person can do.
    """

    account: str
    kind: str
    model: str | None
    tokens: int | None
    seconds: float
    status: int | None = None
    reason: str | None = None
    message: str | None = None
    cure: str | None = None
    models: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the account serves."""
        return self.tokens is not None or self.models is not None

    @property
    def answered(self) -> str:
        """What a good account has answered, in words."""
        if self.models is not None:
            return f"{self.models} model{'' if self.models == 1 else 's'} listed"
        return f"{self.model} counted {self.tokens} token{'' if self.tokens == 1 else 's'}"


def for_trials(config: Config) -> Config:
    """Return a configuration for a gateway that accounts are tried in: nothing is remembered, and nobody waits long."""
    return attrs.evolve(
        config,
        path=None,
        timeouts=attrs.evolve(config.timeouts, first_byte=min(config.timeouts.first_byte, PATIENCE)),
        pool=attrs.evolve(config.pool, max_wait=0.0),
    )


async def try_account(gateway: Gateway, account: Account, model: str | None = None) -> Trial:
    """
    Try `account`; `gateway` must have been started, and serve nobody else.

    :param model: what to count tokens of; chosen by what the account serves if not given.
    """
    began = gateway.reactor.seconds()
    if account.unusable is not None:
        reason = "CREDENTIAL_UNAVAILABLE"
        return Trial(account.name, account.kind, None, None, 0.0, reason=reason, message=account.unusable)
    if "countTokens" not in account.methods:
        return await _list_models(gateway, account)
    model = model or model_to_count(account.models, gateway.config.models.list)
    if model is None:
        return Trial(
            account.name,
            account.kind,
            None,
            None,
            0.0,
            reason="NO_MODEL_TO_TRY",
            message="by their names, none of its models can count tokens",
            cure="name one with --model",
        )
    gateway.pool.replace([account], ())
    path = f"/v1beta/models/{quote_model(model)}:countTokens"
    inbound = InboundCall(
        id=f"trial-{account.name}",
        path=path,
        call=parse_call(path.encode("ascii")),
        framing=Framing.UNARY,
        query={},
        headers={},
        key=None,
        body=_QUESTION,
        received_at=gateway.wall(),
    )
    attempts: Attempts | Answered | None = None
    tokens: int | None = None
    status: int | None = None
    message: str | None = None
    try:
        prepared = await gateway.calls.prepare(inbound).run()
        # it is this model that is tried, and no other
        attempts = prepared.attempts if isinstance(prepared, FallingBack) else prepared
        outcome = await attempts.open()
        if isinstance(outcome, FinalAnswer):
            status, message = outcome.status, _message(outcome.body)
        elif isinstance(outcome, Answer):
            outcome.close()
            message = "a plugin answers by calls of its own (agm_answer_request), so the account was not asked"
        else:
            status = outcome.answer.status
            tokens, message = _counted(await _whole(outcome))
    except GatewayError as e:
        message = e.message
    except HookFailed as e:
        message = str(e)
    seconds = gateway.reactor.seconds() - began
    if tokens is not None:
        return Trial(account.name, account.kind, model, tokens, seconds, status)
    last = attempts.records[-1] if attempts is not None and attempts.records else None
    verdict = last.verdict if last is not None else None
    return Trial(
        account.name,
        account.kind,
        model,
        None,
        seconds,
        last.status if last is not None else status,
        verdict.reason if verdict is not None else None,
        message,
        remedy(account, verdict.fault if verdict is not None else None, verdict.reason if verdict is not None else ""),
    )


async def _list_models(gateway: Gateway, account: Account) -> Trial:
    """Ask an account that cannot count tokens for its models: that costs nothing either, and needs its credential."""
    if account.upstream.models is None:
        message = f"{account.kind} accounts neither count tokens nor list models, so nothing is known of it"
        return Trial(account.name, account.kind, None, None, 0.0, reason="NOTHING_TO_TRY", message=message)
    began = gateway.reactor.seconds()
    status: int | None = None
    reason, message, fault = "", "", None
    try:
        answer = await ask_for_models(gateway.client, account, gateway.credentials[account.name], PATIENCE)
        status = answer.status
        if status == 200:
            models = models_in(answer, account)
            return Trial(
                account.name, account.kind, None, None, gateway.reactor.seconds() - began, status, models=len(models)
            )
        verdict = gateway.hooks.classify_error(status, answer.body, {}, account, _asked(gateway, account))
        reason, message, fault = verdict.reason, verdict.message, verdict.fault
    except UpstreamFailed as e:
        reason, message = e.reason, str(e)
    except CredentialError as e:
        reason, message = "CREDENTIAL_UNAVAILABLE", e.reason
    except Exception:  # whatever the kind's reader raises for what is no list
        reason, message = "NOT_AN_ANSWER", "what it answered is no list of models"
    return Trial(
        account.name,
        account.kind,
        None,
        None,
        gateway.reactor.seconds() - began,
        status,
        reason,
        gateway.redactor.text(message) or None,
        remedy(account, fault, reason),
    )


def _asked(gateway: Gateway, account: Account) -> GatewayRequest:
    """Return a request to which an answer that is none of a call's may be taken for one."""
    return GatewayRequest(
        id=f"trial-{account.name}",
        path="/v1beta/models",
        version="v1beta",
        method="generateContent",
        asked_model="",
        model="",
        framing=Framing.UNARY,
        query={},
        headers={},
        client_key=None,
        received_at=gateway.wall(),
        body=Body(b"{}"),
        upstream_framing=Framing.UNARY,
        explaining=True,
    )


async def _whole(answer: OpenAnswer) -> bytes:
    """Return the body of an answer, or its beginning if it is endless."""
    chunks: list[bytes] = []
    ended: Deferred[None] = Deferred()

    def take(data: bytes) -> None:
        chunks.append(data)
        if sum(map(len, chunks)) > MAX_ANSWER:
            answer.body.abort("longer than any count")

    answer.body.flow_to(take, lambda: ended.callback(None))
    try:
        await ended
    finally:
        answer.close()
    return b"".join(chunks)


def _counted(body: bytes) -> tuple[int | None, str | None]:
    try:
        tokens = documents.decode(body)["totalTokens"]
    except (*NOT_JSON, KeyError, TypeError, IndexError):
        tokens = None
    if isinstance(tokens, int) and not isinstance(tokens, bool):
        return tokens, None
    return None, "the answer holds no count"


def _message(body: bytes) -> str | None:
    try:
        message = documents.decode(body)["error"]["message"]
    except (*NOT_JSON, KeyError, TypeError, IndexError):
        return None
    return message if isinstance(message, str) else None

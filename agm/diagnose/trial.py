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
from agm.core.errors import NOT_JSON, GatewayError
from agm.core.models import model_to_count
from agm.core.remedies import remedy
from agm.core.request import Account
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import parse_call, quote_model
from agm.plugins.hooks import HookFailed
from agm.serving.answers import FinalAnswer, OpenAnswer
from agm.serving.attempts import Attempts
from agm.serving.gateway import Gateway
from agm.serving.prepare import InboundCall

_QUESTION = b'{"contents":[{"role":"user","parts":[{"text":"Hello"}]}]}'
#: Seconds to wait for an upstream's answer: a count takes a moment.
PATIENCE = 30.0
#: An answer is read up to this many bytes.
MAX_ANSWER = 1024 * 1024


@attrs.frozen
class Trial:
    """
    What came of it.

    `tokens` is what was counted, None if nothing was; `status` is the HTTP status of the last answer, None if there
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

    @property
    def ok(self) -> bool:
        """Whether the account serves."""
        return self.tokens is not None


def for_trials(config: Config) -> Config:
    """A configuration for a gateway that accounts are tried in: nothing is remembered, and nobody waits long."""
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
    attempts: Attempts | None = None
    tokens: int | None = None
    status: int | None = None
    message: str | None = None
    try:
        attempts = await gateway.calls.prepare(inbound).run()
        outcome = await attempts.open()
        if isinstance(outcome, FinalAnswer):
            status, message = outcome.status, _message(outcome.body)
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


async def _whole(answer: OpenAnswer) -> bytes:
    """The body of an answer, or its beginning if it is endless."""
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

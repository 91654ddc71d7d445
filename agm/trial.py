"""
Whether an account works: one real ``countTokens`` through it, the way a client's request goes.

It costs nothing and generates nothing.  The gateway that it is tried in is made for that, and serves nobody: its pool
holds one account at a time, so that no other can answer in its place.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from twisted.internet.defer import Deferred

from agm.config import Config
from agm.core import documents
from agm.core.answers import Framing
from agm.core.classify import Fault
from agm.core.errors import NOT_JSON, GatewayError
from agm.core.models import supported_methods
from agm.core.request import Account
from agm.core.target import parse_call, quote_model
from agm.exchange import Attempts, FinalAnswer, OpenAnswer
from agm.gateway import Gateway
from agm.incoming import Incoming, Preparation
from agm.plugins import HookFailed

_QUESTION = b'{"contents":[{"role":"user","parts":[{"text":"Hello"}]}]}'
#: Asked for if nothing in the configuration says what the account serves.
_USUAL = ("gemini-2.5-flash", "gemini-2.5-pro")
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


def model_for(account: Account, listed: Iterable[str]) -> str | None:
    """A model that the account can count tokens of: a usual one, else one of the list, else one of its own names."""
    named = [pattern for pattern in account.models.patterns if not any(c in pattern for c in "*?[")]
    for model in (*_USUAL, *listed, *named):
        if model in account.models and "countTokens" in supported_methods(model):
            return model
    return None


async def try_account(gateway: Gateway, account: Account, model: str | None = None) -> Trial:
    """
    Try `account`; `gateway` must have been started, and serve nobody else.

    :param model: what to count tokens of; chosen by what the account serves if not given.
    """
    began = gateway.reactor.seconds()
    model = model or model_for(account, gateway.config.models.list)
    if model is None:
        return Trial(
            account.name,
            account.kind,
            None,
            None,
            0.0,
            reason="NO_MODEL_TO_TRY",
            message="its models are none that count tokens, as far as their names tell",
            cure="name one with --model",
        )
    gateway.pool.replace([account], ())
    path = f"/v1beta/models/{quote_model(model)}:countTokens"
    incoming = Incoming(
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
        attempts = await Preparation(gateway, incoming).run()
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
        _cure(account, verdict.fault if verdict is not None else None, verdict.reason if verdict is not None else ""),
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


_SERVICES = {
    "api-key": "generativelanguage.googleapis.com",
    "vertex": "aiplatform.googleapis.com",
    "code-assist": "cloudaicompanion.googleapis.com",
}
_BY_REASON = {
    "VALIDATION_REQUIRED": "sign in to the account in a browser and confirm that it is you",
    "CREDENTIAL_UNAVAILABLE": None,  # whose message names the cure
    "NO_PROJECT": None,
    "CONNECT_FAILED": "check the account's endpoints, and this machine's network",
    "CONNECT_TIMEOUT": "check the account's endpoints, and this machine's network",
    "DNS_FAILED": "check the account's endpoints, and this machine's network",
    "TLS_FAILED": "check the account's endpoints, and what stands between this machine and Google; ca_file in the"
    " configuration adds an authority of your own",
    "PROXY_FAILED": "check proxy in the configuration, and HTTPS_PROXY and NO_PROXY in the environment",
}


def _cure(account: Account, fault: Fault | None, reason: str) -> str | None:
    """What a person can do about a failure, where something can be done."""
    if reason in _BY_REASON:
        return _BY_REASON[reason]
    if reason in ("SERVICE_DISABLED", "API_KEY_SERVICE_BLOCKED"):
        return f"enable {_SERVICES[account.kind]} for the project, or for the key"
    match fault:
        case Fault.CREDENTIAL if account.kind == "api-key" or account.express:
            return "make a new key, and put it in the place of this one"
        case Fault.CREDENTIAL:
            return f"sign in again: agm login {account.name}, or put new credentials in place"
        case Fault.FORBIDDEN if account.kind == "vertex":
            return f"grant roles/aiplatform.user on project {account.project} to whoever the credentials are of"
        case Fault.FORBIDDEN if account.kind == "code-assist":
            return "see to the account's licence for Code Assist, and to its project"
        case Fault.FORBIDDEN:
            return "see to what the key is restricted to"
        case Fault.NO_MODEL:
            return "choose another model with --model"
        case Fault.RATE | Fault.QUOTA:
            return "nothing is wrong with the account; its quota is used up for now"
        case Fault.CAPACITY | Fault.ENDPOINT:
            return "try again later"
    return None

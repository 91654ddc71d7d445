"""Every hook with its types, of ``agm.api`` alone: ``mypy --strict`` finds nothing, nor does the conformance kit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import msgspec

from agm.api import (
    API_VERSION,
    Account,
    AccountChoice,
    AccountSource,
    Alert,
    Answer,
    AnswerReader,
    ApiResource,
    AttemptRecord,
    BadUpstreamAnswer,
    CachedKeys,
    ClientKey,
    ClientKeySource,
    Config,
    Credential,
    CredentialError,
    EndStream,
    ErrorInAnswer,
    Fault,
    Forbidden,
    Framing,
    Gateway,
    GatewayRequest,
    KeepAnswer,
    LocalAnswer,
    ModelChoice,
    ModelList,
    RequestRecord,
    Site,
    UpstreamKind,
    UpstreamRequest,
    Usage,
    Verdict,
    Visit,
    hookimpl,
    send_json,
)

agm_api_version = API_VERSION


class Settings(msgspec.Struct):
    model: str = "gemini-2.5-flash"


class Region(msgspec.Struct):
    region: str = "eu"


@attrs.define
class State:
    settings: Settings = attrs.Factory(Settings)
    gateway: Gateway | None = None
    tokens: int = 0
    off: list[str] = attrs.Factory(list)


state = State()


class Reader:
    def read(self, document: dict[str, Any]) -> Sequence[dict[str, Any]]:
        if "problem" in document:
            raise ErrorInAnswer(429, msgspec.json.encode(document))
        return [{"candidates": [{"content": {"parts": [{"text": str(document.get("said"))}]}}]}]

    def end(self, done: bool) -> Sequence[dict[str, Any]]:
        if not done:
            raise BadUpstreamAnswer("It ended without [DONE].")
        return []


def wrap(request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest:
    region: Region = account.settings or Region()
    return UpstreamRequest(f"/{region.region}/ask", (), body, request.upstream_framing)


def read_answer(request: GatewayRequest, account: Account) -> AnswerReader:
    return Reader()


def read_error(
    status: int, body: bytes, headers: Mapping[str, str], account: Account, request: GatewayRequest
) -> Verdict | None:
    return Verdict(Fault.RATE, "BUSY", 1.0, "It is busy.") if status == 429 else None


def read_models(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": f"models/{name}"} for name in document.get("names", ())]


@hookimpl
def agm_upstream_kinds() -> Sequence[UpstreamKind]:
    return [
        UpstreamKind(
            "typed",
            {"generateContent", "streamGenerateContent"},
            wrap=wrap,
            endpoints=("https://ai.example.net",),
            authenticate=lambda key: {"x-api-key": key},
            read_answer=read_answer,
            read_error=read_error,
            models=ModelList("/models", read_models),
            settings=Region,
        )
    ]


@hookimpl
def agm_settings() -> Mapping[str, type[msgspec.Struct]]:
    return {"typed_plugin": Settings}


@hookimpl
def agm_configure(config: Config) -> None:
    state.settings = config.plugins.read("typed_plugin", Settings)


@hookimpl
def agm_client_keys(config: Config) -> Iterable[ClientKeySource]:
    async def fetch(sha256: str) -> ClientKey | None:
        return None

    return [CachedKeys(fetch)]


class Rotating:
    """A credential of its own."""

    kind = "rotating"
    refreshable = True
    project: str | None = None

    async def headers(self) -> Sequence[tuple[bytes, bytes]]:
        raise CredentialError("There is none here.")

    def mark_rejected(self, headers: Sequence[tuple[bytes, bytes]] | None = None) -> None:
        """There is nothing to forget."""


@hookimpl
async def agm_accounts(config: Config) -> Iterable[AccountSource]:
    credential: Credential = Rotating()
    account = Account("vault", "typed", ("https://ai.example.net",), priority=5)
    return [AccountSource(account, lambda refresher: credential, origin="vault")]


@hookimpl
async def agm_started(gateway: Gateway) -> None:
    state.gateway = gateway


@hookimpl
async def agm_look_up(request: GatewayRequest) -> Mapping[str, Any] | None:
    return {"typed.team": request.key_metadata.get("team")}


@hookimpl
def agm_map_model(model: str, request: GatewayRequest) -> ModelChoice | str | None:
    place = request.place
    if place is not None and place.project == "closed":
        raise Forbidden("That project is closed.")
    return ModelChoice(state.settings.model, "the one of the settings") if model == "default" else None


@hookimpl
async def agm_answer_request(request: GatewayRequest) -> LocalAnswer | Answer | KeepAnswer | None:
    if request.model == "echo" and request.framing is Framing.UNARY:
        return LocalAnswer({"candidates": [{"content": {"role": "model", "parts": [{"text": "echo"}]}}]})
    if request.model == "relay" and state.gateway is not None and not request.explaining:
        return await state.gateway.call("gemini-2.5-flash", request.body.raw, parent=request)
    return KeepAnswer(1000)


@hookimpl
async def agm_transform_request(body: dict[str, Any], request: GatewayRequest) -> dict[str, Any] | None:
    return {**body, "labels": {"team": "typed"}} if request.method == "generateContent" else None


@hookimpl
def agm_filter_accounts(accounts: Sequence[Account], request: GatewayRequest) -> Mapping[str, str]:
    return {account.name: "not for v1" for account in accounts if account.priority > 9 and request.version == "v1"}


@hookimpl
def agm_select_account(
    accounts: Sequence[Account], request: GatewayRequest, loads: Mapping[str, int]
) -> AccountChoice | None:
    account = min(accounts, key=lambda one: loads.get(one.name, 0))
    return AccountChoice(account, "the least busy")


@hookimpl
def agm_wrap_request(request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest | None:
    if account.network is not None and account.network.proxy == "none":
        return UpstreamRequest("/direct", ((b"X-Direct", b"yes"),), body, request.upstream_framing)
    return None


@hookimpl
def agm_classify_error(
    status: int, body: bytes, headers: Mapping[str, str], account: Account, request: GatewayRequest
) -> Verdict | None:
    return Verdict(Fault.RATE, "TEAPOT", delay=30) if status == 418 else None


@hookimpl
def agm_answer_headers(
    headers: Mapping[str, str], status: int, request: GatewayRequest, account: Account | None
) -> Mapping[str, str]:
    return {"X-Served-By": "nobody" if account is None else account.name}


@hookimpl
def agm_transform_event(
    event: dict[str, Any], request: GatewayRequest, account: Account
) -> dict[str, Any] | list[dict[str, Any]] | EndStream | None:
    if request.framing is not Framing.UNARY and "goodbye" in event:
        return EndStream([event])
    return None


@hookimpl
async def agm_attempt_finished(attempt: AttemptRecord) -> None:
    if attempt.verdict is not None and attempt.verdict.fault is Fault.LOCKED:
        state.tokens = 0


@hookimpl
def agm_request_finished(record: RequestRecord) -> None:
    usage: Usage | None = record.usage
    state.tokens += 0 if usage is None else usage.total


class Tokens(ApiResource):
    async def respond(self, visit: Visit) -> None:
        send_json(visit.wire, {"tokens": state.tokens, "key": None if visit.key is None else visit.key.name})


@hookimpl
async def agm_alert(alert: Alert) -> None:
    if alert.kind == "account_off":
        state.off.append(alert.about)


@hookimpl
def agm_resources(site: Site) -> Mapping[str, ApiResource]:
    return {"tokens": Tokens(site.gateway, site.access)}


@hookimpl
async def agm_stopping() -> None:
    state.gateway = None

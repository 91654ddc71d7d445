"""
What would happen to a request: every decision up to the moment of sending, by the same code that decides for real.

Nothing is sent, nothing is counted and nothing is remembered, so that the next real request goes as it was explained.
No credential is asked for: the headers show where it would be.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from agm.core import documents, ownership
from agm.core.errors import NOT_JSON, GatewayError
from agm.core.request import Account, UpstreamRequest
from agm.core.wire import interactions
from agm.plugins.hooks import Call, HookFailed
from agm.serving.affinity import pause
from agm.serving.attempts import Attempts
from agm.serving.chains import plugin_failed
from agm.serving.fallbacks import FallingBack
from agm.serving.gateway import Gateway
from agm.serving.interactions import IdInbound, PrepareIdCall, Uncounted, forwarded_headers
from agm.serving.money import names_of
from agm.serving.prepare import Answered, InboundCall, PrepareCall
from agm.upstream.credentials.credential import KeyHeaders

REDACTED = "[redacted]"
#: The method that creates an interaction; it is no method of a model.
CREATION = "interactions.create"
#: Names of headers and parameters whose values are not shown, whoever put them there.
_SECRET = re.compile("auth|cookie|credential|key|passw|secret|token", re.IGNORECASE)
#: A body is shown up to this many characters.
MAX_SHOWN = 64 * 1024


async def explain(gateway: Gateway, inbound: InboundCall) -> dict[str, Any]:
    """
    Return the decisions for a request, as a JSON document; docs/plugins.md describes its fields.

    Where the request would be refused before it is sent, ``error`` holds the google.rpc.Status that the client would
    get.  Whether it shows a client key at all is left open: ``client_key_required`` says whether it has to.
    """
    found: dict[str, Any] = {
        "request": {
            "version": inbound.call.version,
            "method": inbound.call.method,
            "model": inbound.call.model,
            "framing": inbound.framing.value,
        },
        "client_key": None if inbound.key is None else inbound.key.name,
        "client_key_required": gateway.clients.mode != "off",
        "budgets": [
            {"of": it.budget.of, "per": it.budget.per, "limit": it.budget.limit, "spent": round(it.spent, 9)}
            | {"then": it.budget.then, "seconds_left": round(it.seconds_left, 1)}
            for it in gateway.money.budgets.of(*names_of(inbound.client_key, inbound.team))
        ],
    }
    if inbound.translated is not None:
        found["dialect"] = {
            "name": inbound.dialect,
            "body": _shown(inbound.translated.body),
            "translated": _shown(inbound.body),
            "left_out": list(inbound.translated.left_out),
        }
    await pause(gateway.calls.context, inbound.body)
    with gateway.hooks.recorded() as calls:
        try:
            prepared = await _prepare(gateway, inbound).run()
            if isinstance(prepared, FallingBack):
                while prepared.has_none() and await prepared.advance():
                    pass
            assert isinstance(prepared, Attempts | Answered | FallingBack), "nothing is searched for while explaining"
            _decide(gateway, prepared, calls, found)
        except GatewayError as e:
            found["error"] = _status(e)
            found["refused_by"] = next((call.plugin for call in calls if call.result is e), None)
        except HookFailed as e:
            found["error"] = _status(plugin_failed(e))
            found["refused_by"] = e.plugin or None
    found["plugins"] = [{"hook": call.hook, "plugin": call.plugin, "said": _said(call)} for call in calls]
    return found


def _prepare(gateway: Gateway, inbound: InboundCall) -> PrepareCall | PrepareIdCall:
    """Make the steps before the first attempt of a call, or of the creation of an interaction."""
    if inbound.call.method != CREATION:
        return gateway.calls.prepare(inbound, explaining=True)
    asked = ownership.parse(inbound.path.encode("ascii"), "POST")
    assert asked is not None, "it is the path of interactions"
    found = interactions.read_creation(inbound.body)
    body = inbound.body
    if found is not None and not found.asks:
        body = interactions.with_model(body, inbound.call.model)
    creation = IdInbound(
        id=inbound.id,
        path=inbound.path,
        asked=asked,
        http_method="POST",
        query="",
        parameters=dict(inbound.query),
        headers=dict(inbound.headers),
        forwarded=forwarded_headers(inbound.headers, content=True),
        key=inbound.key,
        body=body,
        received_at=inbound.received_at,
    )
    return PrepareIdCall(gateway.calls, creation, Uncounted(), explaining=True)


def _status(error: GatewayError) -> Any:
    return msgspec.json.decode(error.body())["error"]


def _decide(
    gateway: Gateway, prepared: Attempts | Answered | FallingBack, calls: list[Call], found: dict[str, Any]
) -> None:
    attempts = prepared.attempts if isinstance(prepared, FallingBack) else prepared
    request = attempts.request
    found["model"] = {
        "asked": request.asked_model,
        "served": request.model,
        "reason": attempts.mapped.reason,
        "plugin": _by(gateway, calls, "agm_map_model", attempts.mapped, attempts.mapped.model),
        "fallbacks": list(prepared.models) if isinstance(prepared, FallingBack) else [],
    }
    if isinstance(attempts, Answered):
        status = attempts.answer.status
        found["answer"] = {"status": status, "plugin": _by(gateway, calls, "agm_answer_request", attempts.answer)}
        return
    found["edited_by"] = [
        call.plugin for call in calls if call.hook == "agm_transform_request" and isinstance(call.result, dict)
    ]
    accounts, exclusions = attempts.candidates()
    refusals = {
        name: call.plugin
        for call in calls
        if call.hook == "agm_filter_accounts" and isinstance(call.result, dict)
        for name in call.result
    }
    found["candidates"] = [account.name for account in accounts]
    found["excluded"] = [
        {
            "account": e.account.name,
            "cause": e.cause.value,
            "reason": e.reason,
            "retry_after": e.wait,
            "plugin": refusals.get(e.account.name),
            "message": e.message,
            "link": e.link,
        }
        for e in exclusions
    ]
    if not accounts:
        wait = attempts.wait_in_line()
        if wait is None:
            raise attempts.context.nothing_left(request, exclusions)
        found["waits"] = {"seconds": round(wait, 3), "at_most": gateway.config.pool.max_wait}
        return
    choice = attempts.select(accounts)
    found["account"] = {
        "name": choice.account.name,
        "kind": choice.account.kind,
        "reason": choice.reason,
        "plugin": _by(gateway, calls, "agm_select_account", choice, choice.account),
    }
    wrapped = attempts.wrapping.wrap(choice.account)
    found["upstream"] = {
        "method": wrapped.method,
        "url": gateway.pool.first_endpoint(choice.account, request.model) + _redacted(wrapped.path),
        "headers": _headers(gateway, choice.account, wrapped),
        "body": _shown(wrapped.body),
        "plugin": _by(gateway, calls, "agm_wrap_request", wrapped),
    }


def _headers(gateway: Gateway, account: Account, wrapped: UpstreamRequest) -> dict[str, str]:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in wrapped.headers}
    headers = {name: REDACTED if _SECRET.search(name) else value for name, value in headers.items()}
    if "accept-encoding" not in map(str.lower, headers):
        headers["Accept-Encoding"] = "identity"  # the client sends it in any case
    credential = gateway.credentials[account.name]
    if isinstance(credential, KeyHeaders):
        headers.update(dict.fromkeys(credential.names, REDACTED))
    elif credential.kind == "api-key":
        headers["x-goog-api-key"] = REDACTED
    else:
        headers["Authorization"] = f"Bearer {REDACTED}"
    return headers


def _redacted(path: str) -> str:
    """Return a path without the values of parameters that may be credentials."""
    path, mark, query = path.partition("?")
    shown = []
    for parameter in query.split("&"):
        name, equals, _ = parameter.partition("=")
        shown.append(f"{name}={REDACTED}" if equals and _SECRET.search(name) else parameter)
    return path + mark + "&".join(shown)


def _by(gateway: Gateway, calls: list[Call], hook: str, *outcomes: object) -> str | None:
    """
    Return the plugin that had the last word in a hook whose first result counts.

    :param outcomes: what became of the hook, in any form in which a plugin may have returned it.
    :returns: its name; that of a wrapper if it changed the result; None if what was returned was not taken.
    """
    for call in reversed(calls):
        if call.hook == hook and any(call.result is outcome or call.result == outcome for outcome in outcomes):
            return call.plugin
    implementations = getattr(gateway.hooks.manager.hook, hook).get_hookimpls()
    wrappers = [impl.plugin_name for impl in reversed(implementations) if impl.wrapper or impl.hookwrapper]
    return ", ".join(wrappers) or None


def _said(call: Call) -> Any:
    """Return a short form of what a plugin returned."""
    result = call.result
    if isinstance(result, GatewayError):
        return {"error": result.status, "message": result.message}
    if call.hook in ("agm_transform_request", "agm_wrap_request"):
        return type(result).__name__
    for attribute in ("model", "account"):
        value = getattr(result, attribute, None)
        if value is not None:
            return {attribute: getattr(value, "name", value), "reason": getattr(result, "reason", "")}
    if isinstance(result, Account):
        return {"account": result.name}
    return result if isinstance(result, str | dict) else type(result).__name__


def _shown(body: bytes) -> Any:
    """A body as JSON, or as text where it is none, or nested so deeply that laid out it would be all space; cut."""
    if len(body) > MAX_SHOWN:
        return body[:MAX_SHOWN].decode("utf-8", "replace") + f"… ({len(body)} bytes)"
    try:
        return documents.decode(body)
    except NOT_JSON:
        return body.decode("utf-8", "replace")

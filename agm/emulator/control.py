"""
Control, below ``/_emu/``: how a test sets the emulator up and asks what reached it.

========================  =============================================================================================
``GET /_emu/health``      ``{"status": "ok", "version": …}``
``POST /_emu/reset``      forget accounts, scripts, tokens, files, once-only faults, the log and the clock's offset
``GET /_emu/accounts``    ``{"accounts": […]}``: those that were declared and those that were named, no credentials
``POST /_emu/accounts``   ``{"accounts": [{"name": …, "credentials": […], …}]}``, or one account alone: declare accounts
``GET /_emu/script``      ``{"scripts": {account: {"left": steps, "repeat": …}}}``
``POST /_emu/script``     ``{"account": name or credential, "steps": ["429-2", "ok", …], "repeat": false}``
``GET /_emu/scenario``    ``{"scenario": name or null, "scenarios": {name: meaning}}``
``POST /_emu/scenario``   ``{"scenario": name or null}``: what every account follows that has no script of its own
``GET /_emu/log``         ``{"entries": […]}``; ``?since=SEQ``, ``?account=NAME``, ``?body=1`` for the requests' bodies
``DELETE /_emu/log``      forget the entries
``GET /_emu/clock``       ``{"now": seconds}``
``POST /_emu/clock``      ``{"advance": seconds}`` or ``{"now": seconds}``
========================  =============================================================================================

Bodies are JSON whatever their Content-Type; a key that is not known is refused with 400.  Control requests are
not logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

import agm
from agm.emulator import errors
from agm.emulator.calls import Call
from agm.emulator.errors import DISABLED_REASONS, GoogleError
from agm.emulator.replies import Reply, json_reply
from agm.emulator.scenarios import SCENARIOS
from agm.emulator.state import Account, Quotas, State

PREFIX = "/_emu"


class QuotaForm(msgspec.Struct, forbid_unknown_fields=True):
    """Quotas as control takes them: calls per minute and per day, for each model."""

    requests_per_minute: int | None = None
    requests_per_day: int | None = None


class AccountForm(msgspec.Struct, forbid_unknown_fields=True):
    """An account as control takes it; :class:`agm.emulator.state.Account` says what the fields mean."""

    name: str
    credentials: list[str] = []
    project: str | None = None
    tier: str | None = "standard-tier"
    quotas: QuotaForm = msgspec.field(default_factory=QuotaForm)
    models: list[str] = msgspec.field(default_factory=lambda: ["*"])
    disabled: str | None = None
    token_latency_ms: int = 0
    token_status: int | None = None
    expires_in: int = 3600


class AccountsForm(msgspec.Struct, forbid_unknown_fields=True):
    """Several accounts."""

    accounts: list[AccountForm]


class ScriptForm(msgspec.Struct, forbid_unknown_fields=True):
    """The faults of an account's next calls."""

    account: str
    steps: list[str]
    repeat: bool = False


class ScenarioForm(msgspec.Struct, forbid_unknown_fields=True):
    """The scenario that is to be followed; None for none."""

    scenario: str | None


class ClockForm(msgspec.Struct, forbid_unknown_fields=True):
    """A step of the clock, or a time to set it to, in seconds."""

    advance: float | None = None
    now: float | None = None


Form = TypeVar("Form")


def reply(call: Call, state: State) -> Reply:
    """Answer a control call."""
    path = call.path.removeprefix(PREFIX).strip("/")
    methods = _ROUTES.get(path)
    if methods is None:
        return _refusal(404, f"There is no {call.path}; there are " + ", ".join(f"{PREFIX}/{one}" for one in _ROUTES))
    answer = methods.get(call.method)
    if answer is None:
        return _refusal(405, f"{call.path} answers " + ", ".join(methods))
    try:
        return json_reply(answer(call, state))
    except (msgspec.DecodeError, ValueError) as problem:
        return _refusal(400, str(problem))


def _refusal(status: int, message: str) -> Reply:
    names = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 405: "INVALID_ARGUMENT"}
    return json_reply(GoogleError(status, message, rpc=names[status]).document(), status=status)


def _form(call: Call, form: type[Form]) -> Form:
    return msgspec.json.decode(call.body, type=form)


def _health(call: Call, state: State) -> dict[str, Any]:
    return {"status": "ok", "version": agm.__version__}


def _reset(call: Call, state: State) -> dict[str, Any]:
    state.reset()
    return {}


def _accounts(call: Call, state: State) -> dict[str, Any]:
    return {"accounts": [account.document() for account in state.accounts.values()]}


def _declare(call: Call, state: State) -> dict[str, Any]:
    document = msgspec.json.decode(call.body)
    alone = isinstance(document, dict) and "accounts" not in document
    forms = [_form(call, AccountForm)] if alone else _form(call, AccountsForm).accounts
    declared = [_account(form) for form in forms]
    for account in declared:
        state.declare(account)
    return {"accounts": [account.document() for account in declared]}


def _account(form: AccountForm) -> Account:
    if form.disabled is not None and form.disabled not in DISABLED_REASONS:
        raise ValueError(f"disabled {form.disabled!r} is none of " + ", ".join(DISABLED_REASONS))
    if form.token_status is not None and form.token_status not in errors.TOKEN_STATUSES:
        raise ValueError(f"token_status {form.token_status} is none of {sorted(errors.TOKEN_STATUSES)}")
    return Account(
        name=form.name,
        credentials=frozenset(form.credentials),
        project=form.project,
        tier=form.tier,
        quotas=Quotas(form.quotas.requests_per_minute, form.quotas.requests_per_day),
        models=tuple(form.models),
        disabled=form.disabled,
        token_latency_ms=form.token_latency_ms,
        token_status=form.token_status,
        expires_in=form.expires_in,
        declared=True,
    )


def _scripts(call: Call, state: State) -> dict[str, Any]:
    return {"scripts": {name: {"left": script.left, "repeat": script.repeat} for name, script in state.scripts.items()}}


def _script(call: Call, state: State) -> dict[str, Any]:
    form = _form(call, ScriptForm)
    name = state.script(form.account, form.steps, repeat=form.repeat)
    return {"account": name, "steps": len(form.steps), "repeat": form.repeat}


def _scenario(call: Call, state: State) -> dict[str, Any]:
    return {"scenario": state.scenario, "scenarios": {name: each.meaning for name, each in SCENARIOS.items()}}


def _follow(call: Call, state: State) -> dict[str, Any]:
    state.follow(_form(call, ScenarioForm).scenario)
    return {"scenario": state.scenario}


def _log(call: Call, state: State) -> dict[str, Any]:
    since = int(call.query.get("since") or 0)
    with_body = call.query.get("body", "0") not in ("0", "")
    listed = state.log.entries(since=since, account=call.query.get("account"))
    return {"entries": [entry.document(with_body=with_body) for entry in listed]}


def _clear_log(call: Call, state: State) -> dict[str, Any]:
    state.log.clear()
    return {}


def _clock(call: Call, state: State) -> dict[str, Any]:
    return {"now": state.clock.now()}


def _set_clock(call: Call, state: State) -> dict[str, Any]:
    form = _form(call, ClockForm)
    if (form.advance is None) == (form.now is None):
        raise ValueError("either advance or now, in seconds")
    if form.now is not None:
        state.clock.set(form.now)
    else:
        state.clock.advance(form.advance or 0.0)
    return _clock(call, state)


Answer = Callable[[Call, State], dict[str, Any]]

_ROUTES: Mapping[str, Mapping[str, Answer]] = {
    "health": {"GET": _health},
    "reset": {"POST": _reset},
    "accounts": {"GET": _accounts, "POST": _declare},
    "script": {"GET": _scripts, "POST": _script},
    "scenario": {"GET": _scenario, "POST": _follow},
    "log": {"GET": _log, "DELETE": _clear_log},
    "clock": {"GET": _clock, "POST": _set_clock},
}

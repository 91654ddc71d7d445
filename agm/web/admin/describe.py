"""
How the gateway stands, as JSON documents: all of it, and its accounts, models, client keys and plugins.

docs/admin.md describes them.  No credential is in any.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from agm import __version__
from agm.core.client_keys import ClientKey
from agm.core.pool.breaker import origin
from agm.core.pool.cooldown import KnownCooldown, Remembered
from agm.core.pool.exclusions import Cause
from agm.core.remedies import fix_for
from agm.core.request import Account
from agm.hookspecs import API_VERSION
from agm.plugins.manager import HOOKS, PluginManager
from agm.serving.gateway import Gateway

#: How a person reads the cause of a cooldown.
_STATES = {Cause.RESTING.name: "resting", Cause.DISABLED.name: "disabled", Cause.ASIDE.name: "set aside"}


def describe_status(gateway: Gateway) -> dict[str, Any]:
    """Describe all of it."""
    return {
        **describe_moment(gateway),
        **describe_traffic(gateway),
        "requests": gateway.live.latest(),
        **describe_parts(gateway),
    }


def describe_moment(gateway: Gateway) -> dict[str, Any]:
    """Describe what differs each time: the time, and the totals since the start."""
    live = gateway.live
    return {"at": round(gateway.wall(), 3), "uptime": round(live.uptime, 3), "totals": live.totals()}


def describe_traffic(gateway: Gateway, seconds: int | None = None) -> dict[str, Any]:
    """Describe the traffic of the last minutes, or of so many seconds, and the open requests."""
    live = gateway.live
    return {"traffic": live.traffic() if seconds is None else live.traffic(seconds), "open": live.open_requests()}


def describe_parts(gateway: Gateway) -> dict[str, Any]:
    """Describe what changes seldom, in parts."""
    return {part: describe(gateway) for part, describe in _PARTS.items()}


def _describe_gateway(gateway: Gateway) -> dict[str, Any]:
    return {
        "version": __version__,
        "pid": os.getpid(),
        "started": round(gateway.live.started, 3),
        "config": config_of(gateway),
        "editable": gateway.reload_file is not None,
        "key_names": [key.name for key in gateway.config.auth.keys],
        "switched_off": [account.name for account in gateway.config.accounts if not account.enabled],
        "listeners": list(gateway.live.listening),
        "auth_mode": gateway.clients.mode,
        "auth_forwarded": gateway.clients.mode_for(local=False),
        "strategy": gateway.config.pool.strategy,
        "max_attempts": gateway.config.pool.max_attempts,
    }


def config_of(gateway: Gateway) -> str | None:
    """Return the path of the configuration that the gateway was started with, None without one."""
    path = gateway.config.path
    return None if path is None else str(path)


def _describe_accounts(gateway: Gateway) -> list[dict[str, Any]]:
    """Describe accounts as :func:`describe_accounts` does, and what was tried with each."""
    return [
        {
            **described,
            "priority": account.priority,
            "endpoints": [origin(url) for url in account.endpoints],
            **gateway.live.tries(account.name),
        }
        for account, described in zip(gateway.pool.accounts, describe_accounts(gateway), strict=True)
    ]


def _describe_endpoints(gateway: Gateway) -> list[dict[str, Any]]:
    users: dict[str, int] = {}
    for account in gateway.pool.accounts:
        for url in dict.fromkeys(origin(url) for url in account.endpoints):
            users[url] = users.get(url, 0) + 1
    described = []
    for url, accounts in users.items():
        state, left = gateway.pool.endpoint_standing(url)
        described.append(
            {
                "endpoint": url,
                "accounts": accounts,
                "breaker": state,
                "seconds_left": None if left is None else round(left, 1),
            }
        )
    return described


def _describe_models(gateway: Gateway) -> list[dict[str, Any]]:
    aliases = gateway.config.models.aliases
    described = []
    for resource in gateway.models.catalog.page("1000", None)["models"]:
        name = str(resource["name"]).removeprefix("models/")
        described.append(
            {
                "name": name,
                "display_name": resource.get("displayName"),
                "alias_of": aliases.get(name),
                "input_limit": resource.get("inputTokenLimit"),
                "output_limit": resource.get("outputTokenLimit"),
                "methods": list(resource.get("supportedGenerationMethods") or ()),
            }
        )
    return described


def _describe_aliases(gateway: Gateway) -> list[dict[str, str]]:
    return [{"pattern": pattern, "model": model} for pattern, model in gateway.config.models.aliases.items()]


def _describe_keys(gateway: Gateway) -> list[dict[str, Any]]:
    """Client keys by their names: those that are known, then those that were used without being in a list."""
    use = dict(gateway.live.key_use())
    unused = {"requests": 0, "errors": 0, "prompt_tokens": 0, "output_tokens": 0, "last_used": None}
    described = [{**describe_key(gateway, key), **use.pop(key.name, unused)} for key in gateway.clients.client_keys]
    others = [
        {**describe_key(gateway, ClientKey(name or "", "")), "name": name, **counts} for name, counts in use.items()
    ]
    return [*described, *others]


def _describe_plugins(gateway: Gateway) -> dict[str, Any]:
    """Describe plugins as :func:`describe_plugins` does, and the hooks that failed."""
    hooks = gateway.hooks
    failures = [
        {"plugin": plugin, "hook": hook, "count": count} for (plugin, hook), count in sorted(hooks.failures.items())
    ]
    return {**describe_plugins(hooks.manager, hooks.failures), "failures": failures}


def describe_accounts(gateway: Gateway) -> list[dict[str, Any]]:
    """
    Return the accounts in the order of the configuration, as a JSON document; docs/accounts.md describes its fields.

    No credential is in it; an upstream's error is told by its status and reason, and not by what it repeats of a
    request.
    """
    known, loads = gateway.pool.remember(), gateway.pool.loads()
    return [
        _standing(account, known.get(account.name, Remembered()), loads[account.name], gateway)
        for account in gateway.pool.accounts
    ]


def _standing(account: Account, known: Remembered, load: int, gateway: Gateway) -> dict[str, Any]:
    failed = gateway.last_failures.get(account.name)
    last = None if failed is None else failed.record
    return {
        "name": account.name,
        "kind": account.kind,
        "project": gateway.code_assist.known(account).project,
        "in_flight": load,
        "max_concurrency": account.max_concurrency,
        "sessions": gateway.sessions.of_accounts[account.name],
        "max_sessions": account.max_sessions,
        "disabled": known.disabled,
        "held": None if known.held is None else describe_cooldown(account, known.held),
        "models": [describe_cooldown(account, cooldown) for cooldown in known.all_cooldowns],
        "quotas": [
            {"model": model, "remaining": round(remaining, 4), "seconds_left": round(left, 1)}
            for model, remaining, left in known.quotas
        ],
        "last_failure": None
        if failed is None or last is None or last.verdict is None
        else {
            "seconds_ago": round(gateway.reactor.seconds() - failed.at, 1),
            "model": last.model,
            "status": last.status,
            "reason": last.verdict.reason,
        },
    }


def describe_cooldown(account: Account, cooldown: KnownCooldown) -> dict[str, Any]:
    """A cooldown as a JSON document: for which model (``*`` is all), why, for how long, and the act that helps."""
    left = cooldown.left
    return {
        "model": cooldown.model,
        # after a cooldown, one request tries the account before the others do
        "state": "probe due" if left is not None and left <= 0 else _STATES.get(cooldown.cause, cooldown.cause.lower()),
        "reason": cooldown.reason,
        "seconds_left": None if left is None else max(round(left, 1), 0.0),
        "message": cooldown.message,
        "link": cooldown.link,
        "fix": fix_for(account, cooldown),
    }


def describe_key(gateway: Gateway, key: ClientKey) -> dict[str, Any]:
    """Return a client key's name, limits and use since midnight UTC, as a JSON document."""
    requests, tokens = gateway.clients.allowances.today(key.name)
    return {
        "name": key.name,
        "models": list(key.models),
        **attrs.asdict(key.limits),
        "expires": key.expires,
        "admin": key.admin,
        "team": key.team,
        "weight": key.weight,
        "today": {"requests": requests, "tokens": tokens},
    }


def describe_plugins(manager: PluginManager, failures: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """
    Plugins and hooks, in the order in which they are asked, as a JSON document.

    :param failures: how often a plugin's hook raised, by (plugin, hook).
    """
    plugins: list[Mapping[str, Any]] = []
    for name, found in reversed(manager.origins.items()):
        plugin = manager.get_plugin(name)
        hooks = [caller.name for caller in manager.get_hookcallers(plugin) or ()]
        plugins.append(
            {
                "name": name,
                "origin": found.kind,
                "where": found.where,
                "version": found.version,
                "hooks": sorted(hooks, key=HOOKS.index),
                "kinds": [kind for kind, whose in manager.kind_plugins.items() if whose == name],
                "failures": sum(count for (who, _), count in failures.items() if who.partition(":")[0] == name),
            }
        )
    hooks_in_order: list[Mapping[str, Any]] = [
        {"hook": hook, "plugins": [_named(impl) for impl in reversed(getattr(manager.hook, hook).get_hookimpls())]}
        for hook in HOOKS
    ]
    return {"api_version": API_VERSION, "plugins": plugins, "hooks": hooks_in_order}


def _named(impl: Any) -> str:
    name: str = impl.plugin_name
    return f"{name} (wrapper)" if impl.wrapper or impl.hookwrapper else name


#: The parts of the document that change seldom, each with what describes it.
_PARTS: Mapping[str, Callable[[Gateway], Any]] = {
    "gateway": _describe_gateway,
    "accounts": _describe_accounts,
    "endpoints": _describe_endpoints,
    "models": _describe_models,
    "aliases": _describe_aliases,
    "keys": _describe_keys,
    "plugins": _describe_plugins,
}

"""
Keep some accounts for the night: by day they serve nothing, at night they serve first.

Copy this file into the folder of ``[plugins] path``::

    [plugins.night_shift]
    accounts = ["batch-*"]          # patterns of names; without any, the plugin does nothing
    begins = "22:00"
    ends = "06:00"
    timezone = "Europe/Berlin"      # UTC by default

What counts is when a request came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from agm.api import Account, AccountChoice, GatewayRequest, Patterns, hookimpl

settings: dict[str, Any] = {}


@hookimpl
def agm_configure(config: Any) -> None:
    """Read the table; a time or a zone that is none ends the start."""
    table = config.plugins.tables.get("night_shift", {})
    settings["accounts"] = Patterns(table.get("accounts", ()))
    settings["begins"] = time.fromisoformat(table.get("begins", "22:00"))
    settings["ends"] = time.fromisoformat(table.get("ends", "06:00"))
    settings["timezone"] = ZoneInfo(table.get("timezone", "UTC"))


def is_night(request: GatewayRequest) -> bool:
    now = datetime.fromtimestamp(request.received_at, settings["timezone"]).time()
    begins, ends = settings["begins"], settings["ends"]
    return begins <= now < ends if begins <= ends else now >= begins or now < ends  # the latter has midnight in it


@hookimpl
def agm_filter_accounts(accounts: Sequence[Account], request: GatewayRequest) -> Mapping[str, str]:
    """By day, the others serve."""
    reason = f"on duty from {settings['begins']:%H:%M}"
    return {} if is_night(request) else {a.name: reason for a in accounts if a.name in settings["accounts"]}


@hookimpl
def agm_select_account(
    accounts: Sequence[Account], request: GatewayRequest, loads: Mapping[str, int]
) -> AccountChoice | None:
    """At night, the night's account with the fewest requests."""
    on_duty = [a for a in accounts if a.name in settings["accounts"]]
    if not on_duty or not is_night(request):
        return None
    return AccountChoice(min(on_duty, key=lambda a: loads.get(a.name, 0)), "the night shift")

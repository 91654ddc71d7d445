"""
Give each team a number of tokens for a day; when they are used up, its requests are answered with 429 until midnight.

Copy this file into the folder of ``[plugins] path``::

    [plugins.team_budgets.teams]            # patterns of client keys' names, the first that fits counts
    "research-*" = "research"
    [plugins.team_budgets.tokens]           # a team that is not here has no limit
    research = 2000000

Tokens are ``usageMetadata.totalTokenCount``, as the upstream counts them, and days are UTC's.  A request is counted
when it has ended, so those in flight may overdraw.  Numbers are kept in memory: a restart begins a new day.  Answers
are parsed for the counts, so they no longer pass byte for byte.
"""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from typing import Any

from agm.api import GatewayRequest, RequestRecord, TooManyRequests, hookimpl

#: Nothing is edited here, and files are free: what cannot be shown may pass.
may_pass_unseen = True

DAY = 86400
settings: dict[str, dict[str, Any]] = {}
spent: Counter[tuple[int, str]] = Counter()  # tokens by day and team
under_way: dict[str, int] = {}  # tokens so far, by the id of a request


@hookimpl
def agm_configure(config: Any) -> None:
    """Read the table; what was spent stays spent."""
    table = config.plugins.tables.get("team_budgets", {})
    settings.update(teams=table.get("teams", {}), tokens=table.get("tokens", {}))


def day_and_team(request: GatewayRequest) -> tuple[int, str]:
    name = request.client_key or ""
    teams = settings["teams"].items()
    return int(request.received_at // DAY), next((team for pattern, team in teams if fnmatchcase(name, pattern)), name)


@hookimpl
def agm_filter_accounts(request: GatewayRequest) -> None:
    """Takes no account away, but refuses a team that has nothing left: it is asked right before an attempt."""
    day, team = day_and_team(request)
    limit = settings["tokens"].get(team)
    if limit is not None and spent[day, team] >= limit:
        left = (day + 1) * DAY - request.received_at
        raise TooManyRequests(f"Team {team} has used its {limit} tokens of today.", retry_after=left)


@hookimpl
def agm_transform_event(event: dict[str, Any], request: GatewayRequest) -> None:
    """Note the count, which grows from event to event."""
    usage = event.get("usageMetadata")
    if isinstance(usage, dict) and isinstance(usage.get("totalTokenCount"), int):
        under_way[request.id] = usage["totalTokenCount"]


@hookimpl
def agm_request_finished(record: RequestRecord) -> None:
    """Count what the request has cost, however it ended, and forget the days before yesterday."""
    day, team = day_and_team(record.request)
    spent[day, team] += under_way.pop(record.request.id, 0)
    for old in [key for key in spent if key[0] < day - 1]:
        del spent[old]

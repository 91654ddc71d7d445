"""
How a running gateway stands, put into words and rows for ``agm status`` and ``agm top``.

The document is that of ``GET /_agm/status``; nothing is asked here, and nothing printed.  Whatever came from a client
or an upstream is stripped of what a terminal would take for more than text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from agm.cli.account_status import STATES, details, duration, summary
from agm.cli.running import printable
from agm.core.words import counted

__all__ = ["Overview", "Section", "sparkline"]

#: Rows that are shown of accounts, of requests under way, and of errors; and lines on how accounts stand.
ACCOUNTS, OPEN, ERRORS, STANDING = 20, 10, 5, 10


@attrs.frozen
class Section:
    """A table under a heading, with lines below it; `rows` may be none."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    below: Sequence[str] = ()


@attrs.frozen
class Overview:
    """The document's head in lines, and the rest in sections.  `address` is where it was asked for."""

    document: Mapping[str, Any]
    address: str

    @property
    def head(self) -> Sequence[str]:
        """What runs, how long, and how much it has served."""
        gateway, totals = self.document["gateway"], self.document["totals"]
        errors = counted(totals["errors"], "error")
        lines = [
            f"agm {gateway['version']} at {self.address}, up {duration(self.document['uptime'])}, pid {gateway['pid']}",
            f"configuration {gateway['config'] or 'none: defaults'}; client keys {gateway['auth_mode']}; "
            f"strategy {gateway['strategy']}",
            f"{counted(totals['requests'], 'request')} ({errors}), {totals['open']} in flight, "
            f"{counted(totals['streams'], 'stream')}; "
            f"{totals['prompt_tokens']:,} prompt and {totals['output_tokens']:,} output tokens; "
            f"{_size(totals['sent'])} sent",
        ]
        workers = self.document.get("workers")
        if workers is not None:
            each = ", ".join(f"{it['worker']}: {it['requests']:,}, {it['open']} in flight" for it in workers["told"])
            there = max(workers["running"], workers["configured"])
            lines.append(
                f"{workers['heard']} of {there} workers heard ({each})"
                if workers["alone"] is None
                else f"worker {workers['alone']} of {there} alone"
            )
        return [printable(line) for line in lines]

    @property
    def sections(self) -> Sequence[Section]:
        """Accounts, endpoints that are left alone, requests under way, the last errors; those with nothing are out."""
        every = (self._accounts(), self._endpoints(), self._open(), self._errors())
        return [section for section in every if section is not None]

    def _accounts(self) -> Section:
        every = self.document["accounts"]
        shown = every
        if len(every) > ACCOUNTS:  # of many, those that a person may want to see to
            shown = sorted(every, key=lambda account: summary(account) == "ready")[:ACCOUNTS]
        rows = [
            _row(a["name"], a["kind"], summary(a), a["in_flight"], a["attempts"], a["failed"], a["priority"])
            for a in shown
        ]
        lines = [f"{account['name']}: {line}" for account in shown for line in details(account)]
        below = lines[:STANDING]
        if len(shown) < len(every) or len(lines) > STANDING:
            below.append(f"{len(every)} accounts in all; `agm account list` tells everything about them")
        if not every:
            below = ["none; `agm account add NAME` adds one"]
        columns = ("name", "kind", "state", "in flight", "attempts", "failed", "priority")
        return Section("accounts", columns, rows, [printable(line) for line in below])

    def _endpoints(self) -> Section | None:
        left_alone = [each for each in self.document["endpoints"] if each["breaker"] != "closed"]
        rows = [
            _row(each["endpoint"], STATES.get(each["breaker"], each["breaker"]), _left(each["seconds_left"]))
            for each in left_alone
        ]
        return Section("failing endpoints", ("endpoint", "breaker", "left"), rows) if rows else None

    def _open(self) -> Section | None:
        found = self.document["open"]
        rows = [
            _row(
                duration(each["seconds"]),
                each["state"],
                each["method"],
                _model(each),
                each["account"] or (each["attempts"][-1]["account"] if each["attempts"] else None),
                each["client_key"],
                _size(each["sent"]),
            )
            for each in found[:OPEN]
        ]
        more = self.document["totals"]["open"] - len(rows)
        below = [f"and {more} more"] if more > 0 else []
        columns = ("for", "state", "method", "model", "account", "client key", "sent")
        return Section("requests in flight", columns, rows, below) if rows else None

    def _errors(self) -> Section | None:
        failed = [each for each in self.document["requests"] if each["outcome"] in ("error", "aborted")][:ERRORS]
        rows = [
            _row(
                f"{duration(max(self.document['at'] - each['at'] - each['seconds'], 0.0))} ago",
                each["status"],
                each["outcome"],
                _reason(each),
                _model(each),
                each["account"] or (each["attempts"][-1]["account"] if each["attempts"] else None),
                each["id"],
            )
            for each in failed
        ]
        columns = ("when", "status", "outcome", "reason", "model", "account", "request")
        return Section("last errors", columns, rows) if rows else None


def _row(*cells: object) -> Sequence[str]:
    return [printable("-" if cell is None else str(cell)) for cell in cells]


def _model(request: Mapping[str, Any]) -> str | None:
    asked, served = request["asked"], request["served"]
    return asked if served in (None, asked) else f"{asked} → {served}"


def _reason(request: Mapping[str, Any]) -> str | None:
    last = request["attempts"][-1] if request["attempts"] else {}
    return request["reason"] or last.get("reason")


def _left(seconds: float | None) -> str | None:
    return None if seconds is None else duration(seconds)


def _size(count: float) -> str:
    """``812 B``, ``1.4 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the last `width` values as a row of bars of eight heights, the largest full; a blank is 0."""
    shown = list(values)[-width:]
    most = max(shown, default=0)
    bars = " ▁▂▃▄▅▆▇█"
    return "".join(bars[0 if not value else max(1, round(value / most * 8))] for value in shown)

"""
What comes next, at the pace of today: when accounts are back that cannot serve now, and when those that can are out.

Accounts are back when their cooldown is over.  They are out when a quota that their upstream reports comes down to
their reserve, when they have served as much of a model as on the day on which their daily quota was last used up, or
when their budget is spent.  A pace needs :data:`LEAST` seconds to be one; what cannot be known is left out.  Time is
handed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from agm.core.durations import until_pacific_midnight
from agm.core.pool.exclusions import Exclusion
from agm.core.request import AttemptRecord
from agm.core.spending import moment
from agm.core.words import counted

#: Seconds that something has to be watched until it has a pace.
LEAST = 600.0
#: Pairs of an account and a model whose day is counted; the oldest is forgotten first.
MAX_PAIRS = 20_000
#: Models that a forecast is made for: those that were asked for most today.
MAX_MODELS = 20
#: Waits that a sentence tells one by one.
MAX_TOLD = 4
#: Seconds from which on a time is told, and not how long it is until then.
SOON = 100.0

Pair = tuple[str, str]


class DayQuotas:
    """
    How much each account has served of each model since Google's daily quotas began anew, and of how much it is known
    that it was all.

    :param wall: seconds since the epoch.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._ends = 0.0
        self._since = 0.0
        self._served: Counter[Pair] = Counter()
        self._limits: dict[Pair, int] = {}

    def _today(self, now: float) -> None:
        """Begin another day, if this one is over or the clock was set back by more than one."""
        if not now < self._ends <= now + 90_000.0:  # a day of 25 hours is one as well
            self._ends, self._since = now + until_pacific_midnight(now), now
            self._served.clear()

    def note(self, attempts: Iterable[AttemptRecord], now: float) -> None:
        """Note the attempts of a request that has ended, at a time in seconds since the epoch."""
        if not self._since <= now < self._ends:
            self._today(now)
        for attempt in attempts:
            pair = (attempt.account, attempt.model)
            if attempt.verdict is None:
                self._served[pair] += 1
                if pair in self._limits and self._served[pair] > self._limits[pair]:
                    del self._limits[pair]  # it was not all
            elif attempt.verdict.reason == "DAILY_QUOTA" and pair in self._served:
                self._limits.pop(pair, None)
                self._limits[pair] = self._served[pair]
                if len(self._limits) > MAX_PAIRS:
                    del self._limits[next(iter(self._limits))]
        if len(self._served) > MAX_PAIRS:
            del self._served[next(iter(self._served))]

    def models(self) -> list[tuple[str, int]]:
        """Return the models that were served today, each with how often, the most frequent first."""
        self._today(self._wall())
        counts: dict[str, int] = {}
        for (_, model), served in self._served.items():
            if model:
                counts[model] = counts.get(model, 0) + served
        return sorted(counts.items(), key=lambda it: (-it[1], it[0]))

    def out_in(self, account: str, model: str) -> float | None:
        """Seconds until an account has served all of a model's daily quota, at today's pace; None if it will not."""
        now = self._wall()
        self._today(now)
        limit, served = self._limits.get((account, model)), self._served.get((account, model), 0)
        if limit is None or not served:
            return None
        seconds = out_in(served, limit, now - self._since)
        return seconds if seconds is not None and now + seconds < self._ends else None

    # Restarts

    def dump(self) -> tuple[float, float, list[tuple[str, str, int]], list[tuple[str, str, int]]]:
        """When the day ends and since when it is counted, what was served of it, and what is known to be all."""
        return (
            self._ends,
            self._since,
            [(*pair, count) for pair, count in self._served.items()],
            [(*pair, count) for pair, count in self._limits.items()],
        )

    def load(
        self,
        ends: float,
        since: float,
        served: Iterable[tuple[str, str, int]],
        limits: Iterable[tuple[str, str, int]],
    ) -> None:
        """Go on with what was known before a restart."""
        now = self._wall()
        self._limits = {(account, model): count for account, model, count in limits}
        if now < ends <= now + 90_000.0:
            self._ends, self._since = ends, min(since, now)
            self._served = Counter({(account, model): count for account, model, count in served})


def out_in(used: float, limit: float, elapsed: float) -> float | None:
    """Seconds until `limit` is used up at the pace of the last `elapsed` seconds; None where that is not known."""
    if elapsed < LEAST or used <= 0:
        return None
    return max(limit - used, 0.0) * elapsed / used


@attrs.frozen
class Outlook:
    """
    What comes next for an account and a model.

    `state` is ``ready`` or the cause for which it cannot serve, and `reason` says that in words; `back` and `out` are
    seconds, None where they are not known; `by` says what it will be out of.
    """

    name: str
    state: str = "ready"
    reason: str = ""
    back: float | None = None
    out: float | None = None
    by: str = ""

    def document(self, now: float) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "state": self.state,
            "reason": self.reason,
            **times("back", self.back, now),
            **times("out", self.out, now),
            "out_by": self.by or None,
        }


def times(what: str, seconds: float | None, now: float) -> dict[str, Any]:
    """Give a time as JSON: in how many seconds, and when."""
    return {
        f"{what}_in": None if seconds is None else round(seconds, 1),
        f"{what}_at": None if seconds is None else round(now + seconds, 1),
    }


def all_out(accounts: Sequence[Outlook]) -> float | None:
    """Seconds until no account is left, at this pace: 0 if there is none now; None where some will be, or may."""
    ready = [it for it in accounts if it.state == "ready"]
    if not ready:
        return 0.0 if accounts else None
    last = 0.0
    for it in ready:
        if it.out is None:
            return None
        last = max(last, it.out)
    back = min((it.back for it in accounts if it.state != "ready" and it.back is not None), default=None)
    return last if back is None or back > last else None


def model_document(model: str, accounts: Sequence[Outlook], now: float) -> dict[str, Any]:
    """Return what comes next for a model, as JSON; `text` is a sentence of it."""
    found = {
        "model": model,
        "accounts": [it.document(now) for it in accounts],
        **times("out", all_out(accounts), now),
    }
    return {**found, "text": sentence(found, now)}


def at_or_in(seconds: float, now: float, clock: Callable[[float], str] = moment) -> str:
    """Return a time as people read it: how long it is until then, or when that is."""
    return f"in {seconds:.0f} s" if seconds < SOON else f"at {clock(now + seconds)}"


def sentence(of: Mapping[str, Any], now: float, clock: Callable[[float], str] = moment) -> str:
    """
    Tell what comes next for a model: ``b is back in 41 s; at this pace both are out at 16:20``.

    :param of: its document.
    :param now: to which that belongs, in seconds since the epoch.
    :param clock: writes a time.
    """
    accounts: Sequence[Mapping[str, Any]] = of["accounts"]
    away = sorted((it for it in accounts if it["back_in"] is not None), key=lambda it: it["back_in"])
    parts = [f"{it['name']} is back {at_or_in(it['back_in'], now, clock)}" for it in away[:MAX_TOLD]]
    if len(away) > MAX_TOLD:
        parts.append(f"{len(away) - MAX_TOLD} more are back later")
    held = [it["name"] for it in accounts if it["state"] != "ready" and it["back_in"] is None]
    if held:
        parts.append(f"{', '.join(held[:MAX_TOLD])} {'is' if len(held) == 1 else 'are'} out until manual action")
    ready = [it for it in accounts if it["state"] == "ready"]
    if ready and of["out_in"] is not None:
        whom = {1: f"{ready[0]['name']} is", 2: "both are"}.get(len(ready), f"all {len(ready)} are")
        parts.append(f"at this pace {whom} out {at_or_in(of['out_in'], now, clock)}")
    elif ready:
        for it in sorted((it for it in ready if it["out_in"] is not None), key=lambda it: it["out_in"])[:MAX_TOLD]:
            parts.append(f"at this pace {it['name']} is out {at_or_in(it['out_in'], now, clock)}")
        if not parts:
            parts.append(f"{counted(len(ready), 'account is', 'accounts are')} ready, and no end is in sight")
    return "; ".join(parts) or "there is no account for it"


def returns(exclusions: Iterable[Exclusion], now: float, *, names: bool) -> str:
    """
    Tell a client when accounts are expected back: a sentence with a space after it, empty if none is.

    :param names: whether it may be told their names.
    """
    waits = sorted(((it.wait, it.account.name) for it in exclusions if it.wait is not None), key=lambda it: it[0])
    if not waits:
        return ""
    if names:
        told = [f"{name} {at_or_in(wait, now)}" for wait, name in waits[:MAX_TOLD]]
        more = f" and {len(waits) - MAX_TOLD} later" if len(waits) > MAX_TOLD else ""
        return f"Back: {', '.join(told)}{more}. "
    first, last = at_or_in(waits[0][0], now), at_or_in(waits[-1][0], now)
    if len(waits) == 1:
        return f"One account is expected back {first}. "
    if first == last:
        return f"{len(waits)} accounts are expected back {first}. "
    return f"{len(waits)} accounts are expected back, the first {first}, the last {last}. "

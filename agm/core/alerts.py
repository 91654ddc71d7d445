"""
Alerts: what somebody may have to act on, in a sentence, and when a storm of refusals is one.

They are decided where it happens, and told to whoever hears them by :meth:`agm.plugins.hooks.Hooks.alert`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import attrs

AlertKind = Literal["budget", "account_off", "quota_storm"]

#: So many requests refused for want of quota within so many seconds are a storm.
STORM_REQUESTS = 10
STORM_SECONDS = 60.0


@attrs.frozen(slots=False)
class Alert:
    """
    Something that somebody may have to act on.

    `kind` is ``budget``, ``account_off`` or ``quota_storm``; `about` tells it from others of its kind, such as the name
    of an account: what is said of the same thing again need not be told again; `text` is a sentence or two for a
    person; `details` hold the same for programs, as JSON has it.  No secret is in any of them.
    """

    kind: AlertKind
    about: str
    text: str
    details: Mapping[str, str | int | float | None] = attrs.field(factory=dict)


class QuotaStorms:
    """
    Counts the requests that no account had quota or capacity for.

    :param now: seconds of a clock that never goes back.
    :param alert: takes the alert that they make.
    """

    def __init__(self, now: Callable[[], float], alert: Callable[[Alert], object]) -> None:
        self._now = now
        self._alert = alert
        self._refused: deque[tuple[float, str]] = deque(maxlen=STORM_REQUESTS)

    def refused(self, model: str) -> None:
        """Note that a request for a model was refused so."""
        now = self._now()
        self._refused.append((now, model))
        if len(self._refused) < STORM_REQUESTS or self._refused[0][0] < now - STORM_SECONDS:
            return
        models = sorted({model for _, model in self._refused})
        self._refused.clear()  # the next ten are told of anew, to whoever wants to hear it again
        shown = ", ".join(models[:3]) + (f" and {len(models) - 3} more" if len(models) > 3 else "")
        self._alert(
            Alert(
                "quota_storm",
                "all accounts",
                f"{STORM_REQUESTS} requests within {STORM_SECONDS:.0f} seconds found no account with quota or capacity"
                f" left for {shown}.",
                MappingProxyType(
                    {"requests": STORM_REQUESTS, "seconds": int(STORM_SECONDS), "models": ", ".join(models)}
                ),
            )
        )

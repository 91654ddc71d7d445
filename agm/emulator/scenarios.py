"""
Scenarios: faults of a service on a bad day, by a name, for whoever calls, until there is another.

A scenario is a script (:mod:`agm.emulator.faults`) that every account follows which has none of its own, each from its
beginning, and that starts over at its end or does not.  :data:`SCENARIOS` is the list; ``docs/emulator-ci.md`` shows
it, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

__all__ = ["SCENARIOS", "Scenario"]


@attrs.frozen
class Scenario:
    """The `steps` of each account, one a call; whether they `repeat`; and what that means to a client."""

    steps: Sequence[str]
    repeat: bool
    meaning: str


SCENARIOS: Mapping[str, Scenario] = {
    "rate-limited": Scenario(
        ["429rpm-1", "429rpm-1", "ok"], True, "two calls of three are 429 with RetryInfo of a second; a retry is served"
    ),
    "quota-exhausted": Scenario(["429day"], True, "every call is 429: the quota of the day is used up"),
    "overloaded": Scenario(["503", "503", "ok"], True, "two calls of three are 503, the model is overloaded"),
    "outage": Scenario(["503"], True, "every call is 503"),
    "flaky": Scenario(
        ["ok", "500", "ok", "close", "ok", "504"],
        True,
        "every other call fails: 500, a connection that drops before the answer, 504",
    ),
    "slow": Scenario(["latency-2000"], True, "two seconds before the first byte of each answer"),
    "hanging": Scenario(["hang"], True, "no answer ever: for timeouts"),
    "cut-streams": Scenario(["cut"], True, "each answer breaks off in its middle, without an end"),
    "stream-errors": Scenario(["midstream"], True, "each stream has a good event, then one with an error"),
    "bad-json": Scenario(["badjson"], True, "each answer has JSON that breaks off"),
    "blocked": Scenario(["blockprompt"], True, "each prompt is blocked: promptFeedback and no candidates"),
    "unauthorized": Scenario(["401"], True, "every call is 401"),
    "recovers": Scenario(["503", "503", "503"], False, "three calls are 503, all others are served"),
}

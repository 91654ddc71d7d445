"""
Why accounts are no candidates for a request, and the one right error when none is left.

The reasons come from the pool and from plugins; what is to be told follows from them alone.  No account is named to a
client.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

import attrs

from agm.core.errors import GatewayError, NotFound, TooManyRequests, Unavailable, Unimplemented
from agm.core.request import Account

#: When a client is to try again while no account will get well by itself, in seconds.
PERSON_WAIT = 60.0
#: How many secrets that are missing or unusable an error names the cure for.
MAX_CURES = 3


class Cause(Enum):
    """The kinds of reasons for which an account is not a candidate."""

    METHOD = "its kind lacks the method"
    MODEL = "it lacks the model"
    DISABLED = "needing manual action"
    ASIDE = "set aside"
    RESTING = "resting"  # the name that programs read; people read "cooling down"
    RESERVE = "keeping its reserve"
    BUDGET = "over its budget"
    ENDPOINT = "its endpoints fail"
    PROBING = "being probed"
    BUSY = "at its max_concurrency"
    PLUGIN = "taken away by a plugin"
    OWNER = "not the owner of what the request names"


#: How a count of accounts with a cause is told, where the cause's own words do not follow a number.
_COUNTED = {
    Cause.RESTING: "cooling down",
    Cause.RESERVE: "keeping a reserve",
    Cause.ENDPOINT: "with failing endpoints",
    Cause.OWNER: "not owning what the request names",
}


@attrs.frozen
class Exclusion:
    """
    Why an account is not a candidate: the `cause`, and a `reason` to read.

    `wait` is the number of seconds after which that may end, None if it is not known to.  `message` is what Google said
    of the account, and `link` where it says that this can be mended; neither is for clients.
    """

    account: Account
    cause: Cause
    reason: str
    wait: float | None = None
    message: str = ""
    link: str | None = None


def earliest(exclusions: Iterable[Exclusion]) -> float | None:
    """The shortest wait after which one of the accounts may serve again, in seconds; None if none is known to."""
    return min((e.wait for e in exclusions if e.wait is not None), default=None)


def nothing_left(
    model: str, method: str, version: str, exclusions: Sequence[Exclusion], outlook: str = ""
) -> GatewayError:
    """
    The error for a request that no account can serve, from the reasons of all of them.  It names no account itself.

    :param outlook: when accounts are expected back, in a sentence with a space after it.
    """
    if not exclusions:
        return Unavailable(
            "agm has no account to serve this. Add one with the command: agm account add NAME",
            reason="NO_ACCOUNTS",
            retry_after=PERSON_WAIT,
        )
    able = [e for e in exclusions if e.cause is not Cause.METHOD]
    if not able:
        return Unimplemented(f"None of the {len(exclusions)} accounts is of a kind that has {method}.")
    having = [e for e in able if e.cause is not Cause.MODEL]
    if not having:
        return NotFound(
            f"models/{model} is not found for API version {version}, or is not supported for {method}. "
            "Call ListModels to see the list of available models and their supported methods.",
            reason="MODEL_NOT_SERVED",
        )
    wait = earliest(having)
    what = f"models/{model}" if model else method
    reasons = ", ".join(
        f"{sum(e.cause is c for e in having)} {_COUNTED.get(c, c.value)}"
        for c in Cause
        if any(e.cause is c for e in having)
    )
    if all(e.cause is Cause.ENDPOINT for e in having):
        return Unavailable(
            f"No account can serve {what} now ({reasons}). {outlook}Please retry in {wait:.3f}s.",
            reason="ENDPOINTS_FAIL",
            retry_after=wait,
        )
    if wait is not None:
        return TooManyRequests(
            f"No account can serve {what} now ({reasons}). {outlook}Please retry in {wait:.3f}s.",
            reason="ALL_ACCOUNTS_RESTING",
            retry_after=wait,
        )
    cures = dict.fromkeys(e.account.unusable for e in having if e.account.unusable is not None)
    off = "".join(f" An account is off: {cure}." for cure in list(cures)[:MAX_CURES])
    return Unavailable(
        f"No account can serve {what} ({reasons}).{off}", reason="NO_ACCOUNT_READY", retry_after=PERSON_WAIT
    )

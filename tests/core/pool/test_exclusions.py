"""What a client is told when no account is left: one error, from the reasons of all of them."""

from __future__ import annotations

import pytest

from agm.core.errors import NotFound, TooManyRequests, Unavailable, Unimplemented
from agm.core.pool.cooldown import BUSY_WAIT
from agm.core.pool.exclusions import PERSON_WAIT, Cause, Exclusion, earliest, nothing_left
from agm.core.request import Account

GENERATE = "generateContent"


def excluded(*causes: Cause, waits: tuple[float | None, ...] = ()) -> list[Exclusion]:
    padded = (*waits, *[None] * (len(causes) - len(waits)))
    accounts = [Account(f"secret{n}", "api-key", ("https://upstream",)) for n in range(len(causes))]
    return [Exclusion(a, c, "r", w) for a, c, w in zip(accounts, causes, padded, strict=True)]


@pytest.mark.parametrize(
    ("exclusions", "kind", "reason", "wait"),
    [
        ([], Unavailable, "NO_ACCOUNTS", PERSON_WAIT),
        (excluded(Cause.METHOD, Cause.METHOD), Unimplemented, "METHOD_NOT_SUPPORTED_BY_ACCOUNTS", None),
        (excluded(Cause.MODEL), NotFound, "MODEL_NOT_SERVED", None),
        (excluded(Cause.METHOD, Cause.MODEL, waits=(None, 9.0)), NotFound, "MODEL_NOT_SERVED", None),
        (excluded(Cause.RESTING, waits=(9.5,)), TooManyRequests, "ALL_ACCOUNTS_RESTING", 9.5),
        (
            excluded(Cause.RESTING, Cause.BUSY, Cause.DISABLED, waits=(9.5, BUSY_WAIT)),
            TooManyRequests,
            "ALL_ACCOUNTS_RESTING",
            BUSY_WAIT,
        ),
        (
            excluded(Cause.METHOD, Cause.MODEL, Cause.RESTING, waits=(None, 1.0, 30.0)),
            TooManyRequests,
            "ALL_ACCOUNTS_RESTING",
            30.0,
        ),
        (excluded(Cause.DISABLED), Unavailable, "NO_ACCOUNT_READY", PERSON_WAIT),
        (excluded(Cause.DISABLED, Cause.MODEL, Cause.METHOD), Unavailable, "NO_ACCOUNT_READY", PERSON_WAIT),
        (excluded(Cause.PLUGIN), Unavailable, "NO_ACCOUNT_READY", PERSON_WAIT),
        (excluded(Cause.PLUGIN, Cause.RESTING, waits=(None, 5.0)), TooManyRequests, "ALL_ACCOUNTS_RESTING", 5.0),
    ],
)
def test_the_error_says_what_would_have_to_change(
    exclusions: list[Exclusion], kind: type[Exception], reason: str, wait: float | None
) -> None:
    """501 another kind, 404 another model, 429 some time, 503 a person; the wait is the earliest that helps."""
    error = nothing_left("m", GENERATE, "v1beta", exclusions)
    assert type(error) is kind
    assert (error.error_reason, error.retry_after) == (reason, wait)
    assert "secret" not in error.message
    if error.status in (429, 503):
        assert b"Retry-After" in dict(error.headers())


def test_the_error_tells_how_many_accounts_have_which_reason() -> None:
    """Enough to know where to look, and no account's name."""
    error = nothing_left(
        "m", GENERATE, "v1beta", excluded(Cause.RESTING, Cause.RESTING, Cause.BUSY, waits=(7.25, 9.0, 8.0))
    )
    assert error.message == (
        "No account can serve models/m now (2 cooling down, 1 at its max_concurrency). Please retry in 7.250s."
    )


def test_a_missing_model_is_told_in_googles_words() -> None:
    """SDKs match on them."""
    error = nothing_left("m", GENERATE, "v1", excluded(Cause.MODEL))
    assert error.message.startswith(
        "models/m is not found for API version v1, or is not supported for generateContent."
    )


def test_the_earliest_recovery_is_the_shortest_wait_that_is_known() -> None:
    """None where none is."""
    assert earliest(excluded(Cause.RESTING, Cause.DISABLED, Cause.BUSY, waits=(9.0, None, 3.0))) == 3.0
    assert earliest(excluded(Cause.DISABLED)) is None
    assert earliest([]) is None


def test_what_helps_where_a_secret_is_missing_is_told_and_the_account_is_not() -> None:
    """Each cure once, and a few of many; where others come back by themselves, that is what counts."""
    off = [
        Exclusion(
            Account(f"secret-{n}", "api-key", (), unusable=f"the variable K{n // 2} is not set"), Cause.DISABLED, "…"
        )
        for n in range(10)
    ]
    error = nothing_left("m", GENERATE, "v1beta", off)
    assert (type(error), error.error_reason) == (Unavailable, "NO_ACCOUNT_READY")
    assert error.message == (
        "No account can serve models/m (10 needing manual action). "
        "An account is off: the variable K0 is not set. An account is off: the variable K1 is not set. "
        "An account is off: the variable K2 is not set."
    )
    error = nothing_left("m", GENERATE, "v1beta", [*off, *excluded(Cause.RESTING, waits=(9.5,))])
    assert "K0" not in error.message

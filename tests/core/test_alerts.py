"""When refusals are a storm."""

from __future__ import annotations

from agm.core.alerts import STORM_REQUESTS, STORM_SECONDS, Alert, QuotaStorms


class Now:
    """A clock, and what was told."""

    def __init__(self) -> None:
        self.time = 0.0
        self.told: list[Alert] = []
        self.storms = QuotaStorms(lambda: self.time, self.told.append)

    def refuse(self, count: int, model: str = "pro", every: float = 0.0) -> None:
        for _ in range(count):
            self.storms.refused(model)
            self.time += every


def test_ten_refusals_within_a_minute_are_a_storm() -> None:
    now = Now()
    now.refuse(STORM_REQUESTS - 1)
    assert now.told == []
    now.refuse(1, "flash")
    (alert,) = now.told
    assert (alert.kind, alert.about) == ("quota_storm", "all accounts")
    assert alert.text == "10 requests within 60 seconds found no account with quota or capacity left for flash, pro."
    assert alert.details == {"requests": 10, "seconds": 60, "models": "flash, pro"}


def test_as_many_over_a_longer_time_are_none() -> None:
    now = Now()
    now.refuse(10 * STORM_REQUESTS, every=STORM_SECONDS / (STORM_REQUESTS - 2))
    assert now.told == []


def test_each_ten_are_told_of_once_and_many_models_in_short() -> None:
    now = Now()
    for number in range(STORM_REQUESTS):
        now.refuse(1, f"m{number}")
    assert now.told[0].text.endswith("for m0, m1, m2 and 7 more.")
    now.refuse(STORM_REQUESTS - 1)
    assert len(now.told) == 1
    now.refuse(1)
    assert len(now.told) == 2

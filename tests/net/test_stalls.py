"""Clients that are behind: given up within a second of their time, and never while they read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from agm.net.features import SOCKETS
from agm.net.stalls import LOOK_EVERY, Reading, Stalls


class Waiting:
    """A transport with bytes that wait to be taken."""

    def __init__(self, count: int = 1_000_000) -> None:
        self.dataBuffer = b"x" * count
        self.offset = 0
        self._tempDataLen = 0

    def take(self, count: int = 1) -> None:
        """As the other side does."""
        self.offset += count


SOCKETS.add(Waiting)  # its buffers are where a socket has them


@given(
    seconds=st.floats(0.5, 20),
    reads=st.lists(st.floats(0.01, 10), max_size=8),
    begun=st.floats(0, LOOK_EVERY),
)
def test_a_client_is_given_up_within_a_second_of_its_time(seconds: float, reads: list[float], begun: float) -> None:
    """Counted from when it last took something, whenever that was."""
    clock = Clock()
    stalls = Stalls(clock)
    cut: list[float] = []
    stalls.watch(Waiting(), 1e6, lambda: None)  # another one, so that the looks are at times of their own
    clock.advance(begun)
    transport = Waiting()
    stalls.watch(transport, seconds, lambda: cut.append(clock.seconds()))
    last = clock.seconds()

    def pass_(duration: float) -> None:
        until = clock.seconds() + duration
        while (due := clock.getDelayedCalls()[0].getTime()) <= until:
            clock.advance(max(due - clock.seconds(), 0))
        clock.advance(until - clock.seconds())

    for pause in reads:
        pass_(pause)
        if cut:
            break
        transport.take()
        last = clock.seconds()
    pass_(seconds + 1)
    assert len(cut) == 1
    assert seconds <= cut[0] - last + 1e-6
    assert cut[0] - last <= seconds + 1
    stalls.stop()
    assert not clock.getDelayedCalls()


def test_who_is_not_behind_any_more_is_not_given_up() -> None:
    clock = Clock()
    stalls = Stalls(clock)
    stall = stalls.watch(Waiting(), 1, lambda: pytest.fail("it was given up"))
    clock.advance(LOOK_EVERY)
    stall.end()
    stall.end()
    clock.pump([LOOK_EVERY] * 10)
    assert not clock.getDelayedCalls()


@pytest.mark.expects_logged_failures
def test_the_end_of_one_keeps_nobody_else_from_theirs() -> None:
    """Though it fails, or ends another one with it."""
    clock = Clock()
    stalls = Stalls(clock)
    ended: list[str] = []

    def fail() -> None:
        raise ValueError("no")

    stalls.watch(Waiting(), 1, fail)
    stalls.watch(Waiting(), 1, lambda: (ended.append("first"), second.end()))
    second = stalls.watch(Waiting(), 1, lambda: ended.append("second"))
    stalls.watch(Waiting(), 1, lambda: ended.append("third"))
    clock.pump([LOOK_EVERY] * 8)
    assert ended == ["first", "third"]
    assert not stalls.watched
    assert not clock.getDelayedCalls()


def test_what_is_written_meanwhile_is_not_taken() -> None:
    transport = Waiting(10)
    reading = Reading(transport, 100.0)
    transport.take(4)
    assert reading.idle(100.25) == 0
    transport.dataBuffer += b"x" * 10
    assert reading.idle(100.5) == 0.25
    assert reading.idle(100.75) == 0.5
    transport.take(12)
    assert reading.idle(101.0) == 0


def test_a_sleep_of_the_machine_is_not_the_client_s_fault() -> None:
    """It had no time to read either; nor has it while this process is held up."""
    clock = Clock()
    stalls = Stalls(clock)
    cut: list[float] = []
    stalls.watch(Waiting(), 2, lambda: cut.append(clock.seconds()))
    clock.pump([LOOK_EVERY] * 4)
    clock.advance(3600)
    clock.pump([LOOK_EVERY] * 2)
    assert not cut
    clock.pump([LOOK_EVERY] * 2)
    assert cut == [3601.75]

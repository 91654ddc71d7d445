"""The clocks: a reactor's that is never set, and the watch over the one that is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock, LoopingCall

from agm.core.classify import Fault, Verdict
from agm.net import clocks
from agm.net.clocks import ClockWatch, use_steady_clock
from agm.serving.assemble import make_gateway
from agm.serving.gateway import Gateway
from agm.testing import GatewayFactory, parse_config
from tests.helpers.support import JSON_HEAD, ScriptedUpstream, account, eventually
from tests.helpers.support import reactor as real_reactor

ACCOUNT = '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key = "k"\nendpoints = ["http://127.0.0.1:9"]\n'


@attrs.define
class Machine:
    """A machine's clocks, which a test moves."""

    steady: float = 40.0
    wall: float = 1_800_000_000.0
    slept: float = 7.0

    def pass_(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += seconds

    def sleep(self, seconds: float) -> None:
        self.pass_(seconds)
        self.slept += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


# -- A reactor's clock -------------------------------------------------------------------------------


class Reactor(SelectReactor):
    """A reactor of Twisted's that a test turns by hand; as ever, its clock is the wall's."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.seconds = lambda: machine.wall  # type: ignore[method-assign]  # as a class it is time.time

    def close(self) -> None:
        """Give its descriptors back."""
        for reader in self.removeAll():
            reader.connectionLost(None)  # type: ignore[attr-defined]  # a waker, which asks for no reason


@pytest.fixture
def reactor(machine: Machine) -> Iterator[Reactor]:
    made = Reactor(machine)
    yield made
    made.close()


@pytest.mark.parametrize("step", [-3600.0, 3600.0], ids=["back", "forward"])
def test_a_call_is_due_after_its_time_however_the_wall_clock_is_set(
    machine: Machine, reactor: Reactor, step: float
) -> None:
    use_steady_clock(reactor, lambda: machine.steady)
    fired: list[str] = []
    reactor.callLater(10, fired.append, "due")
    machine.wall += step
    machine.pass_(9.5)
    reactor.runUntilCurrent()
    assert (fired, reactor.timeout()) == ([], 0.5)
    machine.pass_(0.5)
    reactor.runUntilCurrent()
    assert fired == ["due"]


@pytest.mark.parametrize("step", [-3600.0, 3600.0], ids=["back", "forward"])
def test_what_was_scheduled_before_is_due_at_its_time_and_can_be_put_off(
    machine: Machine, reactor: Reactor, step: float
) -> None:
    fired: list[str] = []
    reactor.callLater(10, fired.append, "due")
    put_off = reactor.callLater(5, fired.append, "put off")
    use_steady_clock(reactor, lambda: machine.steady)
    machine.wall += step
    machine.pass_(4)
    put_off.reset(12)
    machine.pass_(6)
    reactor.runUntilCurrent()
    assert fired == ["due"]
    machine.pass_(6)
    reactor.runUntilCurrent()
    assert fired == ["due", "put off"]


def test_what_is_done_again_and_again_keeps_its_pace(machine: Machine, reactor: Reactor) -> None:
    """Also if it was begun before."""
    done: list[float] = []
    before, after = LoopingCall(lambda: done.append(machine.steady)), LoopingCall(lambda: done.append(machine.steady))
    before.clock = after.clock = reactor
    before.start(1, now=False)
    use_steady_clock(reactor, lambda: machine.steady)
    after.start(1, now=False)
    for step in (0.0, -3600.0, 0.0, 7200.0, 0.0):
        machine.wall += step
        machine.pass_(1)
        reactor.runUntilCurrent()
    assert done == [at for second in range(41, 46) for at in (second, second)]


def test_a_reactor_s_clock_goes_on_from_the_date(machine: Machine, reactor: Reactor) -> None:
    """Plugins, and twisted.web's own log, take it for one."""
    use_steady_clock(reactor, lambda: machine.steady)
    assert reactor.seconds() == machine.wall
    machine.pass_(5)
    assert reactor.seconds() == machine.wall


def test_a_sleep_counts(machine: Machine, reactor: Reactor) -> None:
    use_steady_clock(reactor, lambda: machine.steady)
    fired: list[str] = []
    reactor.callLater(3600, fired.append, "due")
    machine.sleep(3600)
    reactor.runUntilCurrent()
    assert fired == ["due"]


def test_a_reactor_gets_its_clock_once(machine: Machine, reactor: Reactor) -> None:
    """Whoever comes second finds it there: a demo and its gateway, or a program that has done so itself."""
    use_steady_clock(reactor, lambda: machine.steady)
    first = reactor.seconds
    machine.wall += 3600
    use_steady_clock(reactor, lambda: machine.steady)
    assert reactor.seconds is first
    assert reactor.getDelayedCalls() == []


class Stubborn(Reactor):
    """A reactor that schedules by a clock of its own, as another version of Twisted may."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._machine = machine

    def callLater(self, delay: float, callable: Any, *args: object, **kw: object) -> Any:
        """Schedule by the wall."""
        clock, self.seconds = self.seconds, lambda: self._machine.wall  # type: ignore[method-assign]
        try:
            return super().callLater(delay, callable, *args, **kw)
        finally:
            self.seconds = clock  # type: ignore[method-assign]


class Impatient(Reactor):
    """A reactor that waits by a clock of its own."""

    def timeout(self) -> float | None:
        """Wait until the wall says so."""
        return None


class Sealed(Reactor):
    """A reactor whose clock cannot be exchanged."""

    @property
    def seconds(self) -> Any:  # type: ignore[override]
        """The wall."""
        return time.time

    @seconds.setter
    def seconds(self, clock: Any) -> None:
        if not hasattr(self, "_made"):  # the class above says what it would like to have
            self._made = True
            return
        raise AttributeError("seconds")


@pytest.mark.parametrize("kind", [Stubborn, Impatient, Sealed])
def test_a_reactor_that_does_not_ask_its_clock_stays_as_it_is(
    machine: Machine, lines: list[str], kind: type[Reactor]
) -> None:
    reactor = kind(machine)
    try:
        before = reactor.seconds
        use_steady_clock(reactor, lambda: machine.steady)
        assert reactor.seconds is before
        assert reactor.getDelayedCalls() == []
        assert lines == ["this version of Twisted measures time by the wall clock: timers go wrong when that is set"]
    finally:
        reactor.close()


def test_the_steady_clock_of_this_machine_goes_on() -> None:
    """And is not the wall's."""
    first = clocks.steady()
    assert clocks.steady() >= first
    assert abs(clocks.steady() - time.time()) > 1e6
    assert clocks.slept() > -1


@pytest.mark.parametrize("missing", [AttributeError, OSError])
def test_a_system_without_a_clock_that_counts_sleep_has_the_monotonic_one(
    monkeypatch: pytest.MonkeyPatch, missing: type[Exception]
) -> None:
    """An older kernel, or a sandbox that lets nobody ask for it."""

    def refuse(clock: int) -> float:
        raise missing

    monkeypatch.setattr("time.clock_gettime", refuse)
    assert clocks._steadiest() is time.monotonic


# -- The watch over the wall clock -------------------------------------------------------------------


@attrs.define
class Watched:
    """A watch on clocks that a test moves, and what it has told."""

    machine: Machine
    watch: ClockWatch = attrs.field(init=False)
    reactor: Clock = attrs.Factory(Clock)
    told: list[tuple[str, float]] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self.watch = ClockWatch(
            self.reactor,
            lambda: self.machine.wall,
            stepped=lambda seconds: self.told.append(("stepped", seconds)),
            woke=lambda seconds: self.told.append(("woke", seconds)),
            asleep=lambda: self.machine.slept,
        )
        self.watch.startService()

    def pass_(self, seconds: float) -> None:
        """Let time pass for everybody."""
        for _ in range(int(seconds / clocks.LOOK_EVERY)):
            self.machine.pass_(clocks.LOOK_EVERY)
            self.reactor.advance(clocks.LOOK_EVERY)


@pytest.fixture
def watched(machine: Machine) -> Iterator[Watched]:
    made = Watched(machine)
    yield made
    made.watch.stopService()
    assert made.reactor.getDelayedCalls() == []


@pytest.mark.parametrize(("step", "says"), [(-3600.0, "back by 3600.0"), (90.0, "forward by 90.0")])
def test_a_step_of_the_wall_clock_is_told_once(watched: Watched, lines: list[str], step: float, says: str) -> None:
    watched.machine.wall += step
    watched.pass_(1)
    watched.pass_(5)
    assert watched.told == [("stepped", step)]
    assert lines == [f"the clock of this machine was set {says} seconds; timers go on as before"]
    watched.machine.wall -= step
    watched.pass_(1)
    assert [seconds for _, seconds in watched.told] == [step, -step]


def test_a_clock_that_is_corrected_little_by_little_has_not_been_set(watched: Watched, lines: list[str]) -> None:
    for _ in range(100):
        watched.machine.wall += 0.08
        watched.pass_(1)
    assert watched.told == lines == []


def test_a_sleep_is_told_once_and_is_no_step(watched: Watched, lines: list[str]) -> None:
    watched.machine.slept += 5400
    watched.pass_(1)
    watched.pass_(5)
    assert watched.told == [("woke", 5400.0)]
    assert lines == ["this machine has slept for 5400 seconds"]


def test_a_process_that_is_held_up_between_two_clocks_sees_no_step(lines: list[str]) -> None:
    """What they say then is from different moments."""
    reactor, held_up = Clock(), 0.0

    def wall() -> float:
        before = reactor.seconds()
        reactor.rightNow += held_up
        return 1_800_000_000.0 + before

    watch = ClockWatch(reactor, wall, stepped=pytest.fail, woke=pytest.fail, asleep=lambda: 0.0)
    held_up = 30.0
    watch.look()
    held_up = 0.0
    watch.look()
    assert lines == []


# -- What the gateway makes of it --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tell", "kept"),
    [
        (lambda gateway: gateway.woke(60.0), False),
        (lambda gateway: gateway.clock_set(3600.0), False),  # as after the pause of a virtual machine
        (lambda gateway: gateway.clock_set(-3600.0), True),
    ],
    ids=["after a sleep", "set forward", "set back"],
)
@pytest_twisted.ensureDeferred
async def test_connections_that_may_have_been_forgotten_are_not_kept(
    gateway: GatewayFactory, upstream: ScriptedUpstream, tell: Callable[[Gateway], None], kept: bool
) -> None:
    running = await gateway(account(upstream))
    asking = Deferred.fromCoroutine(running.ask())
    (await upstream.connection()).send(JSON_HEAD + b"Content-Length: 2\r\n\r\n{}")
    assert (await asking).status == 200
    (counted,) = running.gateway.client.connections().values()
    assert counted == (0, 1)
    tell(running.gateway)
    await eventually(
        lambda: running.gateway.client.connections() == ({upstream.url.removeprefix("http://"): (0, 1)} if kept else {})
    )
    assert (upstream.connections[0].lost is None) is kept


@pytest_twisted.ensureDeferred
async def test_what_is_stored_is_written_anew_with_the_dates_of_the_clock_that_was_set(tmp_path: Path) -> None:
    """A process that is killed after that leaves no rest that lasts an hour longer."""
    path = tmp_path / "state.json"
    made = make_gateway(real_reactor, parse_config(ACCOUNT), "off", installed=False, state_path=path)
    await made.start()
    made.pool.failed(made.pool.accounts[0], "m", Verdict(Fault.QUOTA, "DAILY", 600.0))

    def until() -> float:
        try:
            return float(json.loads(path.read_bytes())["accounts"]["a"]["rests"][0]["until"])
        except FileNotFoundError:
            return 0.0

    await eventually(lambda: time.time() + 500 < until() <= time.time() + 600, "a rest in the file")
    assert made._state is not None
    made._state._wall = lambda: time.time() - 3600
    made.clock_set(-3600.0)
    await eventually(lambda: until() <= time.time() - 3000, "its new date")
    await made.stop()

"""The pool under any order of events: nothing is lost, nobody is passed over, limits hold, and every wait ends."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from agm.core.classify import Fault, Verdict
from agm.core.models import Patterns
from agm.core.pool.breaker import Trouble
from agm.core.pool.exclusions import Cause
from agm.core.pool.lease import Lease
from agm.core.pool.pool import Pool
from agm.core.pool.waiters import Waiter
from agm.core.request import Account

MODELS = ("m", "n")
METHODS = ("generateContent", "embedContent")
VERSIONS = ("v1", "v1beta")
NAMES = ("a", "b", "c", "d")

verdicts = st.one_of(
    st.builds(Verdict, st.sampled_from([Fault.RATE, Fault.QUOTA]), st.just("R"), st.sampled_from([1.0, 5.0, 60.0])),
    st.builds(
        Verdict,
        st.sampled_from([Fault.CREDENTIAL, Fault.LOCKED, Fault.BLOCKED, Fault.FORBIDDEN, Fault.NO_MODEL]),
        st.just("R"),
    ),
    st.builds(
        Verdict,
        st.sampled_from([Fault.CAPACITY, Fault.ENDPOINT, Fault.FINAL, Fault.MISSING, Fault.UNCLEAR]),
        st.just("R"),
    ),
)


@st.composite
def accounts(draw: st.DrawFn, name: str) -> Account:
    return Account(
        name,
        draw(st.sampled_from(["api-key", "code-assist"])),
        tuple(draw(st.lists(st.sampled_from(["https://x", "https://y"]), min_size=1, max_size=2, unique=True))),
        models=Patterns(draw(st.sampled_from([("*",), ("m",)]))),
        priority=draw(st.integers(0, 1)),
        max_concurrency=draw(st.sampled_from([None, 1, 2])),
        reserve=draw(st.sampled_from([0.0, 0.5])),
    )


class Patient:
    """A request that waits: it takes the first account that it is offered."""

    def __init__(self, machine: PoolMachine, model: str, method: str, version: str) -> None:
        self.machine, self.model, self.method, self.version = machine, model, method, version
        self.lease: Lease | None = None
        self.ticket: Waiter = machine.pool.wait(model, method, self.offer, version)

    def offer(self) -> bool:
        self.lease = self.machine.take(self.model, self.method, self.version)
        return self.lease is not None


class PoolMachine(RuleBasedStateMachine):
    """A pool, and beside it the plainest record of what was done to it."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.pool = Pool([], lambda: self.now)
        self.out: list[Lease] = []
        self.patient: list[Patient] = []

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.pool.replace([data.draw(accounts(name)) for name in NAMES], ())

    def take(self, model: str, method: str, version: str) -> Lease | None:
        found = self.pool.candidates(model, method, version=version)
        if not found:
            return None
        lease = self.pool.lease(found.in_turn(None), model, method, version)
        self.out.append(lease)
        return lease

    def ended(self, lease: Lease) -> None:
        self.out.remove(lease)
        lease.release()
        self.collect()

    def collect(self) -> None:
        self.patient = [patient for patient in self.patient if patient.lease is None]

    @rule(
        target=leases,
        model=st.sampled_from(MODELS),
        method=st.sampled_from(METHODS),
        version=st.sampled_from(VERSIONS),
    )
    def ask(self, model: str, method: str, version: str) -> Any:
        self.pool.wake(model)
        self.collect()
        lease = self.take(model, method, version)
        if lease is None:
            if len(self.patient) < 5:
                self.patient.append(Patient(self, model, method, version))
            return multiple()
        lease.next_endpoint()
        return lease

    @rule(lease=consumes(leases))
    def succeed(self, lease: Lease) -> None:
        self.pool.endpoint_answered(lease.account.endpoints[0], lease.model, good=True)
        self.pool.succeeded(lease.account, lease.model, lease)
        self.ended(lease)

    @rule(lease=consumes(leases), verdict=verdicts)
    def fail(self, lease: Lease, verdict: Verdict) -> None:
        self.pool.failed(lease.account, lease.model, verdict, lease)
        self.ended(lease)

    @rule(lease=leases, trouble=st.sampled_from(Trouble), times=st.integers(1, 6), model=st.sampled_from("mnopq"))
    def endpoint_fails(self, lease: Lease, trouble: Trouble, times: int, model: str) -> None:
        for _ in range(times):
            if self.pool.endpoint_failed(lease.account.endpoints[0], model, trouble, lease):
                self.pool.confirm_endpoint_failure(lease.account.endpoints[0])
        self.collect()

    @rule(name=st.sampled_from(NAMES), model=st.sampled_from([None, *MODELS]))
    def reset(self, name: str, model: str | None) -> None:
        if any(account.name == name for account in self.pool.accounts):
            self.pool.reset(name, model)
        self.collect()

    @rule(lease=leases)
    def ask_the_next_endpoint(self, lease: Lease) -> None:
        lease.next_endpoint()
        self.collect()

    @rule(lease=consumes(leases), again=st.booleans())
    def cancel(self, lease: Lease, again: bool) -> None:
        self.ended(lease)
        if again:
            lease.release()

    @rule()
    def the_first_to_wait_is_served_and_ends(self) -> None:
        for lease in [lease for lease in self.out if lease not in self.bundle_of_leases()][:1]:
            self.ended(lease)

    def bundle_of_leases(self) -> list[Any]:
        return [self.names_to_values[reference.name] for reference in self.bundles.get("leases", ())]

    @rule(data=st.data())
    def leave_the_line(self, data: st.DataObject) -> None:
        if self.patient:
            patient = self.patient.pop(data.draw(st.integers(0, len(self.patient) - 1)))
            patient.ticket.leave()
            patient.ticket.leave()

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 60.0, 4000.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        self.pool.wake()  # what the timers of those who wait do
        self.collect()

    @rule(name=st.sampled_from(NAMES), model=st.sampled_from(MODELS), left=st.sampled_from([0.0, 0.4, 0.9]))
    def report_a_quota(self, name: str, model: str, left: float) -> None:
        for account in self.pool.accounts:
            if account.name == name:
                self.pool.note_quota(account, model, left, self.now + 30)
        self.collect()

    @rule(data=st.data(), keep=st.sets(st.sampled_from(NAMES)))
    def reload(self, data: st.DataObject, keep: set[str]) -> None:
        names = data.draw(st.lists(st.sampled_from(NAMES), unique=True))
        before = {account.name: account for account in self.pool.accounts}
        kept = keep & before.keys()
        self.pool.replace([before[n] if n in kept else data.draw(accounts(n)) for n in names], kept)
        self.collect()

    @rule()
    def restart(self) -> None:
        """What is remembered and restored into a pool without leases is remembered again."""
        other = Pool(self.pool.accounts, lambda: self.now)
        for name, known in self.pool.remember().items():
            other.restore(name, known)
        assert other.remember() == self.pool.remember()

    @invariant()
    def the_index_says_what_a_look_at_every_account_says(self) -> None:
        for model, method, version in product(MODELS, METHODS, VERSIONS):
            ready = self.pool.candidates(model, method, version=version)
            excluded = self.pool.excluded(model, method, version)
            names = {account.name for account in self.pool.accounts}
            assert {a.name for a in ready} == names - {e.account.name for e in excluded}
            order = [a.name for a in sorted(self.pool.accounts, key=lambda a: a.priority) if a in ready]
            assert [a.name for a in ready] == order
            waits = [e.wait for e in excluded if e.wait is not None and e.cause is not Cause.METHOD]
            soonest = self.pool.soonest(model, method, version=version)
            assert (soonest is None) == (not waits)
            if soonest:
                assert math.isclose(soonest, min(waits))

    @invariant()
    def no_lease_is_lost_or_given_twice(self) -> None:
        assert len(set(map(id, self.out))) == len(self.out)
        for account in self.pool.accounts:
            held = [x for x in self.out if x.account.name == account.name and x.member is self.member(account)]
            assert self.pool.load(account) == len(held)

    @invariant()
    def limits_hold_and_probes_are_single(self) -> None:
        for account in self.pool.accounts:
            limit = account.max_concurrency
            assert limit is None or self.pool.load(account) <= limit
            for model in MODELS:
                for rest in self.member(account).cooldowns_of(model):
                    if rest.probe is not None:
                        assert account not in self.pool.candidates(model, "generateContent")
                        assert rest.probe in self.out

    @invariant()
    def nobody_waits_while_an_account_is_ready(self) -> None:
        for patient in self.patient:
            assert not self.pool.candidates(patient.model, patient.method, version=patient.version)
        assert sum(map(self.pool.waiting, MODELS)) == len(self.patient)

    def member(self, account: Account) -> Any:
        return self.pool._members[account.name]

    def teardown(self) -> None:
        """With every lease given back and every patient gone, nothing is left over."""
        while self.out:
            self.ended(self.out[0])
        for patient in self.patient:
            patient.ticket.leave()
        assert not any(self.pool.loads().values())
        assert not self.pool._queue.by_model


PoolMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase

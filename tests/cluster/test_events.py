"""Events: in whatever order they come, the same is known."""

from hypothesis import given
from hypothesis import strategies as st

from agm.cluster.events import Event, Ledger, decode, encode

NOW = 1_000.0
events = st.builds(
    Event,
    topic=st.sampled_from(["cooldown", "owner"]),
    key=st.sampled_from(["a", "a\0m", "a\0n", "ab", "b"]),
    value=st.sampled_from([None, 1, 2, {"x": 1}]),
    at=st.integers(1, 6).map(float),
    by=st.sampled_from(["w1", "w2"]),
    expires=st.sampled_from([500.0, 5_000.0]),
)


@given(st.lists(events, max_size=12).flatmap(lambda told: st.tuples(*[st.permutations(told) for _ in range(3)])))
def test_any_order_on_three_stores_converges(orders: tuple[list[Event], ...]) -> None:
    """Also where one is written back whole to another."""
    ledgers = [Ledger(lambda: NOW) for _ in orders]
    for ledger, order in zip(ledgers, orders, strict=True):
        for event in order:
            ledger.apply(event)
    for one in ledgers:
        for event in ledgers[0]:
            one.apply(event)
    known = [{topic: ledger.items(topic) for topic in ("cooldown", "owner")} for ledger in ledgers]
    assert known[0] == known[1] == known[2]


def test_a_clear_covers_what_is_below_it_and_nothing_that_came_later() -> None:
    ledger = Ledger(lambda: NOW)
    put = Event(topic="t", key="a\0m", value=1, at=1.0, by="w", expires=5_000.0)
    later = Event(topic="t", key="a\0n", value=2, at=3.0, by="w", expires=5_000.0)
    beside = Event(topic="t", key="ab", value=3, at=1.0, by="w", expires=5_000.0)
    for event in (put, later, beside):
        assert ledger.apply(event)
    assert ledger.apply(Event(topic="t", key="a", value=None, at=2.0, by="w", expires=5_000.0))
    assert ledger.items("t") == {"a\0n": 2, "ab": 3}
    assert not ledger.apply(put)  # a write-back brings nothing back


def test_what_a_later_release_has_added_is_passed_on() -> None:
    text = b'{"topic":"new","key":"k","value":[1],"at":1,"by":"w","expires":9,"version":7,"more":{"x":1}}'
    again = decode(encode(decode(text)))
    assert (again.version, again.rest, again.topic) == (7, {"more": {"x": 1}}, "new")

"""Whose turn it is: client keys by their weight, batches last, the requests of one key in the order of arrival."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agm.core.pool.waiters import MAX_KEYS, Share, Waiter, WaitQueue, is_batch
from tests.core.cuts import unhurried


class Desk:
    """A queue before a counter that serves as many as it is told to, and writes down whom."""

    def __init__(self) -> None:
        self.free = 0
        self.served: list[tuple[str | None, int]] = []
        self.queue = WaitQueue(lambda model, method, version: self.free > 0)
        self._count = 0

    def join(self, key: str | None, weight: int = 1, *, batch: bool = False, model: str = "m") -> Waiter:
        self._count += 1
        number = self._count

        def try_acquire() -> bool:
            if not self.free:
                return False
            self.free -= 1
            self.served.append((key, number))
            return True

        return self.queue.join(model, "generateContent", try_acquire, "v1beta", Share(key, weight, batch))

    def serve(self, count: int = 1) -> list[str | None]:
        """Serve so many, one by one; returns their keys."""
        before = len(self.served)
        for _ in range(count):
            self.free = 1
            self.queue.wake(None, news=False)
        self.free = 0
        return [key for key, _ in self.served[before:]]


def test_one_key_is_served_in_the_order_of_arrival() -> None:
    """As without any keys."""
    counter = Desk()
    for _ in range(5):
        counter.join(None)
    counter.serve(5)
    assert [number for _, number in counter.served] == [1, 2, 3, 4, 5]


def test_a_key_with_few_requests_does_not_wait_for_one_with_many() -> None:
    """It came last, and is served second."""
    counter = Desk()
    for _ in range(100):
        counter.join("crawler")
    counter.join("ada")
    assert counter.serve(3) == ["crawler", "ada", "crawler"]
    counter.join("ada")  # it has had as much as the other, no more and no less
    assert counter.serve(2) in (["ada", "crawler"], ["crawler", "ada"])


def test_keys_are_served_as_often_as_their_weights_say() -> None:
    """Exactly so, while all have requests waiting; what one does not use, the others get."""
    counter = Desk()
    for _ in range(60):
        counter.join("small")
        counter.join("large", 3)
        counter.join("middle", 2)
    assert Counter(counter.serve(60)) == {"large": 30, "middle": 20, "small": 10}
    assert Counter(counter.serve(60)) == {"large": 30, "middle": 20, "small": 10}
    assert Counter(counter.serve(60)) == {"small": 40, "middle": 20}


def test_who_was_away_has_saved_nothing() -> None:
    """A key that comes later starts where the others are, and does not take all until it has caught up."""
    counter = Desk()
    for _ in range(100):
        counter.join("ada")
    counter.serve(50)
    for _ in range(50):
        counter.join("bob")
    assert Counter(counter.serve(20)) == {"ada": 10, "bob": 10}


def test_batches_are_served_after_everything_else() -> None:
    """Whoever sends them, and however long they have waited; among them keys have their shares, too."""
    counter = Desk()
    for _ in range(4):
        counter.join("crawler", 9, batch=True)
    counter.join("nightly", batch=True)
    counter.join("ada")
    counter.join("crawler")
    assert Counter(counter.serve(2)) == {"ada": 1, "crawler": 1}
    assert Counter(counter.serve(5)) == {"crawler": 4, "nightly": 1}
    assert [
        is_batch(it) for it in ("batchEmbedContents", "batches.create", "streamGenerateContent", "embedContent")
    ] == [
        True,
        True,
        False,
        False,
    ]


def test_who_gives_up_is_no_longer_counted() -> None:
    """Its key has had nothing, and those behind it move up."""
    counter = Desk()
    waiting = [counter.join("ada") for _ in range(10)]
    for _ in range(10):
        counter.join("bob")
    for waiter in waiting[:9]:
        waiter.leave()
    assert Counter(counter.serve(4)) == {"ada": 1, "bob": 3}


def test_keys_share_what_all_models_have() -> None:
    """An account that gets free serves several models: a key has its share of all of it."""
    counter = Desk()
    for _ in range(20):
        counter.join("ada", model="a")
        counter.join("ada", model="b")
        counter.join("bob", model="b")
    assert Counter(counter.serve(20)) == {"ada": 10, "bob": 10}


def test_nothing_is_remembered_when_nobody_waits() -> None:
    """Nor of more keys than there may be."""
    counter = Desk()
    for n in range(MAX_KEYS + 500):
        counter.join(f"key-{n}")
    counter.serve(MAX_KEYS)
    assert len(counter.queue._had) <= MAX_KEYS + 1
    counter.serve(500)
    assert not counter.queue._had
    assert not counter.queue._level


@unhurried
@given(
    weights=st.sampled_from([(1, 1), (1, 4), (2, 3)]),
    arrivals=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), max_size=60),
)
def test_nobody_waits_for_ever_and_nobody_gets_more_than_their_share(
    weights: tuple[int, int], arrivals: list[tuple[int, int]]
) -> None:
    """While both wait, what they get by weight differs by one request of each at most; all are served in the end."""
    counter = Desk()
    had, both = [0.0, 0.0], False
    left = [0, 0]
    for which, served in arrivals:
        counter.join(str(which), weights[which])
        left[which] += 1
        for _ in range(served):
            now = all(left)
            if now and not both:
                had = [0.0, 0.0]
            both = now
            for key in counter.serve():
                left[int(str(key))] -= 1
                had[int(str(key))] += 1 / weights[int(str(key))]
            if both and all(left):
                assert abs(had[0] - had[1]) <= 1 / weights[0] + 1 / weights[1] + 1e-9
    counter.serve(sum(left))
    assert len(counter.queue) == 0
    for key in "01":
        numbers = [number for of, number in counter.served if of == key]
        assert numbers == sorted(numbers)

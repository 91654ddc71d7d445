"""
The queues of those who wait for an account, one for each model, served by weighted fair queueing.

While accounts are short, each client key is served as often as its weight says, however many requests it has waiting:
whatever gets free goes to the key that has had least of its share since the queue began.  The requests of one key are
served in the order of arrival, and batches after everything else.

Nothing here waits or knows an account: who waits is called when there may be one, and leaves when it has got
what it came for, or gives up.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

import attrs

#: Calls that nobody waits for at a screen, beside those whose names begin with ``batches.``.
BATCHES = frozenset(
    {
        "batchEmbedContents",
        "batchGenerateContent",
        "asyncBatchEmbedContent",
        "predictLongRunning",
        "vertex.predictLongRunning",
    }
)
#: Keys without a request that waits, of which is remembered how much of their shares they have had.
MAX_KEYS = 1000


@attrs.frozen
class Share:
    """
    What a waiter is served by: the client key's name, its weight, and whether the request is a batch.

    Requests without a key are one key's.
    """

    key: str | None = None
    weight: int = 1
    batch: bool = False


def is_batch(method: str) -> bool:
    """Tell whether a call, by Google's name, is one that can wait."""
    return method in BATCHES or method.startswith(("batches.", "openai.batches."))


NOBODYS = Share()


class Waiter:
    """One who waits for a model.  :meth:`leave` gives it up."""

    def __init__(
        self,
        queue: WaitQueue,
        number: int,
        model: str,
        method: str,
        try_acquire: Callable[[], bool],
        version: str,
        share: Share = NOBODYS,
    ) -> None:
        self.number = number
        self.model = model
        self.method = method
        self.version = version
        self.try_acquire = try_acquire
        self.share = share
        #: How much its key has had of its share once this is served.
        self.tag = 0.0
        self._queue = queue

    def leave(self) -> None:
        """Wait no longer.  Only the first call counts."""
        self._queue.leave(self)


class WaitQueue:
    """
    Who waits for which model; its length is how many wait.

    :param ready: whether there is an account for a model, a method and a version.
    """

    def __init__(self, ready: Callable[[str, str, str], bool]) -> None:
        self._ready = ready
        self._count = 0
        #: The queues by model, of waiters by number; an empty one is not kept.
        self.by_model: dict[str, OrderedDict[int, Waiter]] = {}
        self._due: dict[str, bool] = {}
        self._serving = False
        #: How much each key has had of its share, in requests by weight, and how much whoever comes now has had.
        self._had: dict[str | None, float] = {}
        #: How many requests of each key wait.
        self._waiting: Counter[str | None] = Counter()
        self._level = 0.0

    def __len__(self) -> int:
        return sum(map(len, self.by_model.values()))

    def of(self, model: str) -> int:
        """Return how many wait for a model."""
        return len(self.by_model.get(model, ()))

    def join(
        self,
        model: str,
        method: str,
        try_acquire: Callable[[], bool],
        version: str = "",
        share: Share = NOBODYS,
    ) -> Waiter:
        """
        Join the queue for a model.

        :param try_acquire: called when there may be an account, in turn; takes it and returns True, or returns False to
            wait on.  It is also called when the outlook has changed for the worse, and may give up by returning True.
            It must not raise.
        :param share: whose turn it is.
        """
        self._count += 1
        waiter = Waiter(self, self._count, model, method, try_acquire, version, share)
        if not self._waiting[share.key]:  # who was away has saved nothing
            self._had[share.key] = max(self._had.get(share.key, 0.0), self._level)
        self._waiting[share.key] += 1
        self.by_model.setdefault(model, OrderedDict())[waiter.number] = waiter
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Take a waiter out of its queue, if it still is in there."""
        queue, key = self.by_model.get(waiter.model), waiter.share.key
        if queue is None or queue.pop(waiter.number, None) is None:
            return
        if not queue:
            del self.by_model[waiter.model]
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._waiting[key]
            if self._had[key] <= self._level or len(self._had) > MAX_KEYS:
                del self._had[key]
        if not self.by_model:  # nobody is short of anything any more
            self._had.clear()
            self._level = 0.0

    def _in_turn(self, waiters: Iterable[Waiter]) -> list[Waiter]:
        """Put waiters into the order in which they are served."""
        had: dict[str | None, float] = {}
        found = sorted(waiters, key=lambda it: (it.share.batch, it.number))
        for waiter in found:
            key = waiter.share.key
            waiter.tag = had[key] = had.get(key, self._had[key]) + 1 / waiter.share.weight
        return sorted(found, key=lambda it: (it.share.batch, it.tag, it.number))

    def _served(self, waiter: Waiter) -> None:
        """Count it for its key."""
        self._had[waiter.share.key] = waiter.tag
        self._level = max(self._level, waiter.tag - 1 / waiter.share.weight)

    def wake(self, model: str | None, *, news: bool) -> None:
        """
        Offer what is ready to those who wait, for one model or for all, in turn.

        :param news: ask everybody, not only while something is ready: the outlook is another one.
        """
        if not self.by_model:
            return
        for name in [model] if model is not None else list(self.by_model):
            if name in self.by_model:
                self._due[name] = self._due.get(name, False) or news
        if self._serving:  # an account was taken, and its request has ended already
            return
        self._serving = True
        try:
            while self._due:
                due, self._due = self._due, {}
                waiters = [waiter for name in due for waiter in self.by_model.get(name, {}).values()]
                for waiter in self._in_turn(waiters):
                    queue = self.by_model.get(waiter.model)
                    if queue is None or waiter.number not in queue:
                        continue
                    ready = due[waiter.model] or self._ready(waiter.model, waiter.method, waiter.version)
                    if ready and waiter.try_acquire():
                        self._served(waiter)
                        self.leave(waiter)
        finally:
            self._serving = False

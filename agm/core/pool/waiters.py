"""
The queues of those who wait for an account, one for each model, served in the order of arrival.

Nothing here waits or knows an account: who waits is called when there may be one, and leaves when it has got
what it came for, or gives up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable


class Waiter:
    """One who waits for a model.  :meth:`leave` gives it up."""

    def __init__(
        self, queue: WaitQueue, number: int, model: str, method: str, try_acquire: Callable[[], bool], version: str
    ) -> None:
        self.number = number
        self.model = model
        self.method = method
        self.version = version
        self.try_acquire = try_acquire
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

    def __len__(self) -> int:
        return sum(map(len, self.by_model.values()))

    def of(self, model: str) -> int:
        """Return how many wait for a model."""
        return len(self.by_model.get(model, ()))

    def join(self, model: str, method: str, try_acquire: Callable[[], bool], version: str = "") -> Waiter:
        """
        Join the queue for a model.

        :param try_acquire: called when there may be an account, in the order of arrival; takes it and returns True, or
            returns False to wait on.  It is also called when the outlook has changed for the worse, and may give up by
            returning True.  It must not raise.
        """
        self._count += 1
        waiter = Waiter(self, self._count, model, method, try_acquire, version)
        self.by_model.setdefault(model, OrderedDict())[waiter.number] = waiter
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Take a waiter out of its queue, if it still is in there."""
        queue = self.by_model.get(waiter.model)
        if queue is not None and queue.pop(waiter.number, None) is not None and not queue:
            del self.by_model[waiter.model]

    def wake(self, model: str | None, *, news: bool) -> None:
        """
        Offer what is ready to those who wait, for one model or for all, in the order in which they came.

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
                for waiter in sorted(waiters, key=lambda waiter: waiter.number):
                    queue = self.by_model.get(waiter.model)
                    if queue is None or waiter.number not in queue:
                        continue
                    ready = due[waiter.model] or self._ready(waiter.model, waiter.method, waiter.version)
                    if ready and waiter.try_acquire():
                        self.leave(waiter)
        finally:
            self._serving = False

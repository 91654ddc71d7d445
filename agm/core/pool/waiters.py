"""
The lines of those who wait for an account, one for each model, served in the order of arrival.

Nothing here waits or knows an account: who stands in a line is called when there may be one, and leaves when it has got
what it came for, or gives up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable


class Ticket:
    """A place in the line of those who wait for a model.  :meth:`leave` gives it up."""

    def __init__(
        self, lines: Lines, number: int, model: str, method: str, offer: Callable[[], bool], version: str
    ) -> None:
        self.number = number
        self.model = model
        self.method = method
        self.version = version
        self.offer = offer
        self._lines = lines

    def leave(self) -> None:
        """Wait no longer.  Only the first call counts."""
        self._lines.left(self)


class Lines:
    """
    Who waits for which model; its length is how many wait.

    :param ready: whether there is an account for a model, a method and a version.
    """

    def __init__(self, ready: Callable[[str, str, str], bool]) -> None:
        self._ready = ready
        self._tickets = 0
        #: The lines by model, of tickets by number; an empty one is not kept.
        self.by_model: dict[str, OrderedDict[int, Ticket]] = {}
        self._due: dict[str, bool] = {}
        self._serving = False

    def __len__(self) -> int:
        return sum(map(len, self.by_model.values()))

    def of(self, model: str) -> int:
        """Count those that wait for a model."""
        return len(self.by_model.get(model, ()))

    def join(self, model: str, method: str, offer: Callable[[], bool], version: str = "") -> Ticket:
        """
        Stand in the line for a model.

        :param offer: called when there may be an account, in the order of arrival; takes it and returns True, or
            returns False to wait on.  It is also called when the outlook has changed for the worse, and may give up by
            returning True.  It must not raise.
        """
        self._tickets += 1
        ticket = Ticket(self, self._tickets, model, method, offer, version)
        self.by_model.setdefault(model, OrderedDict())[ticket.number] = ticket
        return ticket

    def left(self, ticket: Ticket) -> None:
        """A ticket's place is free, if it was not already."""
        line = self.by_model.get(ticket.model)
        if line is not None and line.pop(ticket.number, None) is not None and not line:
            del self.by_model[ticket.model]

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
        if self._serving:  # an offer was taken, and its request has ended already
            return
        self._serving = True
        try:
            while self._due:
                due, self._due = self._due, {}
                tickets = [ticket for name in due for ticket in self.by_model.get(name, {}).values()]
                for ticket in sorted(tickets, key=lambda ticket: ticket.number):
                    line = self.by_model.get(ticket.model)
                    if line is None or ticket.number not in line:
                        continue
                    ready = due[ticket.model] or self._ready(ticket.model, ticket.method, ticket.version)
                    if ready and ticket.offer():
                        self.left(ticket)
        finally:
            self._serving = False

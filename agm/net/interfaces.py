"""What agm asks of a reactor and of a transport: one type for each, as Twisted's own interfaces are cut finer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall

__all__ = ["GatewayClock", "GatewayReactor", "GatewayTransport"]


class GatewayClock(Protocol):
    """What has time: a reactor, or a :class:`twisted.internet.task.Clock` in its place."""

    def seconds(self) -> float:
        """Return the time of its clock, in seconds."""

    def callLater(self, delay: float, callable: Callable[..., object], /, *args: Any, **kw: Any) -> IDelayedCall:
        """Call in so many seconds."""


class GatewayReactor(GatewayClock, Protocol):
    """A reactor: time, threads and, for endpoints, connections."""

    def callFromThread(self, callable: Callable[..., object], /, *args: Any, **kw: Any) -> None:
        """Call in the reactor's thread, as soon as it can; safe in any thread."""


class GatewayTransport(Protocol):
    """A stream transport that can be paused, fed by a producer, and closed in both of Twisted's ways."""

    def write(self, data: bytes, /) -> None:
        """Write."""

    def loseConnection(self) -> None:
        """Close once what was written has gone out."""

    def abortConnection(self) -> None:
        """Close now."""

    def pauseProducing(self) -> None:
        """Read nothing more for now."""

    def resumeProducing(self) -> None:
        """Read again."""

    def registerProducer(self, producer: Any, streaming: bool, /) -> None:
        """Pause and resume `producer` as the other side takes what it writes."""

    def unregisterProducer(self) -> None:
        """Pause and resume nothing more."""

    def getPeer(self) -> Any:
        """Return the address of the other side."""

    def getHost(self) -> Any:
        """Return the address of this side."""

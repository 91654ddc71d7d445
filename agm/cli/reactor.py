"""
Running a piece of Twisted for a command: the reactor starts, one coroutine runs, and the reactor stops.

The reactor of a process runs once, so a command has one such piece.  Imported only where it is needed: Twisted takes
a while.
"""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from agm.cli.files import Refused

__all__ = ["installed", "run_in_reactor"]

T = TypeVar("T")


def installed() -> Any:
    """Return the reactor of the process, which need not run."""
    from twisted.internet import reactor

    return reactor


def run_in_reactor(main: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """
    Run ``main(reactor)``; return or raise what it does.

    :raises Refused: if the person interrupts it.
    """
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from agm.net.clocks import use_steady_clock

    reactor = installed()
    use_steady_clock(reactor)
    outcome: list[T | Failure] = []
    interrupted = False

    def start() -> None:
        running = Deferred.fromCoroutine(main(reactor))

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            running.cancel()

        stopping = reactor.addSystemEventTrigger("before", "shutdown", interrupt)

        def ended(result: T | Failure) -> None:
            outcome.append(result)
            if not interrupted:
                reactor.removeSystemEventTrigger(stopping)
                reactor.stop()

        running.addBoth(ended)

    reactor.callWhenRunning(start)
    reactor.run()
    if interrupted or not outcome:
        raise Refused("interrupted; nothing was changed")
    result = outcome[0]
    if isinstance(result, Failure):
        result.raiseException()
        raise AssertionError("raiseException raises")
    return result

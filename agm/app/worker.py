"""
A worker: one of several processes that serve on the same sockets, started and watched by a supervisor.

It is the gateway as one process is, but for these: its sockets are given to it, it takes connections through a gate,
its log goes to the supervisor, and so does what a service manager would be told; orders come instead of signals.  When
its supervisor is gone it serves what it has, and ends.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import msgspec
from twisted.logger import globalLogBeginner

from agm.app.worker_messages import LOG, NEWS, ORDERS, Start
from agm.app.worker_pipes import LogPipe, News
from agm.config.problems import fail

__all__ = ["main"]


def main() -> None:
    """Be a worker: the program that a supervisor starts."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # of a terminal, for the supervisor, which has its own way to say so
    start = _read_start(ORDERS)
    if "LISTEN_FDS" in os.environ:  # by number or name the sockets are found, although they are at other places here
        os.environ["LISTEN_PID"] = str(os.getpid())
    from twisted.internet import reactor

    from agm.net.clocks import use_steady_clock

    use_steady_clock(reactor)  # first of all: nothing is scheduled yet
    from agm.app.assemble import make_worker_service

    service, observer = make_worker_service(reactor, start, LogPipe(LOG), News(NEWS))
    _run(reactor, service, observer)


def _run(reactor: Any, service: Any, observer: Any) -> None:
    """Run a service until it is stopped, as twistd does."""
    globalLogBeginner.beginLoggingTo([observer])
    service.privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


def _read_start(descriptor: int) -> Start:
    """Read how to start.  What comes after that line stays to be read."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            fail("this is what twistd agm --workers starts; it is not to be started by hand")
        line += byte
    return msgspec.json.decode(line, type=Start)


if __name__ == "__main__":
    main()

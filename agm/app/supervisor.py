"""
The supervisor of ``--workers N``: it binds the listeners, starts workers on them, and keeps so many of them serving.

It holds no client's connection and nothing of a request.  A worker that dies is started anew, one that does not turn
any more is killed first; SIGHUP is passed on, SIGUSR2 replaces the workers one by one (the new one serves before the
old one leaves), and the service manager hears of all of them through it alone.  Their log comes through pipes, and is
written and rotated here.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from agm.app import worker_messages as messages
from agm.app.assemble import Listening, upload_key_beside
from agm.app.demo import DemoUpstream
from agm.app.listeners import BACKLOG, fail_running, shown_address, why_not
from agm.app.options import Options
from agm.app.private_store import PrivateStore
from agm.app.service import KEPT_SECONDS, LoggedService, stop_on_signals
from agm.app.systemd import Manager, ServiceManager
from agm.app.worker_messages import SharedListener, Start
from agm.config import Config
from agm.config.listeners import auth_mode
from agm.core.redact import Redactor
from agm.core.sealed import KEY_BYTES
from agm.net.sharing import SharedMemory, let_go
from agm.observe.logging import FileObserver, observer
from agm.observe.machine_metrics import keep
from agm.persist import pool_state as state
from agm.serving.secrets import secrets_of

__all__ = ["Supervisor", "make_supervisor"]

#: Seconds between two looks at the workers.
LOOK_EVERY = 1.0
#: Seconds after which a worker that has given no sign of life is killed.
HUNG = 15.0
#: Seconds within which a worker has to serve after its start: plugins may fetch accounts from elsewhere.
START = 120.0
#: A worker that ends sooner than so many seconds after its start is started again later and later.
SHORT_LIFE = 5.0
BACKOFF = (0.5, 30.0)
#: Seconds beyond lame duck and drain after which a worker that was to end is killed.
LAST = 15.0
#: Slots in the shared memory for each worker: of those that leave some may still be there.
SLOTS = 4
#: Lines of its standard error that are kept, for whoever wonders why a worker could not start.
KEPT_ERRORS = 20

log = Logger()


class _Unserved(Factory):
    """Stands for the site while a socket is bound: nothing is ever accepted here."""

    noisy = False


class Lines:
    """Whole lines out of pieces of bytes."""

    def __init__(self, take: Callable[[str], object]) -> None:
        self._take = take
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take a piece; lines that are complete with it are handed on together."""
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if newline:
            self._take((whole + newline).decode("utf-8", "replace"))

    def end(self) -> None:
        """There is no more: what has come of a line is one."""
        if self._rest:
            self.feed(b"\n")


class WorkerProcess(ProcessProtocol):
    """
    A worker, as its supervisor sees it.

    :param number: its place among the workers, from 1 on.
    :param slot: its own in the shared memory.
    :ivar name: of its own socket: its place and its process.
    :ivar serving: it has said that it serves.
    :ivar leaving: it was told to end.
    :ivar started: when, in seconds of the reactor's clock.
    :ivar errors: the last lines of its standard error.
    """

    def __init__(self, supervisor: Supervisor, number: int, slot: int, started: float) -> None:
        self._supervisor = supervisor
        self.number = number
        self.slot = slot
        self.started = started
        self.serving = self.leaving = self.reloading = False
        self.errors: list[str] = []
        self.name = ""
        self.kill_at: float | None = None
        self._pipes = {
            messages.LOG: Lines(supervisor.write_log),
            messages.ERRORS: Lines(self._complained),
            messages.NEWS: Lines(self._news),
        }

    @property
    def pid(self) -> int | None:
        """Its process's id; None when it has ended."""
        found: int | None = None if self.transport is None else self.transport.pid
        return found

    def connectionMade(self) -> None:
        """It runs."""
        self.name = f"{self.number}-{self.pid}"

    def start(self, start: Start) -> None:
        """Tell it how to start."""
        self._tell(msgspec.json.encode(start))

    def tell(self, order: str) -> None:
        """Give it an order."""
        self._tell(order.encode("ascii"))

    def _tell(self, line: bytes) -> None:
        if self.transport is not None and self.transport.pid is not None:
            self.transport.writeToChild(messages.ORDERS, line + b"\n")

    def kill(self) -> None:
        """End it now."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Something came through one of its pipes."""
        self._pipes[childFD].feed(data)

    def childConnectionLost(self, childFD: int) -> None:
        """One of its pipes is closed."""
        if childFD in self._pipes:
            self._pipes[childFD].end()

    def _complained(self, text: str) -> None:
        for line in text.splitlines():
            self.errors = [*self.errors[1 - KEPT_ERRORS :], line]
            if self.serving:
                log.warn("worker {number}: {line}", number=self.number, line=line)

    def _news(self, text: str) -> None:
        for line in text.splitlines():
            word, _, argument = line.partition(" ")
            if word == "ready":
                self.reloading = False
                self._supervisor.is_ready(self, argument)
            elif word == "reloading":
                self.reloading = True

    def processEnded(self, reason: Failure) -> None:
        """It has ended."""
        self._supervisor.has_ended(self, reason)


@attrs.define
class _Place:
    """A place among the workers: who serves there, how often that failed, and when it is tried again."""

    number: int
    worker: WorkerProcess | None = None
    short_lives: int = 0
    again: IDelayedCall | None = None


class Supervisor(LoggedService):
    """
    Starts workers and watches them.

    :param start: how each starts; place, slot and listeners are added.
    :param bind: each listener with its endpoint.
    :param patience: seconds of lame duck and of the drain.
    :param store: the store of their own; None where the configuration names one.
    :param command: what is started.
    """

    def __init__(
        self,
        reactor: Any,
        start: Start,
        listening: Listening,
        manager: Manager,
        patience: tuple[float, float],
        *,
        demo: DemoUpstream | None = None,
        store: PrivateStore | None = None,
        command: Sequence[str] = (sys.executable, "-P", "-m", "agm.app.worker"),
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._start = start
        self._listening = listening
        self._manager = manager
        self._lame_duck, self._drain = patience
        self._demo = demo
        self._store = store
        self._command = command
        self._ports: list[IListeningPort] = []
        self._shared: list[SharedListener] = []
        self._memory = SharedMemory.make(start.count * SLOTS)
        self._places = [_Place(number) for number in range(1, start.count + 1)]
        #: Every process that has not ended, those that leave included.
        self._workers: list[WorkerProcess] = []
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._looked = 0.0
        self._watchdog = LoopingCall(manager.alive)
        self._watchdog.clock = reactor
        self._began = False
        self._stopping = False
        self._ended: Deferred[None] | None = None
        self._replacing: list[int] = []
        self._pages: FileObserver | None = None

    # Listening

    def privilegedStartService(self) -> None:
        """Bind, before the process gives up any privilege."""
        super().privilegedStartService()
        for listener, endpoint in zip(self._listening.listeners, self._listening.endpoints, strict=True):
            made: list[Any] = []
            endpoint.listen(_Unserved()).addBoth(made.append)
            if not made or (not isinstance(made[0], Failure) and not hasattr(made[0], "socket")):
                fail_running(f"--workers cannot share {listener.description}: it is no socket that is bound at once")
            if isinstance(made[0], Failure):
                fail_running(f"cannot listen on {listener.description}: {why_not(made[0])}")
            (port,) = made
            port.stopReading()
            if ":backlog=" not in listener.description and not listener.description.startswith("systemd:"):
                port.socket.listen(BACKLOG)
            self._ports.append(port)
            self._shared.append(SharedListener(listener.description, port.socket.family, listener.interface))
            log.info("listening on {address}", address=shown_address(port.getHost(), listener.description))

    # Starting

    def startService(self) -> None:
        """Start the workers."""
        super().startService()
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))
        signal.signal(signal.SIGUSR2, lambda number, frame: self._reactor.callFromThread(self.replace))
        if self._manager.watchdog is not None:
            self._watchdog.start(self._manager.watchdog / 2)
        if self._store is None:
            self._begin_workers(None)
        else:
            self._store.start().addCallbacks(self._begin_workers, self._has_failed)

    def _has_failed(self, failure: Failure) -> None:
        self._fail([f"agm: {failure.getErrorMessage()}"])

    def _begin_workers(self, _: object) -> None:
        if self._stopping:
            return
        self._looked = self._reactor.seconds()
        self._looking.start(LOOK_EVERY, now=False)
        for place in self._places:
            self._spawn(place)

    def _spawn(self, place: _Place) -> None:
        place.again = None
        slots = {worker.slot for worker in self._workers}
        free = [slot for slot in range(self._memory.slots) if slot not in slots]
        if self._stopping:
            return
        if not free:  # those that leave take their time
            place.again = self._reactor.callLater(LOOK_EVERY, self._spawn, place)
            return
        self._memory.put(free[0], 0, 0.0)
        worker = place.worker = WorkerProcess(self, place.number, free[0], self._reactor.seconds())
        self._workers.append(worker)
        descriptors: dict[int, int | str] = {
            messages.ORDERS: "w",
            messages.LOG: "r",
            messages.ERRORS: "r",
            messages.NEWS: "r",
            messages.MEMORY: self._memory.descriptor,
        }
        for number, port in enumerate(self._ports):
            descriptors[messages.SOCKETS + number] = port.fileno()  # type: ignore[attr-defined]
        own = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        environ = {name: value for name, value in os.environ.items() if name not in own}
        command = [*self._command, str(place.number)]
        self._reactor.spawnProcess(worker, command[0], command, env=environ, childFDs=descriptors)
        worker.start(
            msgspec.structs.replace(self._start, number=place.number, slot=worker.slot, listeners=tuple(self._shared))
        )

    # What workers say

    def is_ready(self, worker: WorkerProcess, status: str) -> None:
        """A worker serves, or has read its configuration again."""
        if not worker.serving:
            worker.serving = True
            log.info("worker {number} (process {pid}) serves", number=worker.number, pid=worker.pid)
            self._replace_next(worker)
        if self._stopping or any(each.reloading for each in self._workers):
            return
        if all(place.worker is not None and place.worker.serving for place in self._places):
            if not self._began:
                self._began = True
                log.info("agm serves with {count} workers", count=len(self._places))
            self._manager.ready(f"{len(self._places)} workers: {status}")

    def has_ended(self, worker: WorkerProcess, reason: Failure) -> None:
        """A worker has ended: another one takes its place, unless it was told to."""
        self._workers.remove(worker)
        self._memory.put(worker.slot, 0, 0.0)
        with suppress(OSError):
            (Path(self._start.folder) / f"{worker.name}.sock").unlink()
        keep(Path(self._start.folder), worker.name)
        place = self._places[worker.number - 1]
        if self._stopping:
            self._all_gone()
        elif place.worker is worker:
            place.worker = None
            how = "" if reason.check(ProcessDone) else f": {reason.getErrorMessage()}"
            if not worker.serving and not self._began:
                self._fail(worker.errors or [f"agm: worker {worker.number} ended before it served{how}"])
                return
            for line in worker.errors if not worker.serving else ():
                log.error("worker {number}: {line}", number=worker.number, line=line)
            lived = self._reactor.seconds() - worker.started
            place.short_lives = place.short_lives + 1 if lived < SHORT_LIFE or not worker.serving else 0
            least, most = BACKOFF
            delay = 0.0 if not place.short_lives else min(least * 2 ** (place.short_lives - 1), most)
            log.error(
                "worker {number} ended unexpectedly{how}; another one is started {when}",
                number=worker.number,
                how=how,
                when=f"in {delay:g} seconds" if delay else "at once",
            )
            place.again = self._reactor.callLater(delay, self._spawn, place)

    def write_log(self, text: str) -> None:
        """Write lines of a worker's log."""
        if self._pages is not None:
            self._pages.write_lines(text)

    # Watching

    def _look(self) -> None:
        """Kill who does not turn any more; not when this process itself was held up."""
        now, turned = self._reactor.seconds(), time.monotonic()
        held_up = now - self._looked > 3 * LOOK_EVERY
        self._looked = now
        for worker in list(self._workers):
            if worker.kill_at is not None and now > worker.kill_at:
                log.error("worker {number} does not end in time, and is killed", number=worker.number)
                worker.kill()
            elif not worker.serving and not worker.leaving:
                if now - worker.started > START:
                    log.error("worker {number} does not get to serve, and is killed", number=worker.number)
                    worker.kill()
            elif not held_up and 0 < self._memory.get(worker.slot)[1] < turned - HUNG:
                log.error(
                    "worker {number} (process {pid}) has hung for {seconds:g} seconds, and is killed",
                    number=worker.number,
                    pid=worker.pid,
                    seconds=HUNG,
                )
                worker.kill()

    # Orders

    def reload(self) -> None:
        """SIGHUP: every worker reads its configuration again."""
        self._manager.reloading()
        for worker in self._workers:
            worker.reloading = worker.serving and not worker.leaving
            worker.tell(messages.RELOAD)

    def replace(self) -> None:
        """SIGUSR2: replace every worker, one by one, by one that starts from what is installed and configured now."""
        if self._stopping or self._replacing or not self._began:
            log.info("SIGUSR2: the workers are being replaced or not all there; nothing is done")
            return
        log.info("SIGUSR2: the workers are replaced, one by one")
        self._replacing = [place.number for place in self._places]
        self._replace_next(None)

    def _replace_next(self, ready: WorkerProcess | None) -> None:
        """Start the next replacement; the one before serves, and whom it replaces may leave."""
        if ready is not None:
            for old in self._workers:
                if old.number == ready.number and old is not ready:
                    self._retire(old)
            if not self._replacing or self._replacing[0] != ready.number:
                return
            self._replacing.pop(0)
        if self._replacing and not self._stopping:
            place = self._places[self._replacing[0] - 1]
            if place.again is not None:  # it is being started as it is
                place.again.cancel()
            self._spawn(place)
        elif ready is not None:
            log.info("all workers are replaced")

    def _retire(self, worker: WorkerProcess) -> None:
        if not worker.leaving:
            worker.leaving = True
            worker.kill_at = self._reactor.seconds() + KEPT_SECONDS + self._drain + LAST
            worker.tell(messages.RETIRE)

    # Stopping

    def stop(self, name: str) -> None:
        """Stop because of a signal; the second one ends the lame duck or the drain, as it does in one process."""
        if self._stopping:
            for worker in self._workers:
                worker.tell(messages.AGAIN)
            return
        log.info("{name}: stopping", name=name)
        self._stopping = True
        for worker in self._workers:
            worker.leaving = True
            worker.kill_at = self._reactor.seconds() + self._lame_duck + KEPT_SECONDS + self._drain + LAST
            worker.tell(name if name == messages.INTERRUPT else messages.STOP)
        self._reactor.stop()

    def stopService(self) -> Deferred[Any]:
        """Wait until all workers have ended."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            for worker in self._workers:
                worker.tell(messages.STOP)
        self._manager.stopping(
            f"stopping {len(self._workers)} workers", self._lame_duck + KEPT_SECONDS + self._drain + LAST
        )
        for place in self._places:
            if place.again is not None:
                place.again.cancel()
        closing = self._reactor.callLater(self._lame_duck, self._close_ports)
        if self._workers:
            self._ended = Deferred()
            await self._ended
        if closing.active():
            closing.cancel()
        self._close_ports()
        for watch in (self._looking, self._watchdog):
            if watch.running:
                watch.stop()
        if self._store is not None:
            await self._store.stop()
        stopping = super().stopService()
        if isinstance(stopping, Deferred):
            await stopping
        self._memory.close()
        shutil.rmtree(self._start.folder, ignore_errors=True)

    def _close_ports(self) -> None:
        """Hold the sockets no longer: what connects while the last worker closes its own would wait here for ever."""
        ports, self._ports = self._ports, []
        for port in ports:
            let_go(port)

    def _all_gone(self) -> None:
        if not self._workers and self._ended is not None:
            ended, self._ended = self._ended, None
            ended.callback(None)

    def _fail(self, lines: Sequence[str]) -> None:
        """End the start with these lines on standard error, and status 1."""
        if self._stopping:
            return
        for line in lines:
            log.critical("{line}", line=line)
            if sys.__stderr__ is not None:
                print(line, file=sys.__stderr__, flush=True)  # sys.stderr is the log by now
        atexit.register(_end_with_failure)
        self.stop("failure")

    def log_to(self, pages: FileObserver) -> None:
        """Say where the workers' log goes."""
        self._pages = pages


def _end_with_failure() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def make_supervisor(reactor: Any, options: Options, config: Config) -> Supervisor:
    """Make the service that twistd runs for several workers."""
    listening = Listening.configured(reactor, options, config)
    auth_mode(config, listening.listeners)  # a listener that must not be is refused here, once
    twistd: Any = options.parent or {}
    demo = DemoUpstream(reactor) if options["demo"] else None
    state_path = None if options["demo"] else state.path_of(config)
    store = PrivateStore.for_config(reactor, config, temporary=demo is not None)
    start = Start(
        number=0,
        slot=0,
        count=options["workers"] or config.gateway.workers,
        folder=tempfile.mkdtemp(prefix="agm-workers-"),
        listeners=(),
        config=None if config.path is None else str(config.path),
        plugins=tuple(options["plugin"]),
        log_format=options["log-format"],
        syslog=(twistd.get("prefix") or "agm") if twistd.get("syslog") else None,
        demo=None if demo is None else demo.url,
        upload_key=upload_key_beside(state_path) or secrets.token_bytes(KEY_BYTES),
        store=None if store is None else store.address,
    )
    service = Supervisor(
        reactor,
        start,
        listening,
        ServiceManager.from_environment(os.environ, os.getpid()),
        (config.timeouts.lame_duck, config.timeouts.drain),
        demo=demo,
        store=store,
    )
    if demo is not None:
        demo.setServiceParent(service)
    redactor = Redactor()
    for secret in secrets_of(config):
        redactor.add_permanent(secret)
    if not twistd.get("logger"):
        form = options["log-format"] or config.log.format

        def observe() -> Any:
            made = observer(reactor, redactor, form, config.log.level, twistd)
            if isinstance(made, FileObserver):
                service.log_to(made)
            return made

        service.observer = observe
    reactor.callWhenRunning(stop_on_signals, reactor, service)
    return service

"""
The request log of a running gateway: every request that ends becomes a row of an SQLite file, in batches and in a
thread of its own.

The reactor's part is to put a reference into a queue.  The queue has a bound, and so has the file
(:mod:`agm.observe.requestlog.store`). A disk that is full, or a file that cannot be used, stops the log with one line
and never the gateway; it is tried again every :data:`RETRY` seconds.  Bodies are kept only while a person has asked
for that, and each only in part.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from twisted.enterprise import adbapi
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from agm.config import RequestLogConfig
from agm.core.request import RequestRecord
from agm.core.words import counted
from agm.observe.activity import Underway
from agm.observe.finished import Finished
from agm.observe.requestlog import store as logfile
from agm.observe.requestlog.history import history
from agm.observe.requestlog.rows import KeptBodies, body_row, plain_rows, row_of
from agm.observe.requestlog.store import Filter, Unusable

#: Seconds from a request's end to its row.
DELAY = 0.5
#: Requests that are written at once, and those that wait to be at most.
BATCH = logfile.AT_ONCE
QUEUE = 10_000
#: While one full batch follows another, the size of the file is asked for every so many of them: some 3 MB.
WEIGH_EVERY = 16
#: Bytes of bodies that wait to be written at most.
QUEUED_BODIES = 32 * 2**20
#: Seconds after which a log that could not be written is tried again.
RETRY = 30.0
#: Seconds between looks for what is too old.
PRUNE_EVERY = 600.0
#: Seconds by which the wall clock may have moved between two of them without anybody having set it.
SET_BY = 60.0
#: Seconds for which bodies can be kept without being asked again.
MOST_BODIES = 24 * 3600.0

log = Logger()


class _Entry(NamedTuple):
    """A request that waits to be written, and what is kept of its bodies."""

    finished: Finished
    bodies: KeptBodies | None


class _Pool(adbapi.ConnectionPool):
    """One thread and one connection; the file is made first, because SQLite would let others read it."""

    def __init__(self, reactor: Any, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        #: Whether something went wrong with the connection: another one is made for the next use.
        self.suspect = False
        #: The connection itself, for use in the pool's thread.
        self.connection: sqlite3.Connection | None = None
        super().__init__(
            "sqlite3",
            str(path),
            cp_reactor=reactor,
            cp_min=1,
            cp_max=1,
            cp_noisy=False,
            cp_openfun=self._prepare,
            timeout=logfile.PATIENCE,
            check_same_thread=False,  # it is closed by the reactor's thread
        )

    def connect(self) -> Any:
        """Return the connection; a new one if the file is no longer that of the old one.  In the pool's thread."""
        if self.connection is not None and (self.suspect or self._identity != _identity(self._path)):
            connection, self.connection = self.connection, None
            self.disconnect(connection)
        if self.connection is None:
            logfile.make(self._path)
        return super().connect()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        try:
            logfile.prepare(connection, self._path)
        except BaseException:
            connection.close()
            raise
        self.connection, self.suspect = connection, False
        self._identity = _identity(self._path)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what distinguishes a file from another in its place; None while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class RequestLog:
    """
    The request log.

    :param settings: gives the ``[request_log]`` table in force, whose limits may change at any time.
    :param wall: seconds since the epoch.
    :param prunes: whether this process looks for what is too old or too much; one of several that write is enough.
    :param redact: takes secrets out of a text, in any thread: people paste keys where a model's name belongs.
    :ivar written: how many requests are in the file since the start.
    :ivar dropped: how many are not and never will be, because too many waited.
    :ivar failing: why the file cannot be written at the moment; None while it can.
    """

    def __init__(
        self,
        reactor: Any,
        path: Path,
        settings: Callable[[], RequestLogConfig],
        wall: Callable[[], float],
        *,
        redact: Callable[[str], str] = lambda text: text,
        prunes: bool = True,
    ) -> None:
        self._prunes = prunes
        self.path = path
        self.written = 0
        self.dropped = 0
        self.failing: str | None = None
        self._reactor = reactor
        self._settings = settings
        self._wall = wall
        self._redact = redact
        self._pool: _Pool | None = None
        self._queue: deque[_Entry] = deque()
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None
        self._queued_bodies = 0
        self._full_batches = 0
        self._said_dropped = 0
        self._pruned = float("-inf")
        #: How far the wall clock was ahead of the reactor's when it was looked for what is too old.
        self._ahead: float | None = None
        self._until: IDelayedCall | None = None

    def start(self) -> None:
        """Take requests from now on."""
        self._pool = _Pool(self._reactor, self.path)

    async def stop(self) -> None:
        """Write what waits, and close the file."""
        self.keep_bodies(0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pool, self._pool = self._pool, None
        if pool is None:
            return
        if self._writing is not None:
            await self._writing
        if self.failing is None:
            while self._queue and self.failing is None:
                await self._write(pool)
        elif self._queue:  # once more: a person may have made room
            await self._write(pool)
        if self._queue:
            log.error(
                "{requests} could not be written to the request log",
                requests=counted(len(self._queue), "request"),
                count=len(self._queue),
            )
        pool.close()

    # What the gateway says

    def note(self, finished: Finished, underway: Underway, record: RequestRecord) -> None:
        """A request has ended."""
        if self._pool is None:
            return
        if len(self._queue) >= QUEUE:
            self._lose([self._queue.popleft()])
        bodies = None
        if self._until is not None:
            bodies = self._bodies(underway, record)
        self._queue.append(_Entry(finished, bodies))
        if self._timer is None and self._writing is None:
            self._timer = self._reactor.callLater(DELAY, self._due)
        elif len(self._queue) == BATCH and self._writing is None and self.failing is None:
            assert self._timer is not None, "the line above"
            self._timer.reset(0)

    def _bodies(self, underway: Underway, record: RequestRecord) -> KeptBodies | None:
        most = self._settings().max_body
        request = record.request.body.raw
        bodies = KeptBodies(request[:most], len(request), underway.answer, underway.answer_size)
        if self._queued_bodies + len(bodies) > QUEUED_BODIES:
            return None
        self._queued_bodies += len(bodies)
        return bodies

    def _lose(self, entries: Sequence[_Entry]) -> None:
        self.dropped += len(entries)
        self._release(entries)

    def _release(self, entries: Sequence[_Entry]) -> None:
        self._queued_bodies -= sum(len(entry.bodies) for entry in entries if entry.bodies is not None)

    # What a person says

    @property
    def waiting(self) -> int:
        """How many requests wait to be written."""
        return len(self._queue)

    @property
    def kept_answers(self) -> int:
        """How many bytes of each answer are to be kept."""
        return 0 if self._until is None else self._settings().max_body

    @property
    def bodies_left(self) -> float:
        """For how many seconds more bodies are kept; 0 if they are not."""
        return 0.0 if self._until is None else max(self._until.getTime() - self._reactor.seconds(), 0.0)

    def keep_bodies(self, seconds: float) -> None:
        """Keep the bodies of requests and answers for a time, at most :data:`MOST_BODIES`; 0 ends that."""
        if self._until is not None:
            self._until.cancel()
            self._until = None
            log.info("bodies are no longer kept in the request log")
        if seconds > 0 and self._pool is not None:
            seconds = min(seconds, MOST_BODIES)
            self._until = self._reactor.callLater(seconds, self._bodies_end)
            log.warn(
                "the bodies of requests and answers are kept in the request log for {seconds:g} seconds",
                seconds=seconds,
            )

    def _bodies_end(self) -> None:
        self._until = None
        log.info("bodies are no longer kept in the request log")

    # What is asked

    async def latest(self, count: int, which: Filter | None = None, *, after: int = 0) -> list[dict[str, Any]]:
        """The last `count` requests in the file, the newest first; see :func:`agm.observe.requestlog.store.latest`."""
        return await self._read(lambda connection: logfile.latest(connection, count, which, after=after))

    async def totals(self, by: str, which: Filter | None = None) -> list[dict[str, Any]]:
        """Sums over the requests in the file, a row per group; see :func:`agm.observe.requestlog.store.totals`."""
        return await self._read(lambda connection: logfile.totals(connection, by, which))

    async def history(self, since: float, until: float, steps: int) -> dict[str, Any]:
        """Return what the file says of a stretch of time; see :func:`agm.observe.requestlog.history.history`."""
        found: dict[str, Any] = await self._read(lambda connection: history(connection, since, until, steps))
        return found

    async def since(self, time: float) -> dict[str, list[dict[str, Any]]]:
        """The sums since a time in seconds since the epoch, by each of :data:`agm.observe.requestlog.store.GROUPS`."""
        which = Filter(since=time)
        return await self._read(lambda connection: {by: logfile.totals(connection, by, which) for by in logfile.GROUPS})

    async def _read(self, question: Callable[[sqlite3.Connection], Any]) -> Any:
        """
        Ask the file, in the thread and behind what is being written.

        :raises Unusable: if it cannot be asked; the message says why.
        """
        pool = self._pool
        if pool is None:
            raise Unusable("the request log is closed")

        def ask(_: object) -> Any:
            connection = pool.connection
            assert connection is not None, "the pool has connected"
            cursor_rows, connection.row_factory = connection.row_factory, sqlite3.Row
            try:
                return question(connection)
            finally:
                connection.row_factory = cursor_rows

        try:
            return await pool.runWithConnection(ask)
        except (OSError, sqlite3.Error) as e:
            raise Unusable(_why(e, self.path)) from None

    # Writing

    def _due(self) -> None:
        self._timer = None
        if self._pool is not None and self._queue:
            self._write(self._pool)

    def _write(self, pool: _Pool) -> Deferred[None]:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH))]
        settings, now, seconds = self._settings(), self._wall(), self._reactor.seconds()
        due = seconds - self._pruned > PRUNE_EVERY
        # by a clock that was set a moment ago all may be too old: whether it stays so is seen the next time
        was_set = self._ahead is not None and abs(now - seconds - self._ahead) > SET_BY
        long_ago = float("-inf")
        # not in the thread: two take the interpreter from each other; and all at once, in half the time of one by one
        try:
            rows = [row_of(entry.finished) for entry in batch]
        except Exception:
            self._failed(Failure(), batch, pool)
            self._again(None)
            return succeed(None)
        self._full_batches = self._full_batches + 1 if len(batch) == BATCH else 0
        weigh = self._full_batches % WEIGH_EVERY == 0

        def write(_: object) -> None:
            connection = pool.connection
            assert connection is not None, "the pool has connected"
            kept = [body_row(entry.finished, entry.bodies, self._redact) for entry in batch if entry.bodies is not None]
            logfile.insert(connection, plain_rows(rows, [entry.finished for entry in batch], self._redact), kept)
            with suppress(OSError, sqlite3.Error):  # the rows are there; what is too much is so the next time as well
                full = (weigh or kept) and logfile.size(connection) > settings.max_size
                if self._prunes and (due or full):
                    logfile.prune(
                        connection,
                        oldest=long_ago if was_set else now - settings.max_days * 86_400,
                        oldest_body=long_ago if was_set else now - logfile.BODY_SECONDS,
                        max_size=settings.max_size,
                    )

        writing: Deferred[None] = pool.runWithConnection(write)
        self._writing = writing
        if due:
            self._pruned, self._ahead = seconds, now - seconds
        writing.addCallbacks(self._wrote, self._failed, callbackArgs=(batch,), errbackArgs=(batch, pool))
        return writing.addBoth(self._again)

    def _wrote(self, _: object, batch: Sequence[_Entry]) -> None:
        self.written += len(batch)
        self._release(batch)
        if self.failing is not None:
            self.failing = None
            log.info("the request log in {path} can be written again", path=str(self.path))
        if self.dropped > self._said_dropped:
            log.warn(
                "{requests} missing in the request log: more came than could be written",
                requests=counted(self.dropped - self._said_dropped, "request"),
                count=self.dropped - self._said_dropped,
            )
            self._said_dropped = self.dropped

    def _failed(self, failure: Failure, batch: list[_Entry], pool: _Pool) -> None:
        error = failure.value
        if not isinstance(error, OSError | sqlite3.Error | Unusable):
            # nothing is wrong with the file: these requests cannot be rows, and never will be
            log.failure("the request log failed", failure=failure)
            self._lose(batch)
            return
        pool.suspect = True
        lost = max(len(batch) + len(self._queue) - QUEUE, 0)
        self._lose(batch[:lost])
        self._queue.extendleft(reversed(batch[lost:]))
        if self.failing is None:
            self.failing = _why(error, self.path)
            log.error(
                "the request log stops, and the gateway goes on: {why}; it is tried again every {seconds:g} seconds",
                why=self.failing,
                seconds=RETRY,
            )

    def _again(self, _: object) -> None:
        self._writing = None
        if self._queue and self._pool is not None:
            wait = RETRY if self.failing is not None else 0 if len(self._queue) >= BATCH else DELAY
            self._timer = self._reactor.callLater(wait, self._due)


def _why(error: BaseException, path: Path) -> str:
    """Explain on one line, with its name, why the file cannot be used."""
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, OSError):
        return f"{path}: {error.strerror or type(error).__name__}"
    return f"{path}: {error}"

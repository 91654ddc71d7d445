"""
A small JSON document that survives a restart: read at the start, and written from then on, a while after each change.

It is JSON, because it is small, is written whole, and can be read by a person; a database would bring nothing but a
second way to fail.  It is replaced whole (a new file, fsync, rename), for its owner alone and in a thread of its own.
A file that cannot be used is set aside under another name, and never ends a start.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from agm.core.errors import NOT_JSON
from agm.persist.atomic_write import Replace, atomic_write

FORMAT = 1
#: Seconds from a change to the file that holds it.
DELAY = 1.0
#: A file larger than this is not ours.
MAX_SIZE = 256 * 1024 * 1024

log = Logger()

T = TypeVar("T")


class JsonFile(Generic[T]):
    """
    A file with a document: read at the start, and written from then on, a while after each change.

    :param kind: the document's type, a struct whose field ``agm`` is its format.
    :param what: what the file holds, for the log.
    :param lost: what it means that it cannot be used, for the log.
    :param dump: makes the document as it is now.
    :param delay: seconds from a change to the file that holds it.
    :param replace: :func:`os.replace`, but for tests.
    """

    def __init__(
        self,
        reactor: Any,
        path: Path,
        kind: type[T],
        *,
        what: str,
        lost: str,
        dump: Callable[[], T],
        delay: float = DELAY,
        replace: Replace = os.replace,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._kind = kind
        self._what = what
        self._lost = lost
        self._dump = dump
        self._delay = delay
        self._replace = replace
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None
        self._threads: ThreadPool | None = None
        self._dirty = False
        self._stopped = False

    def start(self, check: Callable[[T], None] = lambda document: None) -> T | None:
        """
        Read the file, and be ready to write it.  Returns its document; None if there is none that can be used.

        :param check: raises ValueError for a document that cannot be.
        """
        found = self._read(check)
        self._threads = ThreadPool(0, 1, "state")
        self._threads.start()
        return found

    def changed(self) -> None:
        """Note that what is to be kept has changed."""
        if self._dirty or self._stopped:
            return
        self._dirty = True
        if self._timer is None and self._writing is None:
            self._timer = self._reactor.callLater(self._delay, self._due)

    async def stop(self) -> None:
        """Write what has not been written, and end the thread."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await self._writing
        if self._dirty:
            await self._write()
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.stop()

    def _read(self, check: Callable[[T], None]) -> T | None:
        try:
            if self._path.stat().st_size > MAX_SIZE:
                raise ValueError("it is too large")
            found = msgspec.json.decode(self._path.read_bytes(), type=self._kind)
            version = getattr(found, "agm", None)
            if version != FORMAT:
                raise ValueError(f"its format is {version}, and this agm reads {FORMAT}")
            check(found)
        except FileNotFoundError:
            return None
        except OSError as e:
            log.warn("{what} in {path} cannot be read: {why}", what=self._what, path=str(self._path), why=e.strerror)
            return None
        except (*NOT_JSON, msgspec.ValidationError, ValueError) as e:
            aside = self._path.with_name(f"{self._path.name}.unusable")
            try:
                os.replace(self._path, aside)
            except OSError:
                aside = self._path
            log.warn(
                "{what} in {path} cannot be used ({why}); it is now {aside}, and {lost}",
                what=self._what,
                path=str(self._path),
                why=str(e),
                aside=str(aside),
                lost=self._lost,
            )
            return None
        return found

    def _due(self) -> None:
        self._timer = None
        self._write()

    def _write(self) -> Deferred[None]:
        self._dirty = False
        text = msgspec.json.format(msgspec.json.encode(self._dump()), indent=1) + b"\n"
        assert self._threads is not None, "nothing is written before the start"
        writing = deferToThreadPool(self._reactor, self._threads, atomic_write, self._path, text, replace=self._replace)
        writing.addErrback(
            lambda failure: log.warn(
                "{what} cannot be written to {path}: {why}",
                what=self._what,
                path=str(self._path),
                why=failure.getErrorMessage(),
            )
        )
        self._writing = writing
        return writing.addBoth(self._written)

    def _written(self, _: object) -> None:
        self._writing = None
        if self._dirty and not self._stopped:
            self._dirty = False
            self.changed()

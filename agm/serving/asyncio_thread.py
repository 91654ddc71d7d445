"""A thread with an event loop of asyncio, for clients that plugins have and that know nothing of Twisted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class AsyncioThread:
    """
    Runs coroutine functions of asyncio in one loop, in a thread of its own that starts with the first call.

    :param reactor: takes their results back into its own thread.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None

    def call(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> Deferred[T]:
        """Call a function in the loop; cancelling the Deferred cancels what it awaits."""

        async def awaited() -> T:
            return await function(*args, **kwargs)

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = Thread(target=self._loop.run_forever, name="agm-asyncio", daemon=True)
            self._thread.start()
        future = asyncio.run_coroutine_threadsafe(awaited(), self._loop)

        def cancel(_: object) -> None:
            future.cancel()

        done: Deferred[T] = Deferred(cancel)

        def settle(ended: Future[T]) -> None:
            if done.called:
                return
            if ended.cancelled():
                done.cancel()
            elif (error := ended.exception()) is not None:
                done.errback(error)
            else:
                done.callback(ended.result())

        future.add_done_callback(lambda ended: self._reactor.callFromThread(settle, ended))
        return done

    def stop(self) -> None:
        """End the loop; what still runs in it is abandoned."""
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(5)
            loop.close()

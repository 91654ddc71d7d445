"""
A connection to Redis: one that is made again by itself, and whose calls have a deadline of ours.

A call that takes longer is not taken back: the server may have done what it says, and its reply is passed on when it
comes after all.  The connection stays, too: to abort it would lose the replies of all other calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure

__all__ = ["Away", "Link", "Script"]

#: Seconds that anything waits for the store.
DEADLINE: Final = 0.05
#: Seconds between attempts to connect, at first and at most, and for one of them.
_FIRST, _MOST, _CONNECT = 0.1, 1.0, 2.0


class Away(Exception):
    """The store is not there, or did not answer in time; what was asked may have been done."""


class Script:
    """A script that the server keeps under the hash of its text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode("ascii"), usedforsecurity=False).hexdigest()


class Link:
    """
    One connection.

    :param address: ``redis://[USER:PASSWORD@]HOST[:PORT][/DB]``, ``rediss://…`` for TLS, or ``unix:PATH``.
    :ivar on_change: called when the connection is made, and when it is lost.
    :ivar problem: why the server has refused it; None while it has not.
    """

    def __init__(self, reactor: Any, address: str) -> None:
        self._reactor = reactor
        self._address = address
        self._factory: Any = None
        self.problem: str | None = None
        self.on_change: Callable[[], object] = lambda: None

    def start(self) -> None:
        """Connect, and again whenever the connection is lost."""
        import txredisapi  # an extra

        link = self

        class Factory(txredisapi.RedisFactory):  # type: ignore[misc]  # it has no types
            initialDelay, maxDelay = _FIRST, _MOST

            def stopTrying(self) -> Any:
                if link._factory is None:  # it is closed for good
                    return super().stopTrying()
                # what the library gives up at once (a server that still loads its file, a password) may be mended
                return None

            def connectionError(self, why: object) -> None:
                link.problem = str(why)

            def addConnection(self, connection: Any) -> None:
                super().addConnection(connection)
                link.problem = None
                link.on_change()

            def delConnection(self, connection: Any) -> None:
                super().delConnection(connection)
                link.on_change()

        host, database, user, password = self._address, None, None, None
        if self._address.startswith("unix:"):
            endpoint: Any = UNIXClientEndpoint(self._reactor, self._address.removeprefix("unix:"), timeout=_CONNECT)
        else:
            url = urlsplit(self._address)
            host, port = url.hostname or "localhost", url.port or 6379
            endpoint = HostnameEndpoint(self._reactor, host, port, timeout=_CONNECT)
            if url.scheme == "rediss":
                endpoint = wrapClientTLS(optionsForClientTLS(host), endpoint)
            user = unquote(url.username) if url.username else None
            password = unquote(url.password) if url.password else None
            database = int(url.path.strip("/") or 0) or None
        self._factory = Factory(
            host, database, 1, True, txredisapi.ConnectionHandler, "utf-8", password, None, False, user
        )
        self._factory.startConnecting(endpoint)

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return bool(self._factory is not None and self._factory.pool)

    def ask(self, *command: object) -> Deferred[Any]:
        """Send a command; its reply comes whenever it comes.  :raises Away: where there is no connection."""
        if not self.connected:
            raise Away("not connected")
        answer: Deferred[Any] = self._factory.pool[0].execute_command(*command)
        return answer

    async def call(
        self, *command: object, within: float = DEADLINE, late: Callable[[Any], object] | None = None
    ) -> Any:
        """
        Send a command, and wait for its reply.

        :param late: is given a reply that comes after the deadline.
        :raises Away: where none comes within the deadline.
        """
        waiting: Deferred[Any] = Deferred()
        timer: Any = None
        over = False

        def come(reply: Any) -> None:
            if not over:
                waiting.callback(reply)
            elif late is not None and not isinstance(reply, Failure):
                late(reply)

        def expire() -> None:
            nonlocal timer
            # a reply may have come while this process was busy itself: it is read before this turn's end
            timer = self._reactor.callLater(0, give_up)

        def give_up() -> None:
            nonlocal over
            over = True
            waiting.errback(Away(f"no reply within {within * 1000:.0f} ms"))

        asked = self.ask(*command)
        timer = self._reactor.callLater(within, expire)
        asked.addBoth(come)
        try:
            return await waiting
        except Away:
            raise
        except Exception as e:  # the connection went, or the server refuses it
            raise Away(f"{type(e).__name__}: {e}") from None
        finally:
            if timer.active():
                timer.cancel()

    async def run(
        self,
        script: Script,
        keys: tuple[str, ...],
        *arguments: object,
        within: float = DEADLINE,
        late: Callable[[Any], object] | None = None,
    ) -> Any:
        """Run a script; see :meth:`call`."""
        rest = (len(keys), *keys, *arguments)
        try:
            return await self.call("EVALSHA", script.sha, *rest, within=within, late=late)
        except Away as e:
            if "NOSCRIPT" not in str(e) and "ScriptDoesNotExist" not in str(e):
                raise
        return await self.call("EVAL", script.text, *rest, within=within, late=late)

    async def stop(self) -> None:
        """Close it for good."""
        factory, self._factory = self._factory, None
        self.on_change = lambda: None
        if factory is not None:
            factory.stopTrying()
            await factory.disconnect()

"""
A process's part in a cluster: its connections to the store, who else is there, and what is shared with them.

While the store is away the process goes on alone, with its share of each limit; nothing waits longer for it than the
deadline of one call, and after the first that was missed nothing waits until it is back.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from agm.cluster.limits import SharedLimits
from agm.cluster.link import Away, Link
from agm.cluster.members import BEAT_EVERY, Members
from agm.cluster.state import SharedState
from agm.config.cluster import ClusterConfig
from agm.core.limits import Allowances, Exceeded, Limits
from agm.core.ownership import KnownOwners
from agm.core.pool.pool import Pool

__all__ = ["Cluster"]

log = Logger()


class Cluster:
    """
    What one process shares with the others of its gateway.

    :param about: what it tells of itself: the machine, the worker, the version.
    :ivar there: whether the store is there.
    """

    def __init__(
        self,
        reactor: Any,
        config: ClusterConfig,
        pool: Pool,
        owners: KnownOwners,
        allowances: Allowances,
        wall: Callable[[], float],
        about: Mapping[str, Any],
    ) -> None:
        assert config.redis is not None, "without it there is no cluster"
        self._reactor = reactor
        prefix = f"agm:{config.name}:"
        self._prefix = prefix
        self._link, self._news = Link(reactor, config.redis.reveal()), Link(reactor, config.redis.reveal())
        self._about = {"host": socket.gethostname(), "pid": os.getpid(), **about}
        self.members = Members(self._link, prefix, secrets.token_hex(8), lambda: self._about)
        self.limits = SharedLimits(reactor, self._link, self.members, prefix, allowances, wall, self._is_away)
        self.limits.on_loss = config.on_loss
        self._state = SharedState(reactor, self._link, self._news, prefix, pool, owners, wall, self._is_away)
        self.there = False
        self._said_away = False
        self._returning = False
        self._beat = LoopingCall(self._look)
        self._beat.clock = reactor
        self._stopped = False

    def start(self) -> None:
        """Connect, and take part from then on."""
        self._link.on_change = self._news.on_change = self._changed
        self._link.start()
        self._news.start()
        self._state.start()
        self._beat.start(BEAT_EVERY, now=False)

    async def stop(self) -> None:
        """Tell what has not been told, leave, and close the connections."""
        self._stopped = True
        if self._beat.running:
            self._beat.stop()
        if self.there:
            try:
                await self._state.flush()
                await self.limits.tell()
                await self.members.leave()
            except Away:
                pass
        self._state.stop()
        self.limits.stop()
        await self._link.stop()
        await self._news.stop()

    async def admit(self, name: str, limits: Limits, count: Callable[[], Exceeded | None]) -> Exceeded | None:
        """
        Hold a request of a client key to the limits that all processes share; returns the one that is used up.

        :param count: counts the request in this process, and returns the limit of its own that it would exceed.
        """
        return await self.limits.admit(name, limits, count, here=lambda: self.there)

    def share(self, limit: int, what: str) -> int:
        """Return this process's share of what may go on at once: all shares together are the limit."""
        return self.members.share(limit, what)

    # For plugins

    async def count(self, name: str, amount: int = 1, *, expires: float | None = None) -> int:
        """
        Add to a counter that all processes share, and return what it has come to.

        :param expires: seconds after its first count at which it begins anew.
        :raises Away: if the store is not there.
        """
        key = f"{self._prefix}counter:{name}"
        found = int(await self._link.call("INCRBY", key, amount))
        if expires is not None and found == amount:
            await self._link.call("PEXPIRE", key, int(expires * 1000))
        return found

    async def claim(self, what: str, seconds: float) -> bool:
        """
        Claim something for so many seconds; False while another process, or this one, has it.

        :raises Away: if the store is not there.
        """
        found = await self._link.call(
            "SET", f"{self._prefix}claim:{what}", self.members.name, "NX", "PX", int(seconds * 1000)
        )
        return found is not None

    # Whether the store is there

    def _changed(self) -> None:
        if self._link.connected and self._news.connected:
            self._come_back()
        elif self.there:
            self._is_away(Away("the connection is lost"))

    def _is_away(self, why: Away) -> None:
        self.there = False
        self._state.lost()
        if not self._said_away and not self._stopped:
            self._said_away = True
            log.warn("the store of the cluster is away: {why}; this process goes on with its share", why=str(why))

    def _look(self) -> None:
        if self.there:
            Deferred.fromCoroutine(self._beat_once())
        else:
            self._come_back()

    async def _beat_once(self) -> None:
        try:
            await self.members.beat()
        except Away as e:
            self._is_away(e)

    def _come_back(self) -> None:
        if self._returning or self._stopped or not (self._link.connected and self._news.connected):
            return
        self._returning = True
        Deferred.fromCoroutine(self._return()).addErrback(
            lambda failure: log.failure("the store of the cluster cannot be used", failure=failure)
        )

    async def _return(self) -> None:
        try:
            await self.members.beat()
            await self._state.catch_up()
        except Away as e:
            self._is_away(e)
            return
        finally:
            self._returning = False
        self.there = True
        self.limits.came_back()
        self._state.listen()
        if self._said_away:
            self._said_away = False
            log.info("the store of the cluster is back")

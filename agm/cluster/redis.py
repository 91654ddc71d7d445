"""
The store in Redis or Valkey: what several processes and machines share.

Two connections are kept, one for calls and one that waits for events.  A call has a deadline of ours that aborts
nothing: its answer is awaited on, and the connection with it.  After the first call that was late the store counts as
away, and calls fail at once until a beat is answered again.

Events stand twice: in a stream, for those who listen, and in a hash, for those who come later or have missed some.
They are numbered, and each beat tells the last number, so that whoever missed one knows it.  Where Redis has lost
everything, or was restarted from an older state, it has another *epoch*, and every process writes back what it knows.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import RedisFactory, RedisProtocol, ResponseError

from agm.cluster.events import Event, Ledger, decode, encode
from agm.cluster.store import BEAT, DEADLINE, SILENT, Bought, StoreAway
from agm.config.cluster import RedisAddress

__all__ = ["RedisStore"]

log = Logger()

T = TypeVar("T")

#: Milliseconds that the listening connection waits for an event before it asks again.
_LISTEN = 1000
#: Events that the stream keeps; whoever has missed more reads the hash.
_STREAM = 10_000
#: Pairs that are pruned at once.
_PRUNED = 2000
#: Beats without an answer after which the connection is taken for dead: a machine that is gone closes nothing.
_DEAD = 20

# KEYS: when the bucket is full again.  ARGV: microseconds for each, for all of them, how many at most, the last that
# this process knows: an emptied Redis gives nothing away twice.
_BUY = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local each, all, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[4]), now)
local left = math.floor((now + all - full) / each)
if left < 0 then left = 0 end
local granted = math.min(left, most)
full = full + granted * each
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1000)
local wait = 0
if granted == 0 then wait = full + each - now - all end
return {granted, left - granted, wait, string.format('%.0f', full)}
"""
_CLAIM = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_UNCLAIM = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
# ARGV: seconds to live, then a worker and its count, as often as there are; the greater one stays.
_COUNT = """
for i = 2, #ARGV, 2 do
  local known = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0')
  if tonumber(ARGV[i + 1]) > known then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
"""
# KEYS: stream, snapshot, number.  ARGV: place in the snapshot, event, its moment, the stream's length, who tells.
_TELL = """
local known = redis.call('HGET', KEYS[2], ARGV[1])
local later = not known
if known then
  local before, at = cjson.decode(known), tonumber(ARGV[3])
  later = before.at < at or (before.at == at and (before.by < ARGV[5] or (before.by == ARGV[5] and known < ARGV[2])))
end
if later then redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) end
local number = redis.call('INCR', KEYS[3])
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'n', number, 'e', ARGV[2])
return number
"""
# KEYS: snapshot.  ARGV: a place and what stands there, as often as there are.
_PRUNE = """
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 1
"""
# KEYS: workers, epoch, number.  ARGV: worker, seconds of silence, a new epoch.
_BEAT = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. (now - ARGV[2]))
redis.call('SET', KEYS[2], ARGV[3], 'NX')
return {redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3]) or '0', redis.call('ZRANGE', KEYS[1], 0, -1)}
"""


#: A timer that is later than so many seconds says that this process was busy, and not Redis; so often at most.
_LAG = 0.005
#: Seconds for what was written to be taken when a connection is closed.
_CLOSING = 1.0
_PATIENCE = 10


class _Factory(RedisFactory):
    """Keeps one connection, with pauses of 0.1 to 1 s; a refusal while Redis loads is no reason to give up."""

    initialDelay = 0.1
    maxDelay = 1

    def __init__(self, address: RedisAddress, ready: Callable[[RedisProtocol], None], lost: Callable[[], None]) -> None:
        password = None if address.password is None else address.password.reveal()
        super().__init__(
            None,
            address.database or None,
            1,
            isLazy=True,
            password=password,
            username=address.user,
            convertNumbers=False,
        )
        self._ready, self._lost = ready, lost
        self.connection: RedisProtocol | None = None

    def addConnection(self, conn: RedisProtocol) -> None:
        super().addConnection(conn)
        if conn.connected and not self.disconnectCalled:
            self.connection = conn
            self._ready(conn)

    def delConnection(self, conn: RedisProtocol) -> None:
        super().delConnection(conn)
        if self.connection is conn:
            self.connection = None
            self._lost()

    def abort(self) -> None:
        """Take the connection for dead."""
        transport: Any = None if self.connection is None else self.connection.transport
        if transport is not None:
            transport.abortConnection()

    def stopTrying(self) -> Deferred[None]:
        return succeed(None)


def _endpoint(reactor: Any, address: RedisAddress) -> Any:
    if address.path:
        return UNIXClientEndpoint(reactor, address.path, timeout=5)
    endpoint = HostnameEndpoint(reactor, address.host, address.port, timeout=5)
    return wrapClientTLS(optionsForClientTLS(address.host), endpoint) if address.tls else endpoint


class RedisStore:
    """
    See :class:`~agm.cluster.store.Store`.

    :param name: of the cluster.
    :param wall: seconds since the epoch.
    :param worker: a name that no other process has or had; one is made if it is None.
    """

    def __init__(
        self,
        reactor: Any,
        address: RedisAddress,
        name: str,
        wall: Callable[[], float],
        *,
        worker: str | None = None,
    ) -> None:
        self.worker = worker or secrets.token_hex(8)
        self.told: Callable[[Event], None] = lambda event: None
        self.changed: Callable[[bool], None] = lambda there: None
        self._reactor = reactor
        self._address = address
        self._prefix = f"agm:{name}:"
        self._calls = _Factory(address, self._connected, self._away)
        self._listens = _Factory(address, lambda connection: self._listen(), lambda: None)
        self._there = False
        self._stopped = False
        self._wall = wall
        self._ledger = Ledger(wall)
        self._workers: Sequence[str] = (self.worker,)
        self._timer: IDelayedCall | None = None
        #: Which Redis this is: its run, and its epoch.
        self._run = ""
        self._epoch: tuple[str, str] | None = None
        self._loading = False
        #: The stream's last entry that was heard, and its number.
        self._last = "0-0"
        self._number = 0
        #: The number that the last beat told: by the next one it has been heard.
        self._told_before = 0
        self._silent = 0
        self._untold: list[Event] = []
        #: What is known of limits and counts, for a Redis that has lost them.
        self._full_at: dict[str, int] = {}
        self._counts: dict[str, tuple[int, dict[str, int]]] = {}

    def start(self) -> None:
        """See :class:`~agm.cluster.store.Store`."""
        for factory in (self._calls, self._listens):
            factory.startConnecting(_endpoint(self._reactor, self._address))

    async def _close(self) -> None:
        if self._there:
            with contextlib.suppress(StoreAway, ResponseError):
                await self._call("ZREM", self._key("workers"), self.worker)
        self._there = False
        for factory in (self._calls, self._listens):
            late = self._reactor.callLater(_CLOSING, factory.abort)
            # a Redis that hangs must not keep a gateway from ending
            with contextlib.suppress(DeferredTimeout):
                await factory.disconnect().addTimeout(2 * _CLOSING, self._reactor)
            if late.active():
                late.cancel()

    def stop(self) -> Deferred[None]:
        """See :class:`~agm.cluster.store.Store`."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return Deferred.fromCoroutine(self._close())

    @property
    def there(self) -> bool:
        """See :class:`~agm.cluster.store.Store`."""
        return self._there

    @property
    def workers(self) -> Sequence[str]:
        """See :class:`~agm.cluster.store.Store`."""
        return self._workers

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    # Calls

    def _call(self, *command: object, beat: bool = False) -> Deferred[Any]:
        """
        Send a command; the Deferred fails with StoreAway at the deadline, and the command is not aborted.

        :param beat: whether it may find out that the store is there again.
        """
        connection = self._calls.connection
        if connection is None:
            self._away()
        if connection is None or not (self._there or beat):
            return fail(StoreAway())
        waiting: Deferred[Any] = Deferred()
        done, patience, due = False, _PATIENCE, self._reactor.seconds() + DEADLINE
        timer: IDelayedCall

        def late() -> None:
            nonlocal done, timer, due, patience
            lag = self._reactor.seconds() - due
            if lag > _LAG and patience:  # this process was busy: the command may not even have been sent
                patience -= 1
                due += lag + DEADLINE
                timer = self._reactor.callLater(DEADLINE, late)
                return
            done = True
            self._away()
            waiting.errback(StoreAway())

        timer = self._reactor.callLater(DEADLINE, late)

        def answered(result: Any) -> None:
            nonlocal done
            if done:
                return
            done = True
            timer.cancel()
            if isinstance(result, Failure) and not result.check(ResponseError):
                self._away()
                result = Failure(StoreAway())
            waiting.callback(result)

        connection.execute_command(*command).addBoth(answered)
        return waiting

    def _script(self, script: str, keys: Sequence[str], *args: object, beat: bool = False) -> Deferred[Any]:
        """Run a script by its hash; it is sent whole where Redis does not know it."""
        sha = hashlib.sha1(script.encode()).hexdigest()  # noqa: S324 - it is how Redis names scripts

        def unknown(failure: Failure) -> Deferred[Any]:
            failure.trap(ResponseError)
            if not str(failure.value).startswith("NOSCRIPT"):
                failure.raiseException()
            return self._call("EVAL", script, len(keys), *keys, *args, beat=beat)

        return self._call("EVALSHA", sha, len(keys), *keys, *args, beat=beat).addErrback(unknown)

    def _away(self) -> None:
        if self._there:
            self._there = False
            self.changed(False)

    # Beats

    def _connected(self, connection: RedisProtocol) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._run = ""
        self._beat()

    def _beat(self) -> None:
        self._timer = None
        if not self._stopped:
            Deferred.fromCoroutine(self._one_beat()).addErrback(self._beat_failed)

    def _beat_failed(self, failure: Failure) -> None:
        self._silent += 1
        for factory in (self._calls, self._listens) if self._silent >= _DEAD else ():
            self._silent = 0
            factory.abort()
        if failure.check(StoreAway) is None:
            self._away()
            log.warn("the cluster's Redis at {at} refuses: {why}", at=str(self._address), why=str(failure.value))
        self._beat_later()

    def _beat_later(self) -> None:
        if not self._stopped and self._timer is None:
            self._timer = self._reactor.callLater(BEAT, self._beat)

    async def _one_beat(self) -> None:
        if not self._run:
            info = await self._call("INFO", "server", beat=True)
            self._run = next(line[7:].strip() for line in str(info).splitlines() if line.startswith("run_id:"))
        keys = [self._key("workers"), self._key("epoch"), self._key("number")]
        new = secrets.token_hex(8)
        epoch, number, workers = await self._script(_BEAT, keys, self.worker, int(SILENT), new, beat=True)
        self._workers = tuple(sorted({*workers, self.worker}))
        self._silent = 0
        came_back, self._there = not self._there, True
        if (self._run, epoch) != self._epoch:
            await self._write_back()
            self._epoch = self._run, epoch
            self._last, self._number, self._told_before = "0-0", 0, 0
            await self._load()
        elif int(number) < self._number:  # emptied, and filled again by others, between two beats
            self._last, self._number, self._told_before = "0-0", 0, 0
            await self._load()
        elif self._number < self._told_before or (came_back and int(number) > self._number):  # some were missed
            await self._load()
        self._told_before = int(number)
        if came_back:
            self.changed(True)
        self._send()
        self._beat_later()

    async def _write_back(self) -> None:
        """Tell a Redis that may have lost it what is known here."""
        for event in self._ledger:
            await self._append(event)
        for name, (seconds, counts) in list(self._counts.items()):
            await self._counted(name, seconds, counts)

    async def _load(self) -> None:
        """Read the snapshot, and take out of it what means nothing any more."""
        found = await self._call("HGETALL", self._key("events"))
        over: list[str] = []
        for place, text in zip(found[::2], found[1::2], strict=True):
            if self._hear(text) and len(over) < _PRUNED:
                over += place, text
        if over:
            await self._script(_PRUNE, [self._key("events")], *over)

    # Events

    def tell(self, event: Event) -> None:
        """See :class:`~agm.cluster.store.Store`."""
        if self._ledger.apply(event):
            self.told(event)
            self._untold.append(event)
            self._send()

    def _send(self) -> None:
        """Tell what has not been told.  What was told and not confirmed is told again: that changes nothing."""
        untold, self._untold = self._untold, []
        for event in untold:
            self._append(event).addErrback(self._not_told, event)

    def _append(self, event: Event) -> Deferred[Any]:
        keys = [self._key("stream"), self._key("events"), self._key("number")]
        return self._script(_TELL, keys, event.place, encode(event).decode(), repr(event.at), _STREAM, event.by)

    def _not_told(self, failure: Failure, event: Event) -> None:
        if failure.check(StoreAway):
            self._untold.append(event)
        else:
            log.warn("the cluster's Redis refuses an event: {why}", why=str(failure.value))

    def _listen(self) -> None:
        """Wait for events, for as long as the connection lasts."""
        connection = self._listens.connection
        if connection is None or self._stopped:
            return
        command = ("XREAD", "COUNT", 500, "BLOCK", _LISTEN, "STREAMS", self._key("stream"), self._last)
        connection.execute_command(*command).addCallbacks(self._heard, self._not_heard)

    def _not_heard(self, failure: Failure) -> None:
        """After a lost connection the next one begins anew; an error of Redis's is tried again."""
        if failure.check(ResponseError):
            self._reactor.callLater(1.0, self._listen)

    def _heard(self, streams: Any) -> None:
        missed = False
        for _, entries in streams or ():
            for entry, (_, number, _, text) in entries:
                missed = missed or int(number) > self._number + 1
                self._last, self._number = entry, int(number)
                self._hear(text)
        if missed and not self._loading:
            self._loading = True
            loading = Deferred.fromCoroutine(self._load())
            loading.addErrback(self._load_failed).addBoth(lambda _: setattr(self, "_loading", False))
        self._listen()

    def _load_failed(self, failure: Failure) -> None:
        self._epoch = None  # the next beat begins anew

    def _hear(self, text: str) -> bool:
        """Take note of an event; returns whether it means nothing any more."""
        try:
            event = decode(text)
        except ValueError:
            return False  # a later release's, which this one cannot use
        if self._ledger.apply(event):
            self.told(event)
        return event.expires <= self._wall()

    # Limits, claims, counts

    def buy(self, name: str, limit: int, most: int) -> Deferred[Bought]:
        """See :class:`~agm.cluster.store.Store`."""
        each = -(-60_000_000 // limit)
        key = self._key("limit", name)

        def bought(answer: Any) -> Bought:
            granted, left, wait, full_at = answer
            self._full_at[name] = max(self._full_at.get(name, 0), int(full_at))
            return Bought(int(granted), int(left), int(wait) / 1e6)

        return self._script(_BUY, [key], each, each * limit, most, self._full_at.get(name, 0)).addCallback(bought)

    def claim(self, what: str, seconds: float) -> Deferred[bool]:
        """See :class:`~agm.cluster.store.Store`."""
        made = self._script(_CLAIM, [self._key("claim", what)], self.worker, max(1, round(seconds * 1000)))
        return made.addCallback(lambda answer: int(answer) == 1)

    def unclaim(self, what: str) -> Deferred[None]:
        """See :class:`~agm.cluster.store.Store`."""
        return self._script(_UNCLAIM, [self._key("claim", what)], self.worker).addCallback(lambda _: None)

    def count(self, name: str, own: int, seconds: int) -> Deferred[int]:
        """See :class:`~agm.cluster.store.Store`."""
        _, known = self._counts.get(name, (0, {}))
        known[self.worker] = max(own, known.get(self.worker, 0))
        self._counts[name] = seconds, known
        return self._counted(name, seconds, {self.worker: known[self.worker]})

    def _counted(self, name: str, seconds: int, counts: dict[str, int]) -> Deferred[int]:
        pairs = [part for pair in counts.items() for part in pair]

        def added(answer: list[str]) -> int:
            heard = dict(zip(answer[::2], map(int, answer[1::2]), strict=True))
            _, known = self._counts.get(name, (0, {}))
            merged = {worker: max(heard.get(worker, 0), known.get(worker, 0)) for worker in {*heard, *known}}
            self._counts[name] = seconds, merged
            return sum(merged.values())

        return self._script(_COUNT, [self._key("count", name)], seconds, *pairs).addCallback(added)

    def put(self, name: str, value: str, seconds: int) -> Deferred[None]:
        """See :class:`~agm.cluster.store.Store`."""
        return self._call("SET", self._key("value", name), value, "EX", seconds).addCallback(lambda _: None)

    def get(self, name: str) -> Deferred[str | None]:
        """See :class:`~agm.cluster.store.Store`."""
        return self._call("GET", self._key("value", name))

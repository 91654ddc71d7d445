"""
What processes know of accounts and resources, kept in agreement: cooldowns, what is off, and who owns what.

Each process applies what it learns itself at once, and then writes it to the store, which keeps it in a snapshot and
tells it by a stream.  Each entry about an account says when it began to hold, in milliseconds since the epoch, and
never before what its writer knew of the same thing: of two entries the later one holds, in the store and in every
process, in whatever order they come, and what is written once more changes nothing.  What is over leaves an entry that
says so, so that nothing comes back that somebody has taken back.  Entries are numbered; whoever finds a number missing,
or another store, reads the snapshot.

An entry is ``{"v": 1, "is": ...}``; fields and kinds that a later release adds are passed over.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from agm.cluster.link import Away, Link, Script
from agm.core.ownership import KnownOwners, Maker
from agm.core.pool.cooldown import ALL_MODELS, KnownCooldown
from agm.core.pool.exclusions import Cause
from agm.core.pool.pool import Pool

#: Seconds between a change of an account and its telling: what changes together goes together.
TELL_AFTER: Final = 0.01
#: Milliseconds for which a question for news waits, and the seconds after which its answer is not coming.
_WAIT, _LOST = 1000, 5.0
#: Two ends of one cooldown differ by less than this, in seconds: they are computed from two clocks.
_SAME: Final = 2.0
#: Owners that the store keeps; the ones that were told first go first.
MAX_OWNERS: Final = 100_000
#: Entries in one call, and owners in one reply.
_AT_ONCE, _PAGE = 200, 1000
#: Milliseconds after which an entry that says nothing any more leaves the store.
_OLD: Final = 7 * 24 * 3600 * 1000

#: Writes entries: name, when, and document, each; one that is not later than what is there is passed over.  Of owners
#: with ARGV[2] only those that are not there; one that is gone leaves nothing: to know one too long does no harm.
_WRITE = Script(
    """
local state, news, number, owners, ages = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
for i = 3, #ARGV, 3 do
    local name, at, document = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local takes
    if string.sub(name, 1, 2) == 'o ' then
        takes = ARGV[2] == '0' or redis.call('HEXISTS', owners, name) == 0
        if takes and string.find(document, '"is":null', 1, true) then
            redis.call('HDEL', owners, name)
            redis.call('ZREM', ages, name)
        elseif takes then
            redis.call('HSET', owners, name, document)
            redis.call('ZADD', ages, at, name)
            if redis.call('ZCARD', ages) > tonumber(ARGV[1]) then
                redis.call('HDEL', owners, redis.call('ZPOPMIN', ages)[1])
            end
        end
    else
        local known = redis.call('HGET', state, name)
        takes = not known or tonumber(string.match(known, '^%d+')) < tonumber(at)
        if takes then
            redis.call('HSET', state, name, at .. ' ' .. document)
        end
    end
    if takes then
        local n = redis.call('INCR', number)
        redis.call('XADD', news, 'MAXLEN', '~', 10000, '*', 'n', n, 'k', name, 'a', at, 'd', document)
    end
end
return 0
"""
)
#: The whole of what is known of accounts, and the place in the stream that it goes up to; ARGV[1] is what this store is
#: called from now on, if it has no name yet.
_READ = Script(
    """
redis.call('SET', KEYS[4], ARGV[1], 'NX')
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local place = '0-0'
if last[1] then
    place = last[1][1]
end
local number = redis.call('GET', KEYS[3]) or '0'
return {redis.call('GET', KEYS[4]), number, place, redis.call('HGETALL', KEYS[1])}
"""
)

log = Logger()

_document = msgspec.json.Decoder(dict[str, Any])


@attrs.frozen
class Entry:
    """What holds of an account for a model since a time, in milliseconds since the epoch; None: nothing is held."""

    it: Mapping[str, Any] | None
    at: int


class SharedState:
    """
    Keeps a pool and the owners of resources in agreement with those of other processes.

    :param link: for what is written, `news` for what is waited for.
    :param wall: seconds since the epoch.
    :param away: is called when the store has not answered.
    """

    def __init__(
        self,
        reactor: Any,
        link: Link,
        news: Link,
        prefix: str,
        pool: Pool,
        owners: KnownOwners,
        wall: Callable[[], float],
        away: Callable[[Away], object],
    ) -> None:
        self._reactor = reactor
        self._link = link
        self._news = news
        self._state, self._stream, self._counter = prefix + "state", prefix + "news", prefix + "number"
        self._owners_key, self._ages, self._epoch_key = prefix + "owners", prefix + "owner-ages", prefix + "epoch"
        self._pool = pool
        self._owners = owners
        self._wall = wall
        self._away = away
        #: What holds of accounts, by ``a ACCOUNT MODEL``.
        self._known: dict[str, Entry] = {}
        #: The accounts that there were when the pool was looked at last.
        self._accounts: frozenset[str] = frozenset()
        self._unsent: dict[str, None] = {}
        self._unsent_owners: dict[str, None] = {}
        self._current = False
        self._epoch = ""
        self._number = 0
        self._place = "0-0"
        self._timer: Any = None
        self._applying = False
        self._reading = False
        self._stopped = False

    def start(self) -> None:
        """Tell of what changes from now on; whoever was told of it before still is."""
        before_pool = self._pool.changed

        def pool_changed() -> None:
            before_pool()
            if not self._applying:
                self._soon()

        def told(name: str) -> None:
            if not self._applying and not self._stopped:
                self._unsent_owners[name] = None
                self._flush()  # at once: whoever is answered may ask another process in the next moment

        # what a file has kept is older than whatever the store says
        self._look(at=1)
        self._pool.changed, self._owners.told = pool_changed, told

    def stop(self) -> None:
        """Tell and read no more."""
        self._stopped = True
        self._owners.told = lambda name: None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def lost(self) -> None:
        """The store is away: what changes is kept until it has been read again."""
        self._current = False

    # What is told

    def _soon(self) -> None:
        if self._timer is None and not self._stopped:
            self._timer = self._reactor.callLater(TELL_AFTER, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._flush()

    def _flush(self) -> None:
        Deferred.fromCoroutine(self.flush()).addErrback(
            lambda failure: log.failure("what is known of accounts cannot be told", failure=failure)
        )

    async def flush(self) -> None:
        """Write what has changed."""
        self._look()
        if not self._current:
            return
        unsent, owners = self._unsent, self._unsent_owners
        if not unsent and not owners:
            return
        self._unsent, self._unsent_owners = {}, {}
        try:
            await self._write(
                [(name, self._known[name].at, self._known[name].it) for name in unsent]
                + [(f"o {name}", int(self._wall() * 1000), self._owner(name)) for name in owners]
            )
        except Away as e:
            self._unsent = unsent | self._unsent
            self._unsent_owners = owners | self._unsent_owners
            self._away(e)

    async def _write(
        self, entries: Iterable[tuple[str, int, Mapping[str, Any] | None]], *, missing: bool = False
    ) -> None:
        keys = (self._state, self._stream, self._counter, self._owners_key, self._ages)
        written = [(name, at, msgspec.json.encode({"v": 1, "is": it}).decode()) for name, at, it in entries]
        for start in range(0, len(written), _AT_ONCE):
            arguments = [part for entry in written[start : start + _AT_ONCE] for part in entry]
            await self._link.run(_WRITE, keys, MAX_OWNERS, int(missing), *arguments, within=1.0)

    def _look(self, at: int | None = None) -> None:
        """Take note of what has changed in the pool since it was looked at last."""
        accounts = frozenset(account.name for account in self._pool.accounts)
        new, self._accounts = accounts - self._accounts, accounts
        found = self._held()
        for name, entry in list(self._known.items()):
            account = name.split(" ", 2)[1]
            if account in new and name not in found and entry.it is not None:
                self._adopt(name, entry)
            elif account in accounts and entry.it is not None and name not in found:
                self._note(name, None, at)
        for name, it in found.items():
            known = self._known.get(name)
            if known is None or not same(it, known.it):
                self._note(name, it, at)

    def _note(self, name: str, it: Mapping[str, Any] | None, at: int | None) -> None:
        known = self._known.get(name)
        now = int(self._wall() * 1000) if at is None else at
        self._known[name] = Entry(it, now if known is None else max(now, known.at + 1))
        self._unsent[name] = None

    def _held(self) -> dict[str, dict[str, Any]]:
        """What is held against accounts, by ``a ACCOUNT MODEL``; a secret that is missing here is our own affair."""
        now, found = self._wall(), {}
        unusable = {account.name for account in self._pool.accounts if account.unusable is not None}
        for account, remembered in self._pool.remember().items():
            if remembered.held is not None and account not in unusable:
                found[f"a {account} {ALL_MODELS}"] = _written(remembered.held, now)
            for cooldown in remembered.cooldowns:
                found[f"a {account} {cooldown.model}"] = _written(cooldown, now)
        return found

    def _owner(self, name: str) -> dict[str, Any] | None:
        account, maker = self._owners.owner(name), self._owners.maker(name)
        if account is None:
            return None
        return {"account": account, "maker": None if maker is None else [maker.key, maker.team]}

    # What is read

    async def catch_up(self) -> None:
        """Read the snapshot, and write what is known here and not there, or later.  :raises Away:"""
        keys = (self._state, self._stream, self._counter, self._epoch_key)
        epoch, number, place, flat = await self._link.run(_READ, keys, secrets.token_hex(8), within=2.0)
        self._look()
        self._epoch, self._number, self._place = str(epoch), int(number), str(place)
        there: dict[str, int] = {}
        old: list[str] = []
        for name, written in zip(flat[::2], flat[1::2], strict=True):
            at, _, document = str(written).partition(" ")
            there[str(name)] = int(at)
            self.apply(str(name), int(at), document)
            known = self._known.get(str(name))
            if known is not None and known.it is None and int(at) < self._wall() * 1000 - _OLD:
                old.append(str(name))
        for name, entry in self._known.items():
            if there.get(name, 0) < entry.at and (entry.it is not None or name in there):
                self._unsent[name] = None
        if old:
            await self._link.call("HDEL", self._state, *old, within=1.0)
        await self._catch_up_with_owners()
        self._current = True
        await self.flush()

    async def _catch_up_with_owners(self) -> None:
        there: set[str] = set()
        cursor = "0"
        while True:
            cursor, flat = await self._link.call("HSCAN", self._owners_key, cursor, "COUNT", _PAGE, within=1.0)
            for name, document in zip(flat[::2], flat[1::2], strict=True):
                there.add(str(name))
                self.apply(str(name), 0, str(document))
            if str(cursor) == "0":
                break
        mine = [name for name, _ in self._owners.dump() if f"o {name}" not in there]
        at = int(self._wall() * 1000)
        await self._write(((f"o {name}", at, self._owner(name)) for name in mine), missing=True)

    def listen(self) -> None:
        """Wait for news, again and again, while there is a connection."""
        if self._reading or self._stopped or not self._news.connected:
            return
        self._reading = True
        Deferred.fromCoroutine(self._listen()).addErrback(
            lambda failure: log.failure("the news of other processes cannot be read", failure=failure)
        )

    async def _listen(self) -> None:
        try:
            while self._current and self._news.connected and not self._stopped:
                question = ("XREAD", "COUNT", 500, "BLOCK", _WAIT, "STREAMS", self._stream, self._place)
                found = await self._news.call(*question, within=_LOST)
                if self._stopped or not self._current:
                    return
                if found:
                    whole = self._take(found[0][1])
                else:
                    epoch, number = await self._news.call("MGET", self._epoch_key, self._counter, within=1.0)
                    # a number that is higher is of what was written since; the next question brings that
                    whole = str(epoch) == self._epoch and int(number or 0) >= self._number
                if not whole:
                    await self.catch_up()
        except Away as e:
            self._away(e)
        finally:
            self._reading = False

    def _take(self, entries: Iterable[tuple[str, list[str]]]) -> bool:
        """Take over what the stream has; False if something is missing: it was cut, or is another one."""
        for place, fields in entries:
            entry = dict(zip(fields[::2], fields[1::2], strict=True))
            if int(entry["n"]) != self._number + 1:
                return False
            self._place, self._number = place, int(entry["n"])
            self.apply(str(entry["k"]), int(entry["a"]), str(entry["d"]))
        return True

    def apply(self, name: str, at: int, document: str) -> None:
        """Take over an entry, unless a later one is known."""
        try:
            it = _document.decode(document).get("is")
            if name.startswith("a "):
                self._look()  # what has just happened here is later
                known = self._known.get(name)
                if known is None or at > known.at or (at == known.at and not same(it, known.it)):
                    self._adopt(name, Entry(it, at))
                    self._unsent.pop(name, None)
            elif name.startswith("o "):
                self._adopt_owner(name[2:], it)
        except (msgspec.MsgspecError, AttributeError, KeyError, TypeError, ValueError) as e:
            log.debug("an entry of another release is passed over: {why}", why=type(e).__name__)

    def _adopt(self, name: str, entry: Entry) -> None:
        _, account, model = name.split(" ", 2)
        known = None if entry.it is None else _read(model, entry.it, self._wall())
        before = self._known.get(name)
        self._known[name] = entry
        if account in self._accounts and (before is None or entry is before or not same(entry.it, before.it)):
            self._applying = True
            try:
                self._pool.adopt(account, model, known)
            finally:
                self._applying = False

    def _adopt_owner(self, resource: str, it: Mapping[str, Any] | None) -> None:
        self._applying = True
        try:
            if it is None:
                self._owners.forget(resource)
            else:
                maker = it.get("maker")
                self._owners.remember(resource, it["account"], None if maker is None else Maker(*maker))
        finally:
            self._applying = False

    async def ask_owner(self, name: str) -> None:
        """Ask the store for the owner of a resource that is not known here.  :raises Away:"""
        document = await self._link.call("HGET", self._owners_key, f"o {name}")
        if document is not None:
            self.apply(f"o {name}", 0, str(document))


def _written(known: KnownCooldown, now: float) -> dict[str, Any]:
    until = None if known.left is None else round(now + known.left, 1)
    return {
        "cause": known.cause,
        "reason": known.reason,
        "until": until,
        "strikes": known.strikes,
        "message": known.message,
        "link": known.link,
    }


def _read(model: str, it: Mapping[str, Any], now: float) -> KnownCooldown:
    cause = it["cause"] if it["cause"] in Cause.__members__ else Cause.RESTING.name
    left = None if it["until"] is None else it["until"] - now
    return KnownCooldown(model, cause, it["reason"], left, it.get("strikes", 0), it.get("message", ""), it.get("link"))


def same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Tell whether two entries say the same; their ends may differ by a moment."""
    if one is None or other is None:
        return one is other
    ends = one.get("until"), other.get("until")
    if (ends[0] is None) != (ends[1] is None):
        return False
    near = ends[0] is None or ends[1] is None or abs(ends[0] - ends[1]) < _SAME
    return near and all(one.get(field) == other.get(field) for field in ("cause", "reason", "strikes"))

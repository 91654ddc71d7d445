"""
What processes know of accounts and resources, kept in agreement: cooldowns, what is off, and who owns what.

Each process applies what it learns itself at once, and then writes it to the store, which numbers all that is written:
of two entries for one thing the later one counts, in every process, in whatever order they are read.  An entry is kept
in a snapshot, and told by a stream; what is over leaves an entry that says so, so that nothing comes back that somebody
has taken back.  Whoever finds a number missing reads the snapshot.

An entry is ``{"v": 1, ...}``; fields and kinds that a later release adds are kept and passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from agm.cluster.link import Away, Link, Script
from agm.core.ownership import KnownOwners, Maker
from agm.core.pool.cooldown import ALL_MODELS, KnownCooldown
from agm.core.pool.exclusions import Cause
from agm.core.pool.pool import Pool

#: Seconds between a change and its telling: what changes together goes together.
TELL_AFTER: Final = 0.01
#: Milliseconds for which a question for news waits, and the seconds after which its answer is not coming.
_WAIT, _LOST = 1000, 5.0
#: Two ends of one cooldown differ by less than this, in seconds: they are computed from two clocks.
_SAME: Final = 2.0

#: Writes entries: name and document, each.  ARGV[1] says that only what the store has not is written.  An owner that is
#: gone leaves nothing in the snapshot: there is any number of them, and to know one too long does no harm.
_WRITE = Script(
    """
for i = 2, #ARGV, 2 do
    if ARGV[1] == '0' or redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0 then
        local n = redis.call('INCR', KEYS[3])
        if string.sub(ARGV[i], 1, 2) == 'o ' and string.find(ARGV[i + 1], '"is":null', 1, true) then
            redis.call('HDEL', KEYS[1], ARGV[i])
        else
            redis.call('HSET', KEYS[1], ARGV[i], n .. ' ' .. ARGV[i + 1])
        end
        redis.call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'n', n, 'k', ARGV[i], 'd', ARGV[i + 1])
    end
end
return 0
"""
)

log = Logger()

_document = msgspec.json.Decoder(dict[str, Any])


class SharedState:
    """
    Keeps a pool and the owners of resources in agreement with those of other processes.

    :param link: for what is written, `news` for what is waited for.
    :param wall: seconds since the epoch.
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
        self._keys = (prefix + "state", prefix + "news", prefix + "number")
        self._prefix = prefix
        self._pool = pool
        self._owners = owners
        self._wall = wall
        self._away = away
        #: What the store has of accounts, as far as it was read or written here, and the number of each entry.
        self._known: dict[str, dict[str, Any] | None] = {}
        self._numbers: dict[str, int] = {}
        self._number = 0
        self._place = "0-0"
        self._told_owners: dict[str, None] = {}
        self._pool_changed = False
        self._timer: Any = None
        self._applying = False
        self._reading = False
        self._stopped = False

    def start(self) -> None:
        """Tell of what changes from now on; whoever was told of it before still is."""
        before_pool = self._pool.changed

        def pool_changed() -> None:
            before_pool()
            self._pool_changed = True
            self._soon()

        def told(name: str) -> None:
            if not self._applying:
                self._told_owners[name] = None
                self._soon()

        self._pool.changed, self._owners.told = pool_changed, told

    def stop(self) -> None:
        """Tell and read no more."""
        self._stopped = True
        self._owners.told = lambda name: None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    # What is told

    def _soon(self) -> None:
        if self._timer is None and not self._stopped:
            self._timer = self._reactor.callLater(TELL_AFTER, self._tell)

    def _tell(self) -> None:
        self._timer = None
        if not self._applying:
            Deferred.fromCoroutine(self.flush())

    async def flush(self) -> None:
        """Write what has changed."""
        entries = self._pool_entries() if self._pool_changed else {}
        owners, self._told_owners, self._pool_changed = self._told_owners, {}, False
        changed = {name: it for name, it in entries.items() if not _same(it, self._known.get(name))}
        changed |= {f"o {name}": self._owner(name) for name in owners}
        if not changed or not self._link.connected:
            return
        before = {name: self._known.get(name) for name in changed}
        self._known |= {name: it for name, it in changed.items() if name.startswith("a ")}
        try:
            await self._write(changed)
        except Away as e:
            for name in changed:
                if name.startswith("o "):
                    self._told_owners[name[2:]] = None
                else:
                    self._known[name] = before[name]
            self._pool_changed = True
            self._away(e)

    async def _write(self, entries: Mapping[str, dict[str, Any] | None], *, missing: bool = False) -> None:
        names = list(entries)
        for start in range(0, len(names), 200):
            arguments: list[object] = [int(missing)]
            for name in names[start : start + 200]:
                arguments += [name, msgspec.json.encode({"v": 1, "is": entries[name]}).decode()]
            await self._link.run(_WRITE, self._keys, *arguments, within=1.0)

    def _pool_entries(self) -> dict[str, dict[str, Any] | None]:
        """What is held against accounts, by ``a ACCOUNT MODEL``; None for what was, and is no more."""
        now = self._wall()
        found: dict[str, dict[str, Any] | None] = {
            name: None for name, it in self._known.items() if it is not None and name.startswith("a ")
        }
        for account, remembered in self._pool.remember().items():
            if remembered.held is not None:
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
        """Read the snapshot, and write what the store has not.  :raises Away:"""
        at = await self._link.call("XREVRANGE", self._keys[1], "+", "-", "COUNT", 1, within=1.0)
        raw = await self._link.call("HGETALL", self._keys[0], within=2.0)
        number = int(await self._link.call("GET", self._keys[2], within=1.0) or 0)
        if number < self._number:  # another store, or an emptied one
            self._numbers, self._known = {}, {}
        self._place, self._number = (at[0][0] if at else "0-0"), number
        items = raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True)
        there: set[str] = set()
        for name, written in items:
            n, _, document = str(written).partition(" ")
            there.add(name)
            self._apply(int(n), str(name), document)
        mine = {name: it for name, it in self._pool_entries().items() if name not in there and it is not None}
        mine |= {f"o {name}": self._owner(name) for name, _ in self._owners.dump() if f"o {name}" not in there}
        if mine:
            self._known |= {name: it for name, it in mine.items() if name.startswith("a ")}
            await self._write(mine, missing=True)
        self._pool_changed = True
        self._soon()

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
            while self._news.connected and not self._stopped:
                question = ("XREAD", "COUNT", 500, "BLOCK", _WAIT, "STREAMS", self._keys[1], self._place)
                found = await self._news.call(*question, within=_LOST)
                if self._stopped:
                    return
                if not found:
                    number = int(await self._news.call("GET", self._keys[2], within=1.0) or 0)
                    if number < self._number:
                        await self.catch_up()
                    continue
                for place, fields in found[0][1]:
                    entry = dict(zip(fields[::2], fields[1::2], strict=True))
                    n = int(entry["n"])
                    if n > self._number + 1:  # the stream was cut, or is another one
                        await self.catch_up()
                        break
                    self._place, self._number = place, max(n, self._number)
                    self._apply(n, str(entry["k"]), str(entry["d"]))
        except Away as e:
            self._away(e)
        finally:
            self._reading = False

    def _apply(self, number: int, name: str, document: str) -> None:
        """Take over an entry, unless a later one is known."""
        if number <= self._numbers.get(name, 0):
            return
        self._numbers[name] = number
        try:
            said = _document.decode(document)
        except msgspec.MsgspecError:
            return
        it, kind = said.get("is"), name[:2]
        self._applying = True
        try:
            if kind == "a ":
                _, account, model = name.split(" ", 2)
                if not _same(it, self._known.get(name)):
                    self._pool.adopt(account, model, None if it is None else _read(model, it, self._wall()))
                self._known[name] = it
            elif kind == "o ":
                resource = name[2:]
                if it is None:
                    self._owners.forget(resource)
                else:
                    maker = it.get("maker")
                    self._owners.remember(resource, it["account"], None if maker is None else Maker(*maker))
        except (KeyError, TypeError, ValueError) as e:  # of a release that writes it in another way
            log.debug("an entry of another process is passed over: {why}", why=type(e).__name__)
        finally:
            self._applying = False


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


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Tell whether two entries say the same; their ends may differ by a moment."""
    if one is None or other is None:
        return one is other
    ends = one.get("until"), other.get("until")
    if (ends[0] is None) != (ends[1] is None):
        return False
    near = ends[0] is None or ends[1] is None or abs(ends[0] - ends[1]) < _SAME
    return near and (one.get("cause"), one.get("reason")) == (other.get("cause"), other.get("reason"))

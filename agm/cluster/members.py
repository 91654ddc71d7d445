"""Who is there: each process beats once a second, and what has not beaten for five seconds is gone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from agm.cluster.link import Link, Script

#: Seconds between two beats, and after which a process without one is gone.
BEAT_EVERY: Final = 1.0
GONE_AFTER: Final = 5.0

#: Notes a beat, and returns all of them that are recent.
_BEAT = Script(
    """
local now = redis.call('TIME')
local at = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], at .. ' ' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], 3600)
local found = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    local space = string.find(all[i + 1], ' ', 1, true)
    if at - tonumber(string.sub(all[i + 1], 1, space - 1)) > tonumber(ARGV[3]) then
        redis.call('HDEL', KEYS[1], all[i])
    else
        found[#found + 1] = all[i]
        found[#found + 1] = string.sub(all[i + 1], space + 1)
    end
end
return found
"""
)


class Members:
    """
    The processes of a cluster, as one of them sees them.

    :param name: of this one, which no other has or had.
    :param about: what it tells of itself.
    :ivar known: those that beat, this one among them, and what they tell.
    """

    def __init__(self, link: Link, prefix: str, name: str, about: Callable[[], Mapping[str, Any]]) -> None:
        self._link = link
        self._key = prefix + "members"
        self.name = name
        self._about = about
        self.known: dict[str, Mapping[str, Any]] = {name: about()}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.known)

    async def beat(self) -> None:
        """Say that this one is there, and learn who else is.  :raises Away:"""
        about = msgspec.json.encode(dict(self._about())).decode()
        found = await self._link.run(_BEAT, (self._key,), self.name, about, int(GONE_AFTER * 1000))
        self.known = {
            name: msgspec.json.decode(told) for name, told in zip(found[::2], found[1::2], strict=True)
        } or self.known

    async def leave(self) -> None:
        """Be there no more.  :raises Away:"""
        await self._link.call("HDEL", self._key, self.name)

    def share(self, limit: int, what: str) -> int:
        """
        Return this process's share of a limit: whole ones, handed out by rendezvous, so that all of them are given
        out, each once.
        """
        if self.count <= 1:
            return limit
        each, left = divmod(limit, self.count)
        if not left:
            return each

        def rank(name: str) -> bytes:
            return hashlib.blake2b(f"{what} {name}".encode(), digest_size=8).digest()

        return each + (self.name in sorted(self.known, key=rank)[:left])

"""``/_agm/keys``: the client keys, their limits and their use; creating, changing, rotating and revoking them."""

from __future__ import annotations

import datetime
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from agm.core.errors import InvalidRequest, NotFound
from agm.persist import config_file as files
from agm.web.admin.describe import describe_key
from agm.web.admin.editing import Conflict, EditingResource, detail, table_named, without_unset
from agm.web.base import Visit
from agm.web.request import GatewayRequestOnWire

_AT = ("auth", "keys")
_SOURCES = ("key", "key_env", "key_sha256")


class Changes(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said of a client key; null takes a limit away."""

    models: list[str] | UnsetType | None = UNSET
    requests_per_minute: int | UnsetType | None = UNSET
    requests_per_day: int | UnsetType | None = UNSET
    tokens_per_minute: int | UnsetType | None = UNSET
    tokens_per_day: int | UnsetType | None = UNSET
    max_sessions: int | UnsetType | None = UNSET
    expires: float | UnsetType | None = UNSET
    admin: bool | UnsetType | None = UNSET
    team: str | UnsetType | None = UNSET
    weight: int | UnsetType | None = UNSET


class NewKey(Changes, forbid_unknown_fields=True, kw_only=True):
    """A client key to be made."""

    name: str


class ClientKeys(EditingResource):
    """
    ``GET /_agm/keys``: the limits of each client key, and what it has used of them today.

    ``POST /_agm/keys`` creates one, ``PATCH /_agm/keys/NAME`` changes its limits, ``POST /_agm/keys/NAME/rotate`` puts
    another key in its place, ``DELETE /_agm/keys/NAME`` revokes it.  A key is told once, to who made it.
    """

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        """Those of the list, of a key, and of its rotation."""
        match wire.postpath:
            case [] | [b""]:
                return ("GET", "HEAD", "POST")
            case [_]:
                return ("PATCH", "DELETE")
            case [_, b"rotate"]:
                return ("POST",)
        return ()

    async def respond_to_admin(self, visit: Visit) -> None:
        """Answer."""
        name = visit.wire.postpath[0].decode("utf-8", "replace") if visit.wire.postpath else ""
        match visit.wire.method, len(visit.wire.postpath):
            case b"GET" | b"HEAD", _:
                keys = self.gateway.clients.client_keys
                self.tell(visit, {"client_keys": [describe_key(self.gateway, key) for key in keys]})
            case b"POST", 2:
                await self._rotate(visit, name)
            case b"POST", _:
                await self._create(visit)
            case b"PATCH", _:
                await self._change(visit, name)
            case b"DELETE", _:
                await self._revoke(visit, name)

    async def _create(self, visit: Visit) -> None:
        who = self.may_edit(visit)
        wish = self.wish(visit, NewKey)
        key, digest = _new_key()
        said = _written(wish)
        table = {"name": wish.name, "key_sha256": digest, **{n: v for n, v in said.items() if v is not None}}

        def change(text: str) -> str:
            if any(each.get("name") == wish.name for each in files.tables(text, _AT)):
                raise Conflict("There is a client key of this name already; choose another, or revoke it first.")
            return files.added(text, _AT, table)

        done = await self.edit(visit, who, f"created client key {wish.name}{detail(said)}", change)
        self.tell_secret(visit, {**self._described(wish.name), "key": key, **done})

    async def _change(self, visit: Visit, name: str) -> None:
        who = self.may_edit(visit)
        self._known(name)
        said = _written(self.wish(visit, Changes))
        if not said:
            raise InvalidRequest("This changes nothing: name a limit, or null to take one away.")

        def change(text: str) -> str:
            return files.changed(text, _AT, table_named(text, _AT, name, "client key"), said)

        done = await self.edit(visit, who, f"changed client key {name}{detail(said)}", change)
        self.tell(visit, {**self._described(name), **done})

    async def _rotate(self, visit: Visit, name: str) -> None:
        who = self.may_edit(visit)
        self._known(name)
        self.wish(visit, Nothing)
        key, digest = _new_key()

        def change(text: str) -> str:
            source = {**dict.fromkeys(_SOURCES), "key_sha256": digest}
            return files.changed(text, _AT, table_named(text, _AT, name, "client key"), source)

        done = await self.edit(visit, who, f"rotated client key {name}", change)
        self.tell_secret(visit, {**self._described(name), "key": key, **done})

    async def _revoke(self, visit: Visit, name: str) -> None:
        who = self.may_edit(visit)
        self._known(name)

        def change(text: str) -> str:
            return files.removed(text, _AT, table_named(text, _AT, name, "client key"))

        done = await self.edit(visit, who, f"revoked client key {name}", change)
        self.tell(visit, {"revoked": name, **done})

    def _known(self, name: str) -> None:
        if all(key.name != name for key in self.gateway.clients.client_keys):
            raise NotFound("There is no client key of this name; GET /_agm/keys lists them.")

    def _described(self, name: str) -> Mapping[str, Any]:
        """A key as it is in force; nothing if it is not."""
        keys = self.gateway.clients.client_keys
        return {"client_key": next((describe_key(self.gateway, key) for key in keys if key.name == name), None)}


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No wish."""


def _new_key() -> tuple[str, str]:
    """Return a key as ``agm key create`` makes it, and its SHA-256."""
    key = f"agm_{secrets.token_urlsafe(24)}"
    return key, hashlib.sha256(key.encode("ascii")).hexdigest()


def _written(wish: Changes) -> dict[str, object]:
    """
    The fields of a wish as the file has them; None for those to be taken away.

    :raises InvalidRequest: if it expires at no time that there is.
    """
    said = without_unset(wish, "name")
    if isinstance(at := said.get("expires"), int | float):
        try:
            said["expires"] = datetime.datetime.fromtimestamp(int(at), datetime.UTC)
        except (OverflowError, OSError, ValueError):
            raise InvalidRequest("expires: is beyond the calendar; seconds since the epoch are meant.") from None
    if said.get("models") == []:
        said["models"] = None
    if said.get("admin") is False:
        said["admin"] = None
    return said

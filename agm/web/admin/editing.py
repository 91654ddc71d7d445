"""
Changing the configuration for an operator: who may, how it is written, and what the log says of it.

The file stays the truth: it is edited as ``agm account`` and ``agm key`` do, with its comments, replaced in one step,
and read again.  Secrets go in and never come out.  What says where an account's secret is sent (``endpoints``,
``proxy``, ``ca_file``), and files and variables that hold secrets, can be written into the file alone: else a key of
an operator would be worth the secrets of the machine.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from agm.config import Config, ConfigError, Problem
from agm.config.identity import Identity
from agm.core.errors import NOT_JSON, Forbidden, GatewayError, InvalidRequest, UnsupportedMedia
from agm.core.request import BUILT_IN_KINDS
from agm.persist import config_file as files
from agm.persist.config_file import At, Refused, SecretFile
from agm.web.admin.base import AdminResource
from agm.web.base import Visit

__all__ = ["Conflict", "EditingResource", "detail", "table_named", "without_unset"]

log = Logger()

T = TypeVar("T")


class Conflict(GatewayError):
    """409: the configuration, or the gateway, is not such that this can be changed."""

    status, reason = 409, "NOT_CHANGED"


def without_unset(wish: msgspec.Struct, *leave_out: str) -> dict[str, object]:
    """Return the fields of a wish that were given, by their names."""
    return {
        name: value
        for name in wish.__struct_fields__
        if name not in leave_out and (value := getattr(wish, name)) is not msgspec.UNSET
    }


def detail(said: Mapping[str, object]) -> str:
    """Return what was said, for the log: none of it is secret."""
    return f" ({', '.join(f'{name}: {_shown(value)}' for name, value in said.items())})" if said else ""


def _shown(value: object) -> str:
    if isinstance(value, datetime.datetime):
        return value.isoformat().replace("+00:00", "Z")
    return "none" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def table_named(text: str, at: At, name: str, what: str) -> int:
    """
    Find a table of an array of the file by its name.

    :raises Conflict: if there is none.
    """
    names = [str(table.get("name", "")) for table in files.tables(text, at)]
    if name not in names:
        raise Conflict(f"No {what} of this name is in the configuration file; one of a plugin is changed where it is.")
    return names.index(name)


class EditingResource(AdminResource):
    """A resource that shows a part of the configuration, and changes it."""

    def may_edit(self, visit: Visit) -> str:
        """
        Say who changes something, for the log.

        :raises Forbidden: if this request may not.
        """
        if visit.key is not None and not visit.key.admin:
            raise Forbidden("This needs a client key with admin = true.", reason="ADMIN_ONLY")
        if visit.key is None and any(key.admin for key in self.gateway.clients.client_keys):
            raise Forbidden(
                "Since a client key has admin = true, changes need one of these, on this machine, too.",
                reason="ADMIN_ONLY",
            )
        if visit.wire.answers_with(b"access-control-allow-origin"):
            raise Forbidden("Only the gateway's own pages may change it.", reason="ORIGIN_NOT_ALLOWED")
        return "this machine" if visit.key is None else f"client key {visit.key.name}"

    def wish(self, visit: Visit, kind: type[T]) -> T:
        """
        Read what is wanted.

        :raises UnsupportedMedia: if it is not said to be JSON.
        :raises InvalidRequest: if it cannot be read.
        """
        media = (visit.wire.header(b"content-type") or "").partition(";")[0].strip().lower()
        if visit.wire.body and media != "application/json":
            raise UnsupportedMedia("Send Content-Type: application/json.")
        try:
            return msgspec.json.decode(visit.wire.body or b"{}", type=kind)
        except NOT_JSON as e:
            raise InvalidRequest(f"This does not say what to change: {e}") from None

    async def edit(
        self, visit: Visit, who: str, what: str, change: Callable[[str], str], *, secret: SecretFile | None = None
    ) -> Mapping[str, Any]:
        """
        Write a change into the configuration file, and put it in force.

        :param what: what is done to what, for the log: ``revoked client key laptop``.
        :returns: ``loaded``, whether it is in force already, and new ``warnings``.
        :raises Conflict: if there is no file, or it cannot be edited.
        :raises InvalidRequest: if what would be written is refused; nothing is.
        """
        path, reload = self.path(), self.gateway.reload_file
        assert reload is not None, "there is a path"
        try:
            warnings = await self._in_thread(
                lambda: files.edit(path, change, environ=os.environ, secret=secret, further=self._of_plugins)
            )
        except ConfigError as e:
            raise InvalidRequest("; ".join(_told(each.key, each.message) for each in e.problems)) from None
        except Refused as e:
            raise Conflict(str(e)) from None
        log.info("{request_id}: {who} {what} in {path}", request_id=visit.wire.id, who=who, what=what, path=str(path))
        return await self.put_in_force(warnings)

    async def put_in_force(self, warnings: Sequence[str] = ()) -> Mapping[str, Any]:
        """Have the gateway read its files now; returns whether it has, and the warnings."""
        path, reload = self.path(), self.gateway.reload_file
        assert reload is not None, "there is a path"
        await reload()
        if self.gateway.peers is not None:
            await self.gateway.peers.ask("reload")  # of the workers each reads the file itself
        loaded = self.gateway.config.files.get(path) == Identity.of(path)
        return {"loaded": loaded, "warnings": list(warnings)}

    def path(self) -> Path:
        """
        Return where the configuration is.

        :raises Conflict: if there is none that could be changed.
        """
        path = self.gateway.config.path
        if path is None or self.gateway.reload_file is None:
            raise Conflict(
                "This gateway has no configuration file that could be changed: it was started without one, or with "
                "--demo. Start it with --config FILE."
            )
        return path

    def _of_plugins(self, config: Config) -> Iterable[Problem]:
        """Ask the plugins of this gateway what accounts of their kinds may hold."""
        foreign = any(account.kind not in BUILT_IN_KINDS for account in config.accounts)
        return self.gateway.hooks.settings_problems(config) if foreign else ()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        reactor = self.gateway.reactor
        done: T = await deferToThreadPool(reactor, reactor.getThreadPool(), function)
        return done


def _told(key: str, message: str) -> str:
    return f"{key}: {message}" if key else message

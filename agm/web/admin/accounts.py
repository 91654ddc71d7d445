"""
``/_agm/accounts``: how each account stands, and taking back what is held against one; adding, changing and removing
accounts, and giving one another secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from twisted.logger import Logger

from agm.config.secret import why_unusable
from agm.core import logins
from agm.core.errors import NOT_JSON, InvalidRequest, NotFound
from agm.persist import config_file as files
from agm.persist.account_files import AT, KEPT, place_of, reference, secret_files
from agm.persist.config_file import Refused, SecretFile
from agm.web.admin.describe import config_of, describe_accounts
from agm.web.admin.editing import Conflict, EditingResource, detail, table_named, without_unset
from agm.web.admin.whole import accounts_of_all
from agm.web.base import Visit
from agm.web.request import GatewayRequestOnWire

log = Logger()

#: What may hold an account's secret in the file.
_SOURCES = ("api_key", "api_key_env", "api_key_file", "access_token", "access_token_env", "credentials")
#: Logins that hold all that they need; one of another kind would have the gateway read a file, or run a program.
_LOGINS = ("authorized_user", "service_account")


class Reset(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be taken back: for one model, or all of it."""

    model: str | None = None


class Secret(msgspec.Struct, forbid_unknown_fields=True):
    """A secret for an account: an API key, or what is in a file of google-auth."""

    api_key: str | None = None
    login: dict[str, Any] | None = None


class Changes(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said of an account that is there; null takes it away."""

    enabled: bool | UnsetType | None = UNSET
    models: list[str] | UnsetType | None = UNSET
    priority: int | UnsetType | None = UNSET
    max_concurrency: int | UnsetType | None = UNSET
    max_sessions: int | UnsetType | None = UNSET
    reserve: float | UnsetType | None = UNSET


class NewAccount(Changes, forbid_unknown_fields=True, kw_only=True):
    """An account to be added, with its secret."""

    name: str
    kind: Literal["api-key", "vertex", "code-assist"] = "api-key"
    api_key: str | None = None
    login: dict[str, Any] | None = None
    credentials: Literal["adc"] | None = None
    project: str | UnsetType | None = UNSET
    location: str | UnsetType | None = UNSET
    endpoints: list[str] | UnsetType | None = UNSET
    i_have_a_licence: bool = False


class Accounts(EditingResource):
    """
    ``GET /_agm/accounts``: how each account stands; ``POST /_agm/accounts/NAME/reset``: take back what is held against
    one.

    ``POST /_agm/accounts`` adds one, ``PATCH /_agm/accounts/NAME`` changes or disables it, ``POST
    /_agm/accounts/NAME/rotate`` gives it another secret, ``DELETE /_agm/accounts/NAME`` removes it.
    """

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        """Those of the list, of an account, and of what can be done with one."""
        match wire.postpath:
            case [] | [b""]:
                return ("GET", "HEAD", "POST")
            case [_]:
                return ("PATCH", "DELETE")
            case [_, b"reset" | b"rotate"]:
                return ("POST",)
        return ()

    async def respond_to_admin(self, visit: Visit) -> None:
        """Answer."""
        match visit.wire.method, [part.decode("utf-8", "replace") for part in visit.wire.postpath]:
            case b"GET" | b"HEAD", _:
                accounts = await accounts_of_all(self.gateway)
                self.tell(visit, {"accounts": accounts, "config": config_of(self.gateway)})
            case b"POST", [name, "reset"]:
                await self._reset(visit, name)
            case b"POST", [name, "rotate"]:
                await self._rotate(visit, name)
            case b"POST", _:
                await self._add(visit)
            case b"PATCH", [name]:
                await self._change(visit, name)
            case b"DELETE", [name]:
                await self._remove(visit, name)

    async def _reset(self, visit: Visit, name: str) -> None:
        try:
            asked = msgspec.json.decode(visit.wire.body or b"{}", type=Reset)
        except NOT_JSON as e:
            raise InvalidRequest(f"This does not say what to reset: {e}") from None
        try:
            if self.gateway.peers is None:
                found = self.gateway.pool.reset(name, asked.model)
            else:
                answers, _ = await self.gateway.peers.ask("reset", {"account": name, "model": asked.model})
                found = any(answer.document for answer in answers)
        except KeyError:
            raise NotFound("There is no account of this name; GET /_agm/accounts lists them.") from None
        log.info(
            "{request_id}: the cooldowns and errors of account {account} are cleared, for {model}",
            request_id=visit.wire.id,
            account=name,
            model=asked.model or "all models",
        )
        self.tell(visit, {"account": name, "model": asked.model, "reset": found})

    async def _add(self, visit: Visit) -> None:
        who = self.may_edit(visit)
        path = self.path()
        wish = self.wish(visit, NewAccount)
        if re.match(r"(AIza|AQ\.).{20}", wish.name):
            raise InvalidRequest("name: this is an API key, not a name; it belongs in api_key.")
        if wish.kind == "code-assist" and not wish.i_have_a_licence:
            raise InvalidRequest(
                "A code-assist account has to be licensed for Code Assist: say so with i_have_a_licence."
            )
        said = without_unset(wish, "name", "kind", "api_key", "login", "credentials", "i_have_a_licence")
        table: dict[str, object] = {"name": wish.name, "kind": wish.kind}
        notes: dict[str, str] = {}
        secret: SecretFile | None = None
        if wish.credentials is not None:
            if wish.api_key is not None or wish.login is not None:
                raise InvalidRequest("Give one of api_key, login and credentials.")
            if said.get("endpoints"):  # whoever is there would get a token of the machine's own login
                raise InvalidRequest("endpoints: with the login of the machine these can be written in the file alone.")
            table["credentials"] = wish.credentials
        else:
            key, secret = _secret_file(path, wish.name, wish.api_key, wish.login)
            table[key] = reference(path, secret.path)
            notes[key] = KEPT
        table |= {name: value for name, value in said.items() if value is not None}

        def change(text: str) -> str:
            if any(each.get("name") == wish.name for each in files.tables(text, AT)):
                raise Conflict("There is an account of this name already; choose another, or remove it first.")
            return files.added(text, AT, table, notes)

        done = await self.edit(visit, who, f"added account {wish.name} ({wish.kind})", change, secret=secret)
        self.tell(visit, {**self._described(wish.name), **done})

    async def _change(self, visit: Visit, name: str) -> None:
        who = self.may_edit(visit)
        self._known(name)
        said = without_unset(self.wish(visit, Changes))
        if not said:
            raise InvalidRequest("This changes nothing: name a field, or null to take one away.")
        if said.get("enabled") is True:
            said["enabled"] = None
        if said.get("models") == []:
            raise InvalidRequest("models: is empty; null stands for all models, enabled for none.")

        def change(text: str) -> str:
            return files.changed(text, AT, table_named(text, AT, name, "account"), said)

        done = await self.edit(visit, who, f"changed account {name}{detail(said)}", change)
        self.tell(visit, {**self._described(name), **done})

    async def _rotate(self, visit: Visit, name: str) -> None:
        who = self.may_edit(visit)
        self._known(name)
        path = self.path()
        wish = self.wish(visit, Secret)
        key, secret = _secret_file(path, name, wish.api_key, wish.login)
        gone: list[Path] = []

        def change(text: str) -> str:
            index = table_named(text, AT, name, "account")
            own = [file for file, written in secret_files(text, index, path).items() if written]
            gone[:] = [file for file in own if file != secret.path]
            source = {**dict.fromkeys(_SOURCES), key: reference(path, secret.path)}
            return files.changed(text, AT, index, source, {key: KEPT})

        what = f"gave account {name} another secret"
        if await self._in_thread(lambda: _is_own(path, name, secret.path)):
            try:
                await self._in_thread(lambda: files.replace_secret(secret))
            except Refused as e:
                raise Conflict(str(e)) from None
            log.info("{request_id}: {who} {what}", request_id=visit.wire.id, who=who, what=what)
            done = await self.put_in_force()
        else:
            done = await self.edit(visit, who, what, change, secret=secret)
            await self._in_thread(lambda: _unlink(gone))
        self.tell(visit, {**self._described(name), **done})

    async def _remove(self, visit: Visit, name: str) -> None:
        who = self.may_edit(visit)
        self._known(name)
        path = self.path()
        gone: list[Path] = []

        def change(text: str) -> str:
            index = table_named(text, AT, name, "account")
            gone[:] = [file for file, own in secret_files(text, index, path).items() if own]
            return files.removed(text, AT, index)

        done = await self.edit(visit, who, f"removed account {name}", change)
        await self._in_thread(lambda: _unlink(gone))
        self.tell(visit, {"removed": name, **done})

    def _known(self, name: str) -> None:
        config = self.gateway.config
        if all(account.name != name for account in config.accounts):
            raise NotFound("There is no account of this name in the configuration; GET /_agm/accounts lists all.")

    def _described(self, name: str) -> Mapping[str, Any]:
        """Return an account as it stands now; nothing if it does not serve, as one that is disabled in the file."""
        found = (each for each in describe_accounts(self.gateway) if each["name"] == name)
        return {"account": next(found, None)}


def _secret_file(path: Path, name: str, api_key: str | None, login: Mapping[str, Any] | None) -> tuple[str, SecretFile]:
    """
    Return the file for an account's secret, and the key of the configuration that names it.

    :raises InvalidRequest: if there is not one secret, or it cannot be one.  It is not repeated.
    """
    if (api_key is None) == (login is None):
        raise InvalidRequest("Give one of api_key and login: a secret of the account.")
    if not re.fullmatch("[A-Za-z0-9._-]+", name):
        raise InvalidRequest("name: is not a name of letters, digits, '.', '_' and '-'.")
    if api_key is not None:
        key = api_key.strip()
        if why := why_unusable(key):
            raise InvalidRequest(f"api_key: {why}.")
        return "api_key_file", SecretFile(place_of(path, name), key.encode("utf-8") + b"\n")
    assert login is not None, "one of the two is given"
    if login.get("type") not in _LOGINS:
        raise InvalidRequest(f"login: its type is none of {' and '.join(_LOGINS)}; others are named in the file.")
    if why := logins.why_unusable(login):
        raise InvalidRequest(f"login: {why}.")
    return "credentials", SecretFile(place_of(path, name, "json"), json.dumps(login, indent=2).encode("utf-8") + b"\n")


def _is_own(path: Path, name: str, place: Path) -> bool:
    """Return whether a file is one that agm wrote for an account, and no other account uses."""
    text = files.read(path)
    return secret_files(text, table_named(text, AT, name, "account"), path).get(place, False)


def _unlink(gone: Sequence[Path]) -> None:
    for file in gone:
        with suppress(OSError):
            files.unlink(file)

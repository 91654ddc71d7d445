"""``/_agm/accounts``: how each account stands, and taking back what is held against one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from twisted.logger import Logger

from agm.core.errors import NOT_JSON, InvalidRequest, NotFound
from agm.web.admin.base import AdminResource
from agm.web.admin.describe import config_of
from agm.web.admin.whole import accounts_of_all
from agm.web.base import Visit
from agm.web.request import GatewayRequestOnWire

log = Logger()


class Reset(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be taken back: for one model, or all of it."""

    model: str | None = None


class Accounts(AdminResource):
    """
    ``GET /_agm/accounts``: how each account stands; ``POST /_agm/accounts/NAME/reset``: take back what is held against
    one.
    """

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        match wire.postpath:
            case [] | [b""]:
                return self.methods
            case [_, b"reset"]:
                return ("POST",)
        return ()

    async def respond_to_admin(self, visit: Visit) -> None:
        match visit.wire.postpath:
            case [] | [b""]:
                accounts = await accounts_of_all(self.gateway)
                self.tell(visit, {"accounts": accounts, "config": config_of(self.gateway)})
            case [name, *_]:
                await self._reset(visit, name.decode("utf-8", "replace"))

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

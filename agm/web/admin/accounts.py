"""``/_agm/accounts``: how each account stands, and taking back what is held against one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from twisted.logger import Logger

from agm.core.errors import NOT_JSON, InvalidRequest, NotFound
from agm.web.admin.base import AdminResource
from agm.web.admin.describe import config_of, describe_accounts
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
                self.tell(visit, {"accounts": describe_accounts(self.gateway), "config": config_of(self.gateway)})
            case [name, *_]:
                self._reset(visit, name.decode("utf-8", "replace"))

    def _reset(self, visit: Visit, name: str) -> None:
        try:
            asked = msgspec.json.decode(visit.wire.body or b"{}", type=Reset)
        except NOT_JSON as e:
            raise InvalidRequest(f"This does not say what to reset: {e}") from None
        try:
            found = self.gateway.pool.reset(name, asked.model)
        except KeyError:
            raise NotFound("There is no account of this name; GET /_agm/accounts lists them.") from None
        log.info(
            "{request_id}: the cooldowns and errors of account {account} are cleared, for {model}",
            request_id=visit.wire.id,
            account=name,
            model=asked.model or "all models",
        )
        self.tell(visit, {"account": name, "model": asked.model, "reset": found})

"""``/_agm/aliases``: the aliases of models, and changing them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agm.core.errors import NotFound
from agm.persist import config_file as files
from agm.web.admin.editing import EditingResource
from agm.web.base import Visit
from agm.web.request import GatewayRequestOnWire

_AT = ("models", "aliases")


class Target(msgspec.Struct, forbid_unknown_fields=True):
    """The model that an alias leads to."""

    model: str


class Aliases(EditingResource):
    """
    ``GET /_agm/aliases``: the aliases, in the order of the file; ``PUT /_agm/aliases/PATTERN`` adds or changes one,
    ``DELETE /_agm/aliases/PATTERN`` takes it away.
    """

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        """Those of the list, and of an alias."""
        match wire.postpath:
            case [] | [b""]:
                return ("GET", "HEAD")
            case [_]:
                return ("PUT", "DELETE")
        return ()

    async def respond_to_admin(self, visit: Visit) -> None:
        """Answer."""
        if visit.wire.method in (b"GET", b"HEAD"):
            self.tell(visit, {"aliases": self._all()})
            return
        pattern = visit.wire.postpath[0].decode("utf-8", "replace")
        who = self.may_edit(visit)
        if visit.wire.method == b"DELETE":
            if pattern not in self.gateway.config.models.aliases:
                raise NotFound("There is no alias of this name; GET /_agm/aliases lists them.")
            done = await self.edit(
                visit, who, f"removed alias {pattern}", lambda text: files.assigned(text, _AT, pattern, None)
            )
        else:
            model = self.wish(visit, Target).model
            done = await self.edit(
                visit, who, f"set alias {pattern} to {model}", lambda text: files.assigned(text, _AT, pattern, model)
            )
        self.tell(visit, {"aliases": self._all(), **done})

    def _all(self) -> list[dict[str, str]]:
        return [{"pattern": pattern, "model": model} for pattern, model in self.gateway.config.models.aliases.items()]

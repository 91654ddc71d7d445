"""
The Interactions API and the collections beside it: ``/v1beta/interactions``, ``/v1beta/agents`` and so on.

One resource for all of them: which there are, and what is different about each, is a row of
:data:`agm.core.kinds.ID_COLLECTIONS`.  Files of environments are uploaded with all other files (:mod:`agm.web.files`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from agm.core import ownership
from agm.core.errors import GatewayError, InvalidRequest, NotFound
from agm.core.kinds import ID_COLLECTIONS
from agm.core.ownership import OwnedTarget, Page
from agm.serving.gateway import Gateway
from agm.serving.interactions import IdCall, IdInbound, PrepareIdCall, Uncounted, forwarded_headers
from agm.serving.resources import Lists
from agm.web.access import Access
from agm.web.answering import AnsweringResource
from agm.web.base import Visit
from agm.web.files import MAX_PAGE, parameters, query_of
from agm.web.inbound import decoded_body, plain_headers
from agm.web.request import GatewayRequestOnWire

#: The parameters of a list, and the field in which it says where it goes on.
_SIZE, _PAGE, _GOES_ON = "page_size", "page_token", "next_page_token"


class Interactions(AnsweringResource):
    """Interactions, and what lives beside them."""

    def __init__(self, gateway: Gateway, access: Access) -> None:
        super().__init__(gateway, access)
        self.uncounted = Uncounted()

    def claims(self, wire: GatewayRequestOnWire) -> bool:
        """See :class:`AnsweringResource`."""
        try:
            return self._asked(wire) is not None
        except GatewayError:
            return False  # the resource of all other collections says so

    @staticmethod
    def _asked(wire: GatewayRequestOnWire) -> OwnedTarget | None:
        asked = ownership.parse(wire.path, wire.method.decode("ascii", "replace"))
        return asked if asked is not None and asked.collection in ID_COLLECTIONS and not asked.way else None

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        asked = self._asked(wire)
        if asked is not None and not ID_COLLECTIONS[asked.collection].fields:
            return ("POST",) if asked.name is None else ()
        return ("GET", "POST") if asked is None or asked.name is None else ("GET", "POST", "PATCH", "DELETE")

    def respond(self, visit: Visit) -> Awaitable[None]:
        asked = self._asked(visit.wire)
        if asked is None:
            raise NotFound("The path is not known: the Gemini API has no such resource.")
        inbound = self._inbound(visit, asked)
        prepared = PrepareIdCall(self.gateway.calls, inbound, self.uncounted, self._lists_of(inbound))
        return self.answer_model_call(visit, prepared) if inbound.creates else self.answer(visit.wire, prepared)

    def _inbound(self, visit: Visit, asked: OwnedTarget) -> IdInbound:
        wire, found = visit.wire, parameters(visit)
        headers, body = plain_headers(wire), decoded_body(wire)
        return IdInbound(
            id=wire.id,
            path=wire.path.decode("ascii", "backslashreplace"),
            asked=asked,
            http_method=wire.method.decode("ascii"),
            query=query_of(found),
            parameters=dict(reversed(found)),
            headers=headers,
            forwarded=forwarded_headers(headers, content=bool(body)),
            key=visit.key,
            body=body,
            received_at=self.gateway.wall(),
        )

    def _lists_of(self, inbound: IdInbound) -> Callable[[IdCall, Callable[[str], bool]], Lists]:
        def lists(call: IdCall, shows: Callable[[str], bool]) -> Lists:
            size, token = inbound.parameters.get(_SIZE, ""), inbound.parameters.get(_PAGE, "")
            if size and not (size.isascii() and size.isdigit() and len(size) < 10):
                raise InvalidRequest(f"Invalid value for {_SIZE}: {size[:40]!r}.")
            rest = [(name, value) for name, value in inbound.parameters.items() if name not in (_SIZE, _PAGE)]

            def path_of(size: int | None, token: str) -> str:
                own = [(_SIZE, str(size))] if size is not None else []
                return inbound.asked.path + query_of([*rest, *own, *([(_PAGE, token)] if token else [])])

            wanted = min(int(size), MAX_PAGE) if size and int(size) else None
            page = Page.decode(token) if token else None
            return Lists(self.gateway.calls.context, call, wanted, page, path_of, _GOES_ON, shows)

        return lists

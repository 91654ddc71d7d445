"""
What every resource below ``/_agm`` is made of: :class:`AdminResource`.

Open to this machine itself, through no proxy, and to client keys with ``admin = true``; nobody else.  What changes the
configuration is a :class:`~agm.web.admin.editing.EditingResource`.
"""

from __future__ import annotations

import msgspec

from agm.core.errors import Forbidden
from agm.web.base import ApiResource, Visit


class AdminResource(ApiResource):
    """A resource for the person who runs the gateway."""

    nothing_below = True
    #: Whether a client key that is shown has to be one with ``admin = true``, on the gateway's own machine, too.
    for_admins = False

    async def respond(self, visit: Visit) -> None:
        if visit.key is None or not visit.key.admin:
            if not visit.wire.sender.local:
                raise Forbidden(
                    "This is open to the gateway's own machine (but not through a proxy, unless it is in [gateway] "
                    "trusted_proxies), and to client keys with admin = true.",
                    reason="ADMIN_ONLY",
                )
            if self.for_admins and visit.key is not None:
                raise Forbidden("This needs a client key with admin = true.", reason="ADMIN_ONLY")
        await self.respond_to_admin(visit)

    async def respond_to_admin(self, visit: Visit) -> None:
        """Answer."""
        raise NotImplementedError

    def tell_secret(self, visit: Visit, document: object) -> None:
        """Answer 200 with a document that holds a secret which was made for who asks; it is kept by nobody else."""
        text = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        visit.wire.send(200, [(b"Cache-Control", b"no-store")], text)

    def tell(self, visit: Visit, document: object) -> None:
        """Answer 200 with a document, from which secrets are taken that a plugin or an upstream may have put there."""
        text = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        visit.wire.send(200, [], self.gateway.redactor.body(text))

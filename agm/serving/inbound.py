"""
Requests that go on as the client wrote them, as they came in: what those of all such surfaces have in common.

:class:`agm.serving.prepare.InboundCall` is a call of Google's own, which is sent in the form of each kind of account.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from agm.core.answer import NOTHING
from agm.core.client_keys import ClientKey
from agm.core.request import Body, GatewayRequest
from agm.core.wire.answer_filters import Framing


@attrs.frozen(eq=False, kw_only=True)
class Inbound:
    """A request that goes on as the client wrote it, without credentials."""

    id: str
    path: str
    #: As it goes to an upstream, with its question mark; "" for none.
    query: str
    parameters: dict[str, str]
    headers: dict[str, str]
    #: What of the headers goes along.
    forwarded: tuple[tuple[bytes, bytes], ...]
    key: ClientKey | None
    body: bytes
    received_at: float

    def describe(
        self, version: str, method: str, model: str, framing: Framing, *, shown: bytes, explaining: bool = False
    ) -> GatewayRequest:
        """
        Describe it to plugins.

        :param shown: the body as far as they may see it.
        """
        key = self.key
        metadata: Mapping[str, str] = NOTHING if key is None else key.metadata
        return GatewayRequest(
            id=self.id,
            path=self.path,
            version=version,
            method=method,
            asked_model=model,
            model=model,
            framing=framing,
            query=self.parameters,
            headers=self.headers,
            client_key=None if key is None else key.name,
            key_metadata=metadata,
            team=None if key is None else key.team,
            weight=1 if key is None else key.weight,
            received_at=self.received_at,
            body=Body(shown),
            upstream_framing=framing,
            explaining=explaining,
        )

"""
Take e-mail addresses, phone numbers, card numbers and what else is asked for out of all that goes to an upstream.

::

    [plugins]
    load = ["agm.contrib.pii_redactor"]

    [plugins.pii_redactor]
    find = ["email", "phone", "card"]

    [plugins.pii_redactor.patterns]
    STAFF = 'E-\\d{6}'

Every JSON document of every route is looked through; what cannot be, as the bytes of an upload, the gateway refuses
while this plugin is loaded.  The log tells how many of what were taken out of a request, never what they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from typing import Any

import msgspec
from twisted.internet.task import cooperate
from twisted.logger import Logger

from agm.api import GatewayRequest, hookimpl
from agm.contrib.pii import Redaction, Settings, told

#: A body of more bytes is looked through in turns with what else there is to do.
LARGE = 128 * 1024

log = Logger()


class PiiRedactor:
    """The plugin."""

    def __init__(self) -> None:
        self._redaction = Redaction(Settings())
        #: Whether what cannot be looked through may go out: see docs/plugins.md.
        self.may_pass_unseen = False

    @hookimpl
    def agm_settings(self) -> dict[str, type[msgspec.Struct]]:
        """Say what the table may hold."""
        return {"pii_redactor": Settings}

    @hookimpl
    def agm_configure(self, config: Any) -> None:
        """Take the settings up."""
        settings = config.plugins.read("pii_redactor", Settings)
        self._redaction = Redaction(settings)
        self.may_pass_unseen = settings.pass_unseen

    @hookimpl
    def agm_transform_request(
        self, body: dict[str, Any], request: GatewayRequest
    ) -> dict[str, Any] | Awaitable[dict[str, Any] | None] | None:
        """Give the body without what is found; None if nothing is.  While a large one is read others are served."""
        if len(request.body.raw) > LARGE:
            return self._in_turns(body, request)
        counts: Counter[str] = Counter()
        self._redaction.document(body, counts)
        return _redacted(body, request, counts)

    async def _in_turns(self, body: dict[str, Any], request: GatewayRequest) -> dict[str, Any] | None:
        counts: Counter[str] = Counter()
        await cooperate(self._redaction.steps(body, counts)).whenDone()
        return _redacted(body, request, counts)


def _redacted(body: dict[str, Any], request: GatewayRequest, counts: Counter[str]) -> dict[str, Any] | None:
    if not counts:
        return None
    if not request.explaining:
        log.info("{request_id}: redacted {what}", request_id=request.id, what=told(counts))
    return body


_redactor = PiiRedactor()
agm_settings = _redactor.agm_settings
agm_configure = _redactor.agm_configure
agm_transform_request = _redactor.agm_transform_request


def __getattr__(name: str) -> Any:
    if name == "may_pass_unseen":
        return _redactor.may_pass_unseen
    raise AttributeError(name)

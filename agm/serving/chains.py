"""
The two chains of plugins that edit: every body on its way to an upstream, and every answer on its way back.

Whatever a surface sends goes through :func:`edited_body`, and whatever it relays through the :data:`Transform` that
:func:`edited` makes.  What cannot be shown to a plugin, because it is no JSON, is not sent past it: see
:func:`check_bytes_out` and :func:`check_bytes_in`.
"""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from twisted.internet.task import deferLater

from agm.core.errors import GatewayError, Unimplemented
from agm.core.request import Account, Body, GatewayRequest
from agm.core.wire.answer_filters import EventsReplaced, Transform
from agm.plugins.hooks import ALLOWS_UNSEEN, HookFailed, Hooks


async def edited_body(hooks: Hooks, body: bytes, request: GatewayRequest) -> bytes:
    """
    Return a body after all plugins' edits; as it is where none edits, or where there is no body.

    Of a batch each request is edited, as a call of its own, and then the batch.

    :param request: the request as it came; its ``method`` says what kind of document the body is.
    :raises InvalidRequest: if it is no JSON object, and a plugin would edit it.
    :raises HookFailed: if a plugin fails.
    """
    if not hooks.edits_requests or not body.strip():
        return body
    document = Body(body).json()  # a document of their own
    if request.method in _INNER:
        await _edit_inner(hooks, document, request)
    return await hooks.edit_body(document, request)


#: Batches that hold their requests, and the method that each of them is of.
_INNER = {"batchGenerateContent": "generateContent", "asyncBatchEmbedContent": "embedContent"}
#: So many requests of a batch are edited before others are served.
_AT_ONCE = 32


async def _edit_inner(hooks: Hooks, document: dict[str, Any], request: GatewayRequest) -> None:
    """Have the plugins edit each request of a batch, as what it is; the batch itself they see afterwards, whole."""
    for number, holder in enumerate(_holders(document)):
        if number % _AT_ONCE == _AT_ONCE - 1:
            await deferLater(hooks.reactor, 0)
        shown = Body(msgspec.json.encode(holder["request"]))
        one = attrs.evolve(request, method=_INNER[request.method], body=shown)
        holder["request"] = msgspec.json.decode(await hooks.edit_body(holder["request"], one))


def _holders(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what holds the requests of a batch, each under ``request``; none where it is not as Google has it."""
    found: Any = document.get("batch", document)
    for names in (("inputConfig", "input_config"), ("requests",), ("requests",)):
        found = next((found[name] for name in names if name in found), None) if isinstance(found, dict) else None
    holders = found if isinstance(found, list) else []
    return [one for one in holders if isinstance(one, dict) and isinstance(one.get("request"), dict)]


def edited(hooks: Hooks, request: GatewayRequest, account: Account, cut: Transform, *, alone: bool) -> Transform:
    """
    Have the plugins edit what `cut` leaves of a document or of an event.

    :param account: whose answer it is of.
    :param alone: whether it is the answer as a whole, and no event of a stream.
    """

    def change(document: bytes) -> bytes:
        plain = cut(document)
        event = msgspec.json.decode(plain)
        if not isinstance(event, dict):
            return plain
        try:
            found = hooks.edit_event(event, request, account, alone=alone)
        except HookFailed as e:
            raise plugin_failed(e) from e
        if len(found.documents) == 1 and not (found.ends and not alone):
            return found.documents[0]
        raise EventsReplaced(found.documents, ends=found.ends)

    return change


def plugin_failed(error: HookFailed) -> GatewayError:
    """Make the error that a client gets for a plugin's."""
    return GatewayError(f"{error}. The gateway's log says why.", reason="PLUGIN_FAILED")


def check_bytes_out(hooks: Hooks, what: str) -> None:
    """
    Check that bytes which no plugin can be shown may be sent.

    :param what: what they are, as the subject of a sentence in the plural.
    :raises Unimplemented: if a plugin edits requests, and has not said that such may pass unseen.
    """
    _check(hooks, "agm_transform_request", "edits requests", what)


def check_bytes_in(hooks: Hooks, what: str) -> None:
    """As :func:`check_bytes_out`, for an answer and the plugins that edit answers."""
    _check(hooks, "agm_transform_event", "edits answers", what)


def _check(hooks: Hooks, hook: str, does: str, what: str) -> None:
    if names := hooks.unseeing(hook):
        raise Unimplemented(
            f"{what} cannot be shown to plugin {names[0]}, which {does}, so they are not sent past it. Whoever runs "
            f"the gateway can leave it out with [plugins] disable, or let such bytes pass: {ALLOWS_UNSEEN} = True in "
            "the plugin says so.",
            reason="PLUGIN_CANNOT_SEE",
        )

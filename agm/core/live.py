"""
The Live API as far as a gateway reads it: paths, the first message, close codes, and what a server's messages tell.

A session's path names no model: the first message does (``setup``, or an interaction's first event), so that it decides
on the account.  Nothing else of what a client says is read.  Of what the server says, only usage and handles are.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec

from agm.core.documents import undense
from agm.core.errors import NOT_JSON, InvalidRequest, status_body
from agm.core.ownership import Maker
from agm.core.wire.target import bare_model
from agm.core.wire.usage import GENERATE, Names, Usage, last_usage
from agm.core.wire.websocket import Closing, FrameReader

#: Google's names for what is called: the Developer API's, its music, Vertex AI's, and a live interaction.
DEVELOPER, MUSIC = "BidiGenerateContent", "BidiGenerateMusic"
VERTEX, INTERACTION = "LlmBidiService.BidiGenerateContent", "interactions.live"
METHODS = (DEVELOPER, MUSIC, VERTEX, INTERACTION)

#: What begins an ephemeral token.
TOKEN = "auth_tokens/"  # noqa: S105  # no secret: what one begins with

_DEVELOPER = re.compile(
    rb"/+ws/+google\.ai\.generativelanguage\.(?P<version>v1beta|v1alpha|v1)\.GenerativeService[./]"
    rb"(?P<method>BidiGenerateContent|BidiGenerateContentConstrained|BidiGenerateMusic)/?"
)
_VERTEX = re.compile(
    rb"/+ws/+google\.cloud\.aiplatform\.(?P<version>v1beta1|v1)\.LlmBidiService[./]BidiGenerateContent/?"
)
_INTERACTION = re.compile(rb"/+(?P<version>v1beta|v1alpha|v1)/+interactions/live/?")
_VERTEX_MODEL = re.compile(r"(?:projects/[^/]+/locations/[^/]+/)?publishers/google/models/(?P<model>.+)")
_NOT_IN_A_MODEL = re.compile(r"[\x00-\x1f\x7f\\?#]")
MAX_MODEL = 512


@attrs.frozen
class LiveTarget:
    """
    What a path opens: `method` is one of :data:`METHODS`, `version` the Developer API's; `constrained` is for
    ephemeral tokens.
    """

    method: str
    version: str
    constrained: bool = False


def parse(path: bytes) -> LiveTarget | None:
    """
    Return what a path opens; None for one that is no WebSocket's.

    :param path: the raw path of the request, without its query.
    """
    found = _DEVELOPER.fullmatch(path)
    if found is not None:
        method, version = found["method"].decode("ascii"), found["version"].decode("ascii")
        constrained = method == "BidiGenerateContentConstrained"
        return LiveTarget(DEVELOPER if constrained else method, version, constrained)
    found = _VERTEX.fullmatch(path)
    if found is not None:
        return LiveTarget(VERTEX, "v1" if found["version"] == b"v1" else "v1beta")
    found = _INTERACTION.fullmatch(path)
    return None if found is None else LiveTarget(INTERACTION, found["version"].decode("ascii"))


# The first message


@attrs.frozen
class Setup:
    """
    What the first message asks for.

    `model` is bare, and empty where an interaction is gone on with; `handle` is of a session that is resumed;
    `interaction` is the id that is gone on with.
    """

    model: str
    handle: str | None = None
    interaction: str | None = None


_OBJECT = msgspec.json.Decoder(dict[str, Any])


def read_setup(payload: bytes, target: LiveTarget, *, locked: bool = False) -> Setup:
    """
    Read the first message of a session.

    :param locked: whether the model may be left to the session's ephemeral token.
    :raises InvalidRequest: if it is none.
    """
    try:
        document = _OBJECT.decode(undense(payload))
    except NOT_JSON:
        raise InvalidRequest(
            "The first message of a session has to be a JSON object.", reason="SETUP_INVALID"
        ) from None
    if target.method == INTERACTION:
        return _read_interaction(document)
    setup = document.get("setup")
    if not isinstance(setup, dict):
        raise InvalidRequest("The first message of a session has to be its setup.", reason="SETUP_INVALID")
    resumption = setup.get("sessionResumption", setup.get("session_resumption"))
    handle = resumption.get("handle") if isinstance(resumption, dict) else None
    named = setup.get("model")
    if locked and named in (None, ""):
        return Setup("", handle if isinstance(handle, str) and handle else None)
    model = _model(named, "setup.model")
    if target.method == VERTEX:
        full = _VERTEX_MODEL.fullmatch(model)
        model = model if full is None else full["model"]
    return Setup(bare_model(model), handle if isinstance(handle, str) and handle else None)


def _read_interaction(document: Mapping[str, Any]) -> Setup:
    events = document.get("events")
    first = events[0] if isinstance(events, list) and events else document
    kind = first.get("event_type") if isinstance(first, dict) else None
    if kind == "interaction.connect" and isinstance(first.get("id"), str) and first["id"]:
        return Setup("", interaction=first["id"])
    if kind in ("interaction.connect", "interaction.create"):
        inner = first.get("interaction")
        asked = inner if isinstance(inner, dict) else first
        previous = asked.get("previous_interaction_id")
        name = _model(asked.get("model", asked.get("agent")), "model")
        return Setup(bare_model(name), interaction=previous if isinstance(previous, str) and previous else None)
    raise InvalidRequest(
        "The first event of a live interaction has to be interaction.create or interaction.connect.",
        reason="SETUP_INVALID",
    )


def _model(named: object, field: str) -> str:
    if not isinstance(named, str) or not named or len(named) > MAX_MODEL or _NOT_IN_A_MODEL.search(named):
        raise InvalidRequest(f"{field} has to be the name of a model.", reason="SETUP_INVALID")
    return named


def with_model(payload: bytes, method: str, name: str) -> bytes:
    """
    Return the first message for an account: the model is called `name` in it; nothing else is changed.

    :returns: the very same bytes where that is what they say already.
    """
    document = _OBJECT.decode(undense(payload))
    if method == INTERACTION:
        events = document.get("events")
        at = events[0] if isinstance(events, list) and events else document
        inner = at.get("interaction")
        at = inner if isinstance(inner, dict) else at
        field = "model" if "model" in at or "agent" not in at else "agent"
    else:
        at, field = document["setup"], "model"
    if at.get(field) == name:
        return payload
    at[field] = name
    return msgspec.json.encode(document)


# Why a session was closed


#: A status that says the same as a close code: RFC 6455, section 7.4.1, as Google uses it.
_STATUSES = {1007: 400, 1008: 403, 1009: 413, 1013: 503}
_QUOTA = re.compile(r"quota|RESOURCE_EXHAUSTED|rate.?limit|too many|concurrent|credits", re.IGNORECASE)
_CREDENTIAL = re.compile(r"API key|credential|UNAUTHENTICATED|token has expired", re.IGNORECASE)
_NO_MODEL = re.compile(r"\bmodels?\b.{0,200}\bnot (?:found|supported)|not supported for bidi", re.IGNORECASE)


def status_of(closing: Closing) -> tuple[int, bytes]:
    """
    Return the HTTP status, and the google.rpc.Status document, that say what a close frame before the first message
    says: its code tells the kind of it, and its reason, which is all the detail there is, the rest.
    """
    reason = closing.reason
    status = _STATUSES.get(closing.code or 0, 503)
    if closing.code == 1011 and _QUOTA.search(reason):
        status = 429
    elif closing.code == 1008 and _CREDENTIAL.search(reason):
        status = 401 if "API key" not in reason else 400
    elif closing.code == 1008 and _NO_MODEL.search(reason):
        status = 404
    return status, status_body(status, reason or f"The upstream closed the session with code {closing.code}.")


def closing_of(status: int, message: str) -> Closing:
    """Return how a session is closed for an error: by its HTTP status, with its first sentences as the reason."""
    if status in (401, 403, 404, 501):
        return Closing(1008, message)
    if status == 413:
        return Closing(1009, message)
    return Closing(1007 if 400 <= status < 500 and status not in (408, 429, 499) else 1011, message)


# What the server says

#: So much of a message is looked through at its beginning and at its end: between them is audio, as a rule.
_EDGE = 8 * 1024
_HANDLE = re.compile(rb'"(?:newHandle|new_handle)"\s*:\s*"([^"\\]{1,4096})"')
#: The event that tells the id of an interaction, and the id: either may come first.
_BEGUN = re.compile(rb'"event_type"\s*:\s*"interaction\.(?:created|connected)"')
_ID = re.compile(rb'"(?:interaction_id|id)"\s*:\s*"([\w.-]{1,256})"')
_TURN_OVER = re.compile(rb'"(?:turnComplete|turn_complete)"\s*:\s*true')
#: What begins another turn.
_CONTENT = (b'"modelTurn"', b'"toolCall"', b'"outputTranscription"', b'"step.start"', b'"audioChunks"')


class LiveWatch:
    """
    Watches a server's messages: sums up the tokens of all turns, of each of which the last count is right, and tells of
    the handles that resume a session, and of the interactions that are begun.

    :param on_handle: called with each new handle, and with ``interactions/ID``.
    :param names: what the session's API calls its counts.
    :ivar finish: how the session was closed, for the record.
    """

    __slots__ = ("_head", "_last", "_names", "_on_handle", "_over", "_sum", "_tail", "finish")

    def __init__(self, on_handle: Callable[[str], object], names: Names = GENERATE) -> None:
        self._on_handle = on_handle
        self._names = names
        #: The beginning and the end of a message that has come in part.
        self._head = self._tail = b""
        self._sum = Usage()
        self._last: Usage | None = None
        self._over = False
        self.finish: str | None = None

    def piece(self, data: bytes, start: int, end: int, frame: FrameReader, *, last: bool) -> None:
        """Look at a piece of a message; see :class:`agm.core.wire.websocket.PieceObserver`."""
        if last and not self._head:
            if end - start <= 2 * _EDGE:
                self._look(data, start, end)
            else:
                self._look(data, start, start + _EDGE)
                self._look(data, end - _EDGE, end)
            return
        room = _EDGE - len(self._head)
        if room > 0:
            self._head += data[start : min(end, start + room)]
        self._tail = (self._tail + data[max(start, end - _EDGE) : end])[-_EDGE:]
        if last:
            head, tail, self._head, self._tail = self._head, self._tail, b"", b""
            self._look(head, 0, len(head))
            if head != tail:
                self._look(tail, 0, len(tail))

    def _look(self, data: bytes, start: int, end: int) -> None:
        content = any(data.find(word, start, end) >= 0 for word in _CONTENT) if self._over else False
        if content:
            self._commit()
        if data.find(self._names.usage, start, end) >= 0:
            found = last_usage(data[start:end], self._names)
            if found is not None:
                self._last = found
        if data.find(b"urn", start, end) >= 0 and _TURN_OVER.search(data, start, end):
            self._over = True
        elif data.find(b"andle", start, end) >= 0:
            handle = _HANDLE.search(data, start, end)
            if handle is not None:
                self._on_handle(handle[1].decode("utf-8", "replace"))
        elif data.find(b'"interaction.c', start, end) >= 0:
            told = _BEGUN.search(data, start, end) and _ID.search(data, start, end)
            if told:
                self._on_handle("interactions/" + told[1].decode("ascii"))

    def _commit(self) -> None:
        """A turn is over, and another has begun."""
        last, self._last, self._over = self._last, None, False
        if last is not None:
            self._sum = _added(self._sum, last)

    def read(self) -> tuple[Usage | None, str | None]:
        """Return the tokens of the session, and how it was closed; None for what is not known."""
        usage = self._sum if self._last is None else _added(self._sum, self._last)
        return (usage if usage.total else None), self.finish


def _added(one: Usage, other: Usage) -> Usage:
    counts = {
        name: getattr(one, name) + getattr(other, name)
        for name in ("prompt", "output", "cached", "thoughts", "tool", "total", "images")
    }
    parts: Counter[tuple[str, str]] = Counter()
    for of, modality, count in (*one.modalities, *other.modalities):
        parts[of, modality] += count
    modalities = tuple((of, modality, count) for (of, modality), count in parts.items())
    return Usage(**counts, modalities=modalities, tier=other.tier or one.tier)


# Handles and tokens


@attrs.frozen
class Pin:
    """Whose a handle or a token is: an account's, and the client key's and team's that it was given to."""

    account: str
    #: Its name; None where no key was asked for.
    client_key: str | None
    expires: float
    #: The model that a token is for, as the client called it; empty for any.
    model: str = ""
    #: The client key itself, where it is one that no configuration lists.
    key: object = attrs.field(default=None, repr=False)
    #: The team of the client key; empty for none.
    team: str = ""

    def answers_to(self, asking: Maker) -> bool:
        """Tell whether it is for whoever asks."""
        return Maker(self.client_key or "", self.team).shares(asking, by="team")


class Pins:
    """
    Handles and tokens, by their digests: what leads a session back to its account, and to nobody else's client.

    :param most: how many; the oldest goes first.
    """

    def __init__(self, most: int = 20_000) -> None:
        self._most = most
        self._pins: OrderedDict[bytes, Pin] = OrderedDict()
        #: Called whenever what is known has changed.
        self.changed: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return len(self._pins)

    def remember(self, secret: str, pin: Pin) -> bytes:
        """Pin a handle or a token; returns its digest."""
        mark = _digest(secret)
        self.put(mark, pin)
        self.changed()
        return mark

    def put(self, mark: bytes, pin: Pin) -> None:
        """Pin what has this digest."""
        self._pins.pop(mark, None)
        self._pins[mark] = pin
        if len(self._pins) > self._most:
            self._pins.popitem(last=False)

    def forget(self, mark: bytes) -> None:
        """Forget what has this digest."""
        if self._pins.pop(mark, None) is not None:
            self.changed()

    def items(self) -> list[tuple[bytes, Pin]]:
        """All of them, by their digests, the oldest first."""
        return list(self._pins.items())

    def find(self, secret: str, now: float) -> Pin | None:
        """
        Return whose a handle or a token is; None if it is not known, or its time is over.

        :param now: in seconds since the epoch, as what was remembered.
        """
        mark = _digest(secret)
        pin = self._pins.get(mark)
        if pin is not None and now >= pin.expires:
            self.forget(mark)
            return None
        return pin


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()

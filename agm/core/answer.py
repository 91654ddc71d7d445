"""
Answers that plugins get and give: one that comes from a call within the process, and one that needs no upstream.

Bytes are laid out here as a client wants them; nothing is sent.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import attrs
import msgspec

from agm.core import documents
from agm.core.errors import NOT_JSON, BadUpstreamAnswer
from agm.core.wire.answer_filters import Framing
from agm.core.wire.sse import EventReader


@attrs.frozen(slots=False)
class LocalAnswer:
    """
    An answer that needs no upstream.

    `content` is one document, or the documents of a stream in their order, which are laid out as the client wants them:
    events of an interaction have their ``event_type`` beside, and a stream of the OpenAI surface ends with ``[DONE]``.
    Bytes go out as they are, and must be laid out so.  `headers` are beside those that the form of the answer needs.
    """

    content: Mapping[str, Any] | Sequence[Mapping[str, Any]] | bytes
    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def body(self, framing: Framing, method: str = "") -> bytes:
        """
        Lay it out.

        :param method: what is answered, as hooks see it.
        :raises TypeError: if it has not what the framing asks for, or JSON cannot hold it.
        """
        content = self.content
        if isinstance(content, bytes):
            return content
        several = [content] if isinstance(content, Mapping) else list(content)
        if not all(isinstance(document, Mapping) for document in several):
            raise TypeError("a LocalAnswer holds bytes, a document or documents")
        if framing is Framing.UNARY or self.status >= 400:
            if len(several) != 1:
                raise TypeError(f"the client wants one document, and the LocalAnswer has {len(several)}")
            return msgspec.json.encode(dict(several[0]))
        encoded = [msgspec.json.encode(dict(document)) for document in several]
        if framing is Framing.ARRAY:
            return b"[" + b",\n".join(encoded) + b"]"
        if method.startswith("interactions."):
            kinds = [document.get("event_type") for document in several]
            if not all(isinstance(kind, str) and kind.isprintable() for kind in kinds):
                raise TypeError("an event of an interaction has no event_type")
            lines = [f"event: {kind}\ndata: ".encode() for kind in kinds]
            events = [line + document + b"\n\n" for line, document in zip(lines, encoded, strict=True)]
            return b"".join(events) + b"event: done\ndata: [DONE]\n\n"
        done = b"data: [DONE]\n\n" if method.startswith("openai.") else b""
        return b"".join(b"data: " + document + b"\r\n\r\n" for document in encoded) + done


@attrs.frozen(slots=False)
class KeepAnswer:
    """
    No answer, but the wish to get the upstream's: the record of the request holds the bytes that its client got.

    An answer of more than `most` bytes is not kept.  `headers` go out with a good answer; one that is made once for all
    requests costs none of them anything.

    :raises TypeError: if a header cannot be sent.
    """

    most: int = 1024 * 1024
    headers: Mapping[str, str] = attrs.field(factory=dict)
    #: The same, as they are written.
    lines: tuple[tuple[bytes, bytes], ...] = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        for name, value in self.headers.items():
            check_header(name, value)
        lines = tuple((name.encode("ascii"), value.encode("latin-1")) for name, value in self.headers.items())
        object.__setattr__(self, "lines", lines)


#: A header's name and value as RFC 9110 has them; a line break in one would begin another.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile("[^\\x00-\\x08\\x0a-\\x1f\\x7f\\u0100-\\U0010ffff]*")
#: Headers that say how an answer is laid out or sent.
_OF_THE_HOP = frozenset(
    {"connection", "content-encoding", "content-length", "date", "keep-alive", "server", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "x-agm-request-id"}
)


def check_header(name: object, value: object) -> None:
    """
    Check that a header may be added to an answer.

    :raises TypeError: if it cannot be sent, or is not a plugin's to say.
    """
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError("it returned a header that is not text: both its name and its value are strings")
    if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        raise TypeError("it returned a header that cannot be sent: a name is a token, a value one line of Latin-1")
    if name.lower() in _OF_THE_HOP:
        raise TypeError(f"it returned the header {name.lower()}, which says how the answer is sent, and is agm's own")


#: Nothing was looked up.
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Answer:
    """
    An answer to a call from within the process; ``async for`` gives its bytes as they come.

    Nothing more is read from the upstream while what came is not taken.  Whoever got one calls :meth:`close` when done
    with it, read to its end or not; :meth:`read` and :meth:`json` do so, and so does the end of :meth:`events`.

    :ivar status: the HTTP status; an error's body is google.rpc.Status JSON.
    :ivar account: the name of the account that answers; None for an answer of the gateway's own.
    :ivar headers: ``retry-after``, if there is one, and others that are for clients; names in lower case.
    :ivar request: the request as it was made, with the mapped model: a :class:`agm.core.request.GatewayRequest`.
    """

    status: int
    account: str | None = None
    headers: Mapping[str, str] = NOTHING
    request: Any = None
    #: How the bytes are laid out.
    framing: Framing = Framing.UNARY

    def __aiter__(self) -> Answer:
        """Give itself: it can be read once."""
        return self

    async def __anext__(self) -> bytes:
        """
        Wait for the next bytes.

        :raises BadUpstreamAnswer: if the upstream breaks the answer off; what came is not whole.
        """
        raise NotImplementedError

    def close(self, outcome: Literal["ok", "error", "aborted", "cancelled"] = "cancelled") -> None:
        """End the call; what has not come is not wanted.  Only the first call counts, and none after the end."""
        raise NotImplementedError

    async def read(self) -> bytes:
        """
        Wait for the rest of the answer.

        :raises BadUpstreamAnswer: if the upstream breaks it off.
        """
        try:
            return b"".join([chunk async for chunk in self])
        finally:
            self.close()

    async def json(self) -> dict[str, Any]:
        """
        Wait for the one document of an answer that is no stream.

        :raises BadUpstreamAnswer: if the upstream breaks it off, or it is no JSON object.
        """
        return _document(await self.read())

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """
        Give each document of the answer as soon as it is there: every event of a stream, or the only one.

        Those of an array come at its end.

        :raises BadUpstreamAnswer: if the upstream breaks the answer off, or a document is no JSON object.
        """
        if self.framing is Framing.UNARY:
            yield await self.json()
            return
        if self.framing is Framing.ARRAY:
            for document in _decoded(await self.read(), list):
                yield document
            return
        reader = EventReader()
        try:
            async for chunk in self:
                for data in reader.feed(chunk):
                    if data != b"[DONE]":
                        yield _document(data)
            last = reader.close()
            if last.data:
                yield _document(last.data)
        finally:
            self.close()


def _document(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = _decoded(data, dict)
    return found


def _decoded(data: bytes, kind: type) -> Any:
    try:
        found = documents.decode(data)
    except NOT_JSON:
        found = None
    if not isinstance(found, kind):
        raise BadUpstreamAnswer(f"The upstream's answer is not a JSON {'object' if kind is dict else 'array'}.")
    return found

"""
What happens to the bytes of an answer between the upstream and the client.

An :class:`AnswerFilter` is fed what the upstream sends and returns what the client is to get, in the same turn.  Where
the account's kind speaks plain Gemini, bytes pass untouched and are only watched for an error that ends a stream; where
they are wrapped, or a plugin edits events, they are read event by event.  A filter never waits, never writes, and holds
back only what it needs to tell an answer from an error.

A filter that meets an error of the upstream sets :attr:`AnswerFilter.failure` and returns what came before it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import attrs
import msgspec

from agm.core import envelope
from agm.core.errors import status_body
from agm.core.eventstream import MAX_BARE, EventReader, EventTooLarge


class Framing(Enum):
    """How an answer is laid out in its body."""

    UNARY = "unary"
    SSE = "sse"
    ARRAY = "array"


@attrs.frozen
class StreamFailure:
    """Why an answer cannot be finished: `document` is ``{"error": …}`` on one line, `code` its HTTP status."""

    document: bytes
    code: int

    @classmethod
    def of(cls, code: int, message: str) -> StreamFailure:
        """A failure in the gateway's own words."""
        return cls(msgspec.json.format(status_body(code, message), indent=-1), code)

    @classmethod
    def upstream(cls, document: bytes) -> StreamFailure:
        """A failure that the upstream reported."""
        return cls(document, envelope.error_code(document))


#: One event's JSON in, one event's JSON out.
Transform = Callable[[bytes], bytes]


class AnswerFilter(Protocol):
    """Bytes of an upstream's answer in, bytes for the client out."""

    @property
    def failure(self) -> StreamFailure | None:
        """Set as soon as the answer is known to be broken."""

    def feed(self, chunk: bytes) -> bytes:
        """What a chunk gives the client now; may be empty."""

    def close(self) -> bytes:
        """What the end of a complete upstream body gives the client; afterwards `failure` is final."""


def error_event(failure: StreamFailure) -> bytes:
    """The last event of a broken SSE answer, in the one form that every tested client notices."""
    return b"data: " + failure.document + b"\r\n\r\n"


class PlainBody:
    """A unary answer that passes as it is."""

    failure: StreamFailure | None = None

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def close(self) -> bytes:
        return b""


class CollectedBody:
    """A unary answer that is changed as a whole: unwrapped, or edited by a plugin."""

    def __init__(self, change: Transform, *, limit: int) -> None:
        self.failure: StreamFailure | None = None
        self._change = change
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._size > self._limit:
            self._chunks = []
            self.failure = StreamFailure.of(502, f"The upstream's answer is larger than {self._limit} bytes.")
        elif self.failure is None:
            self._chunks.append(chunk)
        return b""

    def close(self) -> bytes:
        body = b"".join(self._chunks)
        self._chunks = []
        if self.failure is not None or not body:
            return b""
        try:
            return self._change(body)
        except envelope.UpstreamError as e:
            self.failure = StreamFailure.upstream(e.document)
        except envelope.NotAnEnvelope as e:
            self.failure = StreamFailure.of(502, f"The upstream's answer cannot be read: {e}.")
        return b""


_SSE_ERROR = re.compile(rb'(?:\A|(?<=[\r\n]))data:[ \t]*\[?[ \t]*\{[ \t]*"error"[ \t]*:')
_SSE_ERROR_STARTS = (b'data:{"error":', b'data:[{"error":')
_BARE_AT_LINE_START = re.compile(rb"[\r\n][\[{]")
#: A line's start that is longer than this, white space included, is not held back to see what it becomes.
_LONGEST_START = 64


class PlainEvents:
    """
    Server-sent events that pass byte for byte.

    Two things are seen to: an error event, or a bare error document (which SSE clients would silently ignore), becomes
    :attr:`failure` and is not passed on; and a stream that ends without its last blank line gets one, because
    half of the clients lose the last event otherwise.
    """

    def __init__(self) -> None:
        self.failure: StreamFailure | None = None
        self._held = b""  # from a line's start on: perhaps an error
        self._suspect = False  # what is held does start like an error
        self._line_start = True
        self._tail = b""  # the last bytes that passed

    def feed(self, chunk: bytes) -> bytes:
        if self.failure is not None:
            return b""
        data = self._held + chunk if self._held else chunk
        if self._suspect:
            self._held = data
            return self._judge()
        cut = self._find_suspect(data)
        if cut is None:
            cut = len(data) - self._possible_start(data)
            self._held = data[cut:]
            return self._pass(data[:cut])
        passed, self._held, self._suspect = self._pass(data[:cut]), data[cut:], True
        return passed + self._judge()

    def close(self) -> bytes:
        rest = self._judge(ended=True) if self._held else b""
        if self.failure is not None or not self._tail or self._tail.endswith((b"\n\n", b"\r\r", b"\n\r\n")):
            return rest
        eol = b"\n" if self._tail.endswith(b"\n") and not self._tail.endswith(b"\r\n") else b"\r\n"
        return rest + (eol if self._tail.endswith((b"\n", b"\r")) else eol + eol)

    def _find_suspect(self, data: bytes) -> int | None:
        """Where in `data` an error may start; what is held always starts a line."""
        line_start = self._line_start or bool(self._held)
        if line_start and data[:1] in (b"{", b"["):
            return 0
        found: list[int] = []
        if b"\n{" in data or b"\n[" in data or b"\r{" in data or b"\r[" in data:
            bare = _BARE_AT_LINE_START.search(data)
            if bare:
                found.append(bare.start() + 1)
        if b'"error"' in data:
            event = _SSE_ERROR.search(data)
            if event and (event.start() or line_start):
                found.append(event.start())
        return min(found, default=None)

    def _possible_start(self, data: bytes) -> int:
        """How many bytes at the end of `data` to hold back, because an error event may start there."""
        start = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if start == 0 and not (self._line_start or self._held):
            return 0
        line = data[start : start + _LONGEST_START + 1]
        if not line or len(line) > _LONGEST_START:
            return 0
        squeezed = line.replace(b" ", b"").replace(b"\t", b"")
        return len(line) if any(begin.startswith(squeezed) for begin in _SSE_ERROR_STARTS) else 0

    def _judge(self, *, ended: bool = False) -> bytes:
        """Make a failure of what is held, or wait for more of it, or let it pass."""
        reader = EventReader()
        documents: list[bytes] = []
        with contextlib.suppress(EventTooLarge):
            documents = reader.feed(self._held)
            end = reader.close()
            documents += [part for part in (end.bare, end.data if ended else None) if part is not None]
        for document in documents:
            error = envelope.error_document(document)
            if error is not None:
                self.failure = StreamFailure.upstream(error)
                self._held = b""
                return b""
        if not ended and len(self._held) <= MAX_BARE:
            return b""
        held, self._held, self._suspect = self._held, b"", False
        return self._pass(held)

    def _pass(self, data: bytes) -> bytes:
        if data:
            self._line_start = data[-1:] in (b"\n", b"\r")
            self._tail = (self._tail + data[-4:])[-4:]
        return data


_ARRAY_ERROR = re.compile(rb'(?:\A\s*\[|\n,\r?\n)\s*\{\s*"error"\s*:')
_ARRAY_OPENING = re.compile(rb'\s*(?:\[\s*(?:\{\s*(?:"(?:e(?:r(?:r(?:o(?:r(?:")?)?)?)?)?)?)?)?)?\Z')
_WINDOW = 64


class PlainArray:
    """
    A streamed JSON array that passes byte for byte, as Google frames it: elements separated by ``\\n,\\r\\n``.

    The opening is held until it is known not to be an error.  A later error element passes, and sets :attr:`failure`,
    as does an array that is not closed: the client's connection is then aborted and never looks complete.
    """

    def __init__(self) -> None:
        self.failure: StreamFailure | None = None
        self._opening: bytes | None = b""
        self._window = b""

    def feed(self, chunk: bytes) -> bytes:
        if self._opening is not None:
            self._opening += chunk
            if len(self._opening) <= _WINDOW and _ARRAY_OPENING.match(self._opening):
                return b""
            if _ARRAY_ERROR.match(self._opening):
                document = envelope.error_document(self._opening)
                if document is not None:
                    self.failure = StreamFailure.upstream(document)
                    self._opening = b""
                if len(self._opening) <= MAX_BARE:
                    return b""
            chunk, self._opening = self._opening, None
        window = self._window + chunk
        if b'"error"' in window and _ARRAY_ERROR.search(window):
            self.failure = StreamFailure.of(502, "The upstream ended the answer with an error.")
        self._window = window[-_WINDOW:]
        return chunk

    def close(self) -> bytes:
        if self._opening is not None:
            empty = self._opening.strip().replace(b" ", b"") in (b"", b"[]", b"[")
            if not empty and self.failure is None:
                self.failure = StreamFailure.of(502, "The upstream's answer cannot be read: it is not an array.")
        elif not self._window.rstrip().endswith(b"]") and self.failure is None:
            self.failure = StreamFailure.of(502, "The upstream broke off the answer.")
        return b""


class EventPipe:
    """
    Server-sent events that are read one by one: unwrapped or edited by `change`, and framed again for the client.

    :param change: one event's JSON in, the client's JSON out.
    :param framing: what the client asked for.
    :param forward_done: whether an upstream's own ``[DONE]`` is passed on to an SSE client.
    """

    def __init__(self, change: Transform, framing: Framing, *, forward_done: bool) -> None:
        self.failure: StreamFailure | None = None
        self._change = change
        self._array = framing is Framing.ARRAY
        self._forward_done = forward_done
        self._reader = EventReader()
        self._started = False

    def feed(self, chunk: bytes) -> bytes:
        if self.failure is not None:
            return b""
        try:
            events = self._reader.feed(chunk)
        except EventTooLarge as e:
            self.failure = StreamFailure.of(502, f"The upstream's answer cannot be read: {e}.")
            return b""
        return self._frame(events) if events else b""

    def close(self) -> bytes:
        if self.failure is not None:
            return b""
        end = self._reader.close()
        out = self._frame([end.data]) if end.data is not None else b""
        if end.bare is not None and self.failure is None:
            document = envelope.error_document(end.bare)
            self.failure = (
                StreamFailure.upstream(document)
                if document is not None
                else StreamFailure.of(502, "The upstream's answer cannot be read: it is not an event stream.")
            )
        if self._array and self._started and self.failure is None:
            out += b"\n]"
        return out

    def _frame(self, events: list[bytes]) -> bytes:
        pieces: list[bytes] = []
        for event in events:
            if event == b"[DONE]":
                if self._forward_done and not self._array:
                    pieces.append(b"data: [DONE]\r\n\r\n")
                continue
            if not event or event.isspace():
                continue
            try:
                document = envelope.one_line(self._change(event))
            except envelope.UpstreamError as e:
                self.failure = StreamFailure.upstream(e.document)
                break
            except envelope.NotAnEnvelope as e:
                self.failure = StreamFailure.of(502, f"An event of the upstream cannot be read: {e}.")
                break
            if self._array:
                pieces += (b"\n,\r\n" if self._started else b"[", document)
            else:
                pieces += (b"data: ", document, b"\r\n\r\n")
            self._started = True
        return b"".join(pieces)


def plain_event(document: bytes) -> bytes:
    """
    An event of an upstream that wraps nothing, checked.

    :raises UpstreamError: if it is an error.
    :raises NotAnEnvelope: if it is not JSON.
    """
    error = envelope.error_document(document)
    if error is not None:
        raise envelope.UpstreamError(error)
    try:
        msgspec.json.decode(document, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise envelope.NotAnEnvelope("not JSON") from None
    return document

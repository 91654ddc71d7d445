"""
What happens to the bytes of an answer between the upstream and the client.

An :class:`AnswerFilter` is fed what the upstream sends and returns what the client is to get, in the same turn.  Where
the account's kind speaks plain Gemini, bytes pass untouched and are only watched for an error that ends a stream; where
they are wrapped, or a plugin edits events, they are read event by event.  A filter never waits, never writes, and holds
back only what it needs to tell an answer from an error.

A filter that meets an error of the upstream sets :attr:`AnswerFilter.failure` and returns what came before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

import attrs
import msgspec

from agm.core.documents import undense
from agm.core.errors import NOT_JSON, GatewayError, status_body
from agm.core.wire import envelope
from agm.core.wire.sse import MAX_BARE, EventReader, EventTooLarge
from agm.core.wire.usage import UsageWatch


class Framing(Enum):
    """How an answer is laid out in its body."""

    UNARY = "unary"
    SSE = "sse"
    ARRAY = "array"
    LIVE = "live"  # frames of a WebSocket, both ways


@attrs.frozen
class StreamFailure:
    """
    Why an answer cannot be finished: `document` is ``{"error": …}`` on one line, `code` its HTTP status.

    `own` is the error if it is the gateway's own, a plugin's for example: no upstream is to blame, and none can help.
    `foreign` says that the answer is none of Google's, so that somebody else has answered; `message` then says how.
    `original` is the upstream's own document where that is not in Google's form.
    """

    document: bytes
    code: int
    own: GatewayError | None = None
    foreign: bool = False
    message: str = ""
    original: bytes | None = None

    @classmethod
    def of(cls, code: int, message: str) -> StreamFailure:
        """Return a failure in the gateway's own words."""
        return cls(msgspec.json.format(status_body(code, message), indent=-1), code)

    @classmethod
    def not_googles(cls, message: str) -> StreamFailure:
        """The answer is not what was asked for: a page, say, of a proxy on the way."""
        return attrs.evolve(cls.of(502, message), foreign=True, message=message)

    @classmethod
    def upstream(cls, document: bytes, original: bytes | None = None) -> StreamFailure:
        """Return a failure that the upstream reported."""
        return cls(document, envelope.error_code(document), original=original)

    @classmethod
    def ours(cls, error: GatewayError) -> StreamFailure:
        """Return a failure on the gateway's side."""
        return cls(msgspec.json.format(error.body(), indent=-1), error.status, error)


#: One event's JSON in, one event's JSON out.
#: May raise UpstreamError, NotAnEnvelope, GatewayError (EventsReplaced, too), or what msgspec raises.
Transform = Callable[[bytes], bytes]


class EventsReplaced(GatewayError):
    """
    What comes in the place of one event of a stream is not one event; an error where only one can.

    :ivar documents: the events, each as JSON.
    :ivar ends: whether the stream ends well behind them.
    """

    def __init__(self, documents: Sequence[bytes], *, ends: bool) -> None:
        super().__init__(
            "A plugin replaced an event of the answer by none, by several or by an end, which is not possible here.",
            reason="PLUGIN_FAILED",
        )
        self.documents = documents
        self.ends = ends


class AnswerFilter(Protocol):
    """Bytes of an upstream's answer in, bytes for the client out."""

    @property
    def failure(self) -> StreamFailure | None:
        """Set as soon as the answer is known to be broken."""

    @property
    def complete(self) -> bool:
        """Whether the answer is whole, whatever the upstream has yet to send, or however little has come out."""

    def feed(self, chunk: bytes) -> bytes:
        """Filter a chunk; return the client's bytes, which may be none."""

    def close(self) -> bytes:
        """End a complete upstream body; return the client's last bytes.  Afterwards `failure` is final."""


class KeptAnswer:
    """
    Another filter, whose output is kept beside.

    :param most: bytes; an answer of more is not kept.
    """

    def __init__(self, inner: AnswerFilter, most: int) -> None:
        self.inner = inner
        self._room = most
        self._kept: list[bytes] | None = []
        self._closed = False

    @property
    def failure(self) -> StreamFailure | None:
        """See :class:`AnswerFilter`."""
        return self.inner.failure

    @property
    def complete(self) -> bool:
        """See :class:`AnswerFilter`."""
        return self.inner.complete

    @property
    def whole(self) -> bytes | None:
        """The whole answer; None for one that did not come to a good end, or is too large."""
        kept = self._kept
        if kept is None or not self._closed or self.inner.failure is not None:
            return None
        return kept[0] if len(kept) == 1 else b"".join(kept)

    def feed(self, chunk: bytes) -> bytes:
        """See :class:`AnswerFilter`."""
        out, kept = self.inner.feed(chunk), self._kept
        if kept is not None and out:
            self._room -= len(out)
            if self._room < 0:
                self._kept = None
            else:
                kept.append(out)
        return out

    def close(self) -> bytes:
        """See :class:`AnswerFilter`."""
        self._closed = True
        out = self.inner.close()
        if out and self._kept is not None:
            self._kept = [*self._kept, out] if len(out) <= self._room else None
        return out


def error_event(failure: StreamFailure) -> bytes:
    """Return the last event of a broken SSE answer, in the one form that every tested client notices."""
    return b"data: " + failure.document + b"\r\n\r\n"


class PlainBody:
    """A unary answer that passes as it is."""

    failure: StreamFailure | None = None
    complete = False

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def close(self) -> bytes:
        return b""


class PlainDocument(PlainBody):
    """A unary answer that passes as it is, if it begins like one: as a JSON object."""

    def __init__(self) -> None:
        self._begun = False

    def feed(self, chunk: bytes) -> bytes:
        if not self._begun and self.failure is None:
            first = (chunk[:1] if chunk[:1] == b"{" else chunk.lstrip()[:1]) or b""
            if first:
                self._begun = True
                if first != b"{":
                    self.failure = StreamFailure.not_googles("The upstream's answer is not a JSON object.")
        return b"" if self.failure is not None else chunk


class CollectedBody:
    """A unary answer that is changed as a whole: unwrapped, or edited by a plugin."""

    complete = False

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
        else:
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
            self.failure = StreamFailure.upstream(e.document, e.original)
        except GatewayError as e:
            self.failure = StreamFailure.ours(e)
        except (envelope.NotAnEnvelope, *NOT_JSON) as e:
            self.failure = StreamFailure.not_googles(f"The upstream's answer cannot be read: {_why(e)}.")
        return b""


# An error document has one key, ``error``: these match its opening, whole and begun, wherever it may stand.
_KEY_BEGUN = rb'(?:"(?:e(?:r(?:r(?:o(?:r(?:"\s*)?)?)?)?)?)?)?'
#: A line's start that opens an error: in an event's data, or bare.
#: Not longer than :data:`_LONGEST_START`, so that it is found however the answer is cut.
_ERROR_START = re.compile(
    rb"(?<=[\r\n])(?:data:[ \t]{0,60}(?:\[[ \t]{0,60})?\{[ \t]{0,60}|(?:\[\s{0,100})?\{\s{0,100})"
    rb'"error"\s{0,20}:'
)
#: The end of a chunk that may become one.
_ERROR_START_BEGUN = re.compile(
    rb"(?<=[\r\n])(?:d(?:a(?:t(?:a(?::[ \t]*(?:\[[ \t]*)?(?:\{[ \t]*%b)?)?)?)?)?|\[\s*(?:\{\s*%b)?|\{\s*%b)\Z"
    % (_KEY_BEGUN, _KEY_BEGUN, _KEY_BEGUN)
)
#: An opening that is longer than this, white space included, is not held back to see what it becomes.
_LONGEST_START = 256
#: Line ends inside of an event's data.
_CONTINUED = re.compile(rb"(?:\r\n|\r|\n)data:")
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)\Z")

_OUTSIDE_STRINGS = re.compile(rb'["\[\]{}]')
_INSIDE_STRINGS = re.compile(rb'["\\]')


class _Brackets:
    """Finds where a JSON document ends that comes in pieces.  Each byte is looked at once."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._skip = 0  # 1 if a piece ended with a backslash

    def feed(self, piece: bytes) -> int | None:
        """The number of bytes of `piece` up to the bracket that closes the first one; None if it is not in there."""
        at = self._skip
        while found := (_INSIDE_STRINGS if self._in_string else _OUTSIDE_STRINGS).search(piece, at):
            at = found.end()
            match found[0]:
                case b"\\":
                    at += 1
                case b'"':
                    self._in_string = not self._in_string
                case b"{" | b"[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth <= 0:
                        return at
        self._skip = max(0, at - len(piece))
        return None


#: What may stand before the first event: a byte order mark, blank lines and comments.
_BEFORE_EVENTS = re.compile(rb"(?:\xef\xbb\xbf)?(?:(?::[^\r\n]*)?(?:\r\n|\r|\n))*")
#: How an event begins, whole or begun.
_FIELD_BEGUN = re.compile(
    rb"(?:data|event|id|retry)[:\r\n]|(?:d(?:a(?:t(?:a)?)?)?|e(?:v(?:e(?:n(?:t)?)?)?)?|i(?:d)?|r(?:e(?:t(?:r(?:y)?)?)?)?)\Z"
)
#: More comments than this, or a longer one, before the first event is no stream of events.
_MAX_BEFORE, _MAX_COMMENT = 64 * 1024, 4096


class PlainEvents:
    """
    Server-sent events that pass byte for byte.

    Three things are seen to: what does not begin like a stream of events is none, and comments before the first event
    wait for it; an error event, or a bare error document (which SSE clients would silently ignore), becomes
    :attr:`failure` and is not passed on; and a stream that ends without its last blank line gets one, because half of
    the clients lose the last event otherwise.
    """

    complete = False

    def __init__(self) -> None:
        self.failure: StreamFailure | None = None
        self._before: bytearray | None = bytearray()  # what came before the first event, until that begins
        self._line = b""  # of it, a line that is not whole
        self._held = bytearray()  # from a line's start on: perhaps an error
        self._brackets: _Brackets | None = None  # of what is held, once it does start like an error
        self._bare = False  # it is the first thing that came, so that it is an error or no answer
        self._tail = b"\n\n"  # the last bytes that passed; a stream starts as after a blank line

    def feed(self, chunk: bytes) -> bytes:
        if self.failure is not None:
            return b""
        passed: list[bytes] = []
        if self._before is not None:
            chunk = self._begin(chunk)
        if self._brackets is not None:
            sound, rest = self._judge(chunk)
            passed.append(sound)
        else:
            rest = bytes(self._held) + chunk if self._held else chunk
            self._held.clear()
        while rest:
            sound, suspect = self._split(rest)
            passed.append(self._pass(sound))
            if not suspect:
                break
            self._brackets = _Brackets()
            sound, rest = self._judge(suspect)
            passed.append(sound)
        return b"".join(passed)

    def close(self) -> bytes:
        if self._before is not None and self._line.lstrip(b":"):
            self._before = None
            if not self._line.startswith(b":"):
                self.failure = StreamFailure.not_googles("The upstream's answer is not an event stream.")
        if self._brackets is not None:
            self.failure = StreamFailure.of(502, "The upstream aborted the answer with an error that is cut short.")
        if self.failure is not None or self._before is not None:  # comments alone are no answer
            return b""
        rest = self._pass(bytes(self._held))
        self._held.clear()
        if _BLANK_LINE.search(self._tail):
            return rest
        eol = b"\n" if self._tail.endswith(b"\n") and not self._tail.endswith(b"\r\n") else b"\r\n"
        return rest + (eol if self._tail.endswith((b"\n", b"\r")) else eol + eol)

    def _begin(self, chunk: bytes) -> bytes:
        """Return what has arrived so far, once the first event or an error begins; nothing before."""
        assert self._before is not None
        line = self._line + chunk
        if line[:5] != b"data:":
            start = _BEFORE_EVENTS.match(line)
            assert start is not None, "it matches nothing, too"
            self._before += line[: start.end()]
            line = self._line = line[start.end() :]
            if b"\xef\xbb\xbf".startswith(line) or line[:1] == b":":
                if len(self._before) > _MAX_BEFORE or len(line) > _MAX_COMMENT:
                    self.failure = StreamFailure.not_googles("The upstream's answer is a stream of comments.")
                return b""
            if line[:1] in (b"{", b"["):
                self._brackets = _Brackets()
                self._before, self._line = None, b""
                self._bare = True
                return line
            begun = _FIELD_BEGUN.match(line)
            if begun is None:
                self.failure = StreamFailure.not_googles("The upstream's answer is not an event stream.")
                return b""
            if begun.end() == len(line) and line[-1:] not in b":\r\n":
                return b""
        whole = bytes(self._before) + line
        self._before, self._line = None, b""
        return whole

    def _split(self, data: bytes) -> tuple[bytes, bytes]:
        """Split `data` into what can pass and what starts like an error; hold what may yet start like one."""
        before = self._tail[-1:]  # tells whether `data` starts a line
        if data.find(b'"error"') >= 0:
            start = _ERROR_START.search(before + data)
            if start:
                cut = start.start() - 1
                return data[:cut], data[cut:]
        begun = _ERROR_START_BEGUN.search(before + data if len(data) < _LONGEST_START else data[-_LONGEST_START:])
        if begun:
            cut = len(data) - len(begun[0])
            self._held += data[cut:]
            return data[:cut], b""
        return data, b""

    def _judge(self, piece: bytes) -> tuple[bytes, bytes]:
        """
        Make a failure of what is held and `piece`, or wait for more of it, or let it go: what passes, and what comes
        behind it and has not been looked at.

        What has been looked at and was no error passes as a whole: were it searched for others, whoever sends many
        beginnings of errors would have each byte looked at as often.
        """
        assert self._brackets is not None
        end = self._brackets.feed(piece)
        if end is not None:
            end += len(self._held)
        self._held += piece
        if end is None and len(self._held) <= MAX_BARE:
            return b"", b""
        held = bytes(self._held)
        self._held.clear()
        self._brackets = None
        if end is None:
            end = len(held)
        error = envelope.error_document(_CONTINUED.sub(b"\n", held[:end].removeprefix(b"data:")))
        if error is None and self._bare:
            self.failure = StreamFailure.not_googles("The upstream's answer is a JSON document, not an event stream.")
            return b"", b""
        if error is None:
            return self._pass(held[:end]), held[end:]
        self.failure = StreamFailure.upstream(error)
        return b"", b""

    def _pass(self, data: bytes) -> bytes:
        self._tail = (self._tail + data[-4:])[-4:]
        return data


_ARRAY_OPENING = re.compile(
    rb"\s*(?:\[\s*(?:\]\s*|\{\s*%b)?|\{\s*%b)?\Z" % (_KEY_BEGUN, _KEY_BEGUN),
)
_ARRAY_ERROR_OPENING = re.compile(rb'\s*(?:\[\s*)?\{\s*"error"\s*:')
#: Not longer than :data:`_WINDOW`, so that it is found however the answer is cut.
_ARRAY_ERROR_ELEMENT = re.compile(rb'\n,\r?\n\s{0,24}\{\s{0,16}"error"\s{0,8}:')
_NOTHING = re.compile(rb"\s*(?:\[\s*\]?\s*)?")
_WINDOW = 64


class PlainArray:
    """
    A streamed JSON array that passes byte for byte, as Google frames it: elements separated by ``\\n,\\r\\n``.

    The opening is held until it is known not to be an error, bare or in the array, nor all there is: an array without
    elements is no answer.  A later error element passes, and sets :attr:`failure`, as does an array that is not closed:
    the client's connection is then aborted and never looks complete.

    :param redact: takes secrets out of an error element.
    """

    complete = False

    def __init__(self, redact: Callable[[bytes], bytes] = bytes) -> None:
        self._redact = redact
        self.failure: StreamFailure | None = None
        self._opening: bytearray | None = bytearray()
        self._is_error = False  # the opening is an error's
        self._brackets = _Brackets()
        self._closed = False
        self._window = b""

    def feed(self, chunk: bytes) -> bytes:
        if self.failure is not None:
            return b""
        if self._opening is None:
            return self._pass(chunk)
        self._opening += chunk
        if not self._is_error:
            if len(self._opening) <= _WINDOW and _ARRAY_OPENING.match(self._opening):
                return b""
            self._is_error = _ARRAY_ERROR_OPENING.match(self._opening, 0, _WINDOW + 1) is not None
            chunk = bytes(self._opening)
        if self._is_error:
            end = self._brackets.feed(chunk)
            if end is None and len(self._opening) <= MAX_BARE:
                return b""
            document = envelope.error_document(bytes(self._opening[: len(self._opening) - len(chunk) + (end or 0)]))
            if document is not None:
                self.failure = StreamFailure.upstream(document)
                return b""
        opening, self._opening, self._brackets = bytes(self._opening), None, _Brackets()
        if opening.lstrip()[:1] != b"[":
            self.failure = StreamFailure.not_googles("The upstream's answer is not a JSON array.")
            return b""
        return self._pass(opening)

    def close(self) -> bytes:
        if self.failure is None:
            if self._opening is not None:
                if not _NOTHING.fullmatch(self._opening):
                    self.failure = StreamFailure.of(502, "The upstream aborted the answer.")
            elif not self._closed:
                self.failure = StreamFailure.of(502, "The upstream's answer is not a whole array.")
        return b""

    def _pass(self, chunk: bytes) -> bytes:
        if not self._closed:
            self._closed = self._brackets.feed(chunk) is not None
        window = self._window + chunk
        if window.find(b'"error"') >= 0 and (error := _ARRAY_ERROR_ELEMENT.search(window)):
            self.failure = StreamFailure.of(502, "The upstream ended the answer with an error.")
            good = max(error.start() - len(self._window), 0)
            chunk = chunk[:good] + self._redact(chunk[good:])
        self._window = window[-_WINDOW:]
        return chunk


class EventPipe:
    """
    Server-sent events that are read one by one: unwrapped or edited by `change`, and framed again for the client.

    :param change: one event's JSON in, the client's JSON out.
    :param framing: what the client asked for.
    :param forward_done: whether an upstream's own ``[DONE]`` is passed on to an SSE client.
    :param end: gives the client's last events, and is told whether the upstream has sent ``[DONE]``, behind which no
        event counts then.  It may raise as `change` may.
    """

    def __init__(
        self,
        change: Transform,
        framing: Framing,
        *,
        forward_done: bool,
        end: Callable[[bool], Sequence[bytes]] | None = None,
    ) -> None:
        self.failure: StreamFailure | None = None
        self._change = change
        self._end = end
        #: Nothing more is read: its end has been seen.
        self._over = False
        self._array = framing is Framing.ARRAY
        self._forward_done = forward_done
        self._reader = EventReader()
        self._started = False
        #: Events were taken out of the answer.
        self._replaced = False
        self.complete = False

    def feed(self, chunk: bytes) -> bytes:
        if self.failure is not None or self.complete or self._over:
            return b""
        try:
            events = self._reader.feed(chunk)
        except EventTooLarge as e:
            return self._frame(e.events) + self._too_large(e)
        return self._frame(events) if events else b""

    def close(self) -> bytes:
        if self.failure is not None:
            return b""
        out = b"" if self.complete or self._over else self._rest()
        if self.failure is None and self._end is not None and not self.complete and not self._over:
            out += self._ending(done=False)
        if self.failure is None and self._replaced and not self._started:  # an answer of no events, and a whole one
            self.complete = True
            return out + b"[]" if self._array else out
        if self._array and self._started and self.failure is None:
            out += b"\n]"
        return out

    def _rest(self) -> bytes:
        """Return what the reader holds at the upstream's end."""
        try:
            end = self._reader.close()
        except EventTooLarge as e:
            return self._too_large(e)
        out = self._frame([end.data]) if end.data is not None else b""
        if end.bare is not None and self.failure is None:
            document = envelope.error_document(end.bare[: _Brackets().feed(end.bare)])
            self.failure = StreamFailure.upstream(document) if document is not None else self._not_events()
        return out

    def _not_events(self) -> StreamFailure:
        why = "The upstream's answer cannot be read: it is not an event stream."
        return StreamFailure.of(502, why) if self._started else StreamFailure.not_googles(why)

    def _too_large(self, why: EventTooLarge) -> bytes:
        if self.failure is None:  # an event before it may have been an error
            self.failure = StreamFailure.of(502, f"The upstream's answer cannot be read: {why}.")
        return b""

    def _frame(self, events: Sequence[bytes]) -> bytes:
        pieces: list[bytes] = []
        for event in events:
            if event[:1] != b"{":  # as all but a few begin
                bare = event.strip()
                if bare == b"[DONE]":
                    if self._end is not None:
                        pieces.append(self._ending(done=True))
                        break
                    if self._forward_done and not self._array:
                        pieces.append(b"data: [DONE]\r\n\r\n")
                    continue
                if not bare:
                    continue
            try:
                document = envelope.one_line(self._change(event))
            except EventsReplaced as e:
                self._replaced, self.complete = True, e.ends
                for document in e.documents:
                    self._put(pieces, document)
                if e.ends:
                    break
                continue
            except (envelope.UpstreamError, envelope.NotAnEnvelope, GatewayError, *NOT_JSON) as e:
                self.failure = _failure_of(e)
                break
            if self._array:
                self._put(pieces, document)
            else:  # a call an event is a percent of it
                pieces += (b"data: ", document, b"\r\n\r\n")
                self._started = True
        return b"".join(pieces)

    def _put(self, pieces: list[bytes], document: bytes) -> None:
        """Frame a document."""
        if self._array:
            pieces += (b"\n,\r\n" if self._started else b"[", document)
        else:
            pieces += (b"data: ", document, b"\r\n\r\n")
        self._started = True

    def _ending(self, *, done: bool) -> bytes:
        """Return the client's last events."""
        assert self._end is not None
        self._over = self._replaced = True
        pieces: list[bytes] = []
        try:
            for document in self._end(done):
                self._put(pieces, document)
        except (envelope.UpstreamError, envelope.NotAnEnvelope, GatewayError, *NOT_JSON) as e:
            self.failure = _failure_of(e)
        return b"".join(pieces)


def _failure_of(error: Exception) -> StreamFailure:
    """Say what an event that cannot be passed on means for the answer."""
    match error:
        case envelope.UpstreamError():
            return StreamFailure.upstream(error.document, error.original)
        case GatewayError():
            return StreamFailure.ours(error)
    return StreamFailure.of(502, f"An event of the upstream cannot be read: {_why(error)}.")


class WatchedFilter:
    """A filter whose output is watched for usage: what the client gets tells it, where plugins edit the answer."""

    def __init__(self, inner: AnswerFilter, watch: UsageWatch) -> None:
        self._inner = inner
        self.watch = watch

    @property
    def failure(self) -> StreamFailure | None:
        return self._inner.failure

    @property
    def complete(self) -> bool:
        return self._inner.complete

    def feed(self, chunk: bytes) -> bytes:
        out = self._inner.feed(chunk)
        if out:
            self.watch.feed(out)
        return out

    def close(self) -> bytes:
        out = self._inner.close()
        if out:
            self.watch.feed(out)
        return out


def plain_event(document: bytes) -> bytes:
    """
    Return an event of an upstream that wraps nothing, checked.

    :raises UpstreamError: if it is an error.
    :raises NotAnEnvelope: if it is not JSON.
    """
    error = envelope.error_document(document)
    if error is not None:
        raise envelope.UpstreamError(error)
    try:
        msgspec.json.decode(undense(document), type=msgspec.Raw)
    except NOT_JSON:
        raise envelope.NotAnEnvelope("not JSON") from None
    return document


def _why(error: Exception) -> str:
    """Explain why a document cannot be read, without any of its text."""
    return str(error) if isinstance(error, envelope.NotAnEnvelope) else "not JSON"

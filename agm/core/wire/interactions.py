"""
The Interactions API as far as a gateway has to read it: what a creation asks for, its streams, and its errors.

A creation names its model or its agent in its body.  A stream is server-sent events with names, each with its
``event_type`` in its data, and ends with ``event: done`` and ``data: [DONE]``; an error in it is an event of its own.
An error's code is a word, where google.rpc.Status has a number.  Nothing is sent from here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from agm.core import ownership
from agm.core.documents import undense
from agm.core.errors import NOT_JSON, GatewayError
from agm.core.wire import envelope
from agm.core.wire.answer_filters import EventsReplaced, StreamFailure, Transform
from agm.core.wire.sse import MAX_BARE, EventReader, EventTooLarge

#: The word that stands for an HTTP status in an error of this API.
_WORD_OF = {status: word for word, status in envelope.STATUS_OF_WORD.items() if word != "resource_exhausted"}
#: An answer's first event is looked at whole up to so many bytes.
MAX_FIRST = 1024 * 1024

#: In so many bytes of a document its id is looked for before it is whole.
MAX_ID = 4096
_FIRST_ID = re.compile(rb'\s*\{[^{}\[\]]*?"id"\s*:\s*"([A-Za-z0-9._~-]{1,256})"')

#: What starts a line and may be an error: it is held until it is whole.
_SUSPECT = re.compile(rb'(?<=[\r\n])(?:event: ?error[\r\n]|data: ?\{"error"|\{)')
_SUSPECTS = (b"event: error\n", b"event:error\n", b'data: {"error"', b'data:{"error"')
_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\r?\n|\r\r")
#: The marks of an event that tells what an account has got.
_TELLS = re.compile(rb'"(?:interaction|environment_id|uri)"')


class Creation(msgspec.Struct):
    """What the body of a creation says, as far as the gateway has to know; each may be anything."""

    model: Any = None
    agent: Any = None
    stream: Any = None
    store: Any = None

    @property
    def asks(self) -> str:
        """The model or the agent, without a prefix; "" where there is none."""
        named = self.model if isinstance(self.model, str) and self.model else self.agent
        return named.removeprefix("models/").removeprefix("agents/") if isinstance(named, str) else ""


_CREATION = msgspec.json.Decoder(Creation)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_creation(body: bytes) -> Creation | None:
    """Return what a creation asks for; None for what is no strict JSON."""
    try:
        return _CREATION.decode(undense(body))
    except NOT_JSON:
        return None


def with_model(body: bytes, model: str) -> bytes:
    """Return a creation for another model, all else as it was sent; `body` is what :func:`read_creation` reads."""
    fields = _FIELDS.decode(body)
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + bytes(value) for name, value in fields.items()) + b"}"


def first_id(document: bytes) -> str | None:
    """Return the id of an answer of which only the beginning has come; None where it does not stand before any list."""
    found = _FIRST_ID.match(document[:MAX_ID])
    return None if found is None else found[1].decode("ascii")


def error_event(failure: StreamFailure) -> bytes:
    """Return the last event of a stream that breaks off, in the form of this API."""
    try:
        error = msgspec.json.decode(failure.document)["error"]
        message, code = str(error["message"]), error["code"]
    except (*NOT_JSON, KeyError, TypeError):
        message, code = "The upstream aborted the answer.", failure.code
    word = code if isinstance(code, str) else _WORD_OF.get(failure.code, "internal_error")
    data = msgspec.json.encode({"error": {"message": message, "code": word}, "event_type": "error"})
    return b"event: error\ndata: " + data + b"\n\n"


def names_in_event(data: bytes) -> Iterator[str]:
    """The owned resources that an event's data tells of: the interaction, its environment, files that were made."""
    if not _TELLS.search(data):
        return
    try:
        event = msgspec.json.decode(data)
    except NOT_JSON:
        return
    if isinstance(event, dict):
        if isinstance(event.get("interaction"), dict):
            yield from ownership.ids_told("interactions", event["interaction"])
        yield from ownership.made_in(event.get("delta"))


def _error_in(data: bytes) -> bytes | None:
    """Return the document of an event that is an error."""
    if b'"error"' not in data:
        return None
    return envelope.error_document(data)


class NamedEvents:
    """
    Server-sent events with names that pass byte for byte.

    The first one is looked at before it passes: an error in its place is a :attr:`failure`, for which another account
    may be asked.  A later error passes as it came, without secrets, and sets :attr:`reported`; a bare document, which
    no client of this API reads, is a failure.

    :param note: is shown each event's data before it passes.
    :param redact: takes secrets out of an error.
    """

    complete = False

    def __init__(self, note: Callable[[bytes], None], redact: Callable[[bytes], bytes] = bytes) -> None:
        self.failure: StreamFailure | None = None
        self.reported = False
        self._note = note
        self._redact = redact
        self._reader = EventReader()
        self._first: bytearray | None = bytearray()  # until the first event is whole
        self._held = bytearray()  # from a line's start on: perhaps an error
        self._tail = b"\n"

    def feed(self, chunk: bytes) -> bytes:
        if self.failure is not None:
            return b""
        try:
            events = self._reader.feed(chunk)
        except EventTooLarge as e:
            self.failure = StreamFailure.of(502, f"The upstream's answer cannot be read: {e}.")
            return b""
        if self._first is not None:
            self._first += chunk
            if not self._begin(events):
                return b""
            chunk, self._first = bytes(self._first), None
        for data in events:
            self._note(data)
            self.reported = self.reported or _error_in(data) is not None
        return self._pass(chunk)

    def close(self) -> bytes:
        if self.failure is not None:
            return b""
        end = self._reader.close()
        if self._first is not None:
            if end.data is not None:
                begun = self._begin([end.data])
            else:
                begun = False
                document = None if end.bare is None else envelope.error_document(end.bare)
                if document is not None:
                    self.failure = StreamFailure.upstream(document)
                elif bytes(self._first).strip():
                    self.failure = StreamFailure.not_googles("The upstream's answer is not an event stream.")
                else:  # it may have been acted on all the same
                    self.failure = StreamFailure.of(502, "The upstream's answer is empty.")
            if not begun:
                return b""
            whole, self._first = bytes(self._first), None
            return self._ended(self._pass(whole), end.data)
        if end.bare is not None:
            document = envelope.error_document(end.bare)
            if document is not None:
                self.failure = StreamFailure.upstream(document)
                return b""
        return self._ended(b"", end.data)

    def _begin(self, events: list[bytes]) -> bool:
        """Return whether the answer has begun as one: with an event that is no error."""
        assert self._first is not None
        if not events:
            start = bytes(self._first[:64]).lstrip(b"\xef\xbb\xbf\r\n\t ")
            if start[:1] not in (b"", b"e", b"d", b"i", b"r", b":", b"{", b"[") or len(self._first) > MAX_FIRST:
                self.failure = StreamFailure.not_googles("The upstream's answer is not an event stream.")
            return False
        error = _error_in(events[0])
        if error is not None:
            self.failure = StreamFailure.upstream(error)
        return error is None

    def _ended(self, passed: bytes, data: bytes | None) -> bytes:
        """Return what passes at the end, with a blank line behind the last event."""
        if data is not None:
            self._note(data)
            self.reported = self.reported or _error_in(data) is not None
        held, self._held = bytes(self._held), bytearray()
        out = passed + (self._redact(held) if held else b"")
        if data is None:
            return out
        return out + (b"\n" if (out or self._tail)[-1:] in (b"\r", b"\n") else b"\n\n")

    def _pass(self, chunk: bytes) -> bytes:
        """Return what of a chunk can pass now, behind what is held."""
        data = bytes(self._held) + chunk
        self._held.clear()
        out: list[bytes] = []
        while data:
            found = _SUSPECT.search(self._tail + data)
            if found is None:
                line = data[max(data.rfind(b"\n"), data.rfind(b"\r")) + 1 :]
                starts = len(line) < len(data) or self._tail in (b"\r", b"\n")
                begun = starts and line and any(suspect.startswith(line) for suspect in _SUSPECTS)
                cut = len(data) - len(line) if begun else len(data)
                self._held += data[cut:]
                self._add(out, data[:cut])
                break
            self._add(out, data[: found.start() - 1])
            data = data[found.start() - 1 :]
            end = _BLANK_LINE.search(data) if data[:1] != b"{" else None
            if end is None:
                self._held += data
                if len(self._held) > MAX_BARE:
                    self.failure = StreamFailure.of(502, "The upstream's answer cannot be read: an error is too large.")
                break
            self._add(out, self._redact(data[: end.end()]))
            data = data[end.end() :]
        return b"".join(out)

    def _add(self, out: list[bytes], data: bytes) -> None:
        if data:
            out.append(data)
            self._tail = data[-1:]


class EditedEvents:
    """
    Server-sent events with names, whose data a plugin edits: read one by one and framed again.

    :param change: one event's JSON in, one event's JSON out.
    :param note: is shown each event's data as it came.
    """

    def __init__(self, change: Transform, note: Callable[[bytes], None]) -> None:
        self.failure: StreamFailure | None = None
        self.reported = False
        self._change = change
        self._note = note
        self._reader = EventReader()
        self._begun = False
        self._replaced = False
        self._ended = False
        self.complete = False

    def feed(self, chunk: bytes) -> bytes:
        if self.failure is not None or self.complete:
            return b""
        try:
            return self._frame(self._reader.feed(chunk))
        except EventTooLarge as e:
            out = self._frame(list(e.events))
            self.failure = self.failure or StreamFailure.of(502, f"The upstream's answer cannot be read: {e}.")
            return out

    def close(self) -> bytes:
        if self.failure is not None:
            return b""
        if self.complete:  # a plugin has ended it, as an upstream does
            return b"" if self._ended else _DONE
        end = self._reader.close()
        out = self._frame([] if end.data is None else [end.data])
        if self.failure is None and self._replaced and end.bare is None:
            self.complete = True
            return out
        if self.failure is None and end.bare is not None:
            document = envelope.error_document(end.bare)
            why = "The upstream's answer cannot be read: it is not an event stream."
            self.failure = StreamFailure.of(502, why) if document is None else StreamFailure.upstream(document)
        elif self.failure is None and not self._begun:
            self.failure = StreamFailure.of(502, "The upstream's answer is empty.")
        return out

    def _changed(self, data: bytes) -> Sequence[bytes]:
        """Return what comes in an event's place; `complete` says whether it is the end."""
        try:
            return (envelope.one_line(self._change(data)),)
        except EventsReplaced as e:
            self._replaced, self.complete = True, e.ends
            return e.documents

    def _frame(self, events: list[bytes]) -> bytes:
        out: list[bytes] = []
        for data in events:
            if data.strip() == b"[DONE]":
                self._ended = True
                out.append(_DONE)
                continue
            error = _error_in(data)
            if error is not None and not self._begun:
                self.failure = StreamFailure.upstream(error)
                break
            self._note(data)
            self.reported = self.reported or error is not None
            try:
                documents = self._changed(data)
                kinds = [_kind(document) for document in documents]
            except GatewayError as e:
                self.failure = StreamFailure.ours(e)
                break
            except NOT_JSON:
                self.failure = StreamFailure.of(502, "An event of the upstream cannot be read: not JSON.")
                break
            self._begun = True
            for kind, document in zip(kinds, documents, strict=True):
                out.append(b"event: %b\ndata: %b\n\n" % (kind, document))
            if self.complete:
                break
        return b"".join(out)


#: How a stream of these ends.
_DONE = b"event: done\ndata: [DONE]\n\n"


def _kind(document: bytes) -> bytes:
    """Return the name of an event.  :raises msgspec.DecodeError: if it is none."""
    return msgspec.json.decode(document, type=_Kind).event_type.encode()


class _Kind(msgspec.Struct):
    event_type: str = "message"

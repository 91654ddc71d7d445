"""
What a client sends, as HTTP/1.1: bytes in, a head, pieces of a body and an end out.

It is strict, as RFC 9112 allows a server to be: what two readers could take for different requests is refused, never
repaired.  A line ends with CR LF; a name is a token directly before its colon; a line that continues another is no
line; a body has one length or is chunked, never both; ``chunked`` is the only transfer coding.  Nothing of the next
request is looked at before it is asked for.

>>> reader = RequestReader(max_head=32768, max_lines=100)
>>> reader.feed(b"POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 2\\r\\n\\r\\nhi")
>>> reader.next().method, reader.next(), reader.next() is END, reader.next()
(b'POST', b'hi', True, None)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, final

#: Bytes of a chunk's line, extensions included.
MAX_CHUNK_LINE = 256
#: Empty lines that may come before a request: RFC 9112, section 2.2.
MAX_BLANK_LINES = 2

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"{1,32}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb"+:[\t\x20-\x7e\x80-\xff]*\r\n)*")
_BARE = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\x00")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_LENGTH_LINE = re.compile(rb"\r\ncontent-length:[\t ]*([0-9]+)[\t ]*\r\n", re.IGNORECASE)
#: No white space before a semicolon, which RFC 9112, section 7.1.1, calls bad: only who tries two readers sends it.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
#: RFC 9110, section 6.5.1: what frames or routes a message never stands behind it.
_NOT_A_TRAILER = frozenset({b"content-length", b"transfer-encoding", b"host", b"trailer"})


class Malformed(Exception):
    """
    The bytes are not a request that is taken.

    :ivar status: the HTTP status that says so: 400, 417, 431, 501 or 505.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@final
class Head:
    """
    A request's line and fields.

    :ivar method: as it was sent.
    :ivar target: as it was sent: visible ASCII only.
    :ivar version: ``HTTP/1.1`` or ``HTTP/1.0``.
    :ivar fields: names in lower case with their values, in order.
    :ivar length: the body's, in bytes; None if it is chunked.
    :ivar keep_alive: whether another request may follow.
    :ivar expects: whether the client waits for ``100 Continue``.
    :ivar found: what readers have found out about this head.  One that is alike but for the length of the body shares
        it: what is put here must not depend on that length, nor hold the head.
    """

    __slots__ = ("expects", "fields", "first", "found", "keep_alive", "length", "method", "target", "version")

    def __init__(self, method: bytes, target: bytes, version: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields
        #: The first value of each field.
        self.first: dict[bytes, bytes] = dict(fields) if len(fields) < 2 else dict(reversed(fields))
        self.length: int | None = 0
        self.keep_alive = version == b"HTTP/1.1"
        self.expects = False
        self.found: dict[object, Any] = {}

    def values(self, name: bytes) -> Sequence[bytes]:
        """All values of a field; `name` in lower case."""
        return [value for key, value in self.fields if key == name]


class _Known:
    """A head that has come, to know the next one by: as a rule a client's requests differ in their length alone."""

    __slots__ = ("_before", "_behind", "head")

    def __init__(self, raw: bytes, head: Head) -> None:
        self.head = head
        length = _LENGTH_LINE.search(raw)
        self._before, self._behind = (raw, b"") if length is None else (raw[: length.start(1)], raw[length.end(1) :])

    def again(self, raw: bytes) -> Head | None:
        """Return the head that these bytes are, if they differ from the former ones in the length of the body alone."""
        before, behind, known = self._before, self._behind, self.head
        if not behind:
            return known if raw == before else None
        if not raw.startswith(before) or not raw.endswith(behind):
            return None
        digits = raw[len(before) : -len(behind)]
        if digits == known.first[b"content-length"]:
            return known
        if _DIGITS.fullmatch(digits) is None:
            return None
        fields = [(name, digits if name == b"content-length" else value) for name, value in known.fields]
        head = Head(known.method, known.target, known.version, fields)
        head.keep_alive, head.found = known.keep_alive, known.found
        head.length = int(digits)
        return head


@final
class End:
    """The request is complete."""


END: Final = End()

#: What is read next: a head; the rest of a body with a length; the size of a chunk, its data, its end; trailers;
#: nothing more of this request.
_HEAD, _BODY, _SIZE, _DATA, _DATA_END, _TRAILERS, _ENDED = range(7)


class RequestReader:
    """
    Reads one request after another.

    :param max_head: bytes of the request's line and fields together.
    :param max_lines: how many fields.
    """

    def __init__(self, max_head: int, max_lines: int) -> None:
        self._max_head = max_head
        self._max_lines = max_lines
        self._buffer: bytes | bytearray = b""
        self._state = _HEAD
        self._searched = 0
        self._left = 0
        self._overhead = 0
        self._blank = 0
        self._known: _Known | None = None

    @property
    def buffered(self) -> int:
        """How many bytes have been fed and not been read."""
        return len(self._buffer)

    @property
    def between(self) -> bool:
        """Whether no byte of a request has come since the last one ended."""
        return self._state == _HEAD and not self._buffer

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        if not self._buffer:
            self._buffer = data
        else:
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(self._buffer)
            self._buffer += data

    def next(self) -> Head | bytes | End | None:
        """
        Return the next part: a :class:`Head`, pieces of the body, :data:`END`; None if more bytes are needed first.

        :raises Malformed: once and for all; nothing more may be read from this client.
        """
        state = self._state
        if state == _HEAD:
            return self._head()
        if state == _BODY:
            return self._body()
        if state != _ENDED:
            data = self._chunks()
            if data or self._state != _ENDED:
                return data
        self._state = _HEAD
        return END

    def rest(self) -> bytes | None:
        """
        The body of the request whose head was read last, if all of it is here: the request is then complete.

        :returns: None for one that has to be read with :meth:`next`, piece by piece.
        """
        if self._state != _BODY or len(self._buffer) < self._left:
            return None
        data = self._body()
        self._state = _HEAD
        return data

    def take_rest(self) -> bytes:
        """Hand over what has been fed and not been read: the connection is no request's any more."""
        rest, self._buffer = bytes(self._buffer), b""
        return rest

    def _head(self) -> Head | None:
        buffer = self._buffer
        if not buffer:
            return None
        while buffer[:1] in (b"\r", b"\n"):
            if buffer[:2] != b"\r\n":
                if buffer == b"\r":
                    return None
                raise Malformed("A line does not end with CR LF.")
            self._blank += 1
            if self._blank > MAX_BLANK_LINES:
                raise Malformed("There are empty lines before the request.")
            buffer = self._buffer = buffer[2:]
            self._searched = 0
        end = buffer.find(b"\r\n\r\n", self._searched)
        if end > self._max_head or (end < 0 and len(buffer) > self._max_head):
            raise Malformed(f"The request's head is larger than {self._max_head} bytes.", 431)
        if end < 0:
            if _BARE.search(buffer, max(self._searched - 1, 0)) is not None:
                raise Malformed("A line does not end with CR LF, or the head holds a NUL.")
            self._searched = max(len(buffer) - 3, 0)
            return None
        raw = bytes(buffer[: end + 2])
        self._buffer = buffer[end + 4 :]
        self._searched = self._blank = self._overhead = 0
        head = None if self._known is None else self._known.again(raw)
        if head is None:
            head = self._parsed(raw)
            head.length = _length(head)
            # what a client waits for is looked at each time
            self._known = None if b"expect" in head.first else _Known(raw, head)
        if head.length is None:
            self._state = _SIZE
        else:
            self._left = head.length
            self._state = _BODY if head.length else _ENDED
        return head

    def _parsed(self, raw: bytes) -> Head:
        line, _, rest = raw.partition(b"\r\n")
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise Malformed("The request's first line is not METHOD TARGET HTTP/1.1.")
        method, target, major, minor = match.groups()
        if major != b"1":
            raise Malformed("The request is not HTTP/1.", 505)
        fields = _fields(rest, self._max_lines)
        head = Head(method, target, b"HTTP/1.0" if minor == b"0" else b"HTTP/1.1", fields)
        if b"connection" in head.first and b"close" in _listed(head.values(b"connection")):
            head.keep_alive = False
        return head

    def _body(self) -> bytes | None:
        buffer, left = self._buffer, self._left
        if not buffer:
            return None
        if len(buffer) <= left:
            data = bytes(buffer)
            self._buffer = b""
        else:
            data = bytes(buffer[:left])
            self._buffer = buffer[left:]
        self._left = left - len(data)
        if not self._left:
            self._state = _ENDED
        return data

    def _chunks(self) -> bytes | None:
        """Return the data of the chunks that have arrived, in one piece; None if there are none."""
        pieces: list[bytes] = []
        buffer, at = bytes(self._buffer), 0
        while self._state != _ENDED:
            if self._state == _DATA:
                piece = buffer[at : at + self._left]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
            elif self._state == _DATA_END:
                ending = buffer[at : at + 2]
                if ending != b"\r\n"[: len(ending)]:
                    raise Malformed("A chunk is longer than it says.")
                if len(ending) < 2:
                    break
                at += 2
                self._state = _SIZE
            elif self._state == _SIZE:
                end = buffer.find(b"\r\n", at, at + MAX_CHUNK_LINE)
                match = None if end < 0 else _CHUNK_LINE.fullmatch(buffer, at, end)
                if match is None:
                    if end >= 0 or len(buffer) - at >= MAX_CHUNK_LINE or _BARE.search(buffer, at) is not None:
                        raise Malformed("The size of a chunk cannot be read.")
                    break
                self._count(end - match.end(1))
                self._left = int(match[1], 16)
                at = end + 2
                self._state = _DATA if self._left else _TRAILERS
            else:
                none = buffer.startswith(b"\r\n", at)
                searched = max(at, at + self._searched - 3)  # each byte is looked at once, however slowly they come
                end = at - 2 if none else buffer.find(b"\r\n\r\n", searched)
                if end < 0 and not none:
                    if len(buffer) - at > self._max_head:
                        raise Malformed(f"The trailers are larger than {self._max_head} bytes.", 431)
                    if _BARE.search(buffer, searched) is not None:
                        raise Malformed("A line of the trailers does not end with CR LF.")
                    self._searched = len(buffer) - at
                    break
                self._count(end + 2 - at)
                self._searched = 0
                if any(name in _NOT_A_TRAILER for name, _ in _fields(buffer[at : end + 2], self._max_lines)):
                    raise Malformed("A trailer cannot frame or route the request.")
                at = end + 4
                self._state = _ENDED
        self._buffer = buffer[at:]
        return b"".join(pieces) if pieces else None

    def _count(self, overhead: int) -> None:
        self._overhead += overhead
        if self._overhead > self._max_head:
            raise Malformed(f"The chunks have more than {self._max_head} bytes of extensions and trailers.", 431)


def _fields(raw: bytes, most: int) -> list[tuple[bytes, bytes]]:
    """The fields of lines that each end with CR LF: names in lower case, values without white space around them."""
    if _FIELDS.fullmatch(raw) is None:
        raise Malformed("A header is not NAME: VALUE, or holds a control character.")
    found = []
    for line in raw.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            found.append((name.lower(), value.strip(b" \t")))
    if len(found) > most:
        raise Malformed(f"The request has more than {most} headers.", 431)
    return found


def _length(head: Head) -> int | None:
    """The length of the body, None if it is chunked: RFC 9112, section 6.3, without what it lets a server repair."""
    first = head.first
    length: int | None = 0
    if b"transfer-encoding" in first:
        if b"content-length" in first:
            raise Malformed("A request has a Content-Length or a Transfer-Encoding, not both.")
        if head.version != b"HTTP/1.1":
            raise Malformed("HTTP/1.0 has no Transfer-Encoding.")
        codings = _listed(head.values(b"transfer-encoding"))
        if codings != [b"chunked"]:
            unknown = [coding for coding in codings if coding != b"chunked"]
            raise Malformed("The only Transfer-Encoding that is taken is chunked, once.", 501 if unknown else 400)
        length = None
    elif b"content-length" in first:
        lengths = head.values(b"content-length")
        if len(lengths) != 1 or _DIGITS.fullmatch(lengths[0]) is None:
            raise Malformed("The Content-Length is not one number.")
        length = int(lengths[0])
    if b"expect" in first and head.version == b"HTTP/1.1":
        if _listed(head.values(b"expect")) != [b"100-continue"]:
            raise Malformed("The only expectation that is met is 100-continue.", 417)
        head.expects = length != 0
    return length


def _listed(values: Sequence[bytes]) -> list[bytes]:
    """Return the members of a comma-separated list that may be spread over several fields, in lower case."""
    return [member.strip(b" \t").lower() for value in values for member in value.split(b",")]

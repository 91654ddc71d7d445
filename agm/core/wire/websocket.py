"""
WebSocket (RFC 6455) without I/O: frames in, and out again as they came.

A relay forwards: what has come of a data frame goes on at once, whole or not, with its opcode, its fragmentation and
its mask.  A client's payload is masked with the client's key, and so it may stay, because the next hop is from a client
to a server, too.  So :class:`FrameReader` checks frames and cuts the bytes that pass from the control frames, which
belong to this hop; nothing is unmasked or copied.  Whoever has to read messages gives it a :class:`Collector`.

What is refused, and with which close code: a reserved bit or opcode, a control frame that is fragmented or too long, a
length that is not written in its shortest form, a mask where there must be none and the other way round, a message
inside another (1002); a message larger than the limit (1009); text that is not UTF-8, where it is read (1007).  No
extension is spoken.

>>> reader = FrameReader(masked=False)
>>> reader.feed(b"\\x81\\x02hi\\x89\\x00\\x82\\x05bi")
[b'\\x81\\x02hi', Control(opcode=9, payload=b''), b'\\x82\\x05bi']
>>> reader.mid_frame
True
"""

from __future__ import annotations

import codecs
from base64 import b64encode
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Mapping, Sequence
from hashlib import sha1
from typing import Any, Final, Protocol, final

import attrs

#: Opcodes: RFC 6455, section 5.2.
CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2
CLOSE, PING, PONG = 0x8, 0x9, 0xA
_FIN = 0x80
#: The largest payload of a control frame, and the largest reason of a close frame, in bytes.
MAX_CONTROL = 125
MAX_REASON = MAX_CONTROL - 2

#: Close codes: RFC 6455, section 7.4.1, and the registry of IANA.
NORMAL, GOING_AWAY, PROTOCOL_ERROR, INVALID_DATA, POLICY, TOO_BIG, INTERNAL_ERROR = (
    *(1000, 1001, 1002, 1007, 1008, 1009, 1011),
)
#: Those of the registry that may stand in a frame; 1005, 1006 and 1015 are for what no frame has said.
_KNOWN_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Violation(Exception):
    """The peer has broken the protocol, or a limit; `code` is what the connection is closed with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@attrs.frozen
class Control:
    """A control frame; its payload is unmasked."""

    opcode: int
    payload: bytes


@final
class MessageEnd:
    """Stands behind the last bytes of a message, where a reader was asked to tell."""

    def __repr__(self) -> str:
        return "END"


END: Final = MessageEnd()

Event = bytes | Control | MessageEnd


class PieceObserver(Protocol):
    """Is shown the payloads of data frames, piece by piece."""

    def piece(self, data: bytes, start: int, end: int, frame: FrameReader, *, last: bool) -> None:
        """
        ``data[start:end]`` is the next piece of a message's payload, masked with ``frame.mask`` from ``frame.at`` on.

        :param last: whether the message ends with it.
        :raises Violation: if it cannot be what it claims to be.
        """


@final
class FrameReader:
    """
    Reads the frames of one direction.

    :param masked: whether they have to be masked: a client's have, a server's must not.
    :param max_message: the payload of a message, in bytes; a larger one is refused, with as little of it as is known.
    :param observer: is shown the payloads of data frames.
    :ivar split: whether :data:`END` is put behind each message.
    :ivar opcode: of the message that is being read, :data:`TEXT` or :data:`BINARY`.
    :ivar mask: the key of the frame that is being read; empty if it is not masked.
    :ivar at: how much of the frame's payload has been read.
    :ivar closed: a close frame has come; what follows it is thrown away.
    """

    __slots__ = (
        "_final",
        "_held",
        "_left",
        "_masked",
        "_max",
        "_size",
        "at",
        "closed",
        "mask",
        "messages",
        "mid_message",
        "observer",
        "opcode",
        "split",
    )

    def __init__(self, *, masked: bool, max_message: int = 2**63, observer: PieceObserver | None = None) -> None:
        self._masked = masked
        self._max = max_message
        self.observer = observer
        self.split = False
        #: What has come of a header, or of a control frame, that is not complete.
        self._held = b""
        #: How much of the frame's payload is yet to come; whether it is the last frame of its message.
        self._left = 0
        self._final = True
        self._size = 0
        self.opcode = TEXT
        self.mask = b""
        self.at = 0
        #: Whether a message has begun and not ended, and how many have ended.
        self.mid_message = False
        self.messages = 0
        self.closed = False

    @property
    def mid_frame(self) -> bool:
        """Whether the bytes that were passed last end inside of a frame, so that nothing else may follow them."""
        return self._left > 0

    @property
    def held(self) -> int:
        """How many bytes are kept here."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Event]:
        """
        Return what the next bytes hold: data frames as they are, as far as they have come, and control frames.

        :raises Violation: once and for all; what the bytes held before it is lost.
        """
        if self.closed:
            return []
        if self._held:
            data = self._held + data
            self._held = b""
        events: list[Event] = []
        begin = at = 0  # of what passes; of what is read next
        size = len(data)
        while at < size:
            if self._left:
                end = min(at + self._left, size)
                self._left -= end - at
                self._passed(data, at, end)
                at = end
            elif data[at] & CLOSE:  # the highest bit of an opcode: a control frame
                control, end = self._control(data, at)
                if control is None:
                    break
                if begin < at:
                    events.append(data[begin:at])
                events.append(control)
                if control.opcode == CLOSE:
                    self.closed = True
                    return events
                begin = at = end
                continue
            else:
                end = self._header(data, at)
                if not end:
                    break
                at = end
                if self._left:
                    continue
                self._passed(data, at, at)
            if self.split and not self._left and self._final:
                events += (data[begin:at], END)
                begin = at
        if begin < at:
            events.append(data[begin:at] if begin or at < size else data)
        if at < size:
            self._held = data[at:]
        return events

    def _check(self, first: int, second: int) -> None:
        if first & 0x70:
            raise Violation(PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed on")
        if bool(second & 0x80) is not self._masked:
            raise Violation(PROTOCOL_ERROR, "a frame is not masked" if self._masked else "a frame is masked")

    def _control(self, data: bytes, at: int) -> tuple[Control | None, int]:
        """Read the control frame at `at`; return it and where it ends, None if it has not come whole."""
        if len(data) - at < 2:
            return None, at
        first, second = data[at], data[at + 1]
        self._check(first, second)
        opcode, length = first & 0x0F, second & 0x7F
        if opcode > PONG:
            raise Violation(PROTOCOL_ERROR, f"there is no opcode {opcode}")
        if not first & _FIN or length > MAX_CONTROL:
            raise Violation(PROTOCOL_ERROR, "a control frame is fragmented, or longer than 125 bytes")
        end = at + 2 + length + (4 if self._masked else 0)
        if end > len(data):
            return None, at
        payload = data[at + 2 : end]
        if self._masked:
            payload = unmasked(payload[4:], payload[:4])
        return Control(opcode, payload), end

    def _header(self, data: bytes, at: int) -> int:
        """Read the header of the data frame at `at`; return where its payload begins, 0 if it has not come whole."""
        size = len(data)
        if size - at < 2:
            return 0
        first, second = data[at], data[at + 1]
        self._check(first, second)
        opcode, length = first & 0x0F, second & 0x7F
        if opcode > BINARY:
            raise Violation(PROTOCOL_ERROR, f"there is no opcode {opcode}")
        if (opcode == CONTINUATION) is not self.mid_message:
            what = "a message begins inside of another" if self.mid_message else "a frame continues no message"
            raise Violation(PROTOCOL_ERROR, what)
        at += 2
        if length > MAX_CONTROL:
            digits = 2 if length == 126 else 8
            if size - at < digits:
                return 0
            length = int.from_bytes(data[at : at + digits], "big")
            at += digits
            if length >> 63 or length <= (MAX_CONTROL if digits == 2 else 0xFFFF):
                raise Violation(PROTOCOL_ERROR, "a frame's length is not written in its shortest form")
        before = self._size if opcode == CONTINUATION else 0
        if before + length > self._max:
            raise Violation(TOO_BIG, f"a message is larger than {self._max} bytes")
        if self._masked:
            if size - at < 4:
                return 0
            self.mask = data[at : at + 4]
            at += 4
        if opcode != CONTINUATION:
            self.opcode = opcode
        self._size = before + length
        self._left, self._final = length, bool(first & _FIN)
        self.mid_message = True
        self.at = 0
        return at

    def _passed(self, data: bytes, start: int, end: int) -> None:
        """A piece of a payload has come."""
        last = not self._left and self._final
        if self.observer is not None:
            self.observer.piece(data, start, end, self, last=last)
        self.at += end - start
        if last:
            self.mid_message = False
            self.messages += 1


class Collector:
    """
    Puts messages together, and sees to it that text is UTF-8.

    Nothing here limits what is kept: the reader does.

    :ivar complete: the messages that have come, each with its opcode, until somebody takes them out.
    """

    __slots__ = ("_decoder", "_pieces", "complete")

    def __init__(self) -> None:
        self.complete: list[tuple[int, bytes]] = []
        self._pieces: list[bytes] = []
        self._decoder: Any = None

    def piece(self, data: bytes, start: int, end: int, frame: FrameReader, *, last: bool) -> None:
        """Keep a piece; see :class:`PieceObserver`."""
        piece = data[start:end]
        if frame.mask:
            piece = unmasked(piece, frame.mask, frame.at)
        if frame.opcode == TEXT:
            if self._decoder is None:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
            try:
                self._decoder.decode(piece, last)
            except UnicodeDecodeError:
                raise Violation(INVALID_DATA, "a text message is not UTF-8") from None
        self._pieces.append(piece)
        if last:
            self.complete.append((frame.opcode, b"".join(self._pieces)))
            self._pieces = []
            self._decoder = None


def unmasked(payload: bytes, mask: bytes, at: int = 0) -> bytes:
    """
    Return a payload without its mask, or with it: that is the same.

    :param at: where in its frame the payload begins.
    """
    size = len(payload)
    if not size:
        return payload
    turned = mask[at % 4 :] + mask[: at % 4]
    key = (turned * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def frame(opcode: int, payload: bytes, mask: bytes = b"", *, fin: bool = True) -> bytes:
    """
    Return one frame.

    :param mask: four bytes that nobody can foretell, where a client sends; none where a server does.
    """
    size, masked = len(payload), 0x80 if mask else 0
    first = opcode | (_FIN if fin else 0)
    if size <= MAX_CONTROL:
        head = bytes((first, masked | size))
    elif size <= 0xFFFF:
        head = bytes((first, masked | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, masked | 127)) + size.to_bytes(8, "big")
    return head + mask + unmasked(payload, mask) if mask else head + payload


@attrs.frozen
class Closing:
    """Why a connection closes: `code` is None where the frame had none (1005)."""

    code: int | None = None
    reason: str = ""

    @classmethod
    def of(cls, payload: bytes) -> Closing:
        """
        Read the payload of a close frame.

        :raises Violation: if its code may not stand in a frame, or its reason is not UTF-8.
        """
        if not payload:
            return cls()
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not (code in _KNOWN_CODES or 3000 <= code <= 4999):
            raise Violation(PROTOCOL_ERROR, "a close frame has no code that may be sent")
        try:
            return cls(code, payload[2:].decode("utf-8"))
        except UnicodeDecodeError:
            raise Violation(INVALID_DATA, "the reason of a close frame is not UTF-8") from None

    @property
    def payload(self) -> bytes:
        """The payload of a frame that says so; a reason that is too long is cut, between two characters."""
        if self.code is None:
            return b""
        reason = self.reason.encode("utf-8", "replace")
        if len(reason) > MAX_REASON:
            reason = reason[:MAX_REASON].decode("utf-8", "ignore").encode("utf-8")
        return self.code.to_bytes(2, "big") + reason


# The opening handshake


class NotAnUpgrade(Exception):
    """A request does not open a WebSocket; `status` says so in HTTP: 400, or 426 where it asks for something else."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def upgrade_key(method: bytes, version: bytes, fields: Mapping[bytes, Sequence[bytes]]) -> bytes:
    """
    Return the ``Sec-WebSocket-Key`` of a request that opens a WebSocket: RFC 6455, section 4.2.1.

    :param version: of HTTP, as in ``HTTP/1.1``.
    :param fields: all values of ``upgrade``, ``connection`` and ``sec-websocket-…``, by names in lower case.
    :raises NotAnUpgrade: if it does not.
    """
    if method != b"GET" or b"websocket" not in _listed(fields, b"upgrade"):
        raise NotAnUpgrade("This path is a WebSocket's: open it with GET and 'Upgrade: websocket'.", 426)
    if version != b"HTTP/1.1" or b"upgrade" not in _listed(fields, b"connection"):
        raise NotAnUpgrade("A WebSocket is opened over HTTP/1.1, with 'Connection: Upgrade'. Does a proxy remove it?")
    if list(fields.get(b"sec-websocket-version", ())) != [b"13"]:
        raise NotAnUpgrade("The version of WebSocket that is spoken here is 13.", 426)
    keys = fields.get(b"sec-websocket-key", ())
    try:
        right = len(keys) == 1 and len(a2b_base64(keys[0], strict_mode=True)) == 16
    except NotBase64:
        right = False
    if not right:
        raise NotAnUpgrade("Sec-WebSocket-Key has to be 16 bytes in base64, once.")
    return keys[0]


def accept_of(key: bytes) -> bytes:
    """Return the ``Sec-WebSocket-Accept`` that answers a key."""
    return b64encode(sha1(key + _GUID).digest())  # noqa: S324  # as the protocol has it; nothing is secured by it


def _listed(fields: Mapping[bytes, Sequence[bytes]], name: bytes) -> set[bytes]:
    return {word.strip().lower() for value in fields.get(name, ()) for word in value.split(b",")}

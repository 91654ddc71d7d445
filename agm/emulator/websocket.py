"""
A WebSocket's frames (RFC 6455) as a server sees them: bytes in, whole messages and control frames out.

The emulator's own, as all of it is: a gateway must not be tested against its own reading of a protocol.
"""

from __future__ import annotations

import base64
import hashlib

import attrs

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
#: A message is no larger, in bytes.
MOST_MESSAGE = 64 * 1024 * 1024
#: The reason of a close frame is no longer, in bytes.
MOST_REASON = 123


class BadFrame(Exception):
    """What came is no frame that a client may send; `code` is the close code for it."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@attrs.frozen
class Message:
    """A whole message, or a control frame, without its mask."""

    opcode: int
    payload: bytes


class Frames:
    """What has come of a client's frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._pieces: list[bytes] = []
        self._opcode = 0
        self._size = 0

    def feed(self, data: bytes) -> list[Message]:
        """
        Take the next bytes; returns the messages and control frames that are complete now.

        :raises BadFrame: if these are no frames.
        """
        self._buffer += data
        found = []
        while (message := self._next()) is not None:
            if message.opcode >= 0:
                found.append(message)
        return found

    def _next(self) -> Message | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        opcode, final, length, at = buffer[0] & 15, buffer[0] & 128, buffer[1] & 127, 2
        if buffer[0] & 0x70 or not buffer[1] & 128 or opcode not in (0, 1, 2, 8, 9, 10):
            raise BadFrame(1002, "a reserved bit or opcode, or no mask")
        if opcode >= CLOSE and (length > 125 or not final):
            raise BadFrame(1002, "a control frame that is too long, or fragmented")
        if length > 125:
            digits = 2 if length == 126 else 8
            if len(buffer) < at + digits:
                return None
            length = int.from_bytes(buffer[at : at + digits], "big")
            at += digits
        if self._size + length > MOST_MESSAGE:
            raise BadFrame(1009, "a message that is too large")
        if len(buffer) < at + 4 + length:
            return None
        mask = bytes(buffer[at : at + 4])
        payload = _masked(bytes(buffer[at + 4 : at + 4 + length]), mask)
        del buffer[: at + 4 + length]
        if opcode >= CLOSE:
            return Message(opcode, payload)
        if (opcode == CONTINUATION) != bool(self._opcode):
            raise BadFrame(1002, "a fragment of no message, or a message in another")
        self._opcode = self._opcode or opcode
        self._pieces.append(payload)
        self._size += length
        if not final:
            return Message(-1, b"")
        whole, kind = b"".join(self._pieces), self._opcode
        self._pieces, self._opcode, self._size = [], 0, 0
        return Message(kind, whole)


def _masked(payload: bytes, mask: bytes) -> bytes:
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a server's frame, which is not masked."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 0x10000:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def close_frame(code: int, reason: str) -> bytes:
    """Return a close frame; of the reason, what there is room for."""
    said = reason.encode()[:MOST_REASON].decode("utf-8", "ignore").encode()
    return frame(CLOSE, code.to_bytes(2, "big") + said)


def accepted(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` for a ``Sec-WebSocket-Key``."""
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode())  # noqa: S324 - the protocol's own
    return base64.b64encode(digest.digest()).decode()

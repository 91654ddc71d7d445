"""WebSockets for tests, both ends over wires whose every byte is seen; frames are wsproto's, not the gateway's."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from wsproto.frame_protocol import FrameProtocol, Opcode

from tests.helpers.support import ScriptedUpstream, Wire, connect, eventually

DEVELOPER = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
VERTEX = "/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent"
SETUP: dict[str, Any] = {"setup": {"model": "models/m"}}
COMPLETE = b'{\n  "setupComplete": {}\n}\n'
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(rb"(?i)\r\nSec-WebSocket-Key: *([^\r\n]+)\r\n")


class Peer:
    """One end of a WebSocket: what came is in `messages`, `pings`, `pongs` and `closed`."""

    def __init__(self, wire: Wire, *, client: bool, start: int) -> None:
        self.wire = wire
        self._start = start
        self._read = 0
        self._frames = FrameProtocol(client=client, extensions=[])
        self._writer = FrameProtocol(client=client, extensions=[])
        self._piece: list[bytes] = []
        self.messages: list[tuple[str, bytes]] = []
        #: How many frames each message came in.
        self.pieces = 0
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.closed: tuple[int, str] | None = None

    def look(self) -> Peer:
        """Read what has come."""
        data = self.wire.received[self._start + self._read :]
        self._read += len(data)
        self._frames.receive_bytes(data)
        for found in self._frames.received_frames():
            if found.opcode is Opcode.PING:
                self.pings.append(bytes(found.payload))  # type: ignore[arg-type]
            elif found.opcode is Opcode.PONG:
                self.pongs.append(bytes(found.payload))  # type: ignore[arg-type]
            elif found.opcode is Opcode.CLOSE:
                code, reason = found.payload  # type: ignore[misc]
                self.closed = (int(code), reason or "")
            else:
                payload = found.payload
                if found.frame_finished:
                    self.pieces += 1
                kind = "text" if isinstance(payload, str) else "bytes"
                self._piece.append(payload.encode() if isinstance(payload, str) else bytes(payload))  # type: ignore[arg-type]
                if found.message_finished:
                    self.messages.append((kind, b"".join(self._piece)))
                    self._piece = []
        return self

    async def message(self, number: int = 0) -> bytes:
        """The message of this number, once it is here."""
        await eventually(lambda: len(self.look().messages) > number, f"message {number}")
        return self.messages[number][1]

    async def close_frame(self) -> tuple[int, str]:
        """The code and the reason that the other end closes with."""
        await eventually(lambda: self.look().closed is not None, "a close frame")
        assert self.closed is not None
        return self.closed

    def say(self, document: Any) -> None:
        """Send a text, or bytes in a binary frame."""
        if not isinstance(document, bytes | str):
            document = json.dumps(document)
        self.wire.send(bytes(self._writer.send_data(document)))

    def ping(self, payload: bytes = b"") -> None:
        self.wire.send(bytes(self._writer.ping(payload)))

    def pong(self, payload: bytes = b"") -> None:
        self.wire.send(bytes(self._writer.pong(payload)))

    def close(self, code: int | None = 1000, reason: str | None = None) -> None:
        self.wire.send(bytes(self._writer.close(code, reason)))  # type: ignore[arg-type]

    def raw(self, data: bytes) -> None:
        self.wire.send(data)


def handshake(path: str = DEVELOPER, *headers: str) -> bytes:
    """A request that opens a WebSocket."""
    key = base64.b64encode(b"0123456789abcdef").decode()
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def open_socket(port: int, path: str = DEVELOPER, *headers: str, setup: Any = SETUP) -> Peer:
    """A client whose handshake was granted, and which has said its first message, unless that is None."""
    wire = await connect(port)
    wire.send(handshake(path, *headers))
    received = await wire.until(b"\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 101 "), received
    peer = Peer(wire, client=True, start=received.index(b"\r\n\r\n") + 4)
    if setup is not None:
        peer.say(setup)
    return peer


async def accept(upstream: ScriptedUpstream, number: int = 0) -> Peer:
    """The upstream's end of a session, once the handshake has come; it is granted."""
    wire = await upstream.connection(number)
    key = _KEY.search(wire.received)
    assert key is not None, wire.received
    digest = base64.b64encode(hashlib.sha1(key[1] + _GUID.encode()).digest()).decode()
    start = wire.received.index(b"\r\n\r\n") + 4
    wire.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + digest.encode() + b"\r\n\r\n"
    )
    return Peer(wire, client=False, start=start)


async def set_up(port: int, upstream: ScriptedUpstream, number: int = 0, *headers: str) -> tuple[Peer, Peer]:
    """A session that is set up: the client's end and the upstream's."""
    client = await open_socket(port, DEVELOPER, *headers)
    up = await accept(upstream, number)
    await up.message()
    up.say(COMPLETE)
    await client.message()
    return client, up

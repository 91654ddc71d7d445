"""A fast upstream for the benchmarks: prints its address, and answers every request at once with what is ready."""

from __future__ import annotations

import json
import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.protocol import Factory, Protocol

reactor: Any = _reactor


def _answer(number: int, events: int) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": "x" * 200}]}}
    if number == events - 1:
        candidate["finishReason"] = "STOP"
    usage = {"promptTokenCount": 4, "candidatesTokenCount": 50, "totalTokenCount": 54}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash", "responseId": "abc"}


class Answers:
    """The four answers: plain and wrapped, unary and streamed."""

    def __init__(self, events: int) -> None:
        self._ready = {
            (wrapped, stream): self._made(wrapped, stream, events)
            for wrapped in (False, True)
            for stream in (False, True)
        }

    def _made(self, wrapped: bool, stream: bool, events: int) -> list[bytes]:
        documents = [
            json.dumps({"response": document, "traceId": "t"} if wrapped else document).encode()
            for document in (_answer(number, events) for number in range(events))
        ]
        if not stream:
            body = documents[-1]
            return [
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            ]
        chunks = [b"data: " + document + b"\r\n\r\n" for document in documents]
        return [
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            *(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks),
            b"0\r\n\r\n",
        ]

    def to(self, head: bytes) -> list[bytes]:
        """The answer to a request."""
        line = head.split(b"\r\n", 1)[0]
        return self._ready[b"v1internal" in line, b"streamGenerateContent" in line]


class Upstream(Protocol):
    """As much of HTTP as the gateway's requests need: a head with a Content-Length, and a body."""

    transport: Any
    factory: Any

    def connectionMade(self) -> None:
        self._buffer = b""
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, found, body = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line[15:])
            if len(body) < length:
                return
            self._buffer = body[length:]
            for part in self.factory.answers.to(head):
                self.transport.write(part)


class UpstreamFactory(Factory):
    """Makes the protocol."""

    protocol = Upstream
    noisy = False

    def __init__(self, events: int) -> None:
        self.answers = Answers(events)


if __name__ == "__main__":
    port = reactor.listenTCP(0, UpstreamFactory(int(sys.argv[1])), interface="127.0.0.1", backlog=512)
    print(f"http://127.0.0.1:{port.getHost().port}", flush=True)
    reactor.run()

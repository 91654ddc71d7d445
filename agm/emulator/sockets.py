"""
The sockets of Live sessions: the handshake is a request as every other, what follows goes to a session and back.

Steps are carried out in their order and at the client's pace.  A message that comes while an answer waits cuts it
short, as a person who speaks does: the client is told ``interrupted``, and the new answer follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from agm.emulator.live import Close, Step, Talk, say
from agm.emulator.replies import Cut, Fill, Hang, Reset, Send, Wait
from agm.emulator.requestlog import MOST_BODY, Entry
from agm.emulator.state import Clock
from agm.emulator.websocket import CLOSE, PING, PONG, BadFrame, Frames, accepted, close_frame, frame

#: Seconds that a client has to answer a close frame.
CLOSING = 2.0


def take_over(reactor: IReactorTime, clock: Clock, request: Request, session: Talk, entry: Entry) -> None:
    """Answer 101, and have the connection talk to a session from now on."""
    key = request.getHeader("sec-websocket-key") or ""
    channel: Any = request.channel
    transport = channel.transport
    channel.setTimeout(None)
    # from here on the channel hears nothing: neither what comes nor the end
    transport.unregisterProducer()
    channel.transport = None
    socket = Socket(reactor, clock, session, entry)
    while hasattr(transport, "originalTransport"):
        transport = transport.originalTransport
    if hasattr(transport, "wrappedProtocol"):
        transport.wrappedProtocol = socket
    else:
        transport.protocol = socket
    entry.status = 101
    transport.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accepted(key).encode() + b"\r\n\r\n"
    )
    transport.resumeProducing()
    socket.makeConnection(transport)


@implementer(IPushProducer)
class Socket(Protocol):
    """One session's connection."""

    transport: Any

    def __init__(self, reactor: IReactorTime, clock: Clock, session: Talk, entry: Entry) -> None:
        self._reactor = reactor
        self._clock = clock
        self._session = session
        self._entry = entry
        self._frames = Frames()
        self._steps: deque[Step] = deque()
        self._timer: IDelayedCall | None = None
        self._full = self._closing = self._silent = False

    def connectionMade(self) -> None:
        """The handshake is over."""
        self.transport.registerProducer(self, True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: by the client, unless this session has closed it."""
        if not self._closing:
            self._entry.client_gone = self._clock.now()
        self._closing = True
        self._steps.clear()
        self._stop_timer()

    def dataReceived(self, data: bytes) -> None:
        """Frames of the client."""
        try:
            for message in self._frames.feed(data):
                if self._silent:
                    continue
                if message.opcode == CLOSE:
                    self._closed(message.payload)
                elif message.opcode == PING:
                    self._write(frame(PONG, message.payload))
                elif message.opcode != PONG and not self._closing:
                    self._note(message.payload)
                    self._play(self._session.received(message.payload))
        except BadFrame as error:
            self._play([Close(error.code, str(error))])

    def _note(self, payload: bytes) -> None:
        """Note what the client says, which is the body of its request."""
        entry = self._entry
        entry.body_length += len(payload)
        entry.body = (entry.body + payload + b"\n")[:MOST_BODY]

    def _closed(self, payload: bytes) -> None:
        if not self._closing:
            self._closing = self._entry.finished = True
            self._write(frame(CLOSE, payload))
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _play(self, steps: Sequence[Step]) -> None:
        interrupted = self._session.interrupted
        if steps and self._steps and interrupted is not None:
            self._stop_timer()
            self._steps.clear()
            self._write(say(interrupted).data)
        self._steps.extend(steps)
        self._go_on()

    def _go_on(self) -> None:
        while self._steps and self._timer is None and not self._full:
            match self._steps.popleft():
                case Send(data):
                    self._write(data)
                case Fill(block, count):
                    self._write(block)
                    if count > 1:
                        self._steps.appendleft(Fill(block, count - 1))
                case Wait(seconds):
                    self._timer = self._reactor.callLater(seconds, self._waited)
                case Close(code, reason):
                    self._closing = self._entry.finished = True
                    self._steps.clear()
                    self._write(close_frame(code, reason))
                    self._timer = self._reactor.callLater(CLOSING, self.transport.abortConnection)
                case Cut():
                    self._closing = True
                    self._steps.clear()
                    self.transport.unregisterProducer()
                    self.transport.loseConnection()
                case Reset():
                    self._closing = True
                    self._steps.clear()
                    self.transport.abortConnection()
                case Hang():
                    self._silent = True
                    self._steps.clear()

    def _waited(self) -> None:
        self._timer = None
        self._go_on()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _write(self, data: bytes) -> None:
        self._entry.response_bytes += len(data)
        self.transport.write(data)

    def pauseProducing(self) -> None:
        """The client does not read."""
        self._full = True

    def resumeProducing(self) -> None:
        """It reads again."""
        self._full = False
        self._go_on()

    def stopProducing(self) -> None:
        """The connection is gone; :meth:`connectionLost` hears of it as well."""

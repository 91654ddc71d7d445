"""
What goes to one side of a Live session: frames that pass, control frames between them, and the end.

A session has two hops, to its client and to its upstream.  Each is asked for a sign of life, held back and closed by
itself.  Nothing is read here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from agm.core.wire.websocket import CLOSE, PING, PONG, Closing, Control, Event, Violation, frame
from agm.net.timers import Deadline
from agm.upstream.websocket import UpstreamSocket

__all__ = ["Farewell", "Hop", "Throttle"]


class Hop:
    """
    What goes to one side of a session: frames that pass, and control frames between them.

    :param write: writes bytes to the side.
    :param masks: whether this gateway is the client there.
    :ivar full: it takes nothing for now.
    :ivar heard: something has come from it since somebody last looked.
    :ivar asked: it was asked for a sign of life, and gave none yet.
    :ivar closing: it was sent a close frame; nothing more goes there.
    """

    __slots__ = (
        "_masks",
        "_message",
        "_waiting",
        "_write",
        "asked",
        "closing",
        "full",
        "heard",
        "mid_frame",
        "mid_message",
    )

    def __init__(self, write: Callable[[bytes], object], *, masks: bool) -> None:
        self._write = write
        self._masks = masks
        self.full = self.asked = self.closing = self.mid_frame = self.mid_message = False
        self.heard = True
        #: The last control frame of each kind that waits for the end of a frame, and a message for that of a message.
        self._waiting: dict[int, bytes] | None = None
        self._message: bytes | None = None

    def settle(self, *, mid_frame: bool, mid_message: bool) -> None:
        """Say where what has passed ends; what waited for that goes out."""
        self.mid_frame, self.mid_message = mid_frame, mid_message
        if (self._waiting is not None or self._message is not None) and not mid_frame:
            self.flush()

    def flush(self) -> None:
        """Write what waits, as far as that may be."""
        if self.closing or self.mid_frame:
            return
        waiting, self._waiting = self._waiting or {}, None
        for opcode in (PONG, PING):
            if opcode in waiting:
                self.control(opcode, waiting[opcode])
        if self._message is not None and not self.mid_message:
            message, self._message = self._message, None
            self._write(message)

    def control(self, opcode: int, payload: bytes) -> None:
        """Send a ping or a pong: now, or when the frame ends that is on its way, or when it takes something again."""
        if self.closing:
            return
        if self.mid_frame or (self.full and opcode == PONG):
            self._waiting = self._waiting or {}
            self._waiting[opcode] = payload
        else:
            self._write(self._frame(opcode, payload))

    def say(self, opcode: int, payload: bytes) -> None:
        """Send a message of the gateway's own, between two messages."""
        if not self.closing:
            self._message = self._frame(opcode, payload)
            self.flush()

    def close(self, closing: Closing) -> bool:
        """Send a close frame; False if that cannot be, in the middle of a frame."""
        if self.closing:
            return True
        self.closing = True
        if not self.mid_frame:
            self._write(self._frame(CLOSE, closing.payload))
        return not self.mid_frame

    def _frame(self, opcode: int, payload: bytes) -> bytes:
        return frame(opcode, payload, os.urandom(4) if self._masks else b"")


@implementer(IPushProducer)
class Throttle:
    """What a transport pauses and resumes as its side takes what is written."""

    __slots__ = ("_pause", "_resume")

    def __init__(self, pause: Callable[[], object], resume: Callable[[], object]) -> None:
        self._pause = pause
        self._resume = resume

    def pauseProducing(self) -> None:
        """It takes nothing for now."""
        self._pause()

    def resumeProducing(self) -> None:
        """It takes more."""
        self._resume()

    def stopProducing(self) -> None:
        """The connection is gone; it is told otherwise, too."""


class Farewell:
    """Waits until an upstream has answered a close frame, or closes the connection."""

    def __init__(self, socket: UpstreamSocket, timer: Deadline) -> None:
        self._socket = socket
        self._timer = timer
        socket.receiver = self
        if socket.reader.closed:
            self._done()
        else:
            socket.resume()

    def _done(self) -> None:
        self._timer.cancel()
        self._socket.receiver = None
        if not self._socket.lost:
            self._socket.transport.loseConnection()

    def upstream_events(self, events: Sequence[Event]) -> None:
        """Whatever else comes is thrown away."""
        if any(isinstance(event, Control) and event.opcode == CLOSE for event in events):
            self._done()

    def upstream_broke(self, violation: Violation) -> None:
        """It need not be told so."""
        self._timer.cancel()
        self._socket.abort()

    def upstream_lost(self) -> None:
        """It is gone."""
        self._timer.cancel()

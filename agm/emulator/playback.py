"""
Carrying out a reply: its steps, one after another, onto a connection.

This is the one place that writes an answer.  It writes at the client's pace: as a push producer it stops when the
connection's buffer is full, so an answer of many mebibytes never sits in memory.  When the client leaves, the reply is
cancelled and the log says when.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from agm.emulator.replies import Cut, Fill, Hang, Reply, Reset, Send, Wait
from agm.emulator.requestlog import Entry
from agm.emulator.state import Clock


@implementer(IPushProducer)
class Playback:
    """One reply on its way out."""

    _log = Logger()

    def __init__(self, reactor: IReactorTime, clock: Clock, request: Request, reply: Reply, entry: Entry) -> None:
        self._reactor = reactor
        self._clock = clock
        self._request = request
        self._reply = reply
        self._entry = entry
        self._paused = False
        self._resumed: Deferred[None] | None = None
        self._ended = False

    def start(self) -> None:
        """Begin; the request is finished or its connection closed in the end, whatever happens."""
        entry, request, reply = self._entry, self._request, self._reply
        entry.status = reply.status
        request.setResponseCode(reply.status)
        for name, value in reply.headers:
            request.responseHeaders.addRawHeader(name, value)
        if reply.length is not None:
            request.setHeader("Content-Length", str(reply.length))
        if all(isinstance(step, Send) for step in reply.steps):
            for step in reply.steps:
                assert isinstance(step, Send)  # just checked
                self._write(step.data)
            self._finish()
            return
        request.registerProducer(self, True)
        playing = Deferred.fromCoroutine(self._play())
        request.notifyFinish().addErrback(self._left, playing)
        playing.addErrback(self._failed)

    def _left(self, reason: Failure, playing: Deferred[None]) -> None:
        """The connection is gone: by the client, unless this reply closed it."""
        if not self._ended:
            self._ended = True
            self._entry.client_gone = self._clock.now()
            playing.cancel()

    def _failed(self, failure: Failure) -> None:
        """The reply was cancelled, or cannot be carried out: then the client is not left waiting."""
        if failure.check(CancelledError) is None:
            self._log.failure("could not send a reply", failure)
            self._end()
            self._channel.loseConnection()

    async def _play(self) -> None:
        for step in self._reply.steps:
            match step:
                case Send(data):
                    await self._room()
                    self._write(data)
                case Wait(seconds):
                    await deferLater(self._reactor, seconds)
                case Fill(block, count):
                    for _ in range(count):
                        await self._room()
                        self._write(block)
                case Cut():
                    self._end()
                    self._channel.loseConnection()
                    return
                case Reset():
                    self._end()
                    self._channel.transport.abortConnection()
                    return
                case Hang():
                    await Deferred()  # until the client leaves, which cancels it
        self._end()
        self._finish()

    @property
    def _channel(self) -> Any:
        return self._request.channel

    def _write(self, data: bytes) -> None:
        self._request.write(data)
        self._entry.response_bytes += len(data)

    def _end(self) -> None:
        self._ended = True
        self._request.unregisterProducer()

    def _finish(self) -> None:
        self._entry.finished = True
        self._request.finish()

    async def _room(self) -> None:
        """Wait until the connection takes more."""
        if self._paused:
            self._resumed = Deferred()
            await self._resumed

    # -- IPushProducer

    def pauseProducing(self) -> None:
        """The connection's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """There is room again."""
        self._paused = False
        waiting, self._resumed = self._resumed, None
        if waiting is not None:
            waiting.callback(None)

    def stopProducing(self) -> None:
        """The connection is gone; :meth:`_left` hears of it as well."""

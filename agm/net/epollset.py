"""
The sockets of connections, waited for together: one descriptor in the reactor's set stands for all of them.

A reactor hands each descriptor that is ready to its owner by itself, with a context for the log around each call; where
an event of a stream is all that comes, that is a quarter of what it costs.  On Linux a set of descriptors is one
itself (epoll).  So the gateway's connections put their sockets into a set of their own, and the reactor, whichever it
is, watches that.  Elsewhere everything stays as it is.

Twisted's sockets know nothing of it: to them a :class:`SocketSet` is the reactor, and what it does not have it gets
from there.  What happens to a socket is what a reactor would do.
"""

from __future__ import annotations

import select
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from agm.net.features import SOCKETS, enabled
from agm.net.interfaces import GatewayTransport
from agm.net.writes import begin_turn, buffered, end_turn, lowest

#: How many sockets are handed out before the reactor gets its turn.
MOST = 256

_IN: int = getattr(select, "EPOLLIN", 0)
_OUT: int = getattr(select, "EPOLLOUT", 0)
_GONE: int = getattr(select, "EPOLLHUP", 0) | getattr(select, "EPOLLERR", 0)

log = Logger()


def watch(transport: GatewayTransport) -> None:
    """Have the socket of a connection that has just been made waited for with the others."""
    _join(lowest(transport))


def _join(transport: Any) -> None:
    if not enabled.socket_set or type(transport) not in SOCKETS:
        return
    reactor = transport.reactor
    found = _sets.get(reactor)
    if found is None:
        found = _sets[reactor] = SocketSet(reactor)
    writing = buffered(transport) > 0  # what was to be told to a proxy, for example
    transport.stopReading()
    transport.stopWriting()
    transport.reactor = found
    transport.startReading()
    if writing:
        transport.startWriting()


#: The set of each reactor; a process has one.
_sets: dict[Any, SocketSet] = {}


@implementer(IReadDescriptor)
class SocketSet:
    """The sockets that one reactor watches through a single descriptor."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll = select.epoll()
        #: By descriptor: whose it is, and what is waited for.
        self._members: dict[int, Any] = {}
        self._events: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        """Everything else that a socket asks of its reactor."""
        return getattr(self._reactor, name)

    # What sockets ask

    def addReader(self, member: Any) -> None:
        """Tell when something has come."""
        self._wait(member, _IN)

    def addWriter(self, member: Any) -> None:
        """Tell when there is room."""
        self._wait(member, _OUT)

    def removeReader(self, member: Any) -> None:
        """Do not tell of what comes."""
        self._wait_no_more(member, _IN)

    def removeWriter(self, member: Any) -> None:
        """Do not tell of room."""
        self._wait_no_more(member, _OUT)

    def _wait(self, member: Any, event: int) -> None:
        fd = member.fileno()
        before = self._events.get(fd, 0)
        if before & event:
            return
        if before:
            self._epoll.modify(fd, before | event)
        else:
            self._epoll.register(fd, event)
            if not self._members:
                self._reactor.addReader(self)
            self._members[fd] = member
        self._events[fd] = before | event

    def _wait_no_more(self, member: Any, event: int) -> None:
        fd = member.fileno()
        if fd == -1:  # it was closed behind everybody's back
            for fd in [fd for fd, it in self._members.items() if it is member]:
                self._leave(fd)
            return
        if self._members.get(fd) is not member:
            return
        left = self._events[fd] & ~event
        if left == self._events[fd]:
            return
        if left:
            self._epoll.modify(fd, left)
            self._events[fd] = left
        else:
            self._epoll.unregister(fd)
            self._leave(fd)

    def _leave(self, fd: int) -> None:
        del self._members[fd], self._events[fd]
        if not self._members:
            self._reactor.removeReader(self)

    # What the reactor asks

    def fileno(self) -> int:
        """Return the set's own descriptor: something can be read from it while a member is ready."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        """Return what the log says where nothing else does."""
        return "agm"

    def doRead(self) -> None:
        """Hand out what is ready."""
        members = self._members
        begin_turn()
        try:
            for fd, event in self._epoll.poll(0, MOST):
                member = members.get(fd)
                if member is not None:  # another one has not closed it meanwhile
                    try:
                        self._ready(member, fd, event)
                    except BaseException:  # no other connection has to do with it
                        log.failure("closing a connection failed")
        finally:
            end_turn()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor lets go of everything: so do the members."""
        for member in list(self._members.values()):
            try:
                member.connectionLost(reason)
            except BaseException:
                log.failure("closing a connection failed")

    def _ready(self, member: Any, fd: int, event: int) -> None:
        why: Any = None
        reading = True
        if event & _GONE and not event & _IN:
            reading = bool(self._events[fd] & _IN)
            why = ConnectionDone() if reading else ConnectionLost()
        else:
            try:
                if event & _IN:
                    why = member.doRead()
                if not why and event & _OUT and fd in self._members:
                    reading = False
                    why = member.doWrite()
            except BaseException as e:
                log.failure("a connection failed")
                why = e
        if not why:
            return
        self.removeReader(member)
        if reading and type(why) is ConnectionDone:
            member.readConnectionLost(Failure(why))
        else:
            self.removeWriter(member)
            member.connectionLost(Failure(why))

"""Listen where the configuration says, or on the sockets that a service manager has bound."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from types import TracebackType
from typing import Any, NoReturn

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from agm.config.listeners import Listener
from agm.config.problems import fail
from agm.core.listening import Description
from agm.net.port_owner import is_gateway, owner_of
from agm.web.site import GatewaySite

log = Logger()

#: How many connections may wait to be taken, where the endpoint says nothing of its ``backlog``.  Twisted's 50 are few:
#: of a burst of 200 connections half would be tried again by their clients, after a second.
BACKLOG = 1024


class StartFailed(Exception):
    """
    The start has failed after twistd took over: it logs to its own file by now, has its pid file, and may be a daemon.

    For an exception, and only for one, twistd tells the waiting parent and removes the pid file.
    """


def fail_running(message: str) -> NoReturn:
    """As :func:`fail`, for a service that is being started; the line is in the log, too."""
    if sys.__stderr__ is not None:
        print(f"agm: {message}", file=sys.__stderr__, flush=True)  # sys.stderr is the log by now
    otherwise = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if kind is StartFailed:  # a person's mistake, not the program's: its traceback says nothing
            log.critical("{message}", message=str(error))
        else:
            otherwise(kind, error, traceback)

    sys.excepthook = hook
    raise StartFailed(message)


def as_inherited(listener: Listener, endpoint: IStreamServerEndpoint) -> Listener:
    """
    A listener whose socket was bound by the service manager, with the interface that it is really bound to; any other
    as it is.  A socket of another family than the description says ends the start.
    """
    if not isinstance(endpoint, AdoptedStreamServerEndpoint):
        return listener
    try:
        with socket.socket(fileno=os.dup(endpoint.fileno)) as inherited:
            family, address = inherited.family, inherited.getsockname()
    except OSError as e:
        fail(f"{listener.description!r}: what was passed to this process is no socket: {e.strerror}")
    if family != endpoint.addressFamily:
        fail(f"{listener.description!r}: the socket that was passed is of domain={family.name.removeprefix('AF_')}")
    if family != socket.AF_UNIX:
        return attrs.evolve(listener, interface=address[0])
    if isinstance(address, str) and address:
        # Twisted would open it to everybody, which not only its owner may be meant to do, and remove it in the end
        fail(f"{listener.description!r}: agm binds unix sockets itself: --listen unix:{address}:mode=660")
    return attrs.evolve(listener, interface=None)


class ListenerService(Service):
    """
    Listens; a port that is taken ends the start.

    :param told: where it listens was told by somebody else.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamServerEndpoint,
        description: str,
        site: GatewaySite,
        *,
        told: bool = False,
    ) -> None:
        self._told = told
        self._reactor = reactor
        self._endpoint = endpoint
        self._description = description
        self._site = site
        self._port: IListeningPort | None = None
        #: Whether nobody else takes the connections that wait when this closes.
        self.last = False
        #: Fires once it listens.
        self.bound: Deferred[None] = Deferred()

    def privilegedStartService(self) -> None:
        """Bind, before the process gives up any privilege."""
        failed: list[str] = []
        binding = True

        def refused(failure: Failure) -> None:
            message = f"cannot listen on {self._description}: {why_not(failure)}{_cure(failure, self._description)}"
            failed.append(message)
            if not binding:  # an endpoint that takes its time: the reactor runs already
                log.critical("{message}", message=message)
                self._reactor.stop()

        d: Deferred[Any] = self._endpoint.listen(self._site)
        d.addCallbacks(self._listening, refused)
        binding = False
        if failed:
            fail_running(failed[0])

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        bound = getattr(port, "socket", None)
        if bound is not None and not re.search(r"^systemd:|:backlog=", self._description):
            bound.listen(BACKLOG)
        if getattr(port, "factory", None) is not self._site:
            self._site.wrapped = True
        address = port.getHost()
        shown = shown_address(address, self._description)
        if not self._told:
            log.info("listening on {address}", address=shown)
        self._site.gateway.live.listening.append(shown)
        self.bound.callback(None)

    def accept_waiting(self) -> None:
        """Take the connections that wait: a closed socket would reset what their clients believe to be open."""
        port: Any = self._port
        take = getattr(port, "take_one", None) or getattr(port, "doRead", None)
        known = -1
        while take is not None and len(self._site.channels) > known:
            known = len(self._site.channels)
            take()

    def stopService(self) -> Deferred[None] | None:
        """Take no further connection."""
        super().stopService()
        port = self._port
        if port is None:
            return None
        if self.last:  # Twisted closes it in its next turn, until when some may have come
            self._reactor.callLater(0, self.accept_waiting)
        return maybeDeferred(port.stopListening).addBoth(self._closed)

    def _closed(self, result: Any) -> Any:
        self._port = None
        return result


def why_not(failure: Failure) -> object:
    """Return the reason of an error in listening, without the numbers and paths that sockets wrap it in."""
    error = failure.value
    reason = error.socketError if isinstance(error, CannotListenError) else error
    return getattr(reason, "strerror", None) or reason


def _cure(failure: Failure, description: str) -> str:
    """Say who holds a port that is taken, and what to do about it; nothing where neither is known."""
    error = failure.value
    kind = Description.parse(description).kind
    if not isinstance(error, CannotListenError) or kind not in ("tcp", "tcp6", "ssl"):
        return ""
    number = getattr(error.socketError, "errno", None)
    port = int(error.port) if isinstance(error.port, int) else 0
    if number == errno.EACCES and 0 < port < 1024:
        return "; a port below 1024 needs a right of its own: take another, or let systemd bind it (docs/deploy.md)"
    if number != errno.EADDRINUSE or not port:
        return ""
    other = f"--port {port + 1}" if kind == "tcp" and port < 65535 else "another port"
    owner = owner_of(port)
    if owner is not None and owner.is_agm:
        return (
            f": {owner} runs there already; use that one (`agm status`), end it (`kill {owner.pid}`), or take {other}"
        )
    if owner is not None:
        return f": {owner} holds it; end that, or take {other}"
    host = Listener.parse(description).interface or ""
    if is_gateway({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port):  # noqa: S104  # compared, not bound
        return f": an agm runs there already; use that one (`agm status`), end it, or take {other}"
    return f"; `ss -ltnp 'sport = {port}'` says who holds it (as root, of everybody), or take {other}"


def shown_address(address: Any, description: str) -> str:
    """Return an address as a person reads it: ``http://127.0.0.1:8045`` or ``unix:/run/agm.sock``."""
    scheme = "https" if description.startswith("ssl:") else "http"
    host = getattr(address, "host", None)
    if host is None:
        name = getattr(address, "name", address)
        return f"unix:{os.fsdecode(name)}" if isinstance(name, bytes | str) else str(name)
    return f"{scheme}://[{host}]:{address.port}" if ":" in host else f"{scheme}://{host}:{address.port}"

"""
The private names of other libraries that agm uses, and whether this installation has them as they are expected.

A name that no interface promises may go in any release.  So each is in :data:`PRIVATE_NAMES`, and what is faster
with it (a *feature*) is tried once, when this module is imported, on objects of Twisted's own.  A feature that
fails its trial is off, with one warning, and its public way is taken: slower, and no different in what clients get.

``AGM_PLAIN_SOCKETS=1`` in the environment, or ``[gateway] fast_sockets = false``, turns all of them off.

No other package of agm reads or writes a private name of Twisted's, or imports ``twisted.internet.tcp`` or ``unix``.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
from twisted.internet import tcp, unix
from twisted.internet.protocol import Protocol
from twisted.logger import Logger

import twisted

__all__ = ["FEATURES", "PRIVATE_NAMES", "SOCKETS", "PrivateName", "enabled", "sets_only", "use_plain_sockets"]

#: Turns every feature off if it is ``1``.
VARIABLE: Final = "AGM_PLAIN_SOCKETS"

log = Logger()


@attrs.frozen
class PrivateName:
    """
    A name that no public interface has.

    :ivar feature: what needs it; one of :data:`FEATURES`, or the module that guards it itself.
    :ivar owner: the class that has it.
    :ivar use: what agm does with it.
    :ivar seen: the releases in which it was seen.
    """

    feature: str
    owner: str
    name: str
    use: str
    seen: str = "Twisted 26.4 to 26.10"


_DESCRIPTOR = "twisted.internet.abstract.FileDescriptor"
_CONNECTION = "twisted.internet.tcp.Connection"

#: Every private name that is used, whatever it is called: those without an underscore are as undocumented.
PRIVATE_NAMES: Final = (
    PrivateName("direct writes", _DESCRIPTOR, "_tempDataBuffer", "read: whether written bytes wait for the next turn"),
    PrivateName("direct writes", _DESCRIPTOR, "_tempDataLen", "read: how many"),
    PrivateName("direct writes", _DESCRIPTOR, "dataBuffer", "read: the bytes that are being sent"),
    PrivateName("direct writes", _DESCRIPTOR, "offset", "read: how many of them have gone"),
    PrivateName("direct writes", _DESCRIPTOR, "connected", "read: whether the socket may be written to"),
    PrivateName("direct writes", _DESCRIPTOR, "disconnecting", "read: the same"),
    PrivateName("direct writes", _DESCRIPTOR, "producer", "read: a pull producer is told only by the transport"),
    PrivateName("direct writes", _DESCRIPTOR, "streamingProducer", "read: whether it is a pull producer"),
    PrivateName("direct writes", _DESCRIPTOR, "reactor", "read: for the end of this turn"),
    PrivateName("direct writes", _CONNECTION, "_aborting", "read: whether the socket may be written to"),
    PrivateName("direct writes", _CONNECTION, "TLS", "read: the same"),
    PrivateName("direct writes", _CONNECTION, "socket", "written to without waiting for a turn of the reactor"),
    PrivateName("socket set", _DESCRIPTOR, "reactor", "written: the set of sockets stands in for the reactor"),
    PrivateName("unwrapped endpoints", _CONNECTION, "protocol", "written: no wrapper between socket and protocol"),
    PrivateName("unwrapped endpoints", _DESCRIPTOR, "connected", "read: whether there is a socket to talk of"),
    PrivateName("unwrapped endpoints", "twisted.internet.tcp.Client", "connector", "written: it is needed no more"),
    PrivateName("unwrapped endpoints", "twisted.internet.base.BaseConnector", "factory", "written: breaks a circle"),
    PrivateName(
        "closing TLS both ways",
        "twisted.protocols.tls.TLSMemoryBIOProtocol",
        "_appSendBuffer",
        "read: whether the socket can be closed without losing what TLS has not encrypted",
    ),
    PrivateName(
        "lean requests",
        "twisted.web.server.Request",
        "__init__",
        "left out: the attributes that it sets are made when they are first read",
    ),
    PrivateName(
        "agm.net.sharing",
        "twisted.internet.tcp.Port",
        "_shouldShutdown",
        "written: a socket that others share is closed, and not shut down",
    ),
    PrivateName("agm.net.clocks", "twisted.internet.base.ReactorBase", "seconds", "written: the steady clock"),
    PrivateName("agm.net.clocks", "twisted.internet.base.DelayedCall", "seconds", "written: the same"),
    PrivateName(
        "agm.plugins.manager",
        "pluggy.HookImpl",
        "function",
        "written: a plugin's errors are caught; without it no gateway starts",
        "pluggy 1.5 to 1.7",
    ),
    PrivateName(
        "agm.cli",
        "argparse.ArgumentParser",
        "_check_value",
        "overridden: the nearest command is named; without it argparse's own message stands",
        "Python 3.11 to 3.13",
    ),
)

#: The types of transports that are written to directly: a socket and nothing more.  Empty if that is not done.
SOCKETS: Final[set[type]] = set()


@attrs.define
class _Enabled:
    """Which features are on, by the names of :data:`FEATURES`."""

    direct_writes: bool = False
    socket_set: bool = False
    unwrapped_endpoints: bool = False
    closing_tls_both_ways: bool = False
    lean_requests: bool = False


#: What is on in this process.
enabled: Final = _Enabled()


# -- The trials --------------------------------------------------------------------------------------


class _Nowhere:
    """A reactor that waits for nothing."""

    def __init__(self) -> None:
        self.readers: set[object] = set()

    def addReader(self, reader: object) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: object) -> None:
        self.readers.discard(reader)

    def addWriter(self, writer: object) -> None:
        """Nothing is waited for."""

    removeWriter = addWriter

    def callLater(self, *_: object) -> None:
        """Nothing is called."""


class _Heard(Protocol):
    heard = b""

    def dataReceived(self, data: bytes) -> None:
        self.heard += data


class _Connected:
    """A server's transport of Twisted's over one end of a pair of sockets; the other end is `theirs`."""

    def __init__(self) -> None:
        self.reactor = _Nowhere()
        self.ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        kind: Any = tcp.Server
        self.transport: Any = kind(self.ours, _Heard(), ("127.0.0.1", 0), None, 0, self.reactor)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


def _can_write_directly(found: _Connected) -> bool:
    """Return whether the buffers of a socket are where they are looked for, and hold what they are taken to hold."""
    it = found.transport
    fresh = (
        all(issubclass(kind, tcp.Connection) for kind in _KINDS)
        and all(kind._aborting is False and kind.TLS is False for kind in _KINDS)
        and (it.connected, it.disconnecting, it.TLS, it._aborting) == (1, 0, False, False)
        and (it._tempDataBuffer, it._tempDataLen, it.dataBuffer, it.offset) == ([], 0, b"", 0)
        and (it.producer, it.streamingProducer) == (None, False)
        and it.socket is found.ours
        and it.reactor is found.reactor
    )
    it.write(b"ab")
    written = (it._tempDataBuffer, it._tempDataLen) == ([b"ab"], 2)
    it.doWrite()
    sent = (it._tempDataBuffer, it._tempDataLen, it.dataBuffer, it.offset) == ([], 0, b"", 0)
    sent = sent and found.theirs.recv(10) == b"ab"
    much = 1024 * 1024
    it.write(bytes(much))
    it.doWrite()
    left = len(it.dataBuffer) - it.offset + it._tempDataLen
    gone = 0
    while gone < much - left:
        gone += len(found.theirs.recv(much))
    producer = object()
    it.registerProducer(producer, True)
    registered = it.producer is producer and it.streamingProducer is True
    it.unregisterProducer()
    it.abortConnection()
    return bool(fresh and written and sent and gone == much - left and registered and it._aborting)


def _has_a_replaceable_reactor(found: _Connected) -> bool:
    """Return whether a socket asks the reactor that it is given later, and reads and writes when that says so."""
    it, other = found.transport, _Nowhere()
    it.stopReading()
    it.reactor = other
    it.startReading()
    found.theirs.send(b"hello")
    return bool(
        hasattr(select, "epoll")
        and it in other.readers
        and it not in found.reactor.readers
        and it.doRead() is None
        and it.protocol.heard == b"hello"
        and all(callable(getattr(kind, name)) for kind in _KINDS for name in ("doWrite", "readConnectionLost"))
    )


def _can_do_without_its_wrapper(found: _Connected) -> bool:
    """Tell whether a socket gives what it reads to a protocol that it is given later, and forgets how it was made."""
    it = found.transport
    it.protocol = later = _Heard()
    found.theirs.send(b"hello")
    it.doRead()
    factory, connector = object(), object()
    any_kind: Any = tcp
    client = any_kind.Client("127.0.0.1", 1, None, connector, found.reactor)
    client.socket.close()
    made = any_kind.Connector("127.0.0.1", 1, factory, 1, None, found.reactor)
    return bool(
        later.heard == b"hello"
        and client.connector is connector
        and client.protocol is None
        and (client.connected, it.connected) == (0, 1)
        and made.factory is factory
        and "connector" in tcp.Client.connectionLost.__code__.co_names
    )


def _tells_what_tls_holds(found: _Connected) -> bool:
    """Return whether a TLS transport keeps what it cannot encrypt yet where it is looked for."""
    from twisted.protocols.tls import TLSMemoryBIOProtocol

    methods = [it for it in vars(TLSMemoryBIOProtocol).values() if hasattr(it, "__code__")]
    return any("_appSendBuffer" in it.__code__.co_names for it in methods)


def sets_only(kind: type, known: Callable[[str], bool]) -> bool:
    """
    Try whether ``kind.__init__`` sets no attribute but those that are `known`; for whoever wants to leave it out.

    :param kind: a class that takes one object as its argument, of which it asks whatever it likes.
    """
    try:
        made = kind(_Anything())
    except Exception:
        return False
    return all(map(known, vars(made)))


class _Anything:
    """Has every attribute, and can be called: all of that is this again."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: object, **__: object) -> Any:
        return self


# -- The decision ------------------------------------------------------------------------------------

_KINDS: Final[tuple[Any, ...]] = (tcp.Client, tcp.Server, unix.Client, unix.Server)

#: Each feature with its trial; that of ``lean requests`` is :mod:`agm.web.request`'s, by :func:`sets_only`.
FEATURES: Final[Mapping[str, Callable[[_Connected], bool]]] = {
    "direct writes": _can_write_directly,
    "socket set": _has_a_replaceable_reactor,
    "unwrapped endpoints": _can_do_without_its_wrapper,
    "closing TLS both ways": _tells_what_tls_holds,
    "lean requests": lambda found: True,
}


def _passes(trial: Callable[[_Connected], bool]) -> bool:
    found = None
    try:
        found = _Connected()
        return trial(found)
    except Exception:  # a name is not there, or what it stands for has another form
        return False
    finally:
        if found is not None:
            found.close()


def warn_of(features: list[str]) -> None:
    """Say in the log that features are off, and what to do."""
    log.warn(
        "Twisted {version} is not built as agm knows it: sockets are used in the plain way, more slowly, for want of "
        "{features}; fix: install a release of Twisted that docs/security.md names, or a newer agm",
        version=twisted.__version__,
        features=", ".join(features),
    )


def use_plain_sockets() -> None:
    """Turn every feature off, for connections that are made from now on."""
    log.info("sockets are used through Twisted's public interface alone, as was asked for")
    for feature in FEATURES:
        setattr(enabled, feature.replace(" ", "_").lower(), False)
    SOCKETS.clear()


def _decide(environ: Mapping[str, str]) -> None:
    if environ.get(VARIABLE) == "1":
        use_plain_sockets()
        return
    lacking = []
    for feature, trial in FEATURES.items():
        passed = _passes(trial)
        setattr(enabled, feature.replace(" ", "_").lower(), passed)
        if not passed and (feature != "socket set" or hasattr(select, "epoll")):  # only Linux has sets of descriptors
            lacking.append(feature)
    if enabled.direct_writes:
        SOCKETS.update(_KINDS)
    else:  # the set asks how many bytes wait
        enabled.socket_set = False
    if lacking:
        warn_of(lacking)


_decide(os.environ)

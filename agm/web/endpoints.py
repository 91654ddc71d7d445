"""Server endpoints from their descriptions, and whether a start could listen on them.  Nothing listens here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import getPlugins

from agm.config import Config, Problem
from agm.core.listening import Description, ListenerRefused

if TYPE_CHECKING:
    from agm.web.certificates import ServerCertificate

__all__ = ["ListenerRefused", "endpoint_of", "problems_of"]


def endpoint_of(reactor: Any, description: str) -> tuple[IStreamServerEndpoint, ServerCertificate | None]:
    """
    Return the server endpoint of a description, and the certificate that it shows.

    :raises ListenerRefused: if it is none, or its key and certificate cannot be used.
    """
    parsed = Description.parse(description)
    try:
        if parsed.kind == "ssl":
            from agm.web.certificates import ssl_endpoint  # OpenSSL takes its time, and few have such a listener

            return ssl_endpoint(reactor, parsed)
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except ListenerRefused as e:
        raise ListenerRefused(f"{description!r}: {e}") from None
    except Exception as e:  # each kind of endpoint has its own way to refuse a description
        if parsed.kind == "systemd" and isinstance(e, LookupError):
            why = "no such socket was passed to this process; the socket unit has to start it"
            raise ListenerRefused(f"{description!r}: {why}") from None
        raise ListenerRefused(f"{description!r} is not a server endpoint: {e or type(e).__name__}") from None
    return endpoint, None


def problems_of(config: Config) -> Iterator[Problem]:
    """Say why a start with this configuration could not listen, as far as that can be told without listening."""
    for number, description in enumerate(config.gateway.listen):
        kind = Description.parse(description).kind
        try:
            if kind in ("tcp", "tcp6", "ssl", "unix"):
                endpoint_of(None, description)
                port = "0" if kind == "unix" else Description.parse(description).argument("port", 0) or ""
                if not 0 <= int(port) <= 65535:
                    raise ListenerRefused(f"{description!r}: a port is a number from 0 to 65535")
            elif kind not in _KNOWN and all(kind != each.prefix for each in getPlugins(_PARSERS)):
                raise ListenerRefused(f"{description!r}: no package that is installed has endpoints of the kind {kind}")
        except ListenerRefused as e:
            yield Problem(config.path, f"gateway.listen[{number}]", str(e))


_PARSERS: Any = IStreamServerEndpointStringParser
#: Kinds of endpoints that only a start can make: they take what it was given.
_KNOWN = ("systemd", "haproxy", "stdio", "fd")

"""
How upstreams are reached: through which proxy, if any, and which certificate authorities are trusted.

Values and rules only: nothing is connected to here, no name is resolved, no file and no environment is read; whoever
has them hands them in.  A proxy's credentials are in no ``repr``, no ``str`` and no error.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote_to_bytes, urlsplit

import attrs

__all__ = ["Authorities", "EnvironmentProxies", "Network", "NoProxy", "Proxy", "ProxySetting"]

_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_EXAMPLE = "write it like 'http://proxy.example:3128' or 'http://user:password@proxy.example:3128'"


@attrs.frozen
class Proxy:
    """
    A proxy that opens connections for others with ``CONNECT``; ``str`` is its URL without credentials.

    `scheme` says how the proxy itself is spoken to, ``https`` being TLS; `host` is in lower case and without brackets;
    `authorization` is the value of ``Proxy-Authorization``, None for none.
    """

    scheme: str
    host: str
    port: int
    authorization: str | None = attrs.field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{authority(self.host, self.port)}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be seen: the password, and it with the user as they go on the wire."""
        if self.authorization is None:
            return ()
        encoded = self.authorization.removeprefix("Basic ")
        return encoded, base64.b64decode(encoded).partition(b":")[2].decode("utf-8", "replace")

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """
        Return a proxy from its URL.  Without a scheme it is ``http``; user and password are percent-encoded.

        :raises ValueError: if it cannot be used; the message says why and holds nothing of the URL.
        """
        if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise ValueError(f"holds characters that no URL has; {_EXAMPLE}")
        whole = url if "://" in url else f"http://{url}"
        try:
            split = urlsplit(whole)
            port = split.port
        except ValueError:
            raise ValueError(f"cannot be read as a URL; {_EXAMPLE}, with what is special percent-encoded") from None
        if split.scheme not in _DEFAULT_PORTS:
            raise ValueError("names a proxy that is neither http nor https, and agm speaks to no other")
        host = (split.hostname or "").removesuffix(".")
        if not _is_host(host) or port == 0 or split.netloc.rpartition("@")[2].startswith("[") != (":" in host):
            raise ValueError(f"names no host that can be a proxy; {_EXAMPLE}, with what is special percent-encoded")
        if split.path not in ("", "/") or "?" in whole or "#" in whole:
            raise ValueError(f"goes on after its host; {_EXAMPLE}, with what is special percent-encoded")
        return cls(split.scheme, host, port or _DEFAULT_PORTS[split.scheme], _basic(split.username, split.password))


def _basic(user: str | None, password: str | None) -> str | None:
    """Return the value of ``Proxy-Authorization``."""
    if user is None:
        return None
    name, secret = unquote_to_bytes(user), unquote_to_bytes(password or "")
    # RFC 7617, 2: a user-id with a colon is invalid, and so are control characters in either
    if b":" in name or any(byte < 0x20 or byte == 0x7F for byte in name + secret):
        raise ValueError("has a user name or password that Basic authentication cannot carry")
    return "Basic " + base64.b64encode(name + b":" + secret).decode("ascii")


def authority(host: str, port: int) -> str:
    """Host and port as ``CONNECT`` and ``Host`` have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = None if "%" in host else ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_host(host: str) -> bool:
    return _address(host) is not None or (len(host) <= 253 and _HOST_NAME.fullmatch(host) is not None)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback


def is_local_service(host: str) -> bool:
    """
    Return whether a host means something else, or nothing, when another machine asks for it: a metadata server.

    Asked through a proxy, it would give the tokens of the proxy's machine.
    """
    address = _address(host)
    if address is None:
        return host.removesuffix(".") == "metadata.google.internal"
    return address.is_link_local


@attrs.frozen
class NoProxy:
    """
    The hosts of a ``NO_PROXY``.

    Entries are separated by commas or spaces.  ``*`` is every host; a name is itself and what ends in it at a dot,
    with or without a dot or ``*.`` before it; an address is itself; ``10.0.0.0/8`` is every address in it, written as
    one: no name is resolved.  ``:port`` after a name or an address narrows it to that port.
    """

    everything: bool = False
    names: tuple[tuple[str, int | None], ...] = ()
    networks: tuple[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, int | None], ...] = ()

    @classmethod
    def parse(cls, text: str) -> NoProxy:
        """From the variable's value.  What means nothing covers nothing, as everywhere."""
        names: list[tuple[str, int | None]] = []
        networks: list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, int | None]] = []
        entries = [entry.lower() for entry in re.split(r"[,\s]+", text) if entry]
        for entry in entries:
            host, port = _host_and_port(entry)
            try:
                networks.append((ipaddress.ip_network(host, strict=False), port))
            except ValueError:
                name = host.removeprefix("*").removeprefix(".").removesuffix(".")
                if name:
                    names.append((name, port))
        return cls("*" in entries, tuple(names), tuple(networks))

    def covers(self, host: str, port: int) -> bool:
        """Return whether a host, in lower case and without brackets, is reached directly."""
        if self.everything:
            return True
        address = _address(host)
        if address is not None:
            return any(address in network and only in (None, port) for network, only in self.networks)
        name = host.removesuffix(".")
        return any((name == of or name.endswith(f".{of}")) and only in (None, port) for of, only in self.names)


def _host_and_port(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"\[([^\]]*)\](?::([0-9]{1,5}))?|([^:]*):([0-9]{1,5})", entry)
    if match is None:
        return entry, None
    host, port = (match[1], match[2]) if match[3] is None else (match[3], match[4])
    return host, int(port) if port else None


@attrs.frozen
class EnvironmentProxies:
    """
    The proxies that environment variables name: ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``.

    In lower case they go first.  `variables` are those that are set and not empty, by their names in lower case, each
    with its own name; it may hold credentials, and is in no ``repr``.
    """

    variables: Mapping[str, tuple[str, str]] = attrs.field(factory=dict, repr=False)
    no_proxy: NoProxy = NoProxy()

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> EnvironmentProxies:
        """From an environment."""
        found: dict[str, tuple[str, str]] = {}
        for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
            for variable in (name, name.upper()):
                value = environ.get(variable, "").strip()
                # A CGI program finds the `Proxy:` header of a request in HTTP_PROXY, which anybody can send.
                if value and not (variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
                    found.setdefault(name, (variable, value))
        excepted = found.pop("no_proxy", ("", ""))[1]
        return cls(found, NoProxy.parse(excepted))

    def proxy_of(self, scheme: str) -> Proxy | None:
        """
        Return the proxy for upstreams of a scheme, exceptions aside.

        :raises ValueError: if the variable names none that can be used; the message names the variable, and not its
            value.
        """
        variable, value = self.variables.get(f"{scheme}_proxy") or self.variables.get("all_proxy") or ("", "")
        if not value:
            return None
        try:
            return Proxy.parse(value)
        except ValueError as e:
            raise ValueError(f"the environment variable {variable} {e}") from None

    def proxy_for(self, scheme: str, host: str, port: int) -> Proxy | None:
        """
        Return the proxy on the way to an upstream, None for the direct way, which loopback hosts always have.

        :raises ValueError: as :meth:`proxy_of` does.
        """
        if _is_loopback(host) or self.no_proxy.covers(host, port):
            return None
        return self.proxy_of(scheme)


ProxySetting = Proxy | Literal["env", "none"]


@attrs.frozen
class Authorities:
    """Certificate authorities of one's own: the file that they came from, and its PEM text."""

    file: str
    pem: bytes = attrs.field(repr=False)


@attrs.frozen
class Network:
    """
    How upstreams are reached.

    `proxy` is a :class:`Proxy`, ``"env"`` for the one that the environment names, or ``"none"``; `authorities` are
    trusted beside the platform's.  None is whatever holds for the gateway: by default ``"env"``, and no authority but
    the platform's.
    """

    proxy: ProxySetting | None = None
    authorities: Authorities | None = None

    def over(self, default: Network) -> Network:
        """This, and what it leaves open from `default`."""
        return Network(
            default.proxy if self.proxy is None else self.proxy,
            default.authorities if self.authorities is None else self.authorities,
        )

    def proxy_for(self, environment: EnvironmentProxies, scheme: str, host: str, port: int) -> Proxy | None:
        """
        Return the proxy on the way to an upstream; None for the direct way.

        :param host: in lower case, and without brackets.
        :raises ValueError: if the environment names a proxy that cannot be used.
        """
        if self.proxy == "none" or is_local_service(host):
            return None
        if isinstance(self.proxy, Proxy):
            return self.proxy
        return environment.proxy_for(scheme, host, port)

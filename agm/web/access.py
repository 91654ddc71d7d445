"""
Who may talk to the gateway: the names it answers to, the web pages that may call it, and who counts as local.

A local server is reachable from every web page that its user opens.  Three checks keep pages out: the ``Host`` must be
a name or an address that the gateway listens on, which defeats DNS rebinding; an ``Origin`` must be one that was
configured, or the gateway's own; and what a browser says that another page made it send is refused, with or without an
``Origin``.  What a proxy has passed on is not this machine's, wherever the proxy runs.  All are pure functions of the
configuration and the request.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

import attrs

from agm.config import GatewayConfig
from agm.core.errors import Forbidden, InvalidRequest, UnsupportedMedia
from agm.core.listening import is_loopback
from agm.core.sender import Sender, TrustedProxies, forwarded_hops, sender_of
from agm.core.wire.request_parser import Head

_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")

#: What any page can make a browser send without its asking first (Fetch, "CORS-safelisted request-header").
_UNASKED_TYPES = frozenset({b"", b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"})
#: Headers that no page can set without the browser's asking first.
_ASKED_FOR = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key", b"x-goog-upload-command"})
#: ``Sec-Fetch-Site`` of the gateway's own pages, and of what a person does.
_OWN_SITES = frozenset({b"same-origin", b"none"})
#: ``Sec-Fetch-Dest`` of what a person goes to: no frame, and nothing that is embedded.  The first browsers that told
#: where a request comes from did not tell this.
_PAGES = frozenset({b"document", None})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class WrongHost(Forbidden):
    """421: the request was meant for somebody else."""

    status, reason = 421, "HOST_NOT_ALLOWED"


@attrs.frozen
class Peer:
    """
    The other end of a connection: its `address`, or :data:`agm.core.sender.UNIX`, or nothing where it has none; and the
    address `behind` it that it has named when it connected, by the PROXY protocol: empty if it knows of none, None
    where it does not speak that.
    """

    address: str
    behind: str | None = None


def _host_of(url: str | None) -> tuple[str, ...]:
    """Return the host of a URL, if there is one, as a ``Host`` is compared."""
    host = None if url is None else urlsplit(url).hostname
    return () if host is None else (host.rstrip("."),)


def _last(head: Head, name: bytes) -> str:
    """Return the last of the values of a header to which each proxy may have added its own."""
    values = head.values(name)
    return values[-1].decode("latin-1").rpartition(",")[2].strip() if values else ""


@attrs.frozen
class Access:
    """
    The names and origins that are let in.

    :param hosts: names and addresses beside the loopback's.
    :param any_address: whether any IP address will do as a Host, because a listener is bound to all interfaces.  A page
        cannot forge one: rebinding needs a name.
    :param origins: origins of web pages that may call.
    :param public_url: the base URL by which clients know the gateway, if it was configured; its host is one of `hosts`.
    :param trusted: proxies that are believed for whom they send.
    """

    hosts: frozenset[str]
    any_address: bool
    origins: frozenset[str]
    public_url: str | None = None
    trusted: TrustedProxies = attrs.field(factory=TrustedProxies)

    @classmethod
    def of(
        cls,
        allowed_hosts: Iterable[str],
        listening: Iterable[str],
        cors_origins: Iterable[str],
        *,
        public_url: str | None = None,
        trusted_proxies: Iterable[str] = (),
    ) -> Access:
        """From the keys of ``[gateway]`` with these names, and the interfaces that are listened on."""
        interfaces = [host.lower() for host in listening]
        return cls(
            frozenset([*(host.lower() for host in allowed_hosts), *interfaces, *_host_of(public_url)]),
            any(host in ("", "0.0.0.0", "::") for host in interfaces),  # noqa: S104  # compared, not bound
            frozenset(origin.lower().rstrip("/") for origin in cors_origins),
            public_url,
            TrustedProxies.of(trusted_proxies),
        )

    @classmethod
    def configured(cls, config: GatewayConfig, listening: Iterable[str]) -> Access:
        """From the table ``[gateway]``, and the interfaces that are listened on."""
        return cls.of(
            config.allowed_hosts,
            listening,
            config.cors_origins,
            public_url=config.public_url,
            trusted_proxies=config.trusted_proxies,
        )

    @property
    def path_taken_away(self) -> str:
        """The path of ``public_url``, which the proxy takes away before it passes a request on."""
        return "" if self.public_url is None else urlsplit(self.public_url).path

    def sender(self, peer: Peer, head: Head) -> Sender:
        """
        Determine who sends a request.

        What comes by the name of ``public_url`` has come through the proxy that has this name, whether that says so or
        not.
        """
        found = sender_of(peer.address, head.values, head.first, self.trusted, behind=peer.behind)
        if found.local and not found.forwarded and self._is_public(head.first.get(b"host", b"")):
            return attrs.evolve(found, local=False)
        return found

    def _is_public(self, host: bytes) -> bool:
        match = _HOST.fullmatch(host.decode("latin-1").strip())
        named = "" if match is None else match["host"].strip("[]").lower().rstrip(".")
        return named in _host_of(self.public_url) and not is_loopback(named)

    def address(self, peer: Peer, head: Head, *, secure: bool) -> str:
        """
        The base URL by which the sender of a request knows the gateway: what was configured; else what a trusted proxy
        says; else what the request says, whose ``Host`` has been checked.
        """
        if self.public_url is not None:
            return self.public_url
        scheme = "https" if secure else "http"
        host = head.first.get(b"host", b"127.0.0.1").decode("latin-1").strip()
        if self.trusted.trust(peer.address):
            hop = (forwarded_hops(head.values) or [None])[-1] or {}
            told = _last(head, b"x-forwarded-proto") or hop.get("proto", "")
            scheme = told.lower() if told.lower() in ("http", "https") else scheme
            named = _last(head, b"x-forwarded-host") or hop.get("host", "")
            host = named if _HOST.fullmatch(named) else host
        return f"{scheme}://{host}"

    def check_host(self, values: Sequence[str], *, required: bool) -> str | None:
        """
        Return the host that a request is for, without its port.

        :param values: all ``Host`` headers.
        :param required: whether HTTP/1.1 asks for one.
        :raises InvalidRequest: if there is none, more than one, or not a host.
        :raises WrongHost: if it is not one of the gateway's.
        """
        if not values and not required:
            return None
        if len(values) != 1:
            raise InvalidRequest("A request must have exactly one Host header.", reason="HOST_INVALID")
        match = _HOST.fullmatch(values[0].strip())
        if match is None:
            raise InvalidRequest("The Host header is not a host.", reason="HOST_INVALID")
        host = match["host"].strip("[]").lower().rstrip(".")
        if not self._is_ours(host):
            raise WrongHost(
                "The Host of this request is not one of the gateway's. "
                "If it should be, add it to [gateway] allowed_hosts."
            )
        return host

    def _is_ours(self, host: str) -> bool:
        if host in self.hosts or is_loopback(host):
            return True
        if not self.any_address:
            return False
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def check_origin(self, origin: str | None, host: str | None) -> str | None:
        """
        Return the origin to allow in the answer, None for a request that is not a foreign page's.

        :param origin: the ``Origin`` header.
        :param host: the value of the ``Host`` header, with its port.
        :raises Forbidden: if a page of this origin may not call.
        """
        if origin is None:
            return None
        wanted = origin.lower().rstrip("/")
        if wanted in self.origins:
            return origin
        if host is not None and wanted in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return None
        if self.public_url is not None and wanted == "/".join(self.public_url.split("/", 3)[:3]):
            return None
        raise Forbidden(
            "Web pages of this origin may not call the gateway. If they should, add it to [gateway] cors_origins.",
            reason="ORIGIN_NOT_ALLOWED",
        )

    def check_page(self, method: str, headers: Mapping[bytes, bytes], *, let_in: bool) -> None:
        """
        Refuse what a page made a browser send unasked.  Programs send none of the headers that this looks at.

        A page that is not let in may link to the gateway, and no more: it may not show it in a frame of its own.  A
        request that changes something is not taken
        from any but the gateway's own pages in a form that browsers send without asking first (a preflight): not as a
        form, nor as plain text.

        :param headers: the first value of each header, by names in lower case; the ``Origin`` has been checked.
        :param let_in: whether its ``Origin`` is one of ``cors_origins``.
        :raises Forbidden: if the browser says that it comes from a page of another site.
        :raises UnsupportedMedia: if its ``Content-Type`` is one that forms have, or missing.
        """
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        if origin is None and site is None and b"referer" not in headers:
            return
        if origin is not None and not let_in:
            return  # the gateway's own page: a foreign one has been refused
        if origin is None and site is not None:
            if site in _OWN_SITES:
                return
            linked = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") in _PAGES
            if method not in ("GET", "HEAD") or not linked:
                raise Forbidden(
                    "Web pages of other sites may not call the gateway. If this one should, add its origin to "
                    "[gateway] cors_origins.",
                    reason="ORIGIN_NOT_ALLOWED",
                )
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if method not in _SAFE_METHODS and kind in _UNASKED_TYPES and not headers.keys() & _ASKED_FOR:
            raise UnsupportedMedia(
                "A browser sends this Content-Type, or none, for any page without asking first. "
                "Send Content-Type: application/json.",
                reason="CONTENT_TYPE_NOT_ALLOWED",
            )

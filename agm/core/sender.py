"""
Who sends a request: the other end of its connection, or whom a proxy in between says that it sends for.

A proxy that ends TLS often runs on the gateway's own machine, so that everybody whom it lets through comes from
loopback.  Such a request says so by its headers.  What they say counts only where the proxy is one that the
configuration trusts; of any other they show that the sender is not known, and so is nobody of this machine.

>>> trusted = TrustedProxies.of(["loopback"])
>>> head = {b"x-forwarded-for": [b"127.0.0.1, 203.0.113.9"]}
>>> sender_of("127.0.0.1", lambda name: head.get(name, ()), head, trusted)
Sender(address='203.0.113.9', local=False, forwarded=True)
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

__all__ = ["UNIX", "Sender", "TrustedProxies", "is_loopback", "sender_of", "told_by"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: All values of a header, by its name in lower case.
Values = Callable[[bytes], Sequence[bytes]]

#: The other end of a unix socket, which has no address.
UNIX: Final = "unix"
#: Headers that proxies add, beside all that begin with :data:`_PREFIX`: whoever sends one has passed a request on.
_TELLING = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-original-forwarded-for",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"fastly-client-ip",
        b"cdn-loop",
    }
)
_PREFIX = b"x-forwarded-"

#: RFC 7239, section 4: pairs of a token and a token or a quoted string.
_PAIR = re.compile(
    r"[ \t]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)"
    r"""=(?:(?P<plain>[!#$%&'*+.^_`|~0-9A-Za-z:\[\]-]+)|"(?P<quoted>(?:[^"\\]|\\.)*)")[ \t]*"""
)
#: An address with a port, or in brackets.
_NODE = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")


@attrs.frozen
class Sender:
    """
    Determine who sends a request.

    `address` is an IP address, or :data:`UNIX`; of a request that somebody has passed on who is not trusted, or does
    not tell for whom, it is that one's.  `local` says whether the request certainly comes from this machine itself,
    `forwarded` whether it was passed on.
    """

    address: str
    local: bool
    forwarded: bool = False


@attrs.frozen
class TrustedProxies:
    """The proxies whose word counts, from ``[gateway] trusted_proxies``: networks, and whether unix sockets are."""

    networks: tuple[Network, ...] = ()
    unix: bool = False

    @classmethod
    def of(cls, words: Iterable[str]) -> TrustedProxies:
        """
        From addresses, networks, and the words ``loopback`` and ``unix``.

        :raises ValueError: for anything else.
        """
        networks: list[Network] = []
        unix = False
        for word in words:
            if word == "unix":
                unix = True
            elif word == "loopback":
                networks += (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
            else:
                networks.append(ipaddress.ip_network(word))
        return cls(tuple(networks), unix)

    def trust(self, address: str) -> bool:
        """Return whether this address is trusted to say who sends a request."""
        if address == UNIX:
            return self.unix
        found = _address(address)
        return found is not None and any(found in network for network in self.networks)


def _address(text: str) -> Address | None:
    """Return an address; IPv4 as such, also where a socket of IPv6 shows it."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def is_loopback(address: str) -> bool:
    """Return whether an address, and not a name, is this machine's loopback."""
    found = _address(address)
    return found is not None and found.is_loopback


def told_by(names: Iterable[bytes]) -> bool:
    """Return whether one of these headers, in lower case, shows that a request was forwarded."""
    return any(name in _TELLING or name.startswith(_PREFIX) for name in names)


def sender_of(
    peer: str, values: Values, names: Iterable[bytes], trusted: TrustedProxies, *, behind: str | None = None
) -> Sender:
    """
    Determine who sends a request.

    Of several addresses in a row that is the last one that is no trusted proxy's: whatever stands before it anybody
    may have written.  Where two headers tell of senders, because a proxy sets one and lets the other pass, it is local
    only if both say so.

    :param peer: the other end of the connection, an address or :data:`UNIX`.
    :param values: gives the values of the request's headers.
    :param names: the names of all of them.
    :param behind: the address that the other end has named when it connected, by the PROXY protocol; empty if it knows
        of none, None where it does not speak that.
    """
    if behind is None and not told_by(names):
        return Sender(_shown(peer), peer == UNIX or is_loopback(peer))
    rows = [row for row in (_x_forwarded_for(values), _forwarded(values), _x_real_ip(values)) if row]
    near = [peer] if behind is None else [behind or None, peer]
    senders = [_last_stranger([*row, *near], trusted) for row in rows or [[]]]
    address = senders[0]
    if address is None:  # nobody who is trusted says more
        return Sender(_shown(peer), local=False, forwarded=True)
    told = bool(rows) or behind is not None
    return Sender(address, told and all(each is not None and is_loopback(each) for each in senders), forwarded=True)


def _shown(peer: str) -> str:
    found = _address(peer)
    return peer if found is None else str(found)


def _last_stranger(row: Sequence[str | None], trusted: TrustedProxies) -> str | None:
    """The last address of a row that no trusted proxy has; None if a trusted one names none, or the last is none."""
    address = row[-1]
    if address is None or not trusted.trust(address):
        return None
    for named in reversed(row[:-1]):
        if named is None:
            return None
        address = named
        if not trusted.trust(address):
            break
    return address


def _x_forwarded_for(values: Values) -> list[str | None]:
    return [_node(node) for line in values(b"x-forwarded-for") for node in line.decode("latin-1").split(",")]


def _x_real_ip(values: Values) -> list[str | None]:
    return [_node(line.decode("latin-1")) for line in values(b"x-real-ip")]


def _forwarded(values: Values) -> list[str | None]:
    """Return the ``for`` of each hop; None for one that names no address, and for all where they cannot be read."""
    found = forwarded_hops(values)
    return [None if hop is None else _node(hop.get("for", "")) for hop in found]


def forwarded_hops(values: Values) -> list[dict[str, str] | None]:
    """Return the hops of ``Forwarded`` headers, each with its parameters; None in place of what is none."""
    hops: list[dict[str, str] | None] = []
    for line in values(b"forwarded"):
        text = line.decode("latin-1")
        at, hop = 0, dict[str, str]()
        while True:
            match = _PAIR.match(text, at)
            if match is None:
                hops.append(None)
                break
            name, plain, quoted = match["name"], match["plain"], match["quoted"]
            hop.setdefault(name.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
            at = match.end()
            if at == len(text) or text[at] == ",":
                hops.append(hop)
                hop = {}
            elif text[at] != ";":
                hops.append(None)
                break
            if at == len(text):
                break
            at += 1
    return hops


def _node(text: str) -> str | None:
    """Return the address of a node as proxies write it, without its port; None for one that is no address."""
    text = text.strip().strip('"')
    match = _NODE.fullmatch(text)
    if match is not None:
        text = match[1] or match[2]
    found = _address(text)
    return None if found is None or "%" in text else str(found)

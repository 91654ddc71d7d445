"""
Readers of what names a place in a network: hosts, origins, base URLs, listeners.

What a URL may hold of a secret is in no message.
"""

import difflib
import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from agm.config.files import read_path
from agm.config.reading import Place, RefusedError
from agm.config.values import read_string, read_text
from agm.config.words import show
from agm.core.listening import FILES_OF, Description

_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*", re.ASCII)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return None if "%" in host else ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_host(host: str) -> bool:
    """Return whether ``host``, in lower case and without brackets, is an address or a name as DNS has them."""
    return _address(host) is not None or (len(host) <= 253 and _HOST_NAME.fullmatch(host) is not None)


def is_loopback_host(host: str) -> bool:
    """Return whether a host, in lower case and without brackets, is this machine alone."""
    address = _address(host)
    # Not `is_loopback` for IPv6: Pythons differ over the mapped IPv4 addresses.
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_loopback
    return host == "localhost" or address == ipaddress.IPv6Address("::1")


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _netloc(split: SplitResult) -> str:
    """Host and port of a URL as it goes on the wire: lower case, brackets kept, the default port left out."""
    host = split.hostname or ""
    port = "" if split.port in (None, _DEFAULT_PORTS.get(split.scheme)) else f":{split.port}"
    return f"[{host}]{port}" if ":" in host else f"{host}{port}"


def _split(text: str, expected: str) -> SplitResult:
    """Return the parts of a URL, with a host that is one; else refuse with what was ``expected``."""
    shown = show(_without_secrets(text))
    # urlsplit drops tabs and line breaks in silence, so that what was checked is not what is used.
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise RefusedError(f"{shown} holds characters that no URL has; {expected}")
    try:
        split = urlsplit(text)
        if split.port == 0:
            raise ValueError("port 0")
    except ValueError:
        raise RefusedError(f"{shown} cannot be read as a URL; {expected}") from None
    if not split.scheme or not split.netloc:
        raise RefusedError(f"{shown} is not a whole URL; {expected}")
    host = split.hostname or ""
    # Brackets are for IPv6 alone; the form "[v1.name]" of RFC 3986 names nothing that exists.
    bracketed = split.netloc.startswith("[")
    if "@" not in split.netloc and (not _is_host(host) or bracketed != (":" in host)):
        raise RefusedError(f"{shown} names no host; {expected}")
    return split


def _without_secrets(url: str) -> str:
    """A URL as a message may show it: a query may hold a key, the part before ``@`` a password."""
    bare = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", r"\1…@", url, flags=re.DOTALL)
    return re.sub(r"[?#].*", "", bare, flags=re.DOTALL)


def _read_base(value: object, place: Place, example: str) -> tuple[SplitResult, str, str]:
    """Return the parts of a base URL, the URL as a message may show it, and its path without a slash at the end."""
    text = read_string(value, place)
    split = _split(text, f"write it like {example!r}")
    shown = show(_without_secrets(text))
    if split.scheme not in ("http", "https"):
        raise RefusedError(f"{shown} is neither http nor https")
    if "@" in split.netloc:
        raise RefusedError(f"{shown} holds a user name or password; credentials have keys of their own")
    if "?" in text or "#" in text:
        raise RefusedError(f"{shown} has a query or a fragment; write the base URL alone")
    path = split.path.rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*", path) or {".", ".."} & set(path.split("/")):
        raise RefusedError(f"{shown} has a path that cannot be used as a prefix")
    return split, shown, path


_VERSION_AT_THE_END = re.compile(r"/v[0-9]+[a-z0-9]*(:\w*)?$")


def read_endpoint(value: object, place: Place) -> str:
    """Return the base URL of an upstream, without a slash at its end."""
    split, shown, path = _read_base(value, place, "https://generativelanguage.googleapis.com")
    if split.scheme == "http" and not is_loopback_host(split.hostname or ""):
        raise RefusedError(
            f"{shown} would send credentials over the network in the clear; write https"
            " (plain http is for loopback hosts only)"
        )
    return f"{split.scheme}://{_netloc(split)}{path}"


def ends_in_version(url: str) -> bool:
    """Return whether a URL ends in an API version, as ``/v1beta``."""
    return _VERSION_AT_THE_END.search(urlsplit(url).path) is not None


def read_public_url(value: object, place: Place) -> str:
    """Return the base URL by which clients know the gateway, without a slash at its end."""
    split, shown, path = _read_base(value, place, "https://ai.example.net")
    if _VERSION_AT_THE_END.search(path):
        raise RefusedError(f"{shown} ends in an API version, which clients add themselves; leave it out")
    return f"{split.scheme}://{_netloc(split)}{path}"


def read_proxy_address(value: object, place: Place) -> str:
    """Read a trusted proxy: an address, a network, ``loopback`` or ``unix``."""
    text = read_text(value, place)
    if text in ("loopback", "unix"):
        return text
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise RefusedError(
            f"{show(text)} is no address, like '192.0.2.1' or '10.0.0.0/8', and neither 'loopback' nor 'unix'; "
            "names are not resolved"
        ) from None
    written = str(network.network_address) if network.num_addresses == 1 else str(network)
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise RefusedError(f"{show(text)} stands for addresses of IPv4; write those")
    if "/" in text and ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
        raise RefusedError(f"{show(text)} goes on behind its network; write {written!r}")
    if network.prefixlen == 0:
        place.warn(f"{written} is everybody: whoever sends a request may say where it comes from")
    return written


def read_origin(value: object, place: Place) -> str:
    """Return a web origin as browsers send it."""
    text = read_string(value, place)
    if text == "*":
        raise RefusedError("'*' would let every web page use your accounts; list the origins that may")
    if text == "null":
        raise RefusedError("'null' is the origin of every sandboxed page and local file; list the origins that may")
    expected = "write scheme://host or scheme://host:port, like 'http://localhost:3000'"
    split = _split(text, expected)
    origin = f"{split.scheme}://{_netloc(split)}"
    if "@" in split.netloc:
        raise RefusedError(f"{show(_without_secrets(text))} holds a user name; {expected}")
    if split.path or "?" in text or "#" in text:
        raise RefusedError(f"{show(_without_secrets(text))} goes on after its host; write {origin!r}")
    return origin


def read_host(value: object, place: Place) -> str:
    """Return a bare host name or address, as the Host header of a request names it."""
    text = read_text(value, place)
    host = text.lower().removesuffix(".")
    if _is_host(host):
        address = _address(host)
        return host if address is None else str(address)
    if "*" in text:
        raise RefusedError(f"{show(text)} is a pattern, and a pattern would undo the check; list each host")
    if not text.isascii():
        raise RefusedError(f"{show(text)} is not ASCII; write the name as browsers send it, starting with 'xn--'")
    try:
        bare = urlsplit(host if "//" in host else f"//{host}").hostname or ""
    except ValueError:
        bare = ""
    cure = f"; write {bare!r}" if _is_host(bare) else ""
    raise RefusedError(f"{show(_without_secrets(text))} is not a bare host name: no scheme, port or path{cure}")


_LISTENERS = ("tcp", "tcp6", "ssl", "unix", "systemd", "haproxy", "stdio")


def read_listener(value: object, place: Place) -> str:
    """
    Return a Twisted server endpoint; the files that it names start at the configuration's folder.

    Only its look is checked here: endpoint types can come from plugins.
    """
    text = read_text(value, place)
    kind, colon, rest = text.partition(":")
    if kind in _LISTENERS and (colon or kind == "stdio"):
        return _with_whole_paths(text, place)
    example = "write it like 'tcp:8045:interface=127.0.0.1'"
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", kind) or rest.isdecimal() or rest.startswith("//"):
        raise RefusedError(f"{show(text)} is not a Twisted server endpoint; {example}")
    if nearest := difflib.get_close_matches(kind.lower(), _LISTENERS, n=1, cutoff=0.65):
        raise RefusedError(f"{show(text)} is no type of server endpoint; did you mean '{nearest[0]}:{rest}'?")
    return text


def _with_whole_paths(text: str, place: Place) -> str:
    """Return the same with absolute paths: who starts the gateway, and who asks for it, may stand in another folder."""
    description = whole = Description.parse(text)
    for name, at in FILES_OF.get(description.kind, {}).items():
        path = description.argument(name, at) or (_DEFAULT_KEY if name == "privateKey" else None)
        if path is not None and not path.startswith("/"):
            whole = whole.put(name, at, str(read_path(path, place)))
    return text if whole == description else str(whole)


_DEFAULT_KEY = "server.pem"  # Twisted's, too


def read_collector(value: object, place: Place) -> str:
    """Return the base URL of an OTLP receiver, without a slash at its end."""
    text = read_string(value, place)
    split = _split(text, "write it like 'http://127.0.0.1:4318'")
    shown = show(_without_secrets(text))
    if split.scheme not in ("http", "https"):
        raise RefusedError(f"{shown} is neither http nor https; traces are sent by OTLP over HTTP, usually port 4318")
    if "@" in split.netloc or "?" in text or "#" in text:
        raise RefusedError(f"{shown} has a user, a query or a fragment; headers belong in OTEL_EXPORTER_OTLP_HEADERS")
    if split.path.rstrip("/").endswith("/v1/traces"):
        raise RefusedError(f"{shown} ends in /v1/traces, which is added; write the base URL alone")
    return f"{split.scheme}://{_netloc(split)}{split.path.rstrip('/')}"


def why_no_webhook(text: str) -> str | None:
    """Explain why a text is no URL that can be posted to, without a word of it; None if it is one."""
    expected = "write it whole, like https://hooks.example.net/agm"
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        return f"holds characters that no URL has; {expected}"
    try:
        split = urlsplit(text)
        host, usable = (split.hostname or ""), split.port != 0
    except ValueError:
        return f"cannot be read as a URL; {expected}"
    if split.scheme not in ("http", "https") or not usable or not _is_host(host):
        return f"is no URL of a webhook; {expected}"
    if "@" in split.netloc or split.fragment:
        return f"has a user or a fragment, which no webhook takes; {expected}"
    return None


def in_the_clear(url: str) -> bool:
    """Return whether what is sent to a URL can be read on the way."""
    split = urlsplit(url)
    return split.scheme == "http" and not is_loopback_host(split.hostname or "")

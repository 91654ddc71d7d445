"""
The dashboard, ``/ui/``: files of the package, the same for everybody, and so open without a key.

They hold nothing of this gateway.  What the page shows it asks of ``/_agm``, with the key that its user gives it where
one is asked for.  The page may load nothing from elsewhere, run nothing but its own scripts, and be framed by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from agm.core.errors import NotFound
from agm.serving.gateway import Gateway
from agm.web.access import Access
from agm.web.base import ApiResource, Unknown, Visit
from agm.web.request import GatewayRequestOnWire

_TYPES = {
    "css": b"text/css; charset=utf-8",
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
_HEADERS = [
    (
        b"Content-Security-Policy",
        b"default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"X-Frame-Options", b"DENY"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Cache-Control", b"no-cache"),
]


class Dashboard(ApiResource):
    """``/ui/`` and the files below it; ``/ui`` leads there."""

    def __init__(self, gateway: Gateway, access: Access) -> None:
        super().__init__(gateway, access)
        self._files = {
            file.name: (_TYPES[file.name.rpartition(".")[2]], file.read_bytes())
            for file in (files("agm.web") / "ui").iterdir()
            if file.name.rpartition(".")[2] in _TYPES
        }

    def is_open(self, wire: GatewayRequestOnWire, query: Mapping[str, str]) -> bool:
        """It holds no secret; what it asks for is guarded where that is."""
        return True

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        return self.methods if not wire.postpath or self._file(wire) is not None else ()

    def unknown(self, wire: GatewayRequestOnWire) -> NotFound:
        """There is no such file."""
        return NotFound("The dashboard has no such file; it begins at /ui/.")

    def _file(self, wire: GatewayRequestOnWire) -> tuple[bytes, bytes] | None:
        """Return the type and the content of the file that a path names."""
        rest = wire.postpath
        return self._files.get(rest[0].decode("ascii", "replace") or "index.html") if len(rest) == 1 else None

    async def respond(self, visit: Visit) -> None:
        found = self._file(visit.wire)
        if found is None:
            redirect(visit.wire)
        else:
            visit.wire.send(200, [(b"Content-Type", found[0]), *_HEADERS], found[1])


class Home(Unknown):
    """``/``: a browser is led to the dashboard; for a program it is a path like any other that is not known."""

    def is_open(self, wire: GatewayRequestOnWire, query: Mapping[str, str]) -> bool:
        """Keep the dashboard open: its address is no secret."""
        return wants_page(wire)

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        return ("GET", "HEAD") if wants_page(wire) else ()

    async def respond(self, visit: Visit) -> None:
        redirect(visit.wire)


def wants_page(wire: GatewayRequestOnWire) -> bool:
    """Return whether a browser asks, on a person's behalf."""
    accepted = wire.requestHeaders.getRawHeaders(b"accept") or [b""]
    return wire.method in (b"GET", b"HEAD") and b"text/html" in accepted[0].lower()


def redirect(wire: GatewayRequestOnWire) -> None:
    """Lead to the dashboard; the address is relative, so that it holds behind a proxy that adds to the path, too."""
    headers = [(b"Location", b"ui/"), (b"Content-Type", b"text/plain; charset=utf-8"), (b"Vary", b"Accept")]
    wire.send(302, headers, b"The dashboard is at ui/\n")

"""
``twistd agm-emulator``: the emulator as a service.  This is the emulator's composition root, and the only place in it
that names the global reactor.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.application import service, strports
from twisted.internet import endpoints
from twisted.internet.error import CannotListenError
from twisted.python import usage

from agm.emulator.scenarios import SCENARIOS
from agm.emulator.site import make_site
from agm.net.clocks import use_steady_clock

DEFAULT_PORT = 8046


class Options(usage.Options):
    """Where to listen."""

    synopsis = "[--port PORT | --listen ENDPOINT ...]"
    longdesc = (
        "An emulator of Google's Gemini upstreams: the Developer API, Vertex AI, code-assist and the OAuth token "
        "endpoint on one port, with faults on request. It needs no credentials and no network."
    )
    optParameters = [  # noqa: RUF012 - usage.Options reads it from the class
        ["port", "p", DEFAULT_PORT, "The port to listen on, on 127.0.0.1.", int],
        ["seed", None, 0, "Changes the details of the answers.", int],
        ["scenario", None, None, "Faults from the start on, by a name of docs/emulator-ci.md."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """A Twisted server endpoint to listen on, instead of --port (repeatable)."""
        self["listen"].append(endpoint)

    opt_l = opt_listen

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line.  Below twistd a mistake is one line: twistd would print all of its help first."""
        try:
            super().parseOptions(options)
        except usage.UsageError as mistake:
            if self.parent is None:
                raise
            raise SystemExit(f"twistd agm-emulator: {mistake}") from mistake

    def postOptions(self) -> None:
        """Settle the endpoints, and refuse a bad one."""
        from twisted.internet import reactor

        if self["scenario"] is not None and self["scenario"] not in SCENARIOS:
            raise usage.UsageError(f"unknown scenario {self['scenario']!r}; there are {', '.join(SCENARIOS)}")
        if not self["listen"]:
            self["listen"] = [f"tcp:{self['port']}:interface=127.0.0.1"]
        for endpoint in self["listen"]:
            try:
                endpoints.serverFromString(reactor, endpoint)
            except Exception as problem:
                raise usage.UsageError(f"bad endpoint {endpoint!r}: {problem}") from problem


class Listening(service.MultiService):
    """The emulator's endpoints; one that cannot be listened on ends the process with one line and status 1."""

    def privilegedStartService(self) -> None:
        """Listen, before privileges are given up."""
        try:
            super().privilegedStartService()
        except CannotListenError as problem:
            raise SystemExit(f"twistd agm-emulator: {problem}") from problem


def makeService(options: Options) -> service.MultiService:
    """Return the emulator on every endpoint of the options."""
    from twisted.internet import reactor

    use_steady_clock(reactor)
    site = make_site(reactor, seed=options["seed"])
    site.state.follow(options["scenario"])
    services = Listening()
    for endpoint in options["listen"]:
        strports.service(endpoint, site, reactor=reactor).setServiceParent(services)
    return services

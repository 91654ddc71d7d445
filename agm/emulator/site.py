"""
The web server: one request in, one reply out, by the path.

:func:`make_site` is what others use.  The site's ``state`` holds everything that changes, for tests in
the same process.  Nothing is written to an access log: the request log of ``/_emu/log`` has more, and no credentials.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web import http, resource, server
from twisted.web.server import NOT_DONE_YET, Request

from agm.emulator import codeassist, control, developer, live, liveinteraction, oauth, openai, pages, vertex
from agm.emulator.calls import Call
from agm.emulator.errors import GoogleError
from agm.emulator.playback import Playback
from agm.emulator.replies import Reply, json_reply
from agm.emulator.requestlog import Entry
from agm.emulator.sockets import take_over
from agm.emulator.state import State

#: How long an idle connection is kept, in seconds; Google's front ends keep theirs about as long.
IDLE = 240

Surface = tuple[Callable[[Call], bool], Callable[[Call, State, Entry], Reply]]

#: In this order: Vertex AI's paths, and those of the OpenAI surface, begin as the Developer API's do.
SURFACES: Sequence[Surface] = (
    (codeassist.handles, codeassist.reply),
    (vertex.handles, vertex.reply),
    (openai.handles, openai.reply),
    (oauth.handles, oauth.reply),
    (developer.handles, developer.reply),
)


def answer(call: Call, state: State, entry: Entry) -> Reply:
    """Return the reply to a call of any upstream kind."""
    for handles, reply in SURFACES:
        if handles(call):
            return reply(call, state, entry)
    return pages.not_found(call.path)


def open_session(call: Call, state: State, entry: Entry) -> live.Talk | Reply:
    """Return a Live session or interaction, if that is what is asked for and Vertex AI does not refuse it."""
    if call.headers.get("upgrade", "").lower() != "websocket" or not call.headers.get("sec-websocket-key"):
        return pages.not_found(call.path)
    try:
        if liveinteraction.handles(call):
            return liveinteraction.LiveInteraction(call, state, entry)
        return live.Session(call, state, entry)
    except GoogleError as error:
        return json_reply(error.document(), status=error.status)


class EmulatorRequest(server.Request):
    """A request that reads its own body: Twisted would parse a form, and write a large body to a file, first."""

    def __init__(self, channel: http.HTTPChannel, *args: object) -> None:
        super().__init__(channel, parsePOSTFormSubmission=False)


class Connection(http.HTTPChannel):
    """A connection with a number, and without Nagle's delay."""

    number = 0

    def connectionMade(self) -> None:
        """Take a number."""
        assert isinstance(self.factory, EmulatorSite)  # which is what builds connections
        self.number = self.factory.state.next_connection()
        transport: Any = self.transport  # TCP, TLS or a unix socket, which ignores this
        transport.setTcpNoDelay(True)
        super().connectionMade()


class Everything(resource.Resource):
    """The one resource."""

    isLeaf = True
    _log = Logger()

    def __init__(self, reactor: IReactorTime, state: State) -> None:
        super().__init__()
        self._reactor = reactor
        self._state = state

    def render(self, request: Request) -> int:
        """Note the request, find its reply and play it."""
        call = call_of(request)
        clock = self._state.clock
        if call.path.startswith("/_emu"):
            # Control is not logged: the log holds what a gateway sent.
            reply = control.reply(call, self._state)
            entry = unlogged(clock.now())
        else:
            entry = self._state.log.open(
                time=clock.now(),
                connection=getattr(request.channel, "number", 0),
                method=call.method,
                path=call.path,
                query=call.query,
                headers=call.headers,
                body=call.body,
            )
            try:
                if live.handles(call) or liveinteraction.handles(call):
                    opened = open_session(call, self._state, entry)
                    if not isinstance(opened, Reply):
                        take_over(self._reactor, clock, request, opened, entry)
                        return NOT_DONE_YET
                    reply = opened
                else:
                    reply = answer(call, self._state, entry)
            except Exception:
                self._log.failure("could not answer {method} {path}", method=call.method, path=call.path)
                reply = json_reply(GoogleError(500, "The emulator failed; its log says why.").document(), status=500)
        request.responseHeaders.removeHeader("Content-Type")
        request.responseHeaders.removeHeader("Server")
        Playback(self._reactor, clock, request, reply, entry).start()
        return NOT_DONE_YET


def unlogged(now: float) -> Entry:
    """Return an entry that is in no log."""
    return Entry(
        seq=0, time=now, connection=0, method="", path="", query={}, headers={}, body_sha256="", body_length=0, body=b""
    )


def call_of(request: Request) -> Call:
    """Return a request as a value."""
    target, _, query = request.uri.partition(b"?")
    scheme = "https" if request.isSecure() else "http"
    host = request.getHeader("host") or "127.0.0.1"
    return Call(
        method=request.method.decode("latin-1"),
        path=urllib.parse.unquote(target.decode("latin-1")),
        query=dict(urllib.parse.parse_qsl(query.decode("latin-1"), keep_blank_values=True)),
        headers={
            name.decode("latin-1").lower(): ", ".join(value.decode("latin-1") for value in found)
            for name, found in request.requestHeaders.getAllRawHeaders()
        },
        body=b"" if request.content is None else request.content.read(),
        base_url=f"{scheme}://{host}",
    )


class EmulatorSite(server.Site):
    """The emulator's factory; `state` is what it remembers."""

    protocol = Connection  # type: ignore[assignment] # Twisted's is a function that builds the like

    def __init__(self, reactor: IReactorTime, state: State) -> None:
        super().__init__(Everything(reactor, state), EmulatorRequest, timeout=IDLE, reactor=reactor)
        self.state = state
        self.displayTracebacks = False

    def log(self, request: http.Request) -> None:
        """Say nothing: a line of an access log would hold ``?key=``."""


def make_site(reactor: IReactorTime, *, seed: int = 0) -> EmulatorSite:
    """
    Return the emulator as a factory to listen with.

    :param reactor: gives the time; a ``task.Clock`` does.
    :param seed: changes the answers' details; the same seed gives the same bytes.
    """
    return EmulatorSite(reactor, State(reactor, seed))

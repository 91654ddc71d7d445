"""
Signing in with a browser: the port on loopback to which it is sent back, and the exchange of its code for tokens.

:mod:`agm.core.oauth` knows what is asked and what the answers mean; here is what listens, waits and sends.  Nothing is
kept: what a sign-in gave goes to whoever asked for it, and the port is closed when the sign-in is over.
"""

from __future__ import annotations

import html
import secrets
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as WaitTimeout
from twisted.internet.task import deferLater
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import Site

from agm import __version__
from agm.core.oauth import Authorization, ForeignState, Grant, OAuthClient, SignInFailed, read_grant
from agm.upstream.client import UpstreamClient, UpstreamFailed

#: Seconds for the token endpoint to answer.
PATIENCE = 30.0
MAX_ANSWER = 1024 * 1024
#: Seconds for the last page to reach the browser before the port's process may end.
LINGER = 0.2


def new_authorization(client: OAuthClient, redirect_uri: str) -> Authorization:
    """Return a question with a state and a verifier that nobody can guess."""
    return Authorization(client, secrets.token_urlsafe(32), secrets.token_urlsafe(64), redirect_uri)


async def exchange(client: UpstreamClient, authorization: Authorization, code: str) -> Grant:
    """
    Turn a code into a grant.

    :raises SignInFailed: if the token endpoint refuses, or cannot be asked.
    """
    try:
        answer = await client.fetch(
            "POST",
            authorization.client.token_uri,
            (
                (b"Content-Type", b"application/x-www-form-urlencoded"),
                (b"User-Agent", f"agm/{__version__}".encode("ascii")),
                (b"Accept", b"application/json"),
            ),
            authorization.token_request(code),
            timeout=PATIENCE,
            limit=MAX_ANSWER,
        )
    except UpstreamFailed as e:
        raise SignInFailed(f"the token endpoint cannot be asked: {e}; start again") from None
    return read_grant(answer.status, answer.body)


class RedirectPort:
    """
    A free port of 127.0.0.1 that waits for one redirect of a browser.

    A redirect that belongs to another sign-in is told so in the browser and to `remark`, and is waited past: any page
    that the browser has open could send one.  After the first that counts, later ones are refused.

    :param remark: told in a sentence what was refused.
    """

    def __init__(self, reactor: Any, remark: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._remark = remark
        self._authorization: Authorization | None = None
        self._redirected: Deferred[str] = Deferred()
        site = Site(_Callback(self))
        site.noisy = False
        self._port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.uri = f"http://127.0.0.1:{self._port.getHost().port}/"

    async def code(self, authorization: Authorization, timeout: float) -> str:
        """
        Return the code that the browser brings.

        :param timeout: seconds to wait for it.
        :raises SignInFailed: if the person said no, or nobody came.
        """
        self._authorization = authorization
        self._redirected.addTimeout(timeout, self._reactor)
        try:
            return await self._redirected
        except WaitTimeout:
            raise SignInFailed(
                f"nobody signed in within {timeout:g} seconds; start again,"
                " or use --no-browser if the browser is on another machine"
            ) from None

    async def close(self) -> None:
        """Stop listening; what was said to the browser still reaches it."""
        await maybeDeferred(self._port.stopListening)
        await deferLater(self._reactor, LINGER)

    def redirected(self, query: str) -> tuple[int, str]:
        """Take a redirect: a status and a sentence for the browser."""
        if self._authorization is None or self._redirected.called:
            self._remark("a second answer came to the port of this sign-in, and was refused")
            return 409, "This sign-in is over already. Nothing was done with this answer; you can close the page."
        try:
            code = self._authorization.code_of(query)
        except ForeignState as e:
            self._remark(f"an answer was refused: {e.reason}")
            return 400, f"Nothing was done: {e.reason}."
        except SignInFailed as e:
            self._redirected.errback(e)
            return 200, f"You are not signed in: {e.reason}."
        self._redirected.callback(code)
        return 200, "agm has what it needs. You can close this page and go back to the terminal."


class _Callback(Resource):
    """What the browser sees."""

    isLeaf = True

    def __init__(self, port: RedirectPort) -> None:
        super().__init__()
        self._port = port

    def render(self, request: HTTPRequest) -> bytes:
        """Take ``GET /?…``; another host's name in the request, or any other path, is not ours."""
        path, _, query = request.uri.partition(b"?")
        ours = self._port.uri.removeprefix("http://").rstrip("/").encode("ascii")
        if request.requestHeaders.getRawHeaders(b"host") != [ours] or path != b"/" or request.method != b"GET":
            status, text = 404, "There is nothing here."
        else:
            status, text = self._port.redirected(query.decode("ascii", "replace"))
        request.setResponseCode(status)
        for name, value in (
            (b"Content-Type", b"text/html; charset=utf-8"),
            (b"Cache-Control", b"no-store"),
            # the address of this page holds the code: it must not go anywhere from here
            (b"Referrer-Policy", b"no-referrer"),
            (b"Content-Security-Policy", b"default-src 'none'; style-src 'unsafe-inline'"),
            (b"Connection", b"close"),
        ):
            request.setHeader(name, value)
        page = (
            '<!doctype html><meta charset="utf-8"><title>agm</title>'
            f'<p style="font: 1.1em sans-serif; margin: 3em">{html.escape(text)}</p>\n'
        )
        return page.encode("utf-8")

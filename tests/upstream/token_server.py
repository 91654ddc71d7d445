"""
A token endpoint for tests: it speaks the three dialects that google-auth does, counts, and fails as it is told to.

Every token that it gives out contains `CANARY`, so that a test can look for tokens where none should be.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl

import attrs
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

reactor: Any = _reactor

CANARY = "canary-7f3a"

Answer = tuple[int, bytes]


@attrs.frozen
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: bytes
    headers: dict[str, list[str]]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        """The fields of a form."""
        return dict(parse_qsl(self.body.decode("ascii")))


class TokenServer(Resource):
    """
    ``/token`` and ``/sts`` answer as OAuth does, ``…:generateAccessToken`` as the IAM API does.

    `script` holds the answers to give first, a status and a body each.  While `held` is true answers wait for
    :meth:`release`.  `skew` is how far the server's clock is ahead of the computer's, in seconds; `date` stands for
    what it would say about it.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.script: deque[Answer] = deque()
        self.expires_in: object = 3600
        self.skew = 0.0
        self.date: str | None = None
        self.held = False
        self.left = 0
        self._waiting: list[Callable[[], None]] = []
        self._given = 0
        self._site = Site(self, timeout=None, reactor=reactor)
        self._port = reactor.listenTCP(0, self._site, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self._port.getHost().port}"

    @property
    def host(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    @property
    def count(self) -> int:
        """How many requests came."""
        return len(self.asked)

    def render(self, request: Request) -> Any:
        assert request.content is not None
        self.asked.append(
            Asked(
                request.method.decode("ascii"),
                request.path.decode("ascii"),
                request.uri.partition(b"?")[2],
                {
                    name.decode("ascii").lower(): [value.decode("latin-1") for value in values]
                    for name, values in request.requestHeaders.getAllRawHeaders()
                },
                request.content.read(),
            )
        )
        gone: list[bool] = []
        request.notifyFinish().addErrback(lambda _: self._leave(gone))
        self._waiting.append(lambda: None if gone else self._answer(request))
        if not self.held:
            self.release()
        return NOT_DONE_YET

    def release(self) -> None:
        """Answer what waits, and hold nothing back any more."""
        self.held = False
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer()

    def _leave(self, gone: list[bool]) -> None:
        gone.append(True)
        self.left += 1

    def _answer(self, request: Request) -> None:
        clock = datetime.now(UTC) + timedelta(seconds=self.skew)
        status, body = self.script.popleft() if self.script else (200, self._token(request, clock))
        request.setResponseCode(status)
        request.setHeader("date", self.date or format_datetime(clock, usegmt=True))
        request.setHeader("content-type", "application/json")
        request.setHeader("metadata-flavor", "Google")
        request.setHeader("set-cookie", f"session={CANARY}; Path=/")
        request.write(body)
        request.finish()

    def _token(self, request: Request, clock: datetime) -> bytes:
        self._given += 1
        token = f"ya29.{CANARY}-{self._given}"
        if request.path.endswith(b":generateAccessToken"):
            expires = clock + timedelta(seconds=float(str(self.expires_in)))
            return json.dumps({"accessToken": token, "expireTime": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode()
        answer = {"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"}
        return json.dumps(answer).encode()

    async def stop(self) -> None:
        """Close everything."""
        closed = self._port.stopListening()
        for channel in list(reactor.getReaders()):
            protocol = getattr(channel, "protocol", None)
            original = getattr(protocol, "_channel", protocol)
            if isinstance(original, HTTPChannel) and original.factory is self._site:
                channel.abortConnection()
        if isinstance(closed, Deferred):
            await closed


def oauth_error(code: str, status: int = 400, description: str = f"It was {CANARY}.", **more: str) -> Answer:
    """An error as RFC 6749 has it; the description holds what no log may."""
    return status, json.dumps({"error": code, "error_description": description, **more}).encode()


def api_error(status: int, code: str) -> Answer:
    """An error as Google's APIs have it."""
    error = {"code": status, "message": f"It was {CANARY}.", "status": code}
    return status, json.dumps({"error": error}, indent=2).encode()

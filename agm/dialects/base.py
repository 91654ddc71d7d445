"""
The common ground of dialects: a request of a client is read, translated to a call of a model, made, and answered.

:class:`Dialect` does what is the same for each of them: it is on where ``[dialects]`` says so, finds its endpoint,
makes the call with the client's limits and records, and writes every error in its client's form, whosever it is, with
its status and ``Retry-After``.  A subclass says what its endpoints are and how they translate.  What an API has and
Gemini lacks is refused by its name (:class:`BadParameter`), and never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, ClassVar

from agm.api import (
    Answer,
    ApiResource,
    BadUpstreamAnswer,
    Body,
    GatewayError,
    GoogleError,
    InvalidRequest,
    StreamFailure,
    TranslatedCall,
    Translation,
    Visit,
    read_error,
    relay_translated,
    send_translated,
)

__all__ = ["BadParameter", "Dialect", "StreamBroken", "UpstreamRefused", "read_object", "stream_error", "unreadable"]


#: The header of an answer that tells what of a request its call does not say.
LEFT_OUT = b"X-Agm-Left-Out"
MAX_LINE = 1000


class BadParameter(InvalidRequest):
    """
    400: a parameter has a value that it cannot have, or is one that no model of Google's has.

    `param` is its name as the client wrote it, with what is above it: ``messages[2].content[0].type``.
    """

    reason = "INVALID_PARAMETER"

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


class UpstreamRefused(GatewayError):
    """
    The call was answered with an error: its status, and its message, in which no account is named.

    `google` is what the error says in Google's words, None where it is not in those.
    """

    reason = "UPSTREAM_REFUSED"

    def __init__(self, answer: Answer, body: bytes) -> None:
        self.google: GoogleError | None = read_error(body)
        message = self.google.message if self.google is not None else ""
        super().__init__(message or f"The upstream answered {answer.status}.")
        self.status = answer.status
        self.answer = answer


class StreamBroken(GatewayError):
    """A stream cannot be completed; `status` and the message are the upstream's, where it has told."""

    reason = "UPSTREAM_BROKE_OFF"

    def __init__(self, failure: StreamFailure) -> None:
        self.google: GoogleError | None = read_error(failure.document)
        message = self.google.message if self.google is not None else ""
        super().__init__(message or "The upstream's answer broke off.")
        self.status = failure.code


def stream_error(failure: StreamFailure) -> StreamBroken:
    """Make the error that ends a stream, for a :class:`agm.api.Translation`."""
    return StreamBroken(failure)


class Dialect(ApiResource):
    """
    The resource of a dialect, for all of its paths.

    Subclasses have a `name` (the key of ``[dialects]``, and what records call it), a `base` (how its paths begin), and
    their `endpoints`, which are all posted to but ``models``: that is a list, and has what is below it, too.
    """

    name: ClassVar[str]
    base: ClassVar[re.Pattern[bytes]]
    endpoints: ClassVar[Collection[str]]
    #: The header in which its clients look for a request's id.
    id_header: ClassVar[str] = "X-Request-Id"

    # For subclasses

    def methods_at(self, endpoint: str) -> Sequence[str]:
        """Return the HTTP methods of an endpoint, ``chat/completions``; none where nothing is."""
        if endpoint == "models" or endpoint.startswith("models/"):
            return ("GET", "HEAD")
        return ("POST",) if endpoint in self.endpoints else ()

    async def answer(self, visit: Visit, endpoint: str) -> None:
        """Answer a request to an endpoint; see :meth:`call`, :meth:`stream` and :meth:`send`."""
        raise NotImplementedError

    def translate(self, path: str, body: bytes) -> TranslatedCall:
        """
        Say which call of a model a request comes to, for ``agm explain``.

        :param path: the request's; "" for the dialect's usual one.
        """
        raise NotImplementedError

    # What they use

    async def call(self, visit: Visit, asked: TranslatedCall, *, after: Answer | None = None) -> Answer:
        """
        Make the call of a model that answers a request: with its client's key and limits, and recorded as its.

        Cancelled when the client leaves, and so is the upstream's request.

        :param after: the answer of the first call for the same request, where that takes several: it has met the
            client's limits, and its row is the others' parent.
        :returns: a good answer, to be given to :meth:`stream`, or read and closed.
        :raises UpstreamRefused: if it is answered with an error.
        :raises GatewayError: if no account can serve it, or it may not be made.
        """
        if asked.left_out:
            visit.wire.responseHeaders.setRawHeaders(LEFT_OUT, [_line(asked.left_out)])
        answer = await self.gateway.call(
            asked.model,
            asked.body,
            method=asked.method,
            visit=visit if after is None else None,
            parent=None if after is None else after.request,
            dialect=self.name,
            for_model=asked.for_model,
        )
        if answer.status >= 400:
            raise UpstreamRefused(answer, await answer.read())
        return answer

    async def stream(self, visit: Visit, answer: Answer, translation: Translation) -> None:
        """Relay an answer, each event as it comes, no faster than the client takes it; see :class:`Translation`."""
        told = ((self.id_header, visit.id),)
        await relay_translated(self.gateway, visit, answer, translation, told)

    def send(self, visit: Visit, answer: Answer, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Send what has been made of an answer that was read to its end."""
        send_translated(self.gateway, visit, answer, body, headers=[*headers, (self.id_header, visit.id)])

    # The resource

    @property
    def on(self) -> bool:
        """Whether ``[dialects]`` has it on, now."""
        return bool(getattr(self.gateway.config.dialects, self.name))

    def endpoint_of(self, path: bytes) -> str | None:
        """Return what a raw path has after the base; None for the path of something else."""
        return _endpoint(self.base, path)

    def claims(self, wire: Any) -> bool:
        return self.on and bool(self._methods(wire.path))

    def _methods(self, path: bytes) -> Sequence[str]:
        endpoint = self.endpoint_of(path)
        return () if endpoint is None else self.methods_at(endpoint)

    def methods_of(self, wire: Any) -> Sequence[str]:
        return self._methods(wire.path) if self.on else ()

    async def respond(self, visit: Visit) -> None:
        endpoint = self.endpoint_of(visit.wire.path)
        assert endpoint is not None, "it has methods"
        try:
            await self.answer(visit, endpoint)
        except UpstreamRefused as e:
            # not raised: it is the upstream's error, and has been counted as such
            retry = e.answer.headers.get("retry-after")
            self.send(visit, e.answer, self.error_body(e), [] if retry is None else [("Retry-After", retry)])
        except GatewayError:
            if not visit.wire.startedWriting:
                visit.wire.responseHeaders.setRawHeaders(self.id_header, [visit.id])
            raise


@lru_cache(maxsize=256)
def _endpoint(base: re.Pattern[bytes], path: bytes) -> str | None:
    match = base.match(path)
    return None if match is None else path[match.end() :].decode("ascii", "replace").strip("/")


def _line(left_out: Sequence[str]) -> str:
    """Return as much as a header's line may hold."""
    text = "; ".join(left_out).encode("ascii", "backslashreplace").decode("ascii")
    return text if len(text) <= MAX_LINE else text[: MAX_LINE - 3] + "..."


def read_object(body: bytes) -> dict[str, Any]:
    """
    Read a request's body.

    :raises InvalidRequest: if it is no JSON object, or one that nobody reads at once.
    """
    return Body(body).json()


def unreadable(error: Exception) -> BadUpstreamAnswer:
    """Make the error for an answer that is not what Google's are."""
    return BadUpstreamAnswer(f"The upstream's answer cannot be read: {error}.")

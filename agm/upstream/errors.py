"""Why there is no answer of an upstream, or no whole one; each says what the upstream may have seen."""

from __future__ import annotations


class StaleConnection(Exception):
    """A kept-alive connection closed before a byte of the answer came: the request was not served."""


class BrokenAnswer(Exception):
    """The upstream closed the connection, or broke the protocol, before it marked the end of its answer."""


class NotHttp(BrokenAnswer):
    """What came does not begin as an answer does: whatever listens there has not served the request."""


class TruncatedAnswer(BrokenAnswer):
    """The connection closed in the middle of the answer."""


class EncodedAnswer(BrokenAnswer):
    """The answer is compressed, or has a transfer coding other than ``chunked``, which was not asked for."""


class NoAnswer(Exception):
    """The upstream closed a new connection before a byte of the answer came."""


class NoHandshake(Exception):
    """The connection closed before TLS was agreed on: nothing was sent."""

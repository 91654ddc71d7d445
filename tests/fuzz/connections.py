"""
Mutated requests for the whole of the gateway's HTTP side, without a network: a channel over memory, and no accounts.

Whatever comes, nothing is logged as a failure, every answer is whole and in its form, and the channel ends or waits.
"""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import h11
from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel, globalLogPublisher

from agm.serving.assemble import make_gateway
from agm.testing import parse_config
from agm.web.access import Access
from agm.web.channel import GatewayChannel
from agm.web.root import make_site
from agm.web.site import GatewaySite
from tests.fuzz.mutation import pieces

_CONFIG = """
[gateway]
max_body = "1KiB"
cors_origins = ["https://page.example"]
[[auth.keys]]
name = "a"
key = "correct-horse-battery"
models = ["m*"]
"""


class _Transport(StringTransport):
    """A client's side: it has an address, and takes everything."""

    def __init__(self) -> None:
        super().__init__(IPv4Address("TCP", "127.0.0.1", 8045), IPv4Address("TCP", "127.0.0.1", 50000))
        self.ended = False

    def loseWriteConnection(self) -> None:
        self.ended = True

    def loseConnection(self) -> None:
        self.ended = True

    def abortConnection(self) -> None:
        self.ended = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """As it likes."""


@functools.cache
def site() -> tuple[GatewaySite, MemoryReactorClock]:
    """The gateway's site, without anything behind it."""
    clock = MemoryReactorClock()
    gateway = make_gateway(clock, parse_config(_CONFIG), "off", plugins=())
    return make_site(gateway, Access.of([], ["127.0.0.1"], ["https://page.example"])), clock


def check(data: bytes, rng: random.Random) -> None:
    """One connection: these bytes, perhaps in pieces, and then its end."""
    made, clock = site()
    failures: list[Any] = []

    def watch(event: Any) -> None:
        if event.get("log_level") is LogLevel.critical or event.get("log_failure") is not None:
            failures.append(event.get("log_failure") or event.get("log_format"))

    globalLogPublisher.addObserver(watch)
    try:
        channel = GatewayChannel(made)
        transport = _Transport()
        channel.makeConnection(transport)
        for piece in pieces(data, rng):
            channel.dataReceived(piece)
        clock.advance(0)
        written = transport.value()
        channel.connectionLost()
        clock.advance(0)
    finally:
        globalLogPublisher.removeObserver(watch)
    assert not failures, failures
    assert channel not in made.channels
    assert not made.reserved, "bytes of a body that were not given back"
    read_answers(written, data)


def read_answers(written: bytes, data: bytes) -> None:
    """Every answer in what was written, by h11; errors are Google's."""
    while written and b"HEAD" not in data:  # an answer to HEAD has a length and nothing behind it
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(written)
        response: Any = None
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert event not in (h11.NEED_DATA, h11.PAUSED), "an answer that is cut short"
            if isinstance(event, h11.Response):
                response, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
        written = client.trailing_data[0]
        assert any(name == b"x-agm-request-id" for name, _ in response.headers)
        if response.status_code >= 400:
            assert json.loads(body)["error"]["code"] == response.status_code

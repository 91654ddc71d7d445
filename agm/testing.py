"""
For tests: a gateway and an emulator on loopback, in the process of the test.

``pytest_plugins = ["agm.testing"]`` gives the fixtures; they need pytest-twisted.  Everything that they start is
stopped when the test ends, and a gateway that leaves a lease or a connection behind fails the test that it served.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort

from agm import config as configuration
from agm.config import Config
from agm.gateway import Gateway
from agm.tap import make_gateway, make_site
from agm.web.access import Access
from agm.web.site import GatewaySite


@attrs.define(eq=False)
class RunningGateway:
    """A gateway that listens on `url`, e.g. ``http://127.0.0.1:40123``."""

    url: str
    gateway: Gateway
    site: GatewaySite
    _port: IListeningPort

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.url.rpartition(":")[2])

    async def stop(self) -> None:
        """Stop listening, cut what is left, and close the connections to upstreams."""
        await maybeDeferred(self._port.stopListening)
        await self.site.drain(0)
        await self.gateway.stop()


@attrs.define(eq=False)
class RunningEmulator:
    """An emulator that listens on `url`; `state` holds its accounts, scripts and log."""

    url: str
    state: Any
    _port: IListeningPort

    async def stop(self) -> None:
        """Stop listening."""
        await maybeDeferred(self._port.stopListening)


def parse_config(text: str) -> Config:
    """A configuration from TOML text, with no environment."""
    return configuration.parse(text, environ={})


async def start_gateway(
    reactor: Any, config: Config, *, plugins: Sequence[object] = (), auth_mode: str | None = None, policy: Any = None
) -> RunningGateway:
    """
    Start a gateway on a free port of 127.0.0.1.

    :param auth_mode: the mode in force; the configuration's by default, where ``auto`` is ``off`` on loopback.
    """
    mode = auth_mode or ("off" if config.auth.mode == "auto" else config.auth.mode)
    gateway = make_gateway(reactor, config, mode, plugins=plugins, policy=policy)
    site = make_site(gateway, Access.of(config.gateway.allowed_hosts, ["127.0.0.1"], config.gateway.cors_origins))
    await gateway.start()
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    return RunningGateway(f"http://127.0.0.1:{port.getHost().port}", gateway, site, port)


async def start_emulator(reactor: Any) -> RunningEmulator:
    """Start an emulator on a free port of 127.0.0.1."""
    from agm.emulator.site import make_site as make_emulator_site

    site = make_emulator_site(reactor)
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    return RunningEmulator(f"http://127.0.0.1:{port.getHost().port}", site.state, port)


GatewayFactory = Callable[..., Awaitable[RunningGateway]]


@pytest_twisted.async_yield_fixture
async def gateway() -> AsyncIterator[GatewayFactory]:
    """
    A function that starts a gateway: ``running = await gateway(config)``, with a configuration's text or a Config.

    Every account must have got its leases back when the test ends.
    """
    from twisted.internet import reactor

    started: list[RunningGateway] = []

    async def start(config: Config | str, **options: Any) -> RunningGateway:
        parsed = parse_config(config) if isinstance(config, str) else config
        running = await start_gateway(reactor, parsed, **options)
        started.append(running)
        return running

    yield start
    for running in started:
        await running.stop()
        leased = {name: load for name, load in running.gateway.pool.loads().items() if load}
        assert not leased, f"accounts were not given back: {leased}"


@pytest_twisted.async_yield_fixture
async def emulator() -> AsyncIterator[RunningEmulator]:
    """An emulator of Google's upstreams."""
    from twisted.internet import reactor

    running = await start_emulator(reactor)
    yield running
    await running.stop()


@pytest.fixture
def clock() -> Any:
    """A clock that stands still until a test advances it."""
    from twisted.internet.task import Clock

    return Clock()

"""
For tests of plugins and of programs that use the gateway: a gateway and an emulator on loopback, in the test's process.

``pytest_plugins = ["agm.testing"]`` gives the fixtures :func:`gateway`, :func:`emulator`, :func:`plugin_manager`,
:func:`make_request` and :func:`clock`; they need pytest-twisted.  :func:`check_plugin` holds a plugin to the hookspecs.
Everything that a fixture starts is stopped when the test ends, and a gateway that leaves a lease behind fails the test
that it served.  Nothing here leaves the machine.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import pytest
import pytest_twisted
import treq
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.web.client import Agent

from agm import config as configuration
from agm.app import rlimit as descriptors
from agm.config import Config
from agm.core.request import GatewayRequest
from agm.plugins.manager import PluginManager, make_plugin_manager
from agm.serving.assemble import make_gateway
from agm.serving.gateway import Gateway
from agm.testing.conformance import build_request, check_plugin
from agm.web.access import Access
from agm.web.root import make_site
from agm.web.site import GatewaySite

__all__ = [
    "Answer",
    "GatewayFactory",
    "PluginManagerFactory",
    "RunningEmulator",
    "RunningGateway",
    "build_request",
    "check_plugin",
    "parse_config",
    "start_emulator",
    "start_gateway",
]


@attrs.frozen
class Answer:
    """A gateway's answer: `status`, `headers` (lower-case names) and the whole `body`."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The document of a unary answer, of an array, or of an error."""
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The documents of an answer in server-sent events."""
        return [json.loads(line[6:]) for line in self.body.splitlines() if line.startswith(b"data: ")]

    @property
    def text(self) -> str:
        """The text of the first candidate, of all events together."""
        events = self.events if self.headers.get("content-type") == "text/event-stream" else [self.json]
        candidates = [event["candidates"][0] for event in events if event.get("candidates")]
        return "".join(part.get("text", "") for c in candidates for part in c.get("content", {}).get("parts", ()))

    @property
    def account(self) -> str | None:
        """The account that served, where the configuration has ``[gateway] show_account = true``."""
        return self.headers.get("x-agm-account")


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

    async def ask(
        self,
        model: str = "gemini-2.5-flash",
        text: str = "Hello",
        *,
        method: str = "generateContent",
        body: Mapping[str, Any] | bytes | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """
        Send a request as a client does, and read the whole answer.

        :param text: the question, where no `body` is given.
        :param method: ``streamGenerateContent`` is asked for in server-sent events.
        :param key: the client key to send.
        """
        if body is None:
            body = {"contents": [{"role": "user", "parts": [{"text": text}]}]}
        query = "?alt=sse" if method == "streamGenerateContent" else ""
        return await self.fetch(
            "POST",
            f"/v1beta/models/{model}:{method}{query}",
            body=body if isinstance(body, bytes) else json.dumps(body).encode(),
            key=key,
            headers=headers,
        )

    async def explain(self, model: str = "gemini-2.5-flash", **question: Any) -> Any:
        """Explain a request as ``agm explain`` does: the document that docs/plugins.md describes."""
        answer = await self.fetch("POST", "/_agm/explain", body=json.dumps({"model": model, **question}).encode())
        assert answer.status == 200, answer.body
        return answer.json

    async def fetch(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Any request, on a connection of its own."""
        sent: dict[bytes | str, bytes | str] = {"Connection": "close"}
        if body is not None:
            sent["Content-Type"] = "application/json"
        sent.update((headers or {}).items())
        if key is not None:
            sent["x-goog-api-key"] = key
        client = treq.client.HTTPClient(Agent(self.gateway.reactor))
        response = await client.request(method, self.url + path, headers=sent, data=body)
        found = {
            name.decode("latin-1").lower(): values[0].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        return Answer(response.code, found, await response.content())

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

    def account(self, name: str = "work", kind: str = "api-key", extra: str = "") -> str:
        """An ``[[accounts]]`` table of this emulator, as TOML; `extra` holds more lines of it."""
        credential = f'api_key = "{name}"' if kind == "api-key" else f'access_token = "{name}"\nproject = "p"'
        return f'[[accounts]]\nname = "{name}"\nkind = "{kind}"\n{credential}\nendpoints = ["{self.url}"]\n{extra}\n'

    @property
    def log(self) -> Sequence[Any]:
        """
        The requests that came, oldest first: each has ``account``, ``model``, ``path``, ``query``, ``headers`` and
        ``body``, as :class:`agm.emulator.requestlog.Entry` says.
        """
        return tuple(self.state.log.entries())

    @property
    def accounts(self) -> Sequence[str]:
        """The accounts that the requests came for, oldest first."""
        return [entry.account for entry in self.log]

    @property
    def documents(self) -> Sequence[Any]:
        """The bodies of the requests that came, oldest first."""
        return [json.loads(entry.body) for entry in self.log if entry.body]

    async def stop(self) -> None:
        """Stop listening."""
        await maybeDeferred(self._port.stopListening)


def parse_config(text: str) -> Config:
    """A configuration from TOML text, with no environment."""
    return configuration.parse(text, environ={})


async def start_gateway(
    reactor: Any,
    config: Config,
    *,
    plugins: Sequence[object] = (),
    auth_mode: str | None = None,
    policy: Any = None,
    request_log_path: Path | None = None,
    peers: Any = None,
) -> RunningGateway:
    """
    Start a gateway on a free port of 127.0.0.1.

    :param plugins: dotted names of modules, or plugins themselves, as after ``[plugins] load``.
    :param auth_mode: the mode in force; the configuration's by default, where ``auto`` is ``off`` on loopback.
    :param request_log_path: where requests are recorded; nowhere by default.
    :param peers: the other workers, for a gateway that is one of several.
    """
    mode = auth_mode or ("off" if config.auth.mode == "auto" else config.auth.mode)
    gateway = make_gateway(
        reactor, config, mode, plugins=plugins, policy=policy, request_log_path=request_log_path, peers=peers
    )
    site = make_site(gateway, Access.configured(config.gateway, ["127.0.0.1"]), connections=descriptors.connections())
    await gateway.start()
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    return RunningGateway(f"http://127.0.0.1:{port.getHost().port}", gateway, site, port)


async def start_emulator(reactor: Any) -> RunningEmulator:
    """Start an emulator on a free port of 127.0.0.1."""
    from agm.emulator.site import make_site as make_emulator_site

    site = make_emulator_site(reactor)
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    return RunningEmulator(f"http://127.0.0.1:{port.getHost().port}", site.state, port)


class GatewayFactory(Protocol):
    """What the fixture :func:`gateway` is."""

    def __call__(
        self,
        config: Config | str = "",
        *,
        plugins: Sequence[object] = (),
        auth_mode: str | None = None,
        policy: Any = None,
        request_log_path: Path | None = None,
        peers: Any = None,
    ) -> Awaitable[RunningGateway]:
        """Start a gateway."""


class PluginManagerFactory(Protocol):
    """What the fixture :func:`plugin_manager` is."""

    def __call__(self, *plugins: object, config: Config | str = "") -> PluginManager:
        """Load plugins."""


@pytest_twisted.async_yield_fixture
async def gateway() -> AsyncIterator[GatewayFactory]:
    """
    A function that starts a gateway: ``running = await gateway(config, plugins=[my_plugin])``.

    `config` is a configuration's text or a Config; `plugins` are modules, objects or dotted names.  Every account must
    have got its leases back when the test ends.
    """
    from twisted.internet import reactor

    started: list[RunningGateway] = []

    async def start(config: Config | str = "", **options: Any) -> RunningGateway:
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
def plugin_manager() -> PluginManagerFactory:
    """
    A function that loads plugins beside the built-in ones: ``manager = plugin_manager(my_plugin)``.

    Installed plugins are left out.  `config` is what ``agm_configure`` gets; hooks are called as
    ``manager.hook.agm_map_model(model=…, request=…)``.
    """

    def load(*plugins: object, config: Config | str = "") -> PluginManager:
        manager = make_plugin_manager(plugins, entry_points=False)
        manager.hook.agm_configure(config=parse_config(config) if isinstance(config, str) else config)
        return manager

    return load


@pytest.fixture
def make_request() -> Callable[..., GatewayRequest]:
    """A function that makes requests for hooks: :func:`build_request`."""
    return build_request


@pytest.fixture
def clock() -> Any:
    """A clock that stands still until a test advances it."""
    from twisted.internet.task import Clock

    return Clock()

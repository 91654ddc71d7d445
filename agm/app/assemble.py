"""
Put a gateway together that is to run: alone in its process, or as one of several workers.

Whatever is wrong with the configuration, a plugin or a listener ends the start with one line and exit status 1.
"""

from __future__ import annotations

import os
import signal
import sys
import syslog
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import ILogObserver, Logger

from agm import config as configuration
from agm.app import rlimit as descriptors
from agm.app.demo import DemoUpstream, demo_accounts
from agm.app.listeners import ListenerService, as_inherited
from agm.app.options import Options
from agm.app.reload import ConfigWatch, keeping
from agm.app.service import GatewayService, stop_on_signals
from agm.app.systemd import Manager, ServiceManager
from agm.app.tuning import settle_memory, switch_sooner
from agm.app.worker_messages import AGAIN, INTERRUPT, MEMORY, ORDERS, RELOAD, RETIRE, STOP, SharedSocket, Start
from agm.app.worker_pipes import LogPipe, Orders
from agm.config import Config, ConfigError
from agm.config.cluster import RedisAddress
from agm.config.listeners import Listener, auth_mode
from agm.config.problems import fail
from agm.core.listening import ListenerRefused
from agm.net.clocks import ClockWatch
from agm.net.features import use_plain_sockets
from agm.net.sharing import AcceptGate, AdoptingReactor, SharedMemory
from agm.observe.logging import LEVELS, FileObserver, json_lines, observer, syslog_observer, text_lines
from agm.observe.peers import Peers
from agm.observe.requestlog import store as logfile
from agm.persist import pool_state as state
from agm.persist import secret_key
from agm.serving.assemble import make_gateway
from agm.web.access import Access
from agm.web.admin.whole import answering
from agm.web.endpoints import endpoint_of
from agm.web.root import make_site
from agm.web.site import GatewaySite

if TYPE_CHECKING:
    from agm.observe.tracing import Traces
    from agm.web.certificates import ServerCertificate

log = Logger()


def make_alone(reactor: Any, options: Options, config: Config) -> GatewayService:
    """Make the service of a gateway that is one process."""
    _search_here(options["plugin"])
    service = make_gateway_service(reactor, options, config)
    config, redactor = service.gateway.config, service.gateway.redactor
    twistd = options.parent
    if twistd is not None and not twistd.get("logger"):  # who names an observer of their own wants that one
        form = options["log-format"] or config.log.format
        service.observer = lambda: observer(reactor, redactor, form, config.log.level, twistd)
    reactor.callWhenRunning(stop_on_signals, reactor, service)
    reactor.callWhenRunning(settle_memory)
    switch_sooner()
    return service


def _search_here(plugins: Sequence[str]) -> None:
    here = os.getcwd()
    if plugins and here not in sys.path:
        sys.path.append(here)  # last: a file that lies here must not stand in for an installed module


def make_worker_service(
    reactor: Any, start: Start, file: LogPipe, news: Manager
) -> tuple[GatewayService, ILogObserver]:
    """Make the service that a worker runs, and what it logs with."""
    descriptors.raise_limit()
    _search_here(start.plugins)
    config = _read_config(start.config, warn=False)
    if not config.gateway.fast_sockets:
        use_plain_sockets()
    service = _make_worker(reactor, start, config, news)
    redactor, form = service.gateway.redactor, start.log_format or config.log.format
    observe: ILogObserver
    if start.syslog is not None:
        syslog.openlog(start.syslog)
        observe = syslog_observer(redactor, form, config.log.level, syslog.syslog)
    else:
        lines = json_lines(redactor.text) if form == "json" else text_lines(redactor.text)
        observe = FileObserver(reactor, file, lines, LEVELS.index(config.log.level))
    reactor.callWhenRunning(stop_on_signals, reactor, service)
    reactor.callWhenRunning(signal.signal, signal.SIGINT, signal.SIG_IGN)  # of a terminal: the supervisor says so
    reactor.callWhenRunning(Orders, reactor, ORDERS, partial(_obey, service))
    reactor.callWhenRunning(settle_memory)
    switch_sooner()
    return service, observe


def _make_worker(reactor: Any, start: Start, config: Config, news: Manager) -> GatewayService:
    site: GatewaySite | None = None
    gate = AcceptGate(reactor, SharedMemory(MEMORY), start.slot, lambda: 0 if site is None else len(site.channels))
    listening = Listening.of(
        [Listener(it.description, it.interface) for it in start.listeners],
        [AdoptingReactor(reactor, it.descriptor, it.family, gate) for it in SharedSocket.all(start)],
    )
    kept: dict[str, object] = {} if start.demo is None else {"accounts": demo_accounts(start.demo)}
    if start.store is not None:
        kept["cluster"] = attrs.evolve(config.cluster, redis=RedisAddress(path=start.store.removeprefix("unix:")))
    adapt = keeping(**kept)
    service = _assemble(
        reactor,
        adapt(config),
        listening,
        news,
        plugins=start.plugins,
        adapt=adapt,
        log_path=None if start.demo is not None and config.request_log.path is None else logfile.path_of(config),
        upload_key=start.upload_key,
        gate=gate,
        demo=start.demo is not None,
        peers=Peers(reactor, Path(start.folder), start.number, f"{start.number}-{os.getpid()}", start.count),
    )
    site = service.site
    PeerService(service).setServiceParent(service)
    return service


class PeerService(Service):
    """Answers the other workers; what is left when the last one ends without a supervisor is removed."""

    def __init__(self, service: GatewayService) -> None:
        self._service = service

    def startService(self) -> None:
        """Answer from now on."""
        super().startService()
        gateway = self._service.gateway
        if gateway.peers is not None:
            gateway.peers.start(answering(gateway), gateway.redactor.body)

    async def stop(self) -> None:
        """Answer no more."""
        peers = self._service.gateway.peers
        if peers is not None:
            self._service.gateway.metrics.stop()  # which tells for the last time
            await maybeDeferred(peers.stop)
            if self._service.orphaned:
                peers.clear()

    def stopService(self) -> Deferred[None]:
        """Answer no more."""
        super().stopService()
        return Deferred.fromCoroutine(self.stop())


def _obey(service: GatewayService, order: str | None) -> None:
    """Do what the supervisor says; when it is gone, serve what is there and end."""
    if order == RELOAD:
        for part in service:
            if isinstance(part, ConfigWatch):
                part.reload()
    elif order in (STOP, INTERRUPT, AGAIN):
        service.stop(order)
    elif order == RETIRE:
        service.leave(0.0, replaced=True)
    elif order is None:
        service.orphaned = True
        if not service.stopping:
            log.warn("the supervisor is gone: this worker serves what it has, and ends")
            service.leave(0.0)


def read_config(options: Options) -> Config:
    """Return the configuration that the options name."""
    return _read_config(options["config"])


def _read_config(named: str | None, *, warn: bool = True) -> Config:
    try:
        path = configuration.find(named, os.environ)
        config = configuration.default() if path is None else configuration.load(path, environ=os.environ)
    except ConfigError as e:
        raise SystemExit("\n".join(f"agm: {problem}" for problem in e.problems)) from None
    for warning in config.warnings if warn else ():
        log.warn("{warning}", warning=warning)
    return config


@attrs.frozen
class Listening:
    """Where a process listens: each listener, its endpoint, and the certificates that they show."""

    listeners: Sequence[Listener]
    endpoints: Sequence[IStreamServerEndpoint]
    certificates: Sequence[ServerCertificate]

    @classmethod
    def of(cls, listeners: Sequence[Listener], reactors: Sequence[Any]) -> Listening:
        """
        Make the endpoints of listeners, each with a reactor of its own.

        :raises SystemExit: if one cannot be.
        """
        try:
            made = [endpoint_of(it, listener.description) for it, listener in zip(reactors, listeners, strict=True)]
        except ListenerRefused as e:
            fail(str(e))
        certificates = [certificate for _, certificate in made if certificate is not None]
        return cls(listeners, [endpoint for endpoint, _ in made], certificates)

    @classmethod
    def configured(cls, reactor: Any, options: Options, config: Config) -> Listening:
        """
        Make the endpoints that the options name, or else the configuration.

        :raises SystemExit: if one cannot be.
        """
        listeners = [Listener.parse(text) for text in options["listen"] or config.gateway.listen]
        made = cls.of(listeners, [reactor] * len(listeners))
        for doubt in filter(None, (certificate.doubt() for certificate in made.certificates)):
            log.warn("{doubt}", doubt=doubt)
        bound = [as_inherited(listener, endpoint) for listener, endpoint in zip(listeners, made.endpoints, strict=True)]
        return attrs.evolve(made, listeners=bound)


def make_gateway_service(reactor: Any, options: Options, config: Config) -> GatewayService:
    """Return the gateway and its listeners, for a configuration that has been read."""
    if not config.gateway.fast_sockets:
        use_plain_sockets()
    listening = Listening.configured(reactor, options, config)
    demo: DemoUpstream | None = None
    adapt = keeping()
    if options["demo"]:
        demo = DemoUpstream(reactor)
        adapt = keeping(accounts=demo_accounts(demo.url))
        config = adapt(config)
    log_path = None if options["demo"] and config.request_log.path is None else logfile.path_of(config)
    if demo is not None and config.request_log.path is None and config.request_log.enabled:
        log_path = demo.make_folder() / "requests.sqlite3"
    state_path = None if options["demo"] else state.path_of(config)
    service = _assemble(
        reactor,
        config,
        listening,
        ServiceManager.from_environment(os.environ, os.getpid()),
        plugins=options["plugin"],
        adapt=adapt,
        log_path=log_path,
        upload_key=upload_key_beside(state_path),
        state_path=state_path,
        demo=demo is not None,
    )
    if demo is not None:
        demo.setServiceParent(service)
    return service


def _assemble(
    reactor: Any,
    config: Config,
    listening: Listening,
    manager: Manager,
    *,
    plugins: Sequence[object],
    adapt: Callable[[Config], Config],
    log_path: Path | None,
    upload_key: bytes | None,
    state_path: Path | None = None,
    gate: AcceptGate | None = None,
    demo: bool = False,
    peers: Peers | None = None,
) -> GatewayService:
    """Put a gateway together, its listeners, and what watches its configuration and the clock."""
    traces = traces_of(reactor, config, os.environ)
    gateway = make_gateway(
        reactor,
        config,
        auth_mode(config, listening.listeners),
        plugins=plugins if traces is None else [*plugins, traces],
        traces=traces,
        state_path=state_path,
        upload_key=upload_key,
        request_log_path=log_path,
        peers=peers,
    )
    interfaces = [listener.interface for listener in listening.listeners if listener.interface is not None]
    site = make_site(gateway, Access.configured(config.gateway, interfaces), connections=descriptors.connections())
    service = GatewayService(gateway, site, manager, shared=gate)
    if config.path is not None or listening.certificates:
        watch = ConfigWatch(reactor, gateway, config.path, adapt, manager, listening.certificates, editable=not demo)
        watch.setServiceParent(service)
    ClockWatch(reactor, gateway.wall, stepped=gateway.clock_set, woke=gateway.woke).setServiceParent(service)
    for listener, endpoint in zip(listening.listeners, listening.endpoints, strict=True):
        listens = ListenerService(reactor, endpoint, listener.description, site, told=gate is not None)
        listens.setServiceParent(service)
    return service


def upload_key_beside(state_path: Path | None) -> bytes | None:
    """Return the key with which uploads outlive a restart; None if there is no state, or it cannot be kept."""
    return None if state_path is None else _upload_key(secret_key.path_beside(state_path))


def _upload_key(path: Path) -> bytes | None:
    """Read the key with which uploads outlive a restart; None if it cannot be kept."""
    try:
        return secret_key.read_or_make(path)
    except OSError as e:
        log.warn("Uploads that are in flight at a restart will be lost: {why}", why=str(e))
        return None


def traces_of(reactor: Any, config: Config, environ: Mapping[str, str]) -> Traces | None:
    """Return the plugin that sends traces, if the configuration or the environment asks for it; it is an extra."""
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    wanted = any(environ.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
    wanted = wanted and environ.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp"
    if disabled or (config.otel.endpoint is None and not wanted):
        return None
    try:
        from agm.observe.tracing import Traces
    except ImportError as e:
        cure = f"OpenTelemetry is not installed ({e.name} is missing): pip install '.[otel]' in agm's checkout"
        if config.otel.endpoint is not None:
            fail(f"[otel] endpoint asks for traces, but {cure}")
        log.warn("OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, but {cure}", cure=cure)  # maybe not of this program
        return None
    return Traces(reactor, config.otel, environ)

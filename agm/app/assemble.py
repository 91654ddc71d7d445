"""
Make what ``twistd agm`` runs of its options: the composition root.

This is the only module of the gateway that takes the global reactor.  Whatever is wrong with the options, the
configuration, a plugin or a listener ends the start with one line and exit status 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.logger import Logger

from agm import config as configuration
from agm.app import rlimit as descriptors
from agm.app.demo import DemoUpstream, demo_accounts
from agm.app.listeners import ListenerService, as_inherited
from agm.app.options import Options
from agm.app.reload import ConfigWatch, keeping
from agm.app.service import GatewayService, stop_on_signals
from agm.app.systemd import ServiceManager
from agm.app.tuning import settle_memory, switch_sooner
from agm.config import Config, ConfigError
from agm.config.listeners import Listener, auth_mode
from agm.config.problems import fail
from agm.core.listening import ListenerRefused
from agm.net.clocks import ClockWatch, use_steady_clock
from agm.net.features import use_plain_sockets
from agm.observe.logging import observer
from agm.observe.requestlog import store as logfile
from agm.persist import pool_state as state
from agm.persist import secret_key
from agm.serving.assemble import make_gateway
from agm.web.access import Access
from agm.web.endpoints import endpoint_of
from agm.web.root import make_site

if TYPE_CHECKING:
    from agm.observe.tracing import Traces

log = Logger()


def make_service(options: Options) -> MultiService:
    """Make the service that twistd runs."""
    from twisted.internet import reactor

    use_steady_clock(reactor)  # first of all: nothing is scheduled yet
    descriptors.raise_limit()
    here = os.getcwd()
    if options["plugin"] and here not in sys.path:
        sys.path.append(here)  # last: a file that lies here must not stand in for an installed module
    service = make_gateway_service(reactor, options, read_config(options))
    config, redactor = service.gateway.config, service.gateway.redactor
    twistd = options.parent
    if twistd is not None and not twistd.get("logger"):  # who names an observer of their own wants that one
        form = options["log-format"] or config.log.format
        service.observer = lambda: observer(reactor, redactor, form, config.log.level, twistd)
    reactor.callWhenRunning(stop_on_signals, reactor, service.site)
    reactor.callWhenRunning(settle_memory)
    switch_sooner()
    return service


def read_config(options: Options) -> Config:
    """The configuration that the options name."""
    try:
        path = configuration.find(options["config"], os.environ)
        config = configuration.default() if path is None else configuration.load(path, environ=os.environ)
    except ConfigError as e:
        raise SystemExit("\n".join(f"agm: {problem}" for problem in e.problems)) from None
    for warning in config.warnings:
        log.warn("{warning}", warning=warning)
    return config


def make_gateway_service(reactor: Any, options: Options, config: Config) -> GatewayService:
    """The gateway and its listeners, for a configuration that has been read."""
    if not config.gateway.fast_sockets:
        use_plain_sockets()
    listeners = [Listener.parse(text) for text in options["listen"] or config.gateway.listen]
    try:
        made = [endpoint_of(reactor, listener.description) for listener in listeners]
    except ListenerRefused as e:
        fail(str(e))
    endpoints = [endpoint for endpoint, _ in made]
    certificates = [certificate for _, certificate in made if certificate is not None]
    for doubt in filter(None, (certificate.doubt() for certificate in certificates)):
        log.warn("{doubt}", doubt=doubt)
    listeners = [as_inherited(listener, endpoint) for listener, endpoint in zip(listeners, endpoints, strict=True)]
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    demo: DemoUpstream | None = None
    adapt = keeping()
    if options["demo"]:
        demo = DemoUpstream(reactor)
        adapt = keeping(accounts=demo_accounts(demo.url))
        config = adapt(config)
    traces = traces_of(reactor, config, os.environ)
    plugins = options["plugin"] if traces is None else [*options["plugin"], traces]
    log_path = logfile.path_of(config)
    if demo is not None and config.request_log.path is None and config.request_log.enabled:
        log_path = demo.make_folder() / "requests.sqlite3"
    state_path = None if options["demo"] else state.path_of(config)
    gateway = make_gateway(
        reactor,
        config,
        auth_mode(config, listeners),
        plugins=plugins,
        traces=traces,
        state_path=state_path,
        upload_key=None if state_path is None else _upload_key(secret_key.path_beside(state_path)),
        request_log_path=log_path,
    )
    interfaces = [listener.interface for listener in listeners if listener.interface is not None]
    site = make_site(gateway, Access.configured(config.gateway, interfaces), connections=descriptors.connections())
    service = GatewayService(gateway, site, manager)
    if demo is not None:
        demo.setServiceParent(service)
    if config.path is not None or certificates:
        ConfigWatch(
            reactor, gateway, config.path, adapt, manager, certificates, editable=demo is None
        ).setServiceParent(service)
    ClockWatch(reactor, gateway.wall, stepped=gateway.clock_set, woke=gateway.woke).setServiceParent(service)
    for listener, endpoint in zip(listeners, endpoints, strict=True):
        ListenerService(reactor, endpoint, listener.description, site).setServiceParent(service)
    return service


def _upload_key(path: Path) -> bytes | None:
    """Read the key with which uploads outlive a restart; None if it cannot be kept."""
    try:
        return secret_key.read_or_make(path)
    except OSError as e:
        log.warn("Uploads that are in flight at a restart will be lost: {why}", why=str(e))
        return None


def traces_of(reactor: Any, config: Config, environ: Mapping[str, str]) -> Traces | None:
    """The plugin that sends traces, if the configuration or the environment asks for it; it is an extra."""
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

"""
``twistd agm``: the options, and the composition root that makes a service of them.

This is the only module that takes the global reactor.  Whatever is wrong with the options, the configuration, a plugin
or a listener ends the start with one line and exit status 1.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from agm import config as configuration
from agm.app import rlimit as descriptors
from agm.app.listeners import ListenerRefused, endpoint_of
from agm.app.reload import ConfigWatch, keeping
from agm.app.systemd import ServiceManager
from agm.config import AccountConfig, Config, ConfigError, Secret
from agm.core.listening import Description
from agm.core.redact import Redactor
from agm.net.clocks import ClockWatch, use_steady_clock
from agm.observe.logging import FORMATS, observer
from agm.observe.requestlog import store as logfile
from agm.persist import pool_state as state
from agm.plugins.hooks import HookFailed, Hooks
from agm.plugins.manager import PluginError, make_plugin_manager
from agm.serving.gateway import Gateway
from agm.upstream.client import HTTPUpstreamClient
from agm.upstream.credentials.refresher import Refresher
from agm.web.access import Access, is_loopback
from agm.web.root import Root
from agm.web.site import GatewaySite

if TYPE_CHECKING:
    from agm.observe.tracing import Traces

log = Logger()

#: How many connections may wait to be taken, where the endpoint says nothing of its ``backlog``.  Twisted's 50 are few:
#: of a burst of 200 connections half would be tried again by their clients, after a second.
BACKLOG = 1024
#: Seconds after which a thread that waits for the interpreter is given it.  Until then each call to the kernel that the
#: reactor makes wakes it in vain, and with Python's own 5 ms that are a hundred of them.
SWITCH_AFTER = 0.0005
#: Objects that the collector lets come before it looks through them.  Python's 700 are those of a handful of requests.
COLLECT_AFTER = 20_000

DEMO_ACCOUNTS = ("demo-1", "demo-2", "demo-3")


def fail(message: str) -> NoReturn:
    """End the start, before twistd has taken over, with one line on standard error and exit status 1."""
    raise SystemExit(f"agm: {message}")


class StartFailed(Exception):
    """
    The start has failed after twistd took over: it logs to its own file by now, has its pid file, and may be a daemon.

    For an exception, and only for one, twistd tells the waiting parent and removes the pid file.
    """


def fail_running(message: str) -> NoReturn:
    """As :func:`fail`, for a service that is being started; the line is in the log, too."""
    if sys.__stderr__ is not None:
        print(f"agm: {message}", file=sys.__stderr__, flush=True)  # sys.stderr is the log by now
    otherwise = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if kind is StartFailed:  # a person's mistake, not the program's: its traceback says nothing
            log.critical("{message}", message=str(error))
        else:
            otherwise(kind, error, traceback)

    sys.excepthook = hook
    raise StartFailed(message)


class Options(usage.Options):
    """The options of ``twistd agm``."""

    synopsis = "[--port PORT] [--config FILE] [--demo]"
    longdesc = (
        "A local gateway for the Gemini API. Point any Google SDK at http://127.0.0.1:8045; "
        "requests are served by the accounts of the configuration."
    )
    optParameters = (
        ("port", "p", None, "Listen on this TCP port of 127.0.0.1."),
        (
            "config",
            "c",
            None,
            "The configuration; else $AGM_CONFIG, else agm/agm.toml in your configuration folder.",
        ),
        ("log-format", None, None, "How the log looks: text or json; else as [log] format says."),
    )
    optFlags = (("demo", None, "Serve everything from a built-in emulator: no account, no network."),)
    compData = usage.Completions(
        optActions={"config": usage.CompleteFiles("*.toml"), "log-format": usage.CompleteList(FORMATS)}
    )

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["plugin"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Listen on this Twisted server endpoint, e.g. unix:/run/agm.sock. May be given several times."""
        self["listen"].append(endpoint)

    def opt_plugin(self, module: str) -> None:
        """Load this plugin, a dotted module name; the current folder is searched, too. May be given several times."""
        self["plugin"].append(module)

    def opt_version(self) -> None:
        """Print the version of agm and exit."""
        from agm import __version__

        print(f"agm {__version__}")  # noqa: T201  # what a person asked for
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line.  A mistake is one line; twistd would print all of its help before it."""
        try:
            super().parseOptions(options)
        except usage.UsageError as mistake:
            fail(f"{str(mistake).rstrip('.')}; twistd agm --help shows the options")

    def postOptions(self) -> None:
        """Check what can be checked without listening."""
        if self["port"] is not None:
            if not re.fullmatch(r"[0-9]{1,5}", self["port"]) or not 0 <= int(self["port"]) <= 65535:
                fail(f"--port {self['port']!r} is not a port: give a number from 0 to 65535")
            self["listen"].insert(0, f"tcp:{int(self['port'])}:interface=127.0.0.1")
        if self["log-format"] not in (None, *FORMATS):
            fail(f"--log-format {self['log-format']!r} is not a format: give {' or '.join(FORMATS)}")


@attrs.frozen
class Listener:
    """A server endpoint: its description, and the interface it is bound to (None for a unix socket)."""

    description: str
    interface: str | None

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.interface is None or is_loopback(self.interface)

    @classmethod
    def parse(cls, description: str) -> Listener:
        """From a description; what it cannot tell counts as all interfaces."""
        parsed = Description.parse(description)
        if parsed.kind == "unix" or (parsed.kind == "systemd" and parsed.named.get("domain", "").upper() == "UNIX"):
            return cls(description, None)
        at = {"tcp": 1, "tcp6": 1, "ssl": 4}.get(parsed.kind)
        interface = parsed.named.get("interface") if at is None else parsed.argument("interface", at)
        anywhere = "::" if parsed.kind == "tcp6" else "0.0.0.0"  # noqa: S104  # a name for it
        return cls(description, interface or anywhere)


def as_inherited(listener: Listener, endpoint: IStreamServerEndpoint) -> Listener:
    """
    A listener whose socket was bound by the service manager, with the interface that it is really bound to; any other
    as it is.  A socket of another family than the description says ends the start.
    """
    if not isinstance(endpoint, AdoptedStreamServerEndpoint):
        return listener
    try:
        with socket.socket(fileno=os.dup(endpoint.fileno)) as inherited:
            family, address = inherited.family, inherited.getsockname()
    except OSError as e:
        fail(f"{listener.description!r}: what was passed to this process is no socket: {e.strerror}")
    if family != endpoint.addressFamily:
        fail(f"{listener.description!r}: the socket that was passed is of domain={family.name.removeprefix('AF_')}")
    if family != socket.AF_UNIX:
        return attrs.evolve(listener, interface=address[0])
    if isinstance(address, str) and address:
        # Twisted would open it to everybody, which not only its owner may be meant to do, and remove it in the end
        fail(f"{listener.description!r}: agm binds unix sockets itself: --listen unix:{address}:mode=660")
    return attrs.evolve(listener, interface=None)


def auth_mode(config: Config, listeners: Sequence[Listener]) -> str:
    """The mode in force: ``auto`` asks for a key as soon as another machine can reach a listener."""
    mode = config.auth.mode
    beyond = [listener.description for listener in listeners if not listener.local]
    if mode == "auto":
        return "all_except_health" if beyond else "off"
    if mode == "off" and beyond and not config.auth.mode_written:
        fail(f"{beyond[0]} can be reached from other machines; set auth.mode in the configuration")
    return mode


class ListenerService(Service):
    """Listens; a port that is taken ends the start."""

    def __init__(self, reactor: Any, endpoint: IStreamServerEndpoint, description: str, site: GatewaySite) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._description = description
        self._site = site
        self._port: IListeningPort | None = None
        #: Fires once it listens.
        self.bound: Deferred[None] = Deferred()

    def privilegedStartService(self) -> None:
        """Bind, before the process gives up any privilege."""
        failed: list[str] = []
        binding = True

        def refused(failure: Failure) -> None:
            message = f"cannot listen on {self._description}: {_why(failure)}"
            failed.append(message)
            if not binding:  # an endpoint that takes its time: the reactor runs already
                log.critical("{message}", message=message)
                self._reactor.stop()

        d: Deferred[Any] = self._endpoint.listen(self._site)
        d.addCallbacks(self._listening, refused)
        binding = False
        if failed:
            fail_running(failed[0])

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        bound = getattr(port, "socket", None)
        if bound is not None and not re.search(r"^systemd:|:backlog=", self._description):
            bound.listen(BACKLOG)
        if getattr(port, "factory", None) is not self._site:
            self._site.wrapped = True
        address = port.getHost()
        shown = _shown(address, "https" if self._description.startswith("ssl:") else "http")
        log.info("listening on {address}", address=shown)
        self._site.gateway.live.listening.append(shown)
        self.bound.callback(None)

    def stopService(self) -> Deferred[None] | None:
        """Take no further connection."""
        super().stopService()
        port, self._port = self._port, None
        return None if port is None else port.stopListening()


def _why(failure: Failure) -> object:
    """The reason of an error in listening, without the numbers and paths that sockets wrap it in."""
    error = failure.value
    reason = error.socketError if isinstance(error, CannotListenError) else error
    return getattr(reason, "strerror", None) or reason


def _shown(address: Any, scheme: str) -> str:
    host = getattr(address, "host", None)
    if host is None:
        name = getattr(address, "name", address)
        return f"unix:{os.fsdecode(name)}" if isinstance(name, bytes | str) else str(name)
    return f"{scheme}://[{host}]:{address.port}" if ":" in host else f"{scheme}://{host}:{address.port}"


class GatewayService(MultiService):
    """The gateway with its listeners: it starts the credential threads, and drains when it stops."""

    def __init__(self, gateway: Gateway, site: GatewaySite, manager: ServiceManager) -> None:
        super().__init__()
        self.gateway = gateway
        self.site = site
        self._manager = manager
        self._watchdog = LoopingCall(manager.alive)
        self._watchdog.clock = gateway.reactor
        #: Makes what twistd is to log with.
        self.observer: Callable[[], ILogObserver] | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Become a part; twistd's application, of which this is one, logs as the configuration says."""
        if self.observer is not None and isinstance(parent, Componentized):
            try:
                parent.setComponent(ILogObserver, self.observer())
            except OSError as e:
                fail(f"cannot log to {e.filename}: {e.strerror}")
        super().setServiceParent(parent)

    def startService(self) -> None:
        """The reactor runs."""
        Deferred.fromCoroutine(self.gateway.start())
        super().startService()
        count = len(self.gateway.pool)
        log.info(
            "agm serves {models} models from {accounts} accounts; client keys: {mode}",
            models=len(self.gateway.config.models.list),
            accounts=count,
            mode=self.gateway.clients.mode,
        )
        if not count:
            log.warn("no account is configured: add one with the command: agm account add")
        self.gateway.reactor.callWhenRunning(self._announce)

    def _announce(self) -> None:
        """Tell the service manager as soon as everything listens, and then again and again if it wants to hear it."""
        all_bound = DeferredList([listener.bound for listener in self._listeners()])
        all_bound.addCallback(lambda _: self._manager.ready(f"serving from {len(self.gateway.pool)} accounts"))
        if self._manager.watchdog is not None:
            self._watchdog.start(self._manager.watchdog / 2)

    def _listeners(self) -> list[ListenerService]:
        return [service for service in self if isinstance(service, ListenerService)]

    def stopService(self) -> Deferred[Any]:
        """Take no further request, let those under way finish for ``[timeouts] drain`` seconds, then stop."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        patience = self.gateway.config.timeouts.drain
        # beyond the drain a moment for the last writes
        self._manager.stopping(f"stopping after {self.site.busy} requests", patience + 10)
        self.gateway.live.close()
        until = self.gateway.reactor.seconds() + patience
        await self.site.notice(patience)
        await DeferredList([maybeDeferred(listener.disownServiceParent) for listener in self._listeners()])
        if self.site.busy:
            log.info(
                "waiting up to {patience:g} seconds for {count} requests; a second signal cuts them",
                patience=patience,
                count=self.site.busy,
            )
        await self.site.drain(max(until - self.gateway.reactor.seconds(), 0.0))
        stopping = super().stopService()  # a demo's upstream has served until here
        if isinstance(stopping, Deferred):
            await stopping
        await self.gateway.stop()
        if self._watchdog.running:
            self._watchdog.stop()


def stop_on_signals(reactor: Any, site: GatewaySite) -> None:
    """
    Stop at the first SIGTERM or SIGINT, and cut what is still under way at the second.  SIGHUP ends nothing.

    To be called once the reactor runs, in place of Twisted's own reactions: those end the process by the signal rather
    than with status 0, and take a second signal for an error.
    """
    stopping = False

    def stop(name: str) -> None:
        nonlocal stopping
        if stopping:
            log.info("{name} again: cutting {count} requests", name=name, count=site.busy)
            site.cut()
        else:
            log.info("{name}: stopping", name=name)
            stopping = True
            reactor.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: reactor.callFromThread(stop, signal.Signals(number).name))
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nobody watches a configuration
        signal.signal(signal.SIGHUP, lambda number, frame: reactor.callFromThread(_nothing_to_reload))


def _nothing_to_reload() -> None:
    log.info("SIGHUP: there is no configuration file to reload")


class DemoUpstream(Service):
    """The emulator on a port of its own; bound at once, so that accounts can name it, and served from the start on."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._socket.setblocking(False)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Serve."""
        from agm.emulator.site import make_site

        super().startService()
        self._port = self._reactor.adoptStreamPort(self._socket.fileno(), socket.AF_INET, make_site(self._reactor))
        self._socket.close()

    def stopService(self) -> Any:
        """Stop serving."""
        super().stopService()
        port, self._port = self._port, None
        return None if port is None else port.stopListening()


def demo_accounts(url: str) -> tuple[AccountConfig, ...]:
    """Accounts of the emulator: their keys mean nothing elsewhere."""
    return tuple(
        AccountConfig(name=name, kind="api-key", api_key=Secret(f"{name}-key"), endpoints=(url,))
        for name in DEMO_ACCOUNTS
    )


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


def makeService(options: Options) -> MultiService:
    """The service that twistd runs."""
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
    sys.setswitchinterval(SWITCH_AFTER)
    return service


def settle_memory() -> None:
    """
    What was made until now stays: the collector need not look at it again, and hold everything up meanwhile.  Nor need
    it look for circles whenever a few requests more are under way than before: a request makes none.  What the start
    needed for a moment goes back to the system, where the C library (glibc) can be told so.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def make_gateway_service(reactor: Any, options: Options, config: Config) -> GatewayService:
    """The gateway and its listeners, for a configuration that has been read."""
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
    log_path = None if options["demo"] and config.request_log.path is None else logfile.path_of(config)
    gateway = make_gateway(
        reactor,
        config,
        auth_mode(config, listeners),
        plugins=plugins,
        traces=traces,
        state_path=None if options["demo"] else state.path_of(config),
        request_log_path=log_path,
    )
    interfaces = [listener.interface for listener in listeners if listener.interface is not None]
    site = make_site(gateway, Access.configured(config.gateway, interfaces))
    service = GatewayService(gateway, site, manager)
    if demo is not None:
        demo.setServiceParent(service)
    if config.path is not None or certificates:
        ConfigWatch(reactor, gateway, config.path, adapt, manager, certificates).setServiceParent(service)
    ClockWatch(reactor, gateway.wall, stepped=gateway.clock_set, woke=gateway.woke).setServiceParent(service)
    for listener, endpoint in zip(listeners, endpoints, strict=True):
        ListenerService(reactor, endpoint, listener.description, site).setServiceParent(service)
    return service


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
        cure = f"OpenTelemetry is not installed ({e.name} is missing): pip install 'agm[otel]'"
        if config.otel.endpoint is not None:
            fail(f"[otel] endpoint asks for traces, but {cure}")
        log.warn("OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, but {cure}", cure=cure)  # maybe not of this program
        return None
    return Traces(reactor, config.otel, environ)


def make_gateway(
    reactor: Any,
    config: Config,
    mode: str,
    *,
    plugins: Sequence[object] = (),
    installed: bool = True,
    policy: Any = None,
    **parts: Any,
) -> Gateway:
    """
    The gateway of a configuration, without a listener.

    :param installed: whether plugins that are installed are loaded.
    :param policy: verifies the upstreams' TLS, for tests.
    :param parts: what else a :class:`Gateway` may have.
    """
    client = HTTPUpstreamClient(
        reactor,
        connect_timeout=config.timeouts.connect,
        policy=policy,
        network=config.upstream.network,
        environ=os.environ,
    )
    redactor = Redactor()
    try:
        manager = make_plugin_manager(
            [*config.plugins.load, *plugins],
            folder=config.plugins.path,
            disable=config.plugins.disable,
            entry_points=installed,
        )
        hooks = Hooks(manager, reactor, config.plugins.timeout)
        refresher = Refresher(reactor, client.treq(), on_secret=redactor.add_transient)
        # what is open to this machine alone is not open to whom a proxy on it lets through
        forwarded = "all_except_health" if mode == "off" and config.auth.mode == "auto" else None
        return Gateway(
            reactor, config, hooks, client, refresher, mode, redactor=redactor, forwarded_auth_mode=forwarded, **parts
        )
    except (PluginError, HookFailed, ValueError) as e:
        fail(str(e))


def make_site(gateway: Gateway, access: Access) -> GatewaySite:
    """The HTTP side of a gateway, with what plugins add to it."""
    root = Root(gateway, access)
    site = GatewaySite(
        root,
        reactor=gateway.reactor,
        max_body=gateway.config.gateway.max_body,
        limits=gateway.config.limits,
        timeouts=gateway.config.timeouts,
        connections=gateway.config.limits.connections or descriptors.connections(),
    )
    site.gateway, site.access = gateway, access
    try:
        added = gateway.hooks.resources(site, root.segments)
    except (PluginError, HookFailed) as e:
        fail(str(e))
    for segment, resource in added.items():
        root.putChild(segment.encode("utf-8"), resource)
    return site

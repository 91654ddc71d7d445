"""
The gateway: it puts together what serves requests, starts it, stops it, and goes on with another configuration.

It is made by :mod:`agm.serving.assemble` or by a test, and serves nothing itself: requests enter by
:class:`Gateway.calls`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from agm.cluster.memory import MemoryStore, Shared
from agm.cluster.store import Store
from agm.config import Config
from agm.core.alerts import Alert, QuotaStorms
from agm.core.answer import Answer
from agm.core.counters import Counters
from agm.core.dialect import ForModel
from agm.core.limits import Allowances
from agm.core.live import Pins
from agm.core.ownership import KnownOwners, Ownership
from agm.core.pool.cooldown import ALL_MODELS, Cooldown
from agm.core.pool.pool import Pool
from agm.core.redact import Redactor
from agm.core.remedies import fix_for
from agm.core.request import Account, GatewayRequest, LastFailure
from agm.core.sealed import KEY_BYTES
from agm.net.stalls import Stalls
from agm.observe.activity import Live
from agm.observe.metrics import Metrics
from agm.observe.observed import Observed
from agm.observe.peers import Peers
from agm.observe.requestlog.writer import RequestLog
from agm.persist.key_usage import KeyCounts, path_beside
from agm.persist.pool_state import PoolState, digest_of, written_at
from agm.persist.session_pins import SessionPins
from agm.persist.session_pins import path_beside as pins_beside
from agm.persist.spending import SpendingFile
from agm.persist.spending import path_beside as spending_beside
from agm.plugins.hooks import HookFailed, Hooks
from agm.serving import inprocess
from agm.serving.asyncio_thread import AsyncioThread
from agm.serving.calls import Calls
from agm.serving.client_auth import ClientAuthenticator
from agm.serving.cluster import Cluster
from agm.serving.context import ServingContext
from agm.serving.health_checks import HealthChecks
from agm.serving.inprocess import Caller
from agm.serving.live import Sessions
from agm.serving.model_directory import ModelDirectory
from agm.serving.money import Money
from agm.serving.secrets import reporting_secrets, secrets_of
from agm.serving.shared_limits import SharedLimits
from agm.upstream.accounts import AccountSource
from agm.upstream.client import UpstreamClient
from agm.upstream.codeassist import CodeAssist
from agm.upstream.credentials.credential import Credential
from agm.upstream.credentials.refresher import Refresher
from agm.upstream.reports import ModelReports

if TYPE_CHECKING:
    from treq.client import HTTPClient

    from agm.observe.tracing import Traces

log = Logger()

T = TypeVar("T")


class Gateway:
    """
    What serves requests, put together.

    :param reactor: gives time and connections.
    :param client: sends requests to upstreams; closed at the stop.
    :param refresher: fetches the tokens of credentials.
    :param auth_mode: whether a client key is asked for: ``off``, ``strict`` or ``all_except_health``.
    :param forwarded_auth_mode: the same for what a proxy has passed on, where that is another.
    :param upload_key: 32 bytes that uploads are sealed with; others with each start if None.
    :param state_path: where what is known of the accounts survives a restart; None for nowhere.
    :param request_log_path: where requests are recorded; None for nowhere.
    :param peers: the workers of this machine, this one among them; None where the gateway is one process.
    :param traces: what sends traces; None where none are asked for.
    :param redactor: knows the secrets that are held here, and takes them out of whatever is shown.
    :param credential_of: makes an account's credential, where it is not its own that is used.
    :param store: what is shared with other processes; by ``[cluster]``, or nothing, if it is None.
    :raises HookFailed: if a plugin refuses the configuration.
    :raises ValueError: if two accounts have one name.

    :ivar wall: seconds since the epoch, for records.  A test may set it.
    :ivar calls: how requests enter, under the configuration in force.
    :ivar cluster: what is shared with other processes: counters, claims and events, for plugins.
    :ivar live: what is going on, for whoever asks.
    :ivar sessions: how many Live sessions accounts and client keys have.
    :ivar money: what requests cost, and the budgets.
    :ivar pins: which account a session's handle or an ephemeral token is of.
    :ivar reload_file: has the configuration's file read, and put in force; None where there is none, or it is not the
        file's accounts that serve.
    :ivar last_failures: of each account, the last attempt that failed through no fault of its request.
    """

    def __init__(
        self,
        reactor: Any,
        config: Config,
        hooks: Hooks,
        client: UpstreamClient,
        refresher: Refresher,
        auth_mode: str,
        *,
        forwarded_auth_mode: str | None = None,
        state_path: Path | None = None,
        upload_key: bytes | None = None,
        request_log_path: Path | None = None,
        peers: Peers | None = None,
        traces: Traces | None = None,
        wall: Callable[[], float] = time.time,
        redactor: Redactor | None = None,
        credential_of: Callable[[AccountSource], Credential] | None = None,
        store: Store | None = None,
    ) -> None:
        self.reactor = reactor
        self.config = config
        self.hooks = hooks
        self.client = client
        self.refresher = refresher
        self.wall = wall
        self.redactor = Redactor() if redactor is None else redactor
        self.traces = traces
        self.peers = peers
        if traces is not None:
            traces.redact = self.redactor.text
        self.pool = Pool((), reactor.seconds)
        self.pool.went_off = self._went_off
        self._storms = QuotaStorms(reactor.seconds, hooks.alert)
        self.credentials: dict[str, Credential] = {}
        owners = KnownOwners()
        self.ownership: Ownership = owners
        self.last_failures: dict[str, LastFailure] = {}
        self.reload_file: Callable[[], Deferred[None]] | None = None
        self.sessions = Sessions()
        self.pins = Pins()
        self.deadlines = client.deadlines
        self.stalls = Stalls(reactor)
        self.live = Live(self.pool, reactor.seconds, wall)
        self.code_assist = CodeAssist(reactor, client, self.credentials, self.pool, wall)
        self.models = ModelDirectory(ModelReports(reactor, client, self.credentials, self.code_assist), config)
        self.money = Money(config, self.pool, self._now, hooks.alert)
        self.clients = ClientAuthenticator(
            auth_mode,
            forwarded_auth_mode,
            Allowances(reactor.seconds, wall),
            hooks,
            self.redactor,
            self._now,
            config,
            self.money,
        )
        self.cluster = Cluster(
            store or self._make_store(config),
            self.pool,
            owners,
            self.clients.allowances,
            self._now,
            shared=store is not None or config.cluster.redis is not None,
        )
        if config.cluster.redis is not None or store is not None:
            self.clients.shared = SharedLimits(self.cluster.store, config.cluster.on_loss, reactor.seconds)
        self.counters = Counters(self.models.names, self.pool.kind_of)
        self.metrics = Metrics(
            reactor,
            Observed(
                config=lambda: self.config.metrics,
                live=self.live,
                pool=self.pool,
                allowances=self.clients.allowances,
                client_keys=lambda: self.clients.client_keys,
                connections=client.connections,
                hook_failures=hooks.failures,
                refreshes=refresher.outcomes,
            ),
            self.counters,
            peers,
        )
        self.request_log = None if request_log_path is None else self._make_request_log(request_log_path)
        self._asyncio = AsyncioThread(reactor)
        self._checks = HealthChecks()
        self._state_path = state_path
        self.upload_key = upload_key or secrets.token_bytes(KEY_BYTES)
        self._state: PoolState | None = None
        self._counts: KeyCounts | None = None
        self._spent: SpendingFile | None = None
        self._kept_pins: SessionPins | None = None
        self._credential_of = credential_of or self._own_credential
        self.calls = self._make_calls(config)
        self._started = False
        self._sources: dict[str, AccountSource] = {}
        #: What was known at once, and what each plugin that fetches accounts has given last.
        self._known: list[AccountSource] = []
        self._fetched: list[list[AccountSource]] = []
        self._awaited: list[Awaitable[list[AccountSource]]] = self._adopt(config)

    def _now(self) -> float:
        """Seconds since the epoch, also where `wall` has been set anew."""
        return self.wall()

    def _make_store(self, config: Config) -> Store:
        if config.cluster.redis is None:
            return MemoryStore(secrets.token_hex(8), Shared(self._now))
        from agm.cluster.redis import RedisStore  # it takes an extra, and the global reactor

        return RedisStore(self.reactor, config.cluster.redis, config.cluster.name, self._now)

    def _make_request_log(self, path: Path) -> RequestLog:
        return RequestLog(
            self.reactor,
            path,
            lambda: self.config.request_log,
            self._now,
            redact=self.redactor.text,
            prunes=self.peers is None or self.peers.number == 1,
        )

    def _own_credential(self, source: AccountSource) -> Credential:
        return reporting_secrets(source.credential(self.refresher), self.redactor.add_transient)

    def _make_calls(self, config: Config) -> Calls:
        context = ServingContext(
            config=config,
            reactor=self.reactor,
            wall=self._now,
            hooks=self.hooks,
            pool=self.pool,
            client=self.client,
            credentials=self.credentials,
            code_assist=self.code_assist,
            deadlines=self.deadlines,
            ownership=self.ownership,
            redactor=self.redactor,
            checks=self._checks,
            storms=self._storms,
            last_failures=self.last_failures,
            request_log=self.request_log,
        )
        return Calls(context, self.models, self.clients, self.money, self.live, self.counters)

    async def start(self) -> None:
        """Start what needs the reactor, and wait for the accounts that plugins fetch from elsewhere."""
        self.refresher.start()
        self.cluster.start(self.reactor)
        self.hooks.started(self)
        self._started = True
        self._tell_unusable(self._sources)
        self.metrics.start()
        if self.traces is not None:
            self.traces.start()
        if self.request_log is not None:
            self.request_log.start()
            self.live.told = self.request_log.note
        if self._state_path is not None:
            owners = self.ownership if isinstance(self.ownership, KnownOwners) else None
            written = written_at(self._state_path)
            self._state = PoolState(
                self.reactor, self.pool, self._state_path, self.wall, owners=owners, not_before=written
            )
            self._state.start(self._origins())
            self._counts = KeyCounts(self.reactor, self.clients.allowances, path_beside(self._state_path))
            self._counts.start()
            self._spent = SpendingFile(
                self.reactor, self.money.spending, self.money.quotas, spending_beside(self._state_path)
            )
            self._spent.start()
            self.money.budgets.take_note()
            self.money.hold_accounts()
            self._kept_pins = SessionPins(self.reactor, self.pins, pins_beside(self._state_path), self._now)
            self._kept_pins.start()
        await self._fetch()
        if self._state is not None:
            self._state.settled()

    async def stop(self) -> None:
        """Let plugins end, close the connections to upstreams and end the credentials' threads."""
        await self.hooks.stopping()
        await self.cluster.stop()
        self._asyncio.stop()
        self._checks.stop()
        self.code_assist.stop()
        self.metrics.stop()
        self.stalls.stop()
        if self._state is not None:
            await self._state.stop()
        if self._counts is not None:
            await self._counts.stop()
        if self._spent is not None:
            await self._spent.stop()
        if self._kept_pins is not None:
            await self._kept_pins.stop()
        if self.traces is not None:
            await self.traces.stop()
        await DeferredList([self.client.close(), self.refresher.stop()], consumeErrors=True)
        if self.request_log is not None:
            await self.request_log.stop()

    def clock_set(self, seconds: float) -> None:
        """
        Say that the wall clock was set forward by so many seconds, or back.

        What is stored holds times of that clock, and is written anew.  This is also what a virtual machine sees that
        goes on after a pause: what its connections lead through has not waited.
        """
        if self._state is not None:
            self._state.changed()
        if self._counts is not None:
            self._counts.changed()
        self.money.hold_accounts()
        if self._kept_pins is not None:
            self._kept_pins.changed()
        if seconds > 0:
            self.client.distrust()

    def woke(self, seconds: float) -> None:
        """Say that the machine has slept for so many seconds."""
        self.client.distrust()

    async def reload(self, config: Config) -> None:
        """
        Go on with another configuration; requests under way are not touched.

        :raises HookFailed: if a plugin refuses it.  The old configuration then stays in force.
        :raises ValueError: if two accounts have one name, likewise.
        """
        before = self.config
        try:
            self._awaited = self._adopt(config)
        except Exception:
            self.hooks.configure(before)
            raise
        await self._fetch()

    def _adopt(self, config: Config) -> list[Awaitable[list[AccountSource]]]:
        """Put a configuration in force; returns the accounts that have to be waited for."""
        for secret in secrets_of(config):
            self.redactor.add_permanent(secret)
        self.hooks.configure(config)
        known, awaited = self.hooks.account_sources(config)
        sources = _by_name(known)
        fetched = self._fetched if len(self._fetched) == len(awaited) else [[] for _ in awaited]
        for source in [source for each in fetched for source in each]:  # they serve until they are fetched anew
            sources.setdefault(source.account.name, source)
        key_sources = self.hooks.client_key_sources(config)
        self.config = config
        self._known, self._fetched = known, fetched
        self.calls = self._make_calls(config)
        self.models.configure(config)
        self.clients.configure(config, key_sources)
        self.money.configure(config)
        self.client.default_to(config.upstream.network)
        self._serve_from(sources)
        return awaited

    async def _fetch(self) -> None:
        awaited, self._awaited = self._awaited, []
        fetched = self._fetched
        for number, waiting in enumerate(awaited):
            try:
                found = await waiting
                if fetched is not self._fetched:
                    return  # another configuration has come meanwhile, and fetches its own
                others = [each for at, each in enumerate(self._fetched) if at != number]
                sources = _by_name([*self._known, *(source for each in (*others, found) for source in each)])
                self._fetched[number] = found
                self._serve_from(sources)
            except (HookFailed, ValueError) as e:
                log.error("accounts from a plugin cannot be used: {why}", why=str(e))

    def _serve_from(self, sources: dict[str, AccountSource]) -> None:
        kept = {
            name for name, source in sources.items() if name in self._sources and _same(source, self._sources[name])
        }
        for name in [name for name in self.credentials if name not in kept]:
            del self.credentials[name]
            self.last_failures.pop(name, None)
        for name, source in sources.items():
            if name not in kept:
                self.credentials[name] = self._credential_of(source)
        self._sources = sources
        if self._started:
            self._tell_unusable(name for name in sources if name not in kept)
        accounts = [source.account for source in sources.values()]
        self.pool.replace(accounts, kept)
        self.money.hold_accounts()
        self.cluster.accounts_are(
            {name: digest_of(source.origin) or "" for name, source in sources.items() if self.cluster.shared}
        )
        if self._state is not None:
            self._state.accounts_are(self._origins())
        self.code_assist.of(accounts, kept)
        self.models.report_from(accounts)

    def _went_off(self, account: Account, why: Cooldown) -> None:
        """Tell whoever hears alerts that an account is off, and the fix, as the log and the pages do."""
        known = why.known(ALL_MODELS, self.reactor.seconds())
        fix = fix_for(account, known)
        said = [why.message, f"Fix: {fix}." if fix else "", why.link or ""]
        self._tell_off(account, why.reason, *said)

    def _tell_off(self, account: Account, reason: str, *more: str) -> None:
        reason = self.redactor.text(reason.rstrip("."))
        said = " ".join(filter(None, [f"Account {account.name} is disabled and needs manual action: {reason}.", *more]))
        text = self.redactor.text(said)
        self.hooks.alert(Alert("account_off", account.name, text, {"account": account.name, "reason": reason}))

    def _tell_unusable(self, names: Iterable[str]) -> None:
        for name in names:
            account = self._sources[name].account
            if account.unusable is not None:
                self._tell_off(account, account.unusable)

    def _origins(self) -> dict[str, object]:
        return {name: source.origin for name, source in self._sources.items()}

    def in_asyncio(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> Deferred[T]:
        """
        Call a function of a client that is made for asyncio: ``await gateway.in_asyncio(client.get, url)``.

        It runs in asyncio's own loop, in a thread beside the reactor's, and so must not touch the gateway.  Cancelling
        cancels it.
        """
        return self._asyncio.call(function, *args, **kwargs)

    async def call(
        self,
        model: str,
        body: Mapping[str, Any] | bytes,
        *,
        method: str = "generateContent",
        version: str = "v1beta",
        visit: Caller | None = None,
        parent: GatewayRequest | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        dialect: str | None = None,
        for_model: ForModel | None = None,
    ) -> Answer:
        """
        Make a call of a model within the process: the whole way of a client's request, but for its authentication.

        Cancelling the wait ends the call, and so does :meth:`~agm.serving.inprocess.Answer.close`.

        :param model: as a client would name it: aliases and ``agm_map_model`` hold.
        :param body: the document, or its bytes.
        :param method: Google's; ``streamGenerateContent`` is answered in events.
        :param visit: the client's request to a resource that the call answers: it is made with that one's id, and
            counts against the limits of its key.
        :param parent: the request, in a hook, for which the call is made: its row has an id of its own and the
            parent's beside it.  The client's limits were met by the parent and are not asked again; tokens are charged.
            Without `visit` and `parent` the call is the gateway's own, and no key's.
        :param query: parameters, as Google names them.
        :param headers: with lower-case names, as hooks see them.
        :param dialect: which API the client speaks, where the call is translated from it: records name it, and a model
            that is not known is ``[dialects] default_model``'s to serve, or 404 says which alias to write.
        :param for_model: gets the body and the model that serves, and returns the body for that one: a fallback may
            take something in another form.
        :returns: its answer: an error of the upstream's too.
        :raises agm.api.GatewayError: if no account can serve it, or it may not be made.
        """
        return await inprocess.call(
            self.calls,
            self.wall(),
            model,
            body,
            method=method,
            version=version,
            visit=visit,
            parent=parent,
            query=query,
            headers=headers,
            dialect=dialect,
            for_model=for_model,
        )

    async def model_for(
        self, model: str, body: Mapping[str, Any] | bytes = b"{}", *, visit: Caller | None = None, dialect: str
    ) -> str:
        """
        Say which model would serve a call of a dialect's client; what is called may depend on it.

        Nothing is sent, and nothing is counted.

        :raises agm.api.GatewayError: if none would.
        """
        return await inprocess.model_for(self.calls, self.wall(), model, body, visit=visit, dialect=dialect)

    async def list_models(self) -> Sequence[Mapping[str, Any]]:
        """Return the models that can be asked for, in Gemini's shape, after asking the accounts if it is time to."""
        return (await self.models.fresh_catalog()).resources

    @property
    def http(self) -> HTTPClient:
        """
        A treq client for plugins: by the proxies and certificate authorities of ``[upstream]``, over this gateway's
        connections.  It keeps no cookie, and asks for no compression.
        """
        return self.client.treq()

    @property
    def awaits_accounts(self) -> bool:
        """Whether a plugin fetches accounts from elsewhere that nobody has waited for yet."""
        return bool(self._awaited)


def _by_name(sources: Iterable[AccountSource]) -> dict[str, AccountSource]:
    found: dict[str, AccountSource] = {}
    for source in sources:
        if source.account.name in found:
            raise ValueError(f"two accounts are called {source.account.name}")
        found[source.account.name] = source
    return found


def _same(source: AccountSource, other: AccountSource) -> bool:
    return source is other or (source.origin is not None and source.origin == other.origin)

"""
The gateway as one object: the configuration in force, the plugins, the pool, the client and what is known of models.

It is made by the composition root (:mod:`agm.tap`) or by a test, and handed to whoever needs a part of it.  It serves
nothing itself: :mod:`agm.serving.attempts` and :mod:`agm.web` do.
"""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import DeferredList
from twisted.logger import Logger

from agm.config import Config
from agm.core.client_keys import ClientKey, KeyRing
from agm.core.counters import Tally
from agm.core.errors import Forbidden, InvalidRequest, TooManyRequests, Unauthenticated
from agm.core.limits import Allowances
from agm.core.models import Aliases, Catalog
from agm.core.ownership import KnownOwners, Ownership
from agm.core.pool.pool import Pool
from agm.core.redact import Redactor
from agm.core.request import LastFailure, RequestRecord
from agm.hookspecs import ClientKeySource
from agm.net.stalls import Stalls
from agm.net.timers import Deadlines
from agm.observe.activity import Live
from agm.observe.metrics import Metrics
from agm.observe.requestlog.writer import RequestLog
from agm.persist.key_usage import KeyCounts, path_beside
from agm.persist.pool_state import PoolState, written_at
from agm.plugins.hooks import HookFailed, Hooks
from agm.serving.health_checks import HealthChecks
from agm.serving.secrets import overheard, secrets_of
from agm.upstream.accounts import AccountSource
from agm.upstream.client import UpstreamClient
from agm.upstream.codeassist import CodeAssist
from agm.upstream.credentials.credential import Credential
from agm.upstream.credentials.refresher import Refresher
from agm.upstream.reports import ModelReports

#: Unknown keys that are remembered to have been presented before.
MAX_STRANGERS = 10_000

if TYPE_CHECKING:
    from agm.observe.tracing import Traces

log = Logger()


@attrs.define(eq=False)
class Gateway:
    """
    What every request needs.

    `reactor` gives time and connections; `wall` gives seconds since the epoch, for records.
    """

    reactor: Any
    config: Config
    hooks: Hooks
    client: UpstreamClient
    refresher: Refresher
    #: Whether a client key is asked for: ``off``, ``strict`` or ``all_except_health``.
    auth_mode: str
    #: The same for what a proxy has passed on, where that is another; ``auto`` opens the gateway to its machine alone.
    forwarded_auth_mode: str | None = attrs.field(default=None, kw_only=True)
    #: Where what is known of the accounts survives a restart; None for nowhere.
    state_path: Path | None = None
    wall: Callable[[], float] = time.time
    #: What knows the secrets that are held here, and takes them out of whatever is shown.
    redactor: Redactor = attrs.field(factory=Redactor)
    pool: Pool = attrs.field(init=False)
    _state: PoolState | None = attrs.field(init=False, default=None)
    _counts: KeyCounts | None = attrs.field(init=False, default=None)
    credentials: dict[str, Credential] = attrs.field(init=False, factory=dict)
    deadlines: Deadlines = attrs.field(init=False)
    stalls: Stalls = attrs.field(init=False)
    code_assist: CodeAssist = attrs.field(init=False)
    reports: ModelReports = attrs.field(init=False)
    #: Asks accounts and endpoints that are in doubt.
    checks: HealthChecks = attrs.field(init=False)
    #: What is going on, for whoever asks.
    live: Live = attrs.field(init=False)
    #: Which account has a file, a cached content or the like.
    ownership: Ownership = attrs.field(init=False, factory=KnownOwners)
    #: Where requests are remembered; None for nowhere.
    request_log: RequestLog | None = attrs.field(init=False, default=None)
    #: Of each account, the last attempt that failed through no fault of its request.
    last_failures: dict[str, LastFailure] = attrs.field(init=False, factory=dict)
    _sources: dict[str, AccountSource] = attrs.field(init=False, factory=dict)
    _awaited: list[Awaitable[list[AccountSource]]] = attrs.field(init=False, factory=list)
    #: Sources of client keys, each with the name of the plugin that it is of.
    _keys: Sequence[tuple[str, ClientKeySource]] = attrs.field(init=False, factory=list)
    #: Those of them that can know any.
    _asked_for_keys: Sequence[tuple[str, ClientKeySource]] = attrs.field(init=False, factory=list)
    #: Keys that were presented and are not known, by their hash in this process.
    _strangers: set[int] = attrs.field(init=False, factory=set)
    #: Whether any key could be known, now or before.
    _had_keys: bool = attrs.field(init=False, default=False)
    _warned_of_a_proxy: bool = attrs.field(init=False, default=False)
    #: How many calls of each client key are under way, where that is limited.
    _streams: Counter[str] = attrs.field(init=False, factory=Counter)
    _catalog: tuple[object, Catalog] | None = attrs.field(init=False, default=None)
    #: What client keys have used of their limits.
    allowances: Allowances = attrs.field(init=False)
    #: What has been done since the start.
    tally: Tally = attrs.field(init=False)
    metrics: Metrics = attrs.field(init=False)
    #: What sends traces; None where none are asked for.
    traces: Traces | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.pool = Pool((), self.reactor.seconds)
        self.deadlines = self.client.deadlines
        self.stalls = Stalls(self.reactor)
        self.allowances = Allowances(self.reactor.seconds, self.wall)
        self.tally = Tally(self._is_model, self.pool.kind_of)
        self.metrics = Metrics(self, self.tally)
        self.live = Live(self.pool, self.reactor.seconds, self.wall)
        self.code_assist = CodeAssist(self.reactor, self.client, self.credentials, self.pool, self.wall)
        self.checks = HealthChecks(self)
        self.reports = ModelReports(self.reactor, self.client, self.credentials, self.code_assist)
        self._awaited = self._adopt(self.config)

    async def start(self) -> None:
        """Start what needs the reactor, and wait for the accounts that plugins fetch from elsewhere."""
        self.refresher.start()
        self.metrics.start()
        if self.traces is not None:
            self.traces.start()
        if self.request_log is not None:
            self.request_log.start()
            self.live.told = self.request_log.note
        if self.state_path is not None:
            owners = self.ownership if isinstance(self.ownership, KnownOwners) else None
            written = written_at(self.state_path)
            self._state = PoolState(
                self.reactor, self.pool, self.state_path, self.wall, owners=owners, not_before=written
            )
            self._state.start(self._origins())
            self._counts = KeyCounts(self.reactor, self.allowances, path_beside(self.state_path))
            self._counts.start()
        await self._fetch()
        if self._state is not None:
            self._state.settled()

    async def stop(self) -> None:
        """Close the connections to upstreams and end the credentials' threads."""
        self.checks.stop()
        self.code_assist.stop()
        self.metrics.stop()
        self.stalls.stop()
        if self._state is not None:
            await self._state.stop()
        if self._counts is not None:
            await self._counts.stop()
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
            self.redactor.learn(secret)
        self.hooks.configure(config)
        known, awaited = self.hooks.account_sources(config)
        sources = _by_name(known)
        keys = self.hooks.client_key_sources(config)
        self.config, self._keys, self._catalog = config, keys, None
        self._asked_for_keys = [pair for pair in keys if not isinstance(pair[1], KeyRing) or len(pair[1])]
        self._had_keys = self._had_keys or bool(self._asked_for_keys)
        self.client.default_to(config.upstream.network)
        self._serve_from(sources)
        if self.auth_mode != "off" and not any(len(source) for _, source in keys):
            log.error(
                "auth.mode is {mode}, but no client key is configured: every request will be refused with 401. "
                "Add an [[auth.keys]] table to the configuration.",
                mode=self.auth_mode,
            )
        return awaited

    async def _fetch(self) -> None:
        awaited, self._awaited = self._awaited, []
        for waiting in awaited:
            try:
                fetched = await waiting
                self._serve_from(_by_name([*self._sources.values(), *fetched]))
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
                self.credentials[name] = overheard(source.credential(self.refresher), self.redactor.meet)
        self._sources = sources
        accounts = [source.account for source in sources.values()]
        self.pool.replace(accounts, kept)
        if self._state is not None:
            self._state.accounts_are(self._origins())
        self.code_assist.of(accounts, kept)
        self.reports.of(accounts)

    def _origins(self) -> dict[str, object]:
        return {name: source.origin for name, source in self._sources.items()}

    @property
    def kept_answers(self) -> int:
        """How many bytes of each answer are kept for the request log."""
        return 0 if self.request_log is None else self.request_log.kept_answers

    @property
    def awaits_accounts(self) -> bool:
        """Whether a plugin fetches accounts from elsewhere that nobody has waited for yet."""
        return bool(self._awaited)

    def mode_for(self, *, local: bool) -> str:
        """
        Whether a client key is asked for, of a request that comes from this machine or of any other.

        With a public URL and without any key, whom the proxy lets through is let in: that it has that URL says that the
        gateway is meant for them, and the proxy may well ask for something itself.  Once there was a key, one is asked
        for: to take away the last one opens nothing.
        """
        if local or self.forwarded_auth_mode is None:
            return self.auth_mode
        open_ = self.config.gateway.public_url is not None and not self._had_keys
        return self.auth_mode if open_ else self.forwarded_auth_mode

    async def authenticate(
        self, presented: Sequence[str], request_id: str = "-", *, local: bool = True
    ) -> ClientKey | None:
        """
        The client key of a request; None where none is asked for and none is known.

        :param presented: the keys that the request carries, in the order in which they are tried.
        :param request_id: for the log.
        :param local: whether the request comes from this machine itself.
        :raises Unauthenticated: if one is asked for and none of them is known, or those that are known have expired.
        """
        expired: Unauthenticated | None = None
        for key in presented:
            for plugin, source in self._asked_for_keys:
                found = await self._looked_up(plugin, source, key, request_id)
                if found is not None:
                    # those of the configuration are so many and no more: there is room for all of them
                    (self.redactor.learn if isinstance(source, KeyRing) else self.redactor.meet)(key)
                    expired = self._expired(found)
                    if expired is None:
                        return found
                    break
        if expired is not None:
            raise expired
        for key in presented:
            if hash(key) not in self._strangers:  # what it takes to know a key again is more than this request's part
                if len(self._strangers) >= MAX_STRANGERS:
                    self._strangers.clear()
                self._strangers.add(hash(key))
                self.redactor.meet_unknown(key)
        mode = self.mode_for(local=local)
        if mode == "off":
            return None
        if mode != self.auth_mode:
            self._warn_of_a_proxy()
        if not presented:
            whom = "" if mode == self.auth_mode else " where a request comes through a proxy, as this one does"
            raise Unauthenticated(
                f"This gateway asks for a client key{whom}. "
                "Send it as 'x-goog-api-key: KEY' or 'Authorization: Bearer KEY'.",
                reason="CLIENT_KEY_MISSING",
            )
        raise Unauthenticated("The client key is not known to this gateway.")

    def _warn_of_a_proxy(self) -> None:
        """Say once why what a proxy passes on is refused, where nobody could be let in."""
        if not self._warned_of_a_proxy and not self._asked_for_keys:
            self._warned_of_a_proxy = True
            log.warn(
                "a request came through a proxy and was asked for a client key, but none is configured: agm key create "
                "makes one. If the request was this machine's own, [gateway] trusted_proxies has the proxy believed"
            )

    async def _looked_up(self, plugin: str, source: ClientKeySource, key: str, request_id: str) -> ClientKey | None:
        """One source's answer; a source that fails, takes too long or returns something else knows no key."""
        try:
            found = source.lookup(key)
            known = await self.hooks.limited(found) if inspect.isawaitable(found) else found
            if known is not None and not isinstance(known, ClientKey):
                raise TypeError("a lookup returns a ClientKey or None")
            return known
        except Exception as e:
            self.hooks.failures[plugin, "agm_client_keys"] += 1
            # not the traceback: it could hold the key
            log.error(
                "{request_id}: a client key could not be looked up in a source of agm_client_keys of plugin {plugin}: "
                "{why}",
                request_id=request_id,
                plugin=plugin,
                why=type(e).__name__,
            )
            return None

    def key_named(self, name: str) -> ClientKey:
        """
        A client key by its name.

        :raises InvalidRequest: if none of the fixed keys has it; keys that are looked up elsewhere have no list.
        """
        for _, source in self._keys:
            found = source.named(name) if isinstance(source, KeyRing) else None
            if found is not None:
                return found
        # not the name: it may be the key itself, pasted where its name belongs
        raise InvalidRequest("There is no client key of this name in the configuration; agm key list shows the names.")

    @property
    def client_keys(self) -> list[ClientKey]:
        """The fixed client keys; those that are looked up elsewhere have no list."""
        return [key for _, source in self._keys if isinstance(source, KeyRing) for key in source.members]

    def _expired(self, key: ClientKey) -> Unauthenticated | None:
        """What is said to the bearer of a key whose time is over; None while it is not."""
        if key.expires is None or self.wall() < key.expires:
            return None
        since = datetime.fromtimestamp(key.expires, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return Unauthenticated(
            f"This client key has expired: it was good until {since}. Ask whoever runs the gateway for another.",
            reason="CLIENT_KEY_EXPIRED",
        )

    @property
    def limits_streams(self) -> bool:
        """Whether each client key may have only so many calls answered at once."""
        return self.config.limits.streams_per_key is not None

    @contextmanager
    def stream_of(self, key: ClientKey) -> Iterator[None]:
        """
        One of the calls that a client key may have answered at once, where that is limited.

        :raises TooManyRequests: if it has ``[limits] streams_per_key`` already.
        """
        most = self.config.limits.streams_per_key
        assert most is not None, "limits_streams says so"
        if self._streams[key.name] >= most:
            raise TooManyRequests(
                f"This client key has [limits] streams_per_key, {most}, calls under way. Retry when one has ended.",
                reason="CLIENT_KEY_STREAMS",
                retry_after=1.0,
            )
        self._streams[key.name] += 1
        try:
            yield
        finally:
            self._streams[key.name] -= 1
            if not self._streams[key.name]:
                del self._streams[key.name]

    def admit(self, key: ClientKey, model: str, method: str = "", *, counting: bool = True) -> None:
        """
        Hold a request to the limits of its client key.

        :param model: empty for a request about files and the like, which every key may make.
        :param method: Google's name for the call; what can use no tokens is let in while none are left.
        :param counting: whether the request counts; not where nothing will be sent.
        :raises Unauthenticated: if the key has expired.
        :raises Forbidden: if the key may not ask for the model.
        :raises TooManyRequests: if one of its limits is used up.
        """
        expired = self._expired(key)
        if expired is not None:
            raise expired
        if model and model not in key.patterns:
            raise Forbidden(f"This client key may not use models/{model}.", reason="MODEL_NOT_ALLOWED")
        spends = bool(model) and method != "countTokens"
        exceeded = self.allowances.admit(key.name, key.limits, spends=spends, counting=counting)
        if exceeded is not None:
            raise exceeded.error()

    def finished(self, record: RequestRecord) -> None:
        """A request has ended: count it, charge its client key for the tokens of the answer, and tell the observers."""
        self.tally.finished(record)
        if record.usage is not None and record.request.client_key is not None:
            self.allowances.charge(record.request.client_key, record.usage.total)
        self.hooks.request_finished(record)

    def _is_model(self, model: str) -> bool:
        """Whether a model is one that the configuration or an account names, and no client's invention."""
        return model in self.catalog or model in self.config.models.aliases.values()

    async def fresh_catalog(self) -> Catalog:
        """The models that can be asked for, after asking the accounts for theirs if it is time to."""
        await self.reports.fresh()
        return self.catalog

    @property
    def catalog(self) -> Catalog:
        """The models that can be asked for, as far as the accounts have reported theirs."""
        reported = self.reports.known
        if self._catalog is None or self._catalog[0] is not reported:
            models = self.config.models
            aliases = Aliases(models.aliases)
            catalog = Catalog(models.list, aliases, reported, display_name=models.display_name)
            self._catalog = (reported, catalog)
        return self._catalog[1]


def _by_name(sources: Iterable[AccountSource]) -> dict[str, AccountSource]:
    found: dict[str, AccountSource] = {}
    for source in sources:
        if source.account.name in found:
            raise ValueError(f"two accounts are called {source.account.name}")
        found[source.account.name] = source
    return found


def _same(source: AccountSource, other: AccountSource) -> bool:
    return source is other or (source.origin is not None and source.origin == other.origin)

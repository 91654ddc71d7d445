"""
Client keys: authenticate a request by the keys that it presents, and hold it to the limits of its key.

Keys come from sources: those of the configuration are a fixed list, a plugin's may be looked up anywhere.  No key is
logged or kept here; a key that was presented is handed to the redactor, which keeps it out of whatever is shown.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import attrs
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from agm.config import Config
from agm.core.client_keys import ClientKey, KeyRing
from agm.core.errors import Forbidden, GatewayError, InvalidRequest, TooManyRequests, Unauthenticated, Unavailable
from agm.core.limits import Allowances
from agm.core.redact import Redactor
from agm.core.request import RequestRecord
from agm.hookspecs import ClientKeySource
from agm.plugins.hooks import Hooks
from agm.serving.money import Money
from agm.serving.shared_limits import Prepaid, SharedLimits

#: Unknown keys that are remembered to have been presented before.
MAX_UNKNOWN_KEYS = 10_000

log = Logger()


class _LookupFailed(Exception):
    """A source of client keys cannot say whether it knows a key."""


@attrs.define(eq=False)
class ClientAuthenticator:
    """
    Authenticates clients, and admits their requests.

    :param mode: whether a client key is asked for: ``off``, ``strict`` or ``all_except_health``.
    :param forwarded_mode: the same for what a proxy has passed on, where that is another; ``auto`` opens the gateway to
        its machine alone.
    :param wall: seconds since the epoch.
    """

    mode: str
    forwarded_mode: str | None
    #: What client keys have used of their limits.
    allowances: Allowances
    _hooks: Hooks
    _redactor: Redactor
    _wall: Callable[[], float]
    _config: Config
    #: The budgets of client keys and teams.
    _money: Money
    #: Sources of client keys, each with the name of the plugin that it is of.
    _sources: Sequence[tuple[str, ClientKeySource]] = attrs.field(init=False, factory=list)
    #: Those of them that can know any.
    _asked_for_keys: Sequence[tuple[str, ClientKeySource]] = attrs.field(init=False, factory=list)
    #: Keys that were presented and are not known, by their hash in this process.
    _unknown_keys: set[int] = attrs.field(init=False, factory=set)
    #: Whether any key could be known, now or before.
    _had_keys: bool = attrs.field(init=False, default=False)
    _warned_of_a_proxy: bool = attrs.field(init=False, default=False)
    #: How many calls of each client key are in flight, where that is limited.
    _streams: Counter[str] = attrs.field(init=False, factory=Counter)
    #: What buys requests a minute, where other processes share them.
    shared: SharedLimits | None = attrs.field(init=False, default=None)

    def configure(self, config: Config, sources: Sequence[tuple[str, ClientKeySource]]) -> None:
        """Go on with the limits of another configuration, and with other sources of keys."""
        self._config, self._sources = config, sources
        self._asked_for_keys = [pair for pair in sources if not isinstance(pair[1], KeyRing) or len(pair[1])]
        self._had_keys = self._had_keys or bool(self._asked_for_keys)
        if self.mode != "off" and not any(len(source) for _, source in sources):
            log.error(
                "auth.mode is {mode}, but no client key is configured: every request will be refused with 401. "
                "Add an [[auth.keys]] table to the configuration.",
                mode=self.mode,
            )

    # Who asks

    def mode_for(self, *, local: bool) -> str:
        """
        Return the auth mode for a request that is local, or from elsewhere.

        With a public URL and without any key, whom the proxy lets through is let in: that it has that URL says that the
        gateway is meant for them, and the proxy may well ask for something itself.  Once there was a key, one is asked
        for: to take away the last one opens nothing.
        """
        if local or self.forwarded_mode is None:
            return self.mode
        open_ = self._config.gateway.public_url is not None and not self._had_keys
        return self.mode if open_ else self.forwarded_mode

    async def authenticate(
        self, presented: Sequence[str], request_id: str = "-", *, local: bool = True
    ) -> ClientKey | None:
        """
        Find the client key of a request; None where none is asked for and none is known.

        :param presented: the keys that the request carries, in the order in which they are tried.
        :param request_id: for the log.
        :param local: whether the request comes from this machine itself.
        :raises Unauthenticated: if one is asked for and none of them is known, or those that are known have expired.
        :raises Unavailable: if one is asked for, and whoever may know one of them cannot be asked now.
        :raises GatewayError: which a source refuses a key with.
        """
        expired: Unauthenticated | None = None
        failed = False
        for key in presented:
            for plugin, source in self._asked_for_keys:
                try:
                    found = await self._look_up(plugin, source, key, request_id)
                except _LookupFailed:
                    failed = True
                    continue
                if found is not None:
                    # those of the configuration are so many and no more: there is room for all of them
                    add = self._redactor.add_permanent if isinstance(source, KeyRing) else self._redactor.add_transient
                    add(key)
                    expired = self._expired(found)
                    if expired is None:
                        return found
                    break
        if expired is not None and not failed:
            raise expired
        for key in presented:
            if (
                hash(key) not in self._unknown_keys
            ):  # what it takes to know a key again is more than this request's part
                if len(self._unknown_keys) >= MAX_UNKNOWN_KEYS:
                    self._unknown_keys.clear()
                self._unknown_keys.add(hash(key))
                self._redactor.add_unknown(key)
        mode = self.mode_for(local=local)
        if mode == "off":
            return None
        if failed:
            raise Unavailable(
                "The client key cannot be looked up now: whoever knows it does not answer.",
                reason="CLIENT_KEY_LOOKUP_FAILED",
                retry_after=1.0,
            )
        if mode != self.mode:
            self._warn_of_a_proxy()
        if not presented:
            whom = "" if mode == self.mode else " where a request comes through a proxy, as this one does"
            raise Unauthenticated(
                f"This gateway asks for a client key{whom}. "
                "Send it as 'x-goog-api-key: KEY' or 'Authorization: Bearer KEY'.",
                reason="CLIENT_KEY_MISSING",
            )
        if any(key.startswith("ya29.") for key in presented):
            raise Unauthenticated(
                "A Google access token is no client key of this gateway, and is not passed on: give the SDK a client "
                "key in its place, as api_key or as the token of its credentials."
            )
        raise Unauthenticated("The client key is not known to this gateway.")

    def _warn_of_a_proxy(self) -> None:
        """Say once why what a proxy passes on is refused, where nobody could be let in."""
        if not self._warned_of_a_proxy and not self._asked_for_keys:
            self._warned_of_a_proxy = True
            log.warn(
                "a request came through a proxy and was asked for a client key, but none is configured: agm key "
                "create makes one. If the request came from this machine, add the proxy to [gateway] trusted_proxies"
            )

    async def _look_up(self, plugin: str, source: ClientKeySource, key: str, request_id: str) -> ClientKey | None:
        """
        Ask one source.

        :raises _LookupFailed: if it fails, takes too long or returns something else.
        :raises GatewayError: which it refuses the key with.
        """
        try:
            found = source.lookup(key)
            known = await self._hooks.limited(found) if inspect.isawaitable(found) else found
            if known is not None and not isinstance(known, ClientKey):
                raise TypeError("a lookup returns a ClientKey or None")
            return known
        except GatewayError:
            raise
        except CancelledError:  # the client has left
            raise
        except Exception as e:
            self._hooks.failures[plugin, "agm_client_keys"] += 1
            # not the traceback: it could hold the key
            log.error(
                "{request_id}: a client key could not be looked up in a source of agm_client_keys of plugin {plugin}: "
                "{why}",
                request_id=request_id,
                plugin=plugin,
                why=type(e).__name__,
            )
            raise _LookupFailed from None

    def named(self, name: str) -> ClientKey:
        """
        Find a client key by its name, in every source that has names.

        :raises InvalidRequest: if none has it.
        :raises Unavailable: if a plugin's source fails.
        """
        for plugin, source in self._sources:
            ask = getattr(source, "named", None)
            if ask is None:
                continue
            try:
                known = ask(name)
            except Exception as e:
                raise Unavailable(
                    f"A source of client keys of plugin {plugin} cannot be asked for names: {type(e).__name__}."
                ) from e
            if isinstance(known, ClientKey):
                return known
        # not the name: it may be the key itself, pasted where its name belongs
        raise InvalidRequest(
            "There is no client key of this name: agm key list shows those of the configuration. A key that a plugin "
            "looks up elsewhere is known by its name once it has been used, as long as it is cached."
        )

    @property
    def client_keys(self) -> list[ClientKey]:
        """The fixed client keys; those that are looked up elsewhere have no list."""
        return [key for _, source in self._sources if isinstance(source, KeyRing) for key in source.members]

    def _expired(self, key: ClientKey) -> Unauthenticated | None:
        """Make the error for the bearer of a key whose time is over; None while it is not."""
        if key.expires is None or self._wall() < key.expires:
            return None
        since = datetime.fromtimestamp(key.expires, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return Unauthenticated(
            f"This client key has expired: it was good until {since}. Ask whoever runs the gateway for another.",
            reason="CLIENT_KEY_EXPIRED",
        )

    def lists(self, key: ClientKey) -> bool:
        """Return whether a key is one of a list, and not looked up elsewhere."""
        return any(key.digest == known.digest for known in self.client_keys)

    def revoked(self, key: ClientKey, *, listed: bool) -> Unauthenticated | None:
        """
        Make the error for the bearer of a key that is not taken any more; None while it is.

        :param listed: whether it was in a list, which says by leaving it out that it is revoked.
        """
        if listed and not self.lists(key):
            return Unauthenticated("This client key has been revoked.", reason="CLIENT_KEY_REVOKED")
        return self._expired(key)

    # What it may do

    async def pay(self, key: ClientKey) -> None:
        """
        Pay for a request of a key that is to be admitted next, where :attr:`shared` has its minute.

        :raises Unavailable: if that cannot be, and requests are to be refused then.
        """
        limit = key.requests_per_minute
        if self.shared is not None and limit is not None:
            minute = self.allowances.minute(key.name, lambda: Prepaid(limit), limit)
            assert isinstance(minute, Prepaid), "there was none before"
            await self.shared.pay(key.name, minute)

    def admit(self, key: ClientKey, model: str, method: str = "", *, counting: bool = True) -> None:
        """
        Hold a request to the limits of its client key.

        :param model: empty for a request about files and the like, which every key may make.
        :param method: Google's name for the call; what can use no tokens is let in while none are left.
        :param counting: whether the request counts; not where nothing will be sent.
        :raises Unauthenticated: if the key has expired.
        :raises Forbidden: if the key may not ask for the model.
        :raises TooManyRequests: if one of its limits is used up, or a budget of it or its team is spent.
        """
        expired = self._expired(key)
        if expired is not None:
            raise expired
        if model and model not in key.patterns:
            raise Forbidden(f"This client key may not use models/{model}.", reason="MODEL_NOT_ALLOWED")
        spends = bool(model) and method != "countTokens"
        if spends:
            self._money.admit(key)
        exceeded = self.allowances.admit(key.name, key.limits, spends=spends, counting=counting)
        if exceeded is not None:
            raise exceeded.error()

    def charge(self, record: RequestRecord) -> None:
        """Charge the client key of a request that has ended for the tokens of its answer."""
        if record.usage is not None and record.request.client_key is not None:
            self.allowances.charge(record.request.client_key, record.usage.total)

    @property
    def limits_streams(self) -> bool:
        """Whether each client key may have only so many calls answered at once."""
        return self._config.limits.streams_per_key is not None

    @contextmanager
    def stream_of(self, key: ClientKey) -> Iterator[None]:
        """
        Count one of the calls that a client key may have answered at once, where that is limited; of several processes
        each has its part.

        :raises TooManyRequests: if it has ``[limits] streams_per_key`` already.
        """
        most = self._config.limits.streams_per_key
        assert most is not None, "limits_streams says so"
        part = most if self.shared is None else self.shared.part(most, f"streams {key.name}")
        if self._streams[key.name] >= part:
            raise TooManyRequests(
                f"This client key has [limits] streams_per_key, {most}, calls in flight. Retry when one has ended.",
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

"""
The metrics of a gateway as Prometheus reads them: how things are, put into its words when somebody asks.

A gateway has a registry of its own, so that two in one process do not mix.  No key, no text and no path of a request is
ever in a label, and no name of an account or a client key unless the configuration says so; docs/metrics.md lists
everything.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from twisted.copyright import version as twisted_version

from agm import __version__
from agm.core.counters import TOKENS, Counters, Histogram
from agm.core.pool.cooldown import Remembered
from agm.core.pool.pool import Pool
from agm.observe.machine_metrics import Family, families_of
from agm.observe.observed import Observed

#: Hosts that are told apart; an upload goes where an upstream says.
MAX_HOSTS = 100
STATES = ("ready", "busy", "resting", "disabled")


class Exposition(NamedTuple):
    """A scrape: the bytes, and what they are."""

    body: bytes
    content_type: str


class Sum(Collector):
    """What several processes have told, added up."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Everything."""
        for family in self._families:
            metric = Metric(family.name, family.what, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric

    def expose(self, accept: str) -> Exposition:
        """See :meth:`Figures.expose`."""
        encode, content_type = choose_encoder(accept)
        return Exposition(encode(self), content_type)


class Figures(Collector):
    """
    What a scrape of one gateway gives.

    :param counters: what its requests were counted with.
    """

    def __init__(self, observed: Observed, counters: Counters) -> None:
        self._observed = observed
        self._counters = counters
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def expose(self, accept: str) -> Exposition:
        """All of it, in the newest form that an ``Accept`` header asks for: OpenMetrics or Prometheus text."""
        encode, content_type = choose_encoder(accept)
        return Exposition(encode(self.registry), content_type)

    def families(self) -> list[Family]:
        """All of it, for a sum over several processes."""
        return families_of(self.registry.collect())

    def describe(self) -> Iterable[Metric]:
        """Nothing: that the registry need not ask for everything to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        yield from self._counted()
        yield from self._standing()
        if self._observed.config().accounts:
            yield from self._by_account()
        if self._observed.config().client_keys:
            yield from self._by_client_key()

    def _counted(self) -> Iterator[Metric]:
        counters, observed = self._counters, self._observed
        build = GaugeMetricFamily("agm_build_info", "Versions; always 1.", labels=["version", "python", "twisted"])
        build.add_metric([__version__, platform.python_version(), twisted_version], 1)
        yield build
        yield _counter(
            "agm_requests",
            "Calls that have ended, by outcome.",
            ["method", "framing", "code", "outcome"],
            counters.requests.items(),
        )
        yield _counter(
            "agm_dialect_requests",
            "Those of them that clients of another API made, by its dialect.",
            ["dialect", "code", "outcome"],
            counters.dialects.items(),
        )
        yield _histogram(
            "agm_request_first_byte_seconds",
            "Time from a call to the first byte of its answer.",
            ["method", "framing"],
            counters.first_byte.items(),
        )
        yield _histogram(
            "agm_request_duration_seconds",
            "Time from a call to the end of its answer, if it was complete.",
            ["method", "framing"],
            counters.duration.items(),
        )
        yield _counter(
            "agm_attempts",
            "Attempts at upstreams of calls that have ended, by outcome.",
            ["kind", "reason"],
            counters.attempts.items(),
        )
        yield _counter(
            "agm_errors",
            "Errors that clients got, from the gateway or an upstream.",
            ["source", "reason"],
            counters.errors.items(),
        )
        yield _counter(
            "agm_tokens",
            "Tokens that upstreams reported; cached tokens are prompt tokens, too.",
            ["model", "type"],
            (((model, TOKENS[at]), n) for model, counts in counters.tokens.items() for at, n in enumerate(counts)),
        )
        yield _counter(
            "agm_cost_dollars",
            "US dollars that calls have cost by list prices, as far as these are known.",
            ["model"],
            (((model,), cost) for model, cost in counters.costs.items()),
        )
        yield _counter(
            "agm_requests_unpriced",
            "Calls that an upstream has answered and whose price is not known.",
            ["model"],
            (((model,), count) for model, count in counters.unpriced.items()),
        )
        flowing = observed.live.relays()
        sent = counters.sent + sum(relay.sent for relay in flowing)
        yield _counter("agm_received_bytes", "Bytes of calls' bodies, without uploads.", [], [((), counters.received)])
        yield _counter("agm_sent_bytes", "Bytes of answers' bodies to calls.", [], [((), sent)])
        yield _counter(
            "agm_hook_failures",
            "Plugin hook errors: exceptions that hooks raised.",
            ["plugin", "hook"],
            observed.hook_failures.items(),
        )
        yield _counter(
            "agm_credential_refreshes",
            "Token requests to token endpoints, by outcome.",
            ["outcome"],
            (((outcome,), count) for outcome, count in observed.refreshes.items()),
        )
        yield _histogram(
            "agm_reactor_lag_seconds",
            "Event-loop lag, sampled twice a second.",
            [],
            [((), counters.lag)],
        )

    def _standing(self) -> Iterator[Metric]:
        observed = self._observed
        totals = observed.live.totals()
        paused = sum(relay.paused for relay in observed.live.relays())
        yield GaugeMetricFamily("agm_requests_open", "Calls in flight.", totals["open"])
        yield GaugeMetricFamily("agm_streams_open", "Streamed answers in flight.", totals["streams"])
        yield GaugeMetricFamily("agm_sessions_open", "Live sessions in flight.", totals["sessions"])
        yield GaugeMetricFamily("agm_answers_paused", "Answers paused because their client reads slowly.", paused)
        yield GaugeMetricFamily("agm_requests_waiting", "Calls that wait for a free account.", observed.pool.waiting())
        states = Counter((kind, state) for _, kind, state in _states(observed.pool))
        accounts = GaugeMetricFamily("agm_accounts", "Accounts by state.", labels=["kind", "state"])
        for kind in sorted({kind for kind, _ in states}):
            for state in STATES:
                accounts.add_metric([kind, state], states[kind, state])
        yield accounts
        connections = GaugeMetricFamily(
            "agm_upstream_connections", "Connections to upstreams: used or idle.", labels=["host", "state"]
        )
        for host, (used, idle) in bounded(observed.connections()).items():
            connections.add_metric([host, "used"], used)
            connections.add_metric([host, "idle"], idle)
        yield connections

    def _by_account(self) -> Iterator[Metric]:
        observed = self._observed
        standing = GaugeMetricFamily(
            "agm_account_state",
            "The state of an account: 1 for the state that it is in.",
            labels=["account", "kind", "state"],
        )
        under_way = GaugeMetricFamily("agm_account_requests_open", "Calls in flight on an account.", labels=["account"])
        for name, kind, state in _states(observed.pool):
            standing.add_metric([name, kind, state], 1)
        for name, load in observed.pool.loads().items():
            under_way.add_metric([name], load)
        yield standing
        yield under_way
        yield _counter(
            "agm_account_attempts",
            "Attempts at upstreams of calls that have ended, by account.",
            ["account", "reason"],
            self._counters.tries.items(),
        )

    def _by_client_key(self) -> Iterator[Metric]:
        requests = GaugeMetricFamily(
            "agm_client_key_requests_today", "Requests of a client key since midnight UTC.", labels=["client_key"]
        )
        tokens = GaugeMetricFamily(
            "agm_client_key_tokens_today", "Tokens of a client key since midnight UTC.", labels=["client_key"]
        )
        for key in self._observed.client_keys():
            used = self._observed.allowances.today(key.name)
            requests.add_metric([key.name], used[0])
            tokens.add_metric([key.name], used[1])
        yield requests
        yield tokens


def _states(pool: Pool) -> Iterator[tuple[str, str, str]]:
    """Each account's name, kind and state.  One that rests for some model is resting, whatever others it may serve."""
    known, loads = pool.remember(), pool.loads()
    for account in pool.accounts:
        found = known.get(account.name, Remembered())
        if found.disabled is not None:
            state = "disabled"
        elif any(cooldown.left is None or cooldown.left > 0 for cooldown in found.all_cooldowns):
            state = "resting"
        elif account.max_concurrency is not None and loads[account.name] >= account.max_concurrency:
            state = "busy"
        else:
            state = "ready"
        yield account.name, account.kind, state


def bounded(connections: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Connections by host; beyond the first ones, those of all others together."""
    found: dict[str, tuple[int, int]] = {}
    for host, (used, idle) in sorted(connections.items()):
        name = host if len(found) < MAX_HOSTS else "other"
        before = found.get(name, (0, 0))
        found[name] = (before[0] + used, before[1] + idle)
    return found


def _counter(name: str, what: str, labels: list[str], counts: Iterable[tuple[Any, float]]) -> Metric:
    family = CounterMetricFamily(name, what, labels=labels)
    for values, count in counts:
        family.add_metric(list(values), count)
    return family


def _histogram(name: str, what: str, labels: list[str], spreads: Iterable[tuple[Any, Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, what, labels=labels)
    for values, spread in spreads:
        buckets, total = [], 0
        for bound, count in zip([*map(str, spread.bounds), "+Inf"], spread.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric(list(values), buckets=buckets, sum_value=spread.sum)
    return family

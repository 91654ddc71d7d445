"""
Checks of the way to Google: names, connections with verified TLS, this machine's clock, and each account.

Every request goes through the gateway's own client, so that proxies and certificate authorities are those of the
configuration.  To the endpoints nothing is sent that tells who asks; through an account goes one ``countTokens``, as by
``agm account test``.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from agm.config import Config, default_endpoints
from agm.core.network import EnvironmentProxies, Network
from agm.core.request import Account
from agm.core.words import counted
from agm.diagnose.doctor import Finding, too_long
from agm.diagnose.trial import try_account
from agm.serving.gateway import Gateway
from agm.upstream.client import UpstreamClient, UpstreamFailed

__all__ = ["SKEW", "accounts", "endpoints", "skew_of"]

#: Seconds by which a clock may be wrong: tokens are good from when they are made on.
SKEW = 60.0
#: Seconds for a name, for an endpoint's answer, and for an account.
RESOLVE, ANSWER, ACCOUNT = 10.0, 15.0, 60.0
#: Bytes of an endpoint's answer that are read.
MAX_ANSWER = 64 * 1024

_CURES = {
    "CONNECT_FAILED": "check this machine's network and firewall; behind a proxy, set [upstream] proxy",
    "DNS_FAILED": "check the endpoint's name, and the name server of this machine",
    "TLS_FAILED": "if a company's proxy opens TLS here, put its certificate into [upstream] ca_file; never turn"
    " verification off",
    "PROXY_FAILED": "check [upstream] proxy, or the variables HTTPS_PROXY and NO_PROXY",
}
_OTHERWISE = "try again; check the account's endpoints, and what stands between this machine and them"


@attrs.frozen
class _Way:
    """An endpoint, and how it is reached."""

    url: str
    network: Network | None


def _ways(config: Config) -> list[_Way]:
    """Return the endpoints of the accounts that are enabled, each way once; Google's where there are none."""
    found = [_Way(url, account.network) for account in config.accounts if account.enabled for url in account.endpoints]
    if not any(account.enabled for account in config.accounts):
        return [_Way(url, None) for url in default_endpoints("api-key")]
    return list(dict.fromkeys(found))


async def endpoints(
    reactor: Any,
    config: Config,
    client: UpstreamClient,
    environ: Mapping[str, str],
    wall: Callable[[], float],
    unreachable: set[str],
) -> AsyncIterator[Finding]:
    """
    Check that each endpoint can be reached, and that the clock is right.

    :param wall: seconds since the epoch.
    :param unreachable: gets the endpoints that cannot be reached.
    """
    dates: list[tuple[str, str, float]] = []
    resolved: dict[str, Finding] = {}
    for way in _ways(config):
        split = urlsplit(way.url)
        host, port = split.hostname or "", split.port or (443 if split.scheme == "https" else 80)
        try:
            network = config.upstream.network if way.network is None else way.network.over(config.upstream.network)
            proxy = network.proxy_for(EnvironmentProxies.of(environ), split.scheme, host, port)
        except ValueError as failure:
            unreachable.add(way.url)
            yield Finding("proxy", "error", str(failure), "set the variable right, or [upstream] proxy")
            continue
        name = host if proxy is None else proxy.host
        if not _is_address(name):
            if name not in resolved:
                resolved[name] = await _resolves(reactor, name)
                yield resolved[name]
            if resolved[name].level == "error":
                unreachable.add(way.url)
                continue
        by = "" if proxy is None else f" by way of {proxy}"
        began, at = reactor.seconds(), wall()
        try:
            answer = await client.fetch("GET", f"{way.url}/", [], timeout=ANSWER, limit=MAX_ANSWER, network=way.network)
        except UpstreamFailed as failure:
            unreachable.add(way.url)
            yield Finding("endpoint", "error", f"{way.url}{by}: {failure}", _CURES.get(failure.reason, _OTHERWISE))
            continue
        seconds = reactor.seconds() - began
        date = answer.header("date")
        if date is not None:
            dates.append((way.url, date, at + seconds / 2))
        tls = "TLS verified, " if split.scheme == "https" else ""
        yield Finding("endpoint", "ok", f"{way.url}{by}: {tls}answers in {seconds:.1f} s")
    for finding in _clock(dates):
        yield finding


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _resolves(reactor: Any, name: str) -> Finding:
    """Check that a name has an address, in a thread that is abandoned if it takes too long."""
    done: Deferred[int | None] = Deferred(lambda _: None)

    def told(count: int | None) -> None:
        if not done.called:
            done.callback(count)

    def look() -> None:
        try:
            count = len({entry[4][0] for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
        except (OSError, UnicodeError):
            count = None
        reactor.callFromThread(told, count)

    threading.Thread(target=look, name="agm doctor: name", daemon=True).start()
    done.addTimeout(RESOLVE, reactor)
    try:
        count = await done
    except DeferredTimeout:
        return attrs.evolve(too_long("name", RESOLVE), found=f"{name} is not resolved within {RESOLVE:g} seconds")
    if count is None:
        return Finding("name", "error", f"{name} cannot be resolved", _CURES["DNS_FAILED"])
    return Finding("name", "ok", f"{name} has {counted(count, 'address', 'addresses')}")


def skew_of(date: str, at: float) -> float | None:
    """
    Seconds by which this machine is ahead of the one that wrote a ``Date`` header; None if it wrote no date.

    :param at: this machine's time, in seconds since the epoch, when the header was written.
    """
    try:
        return at - parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _clock(dates: list[tuple[str, str, float]]) -> list[Finding]:
    """Check the clock against the endpoints' dates; one that agrees is enough, as others may be wrong."""
    skews = [(abs(skew), skew, url) for url, date, at in dates if (skew := skew_of(date, at)) is not None]
    if not skews:
        return []
    off, skew, url = min(skews)
    if off <= SKEW:
        return [Finding("clock", "ok", f"this machine's clock is within {max(off, 1):.0f} s of {url}")]
    side = "ahead of" if skew > 0 else "behind"
    found = f"this machine's clock is {off:.0f} s {side} {url}: tokens will be refused"
    return [Finding("clock", "error", found, "set it: timedatectl set-ntp true, or ntpdate")]


async def accounts(gateway: Gateway, config: Config, unreachable: set[str]) -> AsyncIterator[Finding]:
    """
    Test each enabled account; `gateway` is one for trials, see :mod:`agm.diagnose.trial`.

    :param unreachable: endpoints that are known not to be reached.
    """
    written = {account.name: account for account in config.accounts}
    for account in gateway.pool.accounts:
        what = f"{account.name} ({account.kind})"
        entry = written.get(account.name)
        if account.unusable is not None:
            yield Finding("account", "warning", f"{what}: not tried: {account.unusable}", None)
        elif account.endpoints and unreachable.issuperset(account.endpoints):
            yield Finding("account", "warning", f"{what}: not tried, as its endpoints cannot be reached", None)
        elif entry is not None and entry.kind == "code-assist" and entry.project is None:
            # to find its project out may onboard it, and that is a change
            cure = f"`agm account test {account.name}` tries it all the same"
            yield Finding("account", "warning", f"{what}: not tried, as that may choose a project for it", cure)
        else:
            yield await _tried(gateway, account)


async def _tried(gateway: Gateway, account: Account) -> Finding:
    what = f"{account.name} ({account.kind})"
    trying = Deferred.fromCoroutine(try_account(gateway, account))
    trying.addTimeout(ACCOUNT, gateway.reactor)
    try:
        trial = await trying
    except DeferredTimeout:
        return attrs.evolve(too_long("account", ACCOUNT), found=f"{what}: no answer within {ACCOUNT:g} seconds")
    if trial.ok:
        answered = f"{trial.model} counted" if trial.models is None else trial.answered
        return Finding("account", "ok", f"{what}: {answered} in {trial.seconds:.1f} s")
    status = "" if trial.status is None else f"{trial.status} "
    found = f"{what}: {status}{trial.reason or 'no count'}: {trial.message or ''}".rstrip(": ")
    used_up = trial.status == 429 or trial.reason in ("NO_MODEL_TO_TRY", "NOTHING_TO_TRY")
    return Finding("account", "warning" if used_up else "error", found, trial.cure or _OTHERWISE)

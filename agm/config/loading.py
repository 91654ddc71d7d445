"""A whole file: its tables together, where it is looked for, and how it is read."""

# ruff: noqa: RUF009 - `setting` makes an attrs field, which ruff cannot know; it is no shared default

import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import platformdirs

from agm.config.accounts import AccountConfig, AccountTable, read_account
from agm.config.alerts import AlertConfig, AlertTable, read_alert
from agm.config.budgets import BudgetTable, check_budgets, read_budget
from agm.config.client_keys import AuthConfig, read_auth
from agm.config.cluster import ClusterConfig, ClusterTable, read_cluster
from agm.config.files import why_unreadable
from agm.config.identity import Identity
from agm.config.network import UpstreamConfig, check_environment
from agm.config.prices import PriceTable, read_prices
from agm.config.problems import ConfigError, Problem
from agm.config.reading import Place, Reading, array_of_tables, keys_below, setting, table_of, values_of
from agm.config.tables import (
    DialectsConfig,
    GatewayConfig,
    LimitsConfig,
    LogConfig,
    MetricsConfig,
    MetricsTable,
    ModelsConfig,
    OtelConfig,
    PluginsConfig,
    PoolConfig,
    RequestLogConfig,
    TimeoutsConfig,
    read_metrics,
    read_plugins,
)
from agm.core.money import Price
from agm.core.spending import Budget


@attrs.frozen(kw_only=True)
class Config:
    """
    Everything that the file says, checked, with defaults for what it leaves out.

    ``path`` is the file, absolute, or ``None``; ``warnings`` are lines on what works but should be changed, and on what
    is off.  Of these, ``lacking`` are secrets that are missing or unusable.  ``files`` are all files that were read, as
    they were before, whether they are there or not.
    """

    path: Path | None = None
    gateway: GatewayConfig = setting(table_of(GatewayConfig), GatewayConfig(), inside=GatewayConfig)
    timeouts: TimeoutsConfig = setting(table_of(TimeoutsConfig), TimeoutsConfig(), inside=TimeoutsConfig)
    limits: LimitsConfig = setting(table_of(LimitsConfig), LimitsConfig(), inside=LimitsConfig)
    upstream: UpstreamConfig = setting(table_of(UpstreamConfig), UpstreamConfig(), inside=UpstreamConfig)
    auth: AuthConfig = setting(read_auth, AuthConfig(), inside=AuthConfig)
    models: ModelsConfig = setting(table_of(ModelsConfig), ModelsConfig(), inside=ModelsConfig)
    pool: PoolConfig = setting(table_of(PoolConfig), PoolConfig(), inside=PoolConfig)
    accounts: tuple[AccountConfig, ...] = setting(array_of_tables(read_account), (), inside=AccountTable, several=True)
    prices: Mapping[str, Price] = setting(read_prices, MappingProxyType({}), inside=PriceTable)
    budgets: tuple[Budget, ...] = setting(array_of_tables(read_budget), (), inside=BudgetTable, several=True)
    log: LogConfig = setting(table_of(LogConfig), LogConfig(), inside=LogConfig)
    metrics: MetricsConfig = setting(read_metrics, MetricsConfig(), inside=MetricsTable)
    otel: OtelConfig = setting(table_of(OtelConfig), OtelConfig(), inside=OtelConfig)
    request_log: RequestLogConfig = setting(table_of(RequestLogConfig), RequestLogConfig(), inside=RequestLogConfig)
    alerts: tuple[AlertConfig, ...] = setting(array_of_tables(read_alert), (), inside=AlertTable, several=True)
    dialects: DialectsConfig = setting(table_of(DialectsConfig), DialectsConfig(), inside=DialectsConfig)
    cluster: ClusterConfig = setting(read_cluster, ClusterConfig(), inside=ClusterTable)
    plugins: PluginsConfig = setting(read_plugins, PluginsConfig(), inside=PluginsConfig)
    warnings: tuple[str, ...] = ()
    lacking: tuple[Problem, ...] = ()
    files: Mapping[Path, Identity | None] = attrs.field(factory=dict, eq=False, repr=False)


def known_keys(table: type = Config, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that a file may hold, as ``accounts[].name``, with its default (``None`` for none)."""
    return keys_below(table, at)


def parse(text: str, *, path: Path | None = None, environ: Mapping[str, str]) -> Config:
    """
    Return the configuration that ``text`` holds.

    ``path`` is the file it came from: it is named in problems, and relative paths start at its folder.
    ``environ`` is where ``*_env`` keys are looked up.  Raises :class:`ConfigError` with every problem.
    """
    return _config(text, Reading(Config, path, environ))


def _config(text: str, reading: Reading) -> Config:
    try:
        tables = tomllib.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        problem = Problem(reading.file, "", "is not TOML that can be read: nested too deeply")
        raise ConfigError([problem], reading.files) from None
    except ValueError as error:
        raise ConfigError([Problem(reading.file, "", f"is not TOML: {error}")], reading.files) from None
    values = values_of(Config, tables, Place(reading))
    if reading.problems:
        raise ConfigError(reading.problems, reading.files)
    check_environment(values, reading)
    check_reach(values, reading)
    check_budgets(values, reading)
    return Config(
        path=None if reading.file is None else reading.file.absolute(),
        warnings=tuple(reading.warnings),
        lacking=tuple(reading.lacking),
        files=reading.files,
        **values,
    )


def check_reach(of: Mapping[str, Any], reading: Reading) -> None:
    """Warn of a proxy before the gateway that lets everybody through, or nobody."""
    gateway, auth = of.get("gateway", GatewayConfig()), of.get("auth", AuthConfig())
    plugins = of.get("plugins", PluginsConfig())
    if gateway.public_url is None and not gateway.trusted_proxies:
        return
    place = Place(reading) / "auth" / "mode"
    if auth.mode == "off":
        place.warn(
            "off asks nobody for a client key, and so lets in whom a proxy before the gateway lets through;"
            ' write "auto", which asks those for one'
        )
    elif not auth.keys and not plugins.load and plugins.path is None:
        cure = "`agm key create NAME` makes one"
        if auth.mode == "auto" and gateway.public_url is not None:
            place.warn(
                "auto asks for a client key where a request comes through a proxy, but there is none here: whom the"
                f" proxy of public_url lets through is let in; {cure}"
            )
        else:
            place.warn(
                f"{auth.mode} asks for a client key where a request comes through a proxy, and there is none here: all"
                f" are refused; {cure}"
            )


def load(path: Path, *, environ: Mapping[str, str]) -> Config:
    """Return the configuration in the file at ``path``.  Raises :class:`ConfigError`, for an unreadable file too."""
    reading = Reading(Config, path, environ)
    reading.look_at(path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        problem = Problem(path, "", f"is not UTF-8 at byte {error.start}, as TOML must be")
        raise ConfigError([problem], reading.files) from None
    except (OSError, ValueError) as failure:
        problem = Problem(path, "", f"cannot be read: {why_unreadable(failure)}")
        raise ConfigError([problem], reading.files) from None
    config = _config(text, reading)
    if not reading.literal_secrets or not mode & 0o066:
        return config
    return attrs.evolve(config, warnings=(*config.warnings, held_openly(path, mode)))


def held_openly(path: Path, mode: int) -> str:
    """Say of a file with secrets in it that others than its owner can read it, or change it."""
    verb = "read" if mode & 0o044 else "change"
    cure = f"chmod 600 {shlex.quote(str(path))}"
    return f"{path}: holds secrets, and others than its owner can {verb} it; {cure}"


def default_path() -> Path:
    """Return where the file is looked for when nobody names one."""
    return platformdirs.user_config_path("agm") / "agm.toml"


def find(explicit: str | None, environ: Mapping[str, str]) -> Path | None:
    """
    Return the file to load, absolute: ``explicit``, else ``$AGM_CONFIG``, else the person's own, or ``None``.

    A file that was named must be there; one that nobody named need not.  Raises :class:`ConfigError`.
    """
    for named, by in ((explicit, "--config"), (environ.get("AGM_CONFIG"), "AGM_CONFIG")):
        if named:
            path = Path(named)
            try:
                path.stat()
            except (OSError, ValueError) as failure:
                problem = Problem(path, "", f"cannot be read: {why_unreadable(failure)} ({by} names it)")
                raise ConfigError([problem]) from None
            return path.absolute()
    path = default_path()
    # Not Path.exists, which raises where a folder on the way may not be entered.
    return path if os.path.exists(path) else None


def default() -> Config:
    """The configuration of a person who has written none."""
    return Config()

"""
The tables that are plain settings: ``[gateway]``, ``[timeouts]``, ``[limits]``, ``[pool]``, ``[models]``, ``[log]``,
``[metrics]``, ``[otel]``, ``[request_log]``, ``[dialects]`` and ``[plugins]``.
"""

# ruff: noqa: RUF009 - `setting` makes an attrs field, which ruff cannot know; it is no shared default

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import attrs

from agm.config.addresses import (
    read_collector,
    read_host,
    read_listener,
    read_origin,
    read_proxy_address,
    read_public_url,
)
from agm.config.files import read_path
from agm.config.plugin_settings import S, read_settings
from agm.config.reading import Place, RefusedError, array_of, keys_of, setting, values_of
from agm.config.secret import Secret, one_digest, read_digest, read_secret, read_variable
from agm.config.values import (
    one_of,
    read_boolean,
    read_fraction,
    read_log_size,
    read_size,
    read_text,
    seconds,
    whole_number,
)
from agm.config.words import quote, shorten, show, sort_of

#: More processes than that on one machine are a mistake.
MOST_WORKERS = 256

Strategy = Literal["sticky", "round-robin", "least-loaded", "priority"]

DEFAULT_MODELS = (
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
    "gemini-2.5-flash-image",
    "gemini-3-pro-preview",
    "gemini-embedding-001",
    "imagen-4.0-generate-001",
)


@attrs.frozen(kw_only=True)
class GatewayConfig:
    """
    How the gateway is reached.

    ``listen`` are Twisted server endpoints; ``max_body`` is in bytes; ``allowed_hosts`` are bare names in
    lower case, beyond the loopback ones; ``cors_origins`` are as browsers send them; ``public_url`` has no slash at
    its end; ``trusted_proxies`` are as :class:`~agm.core.sender.TrustedProxies` takes them; ``workers`` is how many
    processes serve.
    """

    listen: tuple[str, ...] = setting(
        array_of(read_listener, least=1, empty="names no listener; leave it out to listen on 127.0.0.1:8045"),
        ("tcp:8045:interface=127.0.0.1",),
    )
    max_body: int = setting(read_size, 100 * 2**20)
    allowed_hosts: tuple[str, ...] = setting(array_of(read_host), ())
    cors_origins: tuple[str, ...] = setting(array_of(read_origin), ())
    stream_default: Literal["sse", "json"] = setting(one_of("sse", "json"), "sse")
    sse_done: Literal["forward", "drop"] = setting(one_of("forward", "drop"), "forward")
    show_account: bool = setting(read_boolean, False)
    public_url: str | None = setting(read_public_url)
    trusted_proxies: tuple[str, ...] = setting(array_of(read_proxy_address), ())
    fast_sockets: bool = setting(read_boolean, True)
    workers: int = setting(whole_number(1, MOST_WORKERS), 1)


@attrs.frozen(kw_only=True)
class TimeoutsConfig:
    """How long each part of an exchange may take, in seconds."""

    connect: float = setting(seconds(), 10.0)
    first_byte: float = setting(seconds(), 300.0)
    idle: float = setting(seconds(), 300.0)
    total: float = setting(seconds(), 3600.0)
    request_read: float = setting(seconds(), 60.0)
    client_stall: float = setting(seconds(), 300.0)
    drain: float = setting(seconds(zero=True), 30.0)
    lame_duck: float = setting(seconds(zero=True), 0.0)


@attrs.frozen(kw_only=True)
class LimitsConfig:
    """
    What clients may take of the gateway, all of them together or one alone.

    ``header_bytes`` and ``header_lines`` are of one request; ``bodies`` are bytes of the bodies of all requests under
    way; ``connections`` of ``None`` is as many as the process has descriptors for; ``streams_per_key`` of ``None`` is
    no limit; ``message`` is bytes of one message of a Live session, either way.
    """

    header_bytes: int = setting(read_size, 32 * 2**10)
    header_lines: int = setting(whole_number(1, 10_000), 100)
    bodies: int = setting(read_size, 512 * 2**20)
    connections: int | None = setting(whole_number(1, 1_000_000))
    streams_per_key: int | None = setting(whole_number(1, 1_000_000))
    message: int = setting(read_size, 16 * 2**20)


def read_state(value: object, place: Place) -> str:
    """``none``, or the absolute path of a file."""
    return "none" if value == "none" else str(read_path(value, place))


@attrs.frozen(kw_only=True)
class PoolConfig:
    """
    How accounts are chosen, how many upstream requests one client request may cost, and for how many seconds it waits
    in all for an account that may serve it soon.  ``state`` is ``"none"`` or the absolute path of a file; ``None``
    is the place that belongs to the configuration.
    """

    strategy: Strategy = setting(one_of("sticky", "round-robin", "least-loaded", "priority"), "sticky")
    max_attempts: int = setting(whole_number(1, 10), 3)
    max_wait: float = setting(seconds(zero=True), 5.0)
    state: str | None = setting(read_state)


def read_aliases(value: object, place: Place) -> Mapping[str, str]:
    """Return a table of any names; each value is the model that is meant."""
    if not isinstance(value, dict):
        raise RefusedError(f"expected a table, not {sort_of(value)}")
    aliases = {}
    for name, target in value.items():
        if isinstance(target, dict):
            # `gpt-4.1 = "…"` without quotes is a table `gpt-4` with a key `1`.
            inner = shorten(next(iter(target), "…"))
            (place / name).problem(
                f"expected a string, not a table; quote a name with a dot: {quote(f'{name}.{inner}')}"
            )
        else:
            for alias in (place / name).take(read_text, name):
                for model in (place / name).take(read_text, target):
                    aliases[alias] = model
    return MappingProxyType(aliases)


_read_models = array_of(read_text, least=1, empty="names no model; leave it out for no fallback")


def read_fallbacks(value: object, place: Place) -> Mapping[str, tuple[str, ...]]:
    """Return a table of any models; each value is an array of the models that are tried when that one has no quota."""
    if not isinstance(value, dict):
        raise RefusedError(f"expected a table, not {sort_of(value)}")
    fallbacks = {}
    for name, models in value.items():
        for model in (place / name).take(read_text, name):
            for tried in (place / name).take(_read_models, models):
                if model in tried:
                    (place / name).problem("falls back to itself")
                fallbacks[model] = tried
    return MappingProxyType(fallbacks)


@attrs.frozen(kw_only=True)
class ModelsConfig:
    """
    The models that are listed and under which display name, other names for models, in the file's order, and which
    models serve while one has no quota or capacity.
    """

    list: tuple[str, ...] = setting(array_of(read_text), DEFAULT_MODELS)
    aliases: Mapping[str, str] = setting(read_aliases, MappingProxyType({}))
    fallbacks: Mapping[str, tuple[str, ...]] = setting(read_fallbacks, MappingProxyType({}))
    display_name: Literal["id", "upstream"] = setting(one_of("id", "upstream"), "id")


@attrs.frozen(kw_only=True)
class DialectsConfig:
    """
    Which other APIs are spoken, each by a plugin in :mod:`agm.dialects`, and the model that serves where a client of
    theirs asks for one that is not known; ``None`` for 404.
    """

    openai: bool = setting(read_boolean, True)
    anthropic: bool = setting(read_boolean, True)
    default_model: str | None = setting(read_text)


@attrs.frozen(kw_only=True)
class LogConfig:
    """How the log looks, and what is not important enough for it."""

    format: Literal["text", "json"] = setting(one_of("text", "json"), "text")
    level: Literal["debug", "info", "warn", "error", "critical"] = setting(
        one_of("debug", "info", "warn", "error", "critical"), "info"
    )


@attrs.frozen(kw_only=True)
class MetricsConfig:
    """
    Whether there are metrics at ``/metrics``, which names are in them, and who may read them.

    ``digest`` is the SHA-256 of the token that opens them, in lower-case hexadecimal; ``None`` for no token.
    """

    enabled: bool = True
    accounts: bool = False
    client_keys: bool = False
    digest: str | None = attrs.field(default=None, repr=False)


_METRICS_TOKEN = ("token", "token_env", "token_sha256")


@attrs.frozen(kw_only=True)
class MetricsTable:
    """``[metrics]`` as written."""

    enabled: bool = setting(read_boolean, True)
    accounts: bool = setting(read_boolean, False)
    client_keys: bool = setting(read_boolean, False)
    token: Secret | None = setting(read_secret)
    token_env: str | None = setting(read_variable)
    token_sha256: str | None = setting(read_digest)


def read_metrics(value: object, place: Place) -> MetricsConfig:
    """Return the table ``[metrics]``."""
    written = MetricsTable(**values_of(MetricsTable, value, place))
    assert isinstance(value, dict), "no other value gets beyond the line above"
    digest = None
    if any(name in value for name in _METRICS_TOKEN):
        digest = one_digest(place, value, "the token", "token", written)
    return MetricsConfig(
        enabled=written.enabled, accounts=written.accounts, client_keys=written.client_keys, digest=digest
    )


@attrs.frozen(kw_only=True)
class OtelConfig:
    """
    Where traces are sent: the base URL of an OTLP receiver, ``None`` for where the environment says, if it does.

    ``sample`` is the fraction of the traces that begin here; ``accounts`` says whether their names are told.
    """

    endpoint: str | None = setting(read_collector)
    service_name: str = setting(read_text, "agm")
    sample: float = setting(read_fraction, 1.0)
    accounts: bool = setting(read_boolean, False)


@attrs.frozen(kw_only=True)
class RequestLogConfig:
    """
    Which requests are remembered, and where.

    ``path`` of ``None`` is the place that belongs to the configuration; ``max_days`` and ``max_size``, in bytes, bound
    the file; ``max_body``, in bytes, is how much is kept of each body while a person has bodies kept.
    """

    enabled: bool = setting(read_boolean, True)
    path: Path | None = setting(read_path)
    max_days: int = setting(whole_number(1, 36_500), 30)
    max_size: int = setting(read_log_size, 200 * 2**20)
    max_body: int = setting(read_size, 64 * 2**10)


def _read_module(value: object, place: Place) -> str:
    text = read_text(value, place)
    if not all(part.isidentifier() for part in text.split(".")):
        raise RefusedError(f"{show(text)} is not the dotted name of a Python module, like 'my_company.routing'")
    return text


@attrs.frozen(kw_only=True)
class PluginsConfig:
    """
    Which plugins are loaded, and what the file says to them.

    ``load`` are dotted module names, ``disable`` names of plugins that are left out; ``path`` is a folder whose files
    are plugins, absolute; ``timeout`` is how many seconds a plugin may be waited for; ``tables`` holds every
    ``[plugins.NAME]`` as it was written, for that plugin to judge.
    """

    load: tuple[str, ...] = setting(array_of(_read_module), ())
    disable: tuple[str, ...] = setting(array_of(read_text), ())
    path: Path | None = setting(read_path)
    timeout: float = setting(seconds(), 10.0)
    # Not in the repr: nobody but the plugin knows what is secret here.
    tables: Mapping[str, Mapping[str, object]] = attrs.field(default=MappingProxyType({}), repr=False)
    #: The file, for problems that plugins find.
    file: Path | None = attrs.field(default=None, repr=False, eq=False)

    def read(self, name: str, schema: type[S]) -> S:
        """
        Return the table ``[plugins.NAME]`` as a struct, with its defaults.

        :raises ConfigError: with every problem, each with the file, the key and what is right.
        """
        return read_settings(name, self.tables.get(name, {}), schema, self.file)


def read_plugins(value: object, place: Place) -> PluginsConfig:
    """Return the table ``[plugins]``; what is no key of it is a plugin's."""
    own = keys_of(PluginsConfig)
    tables = {}
    if isinstance(value, dict):
        tables = {
            name: MappingProxyType(table)
            for name, table in value.items()
            if isinstance(table, dict) and name not in own
        }
        value = {name: item for name, item in value.items() if name not in tables}
    file = place.reading.file
    return PluginsConfig(**values_of(PluginsConfig, value, place), tables=MappingProxyType(tables), file=file)

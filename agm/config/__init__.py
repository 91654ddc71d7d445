"""
The configuration: TOML in, one frozen :class:`Config` out, or every problem at once.

A table of the file is a class, a key is a field made by :func:`~agm.config.reading.setting`: the reader that
the field carries is its documentation for the program, ``docs/configuration.md`` is the one for people, and a
test holds the two together.  A new table is a new class, most of them in :mod:`agm.config.tables`, and one field
of :class:`Config`.

Nothing here guesses.  A key that it does not know, a value of the wrong kind and a variable
that is not set are all problems, each named with its file, its key, what was found and what to do.
The value of a secret appears in no problem, no warning and no ``repr``.  Nothing is opened but the
configuration itself and the files that ``api_key_file`` and ``ca_file`` name; no reactor and no network is needed.
"""

from agm.config.accounts import AccountConfig, default_endpoints
from agm.config.alerts import AlertConfig
from agm.config.client_keys import AuthConfig, ClientKeyConfig
from agm.config.loading import Config, default, default_path, find, known_keys, load, parse
from agm.config.network import UpstreamConfig
from agm.config.problems import ConfigError, Problem
from agm.config.secret import Secret
from agm.config.tables import (
    DialectsConfig,
    GatewayConfig,
    LimitsConfig,
    LogConfig,
    MetricsConfig,
    ModelsConfig,
    OtelConfig,
    PluginsConfig,
    PoolConfig,
    RequestLogConfig,
    TimeoutsConfig,
)

__all__ = [
    "AccountConfig",
    "AlertConfig",
    "AuthConfig",
    "ClientKeyConfig",
    "Config",
    "ConfigError",
    "DialectsConfig",
    "GatewayConfig",
    "LimitsConfig",
    "LogConfig",
    "MetricsConfig",
    "ModelsConfig",
    "OtelConfig",
    "PluginsConfig",
    "PoolConfig",
    "Problem",
    "RequestLogConfig",
    "Secret",
    "TimeoutsConfig",
    "UpstreamConfig",
    "default",
    "default_endpoints",
    "default_path",
    "find",
    "known_keys",
    "load",
    "parse",
]

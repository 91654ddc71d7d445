"""Make a gateway of a configuration: its plugins, the connections to upstreams, and the credentials."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from agm.config import Config
from agm.config.problems import fail
from agm.core.redact import Redactor
from agm.plugins.hooks import HookFailed, Hooks
from agm.plugins.manager import PluginError, make_plugin_manager
from agm.serving.gateway import Gateway
from agm.upstream.client import HTTPUpstreamClient
from agm.upstream.credentials.refresher import Refresher


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
    Return the gateway of a configuration, without a listener.

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
        refresher = Refresher(reactor, client.treq, on_secret=redactor.add_transient)
        # what is open to this machine alone is not open to whom a proxy on it lets through
        forwarded = "all_except_health" if mode == "off" and config.auth.mode == "auto" else None
        return Gateway(
            reactor, config, hooks, client, refresher, mode, redactor=redactor, forwarded_auth_mode=forwarded, **parts
        )
    except (PluginError, HookFailed, ValueError) as e:
        fail(str(e))

"""The built-in behaviour, as plugins behind the same hooks that anybody can implement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agm.core.request import BUILT_IN_KINDS, UpstreamKind


def make_plugins(kinds: Mapping[str, UpstreamKind] = BUILT_IN_KINDS) -> Sequence[tuple[str, object]]:
    """
    New built-in plugins with their names.  The names are part of the interface: reports and configurations hold them.

    All their hooks are ``trylast``: anybody else's are asked first.

    :param kinds: all that there will be when the plugins are used, by name.
    """
    from agm.plugins.builtin import accounts, alerts, aliases, classification, client_keys, strategies, wrapping

    return (
        ("agm.defaults.client_keys", client_keys),
        ("agm.defaults.accounts", accounts.ConfiguredAccounts(kinds)),
        ("agm.defaults.aliases", aliases.AliasRules()),
        ("agm.defaults.strategies", strategies.Strategies()),
        ("agm.defaults.wrapping", wrapping),
        ("agm.defaults.classification", classification),
        ("agm.defaults.alerts", alerts.Webhooks()),
    )

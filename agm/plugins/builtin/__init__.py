"""The built-in behaviour, as plugins behind the same hooks that anybody can implement."""

from __future__ import annotations

from collections.abc import Sequence


def make_plugins() -> Sequence[tuple[str, object]]:
    """
    New built-in plugins with their names.  The names are part of the interface: reports and configurations hold them.

    All their hooks are ``trylast``: anybody else's are asked first.
    """
    from agm.plugins.builtin import accounts, alerts, aliases, classification, client_keys, strategies, wrapping

    return (
        ("agm.defaults.client_keys", client_keys),
        ("agm.defaults.accounts", accounts),
        ("agm.defaults.aliases", aliases.AliasRules()),
        ("agm.defaults.strategies", strategies.Strategies()),
        ("agm.defaults.wrapping", wrapping),
        ("agm.defaults.classification", classification),
        ("agm.defaults.alerts", alerts.Webhooks()),
    )

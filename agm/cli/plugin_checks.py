"""What plugins say of a configuration that nobody runs yet: the kinds of accounts that there are, and what is wrong."""

from collections.abc import Iterator, Mapping

from agm.config import Config, Problem
from agm.core.request import BUILT_IN_KINDS, UpstreamKind

__all__ = ["has_foreign_kinds", "kinds_of", "plugin_problems"]


def has_foreign_kinds(config: Config) -> bool:
    """Return whether an account's kind is a plugin's, so that its plugins have to be loaded to check it."""
    return any(account.kind not in BUILT_IN_KINDS for account in config.accounts)


def kinds_of(config: Config) -> Mapping[str, UpstreamKind]:
    """
    All kinds of accounts by name, those of a configuration's plugins too.

    :raises PluginError: if a plugin cannot be used.
    """
    from agm.plugins.manager import make_plugin_manager

    plugins = config.plugins
    return make_plugin_manager(plugins.load, folder=plugins.path, disable=plugins.disable).kinds


def plugin_problems(config: Config) -> Iterator[Problem]:
    """Ask the plugins what their tables, and accounts of their kinds, may hold."""
    from twisted.internet.task import Clock

    from agm.plugins.hooks import HookFailed, Hooks
    from agm.plugins.manager import PluginError, make_plugin_manager

    plugins = config.plugins
    try:
        manager = make_plugin_manager(plugins.load, folder=plugins.path, disable=plugins.disable)
        yield from Hooks(manager, Clock()).settings_problems(config)
    except (PluginError, HookFailed) as e:
        yield Problem(config.path, "plugins", str(e))

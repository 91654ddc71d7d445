"""The accounts of the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from agm import hookimpl
from agm.config import Config
from agm.core.request import UpstreamKind
from agm.upstream.accounts import AccountSource, account_source


@attrs.frozen(eq=False)
class ConfiguredAccounts:
    """Makes the accounts of a configuration, of whatever kinds there are."""

    _kinds: Mapping[str, UpstreamKind]

    @hookimpl(trylast=True)
    def agm_accounts(self, config: Config) -> Iterable[AccountSource]:
        """Every ``[[accounts]]`` table that is not switched off."""
        return [account_source(entry, self._kinds) for entry in config.accounts if entry.enabled]

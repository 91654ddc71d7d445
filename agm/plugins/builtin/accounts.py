"""The accounts of the configuration."""

from __future__ import annotations

from collections.abc import Iterable

from agm import hookimpl
from agm.config import Config
from agm.upstream.accounts import AccountSource, account_source


@hookimpl(trylast=True)
def agm_accounts(config: Config) -> Iterable[AccountSource]:
    """Every ``[[accounts]]`` table that is not switched off."""
    return [account_source(entry) for entry in config.accounts if entry.enabled]

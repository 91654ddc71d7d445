"""The models that can be asked for: those of the configuration, its aliases, and what the accounts report."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from agm.config import Config
from agm.core.models import Aliases, Catalog, is_googles
from agm.core.request import Account
from agm.upstream.reports import ModelReports


@attrs.define(eq=False)
class ModelDirectory:
    """Puts the catalog of models together, anew whenever the configuration or what is reported has changed."""

    _reports: ModelReports
    _config: Config
    _made: tuple[object, Catalog] | None = attrs.field(init=False, default=None)
    _fallbacks: Aliases | None = attrs.field(init=False, default=None)

    def configure(self, config: Config) -> None:
        """Go on with the models of another configuration."""
        self._config, self._made, self._fallbacks = config, None, None

    def report_from(self, accounts: Iterable[Account]) -> None:
        """From now on ask these accounts for their models."""
        self._reports.of(accounts)

    @property
    def catalog(self) -> Catalog:
        """The models that can be asked for, as far as the accounts have reported theirs."""
        reported = self._reports.known
        if self._made is None or self._made[0] is not reported:
            models = self._config.models
            aliases = Aliases(models.aliases)
            self._made = (reported, Catalog(models.list, aliases, reported, display_name=models.display_name))
        return self._made[1]

    async def fresh_catalog(self) -> Catalog:
        """Return the same, after asking the accounts for their models if it is time to."""
        await self._reports.fresh()
        return self.catalog

    def fallbacks(self, model: str) -> tuple[str, ...]:
        """Return the models that ``[models.fallbacks]`` names for one."""
        known = self._config.models.fallbacks
        if not known:
            return ()
        if self._fallbacks is None:
            self._fallbacks = Aliases({pattern: pattern for pattern in known})
        rule = self._fallbacks.match(model)
        return () if rule is None else known[rule.pattern]

    def serves(self, model: str, accounts: Iterable[Account]) -> bool:
        """
        Return whether a model can be asked for: it is listed, has the name of one of Google's, or an account names it.
        """
        if self.catalog.get(model) is not None or is_googles(model):
            return True
        return any(model in account.models and "*" not in account.models.patterns for account in accounts)

    def names(self, model: str) -> bool:
        """Return whether a model is one that the configuration or an account names, and no client's invention."""
        return model in self.catalog or model in self._config.models.aliases.values()

"""Model mapping by the rules of ``[models.aliases]``."""

from __future__ import annotations

from agm import hookimpl
from agm.config import Config
from agm.core.models import Aliases
from agm.core.request import GatewayRequest, ModelChoice


class AliasRules:
    """The plugin that knows the rules."""

    def __init__(self) -> None:
        self._aliases = Aliases({})

    @hookimpl(trylast=True)
    def agm_configure(self, config: Config) -> None:
        """Read the rules."""
        self._aliases = Aliases(config.models.aliases)

    @hookimpl(trylast=True)
    def agm_map_model(self, model: str, request: GatewayRequest) -> ModelChoice | None:
        """Exact rules first, then the most specific wildcard, then the order of the file."""
        rule = self._aliases.match(model)
        return None if rule is None else ModelChoice(rule.target, f"alias {rule.pattern!r}")

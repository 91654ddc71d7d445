"""What the metrics look at when somebody asks, beside what was counted as it happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from agm.config import MetricsConfig
from agm.core.client_keys import ClientKey
from agm.core.limits import Allowances
from agm.core.pool.pool import Pool
from agm.observe.activity import Live


@attrs.frozen(eq=False)
class Observed:
    """What a scrape looks at, beside what was counted."""

    config: Callable[[], MetricsConfig]
    live: Live
    pool: Pool
    allowances: Allowances
    client_keys: Callable[[], Sequence[ClientKey]]
    #: Connections to each host and port: in use, and idle.
    connections: Callable[[], dict[str, tuple[int, int]]]
    #: How often a plugin's hook raised, by plugin and hook.
    hook_failures: Mapping[tuple[str, str], int]
    #: Tokens that were asked for, by what came of it.
    refreshes: Mapping[str, int]

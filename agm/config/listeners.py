"""Where a gateway can be reached from, and so whether its clients need a key."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from agm.config.loading import Config
from agm.config.problems import fail
from agm.core.listening import Description, is_loopback


@attrs.frozen
class Listener:
    """A server endpoint: its description, and the interface it is bound to (None for a unix socket)."""

    description: str
    interface: str | None

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.interface is None or is_loopback(self.interface)

    @classmethod
    def parse(cls, description: str) -> Listener:
        """From a description; what it cannot tell counts as all interfaces."""
        parsed = Description.parse(description)
        if parsed.kind == "unix" or (parsed.kind == "systemd" and parsed.named.get("domain", "").upper() == "UNIX"):
            return cls(description, None)
        at = {"tcp": 1, "tcp6": 1, "ssl": 4}.get(parsed.kind)
        interface = parsed.named.get("interface") if at is None else parsed.argument("interface", at)
        anywhere = "::" if parsed.kind == "tcp6" else "0.0.0.0"  # noqa: S104  # a name for it
        return cls(description, interface or anywhere)


def auth_mode(config: Config, listeners: Sequence[Listener]) -> str:
    """Return the mode in force: ``auto`` asks for a key as soon as another machine can reach a listener."""
    mode = config.auth.mode
    beyond = [listener.description for listener in listeners if not listener.local]
    if mode == "auto":
        return "all_except_health" if beyond else "off"
    if mode == "off" and beyond and not config.auth.mode_written:
        fail(f"{beyond[0]} can be reached from other machines; set auth.mode in the configuration")
    return mode

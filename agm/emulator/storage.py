"""
What the Developer API keeps for an account: files, cached contents, batches.
"""

from __future__ import annotations

from typing import Any

from agm.emulator.calls import Call
from agm.emulator.modelcalls import Admitted
from agm.emulator.replies import Reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import State


def reply(call: Call, state: State, entry: Entry, version: str, rest: str) -> Reply | None:
    """Answer a call, or None if the path is not of this module."""
    return None


def resolved(message: dict[str, Any], admitted: Admitted, state: State) -> dict[str, Any]:
    """The message."""
    return message

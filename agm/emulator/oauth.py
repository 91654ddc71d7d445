"""The OAuth token endpoint."""

from agm.emulator.calls import Call
from agm.emulator.replies import Reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import State


def handles(call: Call) -> bool:
    return False


def reply(call: Call, state: State, entry: Entry) -> Reply:
    raise NotImplementedError

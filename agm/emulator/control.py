"""Control below ``/_emu/``."""

from agm.emulator.calls import Call
from agm.emulator.replies import Reply, json_reply
from agm.emulator.state import State


def reply(call: Call, state: State) -> Reply:
    return json_reply({"status": "ok"})

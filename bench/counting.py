"""A plugin that counts the instructions of Python that a gateway executes, for ``opcodes.py``: nobody else loads it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from types import CodeType, FrameType
from typing import Any, ClassVar

import msgspec

from agm import hookimpl
from agm.api import ApiResource, Visit


class Counting(ApiResource):
    """``GET /counting``: what has been counted since the last time, in the reactor's thread alone; and counts on."""

    counted: ClassVar[Counter[CodeType]] = Counter()

    async def respond(self, visit: Visit) -> None:
        sys.settrace(None)
        rows = [(count, code.co_filename, code.co_qualname) for code, count in self.counted.items()]
        visit.wire.send(200, [], msgspec.json.encode(rows))
        self.counted.clear()
        frame: FrameType | None = sys._getframe()
        while frame is not None:  # those that are there already are not told of otherwise
            frame.f_trace, frame.f_trace_opcodes, frame.f_trace_lines = self._count, True, False
            frame = frame.f_back
        sys.settrace(self._enter)

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._count

    def _count(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode":
            self.counted[frame.f_code] += 1
        return self._count


@hookimpl
def agm_resources(site: Any) -> Mapping[str, Any]:
    return {"counting": Counting(site.gateway, site.access)}

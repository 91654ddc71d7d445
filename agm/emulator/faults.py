"""
Faults by name: what ``emu-<fault>[-<argument>]`` as a model's name, or a step of an account's script, asks for.

:data:`FAULTS` is the list; ``docs/emulator.md`` shows it, and a test compares the two.  This module reads names and
nothing else: :mod:`agm.emulator.generation` turns a fault into bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

import attrs

PREFIX = "emu-"
#: HTTP statuses that a fault may name.
STATUSES = frozenset({400, 401, 403, 404, 429, 499, 500, 503, 504})


class Scope(Enum):
    """Which calls a fault changes."""

    EVERY = "every method of a model"
    GENERATION = "generateContent and streamGenerateContent"
    LIVE = "Live sessions"


@attrs.frozen
class FaultKind:
    """A row of the table: the `argument`'s name (if the fault takes one), its `default`, and what happens."""

    scope: Scope
    meaning: str
    argument: str | None = None
    default: float | None = None


@attrs.frozen
class Fault:
    """A fault to apply: its name in :data:`FAULTS` (or a status), its number, and a nonce if it happens only once."""

    name: str
    number: float | None = None
    nonce: str | None = None

    @property
    def status(self) -> int | None:
        """The HTTP status, for the faults that are one."""
        return int(self.name) if self.name.isdigit() else None

    @property
    def count(self) -> int:
        """The number as a count; 0 without one."""
        return int(self.number or 0)


_E, _G, _L = Scope.EVERY, Scope.GENERATION, Scope.LIVE

#: Every fault but the plain statuses.
FAULTS: Mapping[str, FaultKind] = {
    "429rpm": FaultKind(_E, "429 for a quota per minute, with RetryInfo of S seconds", "S", 56.0),
    "429day": FaultKind(_E, "429 for a quota per day; its RetryInfo is short all the same, as Google's is"),
    "429nodetails": FaultKind(_E, "429 with a message and no details"),
    "quota": FaultKind(
        _E, "429 QUOTA_EXHAUSTED with quotaResetDelay and quotaResetTimeStamp S seconds ahead", "S", 3600.0
    ),
    "capacity429": FaultKind(_E, "429 MODEL_CAPACITY_EXHAUSTED: the model is full, not the account"),
    "capacity503": FaultKind(_E, "503 MODEL_CAPACITY_EXHAUSTED"),
    "403validation": FaultKind(_E, "403 VALIDATION_REQUIRED with the link at which a person must act"),
    "403disabled": FaultKind(_E, "403 SERVICE_DISABLED with the link that enables the API"),
    "midstream": FaultKind(_G, "a good event, then an error event, and the stream ends; unary: the error alone"),
    "cut": FaultKind(_G, "a good event, then the connection drops"),
    "drop": FaultKind(_G, "after K events the connection drops, without a last chunk", "K", 1.0),
    "rst": FaultKind(_G, "after K events the connection is reset", "K", 1.0),
    "close": FaultKind(_E, "the connection drops before a byte of the answer, the status line included"),
    "errtail": FaultKind(_G, "after K events a bare pretty-printed error document, then the end", "K", 1.0),
    "errdata": FaultKind(_G, "after K events an error as one more event, then the end", "K", 1.0),
    "errarray": FaultKind(_E, "the error as a JSON array with its own status (503, or S)", "S", 503.0),
    "emptystream": FaultKind(_G, "200 and nothing in it: no event, an empty array, an empty unary body"),
    "latency": FaultKind(_E, "MS milliseconds before the status line", "MS", 1000.0),
    "ttft": FaultKind(_G, "the headers at once, the first byte of the body MS milliseconds later", "MS", 1000.0),
    "slow": FaultKind(_G, "4 events, 0.7 s apart; unary: the body 2.1 s after its headers"),
    "drip": FaultKind(_G, "the normal answer in writes of N bytes", "N", 1.0),
    "chunks": FaultKind(_G, "N events, the last with the finish reason", "N", 10.0),
    "giant": FaultKind(_G, "an answer of MIB mebibytes, at the client's pace", "MIB", 1.0),
    "bigunary": FaultKind(
        _G, "a unary answer of MIB mebibytes with its Content-Length, at the client's pace", "MIB", 1.0
    ),
    "hang": FaultKind(_E, "no answer at all, not even headers; with K, silence after K events", "K"),
    "badjson": FaultKind(_G, "one event whose JSON breaks off, between good ones; unary: half a document"),
    "noblank": FaultKind(_G, "the last event lacks its blank line"),
    "lf": FaultKind(_G, "line ends are LF where Google's are CRLF"),
    "done": FaultKind(_G, "data: [DONE] after the last event"),
    "multiline": FaultKind(_G, "an event's JSON over several data: lines"),
    "splitutf8": FaultKind(_G, "text of many scripts, every write ending inside of a character"),
    "nofinish": FaultKind(_G, "no finishReason anywhere"),
    "emptyparts": FaultKind(_G, "the finishing event's content has no parts; unary: neither has the answer"),
    "blockprompt": FaultKind(_G, "the prompt is blocked: promptFeedback and no candidates"),
    "goaway": FaultKind(_L, "after the first answer goAway, and S seconds later the end", "S", 5.0),
    "wsclose": FaultKind(_L, "the first message of an answer, then the close code C", "C", 1011.0),
    "halfframe": FaultKind(_L, "the first message of an answer, half a frame, then the connection drops"),
}

#: A plain status: any of :data:`STATUSES`.
_STATUS = FaultKind(_E, "that status with Google's body; S is RetryInfo's delay (429: 1 s without)", "S")

_ONCE = re.compile(r"(?P<base>.+)-once-(?P<nonce>.+)", re.DOTALL)


def _read(text: str) -> Fault | None:
    base, nonce = text, None
    if once := _ONCE.fullmatch(text):
        base, nonce = once["base"], once["nonce"]
    name, dash, argument = base.partition("-")
    kind = FAULTS.get(name)
    if kind is None:
        if not (re.fullmatch(r"[0-9]{3}", name) and int(name) in STATUSES):
            return None
        kind = _STATUS
    number = kind.default
    if dash:
        if kind.argument is None or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", argument):
            return None
        number = float(argument)
    return Fault(name=name, number=number, nonce=nonce)


def from_model(model: str) -> Fault | None:
    """
    Return the fault that a model's name asks for, or None for a normal answer.

    Only the last part of a path counts, so ``tunedModels/emu-429`` asks as well.  An unknown ``emu-…`` name is a
    model like any other.
    """
    name = model.rpartition("/")[2]
    return _read(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def from_step(step: str) -> Fault | None:
    """
    Return the fault that a step of a script asks for; None for ``ok``.

    :raises ValueError: if there is no such fault.
    """
    if step == "ok":
        return None
    fault = _read(step.removeprefix(PREFIX))
    if fault is None:
        raise ValueError(f"unknown step {step!r}: 'ok', a status such as '429-2', or a fault such as 'cut'")
    return fault


def happens(fault: Fault, *, generation: bool) -> bool:
    """Return whether a fault changes a call: all but a session's for generation, those of every method for all."""
    kind = FAULTS.get(fault.name)
    if kind is not None and kind.scope is Scope.LIVE:
        return False
    return generation or kind is None or kind.scope is Scope.EVERY

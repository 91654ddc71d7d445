"""
Take e-mail addresses, card numbers and IBANs out of prompts before they leave the machine.

Copy this file into the folder of ``[plugins] path``; more patterns may be added, as regular expressions::

    [plugins.redactor.patterns]
    STAFF = 'E-\\d{6}'

Each find is replaced by its name in brackets, ``[EMAIL]``.  Texts, arguments and results of functions are looked
through; media are not.  Batches, cached contents and the names of files are redacted as calls are; what cannot be
looked through, as the bytes of an upload, is refused by the gateway while this plugin is loaded.  Answers stay as they
are: nothing is put back.  The log tells how many of each kind were taken out of a request, never what they were.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from twisted.logger import Logger

from agm.api import GatewayRequest, hookimpl

BUILT_IN = {
    "EMAIL": r"\b[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+",  # bounded: a long word must not cost its square
    "IBAN": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b",
    "CARD": r"\b(?:\d[ -]?){12,18}\d\b",
}
#: The fields of a request under which there are words of people.
SPOKEN = frozenset({"text", "args", "response", "prompt", "displayName", "display_name", "title"})
#: The same, where text stands right behind the name.
TEXTS = SPOKEN | {"content", "input", "instructions", "output", "systemInstruction", "system_instruction"}

log = Logger("redactor")
patterns: dict[str, re.Pattern[str]] = {}


@hookimpl
def agm_configure(config: Any) -> None:
    """Read the patterns; one that is no regular expression ends the start."""
    more = config.plugins.tables.get("redactor", {}).get("patterns", {})
    patterns.clear()
    patterns.update({name: re.compile(pattern) for name, pattern in {**more, **BUILT_IN}.items()})


@hookimpl
def agm_transform_request(body: dict[str, Any], request: GatewayRequest) -> dict[str, Any] | None:
    """The body without what the patterns find; None if they find nothing."""
    found: Counter[str] = Counter()
    redacted = _redacted(body, found, spoken=False)
    if not found:
        return None
    if not request.explaining:
        what = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
        log.info("{request_id}: redacted {what}", request_id=request.id, what=what)
    return redacted


def _redacted(value: Any, found: Counter[str], *, spoken: bool) -> Any:
    if isinstance(value, dict):
        names = {name: TEXTS if isinstance(item, str) else SPOKEN for name, item in value.items()}
        return {name: _redacted(value[name], found, spoken=spoken or name in said) for name, said in names.items()}
    if isinstance(value, list):
        return [_redacted(item, found, spoken=spoken) for item in value]
    if spoken and isinstance(value, str):
        for name, pattern in patterns.items():
            value, count = pattern.subn(f"[{name}]", value)
            if count:
                found[name] += count
    return value

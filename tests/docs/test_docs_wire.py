"""``docs/wire.md`` against the program: every reason of an error is in its table, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from agm.core import errors
from tests.helpers.pages import DOCS, ROOT

TEXT = (DOCS / "wire.md").read_text("utf-8")
#: What makes no answers of the gateway's own.
ELSEWHERE = {"emulator", "diagnose", "cli"}


def documented() -> dict[str, set[int]]:
    """The reasons of the table, each with its statuses."""
    found: dict[str, set[int]] = {}
    for line in TEXT.splitlines():
        if row := re.match(r"\| (\d{3}(?:, \d{3})*) \| (`[A-Z].*?) \|", line):
            for reason in re.findall("`([A-Z_]+)`", row[2]):
                found.setdefault(reason, set()).update(map(int, row[1].split(", ")))
    return found


def sources() -> list[Path]:
    return [p for p in (ROOT / "agm").rglob("*.py") if p.relative_to(ROOT / "agm").parts[0] not in ELSEWHERE]


def test_every_reason_is_documented_and_every_documented_reason_exists() -> None:
    given = set()
    for path in sources():
        text = path.read_text("utf-8")
        given |= set(re.findall(r'\breason="([A-Z_]+)"', text))
        given |= set(re.findall(r'^    (?:status, reason = \d+, |reason: ClassVar\[str\] = )"([A-Z_]+)"', text, re.M))
    assert set(documented()) == given


def test_a_kind_of_error_is_documented_with_its_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GatewayError)]
    assert len(kinds) > 10
    for kind in kinds:
        assert kind.status in documented()[kind.reason], kind

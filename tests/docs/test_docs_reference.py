"""The tables of ``docs/configuration.md`` are those that ``tools/reference.py`` makes of the code."""

from __future__ import annotations

import re
import runpy

import pytest

from tests.helpers.pages import DOCS, ROOT

reference = runpy.run_path(str(ROOT / "tools" / "reference.py"))
TEXT = (DOCS / "configuration.md").read_text("utf-8")


def test_the_page_is_up_to_date() -> None:
    """If not: ``python tools/reference.py``."""
    assert reference["page"](TEXT) == TEXT


def test_types_defaults_and_order_come_from_the_code_and_meanings_stay() -> None:
    begun = re.sub(r"(?m)^(\| `\w+`) \|[^|]*\|[^|]*\| (.+) \|$", r"\1 | | | \2 |", TEXT)
    assert begun != TEXT
    kinds = TEXT[TEXT.index("### What each kind needs") : TEXT.index("## `[log]`")]
    written = reference["page"](begun)
    assert written.replace(written[written.index("### What") : written.index("## `[log]`")], kinds) == TEXT


def test_a_key_without_a_meaning_is_named() -> None:
    lacking = re.sub(r"(?m)^\| `max_attempts` .*\n", "", TEXT)
    with pytest.raises(reference["MeaningMissing"], match=r"\[pool\] max_attempts"):
        reference["page"](lacking)

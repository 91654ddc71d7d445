"""``docs/architecture.md`` against the code: every module and package that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import agm

ROOT = Path(agm.__file__).parent
TEXT = (ROOT.parent / "docs" / "architecture.md").read_text("utf-8")
#: Paths in backquotes of at least two parts, from the repository's root or from the package's.
NAMED = sorted(set(re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+(?:\.py|/))`", TEXT)))


def test_every_module_that_is_named_is_there() -> None:
    assert len(NAMED) > 40
    missing = [name for name in NAMED if not any((base / name).exists() for base in (ROOT, ROOT.parent))]
    assert missing == []


def test_every_package_is_on_the_map() -> None:
    packages = {f"{path.name}/" for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert {name for name in packages if f"`agm/{name}`" not in TEXT} == set()

"""
The files that hold the secrets of accounts, beside the configuration that names them.

Those that agm wrote, in ``keys``, go with their account; no other file is ever touched.
"""

from collections.abc import Mapping
from pathlib import Path

from agm.persist import config_file as files

__all__ = ["AT", "KEPT", "place_of", "reference", "secret_files"]

#: Where a configuration has its accounts.
AT = ("accounts",)
#: Beside a file's name: agm wrote the file.
KEPT = "kept by agm, removed with the account"
_FILES = ("api_key_file", "credentials")


def place_of(path: Path, name: str, ending: str = "key") -> Path:
    """Return where the secret of an account goes, for a configuration at `path`."""
    return path.parent / "keys" / f"{name}.{ending}"


def reference(path: Path, stored: Path) -> str:
    """Return how the configuration names a file beside it; absolute if a link could lead there from elsewhere."""
    return str(stored if path.is_symlink() else stored.relative_to(path.parent))


def secret_files(text: str, index: int, path: Path) -> dict[Path, bool]:
    """Return the files that an account names, each with whether agm wrote it and no other account uses it."""
    tables = files.tables(text, AT)
    others = {_file(table, key, path) for at, table in enumerate(tables) if at != index for key in _FILES}
    found = {}
    for key in _FILES:
        if file := _file(tables[index], key, path):
            written = file.parent == path.parent / "keys" and KEPT in files.note(text, AT, index, key)
            found[file] = written and file not in others
    return found


def _file(table: Mapping[str, object], key: str, path: Path) -> Path | None:
    value = table.get(key)
    return path.parent / value if isinstance(value, str) and value != "adc" else None

"""A key of the gateway's own, kept in a file that is its owner's alone: what was sealed with it outlives a restart."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from agm.core.sealed import KEY_BYTES
from agm.persist.atomic_write import atomic_write

__all__ = ["path_beside", "read_or_make"]


def path_beside(state: Path) -> Path:
    """Where the key of a gateway is kept whose state is in this file."""
    return state.with_name(f"{state.name.removesuffix('.json')}.key")


def read_or_make(path: Path) -> bytes:
    """
    Read the key, or make one; of several processes that start at once all get the same.

    :raises OSError: if it can be neither read nor written, or is readable for others.
    """
    if path.exists():
        return _read(path)
    key = secrets.token_bytes(KEY_BYTES)
    new = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    atomic_write(new, key)
    try:
        os.link(new, path)  # whole, or not at all; and only if nobody was faster
    except FileExistsError:
        return _read(path)
    finally:
        new.unlink()
    return key


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        key = file.read(KEY_BYTES + 1)
    if mode & 0o077:
        raise PermissionError(f"{path} may be read by others; it holds a key: chmod 600 it, or remove it")
    if len(key) != KEY_BYTES:
        raise OSError(f"{path} is no key of {KEY_BYTES} bytes: remove it, and another is made")
    return key

"""The gateway's own key: made once, kept for its owner alone."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agm.persist.secret_key import path_beside, read_or_make


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """In a folder that had to be made, for nobody else to read."""
    path = tmp_path / "folder" / "state.key"
    key = read_or_make(path)
    assert len(key) == 32
    assert read_or_make(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["state.key"]


def test_processes_that_start_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read_or_make, [tmp_path / "k"] * 32))) == 1


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """With what helps."""
    path = tmp_path / "k"
    read_or_make(path)
    path.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        read_or_make(path)


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.touch(0o600)
    with pytest.raises(OSError, match="remove it"):
        read_or_make(path)


def test_it_lies_beside_the_state(tmp_path: Path) -> None:
    """Each configuration has its own."""
    assert path_beside(tmp_path / "state-12.json") == tmp_path / "state-12.key"

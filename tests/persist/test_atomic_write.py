"""A file that is replaced whole: no moment, and no way to die, leaves half of one, and nobody else may read it."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agm.persist import atomic_write as wholefile
from agm.persist.atomic_write import atomic_write

FOLDER = Path(__file__).parent


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Sets the umask; after the test it is what it was."""
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
def test_a_file_and_the_folders_that_are_made_are_the_owners_alone(
    tmp_path: Path, mask: int, umask: Callable[[int], int]
) -> None:
    path = tmp_path / "a" / "b" / "file"
    seen: list[int] = []

    def replace(new: Path, old: Path) -> None:
        seen.append(mode(new))
        os.replace(new, old)

    umask(mask)
    atomic_write(path, b"secret", replace=replace)
    umask(0o022)
    assert seen == [0o600]
    assert [mode(path), mode(path.parent), mode(path.parent.parent)] == [0o600, 0o700, 0o700]
    assert path.read_bytes() == b"secret"
    assert os.listdir(path.parent) == ["file"]


def test_what_others_could_read_is_for_the_owner_alone_once_it_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    atomic_write(path, b"new")
    assert mode(path) == 0o600


@pytest.mark.parametrize("was", [0o644, 0o660, 0o400])
def test_who_could_use_a_file_keeps_it_where_that_is_meant(tmp_path: Path, was: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(was)
    atomic_write(path, b"new", mode=None)
    assert (path.read_bytes(), mode(path)) == (b"new", was)
    atomic_write(tmp_path / "another", b"new", mode=None)
    assert mode(tmp_path / "another") == 0o600


ACCESS_LIST = "system.posix_acl_access"


def access_list_of_one(uid: int) -> bytes:
    """As the kernel has it: version 2; the owner rw, one user r, the group nothing, the mask r, others nothing."""
    nobody = 0xFFFFFFFF
    entries = [(0x01, 6, nobody), (0x02, 4, uid), (0x04, 0, nobody), (0x10, 4, nobody), (0x20, 0, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_the_access_list_of_a_file_stays_where_its_users_are_to_keep_it(tmp_path: Path) -> None:
    """Without it the mode, which shows the most that the list gives to anybody, would give that to the group."""
    path = tmp_path / "file"
    path.write_text("old")
    if not hasattr(os, "setxattr"):
        pytest.skip("this system has no access lists of this kind")
    try:
        os.setxattr(path, ACCESS_LIST, access_list_of_one(12345))
    except OSError:
        pytest.skip("this file system has no access lists")
    assert mode(path) == 0o640
    atomic_write(path, b"new", mode=None)
    assert os.getxattr(path, ACCESS_LIST) == access_list_of_one(12345)
    assert mode(path) == 0o640
    atomic_write(path, b"new")
    assert mode(path) == 0o600


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed_and_stays_a_link(tmp_path: Path, there: bool) -> None:
    """People keep their files in one place, under version control, and link to them."""
    target = tmp_path / "dotfiles" / "file"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    link, second = tmp_path / "link", tmp_path / "second"
    link.symlink_to(target)
    second.symlink_to("link")
    atomic_write(second, b"new")
    assert link.is_symlink()
    assert second.is_symlink()
    assert target.read_bytes() == b"new"
    assert not target.is_symlink()
    assert os.listdir(target.parent) == ["file"]


def test_a_device_or_a_folder_is_not_replaced(tmp_path: Path) -> None:
    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(OSError, match="no regular file"):
            atomic_write(path, b"x")


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    atomic_write(path, b"x")
    assert path.read_bytes() == b"x"


def test_whatever_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def full(new: Path, old: Path) -> None:
        assert new.read_bytes() == b"new"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"new", replace=full)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    """A lock tells one from the other, and ends with its process."""
    path = tmp_path / "file"
    left = tmp_path / f"{wholefile._beginning(path)}0123456789abcdef"
    left.write_text("half")
    other = tmp_path / f".{path.name}.new"  # not a name of ours
    other.write_text("somebody's")
    written, descriptor = wholefile._new_beside(path)
    try:
        atomic_write(path, b"new")
        assert sorted(os.listdir(tmp_path)) == sorted(["file", other.name, written.name])
    finally:
        os.close(descriptor)
    atomic_write(path, b"newer")
    assert sorted(os.listdir(tmp_path)) == sorted(["file", other.name])


def test_many_writers_at_once_leave_the_whole_work_of_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([65 + number]) * 100_000 for number in range(8)]
    failed: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(5):
                atomic_write(path, content)
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


def limited(script: str, *arguments: str, size: int) -> subprocess.CompletedProcess[str]:
    """A Python script that can write no file beyond a size in bytes: to it, the disk is full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""},
    )


@pytest.mark.process
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")
    script = (
        "import pathlib, sys; from agm.persist.atomic_write import atomic_write\n"
        "try: atomic_write(pathlib.Path(sys.argv[1]), b'x' * 100_000)\n"
        "except OSError as e: print(e.strerror)"
    )
    done = limited(script, str(path), size=4096)
    assert (done.stdout, done.stderr) == ("File too large\n", "")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.process
def test_a_full_disk_is_told_by_the_command_and_costs_neither_configuration_nor_key(tmp_path: Path) -> None:
    file = tmp_path / "agm.toml"
    text = "# " + "x" * 8000 + "\n"
    file.write_text(text)
    script = "import sys; from agm.cli import main; sys.exit(main(sys.argv[1:]))"
    done = limited(script, "key", "create", "laptop", "--config", str(file), size=4096)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "File too large; nothing was changed" in done.stderr
    assert file.read_text() == text
    assert sorted(os.listdir(tmp_path)) == [".agm.toml.lock", "agm.toml"]


@pytest.mark.process
def test_a_full_file_system_leaves_the_old_file() -> None:
    """On a real one of 64 KiB, where this machine lets a process mount one for itself alone."""
    script = (
        "set -e; mkdir -p /mnt/agm-test; mount -t tmpfs -o size=64k tmpfs /mnt/agm-test; exec "
        f"{sys.executable} {FOLDER / 'killed.py'} full /mnt/agm-test"
    )
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if "Operation not permitted" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("this machine lets nobody mount a file system")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"error": "No space left on device", "old": True, "names": ["file"]}


@pytest.mark.parametrize(
    "what", ["file", *(pytest.param(edit, marks=pytest.mark.slow) for edit in ("edit", "edit-with-key"))]
)
@pytest.mark.process
def test_a_process_killed_at_any_line_leaves_the_old_or_the_new(tmp_path: Path, what: str) -> None:
    """
    A child dies at the first line of the writing, another at the second, and so on to the last.

    After each the file is whole, and the next write goes through and leaves nothing beside it.
    """
    done = subprocess.run(
        [sys.executable, str(FOLDER / "killed.py"), what, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["strange"] == []
    assert found["old"] > 10
    assert found["new"] > 0

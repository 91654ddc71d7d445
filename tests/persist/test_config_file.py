"""Edits of the configuration: what they keep of the text, and what is on disk whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agm.config import ConfigError
from agm.persist import config_file as files
from agm.persist.config_file import Refused, SecretFile, added, assigned, changed, edit, index_of, note, removed, tables

ACCOUNTS = ("accounts",)
KEYS = ("auth", "keys")

TEXT = """\
# my gateway
[gateway] # how it is reached
max_body = "1MiB"   # small

# my accounts
[[accounts]]
# the first
name = "a" # short
kind = "api-key"
api_key_env = "A"
# priority = 3

# the second one
[[accounts]]
name = "b"
kind = "api-key"
api_key_env = "B"
enabled = true  # for now

# plugins
[plugins]
load = []

# the end
"""
C = {"name": "c", "kind": "api-key", "api_key_env": "C"}
C_TEXT = '[[accounts]]\nname = "c"\nkind = "api-key"\napi_key_env = "C"\n'


# -- text --------------------------------------------------------------------------------------------


def test_a_table_is_added_below_its_kind_and_above_the_comments_of_what_follows() -> None:
    """Every other byte stays."""
    assert added(TEXT, ACCOUNTS, C) == TEXT.replace("\n# plugins", f"\n{C_TEXT}\n# plugins")


def test_the_first_table_is_added_at_the_end() -> None:
    """Whatever is there, with an empty line between."""
    assert added("", ACCOUNTS, C) == C_TEXT
    assert added("# mine\n", ACCOUNTS, C) == f"# mine\n\n{C_TEXT}"
    assert added("[pool]\nmax_attempts = 2", ACCOUNTS, C) == f"[pool]\nmax_attempts = 2\n\n{C_TEXT}"


def test_a_table_is_added_below_the_table_that_it_is_part_of() -> None:
    """`[[auth.keys]]` belongs under `[auth]`, not at the far end."""
    text = '[auth]\nmode = "strict" # always\n[pool]\nmax_attempts = 2\n'
    assert added(text, KEYS, {"name": "k"}) == (
        '[auth]\nmode = "strict" # always\n\n[[auth.keys]]\nname = "k"\n\n[pool]\nmax_attempts = 2\n'
    )


def test_a_note_is_a_comment_beside_its_key() -> None:
    """And can be found there again; a key that is not there has none."""
    text = added(TEXT, ACCOUNTS, C, {"api_key_env": "by me"})
    assert 'api_key_env = "C" # by me\n' in text
    assert note(text, ACCOUNTS, 2, "api_key_env") == "# by me"
    assert note(text, ACCOUNTS, 1, "enabled") == "# for now"
    assert note(text, ACCOUNTS, 0, "enabled") == ""


def test_a_key_is_changed_where_it_stands() -> None:
    """Its comment stays beside it."""
    assert changed(TEXT, ACCOUNTS, 1, {"enabled": False}) == TEXT.replace("true  # for now", "false  # for now")


def test_a_key_that_is_not_there_is_added_at_the_end_of_its_table() -> None:
    """Not below the comments of the next one."""
    assert changed(TEXT, ACCOUNTS, 0, {"enabled": False}) == TEXT.replace(
        "# priority = 3\n", "# priority = 3\nenabled = false\n"
    )
    assert changed('  [[accounts]]\n  name = "a"', ACCOUNTS, 0, {"enabled": False}) == (
        '  [[accounts]]\n  name = "a"\n  enabled = false\n'
    )


def test_a_table_goes_without_the_comments_around_it() -> None:
    """What stood above its heading may have been said of more than it."""
    begin = TEXT.index("[[accounts]]\n# the first")
    assert removed(TEXT, ACCOUNTS, 0) == TEXT[:begin] + TEXT[TEXT.index("\n# the second") :]
    assert removed(TEXT, ACCOUNTS, 1) == (
        TEXT[: TEXT.index('[[accounts]]\nname = "b"')] + TEXT[TEXT.index("\n# plugins") :]
    )


def test_adding_and_removing_again_leaves_the_text() -> None:
    """No empty lines pile up."""
    assert removed(added(TEXT, ACCOUNTS, C), ACCOUNTS, 2) == TEXT
    assert removed(added(TEXT, KEYS, {"name": "k"}), KEYS, 0) == TEXT
    assert removed(f"[[accounts]]\n\n{C_TEXT}", ACCOUNTS, 0) == C_TEXT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'accounts = [{name = "a"}]\n',
            'accounts = [{name = "a"}, {name = "c", kind = "api-key", api_key_env = "C"}]\n',
        ),
        ("# none yet\naccounts = []\n[pool]\n", f"# none yet\n[pool]\n\n{C_TEXT}"),
    ],
    ids=["filled", "empty"],
)
def test_an_array_in_brackets_is_added_to_or_makes_way(text: str, expected: str) -> None:
    """TOML lets nobody add `[[accounts]]` to one."""
    assert added(text, ACCOUNTS, C) == expected


@pytest.mark.parametrize(
    "text",
    [
        'auth = {mode = "strict"}\n',
        'auth = {mode = "strict", keys = []}\n',
        'auth.mode = "strict"\n',
        "[auth]\nkeys = [] # none\n",
        "[auth]\nkeys = [\n # none\n]\n",
        '[auth]\nkeys = [\n  {name = "x"}, # first\n  {name = "y"}, # second\n]\n',
        'auth = {keys = [{name = "x"}]}',
    ],
)
def test_however_keys_are_written_they_can_be_edited(text: str) -> None:
    """A table is added, switched and removed, and no comment is lost."""
    before = len(tables(text, KEYS))
    more = added(text, KEYS, {"name": "k"}, {"name": "mine"})
    assert tables(more, KEYS)[before] == {"name": "k"}
    off = changed(more, KEYS, before, {"enabled": False})
    assert tables(off, KEYS)[before] == {"name": "k", "enabled": False}
    note(off, KEYS, before, "name")
    assert tables(removed(off, KEYS, before), KEYS) == tables(text, KEYS)
    for comment in ("# none", "# first", "# second"):
        assert (comment in off) == (comment in text)


def test_headings_within_strings_and_arrays_are_none() -> None:
    """A line of a string may look like a heading or a comment; an array may go over many lines."""
    text = (
        'a = """\n[[accounts]]\nname = "x\\""""" # "\n'
        "b = '''\n[pool]\n# it's'''\n"
        "c = [\n  [1, 2], # ]\n  [3],\n]\nd = {e = [']']}\n"
        '[[ "accounts" ]] # ]\nname = "a"\nmore = """\n# no comment\n\n# this neither"""\n'
        "[[accounts.inner]]\nx = 1\n"
    )
    assert added(text, ACCOUNTS, C) == f"{text}\n{C_TEXT}"
    with pytest.raises(Refused, match="write the change yourself"):
        removed(f"{text}{C_TEXT}[accounts.inner]\nx = 1\n", ACCOUNTS, 1)


@pytest.mark.parametrize("text", ["accounts = 1", "accounts = [1]", "[accounts]"])
def test_accounts_that_are_no_tables_are_refused(text: str) -> None:
    """There is nothing to add to."""
    with pytest.raises(Refused, match="accounts is not an array of tables"):
        added(text, ACCOUNTS, C)


def test_keys_of_what_is_no_table_are_refused() -> None:
    """`auth` may be anything in a bad file."""
    with pytest.raises(Refused, match=r"auth\.keys is not an array of tables"):
        added("auth = 1", KEYS, {"name": "k"})


def test_a_text_that_means_something_else_is_refused() -> None:
    """The last line of defence against an edit gone wrong."""
    with pytest.raises(Refused, match="write the change yourself"):
        files._settled(["a = 1\n", "b = nan\n"], {"a": 1})
    assert files._settled(["b = nan\n"], {"b": float("nan")}) == "b = nan\n"


def test_a_name_is_found_or_the_nearest_is_offered() -> None:
    """What was asked for is not repeated: it may be a key that was pasted."""
    assert index_of(TEXT, ACCOUNTS, "b", "account") == 1
    text = '[[accounts]]\nname = "Personal"\n[[accounts]]\nname = "work"\n[[accounts]]\n'
    for asked, answer in (
        ("persnal", "no account of this name; did you mean 'Personal'?"),
        ("zzzzzzzz", "no account of this name; the names are 'Personal', 'work', ''"),
    ):
        with pytest.raises(Refused) as refusal:
            index_of(text, ACCOUNTS, asked, "account")
        assert str(refusal.value) == answer
    with pytest.raises(Refused, match="there is none at all"):
        index_of("", ACCOUNTS, "work", "account")


_LINES = st.sampled_from(["", "# comment", "  # indented", "#"])
_VALUES = st.sampled_from(
    ['"x"', "'y # z'", '"""\n[[accounts]]\n# in\n"""', "[1, [2],\n# three\n 3]", "{a = 1}", "true # said", "1979-05-27"]
)


@st.composite
def _texts(draw: st.DrawFn) -> str:
    """A file with accounts and other tables in any order, comments everywhere."""
    lines = draw(st.lists(_LINES, max_size=3))
    kinds = draw(st.lists(st.sampled_from(["accounts", "other", "keys"]), max_size=6))
    for number, kind in enumerate(kinds):
        lines.append({"accounts": "[[accounts]] # h", "other": f"[t{number}]", "keys": "[[auth.keys]]"}[kind])
        for key in range(draw(st.integers(0, 3))):
            lines += draw(st.lists(_LINES, max_size=2))
            lines.append(f"k{key} = {draw(_VALUES)}")
        lines += draw(st.lists(_LINES, max_size=4))
    return "\n".join(lines) + draw(st.sampled_from(["", "\n"]))


@settings(deadline=None, max_examples=200)
@given(_texts(), st.data())
def test_an_edit_changes_what_it_should_and_loses_no_comment(text: str, data: st.DataObject) -> None:
    """However the file is written."""
    at = data.draw(st.sampled_from([ACCOUNTS, KEYS]))
    before = tables(text, at)
    more = added(text, at, {"name": "n"})
    assert tables(more, at) == [*before, {"name": "n"}]
    assert [line for line in more.splitlines() if line.strip()] != []
    assert _without(more, f'[[{".".join(at)}]]\nname = "n"\n') == _squeezed(text)
    for index in range(len(before)):
        off = changed(text, at, index, {"enabled": False})
        assert tables(off, at)[index] == {**before[index], "enabled": False}
        assert _squeezed(off.replace("enabled = false\n", "", 1)) == _squeezed(text)
        less = removed(text, at, index)
        assert tables(less, at) == before[:index] + before[index + 1 :]
        others = {**tomllib.loads(text), at[0]: None}
        assert {**tomllib.loads(less), at[0]: None} == others


def _squeezed(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _without(text: str, part: str) -> list[str]:
    assert part in text
    return _squeezed(text.replace(part, "", 1))


# -- disk --------------------------------------------------------------------------------------------

GOOD = '[[accounts]]\nname = "a"\nkind = "api-key"\napi_key_env = "A"\n'
ENVIRON = {"A": "key-a", "C": "key-c"}


def add_c(text: str) -> str:
    """The change of most tests."""
    return added(text, ACCOUNTS, C)


def mode(path: Path) -> int:
    """The permission bits of a path itself."""
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration."""
    path = tmp_path / "agm.toml"
    path.write_text(GOOD)
    path.chmod(0o600)
    return path


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Sets the umask; after the test it is what it was."""
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0, 0o777])
def test_what_is_made_is_for_the_owner_alone_whatever_the_umask(
    tmp_path: Path, mask: int, umask: Callable[[int], int]
) -> None:
    """File 0600, folders 0700, from the first moment on."""
    path = tmp_path / "new" / "agm" / "agm.toml"
    key = path.parent / "keys" / "c.key"
    table = {"name": "c", "kind": "api-key", "api_key_file": "keys/c.key"}
    seen: list[int] = []

    def replace(new: Path, old: Path) -> None:
        seen.append(mode(new))
        os.replace(new, old)

    umask(mask)
    edit(path, lambda text: added(text, ACCOUNTS, table), environ={}, secret=SecretFile(key, b"k"), replace=replace)
    umask(0o022)
    assert seen == [0o600]
    assert [mode(each) for each in (path, key, path.parent / ".agm.toml.lock")] == [0o600, 0o600, 0o600]
    assert [mode(each) for each in (path.parent.parent, path.parent, key.parent)] == [0o700, 0o700, 0o700]
    assert sorted(os.listdir(path.parent)) == [".agm.toml.lock", "agm.toml", "keys"]
    assert os.listdir(key.parent) == ["c.key"]


@pytest.mark.parametrize("was", [0o644, 0o640, 0o600, 0o400, 0o664])
def test_who_could_use_a_file_can_do_so_afterwards(file: Path, was: int) -> None:
    """A service of another user may read it; a key that is added is stored as its digest, or in a file of its own."""
    file.chmod(was)
    assert edit(file, add_c, environ=ENVIRON) == ()
    assert mode(file) == was


def test_a_file_with_secrets_that_others_can_read_is_told_at_each_edit(file: Path) -> None:
    """It is not closed behind the back of who may have a reason, and not passed over."""
    text = GOOD.replace('api_key_env = "A"', 'api_key = "canary-1"')
    file.write_text(text)
    file.chmod(0o644)
    for name in ("c", "d"):
        (warning,) = edit(file, lambda text, name=name: added(text, ACCOUNTS, {**C, "name": name}), environ=ENVIRON)[
            -1:
        ]
        assert warning == f"{file}: holds secrets, and others than its owner can read it; chmod 600 {file}"
    assert mode(file) == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to a group that it is not in")
def test_the_group_of_a_file_stays(file: Path) -> None:
    """As its owner does."""
    os.chown(file, 12345, 54321)
    file.chmod(0o640)
    assert edit(file, add_c, environ=ENVIRON) == ()
    assert (file.stat().st_uid, file.stat().st_gid, mode(file)) == (12345, 54321, 0o640)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a while")
def test_a_group_that_the_file_cannot_be_given_to_is_told() -> None:
    """And no other group gets its rights."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "agm.toml"
        file.write_text(GOOD)
        file.chmod(0o640)
        os.chown(folder, 12345, 12345)
        os.chown(file, 12345, 54321)  # as root has given it to them
        os.setegid(12345)
        os.seteuid(12345)
        try:
            (warning,) = edit(file, add_c, environ=ENVIRON)
        finally:
            os.seteuid(0)
            os.setegid(0)
        assert warning == (
            f"{file}: you cannot give it to the group 54321 that it belonged to, and so a gateway that is in that group"
            f" cannot read it any more; sudo chgrp 54321 {file} && sudo chmod 640 {file}"
        )
        assert (file.stat().st_gid, mode(file)) == (12345, 0o600)


def test_a_link_is_followed_and_stays(file: Path, tmp_path: Path) -> None:
    """People keep the file among their others and link to it."""
    link = tmp_path / "elsewhere" / "agm.toml"
    link.parent.mkdir()
    link.symlink_to(file)
    edit(link, add_c, environ=ENVIRON)
    assert link.is_symlink()
    assert not file.is_symlink()
    assert len(tables(file.read_text(), ACCOUNTS)) == 2
    assert os.listdir(link.parent) == ["agm.toml"]


def test_a_refused_text_changes_nothing(file: Path, tmp_path: Path) -> None:
    """Every problem is told, the secret's file is taken back, and no folder is made for nothing."""
    bad = {"name": "c", "kind": "vertx", "api_key_file": "keys/c.key", "location": 1}
    key = tmp_path / "keys" / "c.key"
    with pytest.raises(ConfigError) as refusal:
        edit(file, lambda t: added(t, ACCOUNTS, bad), environ=ENVIRON, secret=SecretFile(key, b"key"))
    assert len(refusal.value.problems) == 2
    assert (file.read_text(), key.exists()) == (GOOD, False)
    missing = tmp_path / "none" / "agm.toml"
    with pytest.raises(ConfigError):
        edit(missing, lambda t: added(t, ACCOUNTS, bad), environ=ENVIRON)
    assert not missing.parent.exists()


def test_a_failing_replace_leaves_the_old_file_and_nothing_else(file: Path, tmp_path: Path) -> None:
    """A full disk is told in the system's words."""

    def full(new: Path, old: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    secret = SecretFile(tmp_path / "keys" / "c.key", b"key")
    with pytest.raises(Refused, match="No space left on device; nothing was changed"):
        edit(file, add_c, environ=ENVIRON, secret=secret, replace=full)
    assert file.read_text() == GOOD
    assert not secret.path.exists()
    assert sorted(os.listdir(tmp_path)) == [".agm.toml.lock", "agm.toml", "keys"]


@pytest.mark.process
def test_a_process_that_dies_before_the_replace_leaves_the_old_file(file: Path, tmp_path: Path) -> None:
    """And what it leaves beside it does not stand in the way of the next edit."""
    script = (
        "import os, pathlib, sys; from agm.persist.config_file import added, edit;"
        f"edit(pathlib.Path(sys.argv[1]), lambda t: added(t, ('accounts',), {C!r}),"
        " environ={}, replace=lambda new, old: os._exit(9))"
    )
    died = subprocess.run([sys.executable, "-c", script, str(file)], timeout=60, check=False)
    assert died.returncode == 9
    assert file.read_text() == GOOD
    (left,) = tmp_path.glob(".agm.toml.new-*")
    assert mode(left) == 0o600
    edit(file, add_c, environ=ENVIRON)
    assert not left.exists()
    assert len(tables(file.read_text(), ACCOUNTS)) == 2


def test_edits_at_the_same_time_are_all_made(file: Path) -> None:
    """None writes over another's."""
    numbers = range(12)

    def one(number: int) -> None:
        table = {"name": f"n{number}", "kind": "api-key", "api_key_env": "A"}
        edit(file, lambda text: added(text, ACCOUNTS, table), environ=ENVIRON)

    threads = [threading.Thread(target=one, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {table["name"] for table in tables(file.read_text(), ACCOUNTS)}
    assert names == {"a", *(f"n{number}" for number in numbers)}


def test_an_edit_waits_for_the_one_under_way(file: Path) -> None:
    """While the lock is held by another, the text is neither read nor written for good."""
    inside, go = threading.Event(), threading.Event()

    def slow(new: Path, old: Path) -> None:
        inside.set()
        go.wait(60)
        os.replace(new, old)

    first = threading.Thread(target=lambda: edit(file, add_c, environ=ENVIRON, replace=slow))
    first.start()
    assert inside.wait(60)
    order: list[str] = []

    def note_and_replace(new: Path, old: Path) -> None:
        order.append("second")
        os.replace(new, old)

    other = {**C, "name": "d"}
    second = threading.Thread(
        target=lambda: edit(file, lambda t: added(t, ACCOUNTS, other), environ=ENVIRON, replace=note_and_replace)
    )
    second.start()
    second.join(0.2)
    order.append("first")
    go.set()
    first.join()
    second.join()
    assert order == ["first", "second"]
    assert [table["name"] for table in tables(file.read_text(), ACCOUNTS)] == ["a", "c", "d"]


def test_a_change_that_changes_nothing_writes_nothing(file: Path) -> None:
    """The file's time stays, so a running gateway does not read it again."""

    def never(new: Path, old: Path) -> None:
        raise AssertionError("replaced")

    assert edit(file, lambda text: text, environ=ENVIRON, replace=never) == ()


def test_byte_order_mark_and_line_breaks_stay(file: Path) -> None:
    """Files from Windows are edited as they are."""
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    edit(file, add_c, environ=ENVIRON)
    data = file.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf[[accounts]]\r\n")
    assert data.count(b"\n") == data.count(b"\r\n") == 9


def test_a_variable_that_is_not_set_here_is_a_warning_only(file: Path) -> None:
    """The gateway may have it where it is started; a warning that was there before is not repeated."""
    assert edit(file, add_c, environ={"A": "key"}) == (
        f"{file}: accounts[1].api_key_env: the environment variable C is not set; write export C=… before the start; "
        "until then 'c' is off",
    )
    table = {"name": "k", "key_env": "K"}
    other = {"name": "l", "key_env": "L"}
    edit(file, lambda text: added(text, KEYS, table), environ={})
    (warning,) = edit(file, lambda text: added(text, KEYS, other), environ={"A": "key", "C": "  "})
    assert "variable L is not set" in warning


def test_an_edit_may_cure_a_file_that_is_refused(file: Path) -> None:
    """To disable an account whose key file is gone is the very purpose."""
    file.write_text('[[accounts]]\nname = "a"\nkind = "api-key"\napi_key_file = "/nowhere/key"\n')
    edit(file, lambda text: changed(text, ACCOUNTS, 0, {"enabled": False}), environ={})
    assert "enabled = false\n" in file.read_text()


def test_home_is_not_made_up(file: Path) -> None:
    """A path in it would lead to nowhere."""
    text = GOOD.replace('api_key_env = "A"', 'api_key_file = "~/key"')
    with pytest.raises(ConfigError, match="needs HOME"):
        files.check(text, file, {})


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"\xff", "is not UTF-8 at byte 0"), (b"a = ", "is not TOML"), (b"a = " + b"[" * 9999, "nested too deeply")],
)
def test_what_cannot_be_read_is_not_edited(file: Path, data: bytes, problem: str) -> None:
    """In the words of the configuration's reader."""
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=problem):
        edit(file, add_c, environ={})
    assert file.read_bytes() == data


def test_what_is_no_file_is_not_edited(tmp_path: Path) -> None:
    """A device or a pipe would be replaced by a file; a loop of links leads nowhere."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, problem in (
        (tmp_path, "no regular file"),
        (Path("/dev/null"), "no regular file"),
        (loop, "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=problem):
            edit(path, add_c, environ=ENVIRON)


def test_a_folder_that_cannot_be_made_is_a_refusal(file: Path) -> None:
    """A file stands where a folder would have to."""
    with pytest.raises((Refused, ConfigError), match="Not a directory"):
        edit(file / "sub" / "agm.toml", add_c, environ=ENVIRON)


def test_a_secret_never_replaces_a_file(file: Path, tmp_path: Path) -> None:
    """Nor does it follow a link that somebody has put there."""
    path = tmp_path / "keys" / "c.key"
    path.parent.mkdir()
    path.symlink_to(tmp_path / "target")
    with pytest.raises(Refused, match="is there already"):
        edit(file, add_c, environ=ENVIRON, secret=SecretFile(path, b"key"))
    assert (file.read_text(), (tmp_path / "target").exists(), path.is_symlink()) == (GOOD, False, True)
    assert "key" not in repr(SecretFile(Path("p"), b"key"))


def test_an_argument_that_is_not_unicode_is_refused(file: Path) -> None:
    """The shell hands on any bytes."""
    table = {**C, "models": [os.fsdecode(b"gemini-\xff*")]}
    with pytest.raises((Refused, ConfigError)):
        edit(file, lambda text: added(text, ACCOUNTS, table), environ=ENVIRON)
    with pytest.raises(Refused, match="not UTF-8"):
        files._as_it_was("\udcff", "")
    assert file.read_text() == GOOD


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_the_file_to_its_owner(file: Path, tmp_path: Path) -> None:
    """`sudo agm` must not lock anybody out of their own configuration."""
    os.chown(file, 12345, 23456)
    key = tmp_path / "keys" / "c.key"
    table = {"name": "c", "kind": "api-key", "api_key_file": "keys/c.key"}
    edit(file, lambda text: added(text, ACCOUNTS, table), environ=ENVIRON, secret=SecretFile(key, b"k"))
    edit(file, lambda text: removed(text, ACCOUNTS, 1), environ=ENVIRON)
    for path in (file, key, key.parent, tmp_path / ".agm.toml.lock"):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_which_file_is_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is named, else the environment's, else one's own; it need not be there."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert files.path_to_edit("x.toml", {"AGM_CONFIG": "/e.toml"}) == tmp_path / "x.toml"
    assert files.path_to_edit(None, {"AGM_CONFIG": "/e.toml"}) == Path("/e.toml")
    assert files.path_to_edit(None, {}) == tmp_path / "agm" / "agm.toml"


# -- values and tables -------------------------------------------------------------------------------


def test_keys_of_a_table_are_changed_added_and_taken_away_in_one_step() -> None:
    """Each line that is not meant is as it was, with its comment."""
    changes = {"api_key_env": "NEW", "models": ["gemini-*"], "priority": 2, "enabled": None}
    new = changed(TEXT, ACCOUNTS, 1, changes)
    assert new == TEXT.replace('"B"', '"NEW"').replace(
        "enabled = true  # for now\n", 'models = ["gemini-*"]\npriority = 2\n'
    )
    assert changed(TEXT, ACCOUNTS, 1, {"priority": 1}, {"priority": "first"}).count("priority = 1  # first\n") == 1
    assert changed(TEXT, ACCOUNTS, 0, {"enabled": None}) == TEXT


def test_keys_of_a_table_in_brackets_are_changed_likewise() -> None:
    text = 'accounts = [{name = "a", kind = "api-key", api_key = "k", priority = 1}]  # mine\n'
    new = changed(text, ACCOUNTS, 0, {"priority": None, "reserve": 0.5})
    assert tomllib.loads(new)["accounts"] == [{"name": "a", "kind": "api-key", "api_key": "k", "reserve": 0.5}]
    assert new.endswith("# mine\n")


ALIASES = ("models", "aliases")


@pytest.mark.parametrize(
    ("text", "added_text", "without"),
    [
        ("# mine\n", '# mine\n\n[models.aliases]\n"gpt-*" = "m"\n', "# mine\n\n[models.aliases]\n"),
        (
            '[models.aliases]  # short\na = "b" # one\n\n[pool]\n',
            '[models.aliases]  # short\na = "b" # one\n"gpt-*" = "m"\n\n[pool]\n',
            '[models.aliases]  # short\na = "b" # one\n\n[pool]\n',
        ),
        (
            '[models]\nlist = ["m"]\n\n[pool]\n',
            '[models]\nlist = ["m"]\n\n[models.aliases]\n"gpt-*" = "m"\n\n[pool]\n',
            '[models]\nlist = ["m"]\n\n[models.aliases]\n\n[pool]\n',
        ),
        (
            '[models]\naliases = {a = "b"} # c\n',
            '[models]\naliases = {a = "b","gpt-*" = "m"} # c\n',
            '[models]\naliases = {a = "b"} # c\n',
        ),
    ],
)
def test_a_key_of_a_table_is_added_where_the_table_is_and_taken_away_again(
    text: str, added_text: str, without: str
) -> None:
    new = assigned(text, ALIASES, "gpt-*", "m")
    assert new == added_text
    assert assigned(new, ALIASES, "gpt-*", None) == without


def test_a_key_of_a_table_with_dots_is_changed_where_it_is() -> None:
    text = 'models.aliases."a.b" = "old"  # why\nmodels.list = ["m"]\n'
    assert assigned(text, ALIASES, "a.b", "new") == text.replace('"old"', '"new"')
    assert assigned(text, ALIASES, "a.b", None) == 'models.list = ["m"]\n'


def test_a_key_that_is_not_there_cannot_be_taken_away() -> None:
    for text in ("", "[models.aliases]\na = 'b'\n"):
        with pytest.raises(Refused, match="has no such key"):
            assigned(text, ALIASES, "gpt-*", None)
    with pytest.raises(Refused, match="is not a table"):
        assigned("models = 1", ALIASES, "a", "b")


@given(st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=4), st.text(max_size=6), st.text(max_size=6))
@settings(max_examples=30)
def test_any_key_and_any_value_of_a_table_can_be_written(held: dict[str, str], key: str, value: str) -> None:
    text = TEXT
    for each, what in held.items():
        text = assigned(text, ALIASES, each, what)
    assert tomllib.loads(assigned(text, ALIASES, key, value))["models"]["aliases"] == {**held, key: value}

"""
Editing the configuration file, for a command or the admin API: text in, text out, and a way to disk that cannot lose
the file.

The upper half is pure.  It cuts the text into sections, a heading each, and changes the one that is meant;
every other byte, comments and order included, is what it was.  The lower half reads, checks with
:func:`agm.config.parse`, and replaces the file whole: a reader sees the old file or the new one, and no
other process edits in between.  Nothing is written that the gateway would refuse.  A configuration can be
read by whoever could read it before, a file with a secret, or a new one, by its owner alone.  No value of a
file is ever printed from here.
"""

import contextlib
import difflib
import fcntl
import grp
import json
import os
import re
import shlex
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from agm.config import Config, ConfigError, Problem, default_path, load, parse
from agm.config.loading import held_openly
from agm.persist.atomic_write import Replace, atomic_write, give, make_folders

if TYPE_CHECKING:
    from tomlkit.items import Array

__all__ = [
    "Refused",
    "SecretFile",
    "added",
    "assigned",
    "changed",
    "check",
    "edit",
    "index_of",
    "note",
    "path_to_edit",
    "read",
    "removed",
    "replace_secret",
    "tables",
    "unlink",
]

At = tuple[str, ...]


class Refused(Exception):
    """What was asked for cannot be done, and nothing was changed; ``str`` says why, without any secret."""


# -- The text of a file ------------------------------------------------------------------------------

# Comments and brackets count outside strings only; a section could be torn apart inside one otherwise.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'"
    r"|\#[^\n]*"
    r"|[\[\]{}\n]"
    r"|[ \t\r]+"
    r"""|[^"'\#\[\]{}\s]+""",
    re.DOTALL,
)


@attrs.frozen
class _Section:
    """
    A heading with what belongs to it, each part with its line breaks.

    ``above`` are the blank lines and comments before the heading.  The first section of a file has no
    heading, the last has nothing but what stands ``above`` the end.
    """

    above: str
    heading: str
    body: str

    def __str__(self) -> str:
        return self.above + self.heading + self.body

    def opens(self, at: At) -> bool:
        """Return whether this is one of the tables of the array ``at``: ``[[auth.keys]]`` for ``("auth", "keys")``."""
        return _inside(tomllib.loads(self.heading), at) == [{}]

    def is_below(self, at: At) -> bool:
        """Return whether this is the table ``at`` or one within it."""
        return _inside(tomllib.loads(self.heading), at) is not None


def _sections(text: str) -> list[_Section]:
    """Return the sections of ``text``, which is known to be TOML; joined they are ``text`` again."""
    starts, ends = [0], [0]  # of each section: where its heading's line begins, where its last key's value ends
    depth = line = 0
    for token in _TOKEN.finditer(text):
        first = token[0][0]
        if first == "\n":
            line = token.end()
        elif first not in " \t\r#":
            if first == "[" and depth == 0 and not text[line : token.start()].strip():
                starts.append(line)
                ends.append(line)
            depth += (first in "[{") - (first in "]}")
            ends[-1] = token.end()
    sections = []
    above = ""
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        stop = starts[number + 1] if number + 1 < len(starts) else len(text)
        heading = text[start : _line_end(text, start)] if number else ""
        after = _line_end(text, end) if end else 0
        # Comments right below a key are about it; from the first blank line on they are about what comes next.
        rest = text[after:stop].splitlines(keepends=True)
        blank = [at for at, each in enumerate(rest) if not each.strip()]
        own = blank[0] if blank else len(rest) if stop == len(text) else 0
        after += len("".join(rest[:own]))
        sections.append(_Section(above, heading, text[start + len(heading) : after]))
        above = text[after:stop]
    return [*sections, _Section(above, "", "")]


def _line_end(text: str, position: int) -> int:
    """Return where the line of ``position`` ends, its line break included."""
    return text.find("\n", position) + 1 or len(text)


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _inside(value: Any, at: At) -> Any:
    """Look up the value at a path of keys; ``None`` if there is none."""
    for name in at:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def tables(text: str, at: At) -> list[dict[str, Any]]:
    """Return the tables of the array ``at``, in order and as plain values; none if it is not there."""
    found = _inside(tomllib.loads(text), at)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Refused(f"{'.'.join(at)} is not an array of tables; see `agm config check`")
    return found


def index_of(text: str, at: At, name: str, what: str) -> int:
    """Find the table of the array with this name; else :class:`Refused`, with the nearest name."""
    names = [str(table.get("name", "")) for table in tables(text, at)]
    if name in names:
        return names.index(name)
    # What was asked for is not repeated: people paste keys where a name belongs.
    folded = {each.casefold(): each for each in names}
    near = difflib.get_close_matches(name[:80].casefold(), folded, n=1, cutoff=0.5)
    if near:
        cure = f"did you mean {folded[near[0]]!r}?"
    else:
        cure = f"the names are {', '.join(map(repr, names))}" if names else "there is none at all"
    raise Refused(f"no {what} of this name; {cure}")


def added(text: str, at: At, table: Mapping[str, object], notes: Mapping[str, str] | None = None) -> str:
    """``text`` with one more table at the end of the array; ``notes`` are comments to its keys."""
    import tomlkit

    expected = tomllib.loads(text)
    parent = expected
    for name in at[:-1]:
        parent = parent.setdefault(name, {})
        if not isinstance(parent, dict):
            raise Refused(f"{'.'.join(at)} is not an array of tables; see `agm config check`")
    parent[at[-1]] = [*tables(text, at), dict(table)]
    body = tomlkit.document()
    for key, value in table.items():
        item = tomlkit.item(value)
        if notes and key in notes:
            item.comment(notes[key])
        body.add(key, item)
    section = f"[[{'.'.join(at)}]]\n{_ended(body.as_string())}"
    sections = _sections(text)
    places = _places(sections, at)
    inline = tomlkit.inline_table()
    inline.update(table)
    if not places and _into_array(sections, at, lambda array: array.append(inline)):
        return _settled(sections, expected)
    return _inserted(sections, at[:1], section, expected)


def _inserted(sections: list[_Section], near_to: At, section: str, expected: Mapping[str, Any]) -> str:
    """Put a section below its own kind or the table that it is part of, else at the end."""
    near = [place for place, section in enumerate(sections) if section.is_below(near_to)]
    place = near[-1] + 1 if near else len(sections)
    before = _ended("".join(map(str, sections[:place])))
    after = "".join(map(str, sections[place:]))
    gap = "\n" if before.strip() and not before.endswith("\n\n") else ""
    if after.strip() and not after[0].isspace():
        after = "\n" + after
    return _settled([before, gap, section, after], expected)


def changed(
    text: str, at: At, index: int, changes: Mapping[str, object], notes: Mapping[str, str] | None = None
) -> str:
    """
    ``text`` with keys of one table of the array changed; one that was not there is added.

    :param changes: the new value of each key; None takes it away.
    :param notes: comments to keys that are added.
    """
    import tomlkit

    expected = tomllib.loads(text)
    wanted = _inside(expected, at)[index]
    gone = [key for key, value in changes.items() if value is None and key in wanted]
    put = {key: value for key, value in changes.items() if value is not None}
    for key in gone:
        del wanted[key]
    wanted.update(put)
    sections = _sections(text)
    places = _places(sections, at)
    if not places:

        def change(array: "Array") -> None:
            for key in gone:
                del array[index][key]
            array[index].update(put)

        _into_array(sections, at, change)
        return _settled(sections, expected)
    section = sections[places[index]]
    document = tomlkit.parse(section.heading + section.body)
    table = _inside(document, at)[0]
    for key in gone:
        table.remove(key)
    new = [key for key in put if key not in table]
    for key in put.keys() - new:
        table[key] = put[key]
    indent = section.heading[: len(section.heading) - len(section.heading.lstrip())]
    written = document.as_string()
    for key in new:
        item = tomlkit.item(put[key])
        comment = f"  # {notes[key]}" if notes and key in notes else ""
        written = f"{_ended(written)}{indent}{key} = {item.as_string()}{comment}\n"
    sections[places[index]] = _Section(section.above, "", written)
    return _settled(sections, expected)


def assigned(text: str, at: At, key: str, value: str | None) -> str:
    """
    ``text`` with one key of the table ``at`` changed, or added at its end; None takes it away.

    :raises Refused: if there is no such key to take away.
    """
    import tomlkit

    expected = tomllib.loads(text)
    wanted: Any = expected
    for name in at:
        wanted = wanted.setdefault(name, {}) if isinstance(wanted, dict) else None
    if not isinstance(wanted, dict):
        raise Refused(f"{'.'.join(at)} is not a table; see `agm config check`")
    if value is None and key not in wanted:
        raise Refused(f"{'.'.join(at)} has no such key")
    if value is None:
        del wanted[key]
    else:
        wanted[key] = value
    sections = _sections(text)
    documents = [tomlkit.parse(section.heading + section.body) for section in sections]
    tables = [(place, table) for place, each in enumerate(documents) if (table := _inside(each, at)) is not None]
    # where the key is; else in the table itself, which may be written in several places, at the end of the first
    place, table = next(((place, table) for place, table in tables if key in table), (None, None))
    if place is None:
        place, table = next(iter(tables), (None, None))
    if place is None or table is None:
        return _with_section(sections, at, key, str(value), expected)
    if value is None:
        table.remove(key)
    else:
        table[key] = value
    section = sections[place]
    sections[place] = _Section(section.above, "", documents[place].as_string())
    with contextlib.suppress(ValueError):  # a table that is written with dots goes with its last key
        found = tomllib.loads("".join(map(str, sections)))
        for depth in range(len(at), 0, -1):
            if _inside(found, at[:depth]) is None and _inside(expected, at[:depth]) == {}:
                del _inside(expected, at[: depth - 1])[at[depth - 1]]
    return _settled(sections, expected)


def _with_section(sections: list[_Section], at: At, key: str, value: str, expected: Mapping[str, Any]) -> str:
    """Return the sections with one more for a table that was not there, below those that it is part of."""
    import tomlkit

    body = tomlkit.document()
    body.add(tomlkit.key(key), tomlkit.item(value))
    return _inserted(sections, at[:1], f"[{'.'.join(at)}]\n{_ended(body.as_string())}", expected)


def removed(text: str, at: At, index: int) -> str:
    """``text`` without one table of the array.  The comments above its heading stay; those within go with it."""
    expected = tomllib.loads(text)
    array = _inside(expected, at)
    del array[index]
    sections = _sections(text)
    places = _places(sections, at)
    if not places:
        _into_array(sections, at, lambda array: array.pop(index))
        return _settled(sections, expected)
    if not array:
        del _inside(expected, at[:-1])[at[-1]]
    gone = sections.pop(places[index])
    if "#" in gone.above:
        heir = sections[places[index]]
        above = gone.above
        if not heir.heading or heir.above.startswith("\n"):
            above = above.rstrip("\n") + "\n"
        sections[places[index]] = attrs.evolve(heir, above=above + heir.above)
    rest = "".join(map(str, sections))
    return _settled([rest if text.startswith("\n") else rest.lstrip("\n")], expected, at[:-1])


def note(text: str, at: At, index: int, key: str) -> str:
    """Return the comment beside a key of one table of the array; nothing in an array that is written in brackets."""
    import tomlkit

    sections = _sections(text)
    places = _places(sections, at)
    if not places:
        return ""
    section = sections[places[index]]
    table = _inside(tomlkit.parse(section.heading + section.body), at)[0]
    return table.value.item(key).trivia.comment if key in table else ""


def _places(sections: list[_Section], at: At) -> list[int]:
    return [place for place, section in enumerate(sections) if section.opens(at)]


def _into_array(sections: list[_Section], at: At, change: "Callable[[Array], object]") -> bool:
    """
    Change the array at ``at`` where it is written in brackets, or would have to be; say whether it is.

    An empty one without a comment is taken out instead, to make way for tables with a heading each.
    """
    import tomlkit
    from tomlkit.items import Array, InlineTable

    for place, section in enumerate(sections):
        document = tomlkit.parse(section.heading + section.body)
        parent = _inside(document, at[:-1])
        if isinstance(parent, InlineTable):
            parent.setdefault(at[-1], tomlkit.array())
        array = _inside(parent, at[-1:])
        if not isinstance(array, Array):
            continue
        empty = re.fullmatch(r"\[\s*]", array.as_string()) and not array.trivia.comment
        if empty and not isinstance(parent, InlineTable):
            del parent[at[-1]]
        else:
            change(array)
        sections[place] = _Section(section.above, "", document.as_string())
        return not empty or isinstance(parent, InlineTable)
    return False


def _settled(parts: Iterable[object], expected: Mapping[str, Any], gone: At = ()) -> str:
    """
    Return the parts as one text, which must mean what was ``expected``.

    ``gone`` is a table that may be missing, because it was there for the sake of what was removed only.
    """
    text = "".join(map(str, parts))
    try:
        found = tomllib.loads(text)
    except ValueError:
        found = {}
    if gone and _inside(found, gone) is None:
        found[gone[0]] = {}
    if _comparable(found) != _comparable(expected):
        raise Refused("the file is written in a way that this command cannot edit; write the change yourself")
    return text


def _comparable(values: Mapping[str, Any]) -> str:
    """Plain values as text: as values, two that are not a number would differ."""
    return json.dumps(values, sort_keys=True, default=str)


# -- The file ----------------------------------------------------------------------------------------


@attrs.frozen
class SecretFile:
    """A file to write beside the configuration, for its owner alone, in the same step as an edit."""

    path: Path
    content: bytes = attrs.field(repr=False)


def path_to_edit(explicit: str | None, environ: Mapping[str, str]) -> Path:
    """Return the file that an edit is made in, absolute: as :func:`agm.config.find`, but it need not be there yet."""
    return Path(explicit or environ.get("AGM_CONFIG") or default_path()).absolute()


def read(path: Path) -> str:
    """
    Return the text of a configuration, with plain line breaks; nothing if there is no such file.

    Raises :class:`agm.config.ConfigError` if it cannot be read or is not TOML.
    """
    return _plain(_raw(path))


def _raw(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError([Problem(path, "", "is no regular file, which alone can be edited")])
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(path, "", f"is not UTF-8 at byte {error.start}, as TOML must be")]) from None
    except OSError as failure:
        raise ConfigError([Problem(path, "", f"cannot be read: {failure.strerror}")]) from None
    try:
        tomllib.loads(_plain(text))
    except (ValueError, RecursionError):
        parse(text, path=path, environ={})  # has the words for it, and raises
    return text


_MARK = "\ufeff"


def _plain(text: str) -> str:
    text = text.removeprefix(_MARK)
    return text.replace("\r\n", "\n") if _is_crlf(text) else text


def _is_crlf(text: str) -> bool:
    return 0 < text.count("\n") == text.count("\r\n")


def _as_it_was(text: str, before: str) -> bytes:
    """``text`` in bytes, with the byte order mark and the line breaks that the file had ``before``."""
    if _is_crlf(before):
        text = text.replace("\n", "\r\n")
    try:
        return ((_MARK if before.startswith(_MARK) else "") + text).encode("utf-8")
    except UnicodeEncodeError:
        raise Refused("an argument is not UTF-8, as TOML must be") from None


def nothing_more(config: Config) -> Iterable[Problem]:
    """Find nothing wrong with a configuration beyond what its reader has."""
    return ()


def check(
    text: str,
    path: Path,
    environ: Mapping[str, str],
    *,
    further: Callable[[Config], Iterable[Problem]] = nothing_more,
) -> tuple[str, ...]:
    """
    Check ``text`` as the configuration at ``path``, and return its warnings.

    Raises :class:`agm.config.ConfigError` with every problem.  A secret that is missing or unusable is a warning: a
    variable may be set where the gateway is started.  ``further`` finds what else is wrong, as plugins know it.
    """
    config = parse(text, path=path, environ=environ)
    if problems := list(further(config)):
        raise ConfigError(problems)
    return config.warnings


def edit(
    path: Path,
    change: Callable[[str], str],
    *,
    environ: Mapping[str, str],
    secret: SecretFile | None = None,
    replace: Replace = os.replace,
    further: Callable[[Config], Iterable[Problem]] = nothing_more,
) -> tuple[str, ...]:
    """
    Put what ``change`` makes of the text at ``path`` in its place; the warnings that are new with it.

    ``change`` is a function of the text alone, and may be called twice.  ``secret`` is written first, and
    taken back if the text is refused.  ``further`` is that of :func:`check`.
    The file is replaced by ``replace``, :func:`os.replace` but for tests.
    Raises :class:`Refused`, or :class:`agm.config.ConfigError` with every problem of the new text; either
    way nothing was changed.  A file and folders that are not there are made, for their owner alone; a file that is
    there keeps its owner, group and mode, or a warning says what has become of them.
    """
    if secret is None:
        check(change(read(path)), path, environ, further=further)  # a refusal leaves no new folder behind
    target = Path(os.path.realpath(path))
    try:
        make_folders(target.parent)
        with _locked(target):
            before = _raw(target)
            new = change(_plain(before))
            if new == _plain(before):
                return ()
            known = set(map(_anywhere, _warnings_before(_plain(before), path, environ)))
            data = _as_it_was(new, before)
            old = target.stat() if target.exists() else None
            with contextlib.ExitStack() as undo:
                if secret is not None:
                    if os.path.lexists(secret.path):
                        raise Refused(f"{secret.path} is there already; remove it if no other account uses it")
                    undo.callback(unlink, secret.path)
                    atomic_write(secret.path, secret.content, like=old)
                warnings = check(new, path, environ, further=further)
                atomic_write(target, data, mode=None, like=old, replace=replace)
                undo.pop_all()
            new_ones = [warning for warning in warnings if _anywhere(warning) not in known]
            return (*new_ones, *_access(path, old, environ))
    except OSError as failure:
        raise Refused(f"{path}: cannot be written: {failure.strerror}; nothing was changed") from None


def _access(path: Path, old: os.stat_result | None, environ: Mapping[str, str]) -> Iterator[str]:
    """Describe who else may read a file that was written, as far as a person has to know."""
    new = path.stat()
    if old is not None and old.st_mode & 0o070 and new.st_gid != old.st_gid:
        group, file = _group(old.st_gid), shlex.quote(str(path))
        yield (
            f"{path}: you cannot give it to the group {group} that it belonged to, and so a gateway that is in that"
            f" group cannot read it any more; sudo chgrp {group} {file} && sudo chmod {old.st_mode & 0o777:o} {file}"
        )
    openly = held_openly(path, new.st_mode)
    if openly in load(path, environ=environ).warnings:
        yield openly


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def replace_secret(secret: SecretFile) -> None:
    """
    Put new content in the place of a file with a secret, which a running gateway takes up.

    Raises :class:`Refused` if it cannot be written; nothing was changed then.
    """
    try:
        atomic_write(secret.path, secret.content, like=secret.path.stat())
    except OSError as failure:
        raise Refused(f"{secret.path}: cannot be written: {failure.strerror}; nothing was changed") from None


def _warnings_before(text: str, path: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    try:
        return check(text, path, environ)
    except ConfigError:
        return ()  # the edit may be the very cure


def _anywhere(warning: str) -> str:
    """Return the same wherever in an array: what stands behind a table that was removed has another number."""
    return re.sub(r"\[\d+\]", "[]", warning)


def unlink(path: Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Nobody else edits ``target`` meanwhile.  The lock file stays: to remove it would let two in at once."""
    lock = target.with_name(f".{target.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            os.fchmod(descriptor, 0o600)  # a umask may have left the owner without a right to open it again
            give(descriptor, target.stat() if target.exists() else None)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

"""
How a file is read: the place of a value, the readers that fields carry, and tables and arrays of them.

A reader turns a TOML value into what its field holds, or refuses it; each refusal is a problem of its own, named with
its key.  Nothing here knows a key, or a kind of value.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

from agm.config.identity import Identity
from agm.config.problems import Problem
from agm.config.words import nearest_of, quote, sort_of

T = TypeVar("T")


class RefusedError(Exception):
    """A reader refuses a value; the message says what was expected, and the value only if it is no secret."""


@attrs.define
class Reading:
    """
    What one reading of a file gathers on its way.

    ``lacking`` are secrets that are missing or unusable: what needs one is off, and the rest of the file holds.
    ``files`` are the files whose content counts, as they were before they were read, whether they are there or not.
    """

    whole: type  # the class whose fields are the keys of the file itself
    file: Path | None
    environ: Mapping[str, str]
    problems: list[Problem] = attrs.Factory(list)
    warnings: list[str] = attrs.Factory(list)
    lacking: list[Problem] = attrs.Factory(list)
    files: dict[Path, Identity | None] = attrs.Factory(dict)
    claims: dict[tuple[str, str], str] = attrs.Factory(dict)
    literal_secrets: bool = False

    def look_at(self, path: Path) -> None:
        """Note how a file is that is to be read."""
        self.files.setdefault(path, Identity.of(path))


@attrs.frozen
class Place:
    """Where in the file a value stands, and the reading that it belongs to."""

    reading: Reading
    key: str = ""

    def __truediv__(self, name: str) -> "Place":
        """Return the place of a key of this table."""
        # A key may be any text in quotes, line breaks included; a problem must stay one line.
        shown = name if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) else quote(name)
        return Place(self.reading, f"{self.key}.{shown}" if self.key else shown)

    def __getitem__(self, index: int) -> "Place":
        """Return the place of an item of this array."""
        return Place(self.reading, f"{self.key}[{index}]")

    def problem(self, message: str) -> None:
        """Note that something here is wrong."""
        self.reading.problems.append(Problem(self.reading.file, self.key, message))

    def warn(self, message: str) -> None:
        """Note that something here works, but should be changed."""
        self.reading.warnings.append(str(Problem(self.reading.file, self.key, message)))

    def lack(self, message: str) -> None:
        """Note that a secret is missing or unusable here, which is a warning too."""
        problem = Problem(self.reading.file, self.key, message)
        self.reading.lacking.append(problem)
        self.reading.warnings.append(str(problem))

    def claim(self, sort: str, name: str) -> str | None:
        """Take ``name`` for this place; the key of the place that took it before, if one did."""
        holder = self.reading.claims.setdefault((sort, name), self.key)
        return None if holder == self.key else holder

    def take(self, read: "Reader[T]", value: object) -> tuple[T, ...]:
        """Apply ``read`` to ``value``; None if it is refused, which is noted as a problem."""
        try:
            return (read(value, self),)
        except RefusedError as refusal:
            self.problem(str(refusal))
            return ()


Reader = Callable[[object, Place], T]


@attrs.frozen
class Key:
    """What a field carries to be a key of the file."""

    read: Reader[Any]
    required: str  # what to say when it is missing; nothing for a key that can be left out
    inside: type | None  # the class whose fields are the keys of the table, or tables, below this key
    several: bool  # an array of such tables


#: Where an attrs field's metadata has its :class:`Key`.
KEY = "agm.config"


def setting(
    read: Reader[Any],
    default: object = None,
    *,
    required: str = "",
    inside: type | None = None,
    several: bool = False,
) -> Any:
    """
    Return a field that is a key of the file: ``read`` turns its TOML value into the field's, or refuses it.

    The page for people is made from the field's type as well, so that a module with settings has its annotations
    evaluated: no ``from __future__ import annotations`` there.
    """
    return attrs.field(default=default, metadata={KEY: Key(read, required, inside, several)})


def array_of(read: Reader[T], *, least: int = 0, empty: str = "") -> Reader[tuple[T, ...]]:
    """
    Return an array of at least so many items, else it is refused with the words of ``empty``.

    Each item that ``read`` refuses is a problem of its own.
    """

    def read_array(value: object, place: Place) -> tuple[T, ...]:
        if not isinstance(value, list):
            cure = '; write it in brackets: ["…"]' if isinstance(value, str) else ""
            raise RefusedError(f"expected an array, not {sort_of(value)}{cure}")
        if len(value) < least:
            raise RefusedError(empty)
        return tuple(taken for index, item in enumerate(value) for taken in place[index].take(read, item))

    return read_array


def keys_of(table: type) -> dict[str, Key]:
    """Return the keys of a table by name."""
    fields: Sequence[attrs.Attribute[Any]] = attrs.fields(table)
    return {field.name: field.metadata[KEY] for field in fields if KEY in field.metadata}


def keys_below(table: type, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a table and of those inside it, each after ``at``, with its default (``None`` for none)."""
    fields: Sequence[attrs.Attribute[Any]] = attrs.fields(table)
    for field in fields:
        if field.metadata.get(KEY) is None:
            continue
        of: Key = field.metadata[KEY]
        if of.inside is None:
            yield at + field.name, field.default
        else:
            yield from keys_below(of.inside, f"{at}{field.name}{'[]' if of.several else ''}.")


def values_of(table: type, value: object, place: Place) -> dict[str, Any]:
    """Return the values of a table by name.  A refused one is left out; unknown and missing keys are problems."""
    if not isinstance(value, dict):
        doubled = isinstance(value, list) and "[" not in place.key
        cure = f"; write [{place.key}], not [[{place.key}]]" if doubled else ""
        raise RefusedError(f"expected a table, not {sort_of(value)}{cure}")
    known = keys_of(table)
    values = {}
    for name, item in value.items():
        if name in known:
            for taken in (place / name).take(known[name].read, item):
                values[name] = taken
        else:
            (place / name).problem(_unknown(name, known, place))
    for name, of in known.items():
        if of.required and name not in value:
            (place / name).problem(f"is missing; {of.required}")
    return values


def _unknown(name: str, known: Iterable[str], place: Place) -> str:
    """Explain that a key is not known at ``place``."""
    paths = (path.rpartition(".") for path, _ in keys_below(place.reading.whole))
    elsewhere = sorted({table for table, _, key in paths if key == name} - {""})
    nearest = nearest_of(name, known)
    if nearest:
        return f"unknown key; did you mean {nearest!r}?"
    if elsewhere:
        tables = " or ".join(f"[[{path[:-2]}]]" if path.endswith("[]") else f"[{path}]" for path in elsewhere)
        return f"unknown key here; it belongs in {tables}"
    return f"unknown key; the keys here are {', '.join(known)}"


def table_of(table: type[T]) -> Reader[T]:
    """A table whose keys are the fields of ``table``."""

    def read(value: object, place: Place) -> T:
        return table(**values_of(table, value, place))

    return read


def array_of_tables(read: Reader[T]) -> Reader[tuple[T, ...]]:
    """Tables under a doubled heading, each read by ``read``."""
    read_array = array_of(read)

    def read_tables(value: object, place: Place) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise RefusedError(f"expected an array of tables, not {sort_of(value)}; write [[{place.key}]]")
        return read_array(value, place)

    return read_tables

"""
Keeps the tables of ``docs/configuration.md`` to what ``agm/config`` says: ``python tools/reference.py``.

Which keys there are, their order, what they take and their defaults come from the code.  What a key means is written in
the page, and nowhere else; a new key gets a row with its name and its meaning there, and the rest is filled in here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from agm.config import Config
from agm.config.client_keys import read_moment
from agm.config.reading import KEY, Key
from agm.config.values import read_log_size, read_size

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

#: What the type of a field does not tell: a size may be written with a unit, a moment is a date of TOML's.
_BY_READER = {read_size: "integer or size", read_log_size: "integer or size", read_moment: "date or time"}
#: Defaults that are no one value.
_NO_ONE_VALUE = {"accounts[].endpoints": "by kind"}
_ROW = re.compile(r"\| `(?P<name>\w+)` \|(?P<takes>[^|]*)\|(?P<default>[^|]*)\| (?P<meaning>.+) \|")
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


class MeaningMissing(Exception):
    """A key of the code has no row in the page."""


@attrs.frozen
class Setting:
    """A key as the page shows it: its table in brackets, its name, and two cells of its row."""

    table: str
    name: str
    takes: str
    default: str


def settings(of: type = Config, at: str = "", table: str = "") -> Iterator[Setting]:
    """Every key that a file may hold, in the order of the code."""
    for field in attrs.fields(of):
        key: Key | None = field.metadata.get(KEY)
        if key is None:
            continue
        path = at + field.name
        if key.inside is None:
            yield Setting(table, field.name, _takes(field, key), _default(path, field, key))
        else:
            heading = f"[[{path}]]" if key.several else f"[{path}]"
            yield from settings(key.inside, f"{path}{'[]' if key.several else ''}.", heading)


def _takes(field: attrs.Attribute[Any], key: Key) -> str:
    if key.read in _BY_READER:
        return _BY_READER[key.read]
    kind: Any = field.type
    if get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is Literal:
        words = [f'`"{word}"`' for word in get_args(kind)]
        return f"{', '.join(words[:-1])} or {words[-1]}"
    if get_origin(kind) is tuple:
        return "array of strings"
    if get_origin(kind) in (Mapping, dict) or kind is Mapping:
        return "table of strings"
    return {bool: "boolean", int: "integer", float: "number"}.get(kind, "string")


def _default(path: str, field: attrs.Attribute[Any], key: Key) -> str:
    if key.required:
        return "required"
    if field.default is None:
        return _NO_ONE_VALUE.get(path, "none")
    return f"`{_toml(field.default, is_size=_takes(field, key).endswith('size'))}`"


def _toml(value: Any, *, is_size: bool = False) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() if is_size:
            return next((f'"{value // unit}{name}"' for unit, name in _UNITS if value % unit == 0), str(value))
        case int() | float():
            return f"{value:g}"
        case str():
            return f'"{value}"'
        case Mapping():
            return f"{{{', '.join(f'{name} = {_toml(each)}' for name, each in value.items())}}}"
        case _:
            return f"[{', '.join(map(_toml, value))}]"


def page(text: str) -> str:
    """
    The page with its tables as the code has them.

    :raises MeaningMissing: if the page does not say what a key means.
    """
    wanted: dict[str, list[Setting]] = {}
    for setting in settings():
        wanted.setdefault(setting.table, []).append(setting)
    written = []
    for section in re.split(r"(?m)^(?=#+ )", text):
        heading = re.match(r"##+ `(\[+[a-z_.]+\]+)`$", section, re.MULTILINE)
        written.append(section if heading is None else _section(section, wanted.pop(heading[1], [])))
    if wanted:
        raise MeaningMissing(f"{PAGE.name} has no heading for {', '.join(wanted)}")
    return "".join(written)


def _section(text: str, keys: list[Setting]) -> str:
    lines = text.splitlines(keepends=True)
    at = [number for number, line in enumerate(lines) if _ROW.match(line)]
    meanings = {match["name"]: match["meaning"] for n in at if (match := _ROW.match(lines[n])) is not None}
    missing = [f"{key.table} {key.name}" for key in keys if key.name not in meanings]
    if missing:
        raise MeaningMissing(
            f"{PAGE.name} does not say what these mean; add `| `NAME` | | | MEANING |`: {', '.join(missing)}"
        )
    rows = [f"| `{key.name}` | {key.takes} | {key.default} | {meanings[key.name]} |\n" for key in keys]
    return "".join([*lines[: at[0]], *rows, *lines[at[-1] + 1 :]]) if at else text


if __name__ == "__main__":
    try:
        PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
    except MeaningMissing as e:
        sys.exit(str(e))

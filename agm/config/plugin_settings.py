"""``[plugins.NAME]`` tables against what their plugins say of them, with problems like those of the other tables."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from agm.config.problems import ConfigError, Problem
from agm.config.words import nearest_of, quote

S = TypeVar("S", bound=msgspec.Struct)

#: Where msgspec says what is wrong, and where.
_SAID = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<where>.*)`)?", re.DOTALL)
_GOT = re.compile(r", got ")


def read_settings(name: str, table: Mapping[str, object], schema: type[S], file: Path | None) -> S:
    """
    Return the settings of a plugin.

    :param schema: its fields are the keys of the table; those without a default have to be there.
    :raises ConfigError: with every problem; a value is never told, which may be a secret.
    """
    if problems := list(problems_of(f"plugins.{name}", table, schema, file)):
        raise ConfigError(problems)
    return msgspec.convert(dict(table), schema)


def problems_of(
    place: str, table: Mapping[str, object], schema: type[msgspec.Struct], file: Path | None, *, of: str = ""
) -> Iterator[Problem]:
    """
    Say what is wrong with a table.

    :param place: where it stands, as ``plugins.NAME``.
    :param of: whose keys these are, where it has others beside.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(schema)}
    found = False
    for key, value in table.items():
        at = f"{place}.{key if re.fullmatch('[A-Za-z0-9_-]{1,80}', key) else quote(key)}"
        if key not in fields:
            near = nearest_of(key, fields)
            keys = f"{of} have {', '.join(fields)}" if of else f"the keys here are {', '.join(fields)}"
            hint = f"; did you mean {near!r}?" if near else f"; {keys}"
            none = f"; {of} have none of their own" if of else " here: there are none"
            found = True
            yield Problem(file, at, f"unknown key{hint if fields else none}")
            continue
        try:
            msgspec.convert(value, fields[key].type)
        except msgspec.ValidationError as e:
            found = True
            yield _problem(file, at, e)
    for key, field in fields.items():
        if field.required and key not in table:
            found = True
            yield Problem(file, f"{place}.{key}", "is missing")
    if not found:  # what only the whole of it tells
        try:
            msgspec.convert(dict(table), schema)
        except msgspec.ValidationError as e:
            yield _problem(file, place, e)


def _problem(file: Path | None, at: str, error: msgspec.ValidationError) -> Problem:
    said = _SAID.fullmatch(str(error))
    assert said is not None, "it matches everything"
    what = _GOT.sub(", not ", said["what"].replace("`", ""))
    return Problem(file, at + (said["where"] or ""), what[:1].lower() + what[1:])

"""
The configuration: TOML in, one frozen :class:`Config` out, or every problem at once.

A table of the file is a class here, a key is a field made by :func:`setting`: the reader that the field
carries is its documentation for the program, ``docs/configuration.md`` is the one for people, and a
test holds the two together.  A new table is a new class and one field of :class:`Config`.

This module never guesses.  A key that it does not know, a value of the wrong kind and a variable
that is not set are all problems, each named with its file, its key, what was found and what to do.
The value of a secret appears in no problem, no warning and no ``repr``.  Nothing is opened but the
configuration itself and the files that ``api_key_file`` and ``ca_file`` name; no reactor and no network is needed.
"""

# ruff: noqa: RUF009 - `setting` makes an attrs field, which ruff cannot know; it is no shared default

import contextlib
import datetime
import difflib
import hashlib
import ipaddress
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

import attrs
import platformdirs

from agm.core.network import Authorities, EnvironmentProxies, Network, Proxy, ProxySetting

__all__ = [
    "AccountConfig",
    "AuthConfig",
    "ClientKeyConfig",
    "Config",
    "ConfigError",
    "GatewayConfig",
    "LogConfig",
    "ModelsConfig",
    "PluginsConfig",
    "PoolConfig",
    "Problem",
    "RequestLogConfig",
    "Secret",
    "TimeoutsConfig",
    "UpstreamConfig",
    "default",
    "default_endpoints",
    "default_path",
    "find",
    "known_keys",
    "load",
    "parse",
]

T = TypeVar("T")

AccountKind = Literal["api-key", "vertex", "code-assist"]
AuthMode = Literal["off", "strict", "all_except_health", "auto"]
Strategy = Literal["sticky", "round-robin", "least-loaded", "priority"]

DEFAULT_MODELS = (
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
    "gemini-2.5-flash-image",
    "gemini-3-pro-preview",
    "gemini-embedding-001",
    "imagen-4.0-generate-001",
)


class Secret:
    """
    A value that must not be shown: an API key or an access token.

    ``repr``, ``str`` and formatting give ``Secret(…)``; :meth:`reveal` gives the value.  Not a subclass
    of ``str`` and not an attrs class, so neither joining, JSON nor ``attrs.asdict`` can spill it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))


@attrs.frozen
class Problem:
    """One thing wrong with a configuration: in which file (if any), at which dotted key, and what."""

    file: Path | None
    key: str
    message: str

    def __str__(self) -> str:
        file = "configuration" if self.file is None else str(self.file)
        return ": ".join(part for part in (file, self.key, self.message) if part)


class ConfigError(Exception):
    """A configuration cannot be used.  ``problems`` holds all that was found; ``str`` is a line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class _RefusedError(Exception):
    """A reader refuses a value; the message says what was expected, and the value only if it is no secret."""


@attrs.define
class _Reading:
    """What one reading of a file gathers on its way."""

    file: Path | None
    environ: Mapping[str, str]
    problems: list[Problem] = attrs.Factory(list)
    warnings: list[str] = attrs.Factory(list)
    claims: dict[tuple[str, str], str] = attrs.Factory(dict)
    literal_secrets: bool = False


@attrs.frozen
class _Place:
    """Where in the file a value stands, and the reading that it belongs to."""

    reading: _Reading
    key: str = ""

    def __truediv__(self, name: str) -> "_Place":
        """The place of a key of this table."""
        # A key may be any text in quotes, line breaks included; a problem must stay one line.
        shown = name if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) else _quoted(name)
        return _Place(self.reading, f"{self.key}.{shown}" if self.key else shown)

    def __getitem__(self, index: int) -> "_Place":
        """The place of an item of this array."""
        return _Place(self.reading, f"{self.key}[{index}]")

    def problem(self, message: str) -> None:
        self.reading.problems.append(Problem(self.reading.file, self.key, message))

    def warn(self, message: str) -> None:
        self.reading.warnings.append(str(Problem(self.reading.file, self.key, message)))

    def claim(self, sort: str, name: str) -> str | None:
        """Take ``name`` for this place; the key of the place that took it before, if one did."""
        holder = self.reading.claims.setdefault((sort, name), self.key)
        return None if holder == self.key else holder

    def take(self, read: "Reader[T]", value: object) -> tuple[T, ...]:
        """What ``read`` makes of ``value``: one thing, or nothing once the refusal is noted as a problem."""
        try:
            return (read(value, self),)
        except _RefusedError as refusal:
            self.problem(str(refusal))
            return ()


Reader = Callable[[object, _Place], T]


@attrs.frozen
class _Key:
    """What a field carries to be a key of the file."""

    read: Reader[Any]
    required: str  # what to say when it is missing; nothing for a key that can be left out
    inside: type | None  # the class whose fields are the keys of the table, or tables, below this key
    several: bool  # an array of such tables


_KEY = "agm.config"


def setting(
    read: Reader[Any],
    default: object = None,
    *,
    required: str = "",
    inside: type | None = None,
    several: bool = False,
) -> Any:
    """A field that is a key of the file: ``read`` turns its TOML value into the field's, or refuses it."""
    return attrs.field(default=default, metadata={_KEY: _Key(read, required, inside, several)})


# -- Words for values --------------------------------------------------------------------------------


def _shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _quoted(name: str) -> str:
    """A key in the double quotes that TOML wants around it."""
    return '"' + repr(_shortened(name))[1:-1] + '"'


def _shown(value: object) -> str:
    """A value as a message may show it.  What is inside arrays and tables is not shown: it may be secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(_shortened(value))
    if isinstance(value, int):
        # Python refuses to print integers of thousands of digits, which TOML can hold in hexadecimal.
        return str(value) if value.bit_length() <= 64 else "a number of more than 64 bits"
    if isinstance(value, float | datetime.date | datetime.time):
        return str(value)
    return _sort_of(value)


def _sort_of(value: object) -> str:
    for sort, words in _SORTS.items():
        if isinstance(value, sort):
            return words
    return "a date or time"


_SORTS: Mapping[type, str] = {
    bool: "a boolean",
    str: "a string",
    int: "an integer",
    float: "a float",
    list: "an array",
    dict: "a table",
}


def _nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of ``words`` that was most likely meant by ``word``."""
    folded = {re.sub(r"[-_ ]", "", candidate).casefold(): candidate for candidate in words}
    close = difflib.get_close_matches(re.sub(r"[-_ ]", "", word[:80]).casefold(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


# -- Readers of single values ------------------------------------------------------------------------


def _string(value: object, place: _Place) -> str:
    if not isinstance(value, str):
        raise _RefusedError(f"expected a string, not {_shown(value)}")
    return value


def _text(value: object, place: _Place) -> str:
    """A string with something in it and nothing that would tear a line apart."""
    text = _string(value, place)
    if not text.strip():
        raise _RefusedError("is empty")
    if not text.isprintable():
        raise _RefusedError(f"{_shown(text)} holds a control character")
    if text != text.strip():
        raise _RefusedError(f"{_shown(text)} has spaces around it; write {_shown(text.strip())}")
    return text


def _boolean(value: object, place: _Place) -> bool:
    if not isinstance(value, bool):
        raise _RefusedError(f"expected true or false, not {_shown(value)}")
    return value


def _one_of(*choices: str) -> Reader[Any]:
    def read(value: object, place: _Place) -> str:
        if value in choices and isinstance(value, str):
            return value
        nearest = _nearest(value, choices) if isinstance(value, str) else None
        cure = f"; did you mean {nearest!r}?" if nearest else ""
        raise _RefusedError(f"{_shown(value)} is not one of {', '.join(choices)}{cure}")

    return read


def _whole(least: int, most: int, otherwise: str = "") -> Reader[int]:
    """A whole number from ``least`` to ``most``; ``otherwise`` is the cure for one that is not."""

    def read(value: object, place: _Place) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _RefusedError(f"expected a whole number, not {_shown(value)}")
        if not least <= value <= most:
            raise _RefusedError(f"{_shown(value)} is not between {least} and {most}{otherwise}")
        return value

    return read


# epoll counts milliseconds in 31 bits: a timer beyond 24 days would stop the reactor instead of firing late.
_LONGEST = 1_000_000


def _seconds(*, zero: bool = False) -> Reader[float]:
    def read(value: object, place: _Place) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _RefusedError(f"expected a number of seconds, not {_shown(value)}")
        if not (0 <= value <= _LONGEST) or (value == 0 and not zero):
            least = "0 or more" if zero else "more than 0"
            raise _RefusedError(f"{_shown(value)} is not a number of seconds: {least}, and at most {_LONGEST}")
        return float(value)

    return read


def _fraction(value: object, place: _Place) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _RefusedError(f"expected a number from 0 to 1, not {_shown(value)}")
    if not 0 <= value <= 1:
        raise _RefusedError(f"{_shown(value)} is not a fraction: 0 or more, and at most 1")
    return float(value)


_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_LARGEST = 2**40


def _size(value: object, place: _Place) -> int:
    """A number of bytes, or a string of a number and a unit."""
    size = 0
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]+)?", value)):
        unit = _UNITS.get(match[2] or "B")
        if unit is None:
            nearest = _nearest(match[2], _UNITS)
            cure = f"; did you mean {match[1] + nearest!r}?" if nearest else ""
            raise _RefusedError(f"{_shown(value)} has none of the units {', '.join(_UNITS)}{cure}")
        size = int(match[1]) * unit
    else:
        raise _RefusedError(f'{_shown(value)} is not a size: write bytes, or a whole number and a unit like "100MiB"')
    if not 1 <= size <= _LARGEST:
        raise _RefusedError(f"{_shown(value)} is not between 1 byte and 1024GiB")
    return size


def _log_size(value: object, place: _Place) -> int:
    """A number of bytes that a database can do with."""
    size = _size(value, place)
    if size < 2**20:
        raise _RefusedError(f"{_shown(value)} is less than 1MiB; enabled = false is for none at all")
    return size


# -- Readers of arrays and tables --------------------------------------------------------------------


def _array_of(read: Reader[T], *, least: int = 0, empty: str = "") -> Reader[tuple[T, ...]]:
    """
    An array of at least so many items, else it is refused with the words of ``empty``.

    Each item that ``read`` refuses is a problem of its own.
    """

    def read_array(value: object, place: _Place) -> tuple[T, ...]:
        if not isinstance(value, list):
            cure = '; write it in brackets: ["…"]' if isinstance(value, str) else ""
            raise _RefusedError(f"expected an array, not {_sort_of(value)}{cure}")
        if len(value) < least:
            raise _RefusedError(empty)
        return tuple(taken for index, item in enumerate(value) for taken in place[index].take(read, item))

    return read_array


def _keys_of(table: type) -> dict[str, _Key]:
    fields: Sequence[attrs.Attribute[Any]] = attrs.fields(table)
    return {field.name: field.metadata[_KEY] for field in fields if _KEY in field.metadata}


def _values_of(table: type, value: object, place: _Place) -> dict[str, Any]:
    """The values of a table by name.  A refused one is left out; unknown and missing keys are problems."""
    if not isinstance(value, dict):
        doubled = isinstance(value, list) and "[" not in place.key
        cure = f"; write [{place.key}], not [[{place.key}]]" if doubled else ""
        raise _RefusedError(f"expected a table, not {_sort_of(value)}{cure}")
    known = _keys_of(table)
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


def _unknown(name: str, known: Iterable[str], place: _Place) -> str:
    """What to say about a key that is not known at ``place``."""
    elsewhere = sorted({path.rpartition(".")[0] for path, _ in known_keys() if path.rpartition(".")[2] == name} - {""})
    nearest = _nearest(name, known)
    if nearest:
        return f"unknown key; did you mean {nearest!r}?"
    if elsewhere:
        tables = " or ".join(f"[[{path[:-2]}]]" if path.endswith("[]") else f"[{path}]" for path in elsewhere)
        return f"unknown key here; it belongs in {tables}"
    return f"unknown key; the keys here are {', '.join(known)}"


def _table(table: type[T]) -> Reader[T]:
    """A table whose keys are the fields of ``table``."""

    def read(value: object, place: _Place) -> T:
        return table(**_values_of(table, value, place))

    return read


def _array_of_tables(read: Reader[T]) -> Reader[tuple[T, ...]]:
    """Tables under a doubled heading, each read by ``read``."""
    read_array = _array_of(read)

    def read_tables(value: object, place: _Place) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _RefusedError(f"expected an array of tables, not {_sort_of(value)}; write [[{place.key}]]")
        return read_array(value, place)

    return read_tables


# -- Hosts, origins, endpoints -----------------------------------------------------------------------

_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*", re.ASCII)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return None if "%" in host else ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_host(host: str) -> bool:
    """Whether ``host``, in lower case and without brackets, is an address or a name as DNS has them."""
    return _address(host) is not None or (len(host) <= 253 and _HOST_NAME.fullmatch(host) is not None)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    # Not `is_loopback` for IPv6: Pythons differ over the mapped IPv4 addresses.
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_loopback
    return host == "localhost" or address == ipaddress.IPv6Address("::1")


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _netloc(split: SplitResult) -> str:
    """Host and port of a URL as it goes on the wire: lower case, brackets kept, the default port left out."""
    host = split.hostname or ""
    port = "" if split.port in (None, _DEFAULT_PORTS.get(split.scheme)) else f":{split.port}"
    return f"[{host}]{port}" if ":" in host else f"{host}{port}"


def _split(text: str, expected: str) -> SplitResult:
    """The parts of a URL, with a host that is one; else refuse with what was ``expected``."""
    shown = _shown(_without_secrets(text))
    # urlsplit drops tabs and line breaks in silence, so that what was checked is not what is used.
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise _RefusedError(f"{shown} holds characters that no URL has; {expected}")
    try:
        split = urlsplit(text)
        if split.port == 0:
            raise ValueError("port 0")
    except ValueError:
        raise _RefusedError(f"{shown} cannot be read as a URL; {expected}") from None
    if not split.scheme or not split.netloc:
        raise _RefusedError(f"{shown} is not a whole URL; {expected}")
    host = split.hostname or ""
    # Brackets are for IPv6 alone; the form "[v1.name]" of RFC 3986 names nothing that exists.
    bracketed = split.netloc.startswith("[")
    if "@" not in split.netloc and (not _is_host(host) or bracketed != (":" in host)):
        raise _RefusedError(f"{shown} names no host; {expected}")
    return split


def _without_secrets(url: str) -> str:
    """A URL as a message may show it: a query may hold a key, the part before ``@`` a password."""
    bare = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", r"\1…@", url, flags=re.DOTALL)
    return re.sub(r"[?#].*", "", bare, flags=re.DOTALL)


def _endpoint(value: object, place: _Place) -> str:
    """The base URL of an upstream, without a slash at its end."""
    text = _string(value, place)
    split = _split(text, "write it like 'https://generativelanguage.googleapis.com'")
    shown = _shown(_without_secrets(text))
    if split.scheme not in ("http", "https"):
        raise _RefusedError(f"{shown} is neither http nor https")
    if "@" in split.netloc:
        raise _RefusedError(f"{shown} holds a user name or password; credentials have keys of their own")
    if "?" in text or "#" in text:
        raise _RefusedError(f"{shown} has a query or a fragment; write the base URL alone")
    if split.scheme == "http" and not _is_loopback(split.hostname or ""):
        raise _RefusedError(
            f"{shown} would send credentials over the network in the clear; write https"
            " (plain http is for loopback hosts only)"
        )
    path = split.path.rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*", path) or {".", ".."} & set(path.split("/")):
        raise _RefusedError(f"{shown} has a path that cannot be used as a prefix")
    if re.search(r"/v[0-9]+[a-z0-9]*(:\w*)?$", path):
        place.warn(f"{shown} ends in an API version, which the gateway adds itself")
    return f"{split.scheme}://{_netloc(split)}{path}"


def _origin(value: object, place: _Place) -> str:
    """A web origin as browsers send it."""
    text = _string(value, place)
    if text == "*":
        raise _RefusedError("'*' would let every web page use your accounts; list the origins that may")
    if text == "null":
        raise _RefusedError("'null' is the origin of every sandboxed page and local file; list the origins that may")
    expected = "write scheme://host or scheme://host:port, like 'http://localhost:3000'"
    split = _split(text, expected)
    origin = f"{split.scheme}://{_netloc(split)}"
    if "@" in split.netloc:
        raise _RefusedError(f"{_shown(_without_secrets(text))} holds a user name; {expected}")
    if split.path or "?" in text or "#" in text:
        raise _RefusedError(f"{_shown(_without_secrets(text))} goes on after its host; write {origin!r}")
    return origin


def _host(value: object, place: _Place) -> str:
    """A bare host name or address, as the Host header of a request names it."""
    text = _text(value, place)
    host = text.lower().removesuffix(".")
    if _is_host(host):
        address = _address(host)
        return host if address is None else str(address)
    if "*" in text:
        raise _RefusedError(f"{_shown(text)} is a pattern, and a pattern would undo the check; list each host")
    if not text.isascii():
        raise _RefusedError(f"{_shown(text)} is not ASCII; write the name as browsers send it, starting with 'xn--'")
    try:
        bare = urlsplit(host if "//" in host else f"//{host}").hostname or ""
    except ValueError:
        bare = ""
    cure = f"; write {bare!r}" if _is_host(bare) else ""
    raise _RefusedError(f"{_shown(_without_secrets(text))} is not a bare host name: no scheme, port or path{cure}")


_LISTENERS = ("tcp", "tcp6", "ssl", "unix", "systemd", "haproxy", "stdio")


def _listener(value: object, place: _Place) -> str:
    """A Twisted server endpoint.  Only its look is checked here: endpoint types can come from plugins."""
    text = _text(value, place)
    kind, colon, rest = text.partition(":")
    if kind in _LISTENERS and (colon or kind == "stdio"):
        return text
    example = "write it like 'tcp:8045:interface=127.0.0.1'"
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", kind) or rest.isdecimal() or rest.startswith("//"):
        raise _RefusedError(f"{_shown(text)} is not a Twisted server endpoint; {example}")
    if nearest := difflib.get_close_matches(kind.lower(), _LISTENERS, n=1, cutoff=0.65):
        raise _RefusedError(f"{_shown(text)} is no type of server endpoint; did you mean '{nearest[0]}:{rest}'?")
    return text


# -- Secrets and files -------------------------------------------------------------------------------


def _secret(value: object, place: _Place) -> Secret:
    """A secret written in the file itself."""
    if not isinstance(value, str):
        raise _RefusedError("expected a string")
    place.reading.literal_secrets = True
    return _checked_secret(value)


def _checked_secret(text: str) -> Secret:
    """A key or token that can stand in a header, without the white space that copying leaves around it."""
    text = text.strip()
    if not text:
        raise _RefusedError("is empty")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise _RefusedError("holds a space, a control character or one outside ASCII, which no key has")
    return Secret(text)


def _variable(value: object, place: _Place) -> str:
    """The name of an environment variable.  People paste the key here, so what is no name is not shown."""
    if not isinstance(value, str):
        raise _RefusedError("expected a string: the name of an environment variable")
    known = value in place.reading.environ
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or (_looks_secret(value) and not known):
        raise _RefusedError("expected the name of an environment variable, like GEMINI_API_KEY, not the key itself")
    return value


def _looks_secret(name: str) -> bool:
    """Whether a name that a variable could have is more likely a key, as those of Google often are one."""
    mixed = all(re.search(letters, name) for letters in ("[a-z]", "[A-Z]", "[0-9]"))
    return len(name) > 100 or (len(name) >= 20 and mixed) or re.fullmatch("[0-9a-fA-F]{32,}", name) is not None


def _digest(value: object, place: _Place) -> str:
    """A SHA-256 in hexadecimal.  People paste the key here, so what is no digest is not shown."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-fA-F]{64}", value.strip()):
        raise _RefusedError("expected the SHA-256 of a key: 64 hexadecimal digits")
    return value.strip().lower()


def _file(value: object, place: _Place) -> Path:
    """A path, absolute: relative ones start at the configuration's folder, ``~`` is ``$HOME``."""
    text = _text(value, place)
    if text == "~" or text.startswith("~/"):
        home = place.reading.environ.get("HOME")
        if not home:
            raise _RefusedError(f"{_shown(text)} needs HOME, which is not set; write the whole path")
        text = home + text[1:]
    folder = Path() if place.reading.file is None else place.reading.file.parent
    return (folder / text).absolute()


def _credentials(value: object, place: _Place) -> str:
    """``adc``, or the absolute path of a google-auth file."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        raise _RefusedError('expected "adc" or the path of a file, not what is in the file')
    return "adc" if value == "adc" else str(_file(value, place))


def _state(value: object, place: _Place) -> str:
    """``none``, or the absolute path of a file."""
    return "none" if value == "none" else str(_file(value, place))


def _project(value: object, place: _Place) -> str:
    text = _text(value, place)
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", text):
        raise _RefusedError(f"{_shown(text)} is not a project id or number")
    return text


def _location(value: object, place: _Place) -> str:
    text = _text(value, place)
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", text):
        raise _RefusedError(f"{_shown(text)} is not a location like 'global' or 'us-central1'")
    return text


def _why(failure: OSError | ValueError) -> str:
    """Why a file cannot be read; the ``ValueError`` is Python's for a name that no file can have."""
    return failure.strerror or "unknown error" if isinstance(failure, OSError) else "no file can have this name"


_KEY_FILE_LIMIT = 64 * 1024


def _secret_from_file(path: object, place: _Place) -> Secret:
    """The one key that a file holds; ``path`` is a :class:`Path`."""
    assert isinstance(path, Path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            held = file.read(_KEY_FILE_LIMIT + 1)
    except (OSError, ValueError) as failure:
        raise _RefusedError(f"{str(path)!r} cannot be read: {_why(failure)}") from None
    text = held.decode("utf-8-sig", "replace").strip()
    if len(held) > _KEY_FILE_LIMIT or text.startswith("{"):
        raise _RefusedError(f"{str(path)!r} holds more than an API key; a google-auth file belongs in credentials")
    try:
        secret = _checked_secret(text)
    except _RefusedError as refusal:
        raise _RefusedError(f"the content of {str(path)!r} {refusal}") from None
    if warning := _open_to_others(path, mode):
        place.warn(warning)
    return secret


def _open_to_others(path: Path, mode: int) -> str | None:
    """What to say about a file with secrets that others than its owner can read, or put something else into."""
    if not mode & 0o066:
        return None
    verb = "read" if mode & 0o044 else "change"
    return f"{str(path)!r} holds secrets, and others than its owner can {verb} it; chmod 600 {shlex.quote(str(path))}"


def _secret_from_environment(name: object, place: _Place) -> Secret:
    """The key that an environment variable holds; ``name`` is its name."""
    value = place.reading.environ.get(str(name))
    if value is None or not value.strip():
        state = "is not set" if value is None else "is empty"
        raise _RefusedError(f"the environment variable {name} {state}; write export {name}=… before the start")
    try:
        return _checked_secret(value)
    except _RefusedError as refusal:
        raise _RefusedError(f"the environment variable {name} {refusal}") from None


# -- Proxies and authorities -------------------------------------------------------------------------


def _proxy(value: object, place: _Place) -> ProxySetting:
    """``env``, ``none``, or a proxy by its URL, which may hold a password and is never shown."""
    if not isinstance(value, str):
        raise _RefusedError(f"expected a string, not {_sort_of(value)}")
    if value in ("env", "none"):
        return "env" if value == "env" else "none"
    try:
        proxy = Proxy.parse(value)
    except ValueError as error:
        raise _RefusedError(f'the value {error}; or write "env" or "none"') from None
    if proxy.authorization is not None:
        place.reading.literal_secrets = True
    return proxy


_CA_FILE_LIMIT = 4 * 2**20


def _authorities(value: object, place: _Place) -> Authorities:
    """The certificates in a PEM file."""
    from agm.upstream.trust import certificates_in  # OpenSSL takes its time, and few have authorities of their own

    path = _file(value, place)
    try:
        with path.open("rb") as file:
            held = file.read(_CA_FILE_LIMIT + 1)
    except (OSError, ValueError) as failure:
        raise _RefusedError(f"{str(path)!r} cannot be read: {_why(failure)}") from None
    if len(held) > _CA_FILE_LIMIT:
        raise _RefusedError(f"{str(path)!r} is larger than any bundle of certificates")
    if b"PRIVATE KEY-----" in held:
        raise _RefusedError(f"{str(path)!r} holds a private key, too; name a file with nothing but certificates")
    try:
        certificates_in(held)
    except ValueError as error:
        raise _RefusedError(
            f"{str(path)!r} {error}; openssl x509 -inform der -in FILE -out FILE.pem converts one in DER form"
        ) from None
    return Authorities(str(path), held)


def _check_environment(of: Mapping[str, Any], reading: _Reading) -> None:
    """Warn of a proxy in the environment that cannot be used, where one would be: its upstreams cannot be reached."""
    upstream = of.get("upstream", UpstreamConfig())
    settings = [upstream.proxy if account.proxy is None else account.proxy for account in of.get("accounts", ())]
    if "env" in (settings or [upstream.proxy]):
        try:
            EnvironmentProxies.of(reading.environ).proxy_of("https")
        except ValueError as error:
            (_Place(reading) / "upstream" / "proxy").warn(f'{error}; set the variable right, or write "none" here')


@attrs.frozen(kw_only=True)
class UpstreamConfig:
    """
    How upstreams and token endpoints are reached, where an account does not say otherwise.

    ``proxy`` is a :class:`Proxy`, ``"env"`` or ``"none"``; ``ca_file`` holds the file's certificates.
    """

    proxy: ProxySetting = setting(_proxy, "env")
    ca_file: Authorities | None = setting(_authorities)

    @property
    def network(self) -> Network:
        """The same, for the client."""
        return Network(self.proxy, self.ca_file)


# -- [gateway], [timeouts], [limits], [pool] -------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class GatewayConfig:
    """
    How the gateway is reached.

    ``listen`` are Twisted server endpoints; ``max_body`` is in bytes; ``allowed_hosts`` are bare names in
    lower case, beyond the loopback ones; ``cors_origins`` are as browsers send them.
    """

    listen: tuple[str, ...] = setting(
        _array_of(_listener, least=1, empty="names no listener; leave it out to listen on 127.0.0.1:8045"),
        ("tcp:8045:interface=127.0.0.1",),
    )
    max_body: int = setting(_size, 100 * 2**20)
    allowed_hosts: tuple[str, ...] = setting(_array_of(_host), ())
    cors_origins: tuple[str, ...] = setting(_array_of(_origin), ())
    stream_default: Literal["sse", "json"] = setting(_one_of("sse", "json"), "sse")
    sse_done: Literal["forward", "drop"] = setting(_one_of("forward", "drop"), "forward")
    show_account: bool = setting(_boolean, False)


@attrs.frozen(kw_only=True)
class TimeoutsConfig:
    """How long each part of an exchange may take, in seconds."""

    connect: float = setting(_seconds(), 10.0)
    first_byte: float = setting(_seconds(), 300.0)
    idle: float = setting(_seconds(), 300.0)
    total: float = setting(_seconds(), 3600.0)
    request_read: float = setting(_seconds(), 60.0)
    client_stall: float = setting(_seconds(), 300.0)
    drain: float = setting(_seconds(zero=True), 30.0)


@attrs.frozen(kw_only=True)
class LimitsConfig:
    """
    What clients may take of the gateway, all of them together or one alone.

    ``header_bytes`` and ``header_lines`` are of one request; ``bodies`` are bytes of the bodies of all requests under
    way; ``connections`` of ``None`` is as many as the process has descriptors for; ``streams_per_key`` of ``None`` is
    no limit.
    """

    header_bytes: int = setting(_size, 32 * 2**10)
    header_lines: int = setting(_whole(1, 10_000), 100)
    bodies: int = setting(_size, 512 * 2**20)
    connections: int | None = setting(_whole(1, 1_000_000))
    streams_per_key: int | None = setting(_whole(1, 1_000_000))


@attrs.frozen(kw_only=True)
class PoolConfig:
    """
    How accounts are chosen, how many upstream requests one client request may cost, and for how many seconds it waits
    in all for an account that may serve it soon.  ``state`` is ``"none"`` or the absolute path of a file; ``None``
    is the place that belongs to the configuration.
    """

    strategy: Strategy = setting(_one_of("sticky", "round-robin", "least-loaded", "priority"), "sticky")
    max_attempts: int = setting(_whole(1, 10), 3)
    max_wait: float = setting(_seconds(zero=True), 5.0)
    state: str | None = setting(_state)


# -- [auth] ------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ClientKeyConfig:
    """
    A key that clients show to the gateway, known by its digest only.

    ``digest`` is the SHA-256 of the key in lower-case hexadecimal; ``models`` are patterns, none meaning
    every model; ``requests_per_minute`` and the like are ``None`` for no limit; ``expires`` is in seconds
    since the epoch; ``admin`` may ask the gateway about itself from anywhere.
    """

    name: str
    digest: str = attrs.field(repr=False)
    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    admin: bool = False
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    expires: float | None = None


def _moment(value: object, place: _Place) -> float:
    """
    A TOML date or date and time, as seconds since the epoch.

    A date is its end, so that the day itself still counts; what names no offset is UTC.
    """
    if not isinstance(value, datetime.date):
        cure = "; write it without quotes" if isinstance(value, str) else ""
        raise _RefusedError(
            f"expected a date like 2027-01-31 or a time like 2027-01-31T18:00:00Z, not {_shown(value)}{cure}"
        )
    try:
        if not isinstance(value, datetime.datetime):
            value = datetime.datetime.combine(value + datetime.timedelta(days=1), datetime.time())
        return (value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)).timestamp()
    except OverflowError:
        raise _RefusedError(
            f"{_shown(value)} is beyond the calendar; leave it out for a key that does not expire"
        ) from None


@attrs.frozen(kw_only=True)
class _ClientKeyTable:
    """``[[auth.keys]]`` as written."""

    name: str = setting(_text, "", required="each client key needs a name of its own")
    key: Secret | None = setting(_secret)
    key_env: str | None = setting(_variable)
    key_sha256: str | None = setting(_digest)
    models: tuple[str, ...] = setting(_array_of(_text), ())
    requests_per_minute: int | None = setting(_whole(1, 10**9, "; leave it out for no limit"))
    requests_per_day: int | None = setting(_whole(1, 10**12, "; leave it out for no limit"))
    tokens_per_minute: int | None = setting(_whole(1, 10**12, "; leave it out for no limit"))
    tokens_per_day: int | None = setting(_whole(1, 10**15, "; leave it out for no limit"))
    expires: float | None = setting(_moment)
    admin: bool = setting(_boolean, False)


def _digest_of(secret: Secret) -> str:
    return hashlib.sha256(secret.reveal().encode("ascii")).hexdigest()


def _client_key(value: object, place: _Place) -> ClientKeyConfig:
    written = _ClientKeyTable(**_values_of(_ClientKeyTable, value, place))
    assert isinstance(value, dict), "no other value gets beyond the line above"
    _one_source(place, value, "a client key", ("key", "key_env", "key_sha256"))
    digest = written.key_sha256 or ""
    if written.key is not None:
        digest = _digest_of(written.key)
    elif written.key_env is not None:
        for secret in (place / "key_env").take(_secret_from_environment, written.key_env):
            digest = _digest_of(secret)
    if written.name and (holder := (place / "name").claim("client key", written.name)):
        (place / "name").problem(f"{_shown(written.name)} is {holder} already; give each key its own name")
    if digest and (holder := place.claim("digest", digest)):
        place.problem(f"is the same key as {holder}, which leaves open whose limits hold")
    return ClientKeyConfig(
        name=written.name,
        digest=digest,
        models=written.models,
        requests_per_minute=written.requests_per_minute,
        admin=written.admin,
        requests_per_day=written.requests_per_day,
        tokens_per_minute=written.tokens_per_minute,
        tokens_per_day=written.tokens_per_day,
        expires=written.expires,
    )


def _one_source(place: _Place, table: Mapping[str, object], what: str, names: Sequence[str], note: str = "") -> None:
    """Exactly one of the keys ``names`` must have been written, well or badly."""
    given = [name for name in names if name in table]
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        verb = "is" if len(given) < 2 else "are"
        place.problem(f"{what} needs exactly one of {', '.join(names)}; {found} {verb} given{note}")


@attrs.frozen(kw_only=True)
class AuthConfig:
    """Who may use the gateway.  ``mode_written`` says whether the file chose the mode itself."""

    mode: AuthMode = setting(_one_of("off", "strict", "all_except_health", "auto"), "auto")
    keys: tuple[ClientKeyConfig, ...] = setting(_array_of_tables(_client_key), (), inside=_ClientKeyTable, several=True)
    mode_written: bool = False


def _auth(value: object, place: _Place) -> AuthConfig:
    values = _values_of(AuthConfig, value, place)
    return AuthConfig(**values, mode_written="mode" in values)


# -- [models] ----------------------------------------------------------------------------------------


def _aliases(value: object, place: _Place) -> Mapping[str, str]:
    """A table of any names; each value is the model that is meant."""
    if not isinstance(value, dict):
        raise _RefusedError(f"expected a table, not {_sort_of(value)}")
    aliases = {}
    for name, target in value.items():
        if isinstance(target, dict):
            # `gpt-4.1 = "…"` without quotes is a table `gpt-4` with a key `1`.
            inner = _shortened(next(iter(target), "…"))
            (place / name).problem(
                f"expected a string, not a table; quote a name with a dot: {_quoted(f'{name}.{inner}')}"
            )
        else:
            for alias in (place / name).take(_text, name):
                for model in (place / name).take(_text, target):
                    aliases[alias] = model
    return MappingProxyType(aliases)


@attrs.frozen(kw_only=True)
class ModelsConfig:
    """The models that are listed, and other names for models, in the file's order."""

    list: tuple[str, ...] = setting(_array_of(_text), DEFAULT_MODELS)
    aliases: Mapping[str, str] = setting(_aliases, MappingProxyType({}))


# -- [[accounts]] ------------------------------------------------------------------------------------


def default_endpoints(kind: AccountKind, location: str = "global") -> tuple[str, ...]:
    """The base URLs of an account that names none: Google's own, for Vertex AI those of the location."""
    if kind == "api-key":
        return ("https://generativelanguage.googleapis.com",)
    if kind == "code-assist":
        return ("https://cloudcode-pa.googleapis.com",)
    if location == "global":
        return ("https://aiplatform.googleapis.com",)
    if location in ("us", "eu"):
        return (f"https://aiplatform.{location}.rep.googleapis.com",)
    return (f"https://{location}-aiplatform.googleapis.com",)


@attrs.frozen(kw_only=True)
class AccountConfig:
    """
    One upstream account, its secrets resolved.

    ``credentials`` is ``"adc"`` or the absolute path of a google-auth file; ``endpoints`` are base URLs
    without a slash at the end, tried in order; ``models`` are patterns; ``max_concurrency`` is ``None`` for
    no limit; ``reserve`` is a fraction; ``proxy`` and ``ca_file`` of ``None`` are those of ``[upstream]``.  An account
    that is not ``enabled`` may lack its secret.
    """

    name: str
    kind: AccountKind
    api_key: Secret | None = None
    credentials: str | None = None
    access_token: Secret | None = None
    project: str | None = None
    location: str = "global"
    endpoints: tuple[str, ...] = attrs.field()
    models: tuple[str, ...] = ("*",)
    priority: int = 0
    max_concurrency: int | None = None
    reserve: float = 0.0
    proxy: ProxySetting | None = None
    ca_file: Authorities | None = None
    enabled: bool = True

    @endpoints.default
    def _endpoints_of_kind(self) -> tuple[str, ...]:
        return default_endpoints(self.kind, self.location)

    @property
    def network(self) -> Network | None:
        """How the account's upstream is reached; None as all others."""
        return None if self.proxy is None and self.ca_file is None else Network(self.proxy, self.ca_file)


def _account_name(value: object, place: _Place) -> str:
    text = _text(value, place)
    if not re.fullmatch("[A-Za-z0-9._-]+", text):
        raise _RefusedError(f"{_shown(text)} is not a name of letters, digits, '.', '_' and '-'")
    return text


_API_KEY = ("api_key", "api_key_env", "api_key_file")
_TOKEN = ("credentials", "access_token", "access_token_env")


@attrs.frozen(kw_only=True)
class _AccountTable:
    """``[[accounts]]`` as written."""

    name: str = setting(_account_name, "", required="each account needs a name of its own")
    kind: AccountKind = setting(
        _one_of("api-key", "vertex", "code-assist"),
        "api-key",
        required="write api-key, vertex or code-assist",
    )
    api_key: Secret | None = setting(_secret)
    api_key_env: str | None = setting(_variable)
    api_key_file: Path | None = setting(_file)
    credentials: str | None = setting(_credentials)
    access_token: Secret | None = setting(_secret)
    access_token_env: str | None = setting(_variable)
    project: str | None = setting(_project)
    location: str = setting(_location, "global")
    endpoints: tuple[str, ...] | None = setting(
        _array_of(_endpoint, least=1, empty="names no endpoint; leave it out for Google's own")
    )
    models: tuple[str, ...] = setting(
        _array_of(_text, least=1, empty="would serve no model; leave it out for all, or write enabled = false"),
        ("*",),
    )
    priority: int = setting(_whole(-1_000_000, 1_000_000), 0)
    max_concurrency: int | None = setting(_whole(1, 1_000_000, "; leave it out for no limit"))
    reserve: float = setting(_fraction, 0.0)
    proxy: ProxySetting | None = setting(_proxy)
    ca_file: Authorities | None = setting(_authorities)
    enabled: bool = setting(_boolean, True)


def _account(value: object, place: _Place) -> AccountConfig:
    values = _values_of(_AccountTable, value, place)
    written = _AccountTable(**values)
    assert isinstance(value, dict), "no other value gets beyond the lines above"
    if "kind" in values:
        _check_sources(written.kind, value, place)
    if written.name and (holder := (place / "name").claim("account", written.name)):
        (place / "name").problem(f"{_shown(written.name)} is {holder} already; give each account its own name")
    api_key = written.api_key
    access_token = written.access_token
    # A disabled account may be disabled for the very reason that its secret is not there.
    if written.enabled:
        api_key = api_key or _elsewhere(
            place,
            ("api_key_env", written.api_key_env, _secret_from_environment),
            ("api_key_file", written.api_key_file, _secret_from_file),
        )
        access_token = access_token or _elsewhere(
            place, ("access_token_env", written.access_token_env, _secret_from_environment)
        )
    return AccountConfig(
        name=written.name,
        kind=written.kind,
        api_key=api_key,
        credentials=written.credentials,
        access_token=access_token,
        project=written.project,
        location=written.location,
        endpoints=written.endpoints or default_endpoints(written.kind, written.location),
        models=written.models,
        priority=written.priority,
        max_concurrency=written.max_concurrency,
        reserve=written.reserve,
        proxy=written.proxy,
        ca_file=written.ca_file,
        enabled=written.enabled,
    )


def _elsewhere(place: _Place, *sources: tuple[str, object, Reader[Secret]]) -> Secret | None:
    """The secret from the first source that is given, fetched by its reader."""
    for name, source, read in sources:
        if source is not None:
            return next(iter((place / name).take(read, source)), None)
    return None


def _check_sources(kind: AccountKind, table: Mapping[str, object], place: _Place) -> None:
    """Whether the account has what its kind needs to be let in, and nothing that its kind has no use for."""
    api_keys = [name for name in _API_KEY if name in table]
    beside = [name for name in (*_TOKEN, "project") if name in table]
    if kind == "api-key":
        _one_source(place, table, "an api-key account", _API_KEY)
        for name in beside:
            (place / name).problem(f"an api-key account takes no {name}; remove it, or write another kind")
    elif kind == "vertex" and api_keys:
        _one_source(place, table, "a vertex account in express mode", _API_KEY)
        for name in beside:
            (place / name).problem(
                f"a vertex account with an API key (express mode) takes no {name}; remove it or {api_keys[0]}"
            )
    elif kind == "vertex":
        _one_source(place, table, "a vertex account", _TOKEN, " (or an API key alone, for express mode)")
        if "project" not in table:
            (place / "project").problem("is missing: a vertex account needs it, except with an API key (express mode)")
    else:
        for name in api_keys:
            (place / name).problem(
                "a code-assist account is let in by OAuth tokens only, never by an API key;"
                ' give credentials or access_token, or write kind = "api-key"'
            )
        if not api_keys:
            _one_source(place, table, "a code-assist account", _TOKEN)
    if kind != "vertex" and "location" in table:
        (place / "location").warn(f"only a vertex account has a location; it changes nothing for {kind}")


# -- [log] -------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class LogConfig:
    """How the log looks, and what is not important enough for it."""

    format: Literal["text", "json"] = setting(_one_of("text", "json"), "text")
    level: Literal["debug", "info", "warn", "error", "critical"] = setting(
        _one_of("debug", "info", "warn", "error", "critical"), "info"
    )


# -- [metrics], [otel] -------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class MetricsConfig:
    """
    Whether there are metrics at ``/metrics``, which names are in them, and who may read them.

    ``digest`` is the SHA-256 of the token that opens them, in lower-case hexadecimal; ``None`` for no token.
    """

    enabled: bool = True
    accounts: bool = False
    client_keys: bool = False
    digest: str | None = attrs.field(default=None, repr=False)


_METRICS_TOKEN = ("token", "token_env", "token_sha256")


@attrs.frozen(kw_only=True)
class _MetricsTable:
    """``[metrics]`` as written."""

    enabled: bool = setting(_boolean, True)
    accounts: bool = setting(_boolean, False)
    client_keys: bool = setting(_boolean, False)
    token: Secret | None = setting(_secret)
    token_env: str | None = setting(_variable)
    token_sha256: str | None = setting(_digest)


def _metrics(value: object, place: _Place) -> MetricsConfig:
    written = _MetricsTable(**_values_of(_MetricsTable, value, place))
    assert isinstance(value, dict), "no other value gets beyond the line above"
    if any(name in value for name in _METRICS_TOKEN):
        _one_source(place, value, "the token", _METRICS_TOKEN)
    digest = written.token_sha256
    if written.token is not None:
        digest = _digest_of(written.token)
    elif written.token_env is not None:
        for secret in (place / "token_env").take(_secret_from_environment, written.token_env):
            digest = _digest_of(secret)
    return MetricsConfig(
        enabled=written.enabled, accounts=written.accounts, client_keys=written.client_keys, digest=digest
    )


def _collector(value: object, place: _Place) -> str:
    """The base URL of an OTLP receiver, without a slash at its end."""
    text = _string(value, place)
    split = _split(text, "write it like 'http://127.0.0.1:4318'")
    shown = _shown(_without_secrets(text))
    if split.scheme not in ("http", "https"):
        raise _RefusedError(f"{shown} is neither http nor https; traces are sent by OTLP over HTTP, usually port 4318")
    if "@" in split.netloc or "?" in text or "#" in text:
        raise _RefusedError(f"{shown} has a user, a query or a fragment; headers belong in OTEL_EXPORTER_OTLP_HEADERS")
    if split.path.rstrip("/").endswith("/v1/traces"):
        raise _RefusedError(f"{shown} ends in /v1/traces, which is added; write the base URL alone")
    return f"{split.scheme}://{_netloc(split)}{split.path.rstrip('/')}"


@attrs.frozen(kw_only=True)
class OtelConfig:
    """
    Where traces are sent: the base URL of an OTLP receiver, ``None`` for where the environment says, if it does.

    ``sample`` is the fraction of the traces that begin here; ``accounts`` says whether their names are told.
    """

    endpoint: str | None = setting(_collector)
    service_name: str = setting(_text, "agm")
    sample: float = setting(_fraction, 1.0)
    accounts: bool = setting(_boolean, False)


# -- [request_log] -----------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class RequestLogConfig:
    """
    Which requests are remembered, and where.

    ``path`` of ``None`` is the place that belongs to the configuration; ``max_days`` and ``max_size``, in bytes, bound
    the file; ``max_body``, in bytes, is how much is kept of each body while a person has bodies kept.
    """

    enabled: bool = setting(_boolean, True)
    path: Path | None = setting(_file)
    max_days: int = setting(_whole(1, 36_500), 30)
    max_size: int = setting(_log_size, 200 * 2**20)
    max_body: int = setting(_size, 64 * 2**10)


# -- [plugins] ---------------------------------------------------------------------------------------


def _module(value: object, place: _Place) -> str:
    text = _text(value, place)
    if not all(part.isidentifier() for part in text.split(".")):
        raise _RefusedError(f"{_shown(text)} is not the dotted name of a Python module, like 'my_company.routing'")
    return text


@attrs.frozen(kw_only=True)
class PluginsConfig:
    """
    Which plugins are loaded, and what the file says to them.

    ``load`` are dotted module names; ``path`` is a folder whose files are plugins, absolute; ``timeout`` is
    how many seconds a plugin may be waited for; ``tables`` holds every ``[plugins.NAME]`` as it was written,
    for that plugin to judge.
    """

    load: tuple[str, ...] = setting(_array_of(_module), ())
    path: Path | None = setting(_file)
    timeout: float = setting(_seconds(), 10.0)
    # Not in the repr: nobody but the plugin knows what is secret here.
    tables: Mapping[str, Mapping[str, object]] = attrs.field(default=MappingProxyType({}), repr=False)


def _plugins(value: object, place: _Place) -> PluginsConfig:
    own = _keys_of(PluginsConfig)
    tables = {}
    if isinstance(value, dict):
        tables = {
            name: MappingProxyType(table)
            for name, table in value.items()
            if isinstance(table, dict) and name not in own
        }
        value = {name: item for name, item in value.items() if name not in tables}
    return PluginsConfig(**_values_of(PluginsConfig, value, place), tables=MappingProxyType(tables))


# -- The whole ---------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Config:
    """
    Everything that the file says, checked, with defaults for what it leaves out.

    ``path`` is the file, absolute, or ``None``; ``warnings`` are lines on what works but should be changed.
    """

    path: Path | None = None
    gateway: GatewayConfig = setting(_table(GatewayConfig), GatewayConfig(), inside=GatewayConfig)
    timeouts: TimeoutsConfig = setting(_table(TimeoutsConfig), TimeoutsConfig(), inside=TimeoutsConfig)
    limits: LimitsConfig = setting(_table(LimitsConfig), LimitsConfig(), inside=LimitsConfig)
    upstream: UpstreamConfig = setting(_table(UpstreamConfig), UpstreamConfig(), inside=UpstreamConfig)
    auth: AuthConfig = setting(_auth, AuthConfig(), inside=AuthConfig)
    models: ModelsConfig = setting(_table(ModelsConfig), ModelsConfig(), inside=ModelsConfig)
    pool: PoolConfig = setting(_table(PoolConfig), PoolConfig(), inside=PoolConfig)
    accounts: tuple[AccountConfig, ...] = setting(_array_of_tables(_account), (), inside=_AccountTable, several=True)
    log: LogConfig = setting(_table(LogConfig), LogConfig(), inside=LogConfig)
    metrics: MetricsConfig = setting(_metrics, MetricsConfig(), inside=_MetricsTable)
    otel: OtelConfig = setting(_table(OtelConfig), OtelConfig(), inside=OtelConfig)
    request_log: RequestLogConfig = setting(_table(RequestLogConfig), RequestLogConfig(), inside=RequestLogConfig)
    plugins: PluginsConfig = setting(_plugins, PluginsConfig(), inside=PluginsConfig)
    warnings: tuple[str, ...] = ()


def known_keys(table: type = Config, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that a file may hold, as ``accounts[].name``, with its default (``None`` for none)."""
    fields: Sequence[attrs.Attribute[Any]] = attrs.fields(table)
    for field in fields:
        if field.metadata.get(_KEY) is None:
            continue
        of: _Key = field.metadata[_KEY]
        if of.inside is None:
            yield at + field.name, field.default
        else:
            yield from known_keys(of.inside, f"{at}{field.name}{'[]' if of.several else ''}.")


def parse(text: str, *, path: Path | None = None, environ: Mapping[str, str]) -> Config:
    """
    The configuration that ``text`` holds.

    ``path`` is the file it came from: it is named in problems, and relative paths start at its folder.
    ``environ`` is where ``*_env`` keys are looked up.  Raises :class:`ConfigError` with every problem.
    """
    return _config(text, _Reading(path, environ))


def _config(text: str, reading: _Reading) -> Config:
    try:
        tables = tomllib.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        raise ConfigError([Problem(reading.file, "", "is not TOML that can be read: nested too deeply")]) from None
    except ValueError as error:
        raise ConfigError([Problem(reading.file, "", f"is not TOML: {error}")]) from None
    values = _values_of(Config, tables, _Place(reading))
    if reading.problems:
        raise ConfigError(reading.problems)
    _check_environment(values, reading)
    path = None if reading.file is None else reading.file.absolute()
    return Config(path=path, warnings=tuple(reading.warnings), **values)


def load(path: Path, *, environ: Mapping[str, str]) -> Config:
    """The configuration in the file at ``path``.  Raises :class:`ConfigError`, for an unreadable file too."""
    reading = _Reading(path, environ)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(path, "", f"is not UTF-8 at byte {error.start}, as TOML must be")]) from None
    except (OSError, ValueError) as failure:
        raise ConfigError([Problem(path, "", f"cannot be read: {_why(failure)}")]) from None
    config = _config(text, reading)
    warnings = []
    if reading.literal_secrets and mode & 0o066:
        verb = "read" if mode & 0o044 else "change"
        cure = f"chmod 600 {shlex.quote(str(path))}"
        warnings.append(f"{path}: holds secrets, and others than its owner can {verb} it; {cure}")
    for index, account in enumerate(config.accounts):
        if account.credentials not in (None, "adc"):
            file_of = Path(str(account.credentials))
            with contextlib.suppress(OSError, ValueError):  # whoever uses the account says what is wrong with it
                if warning := _open_to_others(file_of, file_of.stat().st_mode):
                    warnings.append(str(Problem(path, f"accounts[{index}].credentials", warning)))
    return attrs.evolve(config, warnings=(*config.warnings, *warnings))


def default_path() -> Path:
    """Where the file is looked for when nobody names one."""
    return platformdirs.user_config_path("agm") / "agm.toml"


def find(explicit: str | None, environ: Mapping[str, str]) -> Path | None:
    """
    The file to load, absolute: ``explicit``, else ``$AGM_CONFIG``, else the person's own, or ``None``.

    A file that was named must be there; one that nobody named need not.  Raises :class:`ConfigError`.
    """
    for named, by in ((explicit, "--config"), (environ.get("AGM_CONFIG"), "AGM_CONFIG")):
        if named:
            path = Path(named)
            try:
                path.stat()
            except (OSError, ValueError) as failure:
                problem = Problem(path, "", f"cannot be read: {_why(failure)} ({by} names it)")
                raise ConfigError([problem]) from None
            return path.absolute()
    path = default_path()
    # Not Path.exists, which raises where a folder on the way may not be entered.
    return path if os.path.exists(path) else None


def default() -> Config:
    """The configuration of a person who has written none."""
    return Config()

"""Words for the values and keys of a file, as messages show them."""

import datetime
import difflib
import re
from collections.abc import Iterable, Mapping


def shorten(text: str, limit: int = 80) -> str:
    """At most so many characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def quote(name: str) -> str:
    """Return a key in the double quotes that TOML wants around it."""
    return '"' + repr(shorten(name))[1:-1] + '"'


def show(value: object) -> str:
    """A value as a message may show it.  What is inside arrays and tables is not shown: it may be secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(shorten(value))
    if isinstance(value, int):
        # Python refuses to print integers of thousands of digits, which TOML can hold in hexadecimal.
        return str(value) if value.bit_length() <= 64 else "a number of more than 64 bits"
    if isinstance(value, float | datetime.date | datetime.time):
        return str(value)
    return sort_of(value)


def sort_of(value: object) -> str:
    """Name the TOML type of a value."""
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


def nearest_of(word: str, words: Iterable[str]) -> str | None:
    """Return the one of ``words`` that was most likely meant by ``word``."""
    folded = {re.sub(r"[-_ ]", "", candidate).casefold(): candidate for candidate in words}
    close = difflib.get_close_matches(re.sub(r"[-_ ]", "", word[:80]).casefold(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None

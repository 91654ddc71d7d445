"""
What a request's body says, read as Google's parser reads it: the resources that it names, and the models.

Google takes more for JSON than the standard has: single quotes, names without quotes, trailing commas, any character
behind a backslash, a name twice.  Whatever decides by a body, whose account has to serve it or whether a client key may
have it, must see at least what Google will see.  So of a name that comes twice every value counts, and what cannot be
read here is said to be unreadable rather than passed over; Google refuses most of that as well.

Strings are looked at one by one and nothing is built of them, so that the size of a body costs little.  What costs time
is their number, which has a limit; :class:`Reading` goes on in slices, and whoever reads can do other things between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from agm.core import ownership
from agm.core.kinds import ID_COLLECTIONS

#: A body may have so many strings, brackets and the like, and be nested so deep, as with Google.
MOST = 250_000
MOST_DEPTH = 100
#: So many of them are read at once: some milliseconds.
SLICE = 5_000
#: A string that is longer, as it is written, is neither a name nor a model's.
_LONGEST = 6 * 2 * ownership.MAX_NAME

_RUN = 65536
_BACKSLASH = 0x5C
#: What is between strings, brackets and colons; then a short string and whether it is the name of a field, or a
#: character that has to be looked at.
_STEP = re.compile(rb"""([^"'{}\[\]:/]{0,%d}+)(?:"([^"\\]{0,256}+)"(\s{0,64}+:)?|(["'{}\[\]:/]))?""" % _RUN)
_ESCAPE = re.compile(rb"\\(?:[uU]([0-9a-fA-F]{4})|(.))", re.DOTALL)
_WRITTEN = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}

#: Fields that name a model.
_MODELS = frozenset({b"model", b"baseModel", b"base_model", b"tunedModel", b"tuned_model"})
#: Fields whose text is people's, and names nothing.
_TEXTS = frozenset({b"text", b"data", b"displayName", b"display_name", b"title", b"description"})
#: Below these, in the field that comes first, are what tools take and give, and forms of answers: anybody's own words.
_OWN_WORDS: Mapping[bytes, frozenset[bytes]] = {
    b"functionCall": frozenset({b"args"}),
    b"function_call": frozenset({b"args"}),
    b"functionResponse": frozenset({b"response"}),
    b"function_response": frozenset({b"response"}),
    **dict.fromkeys(
        (b"functionDeclarations", b"function_declarations"),
        frozenset(
            {
                *(b"parameters", b"parametersJsonSchema", b"parameters_json_schema"),
                *(b"response", b"responseJsonSchema", b"response_json_schema"),
            }
        ),
    ),
    **dict.fromkeys(
        (b"generationConfig", b"generation_config"),
        frozenset({b"responseSchema", b"response_schema", b"responseJsonSchema", b"response_json_schema"}),
    ),
}
#: The same in requests of the Interactions API.
_OWN_WORDS_OF_IDS: Mapping[bytes, frozenset[bytes]] = {
    b"tools": frozenset({b"parameters"}),
    **dict.fromkeys((b"input", b"steps", b"content"), frozenset({b"arguments", b"result"})),
    b"response_format": frozenset({b"schema", b"properties"}),
}
#: Fields of such requests that name something by its id, and of which collection it is.
_IDS = {field.encode("ascii"): name for name, row in ID_COLLECTIONS.items() for field in row.fields}
_NONE: frozenset[bytes] = frozenset()


class Unreadable(Exception):
    """A body that is no JSON, not even as Google takes it; or one that is too deep or holds too much to be read."""


def unescaped(text: bytes) -> bytes:
    """Decode the inside of a quoted string."""
    return _ESCAPE.sub(_meant, text) if b"\\" in text else text


def _meant(escape: re.Match[bytes]) -> bytes:
    if escape[1] is not None:
        return chr(int(escape[1], 16)).encode("utf-8", "surrogatepass")
    return _WRITTEN.get(escape[2], escape[2])


class Reading:
    """
    One body, being read.

    :param most: it is unreadable if it has more than so many strings, brackets and the like.
    :param ids: whether it is a request of the Interactions API, which names things by their ids, too.
    :ivar names: the owned resources that it names, each once, in their order.
    :ivar models: the models that it names, as they are written; with `ids` the agents, too.
    """

    def __init__(self, body: bytes, *, most: int = MOST, ids: bool = False) -> None:
        self.names: dict[str, None] = {}
        self.models: list[str] = []
        self._most = most
        self._ids = _IDS if ids else {}
        self._own_words = {**_OWN_WORDS, **_OWN_WORDS_OF_IDS} if ids else _OWN_WORDS
        self._slices = self._read(body)

    def go_on(self) -> bool:
        """
        Read a slice; whether there is more.

        :raises Unreadable: if what has come cannot be read.
        """
        return next(self._slices, self) is None

    def _value(self, field: bytes, value: bytes) -> None:
        """A string that is the value of a field, or stands in the list that is."""
        model = field in _MODELS
        collection = self._ids.get(field)
        if collection is not None:
            text = unescaped(value).decode("utf-8", "replace").removeprefix(f"{collection}/")
            name = ownership.root(f"{collection}/{text}")
            if name is not None:
                self.names[name] = None
            if field == b"agent" and text not in self.models:
                self.models.append(text)
        elif not model and (field in _TEXTS or not (b"/" in value or b"\\" in value)):
            return
        else:
            self._named_by(value, model=model)

    def _named_by(self, value: bytes, *, model: bool) -> None:
        """A string that may name a model, or a resource by its name or its address."""
        text = unescaped(value).decode("utf-8", "replace")
        if model and text not in self.models:
            self.models.append(text)
        name = ownership.named_by(text)
        if name is not None:
            self.names[name] = None

    def _read(self, body: bytes) -> Iterator[None]:
        """Read, and stop after each slice.  What is open is kept as (kind, field, whether all in it is own words)."""
        step, find, size = _STEP.match, body.find, len(body)
        own_words_of = self._own_words
        open_: list[tuple[bytes, bytes, bool]] = []
        kind, under, own_words = b"", b"", False  # of what is open innermost
        field: bytes | None = None  # whose value is awaited
        word: bytes | None = None  # a string that must be a field's name
        quote, begin = b"", 0  # of a string whose end is looked for
        rest = b""  # of the run before: a name without quotes may go on
        at = 3 if body.startswith(b"\xef\xbb\xbf") else 0
        count, pause, done = 0, SLICE, False
        while True:
            count += 1
            if count >= pause:
                if count > self._most:
                    raise Unreadable(f"it holds more than {self._most} values")
                pause = count + SLICE
                yield
            if quote:
                end = find(quote, at)
                if end < 0:
                    raise Unreadable("a string does not end")
                before = body[at:end] if end > at and body[end - 1] == _BACKSLASH else b""
                if (len(before) - len(before.rstrip(b"\\"))) % 2:
                    at = end + 1
                    continue
                run, text, colon, char = b"", body[begin : min(end, begin + _LONGEST)], None, None
                count += (end - begin) >> 12
                start, at, quote = begin, end + 1, b""
            else:
                found = step(body, at)
                assert found is not None  # it matches nothing, too
                run, text, colon, char = found.groups()
                start, at = at, found.end()
                count += (at - start) >> 8  # what is long takes its time, too
                if rest:
                    run, rest = rest + run, b""
                if kind == b"{" and b"," in run:
                    field = None  # its value was a number or a word, or it has none
                if done and run.strip():
                    raise Unreadable(f"something follows it, at byte {start}")
                if char == b"/":
                    if run[-1:].strip(b", \t\n\v\f\r"):
                        raise Unreadable(f"a slash stands where none can, at byte {at - 1}")
                    rest, at = run + b" ", _behind_comment(body, at)
                    continue
                if word is not None and (char != b":" or run.strip()):
                    raise Unreadable(f"a colon is missing, at byte {start}")
                if char == b'"' or char == b"'":
                    quote, begin = char, at
                    if field is not None and run.strip():
                        raise Unreadable(f"a comma is missing, at byte {start}")
                    continue
                if text is None and char is None:
                    if at < size:  # a very long run
                        rest = run.rstrip()[-256:] + b" " * run[-1:].isspace()
                        continue
                    if not done:
                        raise Unreadable("it ends too early")
                    return
            if text is not None:
                if kind == b"[" and not colon:
                    if not own_words:
                        self._value(under, text)
                elif kind != b"{":
                    raise Unreadable(f"a name stands where none can, at byte {start}")
                elif field is not None:
                    if colon or run.strip():
                        raise Unreadable(f"a comma is missing, at byte {start}")
                    if not own_words:
                        self._value(field, text)
                    field = None
                elif colon:
                    field = unescaped(text)
                else:
                    word = text
            elif char == b":":
                if word is None:
                    words = run.replace(b",", b" ").split() if field is None else []
                    word = words[-1] if words else None
                if kind != b"{" or word is None:
                    raise Unreadable(f"a colon stands where none can, at byte {start}")
                field, word = unescaped(word), None
            elif char == b"{" or char == b"[":
                if done or (kind == b"{" and field is None):
                    raise Unreadable(f"a bracket stands where none can, at byte {start}")
                if len(open_) == MOST_DEPTH:
                    raise Unreadable(f"it is nested deeper than {MOST_DEPTH}")
                own = under if field is None else field
                open_.append((kind, under, own_words))
                own_words = own_words or (field is not None and own in own_words_of.get(under, _NONE))
                kind, under, field = char, own, None
            else:
                if kind != (b"{" if char == b"}" else b"["):
                    raise Unreadable(f"a bracket is wrong, at byte {start}")
                kind, under, own_words = open_.pop()
                field, done = None, not open_


def _behind_comment(body: bytes, at: int) -> int:
    """Find the end of a comment whose first slash is before `at`.  Google refuses documents with comments."""
    if body.startswith(b"/", at):
        end = body.find(b"\n", at)
        return len(body) if end < 0 else end + 1
    end = body.find(b"*/", at + 1) if body.startswith(b"*", at) else -1
    if end < 0:
        raise Unreadable(f"a slash stands where none can, at byte {at - 1}")
    return end + 2

"""
What personal data looks like, and how it is taken out of a document: for the two plugins that do so.

Only texts are looked at, wherever they stand: the bytes of media, in base64, are not opened.  What is found is replaced
by its name in brackets, and nothing is put back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

Find = Literal["email", "phone", "card"]
Span = tuple[int, int]
#: Finds in a text, between two places.
Finder = Callable[[str, int, int], Iterator[Span]]

#: A longer text is looked through in pieces of so many characters, each with some that are the next one's as well.
PIECE, OVERLAP = 16 * 1024, 1024


class Settings(msgspec.Struct):
    """
    ``[plugins.pii_redactor]``: what is looked for, and patterns of one's own by the names that they leave behind.

    `pass_unseen` lets the bytes of files pass, which cannot be looked through.
    """

    find: list[Find] = msgspec.field(default_factory=lambda: ["email", "phone", "card"])
    patterns: dict[str, str] = msgspec.field(default_factory=dict)
    pass_unseen: bool = False


# -- What is looked for ------------------------------------------------------------------------------

#: An at sign and a dot as they stand in a text, in a URL, and in JSON within a text (the arguments of a function).
_AT = r"(?:@|%40|\\+u0040)"
_DOT = r"(?:\.|%2[eE]|\\+u002[eE])"
#: It begins where a word does, or behind an escape of JSON within a text: the n of \n is none of it.
_EMAIL = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=\\u[0-9a-fA-F]{4}))(?<!\\)[A-Za-z0-9][A-Za-z0-9._+'-]{0,63}"
    rf"{_AT}(?:[^\W_][\w-]{{0,62}}{_DOT}){{1,8}}[^\W\d_]{{2,63}}"
)
_MAY_BE_EMAIL = ("@", "%40", "0040")
#: With a country's code, or as North America writes it.  The first character comes first, for it is searched for
#: quickly; what stands before it, and whether it is the right one, is looked at behind it.
_PHONE = re.compile(
    r"[+0(2-9](?<![\w+].)(?<!\d\..)(?:(?<=\+)[1-9][\d ()./-]{6,28}|(?<=0)0[1-9][\d ()./-]{6,28}"
    r"|(?:(?<=\()[2-9]\d{2}|(?<=[2-9])\d{2})\)?[ .-]\d{3}[ .-]\d{4}(?![\w-]))"
)
#: Digits in groups; which of them are a card's, their sum tells.
_DIGITS = re.compile(r"\d(?<!\d\d)(?<!\d\.\d)\d{2,18}(?:[ -]\d{3,19})*(?!\d)", re.ASCII)
_GROUP = re.compile(r"\d+", re.ASCII)
#: A name of a resource, whose number is no card's.
_PATH = re.compile(r"(?:https?://)?[\w.~%:@-]+(?:/[\w.~%:@-]+)+")
#: How base64 begins; with neither a space nor an at sign in it, a text that does is media or a signature.
_BASE64 = re.compile(r"[A-Za-z0-9+/_=\r\n-]{256}")


def _emails(text: str, start: int, stop: int) -> Iterator[Span]:
    if any(text.find(sign, start, stop) >= 0 for sign in _MAY_BE_EMAIL):
        for match in _EMAIL.finditer(text, start, stop):
            yield match.span()


def _phones(text: str, start: int, stop: int) -> Iterator[Span]:
    for match in _PHONE.finditer(text, start, stop):
        begin, end, digits = match.start(), match.start(), 0
        for group in _GROUP.finditer(text, begin, match.end()):  # as many whole groups as a number can have
            digits += len(group[0])
            if digits - 2 * text.startswith("00", begin) > 15:
                break
            end = group.end()
        if sum(map(str.isdigit, text[begin:end])) >= 8 and not text[end : end + 1].isalnum():
            yield begin, end


def _cards(text: str, start: int, stop: int) -> Iterator[Span]:
    if len(text) < OVERLAP and _PATH.fullmatch(text):
        return
    for match in _DIGITS.finditer(text, start, stop):
        groups = [(group[0], group.end()) for group in _GROUP.finditer(text, *match.span())]
        at = 0
        while at < len(groups):
            digits, found = "", 0
            for last in range(at, len(groups)):
                digits += groups[last][0]
                if len(digits) > 19:
                    break
                if is_card(digits):
                    found = last + 1
            if found:
                yield groups[at][1] - len(groups[at][0]), groups[found - 1][1]
            at = found or at + 1


#: Of a digit, the sum of the digits of its double.
_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_SINGLE = bytes.maketrans(b"0123456789", bytes(range(10)))


def is_card(digits: str) -> bool:
    """Return whether digits, which are ASCII's, are a card's number, by the sum that is in them."""
    if not 13 <= len(digits) <= 19 or digits[0] not in "23456":
        return False
    from_the_end = digits.encode()[::-1]
    return (sum(from_the_end[::2].translate(_SINGLE)) + sum(from_the_end[1::2].translate(_DOUBLED))) % 10 == 0


_BUILT_IN: dict[Find, tuple[str, Finder]] = {
    "email": ("EMAIL", _emails),
    "card": ("CARD", _cards),
    "phone": ("PHONE", _phones),
}


class Redaction:
    """
    What is taken out, under some settings.

    :raises ValueError: if a pattern is none, or finds nothing at all everywhere.
    """

    def __init__(self, settings: Settings) -> None:
        self._finders: list[tuple[str, Finder]] = []
        for name, pattern in settings.patterns.items():  # the person's own know better what a text is
            self._finders.append((name, _finder(name, pattern)))
        self._finders += [finder for name, finder in _BUILT_IN.items() if name in settings.find]
        self._cards = "card" in settings.find
        self._own = bool(settings.patterns)

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """Return where something is found, with its name, from the left; finds that overlap are one."""
        return [span for spans in self._pieces(text) for span in spans]

    def text(self, text: str, counts: Counter[str]) -> str:
        """Return a text without what is found in it; `counts` gets how often what was."""
        return _without(text, self.spans(text), counts)

    def document(self, document: dict[str, Any] | list[Any], counts: Counter[str]) -> None:
        """Take what is found out of a document, in place: out of its texts, its keys, and its whole numbers."""
        for _ in self.steps(document, counts):
            pass

    def steps(self, document: dict[str, Any] | list[Any], counts: Counter[str]) -> Iterator[None]:
        """As :meth:`document`, in steps of some milliseconds at most, between which others may be served."""
        waiting: list[dict[str, Any] | list[Any]] = [document]
        looked_at = 0
        while waiting:  # no recursion: it may be nested as deep as JSON can be read
            container: Any = waiting.pop()
            renamed = False
            for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
                looked_at += 50
                if isinstance(value, dict | list):
                    waiting.append(value)
                elif isinstance(value, str):
                    looked_at += len(value)
                    found: list[tuple[int, int, str]] = []
                    for spans in self._pieces(value):
                        found += spans
                        if len(value) > PIECE:
                            yield
                    if found:
                        container[key] = _without(value, found, counts)
                elif type(value) is int and value > 10**12 and self._cards and is_card(str(value)):
                    container[key] = 0
                    counts["CARD"] += 1
                if isinstance(key, str) and (self._own or not key.isidentifier()):
                    renamed = renamed or bool(self.spans(key))
                if looked_at > PIECE:
                    looked_at = 0
                    yield
            if renamed:
                self._rename(container, counts)

    def _pieces(self, text: str) -> Iterator[list[tuple[int, int, str]]]:
        """Give what is found in each piece of a text."""
        if len(text) >= 256 and _BASE64.match(text) and " " not in text and "@" not in text:
            return
        at = 0
        while at < len(text):
            until = len(text) if len(text) <= at + PIECE + OVERLAP else at + PIECE
            spans = self._found(text, at, until)
            yield spans
            at = max(until, spans[-1][1] if spans else 0)

    def _found(self, text: str, start: int, until: int) -> list[tuple[int, int, str]]:
        """Return what begins between two places of a text."""
        stop = min(until + OVERLAP, len(text))
        found = [
            (begin, rank, end)
            for rank, (_, find) in enumerate(self._finders)
            for begin, end in find(text, start, stop)
            if begin < until
        ]
        spans: list[tuple[int, int, str]] = []
        for begin, rank, end in sorted(found):
            if spans and begin < spans[-1][1]:
                before, last, name = spans.pop()
                spans.append((before, max(last, end), name))
            else:
                spans.append((begin, end, self._finders[rank][0]))
        return spans

    def _rename(self, container: dict[str, Any], counts: Counter[str]) -> None:
        items = list(container.items())
        container.clear()
        for key, value in items:
            name, number = (new := self.text(key, counts)), 1
            while new in container:
                number += 1
                new = f"{name} {number}"
            container[new] = value


def _without(text: str, spans: list[tuple[int, int, str]], counts: Counter[str]) -> str:
    if not spans:
        return text
    pieces: list[str] = []
    at = 0
    for start, end, name in spans:
        pieces += (text[at:start], f"[{name}]")
        counts[name] += 1
        at = end
    return "".join((*pieces, text[at:]))


def _finder(name: str, pattern: str) -> Finder:
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise ValueError(f"[plugins.pii_redactor.patterns] {name} is no regular expression: {e}") from None
    if compiled.match(""):
        raise ValueError(f"[plugins.pii_redactor.patterns] {name} finds nothing at all, everywhere; make it longer")
    return lambda text, start, stop: (
        match.span() for match in compiled.finditer(text, start, stop) if match.end() > match.start()
    )


def told(counts: Counter[str]) -> str:
    """Say what was found, and never what it was."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))

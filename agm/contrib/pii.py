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
#: With a country's code, or as North America writes it.
_PHONE = re.compile(
    r"(?<![\w+])(?<!\d\.)(?:(?:\+|00)[1-9][\d ()./-]{6,28}|\(?[2-9]\d{2}\)?[ .-]\d{3}[ .-]\d{4}(?![\w-]))"
)
#: Digits in groups; which of them are a card's, their sum tells.
_DIGITS = re.compile(r"(?<!\d)(?<!\d\.)\d{3,19}(?:[ -]\d{3,19})*(?!\d)", re.ASCII)
_GROUP = re.compile(r"\d+", re.ASCII)
#: A name of a resource, whose number is no card's.
_PATH = re.compile(r"(?:https?://)?[\w.~%:@-]+(?:/[\w.~%:@-]+)+")
#: How base64 begins; with neither a space nor an at sign in it, a text that does is media or a signature.
_BASE64 = re.compile(r"[A-Za-z0-9+/_=\r\n-]{256}")


def _emails(text: str) -> Iterator[Span]:
    if any(sign in text for sign in _MAY_BE_EMAIL):
        for match in _EMAIL.finditer(text):
            yield match.span()


def _phones(text: str) -> Iterator[Span]:
    for match in _PHONE.finditer(text):
        start, end, digits = match.start(), match.start(), 0
        for group in _GROUP.finditer(text, start, match.end()):  # as many whole groups as a number can have
            digits += len(group[0])
            if digits - 2 * text.startswith("00", start) > 15:
                break
            end = group.end()
        if sum(map(str.isdigit, text[start:end])) >= 8 and not text[end : end + 1].isalnum():
            yield start, end


def _cards(text: str) -> Iterator[Span]:
    if _PATH.fullmatch(text):
        return
    for match in _DIGITS.finditer(text):
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


_BUILT_IN: dict[Find, tuple[str, Callable[[str], Iterator[Span]]]] = {
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
        self._finders: list[tuple[str, Callable[[str], Iterator[Span]]]] = []
        for name, pattern in settings.patterns.items():  # the person's own know better what a text is
            self._finders.append((name, _finder(name, pattern)))
        self._finders += [finder for name, finder in _BUILT_IN.items() if name in settings.find]
        self._cards = "card" in settings.find
        self._own = bool(settings.patterns)

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """Return where something is found, with its name, from the left; finds that overlap are one."""
        if len(text) >= 256 and _BASE64.match(text) and " " not in text and "@" not in text:
            return []
        found = [(start, rank, end) for rank, (_, find) in enumerate(self._finders) for start, end in find(text)]
        spans: list[tuple[int, int, str]] = []
        for start, rank, end in sorted(found):
            if spans and start < spans[-1][1]:
                before, until, name = spans.pop()
                spans.append((before, max(until, end), name))
            else:
                spans.append((start, end, self._finders[rank][0]))
        return spans

    def text(self, text: str, counts: Counter[str]) -> str:
        """Return a text without what is found in it; `counts` gets how often what was."""
        spans = self.spans(text)
        if not spans:
            return text
        pieces: list[str] = []
        at = 0
        for start, end, name in spans:
            pieces += (text[at:start], f"[{name}]")
            counts[name] += 1
            at = end
        return "".join((*pieces, text[at:]))

    def document(self, document: dict[str, Any] | list[Any], counts: Counter[str]) -> None:
        """Take what is found out of a document, in place: out of its texts, its keys, and its whole numbers."""
        waiting: list[dict[str, Any] | list[Any]] = [document]
        while waiting:  # no recursion: it may be nested as deep as JSON can be read
            container: Any = waiting.pop()
            renamed = False
            for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
                if isinstance(value, dict | list):
                    waiting.append(value)
                elif isinstance(value, str):
                    new = self.text(value, counts)
                    if new is not value:
                        container[key] = new
                elif type(value) is int and value > 10**12 and self._cards and is_card(str(value)):
                    container[key] = 0
                    counts["CARD"] += 1
                if isinstance(key, str) and (self._own or not key.isidentifier()):
                    renamed = renamed or bool(self.spans(key))
            if renamed:
                self._rename(container, counts)

    def _rename(self, container: dict[str, Any], counts: Counter[str]) -> None:
        items = list(container.items())
        container.clear()
        for key, value in items:
            name, number = (new := self.text(key, counts)), 1
            while new in container:
                number += 1
                new = f"{name} {number}"
            container[new] = value


def _finder(name: str, pattern: str) -> Callable[[str], Iterator[Span]]:
    try:
        compiled = re.compile(pattern)
    except re.error as e:
        raise ValueError(f"[plugins.pii_redactor.patterns] {name} is no regular expression: {e}") from None
    if compiled.match(""):
        raise ValueError(f"[plugins.pii_redactor.patterns] {name} finds nothing at all, everywhere; make it longer")
    return lambda text: (match.span() for match in compiled.finditer(text) if match.end() > match.start())


def told(counts: Counter[str]) -> str:
    """Say what was found, and never what it was."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))

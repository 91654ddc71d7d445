"""
Taking secrets out of text before a person or a file gets to see it: those that are known, and what looks like one.

A :class:`Redactor` is told every secret that the gateway holds, and keeps none of them: what it looks for are hashes of
short pieces, and it knows a secret again by a digest.  So text costs the same with ten secrets and with ten thousand.
Shapes, such as Google's keys and tokens, private keys, ``?key=`` and the user part of a URL, need not be told.

It never decides where it is asked; :mod:`agm.observe.logging` and :mod:`agm.web` do.  And it is no reason to be
careless: what writes a line keeps secrets out of it in the first place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import attrs
import msgspec

from agm.core import documents
from agm.core.errors import NOT_JSON

__all__ = ["MARK", "MAX_TRANSIENT", "Redactor", "shapes_redacted"]

#: What stands where a secret was.
MARK = "[redacted]"
#: How many secrets that come and go, tokens and what clients presented, are remembered.
MAX_TRANSIENT = 4096
#: A secret of fewer characters is no secret: it may be a word, a number or the name of an account.
SHORTEST = 8


# -- Shapes ------------------------------------------------------------------------------------------

# Prose has words where a secret could stand, "Bearer KEY" for one.  A digit, or more letters than a word has, tell.
_VALUE = r"""(?=[^\s"'\\&,;<>#]*[0-9]|[^\s"'\\&,;<>#]{20})[^\s"'\\&,;<>#)\]}]{4,}"""
_NAMES = "|".join(
    (
        r"api[_-]?key",
        r"(?:access|refresh|oauth|id|subject|auth|iam-authorization)[_-]?token",
        r"client[_-]?secret",
        r"private[_-]?key",
        r"assertion",
        r"authorization",
        r"cookie",
        r"passw(?:or)?d",
        r"code_verifier",
    )
)

#: What must be in the text, in lower case, for a pattern to be worth trying; the pattern; and what is put in its place.
_SHAPES: Sequence[tuple[str, re.Pattern[str], str]] = tuple(
    (needle, re.compile(pattern, re.IGNORECASE | re.DOTALL), put)
    for needle, pattern, put in (
        # up to where it ends, or as far as it goes: what is cut short is no less private
        ("private key-", r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", MARK),
        ("aiza", r"(?-i:AIza)[0-9A-Za-z_-]{16,}", MARK),
        ("aq.", r"(?<![A-Za-z0-9])(?-i:AQ)\.[0-9A-Za-z_-]{20,}", MARK),
        ("ya29.", r"(?-i:ya29)\.[0-9A-Za-z_.-]{4,}", MARK),
        ("1//", r"(?<![0-9A-Za-z])1//[0-9A-Za-z_-]{16,}", MARK),
        ("4/", r"(?<![0-9A-Za-z])4/0[0-9A-Za-z_-]{20,}", MARK),
        ("gocspx-", r"GOCSPX-[0-9A-Za-z_-]{8,}", MARK),
        ("agm_", r"(?-i:agm_)[0-9A-Za-z_-]{32}(?![0-9A-Za-z_-])", MARK),
        ("sk-", r"(?<![0-9A-Za-z])(?-i:sk-)[0-9A-Za-z_-]{20,}", MARK),
        ("eyj", r"(?-i:eyJ)[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}(?:\.[0-9A-Za-z_-]*)?", MARK),
        ("bearer", rf"(\bbearer\s+){_VALUE}", rf"\g<1>{MARK}"),
        ("basic", r"(\bbasic\s+)(?=[0-9A-Za-z+/]*[0-9=])[0-9A-Za-z+/]{6,}={0,2}", rf"\g<1>{MARK}"),
        (
            "key=",
            r"""((?:[?&]|%3f|%26)(?:\$?key|api[_-]?key)=)[^\s&"'<>#\\]+""",
            rf"\g<1>{MARK}",
        ),
        ("token=", r"""([?&](?:[a-z]+_)?token=)[^\s&"'<>#\\]+""", rf"\g<1>{MARK}"),
        ("@", r"(://)[^\s/@\"'<>]+(?=@)", rf"\g<1>{MARK}"),
        *(
            (
                needle,
                # a header, a field of JSON or TOML, a parameter of a form, and how Python prints any of them
                rf"""((?<![A-Za-z])(?:{_NAMES})\\?["']?\)?\s*[:=,]\s*[\[(]*(?:b(?=\\?["']))?\\?["']?"""
                rf"""(?:(?:bearer|basic)\s+)?){_VALUE}""",
                rf"\g<1>{MARK}",
            )
            for needle in ("key", "token", "secret", "assertion", "authorization", "cookie", "passw", "code_verifier")
        ),
    )
)


def shapes_redacted(text: str) -> str:
    """`text` without what looks like a secret, for where nothing is known."""
    lowered = text.lower()
    for needle, pattern, put in _SHAPES:
        if needle in lowered:
            text = pattern.sub(put, text)
    return text


def _looks_secret(text: str) -> bool:
    """Return whether a text is more likely a key than a name: unknown clients must not remove words from the log."""
    mixed = all(re.search(letters, text) for letters in ("[a-z]", "[A-Z]", "[0-9]"))
    return len(text) > 100 or (len(text) >= 20 and mixed) or re.fullmatch("[0-9a-fA-F]{32,}", text) is not None


_ESCAPE = re.compile(r"\\(?:u00([0-7][0-9a-fA-F])|([/\"\\]))")


# -- Known secrets -----------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class _Known:
    """One form of a secret: how long it is, and the digest that it is known by."""

    length: int
    digest: bytes


class _Pieces:
    """
    Where a text holds a known secret, by pieces of a fixed size.

    Of each secret the pieces that begin at `size` places next to each other are filed, near its end, because it is the
    beginnings that keys have in common.  One of them begins wherever a step of `size` leads, so that a text has to be
    looked at only there.
    """

    def __init__(self, size: int, pepper: bytes) -> None:
        self.size = size
        self._pepper = pepper
        self._cut = re.compile(f".{{{size}}}", re.DOTALL).findall
        #: By the hash of a piece: the secrets that hold it, by where they do and their digests.
        self._filed: dict[int, dict[tuple[int, bytes], _Known]] = {}

    def __len__(self) -> int:
        return len(self._filed)

    def digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._pepper, digest_size=16).digest()

    def _places(self, secret: str) -> Iterator[tuple[int, int]]:
        last = len(secret) - self.size
        for at in range(last - self.size + 1, last + 1):
            yield at, hash(secret[at : at + self.size])

    def add(self, secret: str) -> None:
        known = _Known(len(secret), self.digest(secret))
        for at, piece in self._places(secret):
            self._filed.setdefault(piece, {})[at, known.digest] = known

    def places(self, secret: str) -> list[tuple[int, int]]:
        """Return where a secret is stored, for :meth:`forget`."""
        return list(self._places(secret))

    def forget(self, digest: bytes, places: Iterable[tuple[int, int]]) -> None:
        for at, piece in places:  # many secrets may have a piece in common
            holding = self._filed.get(piece)
            if holding is not None and holding.pop((at, digest), None) is not None and not holding:
                del self._filed[piece]

    def found(self, text: str) -> Iterator[tuple[int, int]]:
        """Find the start and end of each secret."""
        size, filed = self.size, self._filed
        if filed.keys().isdisjoint(map(hash, self._cut(text))):  # of a hundred lines this is all for ninety-nine
            return
        for at in [at for at in range(0, len(text) - size + 1, size) if hash(text[at : at + size]) in filed]:
            for (offset, _), known in filed[hash(text[at : at + size])].items():
                start = at - offset
                end = start + known.length
                if start >= 0 and end <= len(text) and self.digest(text[start:end]) == known.digest:
                    yield start, end


class Redactor:
    """
    What is not to be seen, and how to take it out.

    For the reactor's thread, but for :meth:`text`, which any may call.
    """

    def __init__(self) -> None:
        pepper = os.urandom(16)
        # by the length of the secret: twice the size less one is the least that a size can find
        self._sizes = (_Pieces(8, pepper), _Pieces(4, pepper))
        self._permanent: set[bytes] = set()
        self._transient: OrderedDict[bytes, list[tuple[_Pieces, bytes, list[tuple[int, int]]]]] = OrderedDict()

    def __len__(self) -> int:
        """Count the known secrets."""
        return len(self._permanent) + len(self._transient)

    def add_permanent(self, secret: str) -> None:
        """Know a secret from now on: one of the configuration."""
        digest = self._sizes[0].digest(secret)
        if digest not in self._permanent and not self._is_plain(secret):
            self._permanent.add(digest)
            for form in _forms(secret):
                self._pieces_for(form).add(form)

    def add_transient(self, secret: str) -> None:
        """Know a secret that comes and goes, such as a token, while it is one of the last :data:`MAX_TRANSIENT`."""
        digest = self._sizes[0].digest(secret)
        if digest in self._permanent or digest in self._transient or self._is_plain(secret):
            return
        filed = []
        for form in _forms(secret):
            pieces = self._pieces_for(form)
            pieces.add(form)
            filed.append((pieces, pieces.digest(form), pieces.places(form)))
        self._transient[digest] = filed
        if len(self._transient) > MAX_TRANSIENT:
            for pieces, form_digest, places in self._transient.popitem(last=False)[1]:
                pieces.forget(form_digest, places)

    def add_unknown(self, presented: str) -> None:
        """Know what somebody unknown presented, where no word, name or number can be like it: it may be a secret."""
        if _looks_secret(presented):
            self.add_transient(presented)

    @staticmethod
    def _is_plain(secret: str) -> bool:
        """Return whether a secret needs no digest: it is too short, or recognised by its shape."""
        # with a letter before it, as the n of an escape that was written out may be
        return len(secret) < SHORTEST or shapes_redacted(f"n{secret}") == f"n{MARK}"

    def _pieces_for(self, secret: str) -> _Pieces:
        return next(pieces for pieces in self._sizes if len(secret) >= 2 * pieces.size - 1)

    def text(self, text: str) -> str:
        """`text` with :data:`MARK` in the place of each secret."""
        spans = [span for pieces in self._sizes if pieces for span in pieces.found(text)]
        return shapes_redacted(_without(text, spans) if spans else text)

    def document(self, document: Any) -> Any:
        """A JSON document, as Python has it, without secrets in its strings and names; the very same if none was."""
        match document:
            case str():
                text = self.text(document)
                return document if text == document else text
            case dict():
                changed = {self.document(key): self.document(value) for key, value in document.items()}
                same = all(
                    key is old and value is was
                    for (key, value), (old, was) in zip(changed.items(), document.items(), strict=False)
                )
                return document if same and len(changed) == len(document) else changed
            case list() | tuple():
                items = [self.document(item) for item in document]
                return document if all(new is old for new, old in zip(items, document, strict=True)) else items
            case _:
                return document

    def _unread(self, body: str) -> str:
        """A body that is not read as JSON: as text, and as what its escapes mean if that is where a secret is."""
        meant = _ESCAPE.sub(_plain, body)
        without = self.text(meant)
        return without if without != meant else self.text(body)

    def body(self, body: bytes) -> bytes:
        """
        Return a body without secrets, byte for byte the same if it has none.

        JSON is looked through as what it means: escapes hide nothing.  It keeps its layout as far as it has one.
        """
        try:
            if b"\\" not in body and self.text(plain_text := body.decode("utf-8")) == plain_text:
                return body  # as it stands it has none, and there is nothing that it could mean beside
            document = documents.decode(body)
            changed = self.document(document)
        except NOT_JSON:
            return self._unread(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        if changed is document:
            return body
        plain = msgspec.json.encode(changed)
        return msgspec.json.format(plain, indent=2) + b"\n" if b"\n" in body.strip() else plain


def _plain(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else escape[2]


def _forms(secret: str) -> list[str]:
    """A secret as it is, in a URL, and in quotes; and the password of one that is a URL itself."""
    forms = [secret, quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]]
    if "://" in secret:
        try:
            password = urlsplit(secret).password
        except ValueError:
            password = None
        if password:
            forms += [password, unquote(password)]
    return [form for form in dict.fromkeys(forms) if len(form) >= SHORTEST]


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if start >= done:
            parts += [text[done:start], MARK]
        done = max(done, end)
    return "".join([*parts, text[done:]])

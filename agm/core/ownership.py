"""
Ownership: which account has a file, a cached content, a batch or another resource that Google keeps for one account.

What an account has made no other account can see, so a request that names it must go to its owner.  This module knows
the paths of such resources, finds their names in requests and answers, and remembers who owns them.  It asks nobody,
and a name that it does not know may still be somebody's.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes

import attrs
import msgspec

from agm.core.errors import NOT_JSON, InvalidRequest
from agm.core.kinds import COLLECTIONS
from agm.core.target import MAX_MODEL, METHODS, bare_model

#: How many names are remembered; the one that was not asked for the longest goes first.
MAX_NAMES = 100_000
#: A name that is longer is nobody's.
MAX_NAME = 512
#: Answers beyond this many bytes are not looked through for names.
MAX_READ = 1024 * 1024

_ALL = "|".join(COLLECTIONS)
_PATH = re.compile(
    rb"/+(?:(?P<way>upload|download)/+)?(?P<version>v1beta|v1alpha|v1)/+"
    rb"(?P<rest>(?:%b)(?:[/:?].*|%%3[aA].*)?|models/.+)" % _ALL.encode("ascii"),
    re.DOTALL,
)
#: Behind ``models/``, once or more often; these are looked for in what is not longer than a name may be.
_MODEL_CALL = re.compile(
    r"(?P<model>.+):(?P<method>batchGenerateContent|asyncBatchEmbedContent|predictLongRunning)", re.DOTALL
)
_OPERATION = re.compile(r".+?/operations(?:/[^/:]+(?::[A-Za-z]+)?)?")
_NOT_IN_A_NAME = re.compile(r"[\x00-\x20\x7f\\?#]")
_VERB = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
#: Characters that stand unescaped in a path.
_SAFE = "/:@!$&'()*+,;=-._~"

_NAME = re.compile(rf"(?:(?:{_ALL})/[A-Za-z0-9._~-]+|models/[^/]+/operations/[A-Za-z0-9._~-]+)(?:/.*)?")
_IN_A_URI = re.compile(
    r"(?:https?://[^/]+/(?:download/)?(?:v1beta|v1alpha|v1)/)?(files/[A-Za-z0-9._~-]+)(?::download)?(?:\?.*)?"
)

#: Bytes of which one is in every body that names a resource of an account.
_MARKS = (b"fileUri", b"file_uri", b"cachedContent", b"cached_content", b"fileName", b"file_name")
_NAMING = frozenset(mark.decode("ascii") for mark in _MARKS)
#: Fields in which an answer says what its account has.
_TELLING = frozenset(
    {
        "name",
        "uri",
        "downloadUri",
        "fileUri",
        "fileName",
        "responsesFile",
        "cachedContent",
        "tunedModel",
        "documentName",
    }
)


class NamesNoMethod(InvalidRequest):
    """400: a path that nothing can be at."""


@attrs.frozen
class OwnedTarget:
    """
    What a path below a collection of owned resources asks for.

    `name` is the resource's, ``files/abc``, or None where the path is a whole collection's; `model` is that of a batch
    or a long-running call; `way` is ``upload``, ``download`` or empty; `path` is for an upstream, without a query.
    """

    version: str
    collection: str
    name: str | None
    verb: str
    model: str
    way: str
    path: str

    def method(self, http_method: str) -> str:
        """What is done, in the words that plugins see: ``files.get``, ``batches.cancel``, ``batchGenerateContent``."""
        if self.collection == "models" and self.verb:
            return self.verb
        collection = "operations" if self.collection == "models" else self.collection
        if self.way == "upload":
            return f"{collection}.upload"
        if self.verb:
            return f"{collection}.{self.verb if self.verb in ('download', 'cancel') else 'call'}"
        whole = self.name is None or self.name.count("/") % 2 == 0
        match http_method:
            case "GET" | "HEAD":
                return f"{collection}.list" if whole and self.collection != "models" else f"{collection}.get"
            case "PATCH" | "PUT":
                return f"{collection}.update"
            case "DELETE":
                return f"{collection}.delete"
        return f"{collection}.create"


def parse(path: bytes, http_method: str) -> OwnedTarget | None:
    """
    What a request asks for, if it is about resources that accounts own; None if it is not.

    :param path: the raw path, without its query.
    :raises InvalidRequest: if it holds what no resource's name can hold.
    :raises NamesNoMethod: if what stands behind its colon can be no method.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    try:
        rest = unquote_to_bytes(match["rest"]).decode("utf-8").rstrip("/")
    except UnicodeDecodeError:
        return None
    version, way = match["version"].decode("ascii"), (match["way"] or b"").decode("ascii")
    if rest == "models" or rest.startswith("models/"):
        return None if way else _of_models(version, rest, http_method)
    bare, colon, verb = rest.rpartition(":")
    if verb in METHODS and not way:
        return None  # a call of a model, tuned or none at all
    _check(rest)
    if not colon or "/" in verb:
        bare, verb = rest, ""
    elif not _VERB.fullmatch(verb):
        raise NamesNoMethod("The path names no method of a resource.")
    collection, _, name = bare.partition("/")
    return OwnedTarget(
        version=version,
        collection=collection,
        name=bare if name else None,
        verb=verb,
        model="",
        way=way,
        path=f"{'/' + way if way else ''}/{version}/{quote(rest, safe=_SAFE)}",
    )


def _of_models(version: str, rest: str, http_method: str) -> OwnedTarget | None:
    named = bare_model(rest)
    if len(named) > MAX_NAME + MAX_MODEL:
        return None  # no model's name is as long, and its call is refused
    call = _MODEL_CALL.fullmatch(named) if http_method == "POST" else None
    operation = _OPERATION.fullmatch(named) if call is None else None
    if call is None and operation is None:
        return None
    _check(named)
    bare = f"models/{named}"
    path = f"/{version}/{quote(bare, safe=_SAFE)}"
    if call is not None:
        return OwnedTarget(version, "models", None, call["method"], call["model"], "", path)
    name = bare.partition(":")[0]
    return OwnedTarget(version, "models", name if root(name) else None, "", "", "", path)


def _check(rest: str) -> None:
    if _NOT_IN_A_NAME.search(rest) or len(rest) > MAX_NAME + MAX_MODEL:
        raise InvalidRequest("The resource's name holds a character that no name can hold, or is too long.")
    if any(segment in ("", ".", "..") for segment in rest.split("/")):
        raise InvalidRequest("The resource's name has an empty segment, or one of dots only.")


def root(name: str) -> str | None:
    """
    The resource that is owned where `name` is it or something below it; None if `name` is no owned resource's.

    ``fileSearchStores/a/documents/b`` belongs to the owner of ``fileSearchStores/a``.
    """
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        return None
    segments = name.split("/")
    return "/".join(segments[: 4 if segments[0] == "models" else 2])


def named_by(value: str) -> str | None:
    """The owned resource that a field's value names: by its name, or a file by its address at Google."""
    if len(value) > 2 * MAX_NAME:
        return None
    address = _IN_A_URI.fullmatch(value)
    return root(address[1] if address else value)


def may_name(body: bytes) -> bool:
    """Whether a body may name an owned resource.  Cheap: bytes are searched, nothing is parsed."""
    return any(mark in body for mark in _MARKS) or b"\\u00" in body  # an ASCII letter may be written so


def names_in(document: object) -> list[str]:
    """The owned resources that a request's body refers to, each once."""
    return list(dict.fromkeys(_found(document, _NAMING)))


def names_told(body: bytes) -> list[str]:
    """The owned resources that an answer names; what is no JSON, or too large to be looked through, names none."""
    if len(body) > MAX_READ:
        return []
    try:
        document = msgspec.json.decode(body)
    except NOT_JSON:
        return []
    return list(dict.fromkeys(_found(document, _TELLING)))


def _found(document: object, fields: frozenset[str]) -> Iterator[str]:
    """Names in `fields`, at any depth, in the order in which they stand."""
    waiting: list[object] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(value))
        elif isinstance(value, dict):
            for key, field in value.items():
                if isinstance(field, str) and key in fields and (name := named_by(field)) is not None:
                    yield name
            waiting.extend(reversed([v for v in value.values() if isinstance(v, dict | list)]))


class Ownership(Protocol):
    """Who owns what.  In memory here; a store that several processes share can stand behind the same methods."""

    def __len__(self) -> int:
        """How many names are known."""

    def owner(self, name: str) -> str | None:
        """The account that has a resource; `name` as :func:`root` gives it.  None if that is not known."""

    def remember(self, name: str, account: str) -> None:
        """An account has a resource."""

    def forget(self, name: str) -> None:
        """A resource is gone."""


class KnownOwners:
    """
    Who owns what, in memory.

    :param limit: how many names are kept; the one that was not asked for the longest is forgotten first.
    :ivar changed: called whenever what is known has changed.
    """

    def __init__(self, limit: int = MAX_NAMES) -> None:
        self._limit = limit
        self._owners: OrderedDict[str, str] = OrderedDict()
        self.changed: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return len(self._owners)

    def owner(self, name: str) -> str | None:
        """See :class:`Ownership`."""
        found = self._owners.get(name)
        if found is not None:
            self._owners.move_to_end(name)
        return found

    def remember(self, name: str, account: str) -> None:
        """See :class:`Ownership`."""
        before = self._owners.get(name)
        self._owners[name] = account
        self._owners.move_to_end(name)
        if len(self._owners) > self._limit:
            self._owners.popitem(last=False)
        if before != account:
            self.changed()

    def forget(self, name: str) -> None:
        """See :class:`Ownership`."""
        if self._owners.pop(name, None) is not None:
            self.changed()

    def dump(self) -> list[tuple[str, str]]:
        """Names and their accounts, for a file; the one that was asked for last is the last."""
        return list(self._owners.items())

    def load(self, dumped: Iterable[tuple[str, str]]) -> None:
        """Know what :meth:`dump` gave, beside what is known already."""
        for name, account in dumped:
            if name not in self._owners and root(name) == name:
                self.remember(name, account)


@attrs.frozen
class Page:
    """Where a merged list goes on: at an account, which is named by :func:`mark`, with its own token."""

    account: str
    token: str

    def encode(self) -> str:
        """As a page token for a client."""
        return base64.urlsafe_b64encode(msgspec.json.encode([self.account, self.token])).decode("ascii").rstrip("=")

    @classmethod
    def decode(cls, token: str) -> Page:
        """
        Read a page token.

        :raises InvalidRequest: if it is none of :meth:`encode`'s.
        """
        try:
            raw = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
            account, own = msgspec.json.decode(raw, type=tuple[str, str])
        except (ValueError, *NOT_JSON):
            raise InvalidRequest("The page token is not valid.") from None
        return cls(account, own)


def mark(account: str) -> str:
    """A word for an account that does not tell its name."""
    return hashlib.blake2b(account.encode("utf-8"), digest_size=9).hexdigest()


def merged(documents: Iterable[dict[str, Any]], next_page: Page | None) -> dict[str, Any]:
    """One list from the lists of several accounts: what is listed is put together, of all else the first counts."""
    found: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            if isinstance(value, list) and isinstance(found.get(key), list):
                found[key] = [*found[key], *value]
            elif key != "nextPageToken":
                found.setdefault(key, value)
    if next_page is not None:
        found["nextPageToken"] = next_page.encode()
    return found


def listed(document: dict[str, Any]) -> int:
    """How many resources a list holds."""
    return sum(len(value) for value in document.values() if isinstance(value, list))

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
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes

import attrs
import msgspec

from agm.core import documents
from agm.core.errors import NOT_JSON, InvalidRequest
from agm.core.kinds import COLLECTIONS
from agm.core.wire.target import MAX_MODEL, METHODS, bare_model

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
_NOT_IN_AN_ADDRESS = re.compile(r"[\x00-\x20\x7f\"\\]")
_VERB = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
#: Characters that stand unescaped in a path.
_SAFE = "/:@!$&'()*+,;=-._~"

_NAME = re.compile(rf"(?:(?:{_ALL})/[A-Za-z0-9._~-]+|models/[^/]+/operations/[A-Za-z0-9._~-]+)(?:/.*)?")
#: Where the name of a resource begins in the path of its address, at Google or here.
_IN_A_PATH = re.compile(rf"(?:^|/)(?:v1beta|v1alpha|v1)/+(?=(?:{_ALL}|models)/)")

#: What is written of a resource's name before its id, by the collection: where that is not, and no escape stands for
#: it, none of them is named.
_MARKS = {name: (f"{name}/".encode("ascii"), rf"{name}\/".encode("ascii")) for name in COLLECTIONS} | {
    "models": (b"/operations/", rb"\/operations\/")
}
#: An escape of a letter, a digit, a dash or a slash.
_HIDING = re.compile(rb"\\u00(?:2[dDfF]|3[0-9]|[4-7])")
#: A body of more bytes is not searched for these: that takes longer than to read it.
_SEARCHED = 1024 * 1024
#: In more places than this nobody looks for names one by one.
_PLACES = 10_000
#: One of each collection, as a message may have it but for spaces.
_SINGULAR = {name: name.removesuffix("s").casefold() for name in (*COLLECTIONS, "models")} | {
    "batches": "batch",
    "corpora": "corp",
    "models": "operation",
}
_WORDS = re.compile(r"[A-Za-z0-9._~-]*[A-Za-z0-9_~-]")
_IS_TEXT = re.compile(rb'"(?:text|data|displayName|display_name|title|description)"\s{0,8}:\s{0,8}\Z')
#: What stands behind the name of a field.
_IS_FIELD = re.compile(rb"\s{0,64}:")
#: What stands before a name that can be nothing else.
_IS_NAMED = re.compile(rb'"(?:fileUri|file_uri|fileName|file_name|cachedContent|cached_content)"\s{0,8}:\s{0,8}\Z')
#: What stands before the words of tools, in strict JSON without escapes: see :mod:`agm.core.bodies`.
_OWN_WORDS = (b'"args"', b'"response', b'"parameters')
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
#: Below these are the answers of models, and what clients have written beside their requests.
_OTHERS_WORDS = frozenset({"candidates", "inlinedResponses", "inlinedEmbedContentResponses", "requests"})


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
        """Name the call for plugins: ``files.get``, ``batches.cancel``, ``batchGenerateContent``."""
        if self.collection == "models" and self.verb:
            return self.verb
        collection = "operations" if self.collection == "models" else self.collection
        if self.way == "upload":
            return f"{collection}.upload"
        if self.verb:
            return f"{collection}.{self.verb if self.verb in ('download', 'cancel') else 'call'}"
        whole = self.name is None or self.name.replace("/upload/", "/").count("/") % 2 == 0
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
    Parse a request about resources that accounts own; None if it is about something else.

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
    """The owned resource that a field's value names: by its name, or by its address at Google or here."""
    if len(value) > 2 * MAX_NAME or "/" not in value or _NOT_IN_AN_ADDRESS.search(value):
        return None
    name = value.partition("?")[0]
    if name[:8].lower().startswith(("http://", "https://")):
        path = name.partition("#")[0].split("/", 3)[3:]
        begins = _IN_A_PATH.search(path[0]) if path else None
        if begins is None:
            return None
        name = path[0][begins.end() :]
    name, colon, verb = name.partition(":")
    return None if colon and not _VERB.fullmatch(verb) else root(name)


def may_name(body: bytes, collections: Iterable[str]) -> bool:
    """
    Return whether a body may name a resource of these collections, for all that its bytes tell; nothing is parsed.

    What is escaped as JSON allows is taken into account; what only Google's parser takes for an escape is not.
    """
    return any(mark in body for mark in _marks(body, collections)) or _hides(body)


def _marks(body: bytes, collections: Iterable[str]) -> list[bytes]:
    slashes = 2 if b"\\" in body and b"\\/" in body else 1
    return [mark for name in collections for mark in _MARKS[name][:slashes]]


def _hides(body: bytes) -> bool:
    """Return whether escapes may stand for letters of a name; or that would take too long to find out."""
    return b"\\u00" in body and (len(body) > _SEARCHED or _HIDING.search(body) is not None)


def written_in(body: bytes, collections: Iterable[str]) -> dict[str, bool] | None:
    """
    The resources of these collections that strict JSON holds as strings of their own, in whatever field; and of each
    whether it is surely named, or may be a word that a tool was given.

    None where they cannot be found in this way, which is fast because only their surroundings are looked at.
    """
    if _hides(body):
        return None
    found: dict[str, bool] = {}
    sure = not any(mark in body for mark in _OWN_WORDS)
    places = 0
    for mark in _marks(body, collections):
        at = body.find(mark)
        while at >= 0:
            places += 1
            if places > _PLACES:
                return None
            start, end = body.rfind(b'"', max(0, at - 2 * MAX_NAME), at), body.find(b'"', at, at + 2 * MAX_NAME)
            # a quote behind a backslash is one in a text
            if start >= 0 and end >= 0 and body[start - 1 : start] != b"\\" and body[end - 1 : end] != b"\\":
                name = _named_by_literal(body[start : end + 1])
                before = max(0, start - 40)
                other = _IS_TEXT.search(body, before, start) or _IS_FIELD.match(body, end + 1)
                if name is not None and not other:
                    found[name] = found.get(name, sure) or _IS_NAMED.search(body, before, start) is not None
            at = body.find(mark, end if end >= 0 else at + len(mark))
    return found


def _named_by_literal(literal: bytes) -> str | None:
    try:
        return named_by(msgspec.json.decode(literal.decode("utf-8", "replace"), type=str))
    except NOT_JSON:
        return None


def refused(names: Sequence[str], message: str) -> list[str]:
    """Find which of the resources that a request names an account does not have, from its refusal."""
    if len(names) < 2:
        return list(names)
    words = set(_WORDS.findall(message))
    told = [name for name in names if name.rpartition("/")[2] in words]
    if told:
        return told
    said, squeezed = set(), message.replace(" ", "").casefold()
    for word in sorted(_SINGULAR.values(), key=len, reverse=True):  # a file search store is no file
        if word in squeezed:
            said.add(word)
            squeezed = squeezed.replace(word, " ")
    return [name for name in names if _SINGULAR[name.partition("/")[0]] in said] or list(names)


def names_told(body: bytes) -> list[str]:
    """The owned resources that an answer names; what is no JSON, or too large to be looked through, names none."""
    if len(body) > MAX_READ:
        return []
    try:
        document = documents.decode(body)
    except NOT_JSON:
        return []
    return list(dict.fromkeys(_told(document)))


def _told(document: object) -> Iterator[str]:
    """Names in the fields that tell, at any depth, in the order in which they stand."""
    waiting: list[object] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(value))
        elif isinstance(value, dict):
            for key, field in value.items():
                if isinstance(field, str) and key in _TELLING and (name := named_by(field)) is not None:
                    yield name
            waiting.extend(
                reversed([v for key, v in value.items() if isinstance(v, dict | list) and key not in _OTHERS_WORDS])
            )


class Ownership(Protocol):
    """Who owns what.  In memory here; a store that several processes share can stand behind the same methods."""

    def __len__(self) -> int:
        """Count the known names."""

    @property
    def collections(self) -> Set[str]:
        """The collections of which a name is known; ``models`` for the operations of models."""

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
        self._collections: Counter[str] = Counter()
        self.changed: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def collections(self) -> Set[str]:
        """See :class:`Ownership`."""
        return self._collections.keys()

    def owner(self, name: str) -> str | None:
        """See :class:`Ownership`."""
        found = self._owners.get(name)
        if found is not None:
            self._owners.move_to_end(name)
        return found

    def remember(self, name: str, account: str) -> None:
        """See :class:`Ownership`."""
        before = self._owners.get(name)
        if before is None:
            self._collections[name.partition("/")[0]] += 1
        self._owners[name] = account
        self._owners.move_to_end(name)
        if len(self._owners) > self._limit:
            self._left(self._owners.popitem(last=False)[0])
        if before != account:
            self.changed()

    def forget(self, name: str) -> None:
        """See :class:`Ownership`."""
        if self._owners.pop(name, None) is not None:
            self._left(name)
            self.changed()

    def _left(self, name: str) -> None:
        collection = name.partition("/")[0]
        self._collections[collection] -= 1
        if not self._collections[collection]:
            del self._collections[collection]

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
    """Count the resources in a list."""
    return sum(len(value) for value in document.values() if isinstance(value, list))

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes

import attrs
import msgspec

from agm.core import documents
from agm.core.errors import NOT_JSON, InvalidRequest
from agm.core.kinds import COLLECTIONS, ID_COLLECTIONS, VERTEX_COLLECTIONS
from agm.core.wire.target import MAX_MODEL, METHODS, bare_model

#: How many names are remembered; the one that was not asked for the longest goes first.
MAX_NAMES = 100_000
#: The same for interactions, of which every call may make one: they push no file out.
MAX_PRIVATE = 100_000
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

#: Collections of Vertex AI's alone; its names are known without their place, whose project has an id and a number.
_OF_VERTEX = tuple(name for name in VERTEX_COLLECTIONS if name not in (*COLLECTIONS, "models"))
#: And one of Google's OpenAI surface, whose files and batches are called as ever.
_NAMED_ONLY = (*_OF_VERTEX, "videos")
_EVERY = "|".join((*COLLECTIONS, *_NAMED_ONLY))
_PLACE = re.compile(r"projects/[^/]+/locations/[^/]+/(?:publishers/google/(?=models/))?|publishers/google/(?=models/)")
_NAME = re.compile(rf"(?:(?:{_EVERY})/[A-Za-z0-9._~-]+|models/[^/]+/operations/[A-Za-z0-9._~-]+)(?:/.*)?")
#: Where the name of a resource begins in the path of its address, at Google or here.
_IN_A_PATH = re.compile(rf"(?:^|/)(?:v1beta|v1alpha|v1)/+(?=(?:{_ALL}|models)/)")

#: What is written of a resource's name before its id, by the collection: where that is not, and no escape stands for
#: it, none of them is named.
_MARKS = {
    name: (f"{name}/".encode("ascii"), rf"{name}\/".encode("ascii")) for name in (*COLLECTIONS, *_OF_VERTEX, "videos")
} | {"models": (b"/operations/", rb"\/operations\/")}
#: An escape of a letter, a digit, a dash or a slash.
_HIDING = re.compile(rb"\\u00(?:2[dDfF]|3[0-9]|[4-7])")
#: A body of more bytes is not searched for these: that takes longer than to read it.
_SEARCHED = 1024 * 1024
#: In more places than this nobody looks for names one by one.
_PLACES = 10_000
#: One of each collection, as a message may have it but for spaces.
_SINGULAR = {name: name.removesuffix("s").casefold() for name in (*COLLECTIONS, *_NAMED_ONLY, "models")} | {
    "batches": "batch",
    "corpora": "corp",
    "models": "operation",
}
_WORDS = re.compile(r"[A-Za-z0-9._~-]*[A-Za-z0-9_~-]")
_IS_TEXT = re.compile(rb'"(?:text|data|displayName|display_name|title|description)"\s{0,8}:\s{0,8}\Z')
#: What stands behind the name of a field.
_IS_FIELD = re.compile(rb"\s{0,64}:")
#: What stands before a name that can be nothing else.
_IS_NAMED = re.compile(
    rb'"(?:fileUri|file_uri|fileName|file_name|cachedContent|cached_content|operationName)"\s{0,8}:\s{0,8}\Z'
)
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
        "endpoint",
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
        if collection in ID_COLLECTIONS and self.name is not None and http_method == "POST":
            return f"{collection}.{'cancel' if self.name.endswith('/cancel') else 'call'}"
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
    if rest == "interactions/live":
        return None  # a WebSocket
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
    Return the resource that is owned where `name` is it or something below it; None if `name` is no owned resource's.

    ``fileSearchStores/a/documents/b`` belongs to the owner of ``fileSearchStores/a``.  A name of Vertex AI's loses its
    place: the project may be written by its id or its number.
    """
    if name.startswith(("projects/", "publishers/")) and (place := _PLACE.match(name)):
        name = name[place.end() :]
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        return None
    segments = name.split("/")
    return "/".join(segments[: 4 if segments[0] == "models" else 2])


def named_by(value: str) -> str | None:
    """Return the owned resource that a field's value names: by its name, or by its address at Google or here."""
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


@attrs.frozen
class Maker:
    """Whose request made a resource: the name of the client key and of its team, each "" where there was none."""

    key: str = ""
    team: str = ""

    def shares(self, other: Maker, *, by: str) -> bool:
        """
        Tell whether what one has made is the other's, too.

        :param by: ``key``, or ``team``: those of one team share, and a key without a team has what it made itself.
        """
        if by == "team" and (self.team or other.team):
            return self.team == other.team
        return self.key == other.key


def ids_told(collection: str, document: object) -> list[str]:
    """
    Return the owned resources that an answer about a collection of the Interactions API tells of.

    An id stands for one of the collection itself, or of those that other fields name; the addresses of files count
    where a model has made them.
    """
    found: list[str] = []
    if isinstance(document, dict):
        listed = next((value for value in document.values() if isinstance(value, list)), [])
        items = [document] if "id" in document or collection not in document else listed
        for item in items:
            if isinstance(item, dict):
                found += _ids_of(collection, item)
    return list(dict.fromkeys(found))


def _ids_of(collection: str, item: dict[str, Any]) -> Iterator[str]:
    named = [(collection, item.get("id"))]
    named += [("environments", item.get("environment_id")), ("interactions", item.get("interaction_id"))]
    for kind, value in named:
        if isinstance(value, str) and (name := root(f"{kind}/{value.removeprefix(kind + '/')}")) is not None:
            yield name
    for step in item.get("steps") or ():
        if isinstance(step, dict) and step.get("type") == "model_output":
            yield from made_in(step.get("content"))


def made_in(contents: object) -> Iterator[str]:
    """Yield the files that stand by their addresses in what a model has said."""
    for content in contents if isinstance(contents, list) else [contents]:
        uri = content.get("uri") if isinstance(content, dict) else None
        if isinstance(uri, str) and (name := named_by(uri)) is not None:
            yield name


class Ownership(Protocol):
    """Who owns what.  In memory here; a store that several processes share can stand behind the same methods."""

    def __len__(self) -> int:
        """Count the known names."""

    def __bool__(self) -> bool:
        """Tell whether any name is known."""

    @property
    def collections(self) -> Set[str]:
        """The collections of which a name is known that a body may hold; ``models`` for the operations of models."""

    def owner(self, name: str) -> str | None:
        """Return the account that has a resource; `name` as :func:`root` gives it.  None if that is not known."""

    def maker(self, name: str) -> Maker | None:
        """Return whose request made a resource; None if that is not known."""

    def remember(self, name: str, account: str, maker: Maker | None = None) -> None:
        """An account has a resource; `maker` is whoever has made it just now, None leaves what is known of that."""

    def forget(self, name: str) -> None:
        """A resource is gone."""


def is_private(name: str) -> bool:
    """Tell whether a resource answers only to whoever made it, whatever is configured."""
    row = ID_COLLECTIONS.get(name.partition("/")[0])
    return row is not None and row.private


@attrs.frozen
class _Owned:
    account: str
    maker: Maker | None


class KnownOwners:
    """
    Who owns what, in memory.

    :param limit: how many names are kept; the one that was not asked for the longest is forgotten first.
    :param private: the same for those that answer only to whoever made them.
    :ivar changed: called whenever what is known has changed.
    :ivar told: likewise, with the name; not for one that is forgotten for want of room.
    """

    def __init__(self, limit: int = MAX_NAMES, private: int = MAX_PRIVATE) -> None:
        self._limits = {False: limit, True: private}
        self._owners: dict[bool, OrderedDict[str, _Owned]] = {False: OrderedDict(), True: OrderedDict()}
        self._collections: Counter[str] = Counter()
        self.changed: Callable[[], object] = lambda: None
        self.told: Callable[[str], object] = lambda name: None

    def __len__(self) -> int:
        return sum(map(len, self._owners.values()))

    def __bool__(self) -> bool:
        return any(self._owners.values())

    @property
    def collections(self) -> Set[str]:
        """See :class:`Ownership`."""
        return self._collections.keys()

    def _table(self, name: str) -> OrderedDict[str, _Owned]:
        return self._owners[is_private(name)]

    def owner(self, name: str) -> str | None:
        """See :class:`Ownership`."""
        table = self._table(name)
        found = table.get(name)
        if found is None:
            return None
        table.move_to_end(name)
        return found.account

    def maker(self, name: str) -> Maker | None:
        """See :class:`Ownership`."""
        found = self._table(name).get(name)
        return None if found is None else found.maker

    def remember(self, name: str, account: str, maker: Maker | None = None) -> None:
        """See :class:`Ownership`."""
        table = self._table(name)
        before = table.get(name)
        now = _Owned(account, maker or (None if before is None else before.maker))
        if before is None:
            self._count(name, 1)
        table[name] = now
        table.move_to_end(name)
        if len(table) > self._limits[is_private(name)]:
            self._count(table.popitem(last=False)[0], -1)
        if before != now:
            self.changed()
            self.told(name)

    def forget(self, name: str) -> None:
        """See :class:`Ownership`."""
        if self._table(name).pop(name, None) is not None:
            self._count(name, -1)
            self.changed()
            self.told(name)

    def _count(self, name: str, change: int) -> None:
        collection = name.partition("/")[0]
        if collection in ID_COLLECTIONS:
            return  # no body of a model's call names one
        self._collections[collection] += change
        if not self._collections[collection]:
            del self._collections[collection]

    def dump(self) -> list[tuple[str, str]]:
        """Names and their accounts, for a file; the one that was asked for last is the last."""
        return [(name, owned.account) for table in self._owners.values() for name, owned in table.items()]

    def dump_makers(self) -> dict[str, tuple[str, str]]:
        """Names and whose they are, key and team, as far as that is known."""
        owned = [pair for table in self._owners.values() for pair in table.items()]
        return {name: (it.maker.key, it.maker.team) for name, it in owned if it.maker is not None}

    def load(self, dumped: Iterable[tuple[str, str]], makers: Mapping[str, tuple[str, str]] | None = None) -> None:
        """Know what :meth:`dump` and :meth:`dump_makers` gave, beside what is known already."""
        for name, account in dumped:
            if name not in self._table(name) and root(name) == name:
                maker = (makers or {}).get(name)
                self.remember(name, account, None if maker is None else Maker(*maker))


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
    """Return a word for an account that does not tell its name."""
    return hashlib.blake2b(account.encode("utf-8"), digest_size=9).hexdigest()


def merged(
    documents: Iterable[dict[str, Any]], next_page: Page | None, *, goes_on: str = "nextPageToken"
) -> dict[str, Any]:
    """
    One list from the lists of several accounts: what is listed is put together, of all else the first counts.

    :param goes_on: the field in which it says where it goes on; in lists with snake_case names what all accounts have
        alike, a voice of Google's, is listed once.
    """
    found: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            if isinstance(value, list) and isinstance(found.get(key), list):
                known = {item.get("id") for item in found[key]} if goes_on == "next_page_token" else ()
                found[key] = [*found[key], *(item for item in value if not known or item.get("id") not in known)]
            elif key != goes_on:
                found.setdefault(key, value)
    if next_page is not None:
        found[goes_on] = next_page.encode()
    return found


def listed(document: dict[str, Any]) -> int:
    """Count the resources in a list."""
    return sum(len(value) for value in document.values() if isinstance(value, list))

"""
Google's own OpenAI surface, ``/v1beta/openai/…``: which model a request is for, and which resources are named.

Bodies and answers pass byte for byte; what is read here is what has to be known to choose an account: the model, out of
JSON or of a form, and the ids of files, batches and videos.  Nothing is sent from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote_to_bytes

import attrs
import msgspec

from agm.core import documents, ownership
from agm.core.errors import NOT_JSON, InvalidRequest, NotFound
from agm.core.kinds import OPENAI_CALLS, OPENAI_COLLECTIONS
from agm.core.wire.target import shown

_PATH = re.compile(rb"/+(?P<version>v1beta|v1alpha|v1)/+openai(?:/+(?P<rest>.*))?", re.DOTALL)
_NOT_IN_A_NAME = re.compile(r"[\x00-\x20\x7f\\?#]")
_SAFE = "/:@!$&'()*+,;=-._~"
MAX_REST = 1024
#: The ids that an answer tells of its account, by the fields that hold them.
_IDS = {"input_file_id": "files", "output_file_id": "files", "error_file_id": "files"}
#: What the ``object`` of a document says of its ``id``.
_OBJECTS = {"file": "files", "batch": "batches", "video": "videos"}
#: A form has no more parts than this, and its model is among its first bytes or between them.
MAX_PARTS = 64


@attrs.frozen
class OpenAICall:
    """``POST /v1beta/openai/chat/completions`` and other calls of a model, which the body names."""

    version: str
    rest: str

    @property
    def method(self) -> str:
        """What is done, in the words that plugins see: ``openai.chat.completions``."""
        return f"openai.{self.rest.replace('/', '.')}"

    @property
    def path(self) -> str:
        """For an upstream, without a query."""
        return f"/{self.version}/openai/{self.rest}"


@attrs.frozen
class OpenAIResource:
    """
    A file, a batch, a video or a model: `name` is what owns what is asked for, None for a whole collection.

    `path` is for an upstream, without a query; `is_list` says whether it is about all of them.
    """

    version: str
    collection: str
    name: str | None
    verb: str
    path: str
    is_list: bool
    #: As for :class:`agm.core.ownership.OwnedTarget`: none of these is a call, nor an upload by Google's protocols.
    model: str = ""
    way: str = ""

    def method(self, http_method: str) -> str:
        """Return what is done, in the words that plugins see: ``openai.files.get``."""
        if self.verb:
            done = {"content": "download", "cancel": "cancel"}.get(self.verb, "call")
        elif http_method in ("GET", "HEAD"):
            done = "list" if self.is_list else "get"
        else:
            done = "delete" if http_method == "DELETE" else "create"
        return f"openai.{self.collection}.{done}"


def claims(path: bytes) -> bool:
    """
    Return whether a path is of this surface, be there something at it or not.

    :param path: the raw path of the request, without its query.
    """
    return _PATH.fullmatch(path) is not None


def parse(path: bytes, http_method: str) -> OpenAICall | OpenAIResource:
    """
    Return what a request asks for.

    :raises NotFound: if there is no such thing.
    :raises InvalidRequest: if the path holds what no name can hold.
    """
    match = _PATH.fullmatch(path)
    there = ", ".join((*OPENAI_CALLS, *OPENAI_COLLECTIONS))
    unknown = f"The path {shown(path)} is not known: of Google's OpenAI surface these are served: {there}."
    if match is None or match["rest"] is None:
        raise NotFound(unknown)
    try:
        rest = unquote_to_bytes(match["rest"]).decode("utf-8").rstrip("/")
    except UnicodeDecodeError:
        raise NotFound(unknown) from None
    version = match["version"].decode("ascii")
    if rest in OPENAI_CALLS and (http_method == "POST" or rest not in OPENAI_COLLECTIONS):
        return OpenAICall(version, rest)
    collection, _, named = rest.partition("/")
    if collection not in OPENAI_COLLECTIONS:
        raise NotFound(unknown)
    if len(rest) > MAX_REST or _NOT_IN_A_NAME.search(rest):
        raise InvalidRequest("The resource's name holds a character that no name can hold, or is too long.")
    if any(segment in ("", ".", "..") for segment in rest.split("/")):
        raise InvalidRequest("The resource's name has an empty segment, or one of dots only.")
    if collection == "models":
        of_model = f"/{quote(named, safe=_SAFE)}" if named else ""
        return OpenAIResource(version, collection, None, "", f"/{version}/openai/models{of_model}", not named)
    identifier, _, verb = named.removeprefix(f"{collection}/").partition("/")
    name = f"{collection}/{identifier}" if identifier else None
    for_upstream = f"/{version}/openai/{collection}"
    if identifier:  # an id with a slash in it stays one segment if the client has written it as one
        whole = quote(named.removesuffix(f"/{verb}") if verb else named, safe="" if b"%2" in match["rest"] else _SAFE)
        for_upstream = f"{for_upstream}/{whole}" + (f"/{quote(verb, safe=_SAFE)}" if verb else "")
    return OpenAIResource(version, collection, name, verb, for_upstream, not identifier)


# -- the model of a body -------------------------------------------------------------------------------------------

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


@attrs.frozen
class Asked:
    """What a body asks for: the model as it is written (None for none), and whether the answer is to stream."""

    model: str | None
    streams: bool
    #: It is a form, which no plugin that edits bodies can be shown.
    form: bool = False
    #: Where the model stands in a form.
    at: tuple[int, int] = (0, 0)


def read(body: bytes, content_type: str) -> Asked:
    """
    Read what a call asks for.

    :raises InvalidRequest: if that cannot be told.
    """
    if content_type.lower().startswith("multipart/form-data"):
        return _read_form(body, content_type)
    try:
        fields = _FIELDS.decode(documents.undense(body))
        model = msgspec.json.decode(fields["model"]) if "model" in fields else None
        streams = msgspec.json.decode(fields["stream"]) if "stream" in fields else False
    except NOT_JSON as e:
        raise InvalidRequest(f"Invalid JSON payload received: {e}.") from None
    if model is not None and not isinstance(model, str):
        raise InvalidRequest("The model of a request is a string.")
    return Asked(model, streams is True)


def _read_form(body: bytes, content_type: str) -> Asked:
    boundary = re.search(r'boundary=(?:"([^"]{1,70})"|([^\s";]{1,70}))', content_type)
    if boundary is None:
        raise InvalidRequest("The form has no boundary.")
    mark = b"--" + (boundary[1] or boundary[2]).encode("latin-1")
    at = body.find(mark)
    for _ in range(MAX_PARTS):
        start = at + len(mark)
        end = body.find(b"\r\n" + mark, start) if at >= 0 else -1
        if end < 0:
            break
        blank = body.find(b"\r\n\r\n", start, end)
        if blank >= 0 and re.search(rb'(?i)[;\s]name="?model"?[\s;]', body[start:blank] + b"\r\n"):
            value = body[blank + 4 : end]
            try:
                return Asked(value.decode("utf-8"), streams=False, form=True, at=(blank + 4, end))
            except UnicodeDecodeError:
                break
        at = end + 2
    return Asked(None, streams=False, form=True)


def with_model(body: bytes, asked: Asked, model: str) -> bytes:
    """Return the body for another model, all else as it was sent; `asked` is what :func:`read` gave."""
    if asked.form:
        start, end = asked.at
        return body[:start] + model.encode("utf-8") + body[end:]
    fields = _FIELDS.decode(body)
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + bytes(value) for name, value in fields.items()) + b"}"


# -- names ---------------------------------------------------------------------------------------------------------


def _named(collection: str, identifier: object) -> str | None:
    if not isinstance(identifier, str) or not identifier:
        return None
    return ownership.root(f"{collection}/{identifier.removeprefix(f'{collection}/')}")


def names_in(body: bytes) -> list[str]:
    """Return the files that a new batch reads, by their ids; none for what cannot be read."""
    if b"_file_id" not in body:
        return []
    try:
        fields = _FIELDS.decode(body)
        found = [_named(_IDS[name], msgspec.json.decode(fields[name])) for name in _IDS if name in fields]
    except NOT_JSON:
        return []
    return [name for name in found if name is not None]


def names_told(answer: bytes) -> list[str]:
    """Return the files, batches and videos that an answer tells of; what is no JSON, or too large, tells of none."""
    if len(answer) > ownership.MAX_READ:
        return []
    try:
        document = documents.decode(answer)
    except NOT_JSON:
        return []
    listed = document.get("data") if isinstance(document, dict) else None
    items = [document, *(listed if isinstance(listed, list) else ())]
    return list(dict.fromkeys(name for item in items if isinstance(item, dict) for name in _told(item)))


def _told(item: dict[str, object]) -> Iterator[str]:
    if item.get("deleted") is True:
        return
    own = _OBJECTS.get(str(item.get("object")))
    fields = [*_IDS.items(), *([("id", own)] if own is not None else [])]
    for field, collection in fields:
        name = _named(collection, item.get(field))
        if name is not None:
            yield name

"""
Paths in the shape of Vertex AI, as clients with ``vertexai=True`` ask for them.

``/{version}[/projects/P/locations/L]/publishers/google/models/M:METHOD``, the list of models, and what a project keeps.
Nothing of a path but its parts goes on: whose project serves is the gateway's to say.  Nothing is read or sent here.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import attrs
import msgspec

from agm.core.errors import NOT_JSON, InvalidRequest, NotFound
from agm.core.kinds import VERTEX_COLLECTIONS, VERTEX_METHODS
from agm.core.wire.target import METHODS, ModelCall, check_model, shown

#: What stands in a path for the place of the account that will serve.
PLACE = "projects/-/locations/-"

_PATH = re.compile(
    rb"/+(?:(?P<version>v1beta1|v1beta|v1)/+)?"
    rb"(?:projects/+(?P<project>[^/]+)/+locations/+(?P<location>[^/]+)/+)?(?P<rest>[^/].*)",
    re.DOTALL,
)
_MODELS = re.compile(r"publishers/(?P<publisher>[^/]+)/models/?")
_MODEL = re.compile(r"publishers/(?P<publisher>[^/]+)/models/(?P<model>.+)", re.DOTALL)
_ENDPOINT = re.compile(r"(?P<model>endpoints/[^:]+):(?P<method>.+)", re.DOTALL)
_OPERATION = re.compile(r".+/operations/[^/:]+")
_COLLECTION = re.compile(rf"(?P<collection>{'|'.join(VERTEX_COLLECTIONS)})(?:/(?P<id>[^:]+))?(?::(?P<verb>[A-Za-z]+))?")
_NOT_IN_A_NAME = re.compile(r"[\x00-\x20\x7f\\?#]")
_SAFE = "/:@!$&'()*+,;=-._~"
#: The gateway's own versions, as the rest of it speaks of them.
_VERSIONS = {b"v1": "v1", b"v1beta": "v1beta", b"v1beta1": "v1beta", None: "v1beta"}
MAX_REST = 1024


@attrs.frozen
class Place:
    """The project and the location that a path names, each None where it names none."""

    project: str | None
    location: str | None


@attrs.frozen
class PublisherModels:
    """``GET …/publishers/google/models``, or with `model` one of them."""

    model: str | None


@attrs.frozen
class VertexCall:
    """``POST …/publishers/google/models/M:METHOD``, or a tuned model's endpoint in M's place."""

    call: ModelCall
    place: Place


@attrs.frozen
class VertexResource:
    """
    What a project keeps: `name` is a thing's without its place (``cachedContents/5``), None for a whole collection.

    `path` is for an upstream, with :data:`PLACE` for the place.
    """

    version: str
    place: Place
    collection: str
    name: str | None
    verb: str
    path: str
    #: As for :class:`agm.core.ownership.OwnedTarget`: no path of these has a model, nor is anything uploaded to it.
    model: str = ""
    way: str = ""

    def method(self, http_method: str) -> str:
        """Return what is done, in the words that plugins see: ``vertex.cachedContents.get``."""
        if self.verb:
            done = "cancel" if self.verb == "cancel" else "call"
        elif http_method in ("GET", "HEAD"):
            done = "list" if self.name is None or self.name.count("/") % 2 == 0 else "get"
            done = "get" if self.collection == "operations" else done
        else:
            done = {"PATCH": "update", "PUT": "update", "DELETE": "delete"}.get(http_method, "create")
        return f"vertex.{self.collection}.{done}"


VertexTarget = VertexCall | PublisherModels | VertexResource


def claims(path: bytes) -> bool:
    """
    Return whether a path is in Vertex AI's shape, be there something at it or not.

    :param path: the raw path of the request, without its query.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        return False
    rest: bytes = match["rest"]
    if match["project"] is not None or rest.startswith(b"publishers/"):
        return True
    return match["version"] == b"v1beta1" and rest.startswith(tuple(name.encode() for name in VERTEX_COLLECTIONS))


def parse(path: bytes) -> VertexTarget:
    """
    Return what a path in this shape asks for.

    :param path: the raw path of the request, without its query.
    :raises NotFound: if there is no such thing, with what helps.
    :raises InvalidRequest: if it holds what no name can hold.
    """
    match = _PATH.fullmatch(path)
    unknown = f"The path {shown(path)} is not known."
    if match is None:
        raise NotFound(unknown)
    try:
        rest, project, location = (
            None if part is None else unquote_to_bytes(part).decode("utf-8")
            for part in (match["rest"], match["project"], match["location"])
        )
    except UnicodeDecodeError:
        raise InvalidRequest(f"The path {shown(path)} is not UTF-8.") from None
    assert rest is not None  # it is in every match
    place, version = Place(project, location), _VERSIONS[match["version"]]
    endpoint, listed, model = _ENDPOINT.fullmatch(rest), _MODELS.fullmatch(rest), _MODEL.fullmatch(rest)
    publisher = (listed or model or {"publisher": "google"})["publisher"]
    if publisher != "google":
        raise NotFound(
            f"{unknown} Models of the publisher {publisher[:60]} are not served here: only Google's, at "
            "publishers/google/models."
        )
    if listed is not None:
        return PublisherModels(None)
    if endpoint is not None:
        return VertexCall(_call(version, endpoint["model"], endpoint["method"], unknown), place)
    if model is not None and ":" in model["model"]:
        name, _, method = model["model"].rpartition(":")
        return VertexCall(_call(version, name, method, unknown), place)
    if model is not None and not _OPERATION.fullmatch(rest):
        return PublisherModels(check_model(model["model"]))
    return _resource(version, place, rest, unknown)


def _call(version: str, model: str, method: str, unknown: str) -> ModelCall:
    own = f"vertex.{method}"
    if method not in METHODS and own not in VERTEX_METHODS:
        methods = (*METHODS, *(name.removeprefix("vertex.") for name in VERTEX_METHODS))
        raise NotFound(f"{unknown} Calls are made at MODEL:METHOD, METHOD one of {', '.join(methods)}.")
    return ModelCall(version, check_model(model), own if own in VERTEX_METHODS else method)


def _resource(version: str, place: Place, rest: str, unknown: str) -> VertexResource:
    if len(rest) > MAX_REST or _NOT_IN_A_NAME.search(rest):
        raise InvalidRequest("The resource's name holds a character that no name can hold, or is too long.")
    rest = rest.rstrip("/")
    if any(segment in ("", ".", "..") for segment in rest.split("/")):
        raise InvalidRequest("The resource's name has an empty segment, or one of dots only.")
    upstream = "v1" if version == "v1" else "v1beta1"
    path = f"/{upstream}/{PLACE}/{quote(rest, safe=_SAFE)}"
    if rest.startswith("publishers/"):
        return VertexResource(version, place, "operations", rest, "", path)
    match = _COLLECTION.fullmatch(rest)
    if match is None:
        raise NotFound(
            f"{unknown} Of what a project of Vertex AI keeps these are served: {', '.join(VERTEX_COLLECTIONS)}."
        )
    name = None if match["id"] is None else f"{match['collection']}/{match['id']}"
    return VertexResource(version, place, match["collection"], name, match["verb"] or "", path)


def placed(path: str, project: str, location: str) -> str:
    """Return a path of :class:`VertexResource` with an account's place in it."""
    return path.replace(PLACE, f"projects/{quote(project, safe='')}/locations/{quote(location, safe='')}", 1)


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITS_PLACE = re.compile(r"projects/[^/]+/locations/[^/]+/(?=publishers/)")


def with_place(body: bytes, project: str, location: str) -> bytes:
    """
    A body whose ``model`` is named below a place, with an account's own there; any other as it is.

    Nothing else of it is touched, nor written anew.
    """
    if b'"model"' not in body:
        return body
    try:
        fields = _OBJECT.decode(body)
        model = msgspec.json.decode(fields["model"], type=str)
    except (KeyError, *NOT_JSON):
        return body
    own, replaced = _ITS_PLACE.subn(f"projects/{project}/locations/{location}/", model, count=1)
    if not replaced:
        return body
    return msgspec.json.encode({**fields, "model": own})


# -- between the two services -------------------------------------------------------------------------------------


def developer_count(body: bytes, model: str) -> bytes:
    """
    A ``countTokens`` of Vertex AI's as the Developer API takes it: what is not ``contents`` goes into a whole request.

    A body that cannot be read is left as it is, for the upstream to refuse.
    """
    try:
        fields = _OBJECT.decode(body)
    except NOT_JSON:
        return body
    rest = {name: value for name, value in fields.items() if name not in ("model", "endpoint")}
    if not rest.keys() - {"contents"}:
        return body if rest.keys() == fields.keys() else msgspec.json.encode(rest)
    request = {"model": msgspec.Raw(msgspec.json.encode(f"models/{model}")), **rest}
    return msgspec.json.encode({"generateContentRequest": request})


def developer_embed(body: bytes) -> bytes:
    """An ``embedContent`` of Vertex AI's as the Developer API takes it: with its settings beside the content."""
    if b"embedContentConfig" not in body and b"embed_content_config" not in body:
        return body
    try:
        fields = _OBJECT.decode(body)
        config = fields.pop("embedContentConfig", None) or fields.pop("embed_content_config", None)
        settings = {} if config is None else _OBJECT.decode(config)
    except NOT_JSON:
        return body
    return msgspec.json.encode({**fields, **settings})


def embeds(model: str) -> bool:
    """Return whether ``predict`` of a model gives vectors, which the Developer API gives by ``batchEmbedContents``."""
    return "embed" in model


def developer_predict(body: bytes, model: str) -> bytes:
    """
    Return a ``predict`` of texts as the Developer API's ``batchEmbedContents``, an instance a request.

    What has no place there goes along by its name, for the upstream to refuse it.  A body that cannot be read is left
    as it is.
    """
    try:
        asked = _PREDICT.decode(body)
    except NOT_JSON:
        return body
    settings = {name: value for name, value in asked.parameters.items() if (name, value) != ("autoTruncate", True)}
    requests = []
    for instance in asked.instances:
        rest = {_FIELDS.get(name, name): value for name, value in instance.items() if name != "content"}
        content = {"parts": [{"text": instance.get("content", "")}]}
        requests.append({"model": f"models/{model}", "content": content, **rest, **settings})
    return msgspec.json.encode({"requests": requests})


def vertex_predictions(answer: bytes) -> bytes:
    """Return a ``BatchEmbedContentsResponse`` as the answer of ``predict``; tokens are not told."""
    try:
        embedded = _EMBEDDED.decode(answer)
    except NOT_JSON:
        return answer
    if embedded.embeddings is None:
        return answer
    predictions = [{"embeddings": one} for one in embedded.embeddings]
    return msgspec.json.format(msgspec.json.encode({"predictions": predictions}), indent=2) + b"\n"


def vertex_count(answer: bytes, characters: int) -> bytes:
    """A ``CountTokensResponse`` of the Developer API in Vertex AI's form: with the characters that are billed there."""
    try:
        fields = _OBJECT.decode(answer)
    except NOT_JSON:
        return answer
    if "totalTokens" not in fields or "totalBillableCharacters" in fields:
        return answer
    counted = {"totalTokens": fields.pop("totalTokens"), "totalBillableCharacters": characters}
    return msgspec.json.format(msgspec.json.encode({**counted, **fields}), indent=2) + b"\n"


class _Predict(msgspec.Struct):
    instances: list[dict[str, Any]]
    parameters: dict[str, Any] = {}


class _Embedded(msgspec.Struct):
    embeddings: list[msgspec.Raw] | None = None


_PREDICT = msgspec.json.Decoder(_Predict)
_EMBEDDED = msgspec.json.Decoder(_Embedded)
#: Fields of an instance that the Developer API spells otherwise.
_FIELDS = {"task_type": "taskType"}


class _Part(msgspec.Struct):
    text: str = ""


class _Content(msgspec.Struct):
    parts: list[_Part] = []


class _Counted(msgspec.Struct):
    contents: list[_Content] = []


_COUNTED = msgspec.json.Decoder(_Counted, strict=False)


def billable_characters(body: bytes) -> int:
    """Characters of the contents' text without white space, as Vertex AI bills them; 0 for what cannot be read."""
    try:
        counted = _COUNTED.decode(body)
    except NOT_JSON:
        return 0
    return sum(len("".join(part.text.split())) for content in counted.contents for part in content.parts)

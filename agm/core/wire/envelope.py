"""
The ``v1internal`` envelope: wrapping a Gemini request for Code Assist, and cutting the answer out of what comes back.

Both work on bytes: the client's document is spliced into the envelope and the value of ``response`` is cut out of an
answer without being encoded again, so that wrapping and unwrapping change nothing in between.  Field names are those
that the service itself takes (``project``, ``model``, ``requestId``, ``requestType``, ``userAgent``, ``request``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from agm.core import documents
from agm.core.documents import is_crowded, undense
from agm.core.errors import NOT_JSON, InvalidRequest
from agm.core.wire.bytechain import ByteChain

RequestType = Literal["agent", "image_gen"]

#: A body of more bytes than this is left where it is when it is wrapped, and sent from there.
LARGE = 64 * 1024

#: As numbers: to look for bytes, Python first makes an error of their not being one.
_LF, _CR = b"\n\r"

_DOCUMENT = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: The fields of a request, in either spelling.
_REQUEST_FIELDS = (
    *("contents", "model", "sessionId", "session_id", "labels", "tools"),
    *("systemInstruction", "system_instruction", "toolConfig", "tool_config", "safetySettings", "safety_settings"),
    *("generationConfig", "generation_config", "cachedContent", "cached_content", "serviceTier", "service_tier"),
    *("generateContentRequest", "generate_content_request", "instances", "parameters"),
)
_KNOWN = msgspec.json.Decoder(
    msgspec.defstruct(
        "Known",
        [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in _REQUEST_FIELDS],
        forbid_unknown_fields=True,
    )
)


class _Answer(msgspec.Struct):
    response: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_ANSWER = msgspec.json.Decoder(_Answer)


class NotAnEnvelope(ValueError):
    """An upstream's document is not JSON, or holds neither ``response`` nor ``error``."""


class UpstreamError(Exception):
    """
    An upstream's document is an error; `document` is ``{"error": …}`` on one line, `original` what the upstream wrote
    if that is not the same.
    """

    def __init__(self, document: bytes, original: bytes | None = None) -> None:
        super().__init__("the upstream answered with an error")
        self.document = document
        self.original = original


def parse_object(body: bytes) -> dict[str, msgspec.Raw]:
    """
    Return the fields of a JSON object, each value still the bytes that were sent.

    :raises InvalidRequest: in Google's words, if `body` is not one JSON object.
    """
    try:
        return _fields(body)
    except NOT_JSON as e:
        raise unreadable(e) from None


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    """
    As :func:`parse_object`; a large body that may be made of fields has none but those of a request.

    :raises msgspec.DecodeError: or another of :data:`agm.core.errors.NOT_JSON`.
    """
    if not is_crowded(undense(body), b":"):
        return _DOCUMENT.decode(body)
    known = _KNOWN.decode(body)
    found = ((name, getattr(known, name)) for name in _REQUEST_FIELDS)
    return {name: value for name, value in found if value is not msgspec.UNSET}


def unreadable(why: Exception) -> InvalidRequest:
    """Return the error for a client's document that is not JSON, from one of :data:`agm.core.errors.NOT_JSON`."""
    text = "It is nested too deeply" if isinstance(why, RecursionError) else str(why)
    return InvalidRequest(f"Invalid JSON payload received. {_sentence(text)}")


def request_type(model: str) -> RequestType:
    """Code Assist tells two kinds of generation apart; image models are named so."""
    return "image_gen" if "image" in model else "agent"


def wrap(
    body: bytes,
    *,
    project: str | None,
    model: str,
    request_id: str,
    user_agent: str,
    session_id: str | None,
    plain: bool = False,
) -> bytes | ByteChain:
    """
    Return the envelope of ``generateContent`` and ``streamGenerateContent`` around `body`.

    `body` stands in it byte for byte, but for two things that the service asks for: ``sessionId`` is put first unless
    the client sent one, and a redundant ``model`` field beside ``contents`` is left out (the service refuses it).  A
    large one is not copied for that: see :data:`LARGE`.

    :param plain: that :func:`agm.core.fingerprint.look` found it so; then it is not parsed again.
    :raises InvalidRequest: if `body` is not a JSON object.
    """
    own_session, empty = False, False
    if not plain:
        fields = parse_object(body)
        if "model" in fields:
            del fields["model"]
            body = _join(fields)
        own_session, empty = not fields.keys().isdisjoint(("sessionId", "session_id")), not fields
    start, session = 0, b""
    if session_id is not None and not own_session:
        start = body.index(b"{") + 1
        session = b'{"sessionId":' + msgspec.json.encode(session_id) + (b"" if empty else b",")
    opening, closing = _around(project, model, user_agent)
    before = opening + msgspec.json.encode(request_id) + closing + session
    if len(body) > LARGE:
        return ByteChain(before, memoryview(body)[start:], b"}")
    return before + body[start:] + b"}"


@lru_cache(maxsize=256)
def _around(project: str | None, model: str, user_agent: str) -> tuple[bytes, bytes]:
    """Return the parts of an envelope before and after the name of its request."""
    head = {"model": model} if project is None else {"project": project, "model": model}
    tail = {"requestType": request_type(model), "userAgent": user_agent}
    return (
        msgspec.json.encode(head)[:-1] + b',"requestId":',
        b"," + msgspec.json.encode(tail)[1:-1] + b',"request":',
    )


def wrap_count(body: bytes, *, model: str) -> bytes:
    """
    The narrow envelope of ``countTokens``: the service takes ``model`` and ``contents`` inside ``request``, and no
    more.

    Both of Gemini's forms are read: ``{contents}`` and ``{generateContentRequest: {contents, …}}``.  A field that is
    null is as good as left out, as everywhere in proto3 JSON.

    :raises InvalidRequest: if `body` is not a JSON object or has no contents.
    """
    fields = _present(parse_object(body))
    inner = fields.get("generateContentRequest", fields.get("generate_content_request"))
    contents = (_present(parse_object(bytes(inner))) if inner is not None else fields).get("contents")
    if contents is None:
        raise InvalidRequest("contents is not specified: countTokens counts the tokens of contents.")
    head = b'{"request":{"model":' + msgspec.json.encode(f"models/{model}") + b',"contents":'
    return head + bytes(contents) + b"}}"


#: What ``countTokens`` of Vertex AI reads of a request; it refuses everything else.
_COUNTED_BY_VERTEX = (
    ("contents", "contents"),
    ("systemInstruction", "system_instruction"),
    ("tools", "tools"),
    ("generationConfig", "generation_config"),
)
_TURNS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def plain_count(body: bytes) -> bytes:
    """
    ``countTokens`` as Vertex AI takes it: the contents stand at the top.

    Gemini's other form, ``{generateContentRequest: {…}}``, is opened.  A body that is not of that form stays as it is,
    byte for byte; what is wrong with it is the upstream's to say.
    """
    try:
        fields = _present(_fields(body))
        inner = fields.get("generateContentRequest", fields.get("generate_content_request"))
        if inner is None:
            return body
        asked = _present(_fields(bytes(inner)))
    except NOT_JSON:
        return body
    return _join({name: asked[name] for names in _COUNTED_BY_VERTEX for name in names if name in asked})


def with_roles(body: bytes) -> bytes:
    """
    A request in which every turn has the role that Vertex AI insists on; the Developer API takes a turn without one for
    the user's.

    A body that lacks none, or cannot be read, stays as it is, byte for byte.
    """
    if is_crowded(body, b"{"):
        return body
    try:
        fields = _fields(body)
        turns = _TURNS.decode(fields["contents"])
    except (*NOT_JSON, KeyError):
        return body
    if all("role" in _present(turn) for turn in turns):
        return body
    user = {"role": msgspec.Raw(b'"user"')}
    fields["contents"] = msgspec.Raw(b"[" + b",".join(_join(user | _present(turn)) for turn in turns) + b"]")
    return _join(fields)


def unwrap(document: bytes) -> bytes:
    """
    Return the value of ``response`` in a Code Assist answer or event, as it was sent.

    :raises UpstreamError: if the document is an error.
    :raises NotAnEnvelope: if it is not JSON, or neither of the two.
    """
    try:
        answer = _ANSWER.decode(undense(document))
    except NOT_JSON:
        error = error_document(document)
        if error is not None:
            raise UpstreamError(error) from None
        raise NotAnEnvelope("not a JSON object") from None
    if answer.error is not msgspec.UNSET:
        raise UpstreamError(_of_error(answer.error))
    if answer.response is msgspec.UNSET:
        raise NotAnEnvelope("a JSON object without response")
    return bytes(answer.response)


class _ErrorDocument(msgspec.Struct):
    error: msgspec.Raw


_ERROR = msgspec.json.Decoder(_ErrorDocument)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


def error_document(document: bytes) -> bytes | None:
    """
    ``{"error": …}`` on one line from a document that is one, or an array whose first element is one; else None.

    Google answers a failed streaming call with the array, which no SDK expects from the others.  Of an error that is
    too large or too deep to be read, code, status and message are left.
    """
    try:
        found = _ERROR.decode(undense(document))
    except NOT_JSON:
        if len(document) > documents.LARGE:
            return None
        try:
            found = _ERROR.decode(_ARRAY.decode(document)[0])
        except (*NOT_JSON, IndexError):
            return None
    return _of_error(found.error)


def _of_error(error: msgspec.Raw) -> bytes:
    whole = bytes(error) if memoryview(error).nbytes <= documents.LARGE else b""
    if not whole or not documents.is_bounded(whole):
        return _in_short(error)
    return b'{"error":' + one_line(whole) + b"}"


class _ErrorInShort(msgspec.Struct, omit_defaults=True):
    code: int | msgspec.UnsetType = msgspec.UNSET
    message: str = "The upstream's error is too large to be shown."
    status: str | msgspec.UnsetType = msgspec.UNSET


_IN_SHORT = msgspec.json.Decoder(_ErrorInShort, strict=False)
#: Characters that are left of a message.
_SHOWN = 4096


def _in_short(error: msgspec.Raw) -> bytes:
    try:
        short = _IN_SHORT.decode(error)
    except NOT_JSON:
        short = _ErrorInShort()
    left = {"message": short.message[:_SHOWN], "code": short.code, "status": short.status}
    return msgspec.json.encode({"error": {name: value for name, value in left.items() if value is not msgspec.UNSET}})


#: What an error's code means where it is a word: in the Interactions API.
STATUS_OF_WORD: Mapping[str, int] = {
    "invalid_request": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "conflict": 409,
    "too_many_requests": 429,
    "resource_exhausted": 429,
    "cancelled": 499,
    "internal_error": 500,
    "not_implemented": 501,
    "bad_gateway": 502,
    "service_unavailable": 503,
    "gateway_timeout": 504,
}


class _ErrorFields(msgspec.Struct):
    code: int | str = 500


class _CodedDocument(msgspec.Struct):
    error: _ErrorFields


_CODED = msgspec.json.Decoder(_CodedDocument)


def error_code(document: bytes) -> int:
    """Return the HTTP status that an error document names; 500 where it names none."""
    try:
        code = _CODED.decode(document).error.code
    except NOT_JSON:
        return 500
    if isinstance(code, str):
        return STATUS_OF_WORD.get(code, 500)
    return code if 400 <= code <= 599 else 500


def one_line(document: bytes) -> bytes:
    """
    Return a JSON document without line breaks.

    Inside a JSON string a line break is always escaped, so those that are left are white space between tokens.
    """
    if _LF not in document and _CR not in document:
        return document
    return document.replace(b"\r\n", b" ").replace(b"\n", b" ").replace(b"\r", b" ")


def _present(fields: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    # not its bytes, unless they are few: that would be a copy of an image
    return {name: value for name, value in fields.items() if memoryview(value).nbytes != 4 or bytes(value) != b"null"}


def _join(fields: dict[str, msgspec.Raw]) -> bytes:
    return b"{" + b",".join(json.dumps(k).encode() + b":" + bytes(v) for k, v in fields.items()) + b"}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")

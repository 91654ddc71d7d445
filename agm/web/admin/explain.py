"""``/_agm/explain``: what would happen to a request, which is not sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import msgspec

from agm.core.dialect import TranslatedCall
from agm.core.documents import undense
from agm.core.errors import NOT_JSON, InvalidRequest
from agm.core.wire import vertex
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import MAX_MODEL, METHODS, VERSIONS, ModelCall, bare_model, parse_call, quote_model
from agm.serving.explain import CREATION, explain
from agm.serving.gateway import Gateway
from agm.serving.prepare import InboundCall, Translated
from agm.web.admin.base import AdminResource
from agm.web.base import Visit
from agm.web.inbound import CREDENTIAL_HEADERS, CREDENTIAL_PARAMETERS, framing_of

#: RFC 9110, section 5.1: a header's name is a token; and what Twisted lets through of a value.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\u0100-\U0010ffff]*")


#: Makes a call of a request in a dialect, of its path and its body; see :class:`agm.hookspecs.Site`.
Translate = Callable[[str, bytes], TranslatedCall]


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /_agm/explain``; what may be of any size is left as it is written."""

    model: str
    method: str = "generateContent"
    body: msgspec.Raw = msgspec.Raw(b"{}")
    version: str = "v1beta"
    #: Parameters of the query, ``{"alt": "sse"}``, and headers.
    written_query: msgspec.Raw = msgspec.field(name="query", default=msgspec.Raw(b"{}"))
    written_headers: msgspec.Raw = msgspec.field(name="headers", default=msgspec.Raw(b"{}"))
    #: The name of a client key, to explain a request that comes with it.
    key: str | None = None
    #: The dialect that the request is in, and the path that it is for; "" for the dialect's usual one.
    dialect: str | None = None
    path: str = ""

    @property
    def query(self) -> dict[str, str]:
        """The parameters.  :raises msgspec.ValidationError: if they are none."""
        return _TEXTS.decode(self.written_query)

    @property
    def headers(self) -> dict[str, str]:
        """The headers.  :raises msgspec.ValidationError: if they are none."""
        return _TEXTS.decode(self.written_headers)


#: Asks about a request in the shape of Vertex AI, whose clients use this version.
VERTEX_VERSION = "v1beta1"
#: Bytes that the parameters and the headers of a question may have: more than a request's head.
MAX_HEAD = 64 * 1024
_TEXTS = msgspec.json.Decoder(dict[str, str])
_FIELDS = msgspec.json.Decoder(dict[str, Any])


class Explain(AdminResource):
    """``POST /_agm/explain``: what would happen to a request."""

    methods = ("POST",)

    async def respond_to_admin(self, visit: Visit) -> None:
        question = read_question(visit.wire.body)
        dialects = visit.wire.site.dialects
        self.tell(visit, await explain(self.gateway, incoming(self.gateway, question, visit.wire.id, dialects)))


def read_question(body: bytes) -> Question:
    """
    Return a question from JSON.

    :raises InvalidRequest: if it is not one.  No header of it is repeated: keys get pasted into wrong places.
    """
    try:
        question = msgspec.json.decode(undense(body), type=Question)
        if len(bytes(question.written_query)) + len(bytes(question.written_headers)) > MAX_HEAD:
            raise InvalidRequest(f"The parameters and headers of the question are larger than {MAX_HEAD} bytes.")
        headers, _ = question.headers, question.query
    except NOT_JSON as e:
        raise InvalidRequest(f"This is not a question to explain: {e}") from None
    if len(question.model) > 2 * MAX_MODEL:
        raise InvalidRequest(f"The model's name is longer than {MAX_MODEL} characters.")
    if question.method not in (*METHODS, CREATION):
        there_are = ", ".join([*METHODS, CREATION])
        raise InvalidRequest(f"There is no method {question.method[:60]!r}; there are {there_are}.")
    if question.version not in (*VERSIONS, VERTEX_VERSION):
        there_are = ", ".join([*VERSIONS, VERTEX_VERSION])
        raise InvalidRequest(f"There is no version {question.version[:60]!r}; there are {there_are}.")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidRequest("One of the headers cannot be one: a name is a token, a value one line of Latin-1.")
    return question


def incoming(
    gateway: Gateway, question: Question, request_id: str, dialects: Mapping[str, Translate] = MappingProxyType({})
) -> InboundCall:
    """
    Return the call that a question is about, read from a path as a client would write it.

    :param dialects: what translates a request in another dialect, by its name.
    :raises NotFound: if it names no model.
    :raises InvalidRequest: if it names what no model can be called, or a client key that is not known.
    """
    if question.dialect is not None:
        return _in_dialect(gateway, question, request_id, dialects)
    model, place = bare_model(question.model), None
    path = f"/{question.version}/models/{quote_model(model)}:{question.method}"
    if question.method == CREATION:
        path, call = f"/{question.version}/interactions", ModelCall(question.version, model, question.method)
    elif question.version == VERTEX_VERSION:
        path = f"/{VERTEX_VERSION}/publishers/google/models/{quote_model(model)}:{question.method}"
        asked = vertex.parse(path.encode("ascii"))
        assert isinstance(asked, vertex.VertexCall)  # the path is one
        call, place = asked.call, asked.place
    else:
        call = parse_call(path.encode("ascii"))
    framing = framing_of(question.method, question.query, gateway.config.gateway.stream_default)
    return _inbound(gateway, question, request_id, path, call, framing, bytes(question.body), place=place)


def _inbound(
    gateway: Gateway,
    question: Question,
    request_id: str,
    path: str,
    call: ModelCall,
    framing: Framing,
    body: bytes,
    **more: Any,
) -> InboundCall:
    return InboundCall(
        id=request_id,
        path=path,
        call=call,
        framing=framing,
        query={name: value for name, value in question.query.items() if name not in CREDENTIAL_PARAMETERS},
        headers={
            name.lower(): value
            for name, value in question.headers.items()
            if name.lower().encode("ascii") not in CREDENTIAL_HEADERS
        },
        key=None if question.key is None else gateway.clients.named(question.key),
        body=body,
        received_at=gateway.wall(),
        **more,
    )


def _in_dialect(
    gateway: Gateway, question: Question, request_id: str, dialects: Mapping[str, Translate]
) -> InboundCall:
    """Translate the request of a question as its dialect's resource would."""
    name = question.dialect or ""
    if name not in dialects:
        known = ", ".join(sorted(dialects)) or "none"
        raise InvalidRequest(f"There is no dialect {name[:60]!r}; there are: {known}.")
    body = bytes(question.body)
    with suppress(*NOT_JSON):  # the dialect says what is wrong with it
        body = msgspec.json.encode({**_FIELDS.decode(body), "model": question.model})
    made = dialects[name](question.path, body)
    framing = Framing.SSE if made.method == "streamGenerateContent" else Framing.UNARY
    call = ModelCall("v1beta", made.model.removeprefix("models/"), made.method)
    return _inbound(
        gateway,
        question,
        request_id,
        question.path,
        call,
        framing,
        made.body,
        dialect=name,
        for_model=made.for_model,
        translated=Translated(body, made.left_out),
    )

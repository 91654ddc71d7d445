"""
How each kind of upstream is spoken to: the path, the query and the body of a request to it.

``api-key`` takes the client's body as it is, and so does ``vertex``, but for two things that it refuses and the
Developer API does not: a turn without a role, and one form of ``countTokens``.  ``code-assist`` takes the body in the
``v1internal`` envelope.
Every path is built from its parts; of the client's query only Google's own system parameters are taken along.
"""

from __future__ import annotations

from urllib.parse import quote

from agm import __version__, hookimpl
from agm.core import live
from agm.core.request import Account, GatewayRequest, UpstreamRequest
from agm.core.wire import envelope, vertex
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import quote_model
from agm.observe.request_ids import new_uuid

USER_AGENT = f"agm/{__version__}"

#: System parameters of Google's APIs that are about the answer's form, and safe to take along.
_PARAMETERS = ("$alt", "prettyPrint", "$prettyPrint", "fields", "$fields", "quotaUser")
#: Headers that a client may set for the upstream: what they say is about the request, not about who sends it.
_FORWARDED = tuple(
    (name.lower(), name.encode("ascii"))
    for name in ("X-Server-Timeout", "X-Vertex-AI-LLM-Request-Type", "X-Vertex-AI-LLM-Shared-Request-Type")
)
_FORWARDED_NAMES = frozenset(lower for lower, _ in _FORWARDED)
#: What goes along when a session is opened.
_LIVE_HEADERS = ((b"Api-Revision", "api-revision"), *((name, lower) for lower, name in _FORWARDED))
_OWN_HEADERS = (
    (b"Content-Type", b"application/json"),
    (b"User-Agent", USER_AGENT.encode("ascii")),
    (b"Accept-Encoding", b"identity"),
)
_CONVERSATIONS = ("generateContent", "streamGenerateContent", "countTokens")
_VERTEX_VERSIONS = {"v1": "v1", "v1beta": "v1beta1", "v1alpha": "v1beta1"}


@hookimpl(trylast=True)
def agm_wrap_request(request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest | None:
    """Return the request for an account of any of the three kinds, or of a plugin's that does not say its own."""
    if account.upstream.wrap is not None:
        return None
    if request.framing is Framing.LIVE:
        return _live(request, account, body)
    match account.kind:
        case "code-assist":
            return _code_assist(request, account, body)
        case "vertex":
            path = _vertex_path(request, account)
            if request.method == "countTokens" and request.place is None:
                body = envelope.plain_count(body)
            if request.method in _CONVERSATIONS and not (body is request.body.raw and request.body.roles):
                body = envelope.with_roles(body)
        case _:
            method = request.method
            if request.place is not None:
                method, body = _for_the_developer_api(request, body)
            model = quote_model(request.model)
            collection = "" if request.model.startswith(("tunedModels/", "dynamic/")) else "models/"
            path = f"/{request.version}/{collection}{model}:{method}"
    return UpstreamRequest(
        path=path + _query(request),
        headers=_headers(request),
        body=body,
        framing=request.upstream_framing,
    )


def _live(request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest:
    """Return the path of a session, and its first message with the model as the account's upstream calls it."""
    if request.method == live.VERTEX:
        version, name = _VERTEX_VERSIONS[request.version], f"publishers/google/models/{request.model}"
        if not account.express:
            name = f"projects/{account.project}/locations/{account.location}/{name}"
        path = f"/ws/google.cloud.aiplatform.{version}.LlmBidiService/BidiGenerateContent"
    elif request.method == live.INTERACTION:
        name, path = request.model, f"/{request.version}/interactions/live"
        if name == request.asked_model:
            name = ""  # as the client wrote it
    else:
        name = request.model if request.model.startswith(("tunedModels/", "dynamic/")) else f"models/{request.model}"
        constrained = "Constrained" if request.query.get("constrained") else ""
        service = f"google.ai.generativelanguage.{request.version}.GenerativeService"
        path = f"/ws/{service}.{request.method}{constrained}"
    headers: list[tuple[bytes, bytes]] = [(b"User-Agent", USER_AGENT.encode("ascii"))]
    headers += [(n, request.headers[low].encode("latin-1")) for n, low in _LIVE_HEADERS if low in request.headers]
    return UpstreamRequest(
        path=path,
        headers=tuple(headers),
        body=live.with_model(body, request.method, name) if request.model and name else body,
        framing=Framing.LIVE,
        method="GET",
    )


def _vertex_path(request: GatewayRequest, account: Account) -> str:
    version = _VERTEX_VERSIONS[request.version]
    if account.express:
        parent = ""
    else:
        parent = f"/projects/{quote(account.project or '', safe='')}/locations/{quote(account.location, safe='')}"
    model = request.model
    if model.startswith(("tunedModels/", "endpoints/")):
        place = "endpoints/" + quote_model(model.partition("/")[2])
    elif model.startswith("publishers/"):
        place = quote_model(model)
    else:
        place = "publishers/google/models/" + quote_model(model)
    return f"/{version}{parent}/{place}:{request.method.removeprefix('vertex.')}"


def _for_the_developer_api(request: GatewayRequest, body: bytes) -> tuple[str, bytes]:
    """Give method and message of what a client of Vertex AI has written, where they are not the same."""
    method = request.method
    match method:
        case "countTokens":
            return method, vertex.developer_count(body, request.model)
        case "embedContent":
            return method, vertex.developer_embed(body)
        case "predict" if vertex.embeds(request.model):
            return "batchEmbedContents", vertex.developer_predict(body, request.model)
    return method, body


def _code_assist(request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest:
    model = request.model.removeprefix("publishers/google/models/")
    if request.method == "countTokens":
        return UpstreamRequest(
            path="/v1internal:countTokens",
            headers=_headers(request),
            body=envelope.wrap_count(body, model=model),
            framing=Framing.UNARY,
        )
    stream = request.method == "streamGenerateContent"
    return UpstreamRequest(
        path=f"/v1internal:{request.method}" + ("?alt=sse" if stream else ""),
        headers=_headers(request),
        body=envelope.wrap(
            body,
            project=account.project,
            model=model,
            request_id=new_uuid(),
            user_agent=USER_AGENT,
            session_id=request.body.fingerprint,
            plain=body is request.body.raw and request.body.plain,
        ),
        framing=Framing.SSE if stream else Framing.UNARY,
        wrapped=True,
    )


def _query(request: GatewayRequest) -> str:
    if not request.query and request.upstream_framing is Framing.UNARY:
        return ""
    parameters = [(name, request.query[name]) for name in _PARAMETERS if name in request.query]
    if request.upstream_framing is Framing.SSE:
        parameters.insert(0, ("alt", "sse"))
        if request.framing is Framing.ARRAY:  # the array is made here: only the enums' form is the client's to say
            parameters = [(name, value) for name, value in parameters if name != "$alt"]
    elif "$alt" not in request.query and request.upstream_framing is Framing.ARRAY:
        parameters.insert(0, ("alt", "json"))
    elif request.query.get("alt", "").startswith("json;"):
        parameters.insert(0, ("alt", request.query["alt"]))
    if not parameters:
        return ""
    return "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters)


def _headers(request: GatewayRequest) -> tuple[tuple[bytes, bytes], ...]:
    given = request.headers
    if _FORWARDED_NAMES.isdisjoint(given):
        return _OWN_HEADERS
    forwarded = [(name, given[lower].encode("latin-1")) for lower, name in _FORWARDED if lower in given]
    return (*_OWN_HEADERS, *forwarded)

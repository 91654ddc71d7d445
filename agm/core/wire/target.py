"""
Request targets: from the raw path of a request to the model and method it names, and back to a path for an upstream.

The model is everything before the **last** colon of the path, because model names hold slashes, spaces and colons.
A path is matched by one anchored pattern and rebuilt from its parts, so that nothing a client writes can change the
host, the port or the query of the upstream's URL.  Nothing is read or sent here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

import attrs

from agm.core.errors import InvalidRequest, NotFound

VERSIONS = ("v1beta", "v1alpha", "v1")

#: What a method does to a model, as Google names it.  All are POST.
METHODS = (
    "generateContent",
    "streamGenerateContent",
    "countTokens",
    "embedContent",
    "batchEmbedContents",
    "predict",
)

#: Collections whose members are called like models.  ``models/`` is not part of a model's id here, the others are.
_COLLECTIONS = ("tunedModels", "dynamic")

#: Clients that were given a base URL without a version, and with a slash at its end, ask for ``//models/…``.
_PATH = re.compile(rb"/+(?:(?P<version>v1beta|v1alpha|v1)/+|(?=models(?:/|\Z)))(?P<rest>[^/].*)", re.DOTALL)
DEFAULT_VERSION = "v1beta"
_NOT_IN_A_MODEL = re.compile(r"[\x00-\x1f\x7f\\?#]")
_PLAIN_CALL = re.compile(rb"/(v1beta|v1alpha|v1)/models/([A-Za-z0-9][A-Za-z0-9._-]{0,100}):([A-Za-z]{1,40})")
_PREFIXES = re.compile(r"(?:models/)+")
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
#: A base URL that ends in a version, and a client that adds its own.
_TWICE = re.compile(
    rb"/+(?:(?:upload|download)/+)?(v[0-9]+[a-z0-9]*)/+(?:(?:upload|download)/+)?(v[0-9]+[a-z0-9]*)(?:/.*)?", re.DOTALL
)
#: Paths that clients ask for when they were set up for something else, each with what helps.
_ELSEWHERE = (
    (
        re.compile(rb"/*"),
        "Nothing is served at the root. google-genai with vertexai=True and a base URL alone asks here whatever it "
        "calls, so that its model cannot be told: give it an api_key, or project and location, as well.",
    ),
    (
        re.compile(rb"/+v1internal(?:[:/].*)?", re.DOTALL),
        "This is a path of Code Assist, as gemini-cli asks for it when CODE_ASSIST_ENDPOINT is set and a person is "
        "signed in; a gateway would have to invent that person's tier and quota. Set GOOGLE_GEMINI_BASE_URL and "
        'GEMINI_API_KEY, and "gemini-api-key" for security.auth.selectedType, in its place: accounts of Code Assist '
        "serve that here.",
    ),
    (
        re.compile(
            rb"/+(?:[a-z0-9]+/+){0,3}(?:chat/completions|completions|responses|embeddings|images/(?:generations|edits)"
            rb"|audio/(?:speech|transcriptions))/*"
        ),
        "This is a path of the OpenAI API. Clients of it have the base URL /v1 here, or /openai/v1, unless [dialects] "
        "openai = false turns it off; there are chat/completions, responses, embeddings, images/generations, "
        "images/edits, audio/speech, audio/transcriptions and models. Google's own form of it is served below "
        "/v1beta/openai/.",
    ),
    (
        re.compile(rb"/+(?:[a-z0-9]+/+){0,2}messages(?:/count_tokens)?/*"),
        "This is a path of the Anthropic API. Clients of it have the gateway's own URL as their base URL, or "
        "/anthropic, unless [dialects] anthropic = false turns it off.",
    ),
    (
        re.compile(rb"/+ws/.*", re.DOTALL),
        "Live sessions are opened at /ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent "
        "and, on Vertex AI, at /ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent.",
    ),
)

#: Characters that a model's id may hold unescaped in a path (RFC 3986, section 3.3: pchar and "/").
_MODEL_SAFE = "/:@!$&'()*+,;=-._~"

MAX_MODEL = 512


@attrs.frozen
class ModelList:
    """``GET /{version}/models``."""

    version: str


@attrs.frozen
class ModelGet:
    """``GET /{version}/models/{model}``; `model` has no ``models/`` prefix."""

    version: str
    model: str


@attrs.frozen
class ModelCall:
    """``POST /{version}/models/{model}:{method}``; `model` is decoded and has no ``models/`` prefix."""

    version: str
    model: str
    method: str


def parse_collection(path: bytes) -> ModelList | ModelGet:
    """
    Parse the target of a GET.

    :param path: the raw path of the request, without its query.
    :raises NotFound: if it is not the list of models or one of them.
    :raises InvalidRequest: if it holds what no model's id can hold.
    """
    version, rest = _split(path)
    if rest.rstrip("/") == "models":
        return ModelList(version)
    model = _strip_models(rest)
    if model is None:
        raise NotFound(f"The path {shown(path)} is not known. Models are listed at /{version}/models.")
    return ModelGet(version, check_model(model))


@lru_cache(maxsize=512)
def plain_call(path: bytes) -> ModelCall | None:
    """
    Parse the target of nearly every POST, at a glance: a method of a model with a plain name.

    :param path: the raw path of the request, without its query.
    :returns: None for everything that has to be looked at more closely, by :func:`parse_call` and others.
    """
    match = _PLAIN_CALL.fullmatch(path)
    if match is None:
        return None
    version, model, method = (part.decode("ascii") for part in match.groups())
    return ModelCall(version, model, method) if method in METHODS else None


def parse_call(path: bytes) -> ModelCall:
    """
    Parse the target of a POST.

    :param path: the raw path of the request, without its query; its colon may be percent-encoded.
    :raises NotFound: if it names no model and method, or a method that Google does not have.
    :raises InvalidRequest: if it holds what no model's id can hold.
    """
    plain = plain_call(path)
    if plain is not None:
        return plain
    version, rest = _split(path)
    named = _strip_models(rest)
    if named is None:
        raise NotFound(
            f"The path {shown(path)} is not known. Calls are made at /{version}/models/MODEL:METHOD, "
            f"METHOD one of {', '.join(METHODS)}."
        )
    model, colon, method = named.rpartition(":")
    if named.endswith("/countTokens"):  # an old spelling that some tools still use
        model, colon, method = named.removesuffix("/countTokens"), ":", "countTokens"
    if not colon or not model or not _METHOD.fullmatch(method):
        raise NotFound(
            f"The path {shown(path)} names no method. Write /{version}/models/MODEL:METHOD, "
            f"METHOD one of {', '.join(METHODS)}."
        )
    model = check_model(model)
    if method not in METHODS:
        raise NotFound(
            f"models/{model} is not found for API version {version}, or is not supported for {method}. "
            "Call ListModels to see the list of available models and their supported methods."
        )
    return ModelCall(version, model, method)


def methods_of(path: bytes) -> Sequence[str]:
    """
    Return the HTTP methods that a path below a version has.

    :param path: the raw path of the request, without its query.
    :raises NotFound: if nothing is there, whatever the method.
    """
    name = path.rstrip(b"/").rpartition(b"/")[2].lower()
    called = b":" in name or b"%3a" in name or name == b"counttokens"
    with suppress(InvalidRequest):  # it is there, but no model can be called so
        parse_call(path) if called else parse_collection(path)
    return ("POST",) if called else ("GET", "HEAD")


def unknown(path: bytes, base: str, taken_away: str = "") -> NotFound:
    """
    Return the error for a path that nobody serves, with what helps where that can be told.

    :param path: the raw path of the request, without its query.
    :param base: the base URL that clients should have.
    :param taken_away: the path of that URL, which a proxy should have taken away.
    """
    named, plain = shown(path), unquote_to_bytes(path)
    if taken_away and (plain + b"/").startswith(taken_away.encode("ascii") + b"/"):
        return NotFound(
            f"The path {named} is not known: the proxy before the gateway has to strip {taken_away}, the path of "
            "[gateway] public_url."
        )
    twice = _TWICE.fullmatch(plain)
    if twice is not None:
        first, second = (version.decode("ascii")[:20] for version in twice.groups())
        return NotFound(
            f"The path {named} has an API version twice, {first} and {second}: the client adds one by itself. Leave it "
            f"out of the base URL: {base}"
        )
    cure = next((cure for pattern, cure in _ELSEWHERE if pattern.fullmatch(plain)), None)
    if cure is None and _PATH.fullmatch(path):
        try:
            methods_of(path)
        except NotFound as e:  # it knows better what is wrong
            return e
    cure = cure or "The Gemini API is served below /v1beta/, health at /healthz."
    return NotFound(f"The path {named} is not known. {cure}")


def quote_model(model: str) -> str:
    """`model` as it stands in the path of an upstream URL."""
    return quote(model, safe=_MODEL_SAFE)


def bare_model(name: str) -> str:
    """Return a model's id from its resource name: ``models/x`` and ``models/models/x`` are ``x``."""
    prefixes = _PREFIXES.match(name)
    return name if prefixes is None else name[prefixes.end() :]


def _split(path: bytes) -> tuple[str, str]:
    """Return the API version and the decoded rest of a path."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise NotFound(f"The path {shown(path)} is not known. The Gemini API is served below /v1beta/.")
    try:
        rest = unquote_to_bytes(match["rest"]).decode("utf-8")
    except UnicodeDecodeError:
        of_a_model = match["rest"].startswith(tuple(f"{name}/".encode("ascii") for name in ("models", *_COLLECTIONS)))
        kind = InvalidRequest if of_a_model else NotFound
        raise kind(f"The path {shown(path)} is not UTF-8.") from None
    version = match["version"]
    return DEFAULT_VERSION if version is None else version.decode("ascii"), rest


def _strip_models(rest: str) -> str | None:
    """Return the part of a path after ``models/``, or the whole of it for the other collections."""
    if rest.startswith("models/"):
        return bare_model(rest)
    collection, slash, name = rest.partition("/")
    return rest if collection in _COLLECTIONS and slash and name else None


def check_model(model: str) -> str:
    """
    Return a model's name, as it is.

    :raises InvalidRequest: if no model can be called so.
    """
    if _NOT_IN_A_MODEL.search(model):
        raise InvalidRequest("The model's name holds a character that no model's name can hold.")
    if len(model) > MAX_MODEL:
        raise InvalidRequest(f"The model's name is longer than {MAX_MODEL} characters.")
    if any(segment in ("", ".", "..") for segment in model.split("/")):
        raise InvalidRequest("The model's name has an empty segment, or one of dots only.")
    return model


def shown(path: bytes) -> str:
    """A path as it may be shown in a message: ASCII, and not longer than a line."""
    text = path.decode("ascii", "backslashreplace")
    return text if len(text) <= 120 else text[:117] + "..."

"""Targets: from any path to a model and a method, and nothing that leaves the place it is quoted into."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.errors import GatewayError, InvalidRequest, NotFound
from agm.core.wire.target import (
    MAX_MODEL,
    METHODS,
    VERSIONS,
    ModelCall,
    ModelGet,
    ModelList,
    bare_model,
    methods_of,
    parse_call,
    parse_collection,
    quote_model,
    unknown,
)
from tests.core.cuts import unhurried

SEGMENTS = st.text(
    st.characters(min_codepoint=0x20, exclude_characters="/\\?#\x7f", exclude_categories=["Cs"]),
    min_size=1,
    max_size=20,
).filter(lambda s: s not in (".", ".."))
MODELS = (
    st.lists(SEGMENTS, min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda model: not model.startswith("models/") and model != "models")
)


@unhurried
@given(MODELS, st.sampled_from(VERSIONS), st.sampled_from(METHODS))
def test_any_model_survives_being_quoted_and_parsed(model: str, version: str, method: str) -> None:
    """Spaces, colons, slashes, percent signs, every alphabet: quoted for an upstream, it names the same model."""
    path = f"/{version}/models/{quote_model(model)}:{method}".encode("ascii")
    assert parse_call(path) == ModelCall(version, model, method)
    assert parse_collection(path.rpartition(b":")[0]) == ModelGet(version, model)


@unhurried
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_quoted_model_cannot_leave_its_path(model: str) -> None:
    """No query, no fragment, no control character, no backslash, no line end, whatever a plugin makes of a name."""
    assert re.fullmatch(r"[-/:@!$&'()*+,;=._~%0-9A-Za-z]*", quote_model(model))


def outcome(parse: Callable[[bytes], object], path: bytes) -> object:
    """What a path is found to be, or the error that says why it is none."""
    try:
        return parse(path)
    except GatewayError as e:
        return e


@unhurried
@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda b: b"/v1beta/models/" + b + b":generateContent"))
def test_any_bytes_are_a_target_or_refused(path: bytes) -> None:
    """Nothing else is raised, and what is understood can be sent on."""
    for parse in (parse_call, parse_collection):
        found = outcome(parse, path)
        if isinstance(found, GatewayError):
            assert found.status in (400, 404)
            assert len(found.body()) < 3000
        else:
            model = getattr(found, "model", "m")
            assert not {"", ".", ".."} & set(model.split("/"))
            assert quote_model(model)


@pytest.mark.parametrize(
    ("path", "model", "method"),
    [
        ("/v1beta/models/gemini-2.5-flash:generateContent", "gemini-2.5-flash", "generateContent"),
        ("/v1/models/m:countTokens", "m", "countTokens"),
        ("/v1alpha/models/m:predict", "m", "predict"),
        ("/v1beta/models/m%3AgenerateContent", "m", "generateContent"),
        ("/v1beta/models/m%3astreamGenerateContent", "m", "streamGenerateContent"),
        ("/v1beta/models/models/m:generateContent", "m", "generateContent"),
        ("/v1beta/models/models/models/m:generateContent", "m", "generateContent"),
        ("/v1beta/models%2Fm:generateContent", "m", "generateContent"),
        ("//v1beta/models/m:generateContent", "m", "generateContent"),
        ("///v1beta//models/m:generateContent", "m", "generateContent"),
        ("/v1beta/models/m/countTokens", "m", "countTokens"),
        ("/v1beta/models/a/b:c/countTokens", "a/b:c", "countTokens"),
        ("/v1beta/models/my/model:free:generateContent", "my/model:free", "generateContent"),
        ("/v1beta/models/a%20b:generateContent", "a b", "generateContent"),
        ("/v1beta/models/a+b:generateContent", "a+b", "generateContent"),
        ("/v1beta/models/a%2520b:generateContent", "a%20b", "generateContent"),
        ("/v1beta/models/publishers/google/models/m:generateContent", "publishers/google/models/m", "generateContent"),
        ("/v1beta/tunedModels/abc:generateContent", "tunedModels/abc", "generateContent"),
        ("/v1beta/models/tunedModels/abc:generateContent", "tunedModels/abc", "generateContent"),
        ("/v1beta/dynamic/id:generateContent", "dynamic/id", "generateContent"),
        ("/v1beta/models/gr%C3%B6%C3%9Fe:embedContent", "größe", "embedContent"),
        ("/v1beta/models/...:generateContent", "...", "generateContent"),
        ("/v1beta/models/@x;y=1:generateContent", "@x;y=1", "generateContent"),
        ("/v1beta/models/" + "m" * MAX_MODEL + ":generateContent", "m" * MAX_MODEL, "generateContent"),
    ],
)
def test_odd_paths_that_real_clients_send_are_understood(path: str, model: str, method: str) -> None:
    """The method is after the last colon; all before it is the model's."""
    call = parse_call(path.encode())
    assert (call.model, call.method) == (model, method)
    assert call.version == path.lstrip("/").partition("/")[0]


@pytest.mark.parametrize(
    "model",
    [
        "..",
        "%2e%2e",
        "a/../b",
        "a%2F..%2Fb",
        ".",
        "a//b",
        "a/",
        "/a",
        "a%00b",
        "%00",
        "a%0D%0AHost:%20evil",
        "a%0ab",
        "a%09b",
        "a%7Fb",
        "a%5Cb",
        "a%3Fkey=x",
        "a%23b",
        "a\nb",
        "%ff",
        "a%C3",
        "%ed%a0%80",
        "m" * (MAX_MODEL + 1),
    ],
)
def test_what_no_model_can_be_called_is_refused(model: str) -> None:
    """Dots, empty segments, control characters, what would end the path, what is not UTF-8, what is too long."""
    for path in (f"/v1beta/models/{model}:generateContent", f"/v1beta/tunedModels/{model}:generateContent"):
        with pytest.raises(InvalidRequest):
            parse_call(path.encode())
    with pytest.raises(InvalidRequest):
        parse_collection(f"/v1beta/models/{model}".encode())


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1beta",
        "/v1beta/",
        "/v1beta//",
        "/v2/models/m:generateContent",
        "/v1beta1/models/m:generateContent",
        "/V1beta/models/m:generateContent",
        "v1beta/models/m:generateContent",
        "/v1beta/models",
        "/v1beta/models/",
        "/v1beta/models/:generateContent",
        "/v1beta/models/m",
        "/v1beta/models/m:",
        "/v1beta/models/m:gen.erate",
        "/v1beta/models/m:1generate",
        "/v1beta/models/m: generateContent",
        "/v1beta/models/m:generateContent/",
        "/v1beta/models/m:" + "g" * 65,
        "/v1beta/models/m:generatecontent",
        "/v1beta/models/m:batchGenerateContent",
        "/v1beta/modelsm:generateContent",
        "/v1beta/tunedModels:generateContent",
        "/v1beta/files/m:generateContent",
        "/x/v1beta/models/m:generateContent",
        "http://host/v1beta/models/m:generateContent",
        "@host/v1beta/models/m:generateContent",
        "/" + "x" * 100_000,
    ],
)
def test_what_names_no_model_and_method_is_not_found(path: str) -> None:
    """Other versions, other collections, no method, an unknown one, the absolute form; the message stays short."""
    with pytest.raises(NotFound) as caught:
        parse_call(path.encode())
    assert len(caught.value.message) < 500


def test_an_unknown_method_is_not_found_in_googles_words() -> None:
    """SDKs match on them."""
    with pytest.raises(
        NotFound, match=r"^models/m is not found for API version v1, or is not supported for doIt\. Call"
    ):
        parse_call(b"/v1/models/m:doIt")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1beta/models", ModelList("v1beta")),
        ("/v1/models/", ModelList("v1")),
        ("//v1alpha//models", ModelList("v1alpha")),
        ("/v1beta/models/m", ModelGet("v1beta", "m")),
        ("/v1beta/models/models/m", ModelGet("v1beta", "m")),
        ("/v1beta/models/Gemini%202.5%20Flash", ModelGet("v1beta", "Gemini 2.5 Flash")),
        ("/v1beta/models/a/b:c", ModelGet("v1beta", "a/b:c")),
        ("/v1beta/tunedModels/x", ModelGet("v1beta", "tunedModels/x")),
    ],
)
def test_models_are_listed_and_got(path: str, found: ModelList | ModelGet) -> None:
    """With or without a slash at the end of the list, and by names of every form."""
    assert parse_collection(path.encode()) == found


@pytest.mark.parametrize(
    "path", ["/", "/v1beta/files", "/v1beta/tunedModels", "/v1beta/tunedModels/", "/v1beta/modelsx/a"]
)
def test_other_collections_are_not_found(path: str) -> None:
    """There is no list of them here."""
    with pytest.raises(NotFound):
        parse_collection(path.encode())


@pytest.mark.parametrize(
    ("name", "bare"),
    [("models/x", "x"), ("models/models/x", "x"), ("x", "x"), ("tunedModels/x", "tunedModels/x"), ("models/", "")],
)
def test_a_resource_name_gives_an_id(name: str, bare: str) -> None:
    """Only models/ is not part of it."""
    assert bare_model(name) == bare


def test_a_path_in_a_message_is_ascii() -> None:
    """Bytes that are none are shown as escapes."""
    with pytest.raises(NotFound, match=r"^The path /\\xff is not known") as caught:
        parse_call(b"/\xff")
    assert caught.value.message.isascii()
    with pytest.raises(InvalidRequest, match=r"is not UTF-8\.$"):
        parse_call(quote(b"/v1beta/models/\xff:x", safe="/:").encode())


@pytest.mark.parametrize(
    ("path", "versions"),
    [
        ("/v1beta/v1beta/models/m:generateContent", "v1beta and v1beta"),
        ("/v1/v1beta/models", "v1 and v1beta"),
        ("/v1beta/v1/files/a", "v1beta and v1"),
        ("/v1beta/v1beta", "v1beta and v1beta"),
        ("//v1beta//v1alpha/models/m", "v1beta and v1alpha"),
        ("/v1beta/v1beta/v1beta/models", "v1beta and v1beta"),
        ("/v1beta/v1beta1/publishers/google/models/m:predict", "v1beta and v1beta1"),
        ("/v2/v1beta/models", "v2 and v1beta"),
        ("/v1%62eta/v1beta/models", "v1beta and v1beta"),
        ("/v1beta/upload/v1beta/files", "v1beta and v1beta"),
        ("/upload/v1beta/v1beta/files", "v1beta and v1beta"),
        ("/upload/v1beta/upload/v1beta/files", "v1beta and v1beta"),
        ("/v1beta/download/v1beta/files/a:download", "v1beta and v1beta"),
    ],
)
def test_a_version_twice_is_told_with_the_base_url_that_cures_it(path: str, versions: str) -> None:
    message = unknown(path.encode(), "http://127.0.0.1:8045").message
    assert f"an API version twice, {versions}: " in message
    assert message.endswith("Leave it out of the base URL: http://127.0.0.1:8045")


@pytest.mark.parametrize(
    ("path", "cure"),
    [
        ("/v1/chat/completions", "OpenAI"),
        ("/v1beta/openai/chat/completions", "OpenAI"),
        ("/openai/v1/responses", "OpenAI"),
        ("/v1/images/generations", "OpenAI"),
        ("/embeddings/", "OpenAI"),
        ("/v1/messages", "Anthropic"),
        ("/anthropic/v1/messages/count_tokens", "Anthropic"),
        ("/v1internal:generateContent", "CODE_ASSIST_ENDPOINT"),
        ("/v1internal:loadCodeAssist", "GOOGLE_GEMINI_BASE_URL"),
        ("/v1internal/operations/x", "signed in"),
        ("/", "project and location"),
        ("/ws/google.ai.generativelanguage.v1beta.GenerativeService.Other", "Live sessions are opened at"),
        ("/v1beta/models/m:generateContents", "is not supported for generateContents"),
        ("/v1beta/models/m:", "names no method"),
        ("/v1beta/secrets", "/v1beta/models"),
        ("/nowhere", "/healthz"),
        ("/v1beta/%ff", "is not UTF-8"),
        ("/gemini/v1beta/models", "has to strip /gemini"),
        ("/gemini", "has to strip /gemini"),
        ("/geminis", "/healthz"),
    ],
)
def test_an_unknown_path_is_told_with_what_helps(path: str, cure: str) -> None:
    assert cure in unknown(path.encode(), "http://127.0.0.1:8045", "/gemini").message


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1beta/models", ["GET", "HEAD"]),
        ("/models/", ["GET", "HEAD"]),
        ("/v1beta/models/m", ["GET", "HEAD"]),
        ("/v1beta/models/a/b", ["GET", "HEAD"]),
        ("/v1beta/models/a%00", ["GET", "HEAD"]),  # refused, but for its name
        ("/v1beta/models/m:predict", ["POST"]),
        ("/v1beta/models/m%3Apredict", ["POST"]),
        ("/v1beta/models/m/countTokens", ["POST"]),
        ("/v1beta/models/a%00:predict", ["POST"]),
        ("/v1beta/models/%ff:predict", ["POST"]),
        ("/v1beta/models/m:predicts", None),
        ("/v1beta/models/m:", None),
        ("/v1beta/models/:predict", None),
        ("/v1beta", None),
        ("/v1beta/", None),
        ("/v1beta/secrets/m:predict", None),
        ("/v1beta/secrets", None),
        ("/v1beta/dynamic", None),
        ("/v1beta/%ff", None),
        ("/v1beta/v1beta/models", None),
        ("/v1beta/v1beta/models/m:predict", None),
    ],
)
def test_a_path_has_its_methods_or_is_not_known(path: str, methods: list[str] | None) -> None:
    if methods is None:
        with pytest.raises(NotFound):
            methods_of(path.encode())
    else:
        assert list(methods_of(path.encode())) == methods


@unhurried
@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60))
def test_whatever_is_asked_for_is_told_in_a_line(path: str) -> None:
    message = unknown(f"/{path}".encode(), "http://127.0.0.1:8045", "/x").message
    assert message.isprintable()
    assert len(message) < 600

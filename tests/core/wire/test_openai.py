"""Google's OpenAI surface: paths, the model of a body, and the ids that are told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.errors import GatewayError, InvalidRequest, NotFound
from agm.core.wire import openai
from agm.core.wire.openai import OpenAICall, OpenAIResource

BASE = "/v1beta/openai/"
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nmodel: "x"\r\n'
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nveo\r\n--b--\r\n'
)


@pytest.mark.parametrize(
    ("rest", "method"),
    [
        ("chat/completions", "openai.chat.completions"),
        ("embeddings", "openai.embeddings"),
        ("images/generations", "openai.images.generations"),
        ("videos", "openai.videos"),
    ],
)
def test_calls_of_a_model(rest: str, method: str) -> None:
    asked = openai.parse((BASE + rest).encode(), "POST")
    assert isinstance(asked, OpenAICall)
    assert (asked.method, asked.path) == (method, BASE + rest)


@pytest.mark.parametrize(
    ("rest", "http_method", "name", "method", "path"),
    [
        ("files", "GET", None, "openai.files.list", "files"),
        ("files", "POST", None, "openai.files.create", "files"),
        ("files/files%2Fa", "GET", "files/a", "openai.files.get", "files/files%2Fa"),
        ("files/files/a", "DELETE", "files/a", "openai.files.delete", "files/files/a"),
        ("files/a/content", "GET", "files/a", "openai.files.download", "files/a/content"),
        ("files/files%2Fa/content", "GET", "files/a", "openai.files.download", "files/files%2Fa/content"),
        ("batches/batches%2Fb/cancel", "POST", "batches/b", "openai.batches.cancel", "batches/batches%2Fb/cancel"),
        ("videos/v", "GET", "videos/v", "openai.videos.get", "videos/v"),
        ("models", "GET", None, "openai.models.list", "models"),
        ("models/models%2Fm", "GET", None, "openai.models.get", "models/models/m"),
    ],
)
def test_resources(rest: str, http_method: str, name: str | None, method: str, path: str) -> None:
    """With their ids as Google writes them, one segment or two."""
    asked = openai.parse((BASE + rest).encode(), http_method)
    assert isinstance(asked, OpenAIResource)
    assert (asked.name, asked.method(http_method), asked.path) == (name, method, BASE + path)


@pytest.mark.parametrize("rest", ["", "responses", "audio/speech", "chat", "%ff"])
def test_what_is_not_served_is_not_found(rest: str) -> None:
    with pytest.raises(NotFound):
        openai.parse((BASE + rest).encode(), "POST")


@pytest.mark.parametrize("rest", ["files/..", "files/a%3Fb", "files/a%20b"])
def test_what_no_name_can_hold_is_refused(rest: str) -> None:
    with pytest.raises(InvalidRequest):
        openai.parse((BASE + rest).encode(), "GET")


@given(st.binary(max_size=50), st.sampled_from(["GET", "POST", "DELETE"]))
def test_whatever_is_asked_is_read_or_refused(tail: bytes, method: str) -> None:
    """And no path upstream holds a query."""
    try:
        asked = openai.parse(BASE.encode() + tail, method)
    except GatewayError:
        return
    assert asked.path.startswith(BASE)
    assert not set(asked.path) & set("?# \\")


def test_the_model_is_read_out_of_json_and_replaced() -> None:
    """All else stays as it was written."""
    body = b'{"messages": [ {"content": "\\u00e9 model"} ], "model": "house", "stream": true, "n": 1.0}'
    asked = openai.read(body, "application/json")
    assert (asked.model, asked.streams, asked.form) == ("house", True, False)
    changed = openai.with_model(body, asked, "gemini")
    assert changed == b'{"messages":[ {"content": "\\u00e9 model"} ],"model":"gemini","stream":true,"n":1.0}'


@pytest.mark.parametrize("body", [b"", b"[]", b"no JSON", b'{"model": 5}'])
def test_what_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        openai.read(body, "application/json")


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=b", 'multipart/form-data; boundary="b"'])
def test_the_model_is_read_out_of_a_form_and_replaced(content_type: str) -> None:
    """Not out of what is said in another part."""
    asked = openai.read(FORM, content_type)
    assert (asked.model, asked.form) == ("veo", True)
    assert openai.with_model(FORM, asked, "veo-3") == FORM.replace(b"\r\nveo\r\n", b"\r\nveo-3\r\n")


@pytest.mark.parametrize("body", [b"", b"--b--\r\n", FORM[:40], FORM.replace(b'name="model"', b'name="models"')])
def test_a_form_without_a_model_has_none(body: bytes) -> None:
    assert openai.read(body, "multipart/form-data; boundary=b").model is None


def test_a_form_without_a_boundary_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        openai.read(FORM, "multipart/form-data")


def test_ids_are_told_by_what_they_are_of() -> None:
    """One by one and in lists, with and without the collection."""
    batch = {"object": "batch", "id": "batches/b", "input_file_id": "files/i", "output_file_id": "o"}
    assert openai.names_told(json.dumps(batch).encode()) == ["files/i", "files/o", "batches/b"]
    listed = {"object": "list", "data": [{"object": "file", "id": "f"}, {"object": "video", "id": "v"}, 5]}
    assert openai.names_told(json.dumps(listed).encode()) == ["files/f", "videos/v"]
    assert openai.names_told(b'{"object": "chat.completion", "id": "x"}') == []
    assert openai.names_told(b"no JSON") == []
    assert openai.names_in(b'{"input_file_id": "i", "endpoint": "/v1/chat/completions"}') == ["files/i"]
    assert openai.names_in(b'{"model": "m"}') == []

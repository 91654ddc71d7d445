"""Pictures: what sizes and qualities come to, and how forms are read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agm.api import InvalidRequest
from agm.dialects.base import BadParameter
from agm.dialects.openai import images
from agm.dialects.openai.form import Form
from agm.dialects.openai.pictures import abilities, aspect_ratio, resolution

IMAGEN, FLASH, PRO = "imagen-4.0-generate-001", "gemini-2.5-flash-image", "gemini-3-pro-image-preview"


@pytest.mark.parametrize(
    ("size", "model", "ratio"),
    [
        (None, FLASH, None),
        ("auto", FLASH, None),
        ("1024x1024", FLASH, "1:1"),
        ("256x256", IMAGEN, "1:1"),
        ("1024x1536", FLASH, "2:3"),
        ("1536x1024", FLASH, "3:2"),
        ("1024x1536", IMAGEN, "3:4"),
        ("1536x1024", IMAGEN, "4:3"),
        ("1792x1024", IMAGEN, "16:9"),
        ("1024x1792", IMAGEN, "9:16"),
        ("1792x1024", FLASH, "16:9"),
        ("1080x1350", FLASH, "4:5"),
        ("1280x1024", FLASH, "5:4"),
        ("2560x1080", FLASH, "21:9"),
        ("3440x1440", IMAGEN, "16:9"),
        ("4000x1000", "gemini-3.1-flash-image", "4:1"),
        ("4000x1000", PRO, "21:9"),
        ("1x99999", PRO, "9:16"),
        ("1000x1001", IMAGEN, "1:1"),
        ("16:9", FLASH, "16:9"),
        ("3:2", IMAGEN, "4:3"),
        (" 640x480".strip(), "publishers/google/models/imagen-3.0", "4:3"),
        ("640X480", "unknown-model", "4:3"),
    ],
)
def test_a_size_is_the_nearest_ratio_that_the_model_takes(size: str | None, model: str, ratio: str | None) -> None:
    assert aspect_ratio(size, abilities(model)) == ratio


@pytest.mark.parametrize("size", ["large", "0x5", "1024", "1024x", "x1024", "100000x1", "-1x1", "1024x1024x1"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(BadParameter, match="size: "):
        aspect_ratio(size, abilities(FLASH))


@pytest.mark.parametrize(
    ("quality", "model", "large"),
    [
        (None, PRO, None),
        ("hd", PRO, "4K"),
        ("high", PRO, "4K"),
        ("medium", PRO, "2K"),
        ("standard", PRO, None),
        ("low", PRO, None),
        ("auto", PRO, None),
        ("medium", IMAGEN, "2K"),
        ("low", FLASH, None),
        ("high", "unknown-model", "4K"),
    ],
)
def test_a_quality_is_a_resolution(quality: str | None, model: str, large: str | None) -> None:
    assert resolution(quality, model, abilities(model)) == large


@pytest.mark.parametrize(
    ("quality", "model"),
    [("hd", IMAGEN), ("medium", FLASH), ("medium", "imagen-4.0-fast-generate-001"), ("best", PRO)],
)
def test_what_a_model_does_not_draw_is_refused_by_its_name(quality: str, model: str) -> None:
    with pytest.raises(BadParameter) as e:
        resolution(quality, model, abilities(model))
    assert e.value.param == "quality"


def calls(served: str, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    request = images.Request({"model": "m", "prompt": "a cat", **fields})
    return [(call.method, json.loads(call.body)) for call in request.calls(served)]


def test_imagen_draws_several_in_a_call() -> None:
    made = calls(IMAGEN, n=6, size="1792x1024", quality="medium", output_format="jpeg", output_compression=80)
    common = {
        "aspectRatio": "16:9",
        "sampleImageSize": "2K",
        "outputOptions": {"mimeType": "image/jpeg", "compressionQuality": 80},
    }
    assert [method for method, _ in made] == ["predict", "predict"]
    assert [body["parameters"] for _, body in made] == [{**common, "sampleCount": 4}, {**common, "sampleCount": 2}]
    assert made[0][1]["instances"] == [{"prompt": "a cat"}]


def test_gemini_draws_one_in_a_call() -> None:
    made = calls(PRO, n=2, size="1024x1536", quality="high", response_format="b64_json")
    assert len(made) == 2
    method, body = made[0]
    assert method == "generateContent"
    assert body["contents"] == [{"role": "user", "parts": [{"text": "a cat"}]}]
    assert body["generationConfig"] == {
        "responseModalities": ["TEXT", "IMAGE"],
        "imageConfig": {"aspectRatio": "2:3", "imageSize": "4K"},
    }


@pytest.mark.parametrize(
    ("param", "served", "fields"),
    [
        ("background", FLASH, {"background": "transparent"}),
        ("style", FLASH, {"style": "vivid"}),
        ("moderation", FLASH, {"moderation": "low"}),
        ("stream", FLASH, {"stream": True}),
        ("n", FLASH, {"n": 11}),
        ("output_format", FLASH, {"output_format": "jpeg"}),
        ("output_format", IMAGEN, {"output_format": "webp"}),
        ("output_compression", IMAGEN, {"output_compression": 5}),
        ("response_format", FLASH, {"response_format": "file"}),
        ("prompt", FLASH, {"prompt": None}),
        ("invented", FLASH, {"invented": 1}),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_its_name(param: str, served: str, fields: dict[str, Any]) -> None:
    with pytest.raises(BadParameter) as e:
        calls(served, **fields)
    assert e.value.param == param


# -- Forms -------------------------------------------------------------------------------------------

TYPE = "multipart/form-data; boundary=b"


def form(*parts: tuple[str, bytes]) -> bytes:
    return b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + b"--b--\r\n"


def test_a_form_has_texts_and_files() -> None:
    body = form(
        ('Content-Disposition: form-data; name="prompt"', "grün".encode()),
        ('Content-Disposition: form-data; name="n"', b"2"),
        ('Content-Disposition: form-data; name="image[]"; filename="a.png"\r\nContent-Type: image/png', b"\r\n--x\x00"),
        ('content-disposition: form-data; filename="b"; name="image[]"', b""),
    )
    found = Form(body, TYPE)
    assert found.typed(numbers=("n",)) == {"prompt": "grün", "n": 2}
    first, second = found.files["image"]
    assert (first.filename, first.content_type, first.data) == ("a.png", "image/png", b"\r\n--x\x00")
    assert (second.content_type, second.data) == ("application/octet-stream", b"")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{}", "application/json"),
        (b"", TYPE),
        (b"--b\r\n", TYPE),
        (form(('Content-Disposition: form-data; name="x"', b"y"))[:-10], TYPE),
        (form(("Content-Disposition: form-data", b"y")), TYPE),
        (form(*[('Content-Disposition: form-data; name="x"', b"")] * 70), TYPE),
        (b"--b\r\nA: " + b"x" * 10_000 + b"\r\n\r\ny\r\n--b--", TYPE),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(InvalidRequest):
        Form(body, content_type)

"""
``POST /v1/images/generations`` and ``/v1/images/edits``: pictures by Imagen, which draws, or Gemini, which edits, too.

Which of the two is known once the model is mapped.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, gatherResults

from agm.api import Answer, InvalidRequest, TranslatedCall, Visit
from agm.dialects.base import BadParameter, Dialect, read_object, unreadable
from agm.dialects.gemini import Usage, read_response, why_withheld
from agm.dialects.openai.form import Form
from agm.dialects.openai.pictures import abilities, aspect_ratio, resolution
from agm.dialects.reading import Fields

MOST = 10
_FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


class Withheld(InvalidRequest):
    """400: nothing was drawn, because of what was asked for."""

    reason = "CONTENT_POLICY_VIOLATION"


@attrs.frozen
class _Picture:
    """A picture: its type, and its bytes in base64."""

    kind: str
    data: str


class _Prediction(msgspec.Struct, rename="camel"):
    bytes_base64_encoded: str = ""
    mime_type: str = "image/png"
    rai_filtered_reason: str = ""


class _Predictions(msgspec.Struct):
    predictions: list[_Prediction] | None = None


_PREDICTIONS = msgspec.json.Decoder(_Predictions)


class Request:
    """A request, read as far as it does not depend on the model."""

    def __init__(self, given: dict[str, Any], pictures: Sequence[dict[str, Any]] = ()) -> None:
        fields = Fields(given)
        self.model = fields.needed("model")
        self.prompt = fields.needed("prompt")
        self.pictures = list(pictures)
        self.count = fields.whole("n", 1, MOST) or 1
        self.size = fields.text("size")
        self.quality = fields.text("quality")
        self.by_url = fields.one_of("response_format", "url", "b64_json", why="there are") == "url"
        self.form = fields.one_of("output_format", *_FORMATS, why="there are")
        self.compression = fields.whole("output_compression", 0, 100)
        fields.refuse("background", "Gemini draws no transparent background.", unless=("auto", "opaque"))
        fields.refuse("style", "Gemini has no such thing; say it in the prompt.")
        fields.refuse("moderation", "Gemini has no such thing.", unless=("auto",))
        fields.refuse("stream", "a picture comes as a whole.", unless=(False,))
        fields.refuse("partial_images", "a picture comes as a whole.", unless=(0,))
        fields.refuse("input_fidelity", "Gemini has no such thing.")
        fields.skip("user", "safety_identifier")
        fields.end()

    def calls(self, served: str) -> list[TranslatedCall]:
        """
        Return the calls that draw the pictures, for the model that serves.

        :raises BadParameter: for what it does not take.
        """
        takes = abilities(served)
        ratio = aspect_ratio(self.size, takes)
        large = resolution(self.quality, served, takes)
        if takes.imagen:
            return self._imagen(served, ratio, large, takes.most)
        if self.form not in (None, "png"):
            raise BadParameter("output_format", f"{served[:80]} chooses the format of its pictures itself.")
        if self.compression is not None:
            raise BadParameter("output_compression", f"{served[:80]} has no such thing.")
        drawn = {name: value for name, value in (("aspectRatio", ratio), ("imageSize", large)) if value is not None}
        config: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
        if drawn:
            config["imageConfig"] = drawn
        turn = {"role": "user", "parts": [*self.pictures, {"text": self.prompt}]}
        body = msgspec.json.encode({"contents": [turn], "generationConfig": config})
        return [TranslatedCall(self.model, "generateContent", body)] * self.count

    def _imagen(self, served: str, ratio: str | None, large: str | None, most: int) -> list[TranslatedCall]:
        if self.pictures:
            raise BadParameter("image", f"{served[:80]} draws and does not edit; a Gemini image model does.")
        parameters: dict[str, Any] = {}
        if ratio is not None:
            parameters["aspectRatio"] = ratio
        if large is not None:
            parameters["sampleImageSize"] = large
        if self.form is not None:
            if self.form == "webp":
                raise BadParameter("output_format", "Imagen has png and jpeg.")
            parameters["outputOptions"] = {"mimeType": _FORMATS[self.form]}
        if self.compression is not None:
            if self.form != "jpeg":
                raise BadParameter("output_compression", "is for output_format jpeg.")
            parameters["outputOptions"]["compressionQuality"] = self.compression
        calls = []
        for at in range(0, self.count, most):
            asked = {**parameters, "sampleCount": min(most, self.count - at)}
            body = msgspec.json.encode({"instances": [{"prompt": self.prompt}], "parameters": asked})
            calls.append(TranslatedCall(self.model, "predict", body))
        return calls


def read(visit: Visit) -> Request:
    """
    Read a request: JSON, or a form with pictures.

    :raises BadParameter: for what cannot be expressed.
    """
    if (visit.header("content-type") or "").lower().startswith("multipart/"):
        form = Form(visit.body, visit.header("content-type") or "")
        if "mask" in form.files:
            raise BadParameter("mask", "Gemini edits by words alone; say in the prompt what is to be changed.")
        pictures = [
            {"inlineData": {"mimeType": _kind(one.content_type), "data": base64.b64encode(one.data).decode("ascii")}}
            for one in form.files.pop("image", ())
        ]
        for name in form.files:
            raise BadParameter(name[:80], "is not a file that can be expressed.")
        given = form.typed(numbers=("n", "output_compression", "partial_images"), flags=("stream",))
        return Request(given, pictures)
    given = read_object(visit.body)
    return Request(given)


def _kind(content_type: str) -> str:
    return content_type if content_type.startswith("image/") else "image/png"


def translate(body: bytes) -> TranslatedCall:
    """Say which call a request comes to, for the model that it names itself."""
    asked = Request(read_object(body))
    return asked.calls(asked.model)[0]


async def answer(dialect: Dialect, visit: Visit, rest: str) -> None:
    """Answer a request."""
    asked = read(visit)
    if visit.wire.path.rstrip(b"/").endswith(b"/edits") and not asked.pictures:
        raise BadParameter("image", "is missing: an edit begins with a picture, in a form.")
    served = await dialect.gateway.model_for(asked.model, visit=visit, dialect=dialect.name)
    calls = asked.calls(served)
    first = await dialect.call(visit, calls[0])
    pictures, usage = _drawn(calls[0], await first.read())
    if len(calls) > 1:
        drawing = [Deferred.fromCoroutine(_draw(dialect, visit, call, first)) for call in calls[1:]]
        for more, counted in await gatherResults(drawing, consumeErrors=True):
            pictures += more
            usage = _sum(usage, counted)
    data = [
        {"url": f"data:{one.kind};base64,{one.data}"} if asked.by_url else {"b64_json": one.data} for one in pictures
    ]
    document: dict[str, Any] = {
        "created": int(dialect.gateway.wall()),
        "data": data,
        "output_format": pictures[0].kind.removeprefix("image/"),
    }
    if usage is not None:
        document["usage"] = {
            "input_tokens": usage.input,
            "input_tokens_details": {"text_tokens": usage.input - _images(usage), "image_tokens": _images(usage)},
            "output_tokens": usage.output,
            "total_tokens": usage.input + usage.output,
        }
    dialect.send(visit, first, msgspec.json.encode(document))


async def _draw(
    dialect: Dialect, visit: Visit, call: TranslatedCall, first: Answer
) -> tuple[list[_Picture], Usage | None]:
    answered = await dialect.call(visit, call, after=first)
    return _drawn(call, await answered.read())


def _images(usage: Usage) -> int:
    return sum(one.token_count for one in usage.prompt_tokens_details or () if one.modality == "IMAGE")


def _sum(one: Usage | None, other: Usage | None) -> Usage | None:
    if one is None or other is None:
        return one or other
    return Usage(
        prompt_token_count=one.input + other.input,
        candidates_token_count=one.output + other.output,
        prompt_tokens_details=[*(one.prompt_tokens_details or ()), *(other.prompt_tokens_details or ())],
    )


def _drawn(call: TranslatedCall, answer: bytes) -> tuple[list[_Picture], Usage | None]:
    """
    Return the pictures of an answer, and its tokens, where they are counted.

    :raises Withheld: if there is none.
    """
    try:
        if call.method == "predict":
            return _predicted(_PREDICTIONS.decode(answer).predictions or []), None
        response = read_response(answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise unreadable(e) from None
    parts = [part for candidate in response.candidates or () for part in candidate.parts if not part.thought]
    pictures = [_Picture(one.mime_type, one.data) for part in parts if (one := part.inline_data) is not None]
    if not pictures:
        candidate = response.candidates[0] if response.candidates else None
        said = "".join(part.text or "" for part in parts)
        why = why_withheld(response, candidate) or said or "the model says nothing of why"
        raise Withheld(f"No picture was drawn: {why}")
    return pictures, response.usage_metadata


def _predicted(predictions: list[_Prediction]) -> list[_Picture]:
    pictures = [_Picture(one.mime_type, one.bytes_base64_encoded) for one in predictions if one.bytes_base64_encoded]
    if not pictures:
        why = next((one.rai_filtered_reason for one in predictions if one.rai_filtered_reason), "")
        raise Withheld(f"No picture was drawn: {why or 'the prompt was refused'}")
    return pictures

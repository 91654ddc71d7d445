"""
The models that the emulator lists, in the words of the Developer API's ListModels.

Any other name answers too; this is only what a client finds when it asks.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, TypeVar

import attrs

from agm.emulator import errors

_TEXT = ("generateContent", "countTokens", "createCachedContent", "batchGenerateContent")
_EMBED = ("embedContent", "countTextTokens", "countTokens", "asyncBatchEmbedContent")


@attrs.frozen
class Model:
    """A model as ListModels tells of it; limits are in tokens."""

    name: str
    display_name: str
    description: str
    version: str
    input_limit: int = 1_048_576
    output_limit: int = 65_536
    methods: tuple[str, ...] = _TEXT
    thinking: bool = False
    max_temperature: float | None = 2.0

    @property
    def generates(self) -> bool:
        """Whether it answers generateContent."""
        return "generateContent" in self.methods

    def resource(self) -> dict[str, Any]:
        """``Model`` of the Developer API."""
        document: dict[str, Any] = {
            "name": f"models/{self.name}",
            "version": self.version,
            "displayName": self.display_name,
            "description": self.description,
            "inputTokenLimit": self.input_limit,
            "outputTokenLimit": self.output_limit,
            "supportedGenerationMethods": list(self.methods),
        }
        if self.generates:
            document |= {"temperature": 1, "topP": 0.95, "topK": 64}
            if self.max_temperature is not None:
                document["maxTemperature"] = self.max_temperature
        if self.thinking:
            document["thinking"] = True
        return document

    def publisher_resource(self) -> dict[str, Any]:
        """``PublisherModel`` of Vertex AI."""
        return {
            "name": f"publishers/google/models/{self.name}",
            "versionId": "default",
            "openSourceCategory": "PROPRIETARY",
            "launchStage": "PUBLIC_PREVIEW" if "preview" in self.name else "GA",
            "publisherModelTemplate": "projects/{user-project}/locations/{location}/publishers/google/models/"
            + self.name,
        }


MODELS: Sequence[Model] = (
    Model("gemini-2.5-pro", "Gemini 2.5 Pro", "Stable release of Gemini 2.5 Pro", "2.5", thinking=True),
    Model("gemini-2.5-flash", "Gemini 2.5 Flash", "Stable version of Gemini 2.5 Flash", "001", thinking=True),
    Model(
        "gemini-2.5-flash-lite",
        "Gemini 2.5 Flash-Lite",
        "Stable version of Gemini 2.5 Flash-Lite",
        "001",
        thinking=True,
    ),
    Model(
        "gemini-2.5-flash-image",
        "Nano Banana",
        "Gemini 2.5 Flash with image output",
        "2.0",
        input_limit=32_768,
        output_limit=32_768,
        methods=("generateContent", "countTokens", "batchGenerateContent"),
        max_temperature=1.0,
    ),
    Model("gemini-2.0-flash", "Gemini 2.0 Flash", "Fast and versatile multimodal model", "2.0", output_limit=8_192),
    Model("gemini-2.0-flash-lite", "Gemini 2.0 Flash-Lite", "Small and fast model", "2.0", output_limit=8_192),
    Model("gemini-3-pro-preview", "Gemini 3 Pro Preview", "Preview of Gemini 3 Pro", "3-pro", thinking=True),
    Model("gemini-3-flash-preview", "Gemini 3 Flash Preview", "Preview of Gemini 3 Flash", "3-flash", thinking=True),
    Model(
        "gemma-3-27b-it",
        "Gemma 3 27B",
        "Open model",
        "001",
        input_limit=131_072,
        output_limit=8_192,
        methods=("generateContent", "countTokens"),
        max_temperature=None,
    ),
    Model(
        "gemini-embedding-001",
        "Gemini Embedding 001",
        "Obtain a distributed representation of a text.",
        "001",
        input_limit=2_048,
        output_limit=1,
        methods=_EMBED,
    ),
    Model(
        "text-embedding-004",
        "Text Embedding 004",
        "Obtain a distributed representation of a text.",
        "004",
        input_limit=2_048,
        output_limit=1,
        methods=("embedContent",),
    ),
    Model(
        "imagen-4.0-generate-001",
        "Imagen 4",
        "Vertex served Imagen 4.0 model",
        "001",
        input_limit=480,
        output_limit=8_192,
        methods=("predict",),
    ),
)

_BY_NAME = {model.name: model for model in MODELS}


def find(name: str) -> Model | None:
    """Return the listed model of this name (without ``models/``); a made-up one for the names that ask for a fault."""
    if name.startswith("emu-"):
        return Model(name, name, "A model that misbehaves on request", "001")
    return _BY_NAME.get(name)


Listed = TypeVar("Listed")


def page(
    things: Sequence[Listed], page_size: str | None, page_token: str | None, *, default: int = 50, most: int = 1000
) -> tuple[Sequence[Listed], str | None]:
    """
    Return a page of a list and the token of the next, if there is one.

    :raises GoogleError: 400 for a size or a token that is not one.
    """
    size = _page_size(page_size, default, most)
    start = 0
    if page_token:
        try:
            start = int(base64.urlsafe_b64decode(page_token).decode("ascii"))
        except (ValueError, binascii.Error):
            start = -1
        if not 0 < start <= len(things):
            raise errors.invalid_argument()
    following = start + size
    token = base64.urlsafe_b64encode(str(following).encode()).decode() if following < len(things) else None
    return things[start:following], token


def _page_size(text: str | None, default: int, most: int) -> int:
    if not text:
        return default
    try:
        size = int(text)
    except ValueError:
        raise errors.bad_request([errors.invalid_value("page_size", "TYPE_INT32", text)]) from None
    if size < 0:
        raise errors.invalid_argument("page_size must be non-negative.")
    return min(size, most) or default

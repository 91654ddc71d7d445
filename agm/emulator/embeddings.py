"""
The methods that answer with numbers or pictures: embedContent, batchEmbedContents, and predict.

A vector follows from the words of its text, each of which moves a few of the coordinates: the same text gives the same
vector, texts that share words are closer than those that do not, and every vector has length one.
"""

from __future__ import annotations

import base64
import hashlib
import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agm.emulator import errors, images, tokens
from agm.emulator.calls import Target
from agm.emulator.errors import Kind

_DIMENSIONS = {"text-embedding-004": 768, "embedding-001": 768, "text-embedding-005": 768}
_DEFAULT_DIMENSIONS = 3_072
#: How many coordinates a word moves.
_TOUCHED = 64
_MOST_BATCH = 100
_MOST_IMAGES = 8


def vector(text: str, dimensions: int) -> list[float]:
    """Return a unit vector for a text."""
    moved = [1e-3] * dimensions
    for word in re.findall(r"\w+", text.lower()) or [""]:
        chance = random.Random(hashlib.sha256(word.encode()).digest())  # noqa: S311 - to repeat itself is its purpose
        for _ in range(_TOUCHED):
            moved[chance.randrange(dimensions)] += chance.uniform(-1.0, 1.0)
    length = math.sqrt(sum(value * value for value in moved))
    return [round(value / length, 9) for value in moved]


def _dimensions(model: str, wanted: int | None) -> int:
    most = _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS)
    if wanted is None:
        return most
    if not 1 <= wanted <= most:
        raise errors.invalid_argument(f"outputDimensionality must be between 1 and {most}.")
    return wanted


def _text(content: Mapping[str, Any]) -> str:
    return " ".join(part.get("text", "") for part in content.get("parts", ()))


def of_request(model: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """
    ``ContentEmbedding`` of an EmbedContentRequest.

    :raises GoogleError: 400 for a request that lacks something.
    """
    content = request.get("content")
    if not content or not content.get("parts"):
        raise errors.invalid_argument("* EmbedContentRequest.content: contents is not specified\n")
    config = request.get("embedContentConfig")  # Vertex AI's newer form
    settings = {**request, **config} if isinstance(config, Mapping) else request
    return {"values": vector(_text(content), _dimensions(model, settings.get("outputDimensionality")))}


def answer(target: Target, message: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the answer of one of these methods.

    :raises GoogleError: 400 for a request that lacks something.
    """
    if target.method == "embedContent":
        return _embedded(target, message)
    if target.method == "batchEmbedContents":
        return _batch(target, message)
    return _predicted(target, message)


def _embedded(target: Target, message: Mapping[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {"embedding": of_request(target.model, message)}
    if target.kind is Kind.VERTEX:
        counted = tokens.of_contents([message["content"]])
        usage = {"promptTokenCount": counted.total(), "totalTokenCount": counted.total()}
        return {**document, "usageMetadata": usage, "truncated": False}
    return document


def _batch(target: Target, message: Mapping[str, Any]) -> dict[str, Any]:
    requests: Sequence[Mapping[str, Any]] = message.get("requests") or ()
    if not requests:
        raise errors.invalid_argument("* BatchEmbedContentsRequest.requests: requests is not specified\n")
    if len(requests) > _MOST_BATCH:
        raise errors.invalid_argument(
            f"* BatchEmbedContentsRequest.requests: at most {_MOST_BATCH} requests can be in one batch\n"
        )
    for index, request in enumerate(requests):
        named = request.get("model", "")
        if named.removeprefix("models/") != target.model:
            raise errors.invalid_argument(
                f"* BatchEmbedContentsRequest.requests[{index}].model: model does not match the model of the batch\n"
            )
    return {"embeddings": [of_request(target.model, request) for request in requests]}


def _predicted(target: Target, message: Mapping[str, Any]) -> dict[str, Any]:
    instances = message.get("instances") or ()
    if not instances or not all(isinstance(instance, Mapping) for instance in instances):
        raise errors.invalid_argument("Invalid or empty instances.")
    parameters = message.get("parameters")
    parameters = parameters if isinstance(parameters, Mapping) else {}
    if "embed" in target.model:
        return _embedding_predictions(target.model, instances, parameters)
    return _pictures(instances[0], parameters)


def _embedding_predictions(
    model: str, instances: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    size = _dimensions(model, parameters.get("outputDimensionality"))
    texts = [str(instance.get("content", "")) for instance in instances]
    return {
        "predictions": [
            {
                "embeddings": {
                    "values": vector(text, size),
                    "statistics": {"truncated": False, "token_count": tokens.of_text(text)},
                }
            }
            for text in texts
        ],
        "metadata": {"billableCharacterCount": sum(len("".join(text.split())) for text in texts)},
    }


def _pictures(instance: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    prompt = instance.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise errors.invalid_argument("Text prompt is missing.")
    count = parameters.get("sampleCount", 1)
    if not isinstance(count, int) or not 1 <= count <= _MOST_IMAGES:
        raise errors.invalid_argument(f"Number of images must be between 1 and {_MOST_IMAGES} inclusive.")
    width, height = images.size_of(parameters.get("aspectRatio"))
    return {
        "predictions": [
            {
                "mimeType": "image/png",
                "bytesBase64Encoded": base64.b64encode(
                    images.png(hashlib.sha256(f"{prompt}\n{index}".encode()).digest(), width, height)
                ).decode(),
            }
            for index in range(count)
        ]
    }

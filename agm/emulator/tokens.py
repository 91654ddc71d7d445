"""
Counting tokens, so that ``countTokens`` and ``usageMetadata`` always agree.

A token is four characters of text, begun ones included; a picture, a page, a sound or a video counts flat, as Google's
tables have it.  No tokenizer of Google's is imitated: what matters is that the numbers are the same everywhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

#: Characters in a token.
CHARACTERS = 4
#: Tokens of one inline or referenced medium, by modality.
FLAT = {"IMAGE": 258, "VIDEO": 2_630, "AUDIO": 320, "DOCUMENT": 258}
#: Tokens of a picture that the model made.
GENERATED_IMAGE = 1_290
GENERATED_AUDIO = 25

ORDER = ("TEXT", "IMAGE", "VIDEO", "AUDIO", "DOCUMENT")


def of_text(text: str) -> int:
    """Return the tokens of a text."""
    return math.ceil(len(text) / CHARACTERS)


def pieces(text: str) -> list[bytes]:
    """Return a text's tokens: as many as :func:`of_text` counts."""
    return [text[at : at + CHARACTERS].encode("utf-8", "replace") for at in range(0, len(text), CHARACTERS)]


def of_json(value: Any) -> int:
    """Return the tokens of a value that the model reads or writes as JSON."""
    return math.ceil(len(msgspec.json.encode(value)) / CHARACTERS)


def modality(mime_type: str) -> str:
    """Return the modality under which a medium is counted; TEXT for what is text."""
    family, _, subtype = mime_type.partition("/")
    if subtype == "pdf":
        return "DOCUMENT"
    return family.upper() if family.upper() in FLAT else "TEXT"


def of_part(part: Mapping[str, Any]) -> tuple[str, int]:
    """Return the modality and the tokens of a part."""
    if "text" in part:
        return "TEXT", of_text(part["text"])
    for name in ("inlineData", "fileData"):
        medium = part.get(name)
        if medium is not None:
            kind = modality(medium.get("mimeType", ""))
            return kind, FLAT.get(kind) or max(1, len(medium.get("data", "")) * 3 // 4 // CHARACTERS)
    return "TEXT", of_json(part)


def of_contents(contents: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Tokens by modality."""
    counted: Counter[str] = Counter()
    for content in contents:
        for part in content.get("parts", ()):
            kind, count = of_part(part)
            counted[kind] += count
    return counted


def of_request(request: Mapping[str, Any]) -> Counter[str]:
    """Tokens by modality of everything in a GenerateContentRequest that the model reads."""
    counted = of_contents(request.get("contents", ()))
    if "systemInstruction" in request:
        counted += of_contents([request["systemInstruction"]])
    if request.get("tools"):
        counted["TEXT"] += of_json(request["tools"])
    return counted


def details(counted: Mapping[str, int]) -> list[dict[str, Any]]:
    """``ModalityTokenCount`` for each modality that occurs."""
    return [{"modality": kind, "tokenCount": counted[kind]} for kind in ORDER if counted.get(kind)]


def billable_characters(contents: Iterable[Mapping[str, Any]]) -> int:
    """Characters of text without white space, as Vertex AI bills them."""
    return sum(
        len("".join(part["text"].split()))
        for content in contents
        for part in content.get("parts", ())
        if "text" in part
    )

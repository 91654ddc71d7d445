"""What an answer is grounded on, as OpenAI's citations of URLs."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["citations"]


def citations(grounding: msgspec.Raw, said: str) -> list[dict[str, Any]]:
    """
    Return the citations of an answer.

    :param grounding: ``groundingMetadata``, which counts in bytes of UTF-8; OpenAI's form counts characters.
    :param said: the text that it is about.
    """
    found = msgspec.json.decode(grounding)
    chunks = found.get("groundingChunks") or []
    encoded = said.encode("utf-8")
    cited = []
    for support in found.get("groundingSupports") or []:
        segment = support.get("segment") or {}
        start, end = (
            len(encoded[: int(segment.get(name) or 0)].decode("utf-8", "ignore")) for name in ("startIndex", "endIndex")
        )
        for number in support.get("groundingChunkIndices") or []:
            web = (chunks[number].get("web") if 0 <= number < len(chunks) else None) or {}
            if web.get("uri"):
                citation = {
                    "url": web["uri"],
                    "title": web.get("title", ""),
                    "start_index": start,
                    "end_index": end,
                }
                cited.append({"type": "url_citation", "url_citation": citation})
    return cited

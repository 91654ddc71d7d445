"""What an answer is grounded on, as OpenAI's citations of URLs."""

from __future__ import annotations

from typing import Any

from agm.dialects.gemini import Grounding

__all__ = ["citations"]


def citations(grounding: Grounding, said: str) -> list[dict[str, Any]]:
    """
    Return the citations of an answer.

    :param grounding: counts in bytes of UTF-8; OpenAI's form counts characters.
    :param said: the text that it is about.
    """
    chunks = grounding.grounding_chunks or []
    encoded = said.encode("utf-8")
    cited = []
    for support in grounding.grounding_supports or ():
        segment = support.segment
        if segment is None:
            continue
        places = {
            "start_index": len(encoded[: segment.start_index].decode("utf-8", "ignore")),
            "end_index": len(encoded[: segment.end_index].decode("utf-8", "ignore")),
        }
        for number in support.grounding_chunk_indices or ():
            web = chunks[number].web if 0 <= number < len(chunks) else None
            if web is not None and web.uri:
                citation = {"url": web.uri, "title": web.title, **places}
                cited.append({"type": "url_citation", "url_citation": citation})
    return cited

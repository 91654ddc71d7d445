"""What answers say of themselves: tokens and reasons to end, in every framing, of every kind, at every cut."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.wire.usage import HELD, SPAN, Usage, UsageWatch
from tests.core.cuts import cut_at, every_cut, unhurried

COUNTED = {
    "promptTokenCount": 11,
    "candidatesTokenCount": 7,
    "cachedContentTokenCount": 5,
    "thoughtsTokenCount": 3,
    "toolUsePromptTokenCount": 2,
    "totalTokenCount": 23,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 11}],
}
USAGE = Usage(prompt=11, output=7, cached=5, thoughts=3, tool=2, total=23)

FIRST: dict[str, Any] = {
    "candidates": [{"content": {"parts": [{"text": 'a "usageMetadata": {"promptTokenCount": 999} größe'}]}}],
    "usageMetadata": {"promptTokenCount": 11, "totalTokenCount": 11},
}
LAST: dict[str, Any] = {
    "candidates": [{"content": {"parts": [{"text": "\\"}]}, "finishReason": "MAX_TOKENS", "index": 0}],
    "usageMetadata": COUNTED,
    "modelVersion": "m",
}


def plain(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return document


def wrapped(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """As Code Assist sends it."""
    return {"response": document, "traceId": "t", "remainingCredits": [{"creditAmount": "10"}]}


def unary(documents: Sequence[object]) -> bytes:
    return json.dumps(documents[-1], indent=2).encode() + b"\n"


def events(documents: Sequence[object]) -> bytes:
    return b"".join(
        b"data: %b\r\n\r\n" % json.dumps(it, separators=(",", ": "), ensure_ascii=False).encode() for it in documents
    )


def array(documents: Sequence[object]) -> bytes:
    return b"[" + b"\n,\r\n".join(json.dumps(it, indent=2).encode() for it in documents) + b"\n]"


FRAMINGS = {"unary": unary, "sse": events, "array": array}
KINDS = {"api-key": plain, "vertex": plain, "code-assist": wrapped}


def watched(chunks: Iterable[bytes], *, embeds: bool = False) -> tuple[Usage | None, str | None]:
    """What is read from an answer in chunks."""
    watch = UsageWatch(embeds=embeds)
    for chunk in chunks:
        watch.feed(chunk)
    return watch.read()


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_the_reason_are_read_at_every_cut(framing: str, kind: str) -> None:
    """However an answer is framed, wrapped and cut, the last count and the last reason are its own."""
    body = FRAMINGS[framing]([KINDS[kind](it) for it in (FIRST, LAST)])
    for chunks in every_cut(body):
        assert watched(chunks) == (USAGE, "MAX_TOKENS")


@unhurried
@given(st.data())
def test_long_answers_are_read_in_pieces_of_any_size(data: st.DataObject) -> None:
    """What is no longer held has been looked through: an image, or grounding after the reason, hides nothing."""
    framing, kind = data.draw(st.sampled_from(sorted(FRAMINGS))), data.draw(st.sampled_from(sorted(KINDS)))
    many = data.draw(st.integers(0, 60))
    image = {
        "candidates": [{"content": {"parts": [{"inlineData": {"data": "A" * data.draw(st.integers(0, 50_000))}}]}}]
    }
    grounded = {
        **LAST,
        "candidates": [
            {**LAST["candidates"][0], "groundingMetadata": {"x": ["lorem"] * data.draw(st.integers(0, 4000))}}
        ],
    }
    if framing == "unary":
        grounded["candidates"][0]["content"] = image["candidates"][0]["content"]
    body = FRAMINGS[framing]([KINDS[kind](it) for it in [*[FIRST] * many, image, grounded]])
    places = data.draw(st.sets(st.integers(0, len(body)), max_size=40))
    assert watched(cut_at(body, places)) == (USAGE, "MAX_TOKENS")
    assert watched(body[i : i + 65_536] for i in range(0, len(body), 65_536)) == (USAGE, "MAX_TOKENS")


def test_a_stream_that_breaks_off_tells_what_it_had_told() -> None:
    """A count that was cut off is not taken; the one before it is, also when a large event came between."""
    first = json.dumps(FIRST).encode()
    for end in range(events([FIRST, LAST]).index(b"modelVersion")):
        usage, finish = watched([events([FIRST, LAST])[:end]])
        assert usage in (None, USAGE, Usage(prompt=11, total=11))
        assert finish in (None, "MAX_TOKENS")
    cut = b"data: " + first + b'\r\n\r\ndata: {"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTok'
    assert watched([cut]) == (Usage(prompt=11, total=11), "STOP")
    image = b'data: {"candidates": [{"content": {"parts": [{"inlineData": {"data": "' + b"A" * 200_000
    whole = b"data: " + first + b"\r\n\r\n" + image
    assert watched(whole[i : i + 30_000] for i in range(0, len(whole), 30_000)) == (Usage(prompt=11, total=11), None)


def test_the_tail_that_is_held_is_bounded() -> None:
    """However long an answer is, and whatever its chunks are, a watch holds little of it."""
    for piece in (b"x" * 100, b'"' * 100, b"x" * 70_000, b'x"' * 35_000, b'"usageMetadata": {"a": ' * 50):
        watch = UsageWatch()
        for _ in range(2_000_000 // len(piece)):
            watch.feed(piece)
            assert sum(map(len, watch._chunks)) <= HELD
            assert len(watch._usage) <= SPAN


def test_a_count_over_several_data_lines_is_read() -> None:
    """An event may come as pretty JSON, a data field a line."""
    body = b"".join(b"data: %b\r\n" % line for line in json.dumps(LAST, indent=2).encode().split(b"\n")) + b"\r\n"
    assert watched([body]) == (USAGE, "MAX_TOKENS")


def test_a_name_in_a_call_to_a_function_is_not_the_answers_own() -> None:
    """Arguments of a function may be called anything; what Google adds comes after them."""
    args = {"usageMetadata": {"promptTokenCount": 1}, "finishReason": "SOON"}
    call = {"candidates": [{"content": {"parts": [{"functionCall": {"args": args}}]}, "finishReason": "STOP"}]}
    assert watched([events([{**call, "usageMetadata": COUNTED}])]) == (USAGE, "STOP")
    text = {"candidates": [{"content": {"parts": [{"text": "finishReason"}, {"text": "usageMetadata"}]}}]}
    assert watched([events([text])]) == (None, None)
    oddly = {"finishReason": "not one", "usageMetadata": ["not one"]}
    assert watched([events([LAST, oddly])]) == (USAGE, "MAX_TOKENS")


def test_the_last_candidates_reason_counts() -> None:
    """Of several candidates the last one's reason is told."""
    body = {"candidates": [{"finishReason": "STOP"}, {"finishReason": "SAFETY"}]}
    assert watched([unary([body])]) == (None, "SAFETY")


def test_a_refused_prompt_tells_why() -> None:
    """Without a candidate, the reason is the prompt's."""
    body = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 4}}
    assert watched([events([body])]) == (Usage(prompt=4, total=4), "PROHIBITED_CONTENT")


@pytest.mark.parametrize(("number", "name"), [(1, "STOP"), (2, "MAX_TOKENS"), (3, "SAFETY"), (17, "17")])
def test_numbered_reasons_are_named_where_they_mean_the_same_everywhere(number: int, name: str) -> None:
    """With enum-encoding=int reasons are numbers, and the APIs differ in the higher ones."""
    assert watched([unary([{"candidates": [{"finishReason": number}]}])]) == (None, name)


@pytest.mark.parametrize(
    "told",
    [{}, {"trafficType": "ON_DEMAND"}, {"promptTokenCount": 0}, {"promptTokenCount": "x"}, {"promptTokenCount": -3},
     {"totalTokenCount": True}, {"promptTokenCount": None}],
    ids=str,
)  # fmt: skip
def test_what_counts_nothing_is_no_usage(told: dict[str, Any]) -> None:
    """Vertex AI tells in each event how it was paid for; tokens are in the last one only."""
    assert watched([events([{"usageMetadata": told}])]) == (None, None)
    assert watched([events([LAST, {"usageMetadata": told}])]) == (USAGE, "MAX_TOKENS")


def test_a_sum_that_is_not_told_is_made() -> None:
    """Embeddings tell of their prompt only."""
    body = {"embedding": {"values": [0.1] * 3072}, "usageMetadata": {"promptTokenCount": 6}}
    assert watched([unary([body])]) == (Usage(prompt=6, total=6), None)


def test_a_count_of_tokens_is_no_usage() -> None:
    """countTokens answers with a number, which nobody has used."""
    assert watched([unary([{"totalTokens": 31, "cachedContentTokenCount": 3}])]) == (None, None)


@pytest.mark.parametrize("counts", [[6], [6, 4, 120], [9] * 40])
def test_texts_that_predict_embeds_are_summed(counts: list[int]) -> None:
    """Vertex AI counts per text: a large answer holds many, at any place."""
    predictions = [
        {"embeddings": {"statistics": {"truncated": False, "token_count": n}, "values": [0.0123456] * 300}}
        for n in counts
    ]
    body = unary([{"predictions": predictions, "metadata": {"billableCharacterCount": 99}}])
    total = Usage(prompt=sum(counts), total=sum(counts))
    for size in (1, 7, 1000, 16_384, 65_536, len(body)):
        assert watched((body[i : i + size] for i in range(0, len(body), size)), embeds=True) == (total, None)
    assert watched([body]) == (None, None)


@pytest.mark.parametrize("sizes", [[4], [4, 90_000], [70_000] * 4])
def test_images_that_predict_makes_are_counted(sizes: list[int]) -> None:
    """No tokens are told of an image, and it has a price: each counts, however large the answer and its pieces are."""
    predictions = [{"mimeType": "image/png", "bytesBase64Encoded": "A" * size} for size in sizes]
    body = unary([{"predictions": predictions}])
    for size in (1_000, 16_384, 65_536, len(body)):
        assert watched((body[i : i + size] for i in range(0, len(body), size)), embeds=True) == (
            Usage(images=len(sizes)),
            None,
        )
    assert watched([body]) == (None, None)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("encoding", ["names", "numbers"])
def test_tokens_that_are_no_text_are_told_by_their_modality(framing: str, encoding: str) -> None:
    """Audio and images have prices of their own; text needs no mention."""
    audio, image, text = ("AUDIO", "IMAGE", "TEXT") if encoding == "names" else (4, 2, 1)
    counted = {
        **COUNTED,
        "promptTokensDetails": [{"modality": text, "tokenCount": 6}, {"modality": audio, "tokenCount": 5}],
        "cacheTokensDetails": [{"modality": audio, "tokenCount": 2}],
        "candidatesTokensDetails": [{"modality": image, "tokenCount": 7}],
        "trafficType": "ON_DEMAND_FLEX",
    }
    told = (("prompt", "AUDIO", 5), ("cached", "AUDIO", 2), ("output", "IMAGE", 7))
    expected = attrs.evolve(USAGE, modalities=told, tier="ON_DEMAND_FLEX")
    assert watched([FRAMINGS[framing]([FIRST, {**LAST, "usageMetadata": counted}])]) == (expected, "MAX_TOKENS")
    lines = b"".join(
        b"data: %b\r\n" % it for it in json.dumps({"usageMetadata": counted}, indent=1).encode().split(b"\n")
    )
    assert watched([lines + b"\r\n"]) == (expected, None)


@pytest.mark.parametrize("details", ["x", [1], [{"modality": "AUDIO"}], [{"modality": 99, "tokenCount": 3}], None])
def test_details_that_cannot_be_read_leave_the_counts_right(details: object) -> None:
    """What says nothing of a modality takes nothing from the numbers."""
    assert watched([unary([{**LAST, "usageMetadata": {**COUNTED, "promptTokensDetails": details}}])]) == (
        USAGE,
        "MAX_TOKENS",
    )

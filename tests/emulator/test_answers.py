"""What a model says."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.emulator import answers, images, tokens


def user(text: str, *more: Any) -> dict[str, Any]:
    return {"role": "user", "parts": [{"text": text}, *more]}


def ask(*contents: Any, model: str = "gemini-2.5-flash", **rest: Any) -> dict[str, Any]:
    """A unary answer."""
    return answers.unary(answers.compose(model, {"contents": list(contents), **rest}))


def parts(document: dict[str, Any], index: int = 0) -> list[Any]:
    found: list[Any] = document["candidates"][index]["content"]["parts"]
    return found


def said(document: dict[str, Any], index: int = 0) -> str:
    return "".join(part.get("text", "") for part in parts(document, index) if not part.get("thought"))


def stream(request: dict[str, Any], model: str = "gemini-2.5-flash", wanted: int | None = None) -> list[dict[str, Any]]:
    return answers.events(answers.compose(model, request), wanted=wanted)


# -- text


def test_the_text_refers_to_the_prompt() -> None:
    """So that a person sees what arrived."""
    assert '"What is the capital of Peru?"' in said(ask(user("What is the capital of Peru?")))


def test_the_same_request_gets_the_same_answer() -> None:
    """And another seed, model or prompt another one."""
    request = {"contents": [user("x")]}
    one = answers.unary(answers.compose("m", request))
    assert one == answers.unary(answers.compose("m", json.loads(json.dumps(request))))
    assert one["responseId"] != answers.unary(answers.compose("m", request, seed=1))["responseId"]
    assert one["responseId"] != answers.unary(answers.compose("n", request))["responseId"]
    assert len(one["responseId"]) == 23


def test_instruction_earlier_turns_and_media_are_mentioned() -> None:
    """Everything that was sent can be seen to have come."""
    picture = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(b"12345").decode()}}
    text = said(
        ask(
            user("I am Ada"),
            {"role": "model", "parts": [{"text": "Hello"}]},
            user("Who am I?", picture, {"fileData": {"mimeType": "text/plain", "fileUri": "gs://b/o"}}),
            systemInstruction={"parts": [{"text": "Be brief"}]},
        )
    )
    assert '"Who am I?"' in text
    assert 'Earlier you said: "I am Ada"; this is your turn 2.' in text
    assert "I received image/png of 5 bytes." in text
    assert "I read the file gs://b/o (text/plain)." in text
    assert 'instruction "Be brief"' in text


def test_long_prompts_are_quoted_in_part() -> None:
    """An answer to a book is not a book."""
    text = said(ask(user("word " * 10_000)))
    assert "…" in text
    assert len(text) < 500


def test_an_empty_conversation_is_answered_too() -> None:
    """The model has only its closing words."""
    assert said(ask())
    assert json.loads(said(ask(generationConfig={"responseMimeType": "application/json"}))) == {"answer": ""}


def test_limits_truncate_with_their_reason() -> None:
    """maxOutputTokens counts exactly; a stop sequence is not part of the answer."""
    short = ask(user("hello"), generationConfig={"maxOutputTokens": 3})
    assert len(said(short)) == 12
    assert short["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert short["usageMetadata"]["candidatesTokenCount"] == 3
    stopped = ask(user("hello"), generationConfig={"stopSequences": ["", "zzz", ":", '"hello']})
    assert ":" not in said(stopped)
    assert stopped["candidates"][0]["finishReason"] == "STOP"


def test_candidates_differ_and_are_numbered() -> None:
    """candidateCount."""
    document = ask(user("hello"), generationConfig={"candidateCount": 3})
    assert [candidate["index"] for candidate in document["candidates"]] == [0, 1, 2]
    assert len({said(document, index) for index in range(3)}) == 3


def test_thoughts_come_first_and_are_counted() -> None:
    """With a signature on what follows them."""
    thinking = {"thinkingConfig": {"includeThoughts": True}}
    document = ask(user("why"), generationConfig=thinking)
    thoughts = [part for part in parts(document) if part.get("thought")]
    assert parts(document)[: len(thoughts)] == thoughts
    assert len(thoughts) == 2
    assert base64.b64decode(parts(document)[2]["thoughtSignature"])
    usage = document["usageMetadata"]
    assert usage["thoughtsTokenCount"] == tokens.of_text("".join(part["text"] for part in thoughts))
    assert usage["totalTokenCount"] == (
        usage["promptTokenCount"] + usage["candidatesTokenCount"] + usage["thoughtsTokenCount"]
    )
    assert "thoughtsTokenCount" not in ask(user("why"))["usageMetadata"]
    thinking["thinkingConfig"]["thinkingBudget"] = 0  # type: ignore[assignment]
    assert "thoughtsTokenCount" not in ask(user("why"), generationConfig=thinking)["usageMetadata"]
    assert ask(generationConfig={"thinkingConfig": {"includeThoughts": True}})


# -- JSON output


def test_json_output_satisfies_the_schema() -> None:
    """Either dialect."""
    gemini = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER", "minimum": 3, "maximum": 3}}}
    config = {"responseMimeType": "application/json", "responseSchema": gemini}
    assert json.loads(said(ask(user("x"), generationConfig=config))) == {"n": 3}
    config = {"responseMimeType": "application/json", "responseJsonSchema": {"const": [1]}}
    assert json.loads(said(ask(user("x"), generationConfig=config))) == [1]


def test_json_output_without_a_schema_is_json() -> None:
    """An object with the prompt in it."""
    config = {"responseMimeType": "application/json"}
    assert json.loads(said(ask(user("x"), generationConfig=config))) == {"answer": "x"}


def test_enum_output_is_one_of_the_values() -> None:
    """Without quotes."""
    config = {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ["Percussion"]}}
    assert said(ask(user("x"), generationConfig=config)) == "Percussion"


# -- tools

WEATHER = {"name": "get_weather", "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}}
TIME = {"name": "now"}


def calls(*contents: Any, mode: str | None = None, model: str = "gemini-2.5-flash", **config: Any) -> list[Any]:
    rest = {"toolConfig": {"functionCallingConfig": {"mode": mode, **config}}} if mode else {}
    document = ask(*contents, model=model, tools=[{"functionDeclarations": [WEATHER, TIME]}], **rest)
    return [part["functionCall"] for part in parts(document) if "functionCall" in part]


RESPONSE = {"role": "user", "parts": [{"functionResponse": {"name": "get_weather", "response": {"temp": 21}}}]}


def test_a_function_is_called_after_the_users_text() -> None:
    """The first one, with arguments that satisfy its schema."""
    assert calls(user("How warm is it?")) == [{"name": "get_weather", "args": {"city": "example city"}}]


def test_the_functions_that_the_prompt_names_are_called() -> None:
    """One or several; a name within a word does not count."""
    assert [call["name"] for call in calls(user("Call NOW!"))] == ["now"]
    assert [call["name"] for call in calls(user("now, get weather"))] == ["get_weather", "now"]
    assert [call["name"] for call in calls(user("I know"))] == ["get_weather"]


def test_after_a_functions_response_comes_text_that_quotes_it() -> None:
    """So that calling in a loop ends."""
    document = ask(user("weather"), RESPONSE, tools=[{"functionDeclarations": [WEATHER]}])
    assert 'The function get_weather returned {"temp": 21}.' in said(document)


def test_the_mode_decides() -> None:
    """NONE never, ANY always, and only what is allowed."""
    assert calls(user("weather"), mode="NONE") == []
    assert [call["name"] for call in calls(user("weather"), RESPONSE, mode="ANY")] == ["get_weather"]
    assert [call["name"] for call in calls(user("x"), mode="ANY", allowedFunctionNames=["now"])] == ["now"]
    assert calls(user("x"), mode="ANY", allowedFunctionNames=["other"]) == []
    assert calls(user("weather"), RESPONSE, mode="AUTO") == []


def test_no_call_without_a_users_text() -> None:
    """The model does not answer itself, nor a picture alone."""
    assert calls(user("x"), {"role": "model", "parts": [{"text": "y"}]}) == []
    assert calls({"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": ""}}]}) == []
    assert calls() == []


def test_newer_models_give_call_ids() -> None:
    """gemini-3 does."""
    found = calls(user("now get weather"), model="gemini-3-pro-preview")
    assert len({call["id"] for call in found}) == 2


def test_a_prompt_gives_the_arguments() -> None:
    """Behind the names of functions, in its order; what is no object is none."""
    tools = [{"functionDeclarations": [{"name": name} for name in ("Edit", "Read", "Write")]}]
    prompt = 'Read {"path": "a {b}"} and Edit({"path": "a", "n": [1]}), then Write {nothing, PreRead {"x": 1}'
    called = [part["functionCall"] for part in parts(ask(user(prompt), tools=tools))]
    assert called == [
        {"name": "Read", "args": {"path": "a {b}"}},
        {"name": "Edit", "args": {"path": "a", "n": [1]}},
    ]


def test_arguments_are_an_object_whatever_the_schema() -> None:
    """Struct holds nothing else."""
    tool = {"functionDeclarations": [{"name": "f", "parametersJsonSchema": {"type": "string"}}]}
    assert parts(ask(user("x"), tools=[tool]))[0]["functionCall"]["args"] == {}


def test_googles_own_tools_leave_their_marks() -> None:
    """Search, URL context and code execution."""
    document = ask(
        user("read https://example.org/a now"), tools=[{"googleSearch": {}}, {"urlContext": {}}, {"codeExecution": {}}]
    )
    candidate = document["candidates"][0]
    assert candidate["groundingMetadata"]["webSearchQueries"] == ["read https://example.org/a now"]
    assert candidate["urlContextMetadata"]["urlMetadata"][0]["retrievedUrl"] == "https://example.org/a"
    assert [next(iter(part)) for part in parts(document)] == ["executableCode", "codeExecutionResult", "text"]
    assert document["usageMetadata"]["candidatesTokenCount"] > tokens.of_text(said(document))


# -- media


def test_an_image_model_makes_a_png() -> None:
    """A real one, of the aspect that was asked for."""
    document = ask(
        user("cat"), model="gemini-2.5-flash-image", generationConfig={"imageConfig": {"aspectRatio": "16:9"}}
    )
    blob = parts(document)[1]["inlineData"]
    picture = base64.b64decode(blob["data"])
    assert blob["mimeType"] == "image/png"
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", picture[16:24]) == (32, 18)
    assert {"modality": "IMAGE", "tokenCount": 1290} in document["usageMetadata"]["candidatesTokensDetails"]


def test_a_picture_decodes_to_its_pixels() -> None:
    """Header, data and checksums are right."""
    picture = images.png(b"\x01\x02\x03", 3, 2)
    length = struct.unpack(">I", picture[33:37])[0]
    assert len(zlib.decompress(picture[41 : 41 + length])) == 2 * (1 + 3 * 3)


@pytest.mark.parametrize("ratio", [None, "", "x:y", "0:1", "1000:1", "16"])
def test_an_odd_aspect_is_a_square(ratio: str | None) -> None:
    """Rather than an error."""
    assert images.size_of(ratio) == (16, 16)


def test_modalities_choose_what_is_made() -> None:
    """Sound alone, a picture alone."""
    sound = parts(ask(user("x"), generationConfig={"responseModalities": ["AUDIO"]}))
    assert [part["inlineData"]["mimeType"] for part in sound] == ["audio/L16;codec=pcm;rate=24000"]
    assert len(base64.b64decode(sound[0]["inlineData"]["data"])) == 4_800
    picture = parts(ask(user("x"), generationConfig={"responseModalities": ["IMAGE"]}))
    assert [next(iter(part)) for part in picture] == ["inlineData"]


# -- documents


def test_vertex_prints_content_in_its_own_order() -> None:
    """And says which traffic it was."""
    document = answers.unary(answers.compose("m", {"contents": [user("x")]}, vertex=True))
    assert list(document["candidates"][0]["content"]) == ["role", "parts"]
    assert document["usageMetadata"]["trafficType"] == "ON_DEMAND"
    assert document["usageMetadata"]["candidatesTokensDetails"]
    assert list(ask(user("x"))["candidates"][0]["content"]) == ["parts", "role"]


def test_a_stream_says_what_a_unary_answer_says() -> None:
    """The texts joined, and the last counts, are the same."""
    request = {"contents": [user("hello " * 30)], "generationConfig": {"candidateCount": 2}}
    whole = answers.unary(answers.compose("m", request))
    documents = stream(request, "m")
    for index in range(2):
        of_one = [d["candidates"][0] for d in documents if d["candidates"][0]["index"] == index]
        assert "".join(c["content"]["parts"][0]["text"] for c in of_one) == said(whole, index)
        assert [c.get("finishReason") for c in of_one] == [None] * (len(of_one) - 1) + ["STOP"]
    assert documents[-1]["usageMetadata"] == whole["usageMetadata"]
    assert {d["responseId"] for d in documents} == {whole["responseId"]}


@given(st.text(max_size=300), st.integers(1, 12))
def test_pieces_join_to_the_text(text: str, wanted: int) -> None:
    """However a text is cut, nothing is lost, and so many pieces come as were asked for."""
    answer = answers.compose("m", {"contents": []}, text=text)
    for pieces in (answers.events(answer), answers.events(answer, wanted=wanted)):
        assert "".join(said(document) for document in pieces) == text
    assert len(answers.events(answer, wanted=wanted)) == wanted


def test_thoughts_calls_and_grounding_in_a_stream() -> None:
    """Thoughts first; the signature comes with the last piece; grounding with the last document."""
    request = {
        "contents": [user("tell me a lot about streams and pieces")],
        "tools": [{"googleSearch": {}}],
        "generationConfig": {"thinkingConfig": {"includeThoughts": True}},
    }
    documents = stream(request)
    assert [bool(parts(d)[0].get("thought")) for d in documents[:3]] == [True, True, False]
    assert "thoughtSignature" in parts(documents[-1])[0]
    assert "groundingMetadata" in documents[-1]["candidates"][0]
    assert "candidatesTokenCount" not in documents[0]["usageMetadata"]


def test_a_candidate_without_parts_still_ends() -> None:
    """Only a picture was wanted from a model that made none."""
    documents = stream({"contents": [user("x")], "generationConfig": {"responseModalities": ["VIDEO"]}})
    assert parts(documents[0]) == []
    assert documents[0]["candidates"][0]["finishReason"] == "STOP"
    thinking = {"responseModalities": ["VIDEO"], "thinkingConfig": {"includeThoughts": True}}
    assert len(stream({"contents": [user("x")], "generationConfig": thinking})) == 2


def test_a_blocked_prompt_has_no_candidates() -> None:
    """An answer, not an error."""
    document = answers.blocked(answers.compose("m", {"contents": [user("x")]}))
    assert "candidates" not in document
    assert document["promptFeedback"]["blockReason"] == "SAFETY"


def test_cached_content_is_counted() -> None:
    """As part of the prompt, and by itself."""
    cached = {"contents": [user("y" * 40)]}
    usage = answers.unary(answers.compose("m", {"contents": [user("abcd")]}, cached=cached))["usageMetadata"]
    assert (usage["promptTokenCount"], usage["cachedContentTokenCount"]) == (11, 10)


# -- tokens


@pytest.mark.parametrize(
    ("part", "counted"),
    [
        ({"text": "abcde"}, ("TEXT", 2)),
        ({"text": ""}, ("TEXT", 0)),
        ({"inlineData": {"mimeType": "image/png", "data": "AAAA"}}, ("IMAGE", 258)),
        ({"inlineData": {"mimeType": "text/plain", "data": "A" * 16}}, ("TEXT", 3)),
        ({"inlineData": {}}, ("TEXT", 1)),
        ({"fileData": {"mimeType": "application/pdf"}}, ("DOCUMENT", 258)),
        ({"fileData": {"mimeType": "video/mp4"}}, ("VIDEO", 2630)),
        ({"functionCall": {"name": "f"}}, ("TEXT", 8)),
    ],
)
def test_parts_are_counted(part: Any, counted: Any) -> None:
    """Text by characters, media flat."""
    assert tokens.of_part(part) == counted


def test_details_are_in_googles_order() -> None:
    """Text first, and only what occurs."""
    contents = [user("ab cd", {"inlineData": {"mimeType": "image/png", "data": ""}})]
    assert tokens.details(tokens.of_contents(contents)) == [
        {"modality": "TEXT", "tokenCount": 2},
        {"modality": "IMAGE", "tokenCount": 258},
    ]
    assert tokens.billable_characters(contents) == 4

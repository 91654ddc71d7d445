"""proto3 JSON: what Google accepts is read, the rest is refused in its words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.emulator import schema
from agm.emulator.errors import GoogleError, Kind

KEY = Kind.API_KEY


def read(document: Any, kind: Kind = KEY, message: str = "GenerateContentRequest") -> dict[str, Any]:
    return schema.read(document, message, kind)


def violations(document: Any, kind: Kind = KEY, message: str = "GenerateContentRequest") -> list[tuple[str, str]]:
    """Field and description of each violation; the message is made of the descriptions."""
    with pytest.raises(GoogleError) as caught:
        schema.read(document, message, kind)
    error = caught.value.document()["error"]
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    found = error["details"][0]["fieldViolations"]
    assert error["message"] == "\n".join(one["description"] for one in found)
    return [(one.get("field", ""), one["description"]) for one in found]


# -- what is accepted


def test_snake_case_and_camel_case_are_the_same_field() -> None:
    """Clients mix both in one body."""
    both = {
        "system_instruction": {"parts": [{"text": "x"}]},
        "generationConfig": {"max_output_tokens": 3, "topP": 0.5},
        "contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": "AAAA"}}]}],
    }
    assert read(both) == {
        "systemInstruction": {"parts": [{"text": "x"}]},
        "generationConfig": {"maxOutputTokens": 3, "topP": 0.5},
        "contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}],
    }


@pytest.mark.parametrize("mode", [2, "ANY", "any", "2"])
def test_enums_by_name_by_number_and_in_any_case(mode: object) -> None:
    """``mode: 2`` is ANY."""
    config = read({"toolConfig": {"functionCallingConfig": {"mode": mode}}})
    assert config["toolConfig"]["functionCallingConfig"]["mode"] == "ANY"


def test_numbers_that_an_enum_lacks_are_kept() -> None:
    """proto3 enums are open."""
    assert read({"safetySettings": [{"category": 99}]})["safetySettings"][0]["category"] == 99


def test_schema_types_by_number() -> None:
    """google-generativeai sends ``type: 6`` for an object."""
    tool = {"functionDeclarations": [{"name": "f", "parameters": {"type": 6, "properties": {"a": {"type": 1}}}}]}
    parameters = read({"tools": [tool]})["tools"][0]["functionDeclarations"][0]["parameters"]
    assert parameters == {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}


def test_a_lone_value_is_a_list_of_one() -> None:
    """``"parts": {"text": …}`` is in Google's own examples."""
    assert read({"contents": {"parts": {"text": "x"}}}) == {"contents": [{"parts": [{"text": "x"}]}]}


def test_null_is_an_absent_field() -> None:
    """But for a Value, which may be null."""
    assert read({"contents": None, "generationConfig": {"responseJsonSchema": None}}) == {
        "generationConfig": {"responseJsonSchema": None}
    }


@pytest.mark.parametrize(
    ("config", "as_read"),
    [
        ({"maxOutputTokens": "12"}, {"maxOutputTokens": 12}),
        ({"maxOutputTokens": 12.0}, {"maxOutputTokens": 12}),
        ({"temperature": "0.5"}, {"temperature": 0.5}),
        ({"temperature": 1}, {"temperature": 1}),
        ({"responseLogprobs": "true"}, {"responseLogprobs": True}),
        ({"responseLogprobs": "false"}, {"responseLogprobs": False}),
        ({"responseLogprobs": True}, {"responseLogprobs": True}),
    ],
)
def test_numbers_and_booleans_may_be_strings(config: Any, as_read: Any) -> None:
    """As proto3 JSON allows."""
    assert read({"generationConfig": config})["generationConfig"] == as_read


def test_free_values_are_kept_as_they_are() -> None:
    """Arguments, responses and JSON schemas are the caller's."""
    anything = {"x_y": [1, {"nested_name": None}], "enum": "any"}
    call = {"functionCall": {"name": "f", "id": "1", "args": anything}}
    declared = {"name": "f", "parametersJsonSchema": anything}
    read_again = read({"contents": [{"parts": [call]}], "tools": [{"functionDeclarations": [declared]}]})
    assert read_again["contents"][0]["parts"][0] == call
    assert read_again["tools"][0]["functionDeclarations"][0] == declared


@pytest.mark.parametrize("data", ["", "AA==", "AA", "-_-_", "+/+/"])
def test_bytes_are_base64_of_either_alphabet_padded_or_not(data: str) -> None:
    """As proto3 JSON allows."""
    assert read({"contents": [{"parts": [{"inlineData": {"data": data}}]}]})


@given(st.binary())
def test_bytes_are_decoded(data: bytes) -> None:
    """Both alphabets mean the same."""
    import base64

    assert schema.decode_bytes(base64.b64encode(data).decode()) == data
    assert schema.decode_bytes(base64.urlsafe_b64encode(data).decode().rstrip("=")) == data


# -- what is refused


def test_unknown_names_are_refused_at_their_place() -> None:
    """Paths are snake_case, map entries are counted, and every violation is told at once."""
    document = {
        "google": 1,
        "contents": [{"parts": [{"text": "x", "cache_control": {}}]}],
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "f", "parameters": {"properties": {"a": {}, "b": {"items": {"const": 1}}}}}
                ]
            }
        ],
    }
    inner = "tools[0].function_declarations[0].parameters.properties[1].value.items"
    assert violations(document) == [
        ("", 'Invalid JSON payload received. Unknown name "google": Cannot find field.'),
        (
            "contents[0].parts[0]",
            "Invalid JSON payload received. Unknown name \"cache_control\" at 'contents[0].parts[0]': "
            "Cannot find field.",
        ),
        (inner, f"Invalid JSON payload received. Unknown name \"const\" at '{inner}': Cannot find field."),
    ]


def test_a_list_for_one_value_is_refused() -> None:
    """A list of types is JSON Schema, not Gemini's."""
    assert violations({"generationConfig": {"responseSchema": {"type": ["STRING", "NULL"]}}}) == [
        (
            "generation_config.response_schema",
            "Invalid JSON payload received. Unknown name \"type\" at 'generation_config.response_schema': "
            "Proto field is not repeating, cannot start list.",
        )
    ]


PART = "contents[0].parts[0]"
V1BETA = "type.googleapis.com/google.ai.generativelanguage.v1beta"


@pytest.mark.parametrize(
    ("document", "path", "said"),
    [
        ({"contents": [{"parts": [{"text": 5}]}]}, f"{PART}.text", "(TYPE_STRING), 5"),
        ({"contents": ["hi"]}, "contents[0]", f'({V1BETA}.Content), "hi"'),
        ({"contents": [{"parts": [{"thought": 1}]}]}, f"{PART}.thought", "(TYPE_BOOL), 1"),
        ({"contents": [{"parts": [{"thoughtSignature": 1}]}]}, f"{PART}.thought_signature", "(TYPE_BYTES), 1"),
        ({"generationConfig": {"temperature": "hot"}}, "generation_config.temperature", '(TYPE_FLOAT), "hot"'),
        ({"generationConfig": {"temperature": True}}, "generation_config.temperature", "(TYPE_FLOAT), true"),
        ({"generationConfig": {"candidateCount": 1.5}}, "generation_config.candidate_count", "(TYPE_INT32), 1.5"),
        ({"generationConfig": {"seed": 2**31}}, "generation_config.seed", "(TYPE_INT32), 2147483648"),
        ({"generationConfig": {"seed": True}}, "generation_config.seed", "(TYPE_INT32), true"),
        ({"generationConfig": {"seed": "x"}}, "generation_config.seed", '(TYPE_INT32), "x"'),
        (
            {"generationConfig": {"responseModalities": ["SMELL"]}},
            "generation_config.response_modalities[0]",
            f'({V1BETA}.GenerationConfig.Modality), "SMELL"',
        ),
        (
            {"safetySettings": [{"threshold": True}]},
            "safety_settings[0].threshold",
            f"({V1BETA}.SafetySetting.HarmBlockThreshold), true",
        ),
        (
            {"contents": [{"parts": [{"functionCall": {"args": 1}}]}]},
            f"{PART}.function_call.args",
            "(type.googleapis.com/google.protobuf.Struct), 1",
        ),
        (
            {"generationConfig": {"responseSchema": {"properties": 1}}},
            "generation_config.response_schema.properties",
            "(Map), 1",
        ),
    ],
)
def test_wrong_types_are_refused_with_the_value(document: Any, path: str, said: str) -> None:
    """Invalid value at the path, the type that was expected, and what came."""
    assert violations(document) == [(path, f"Invalid value at '{path}' {said}")]


def test_a_body_that_is_no_object_is_refused() -> None:
    """There is no path to speak of."""
    assert violations([1]) == [("", f"Invalid value at '' ({V1BETA}.GenerateContentRequest), [1]")]


def test_bad_base64_is_refused() -> None:
    """With the beginning of what came."""
    assert violations({"contents": [{"parts": [{"inlineData": {"data": "é!"}}]}]}) == [
        (
            f"{PART}.inline_data.data",
            f"Invalid value at '{PART}.inline_data.data' (TYPE_BYTES), Base64 decoding failed for \"é!\"",
        )
    ]


def test_a_part_holds_one_kind_of_data() -> None:
    """The second member of a oneof is refused."""
    assert violations({"contents": [{"parts": [{"text": "x", "inline_data": {}}]}]}) == [
        (PART, f"Invalid value at '{PART}' (oneof), oneof field 'data' is already set. Cannot set 'inlineData'")
    ]


# -- the kinds


def test_labels_belong_to_vertex() -> None:
    """The Developer API does not know them."""
    assert read({"labels": {"a": "b"}}, Kind.VERTEX) == {"labels": {"a": "b"}}
    assert violations({"labels": {"a": "b"}})[0][0] == ""


def test_paths_in_the_code_assist_envelope_begin_with_request() -> None:
    """The caller's request is one level down."""
    body = {"model": "m", "request": {"contents": [], "tools": [{"foo": 1}], "session_id": "s"}, "user_prompt_id": "u"}
    assert violations(body, Kind.CODE_ASSIST, "GenerateContentEnvelope") == [
        (
            "request.tools[0]",
            "Invalid JSON payload received. Unknown name \"foo\" at 'request.tools[0]': Cannot find field.",
        )
    ]


def test_code_assist_counts_model_and_contents_only() -> None:
    """Anything else is unknown, above and below."""
    body = {"model": "m", "project": "p", "request": {"model": "models/m", "contents": [], "safetySettings": []}}
    found = violations(body, Kind.CODE_ASSIST, "CountTokensEnvelope")
    assert [field for field, _ in found] == ["", "", "request"]
    assert schema.read({"request": {"model": "models/m"}}, "CountTokensEnvelope", Kind.CODE_ASSIST)


def test_the_package_of_an_error_is_the_kinds() -> None:
    """Vertex AI has names of its own."""
    assert violations({"contents": [1]}, Kind.VERTEX)[0][1] == (
        "Invalid value at 'contents[0]' (type.googleapis.com/google.cloud.aiplatform.v1.Content), 1"
    )


@pytest.mark.parametrize("kind", list(Kind))
def test_every_type_in_the_table_exists(kind: Kind) -> None:
    """A typing error in the table would be found by a caller otherwise."""
    known = {"string", "bool", "bytes", "float", "double", "int32", "int64", "Value", "Any", "Struct"}
    table = schema.TABLES[kind]
    for name, fields in table.items():
        for field in fields.values():
            assert field.type in known or field.type in table or field.type in schema.ENUMS, (name, field)
            assert fields[field.snake] is field


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the package warns of the age of Python
def test_every_field_of_the_sdks_own_messages_is_known() -> None:
    """Whatever google-generativeai can send, the Developer API's table has."""
    from google.ai import generativelanguage_v1beta as published

    names = "GenerateContentRequest Content Part Blob FileData FunctionCall FunctionResponse Tool FunctionDeclaration"
    names += " Schema ToolConfig FunctionCallingConfig SafetySetting GenerationConfig EmbedContentRequest"
    for name in names.split():
        fields = schema.TABLES[KEY][name]
        for field in getattr(published, name).meta.fields:
            assert field.removesuffix("_") in fields, (name, field)

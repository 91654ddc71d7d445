"""What a gateway reads of the Live API: paths, the first message, close codes, usage over turns, handles."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agm.core import live
from agm.core.errors import InvalidRequest
from agm.core.live import DEVELOPER, INTERACTION, MUSIC, VERTEX, LiveTarget, LiveWatch, Pin, Pins, Setup
from agm.core.wire.usage import Usage
from agm.core.wire.websocket import CONTINUATION, TEXT, Closing, FrameReader, frame

SERVICE = b"/ws/google.ai.generativelanguage.v1beta.GenerativeService."


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (SERVICE + b"BidiGenerateContent", LiveTarget(DEVELOPER, "v1beta")),
        (b"/" + SERVICE + b"BidiGenerateContent", LiveTarget(DEVELOPER, "v1beta")),
        (SERVICE.replace(b"v1beta", b"v1") + b"BidiGenerateMusic", LiveTarget(MUSIC, "v1")),
        (
            SERVICE.replace(b"v1beta", b"v1alpha") + b"BidiGenerateContentConstrained",
            LiveTarget(DEVELOPER, "v1alpha", constrained=True),
        ),
        (b"/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent", LiveTarget(VERTEX, "v1beta")),
        (b"//ws/google.cloud.aiplatform.v1.LlmBidiService/BidiGenerateContent", LiveTarget(VERTEX, "v1")),
        (b"/v1beta/interactions/live", LiveTarget(INTERACTION, "v1beta")),
        (SERVICE + b"Other", None),
        (SERVICE, None),
        (b"/ws/", None),
        (b"/v2/interactions/live", None),
        (b"/v1beta/interactions/live/x", None),
    ],
)
def test_a_path_opens_what_it_names(path: bytes, target: LiveTarget | None) -> None:
    assert live.parse(path) == target


def setup_of(document: Any, method: str = DEVELOPER, **options: Any) -> Setup:
    return live.read_setup(json.dumps(document).encode(), LiveTarget(method, "v1beta"), **options)


def test_the_first_message_names_model_and_handle() -> None:
    assert setup_of({"setup": {"model": "models/m"}}) == Setup("m")
    resumption = {"sessionResumption": {"handle": "h"}}
    assert setup_of({"setup": {"model": "models/m", **resumption}}) == Setup("m", "h")
    assert setup_of({"setup": {"model": "m", "session_resumption": {"handle": "h"}}}) == Setup("m", "h")
    assert setup_of({"setup": {"model": "m", "sessionResumption": {"handle": ""}}}) == Setup("m")
    full = "projects/p/locations/l/publishers/google/models/m"
    assert setup_of({"setup": {"model": full}}, VERTEX) == Setup("m")
    assert setup_of({"setup": {"model": "publishers/google/models/m"}}, VERTEX) == Setup("m")
    assert setup_of({"setup": {**resumption}}, locked=True) == Setup("", "h")


def test_an_interactions_first_event_names_what_it_goes_on_with() -> None:
    assert setup_of({"event_type": "interaction.connect", "id": "v1_x"}, INTERACTION) == Setup("", interaction="v1_x")
    create = {"event_type": "interaction.create", "model": "gemini", "previous_interaction_id": "v1_y"}
    assert setup_of(create, INTERACTION) == Setup("gemini", interaction="v1_y")
    assert setup_of({"events": [create, {}]}, INTERACTION) == Setup("gemini", interaction="v1_y")
    nested = {"event_type": "interaction.create", "interaction": {"agent": "a"}}
    assert setup_of(nested, INTERACTION) == Setup("a")


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"setup": 1},
        {"setup": {}},
        {"setup": {"model": 1}},
        {"setup": {"model": "a\nb"}},
        {"setup": {"model": "x" * 600}},
    ],
)
def test_what_is_no_setup_is_refused(document: Any) -> None:
    with pytest.raises(InvalidRequest):
        setup_of(document)
    with pytest.raises(InvalidRequest):
        setup_of(document, INTERACTION)


def test_only_the_models_name_is_changed() -> None:
    payload = b'{ "setup" : {"tools": [1], "model": "models/m"} }'
    assert live.with_model(payload, DEVELOPER, "models/m") is payload
    assert json.loads(live.with_model(payload, DEVELOPER, "models/n")) == {"setup": {"tools": [1], "model": "models/n"}}
    event = b'{"events": [{"event_type": "interaction.create", "agent": "a"}, {"x": 1}]}'
    changed = json.loads(live.with_model(event, INTERACTION, "b"))
    assert changed == {"events": [{"event_type": "interaction.create", "agent": "b"}, {"x": 1}]}


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (1007, "Request contains an invalid argument.", 400),
        (1007, "API key not valid. Please pass a valid API key.", 400),
        (1008, "models/m is not found for API version v1beta, or is not supported for bidiGenerateContent.", 404),
        (1008, "API key was reported as leaked. Please use another API key.", 400),
        (1008, "Request had invalid authentication credentials.", 401),
        (1008, "Generative Language API has not been used in project 1 before or it is disabled.", 403),
        (1008, "Operation is not implemented, or supported, or enabled.", 403),
        (1011, "You exceeded your current quota, please check your plan and billing details.", 429),
        (1011, "RESOURCE_EXHAUSTED: concurrent sessions", 429),
        (1011, "Internal error encountered.", 503),
        (1013, "", 503),
        (None, "", 503),
    ],
)
def test_a_close_code_says_what_a_status_says(code: int | None, reason: str, status: int) -> None:
    found, document = live.status_of(Closing(code, reason))
    assert found == status
    error = json.loads(document)["error"]
    assert error["code"] == status
    assert reason in error["message"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, 1007),
        (401, 1008),
        (403, 1008),
        (404, 1008),
        (501, 1008),
        (413, 1009),
        (408, 1011),
        (429, 1011),
        (503, 1011),
    ],
)
def test_an_error_is_a_close_code(status: int, code: int) -> None:
    assert live.closing_of(status, "why") == Closing(code, "why")


def watched(*messages: Any, size: int = 1_000_000, fragments: int = 1) -> tuple[LiveWatch, list[str]]:
    """A watch that has seen messages, cut into reads of `size` bytes, each in so many frames."""
    handles: list[str] = []
    watch = LiveWatch(handles.append)
    reader = FrameReader(masked=False, observer=watch)
    stream = b""
    for message in messages:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        step = -(-len(data) // fragments)
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        for number, piece in enumerate(pieces):
            stream += frame(TEXT if number == 0 else CONTINUATION, piece, fin=number == len(pieces) - 1)
    for at in range(0, len(stream), size):
        reader.feed(stream[at : at + size])
    return watch, handles


def usage(prompt: int, said: int) -> dict[str, Any]:
    return {"promptTokenCount": prompt, "responseTokenCount": said, "totalTokenCount": prompt + said}


CONTENT = {"serverContent": {"modelTurn": {"parts": [{"text": "a"}]}}}
OVER = {"serverContent": {"turnComplete": True}}


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
@pytest.mark.parametrize("fragments", [1, 3])
def test_the_last_count_of_each_turn_is_summed(size: int, fragments: int) -> None:
    watch, _ = watched(
        {"setupComplete": {}},
        CONTENT,
        {**CONTENT, "usageMetadata": usage(5, 1)},
        {**OVER, "usageMetadata": usage(5, 3)},
        CONTENT,
        OVER,
        {"usageMetadata": usage(9, 4)},
        size=size,
        fragments=fragments,
    )
    assert watch.read() == (Usage(prompt=14, output=7, total=21), None)


def test_other_names_of_counts_are_read_and_nothing_is_nothing() -> None:
    watch, _ = watched(
        {**OVER, "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3}}
    )
    assert watch.read()[0] == Usage(prompt=1, output=2, total=3)
    assert watched({"setupComplete": {}})[0].read() == (None, None)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_count_beside_a_lot_of_audio_is_found(before: bool, size: int) -> None:
    audio = {"serverContent": {"modelTurn": {"parts": [{"inlineData": {"data": "A" * 200_000}}]}}}
    counted = {"usageMetadata": usage(2, 2)}
    watch, _ = watched({**counted, **audio} if before else {**audio, **counted}, size=size)
    assert watch.read()[0] == Usage(prompt=2, output=2, total=4)


def test_a_handle_is_told() -> None:
    update = {"sessionResumptionUpdate": {"newHandle": "abc", "resumable": True}}
    text = {"serverContent": {"modelTurn": {"parts": [{"text": '"newHandle": "no"'}]}}}
    assert watched(CONTENT, update, text)[1] == ["abc"]


def test_an_interaction_that_begins_is_told() -> None:
    created = {"event_type": "interaction.created", "interaction": {"object": "interaction", "id": "v1_ab-c"}}
    connected = {"event_type": "interaction.connected", "interaction_id": "v1_x"}
    assert watched(created, connected, {"event_type": "step.start", "id": "no"})[1] == [
        *("interactions/v1_ab-c", "interactions/v1_x"),
    ]


def test_a_pin_is_found_until_its_time_is_over_and_the_oldest_go() -> None:
    pins = Pins(2)
    pins.remember("one", Pin("a", "key", 100.0))
    assert pins.find("one", 99.0) == Pin("a", "key", 100.0)
    assert pins.find("two", 0.0) is None
    assert pins.find("one", 100.0) is None
    assert len(pins) == 0
    for name in ("one", "two", "three"):
        pins.remember(name, Pin("a", None, 100.0))
    assert pins.find("one", 0.0) is None
    assert pins.find("three", 0.0) is not None

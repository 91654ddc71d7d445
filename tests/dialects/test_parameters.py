"""
Every parameter that the installed SDKs can send is decided about: translated, refused by its name, or without effect.

A new SDK that brings another one fails here until somebody decides.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from anthropic.resources.messages import Messages
from openai.resources.audio.speech import Speech
from openai.resources.audio.transcriptions import Transcriptions
from openai.resources.chat.completions import Completions
from openai.resources.embeddings import Embeddings
from openai.resources.images import Images
from openai.resources.responses import Responses

from agm.dialects.anthropic.request import read_count, read_request
from agm.dialects.base import BadParameter
from agm.dialects.openai import chat, embeddings, images, responses, speech, transcriptions

#: Of the SDKs themselves, not of a request.
SDK_ONLY = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
DOCS = Path(__file__).parents[2] / "docs" / "dialects.md"


def transcribe(body: bytes) -> Any:
    """What a transcription's form comes to."""
    parts = ['--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n']
    for name, value in json.loads(body).items():
        parts.append(f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n')
    form = "".join([*parts, "--b--\r\n"]).encode()
    visit: Any = SimpleNamespace(body=form, header=lambda _: "multipart/form-data; boundary=b")
    return transcriptions._read(visit)


@attrs.frozen
class Surface:
    """One method of an SDK: what is decided about its parameters, and the least that it can be asked."""

    method: Callable[..., Any]
    translate: Callable[[bytes], Any]
    least: dict[str, Any]
    translated: str
    refused: str = ""
    without_effect: str = ""


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SURFACES = [
    Surface(
        Completions.create,
        chat.translate,
        CHAT,
        "messages model frequency_penalty logprobs max_completion_tokens max_tokens modalities n parallel_tool_calls "
        "presence_penalty reasoning_effort response_format seed stop stream stream_options temperature tool_choice "
        "tools top_logprobs top_p web_search_options",
        "audio function_call functions logit_bias moderation prediction service_tier store verbosity",
        "metadata prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier user",
    ),
    Surface(
        Responses.create,
        responses.translate,
        {"model": "m", "input": "hi"},
        "include input instructions max_output_tokens model parallel_tool_calls reasoning stream stream_options "
        "temperature text tool_choice tools top_logprobs top_p",
        "background background_options context_management conversation image max_tool_calls moderation "
        "previous_response_id prompt service_tier store truncation",
        "access_programs metadata prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier user",
    ),
    Surface(
        Embeddings.create,
        embeddings.translate,
        {"model": "m", "input": "hi"},
        "input model dimensions encoding_format",
        without_effect="user",
    ),
    Surface(
        Images.generate,
        images.translate,
        {"model": "m", "prompt": "hi"},
        "prompt model n output_compression output_format quality response_format size",
        "background complexity frame_count frame_duration_ms moderation partial_images stream style svg",
        "safety_identifier user",
    ),
    Surface(
        Images.edit,
        images.translate,
        {"model": "m", "prompt": "hi"},
        "image prompt model n output_compression output_format quality response_format size",
        "background complexity frame_count frame_duration_ms input_fidelity markup mask partial_images stream svg",
        "safety_identifier user",
    ),
    Surface(
        Speech.create,
        speech.translate,
        {"model": "m", "input": "hi", "voice": "Kore"},
        "input model voice instructions response_format",
        "speed stream_format",
    ),
    Surface(
        Transcriptions.create,
        transcribe,
        {"model": "m"},
        "file model language prompt response_format temperature",
        "chunking_strategy include keywords known_speaker_names known_speaker_references languages stream "
        "timestamp_granularities",
    ),
    Surface(
        Messages.create,
        read_request,
        {**CHAT, "max_tokens": 9},
        "max_tokens messages model output_config stop_sequences stream system thinking tool_choice tools",
        "container diagnostics inference_geo speed",
        "cache_control metadata service_tier user_profile_id workspace_id",
    ),
    Surface(
        Messages.count_tokens,
        read_count,
        CHAT,
        "messages model output_config output_format system thinking tool_choice tools",
        "speed",
        "cache_control user_profile_id workspace_id",
    ),
]
each_surface = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.method.__qualname__)


@each_surface
def test_every_parameter_of_the_sdk_is_decided_about_once(surface: Surface) -> None:
    decided = f"{surface.translated} {surface.refused} {surface.without_effect}".split()
    assert sorted(decided) == sorted(set(inspect.signature(surface.method).parameters) - SDK_ONLY)


@each_surface
def test_what_is_refused_is_named(surface: Surface) -> None:
    for name in surface.refused.split():
        with pytest.raises(BadParameter) as e:
            surface.translate(json.dumps({**surface.least, name: "x"}).encode())
        assert e.value.param == name


@each_surface
def test_what_has_no_effect_changes_nothing_and_is_documented(surface: Surface) -> None:
    def body(**more: Any) -> bytes:
        made = surface.translate(json.dumps({**surface.least, **more}).encode())
        found: bytes = getattr(made, "call", made).body if surface.without_effect else b""
        return found

    documented = DOCS.read_text().partition("## Accepted without effect")[2].partition("\n## ")[0]
    for name in surface.without_effect.split():
        assert body(**{name: {"a": "b"}}) == body()
        assert f"`{name}`" in documented


@pytest.mark.parametrize("name", ["file", "other"])
def test_no_second_file_is_dropped_from_a_transcription(name: str) -> None:
    part = '--b\r\nContent-Disposition: form-data; name="{}"; filename="a.wav"\r\n\r\nRIFF\r\n'
    form = (part.format("file") + part.format(name) + "--b--\r\n").encode()
    visit: Any = SimpleNamespace(body=form, header=lambda _: "multipart/form-data; boundary=b")
    with pytest.raises(BadParameter) as e:
        transcriptions._read(visit)
    assert e.value.param == name

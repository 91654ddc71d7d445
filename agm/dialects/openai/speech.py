"""``POST /v1/audio/speech``: a text, spoken by one of Gemini's speech models."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from typing import Any

import msgspec

from agm.api import BadUpstreamAnswer, TranslatedCall, Visit
from agm.dialects.base import BadParameter, Dialect, read_object, unreadable
from agm.dialects.gemini import read_response
from agm.dialects.reading import Fields

#: Which of Gemini's voices speaks where OpenAI's is asked for; any other name is Gemini's own.
VOICES: Mapping[str, str] = {
    "alloy": "Kore",
    "ash": "Charon",
    "ballad": "Algieba",
    "cedar": "Orus",
    "coral": "Aoede",
    "echo": "Puck",
    "fable": "Fenrir",
    "marin": "Leda",
    "nova": "Zephyr",
    "onyx": "Algenib",
    "sage": "Autonoe",
    "shimmer": "Callirrhoe",
    "verse": "Umbriel",
}
_RATE = re.compile(r"rate=(\d{4,6})")
_PCM_RATE = 24_000


def _read(body: bytes) -> tuple[TranslatedCall, bool]:
    """Read a request: its call, and whether the answer is bare samples."""
    fields = Fields(read_object(body))
    model, said = fields.needed("model"), fields.needed("input")
    voice = fields.take("voice")
    voice = voice.get("id") if isinstance(voice, dict) else voice
    if not isinstance(voice, str) or not voice:
        raise BadParameter("voice", "the name of a voice is expected.")
    instructions = fields.text("instructions")
    form = fields.one_of("response_format", "wav", "pcm", why="Gemini speaks in samples, which are not compressed here")
    fields.refuse("speed", "Gemini has no such thing; say it in instructions.", unless=(1, 1.0))
    fields.refuse("stream_format", "the sound comes as it is.", unless=("audio",))
    fields.end()
    config: dict[str, Any] = {
        "responseModalities": ["AUDIO"],
        "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": VOICES.get(voice.lower(), voice)}}},
    }
    text = said if instructions is None else f"{instructions}\n\n{said}"
    document = {"contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": config}
    return TranslatedCall(model, "generateContent", msgspec.json.encode(document)), form == "pcm"


def translate(body: bytes) -> TranslatedCall:
    """Say which call of a model a request comes to."""
    return _read(body)[0]


def wav(samples: bytes, rate: int) -> bytes:
    """Return samples, 16 bits of one channel, as a file."""
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(samples), b"WAVE", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16, b"data", len(samples))  # fmt: skip  # noqa: E501
    return head + samples


async def answer(dialect: Dialect, visit: Visit, rest: str) -> None:
    """Answer a request."""
    call, bare = _read(visit.body)
    answered = await dialect.call(visit, call)
    try:
        response = read_response(await answered.read())
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise unreadable(e) from None
    sounds = [
        part.inline_data
        for candidate in response.candidates or ()
        for part in candidate.parts
        if part.inline_data is not None
    ]
    if not sounds:
        raise BadUpstreamAnswer(f"{call.model[:80]} did not speak; a speech model does, gemini-2.5-flash-preview-tts.")
    rate = _RATE.search(sounds[0].mime_type)
    samples = b"".join(base64.b64decode(one.data) for one in sounds)
    if sounds[0].mime_type.lower().startswith("audio/wav"):
        dialect.send(visit, answered, samples, [("Content-Type", "audio/wav")])
    elif bare:
        dialect.send(visit, answered, samples, [("Content-Type", "audio/pcm")])
    else:
        whole = wav(samples, int(rate[1]) if rate is not None else _PCM_RATE)
        dialect.send(visit, answered, whole, [("Content-Type", "audio/wav")])

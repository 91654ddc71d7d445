"""``POST /v1/audio/transcriptions``: what is said in a sound, written down by a model that hears."""

from __future__ import annotations

import base64
import mimetypes
from typing import Any

import msgspec

from agm.api import TranslatedCall, Visit
from agm.dialects.base import BadParameter, Dialect, unreadable
from agm.dialects.gemini import Usage, read_response
from agm.dialects.openai.completion import usage_of
from agm.dialects.openai.form import Form
from agm.dialects.reading import Fields

_TASK = (
    "Transcribe the speech of this recording word for word, in the language that is spoken. Write the transcript and "
    "nothing else: no heading, no times, no comment."
)


def _read(visit: Visit) -> tuple[TranslatedCall, bool]:
    """Read a request: its call, and whether the answer is bare text."""
    form = Form(visit.body, visit.header("content-type") or "")
    files = form.files.pop("file", None)
    if not files:
        raise BadParameter("file", "is missing.")
    if len(files) > 1:
        raise BadParameter("file", "one file is expected.")
    for name in form.files:
        raise BadParameter(name[:80], "is not a file that can be expressed.")
    fields = Fields(form.typed(numbers=("temperature",), flags=("stream",)))
    model = fields.needed("model")
    task = [_TASK]
    if (language := fields.text("language")) is not None:
        task.append(f"The language is {language}.")
    if (prompt := fields.text("prompt")) is not None:
        task.append(f"This came before, or says how words are written: {prompt}")
    bare = fields.one_of("response_format", "json", "text", why="Gemini tells no times of words; there are") == "text"
    temperature = fields.number("temperature")
    fields.refuse("stream", "a transcript comes as a whole.", unless=(False,))
    fields.end()
    kind = files[0].content_type
    if not kind.startswith(("audio/", "video/")):
        kind = mimetypes.guess_type(files[0].filename)[0] or "audio/wav"
    sound = {"inlineData": {"mimeType": kind, "data": base64.b64encode(files[0].data).decode("ascii")}}
    config: dict[str, Any] = {} if temperature is None else {"generationConfig": {"temperature": temperature}}
    document = {"contents": [{"role": "user", "parts": [sound, {"text": "\n".join(task)}]}], **config}
    return TranslatedCall(model, "generateContent", msgspec.json.encode(document)), bare


async def answer(dialect: Dialect, visit: Visit, rest: str) -> None:
    """Answer a request."""
    call, bare = _read(visit)
    answered = await dialect.call(visit, call)
    try:
        response = read_response(await answered.read())
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise unreadable(e) from None
    parts = response.candidates[0].parts if response.candidates else []
    said = "".join(part.text or "" for part in parts if not part.thought).strip()
    if bare:
        dialect.send(visit, answered, said.encode("utf-8") + b"\n", [("Content-Type", "text/plain; charset=utf-8")])
        return
    counted = usage_of(response.usage_metadata or Usage())
    usage = {
        "type": "tokens",
        "input_tokens": counted["prompt_tokens"],
        "output_tokens": counted["completion_tokens"],
        "total_tokens": counted["total_tokens"],
    }
    dialect.send(visit, answered, msgspec.json.encode({"text": said, "usage": usage}))

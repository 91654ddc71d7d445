"""``POST /v1/chat/completions``: a chat's request as a call of a model, and the answer as a completion."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from agm.api import TranslatedCall, Visit
from agm.dialects.base import BadParameter, Dialect, read_object, unreadable
from agm.dialects.openai import settings
from agm.dialects.openai.completion import Completion, CompletionStream, document_of
from agm.dialects.openai.messages import read_messages
from agm.dialects.openai.tools import NO_TOOLS, TOOLS, read_tools
from agm.dialects.reading import Fields, array, text

#: Words that say who asks and how OpenAI keeps its own caches and accounts: nothing of an answer depends on them.
_BOOKKEEPING = (
    *("user", "metadata", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
)
MAX_STOPS = 5
# Parameters that are looked for together: most requests have few of them.
_LENGTHS = frozenset({"max_completion_tokens", "max_tokens", "stop"})
_ALTERNATIVES = frozenset({"n", "presence_penalty", "frequency_penalty", "seed", "logprobs", "top_logprobs"})
_REFUSED = frozenset(
    {
        *_BOOKKEEPING,
        *("store", "service_tier", "logit_bias", "verbosity", "prediction", "audio", "functions", "function_call"),
        "modalities",
    }
)


class Chat:
    """
    A request, read.

    :ivar call: the call of a model that it comes to.
    :ivar streams: whether the answer streams, and `usage` whether the stream tells the tokens at its end.
    :ivar tools: what the answer has to know of the tools.
    """

    def __init__(self, body: bytes) -> None:
        fields = Fields(read_object(body))
        self.model = fields.needed("model")
        self.streams = bool(fields.flag("stream"))
        self.usage = _tells_usage(fields.object_("stream_options"))
        config: dict[str, Any] = {}
        said = read_messages(fields.array("messages") or [])
        document = said.fields()
        tools, left_out = NO_TOOLS, list[str]()
        if fields.any(TOOLS):
            tools = read_tools(fields)
            document.update(tools.fields)
            left_out += tools.left_out
        if (search := fields.object_("web_search_options")) is not None:
            _search(search, document)
            tools = attrs.evolve(tools, searches=True)
        if (form := fields.take("response_format")) is not None:
            left_out += settings.response_format(form, "response_format", config)
        settings.sampling(fields, config)
        if fields.any(_LENGTHS):
            _lengths(fields, config)
        if fields.any(_ALTERNATIVES):
            _alternatives(fields, config)
        effort = fields.text("reasoning_effort")
        settings.thinking(effort, "reasoning_effort", config)
        if fields.any(settings.EXTRAS):
            settings.google_extras(fields, document, config)
        if said.resolution is not None:
            config["mediaResolution"] = said.resolution
        if fields.any(_REFUSED):
            _refused(fields, config)
        fields.end()
        if config:
            document["generationConfig"] = config
        self.tools = tools
        self.call = TranslatedCall(
            self.model,
            "streamGenerateContent" if self.streams else "generateContent",
            msgspec.json.encode(document),
            settings.for_model(effort, "reasoning_effort", unsigned=said.unsigned),
            tuple(left_out),
        )


def _tells_usage(options: dict[str, Any] | None) -> bool:
    if options is None:
        return False
    fields = Fields(options, "stream_options.")
    usage = fields.flag("include_usage")
    fields.skip("include_obfuscation")
    fields.end()
    return bool(usage)


def _lengths(fields: Fields, config: dict[str, Any]) -> None:
    """Read where an answer ends."""
    most, older = fields.whole("max_completion_tokens", 1), fields.whole("max_tokens", 1)
    if most is not None and older is not None and most != older:
        raise BadParameter("max_tokens", "max_completion_tokens says something else; give one of them.")
    if most is not None or older is not None:
        config["maxOutputTokens"] = older if most is None else most
    stop = fields.take("stop")
    if stop is not None:
        stops = [stop] if isinstance(stop, str) else [text(one, "stop") for one in array(stop, "stop")]
        if len(stops) > MAX_STOPS:
            raise BadParameter("stop", f"Gemini has {MAX_STOPS} of them at most.")
        if stops:
            config["stopSequences"] = stops


def _alternatives(fields: Fields, config: dict[str, Any]) -> None:
    """Read how many answers there are, how they are drawn, and what is told of the drawing."""
    count = fields.whole("n", 1, 8)
    if count is not None and count > 1:
        config["candidateCount"] = count
    for name, own in (("presence_penalty", "presencePenalty"), ("frequency_penalty", "frequencyPenalty")):
        if (value := fields.number(name)) is not None:
            config[own] = value
    if (seed := fields.whole("seed")) is not None:
        config["seed"] = settings.seed_of(seed)
    wanted, top = fields.flag("logprobs"), fields.whole("top_logprobs", 0, 20)
    if wanted:
        config["responseLogprobs"] = True
        if top:
            config["logprobs"] = top
    elif top:
        raise BadParameter("top_logprobs", "needs logprobs to be true.")


def _search(options: dict[str, Any], document: dict[str, Any]) -> None:
    """Read that the model may search: Google's own search, which takes no place and no size."""
    given = Fields(options, "web_search_options.")
    given.refuse("search_context_size", "Gemini searches as much as it needs.", unless=("medium",))
    given.refuse("user_location", "Gemini's search takes no place of the user.")
    given.end()
    document.setdefault("tools", []).append({"googleSearch": {}})


def _refused(fields: Fields, config: dict[str, Any]) -> None:
    """Refuse what Gemini has not, unless it says what is so in any case."""
    fields.skip(*_BOOKKEEPING)
    fields.refuse("store", "completions are not stored here.", unless=(False,))
    fields.refuse("service_tier", "the account decides it.", unless=("auto", "default"))
    fields.refuse("logit_bias", "Gemini has no such thing.", unless=({},))
    fields.refuse("verbosity", "Gemini has no such thing; say it in the instruction.", unless=("medium",))
    fields.refuse("prediction", "Gemini has no predicted outputs.")
    fields.refuse("audio", "chat answers are not spoken; /v1/audio/speech speaks.")
    fields.refuse("functions", "is OpenAI's old form; use tools.", unless=([],))
    fields.refuse("function_call", "is OpenAI's old form; use tool_choice.", unless=("auto", "none"))
    modalities = fields.array("modalities")
    if modalities is not None and modalities != ["text"]:
        if not set(map(str, modalities)) <= {"text", "image"}:
            raise BadParameter("modalities", "text and image are what a chat's answer can have.")
        config["responseModalities"] = [str(one).upper() for one in modalities]


def translate(body: bytes) -> TranslatedCall:
    """Say which call of a model a request comes to."""
    return Chat(body).call


async def answer(dialect: Dialect, visit: Visit, rest: str) -> None:
    """Answer a request."""
    chat = Chat(visit.body)
    answered = await dialect.call(visit, chat.call)
    made = Completion(chat.model, int(dialect.gateway.wall()), chat.tools)
    if chat.streams:
        await dialect.stream(visit, answered, CompletionStream(made, usage=chat.usage))
        return
    document = await answered.read()
    try:
        body = document_of(made, document)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise unreadable(e) from None
    dialect.send(visit, answered, body)

"""
What a model would say: from a request, as :mod:`agm.emulator.schema` read it, to a whole answer.

The text refers to the prompt, the system instruction, earlier turns and any media, so that a person sees at once
whether the right thing arrived.  Everything follows from the seed, the model's name and the request: the same call gets
the same bytes, on every upstream kind and in every framing.  Faults and framing are added elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import msgspec

from agm.emulator import images, tokens, values
from agm.emulator.schema import decode_bytes

#: How much of a text is quoted back, in characters.
_QUOTED = 200
#: How long a piece of a streamed text is at least, in characters.
_PIECE = 24
#: More pieces than this only cost time: a longer text is cut into longer pieces.
_MOST_PIECES = 24

_CLOSINGS = (
    "This answer was made by an emulator; no model was asked.",
    "Nothing left this machine to produce this answer.",
    "An emulator wrote this, the same way every time.",
    "Ask again and you will read the same words.",
)

#: A text with characters of one to four bytes, for those who cut streams in the middle of one.
MANY_SCRIPTS = "Grüße aus Köln, καλημέρα κόσμε, привет мир, 世界你好, नमस्ते दुनिया, 🌍🚀👩‍👩‍👧‍👦 and plain ASCII."

_ROLES_OF_USER = ("user", "", "function", "tool")


@attrs.frozen
class Candidate:
    """One candidate: its parts in JSON form, why it ended, and what grounds it."""

    parts: Sequence[Mapping[str, Any]]
    finish_reason: str = "STOP"
    extra: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Answer:
    """A whole answer: candidates, the tokens of the prompt by modality, and the names that go with it."""

    model: str
    response_id: str
    candidates: Sequence[Candidate]
    prompt_tokens: Counter[str]
    cached_tokens: int = 0
    vertex: bool = False


def digest_of(seed: int, model: str, request: Mapping[str, Any]) -> bytes:
    """Digest a request; everything about its answer follows from these 32 bytes."""
    # code-assist's sessionId says who talks, not what is said
    asked = {name: value for name, value in request.items() if name != "sessionId"}
    text = f"{seed}\n{model}\n".encode() + msgspec.json.encode(asked, order="deterministic")
    return hashlib.sha256(text).digest()


def identifier(digest: bytes) -> str:
    """Return a response id as Google makes them: 23 characters."""
    return base64.urlsafe_b64encode(digest[:17]).rstrip(b"=").decode()


def compose(
    model: str,
    request: Mapping[str, Any],
    *,
    seed: int = 0,
    vertex: bool = False,
    text: str | None = None,
    cached: Mapping[str, Any] | None = None,
) -> Answer:
    """
    Return the answer of `model` to a request.

    `text` replaces what would be said; `cached` is the content that a ``cachedContent`` stands for.
    """
    digest = digest_of(seed, model, request)
    config = request.get("generationConfig", {})
    count = config.get("candidateCount", 1)
    prompt_tokens = tokens.of_request(request)
    cached_tokens = 0
    if cached is not None:
        in_cache = tokens.of_request(cached)
        prompt_tokens += in_cache
        cached_tokens = in_cache.total()
    return Answer(
        model=model,
        response_id=identifier(digest),
        candidates=[
            _candidate(model, request, hashlib.sha256(digest + bytes([index])).digest(), index, text)
            for index in range(count)
        ],
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        vertex=vertex,
    )


# -- what is said ------------------------------------------------------------------------------------------------


def _quote(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _QUOTED else flat[: _QUOTED - 1] + "…"


def _texts(content: Mapping[str, Any]) -> str:
    return " ".join(
        part["text"] for part in content.get("parts", ()) if "text" in part and not part.get("thought")
    ).strip()


def _user_turns(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [turn for turn in request.get("contents", ()) if turn.get("role", "") in _ROLES_OF_USER]


def _media(turn: Mapping[str, Any]) -> Iterator[str]:
    for part in turn.get("parts", ()):
        if "inlineData" in part:
            blob = part["inlineData"]
            size = len(decode_bytes(blob.get("data", "")))
            yield f"I received {blob.get('mimeType', 'data')} of {size} bytes."
        elif "fileData" in part:
            medium = part["fileData"]
            yield f"I read the file {medium.get('fileUri', '')} ({medium.get('mimeType', 'unknown type')})."


def _responses(turn: Mapping[str, Any]) -> Iterator[str]:
    for part in turn.get("parts", ()):
        if "functionResponse" in part:
            given = part["functionResponse"]
            value = json.dumps(given.get("response", {}), ensure_ascii=False)
            yield f"The function {given.get('name', '')} returned {_quote(value)}."


def _speech(request: Mapping[str, Any], digest: bytes, index: int) -> str:
    turns = _user_turns(request)
    last = turns[-1] if turns else {}
    said = _texts(last)
    sentences = list(_responses(last))
    if said:
        opening = ("You said", "You asked", "Your message was")[digest[0] % 3]
        sentences.append(f'{opening}: "{_quote(said)}".')
    sentences += _media(last)
    earlier = [text for turn in turns[:-1] if (text := _texts(turn))]
    if earlier:
        sentences.append(f'Earlier you said: "{_quote(earlier[-1])}"; this is your turn {len(turns)}.')
    instruction = _texts(request.get("systemInstruction", {}))
    if instruction:
        sentences.append(f'I keep to the instruction "{_quote(instruction)}".')
    if index:
        sentences.append(f"This is alternative {index + 1}.")
    sentences.append(_CLOSINGS[digest[1] % len(_CLOSINGS)])
    return " ".join(sentences)


def _json_text(config: Mapping[str, Any], request: Mapping[str, Any], digest: bytes) -> str | None:
    """Return the text of an answer that must follow a schema, or None for a free one."""
    mime_type = config.get("responseMimeType", "text/plain")
    if mime_type not in ("application/json", "text/x.enum"):
        return None
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if schema is None:
        turns = _user_turns(request)
        return json.dumps({"answer": _quote(_texts(turns[-1])) if turns else ""}, ensure_ascii=False)
    value = values.example(schema, name="answer", seed=digest[2])
    if mime_type == "text/x.enum":
        return str(value)
    return json.dumps(value, ensure_ascii=False, indent=2)


def _words(text: str) -> str:
    """Lower-case words with single spaces, so that ``get_weather`` is found in "get weather, please"."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def _told(name: str, said: str) -> tuple[int, dict[str, Any]] | None:
    """Return the arguments that the prompt gives for a function, and where: ``Edit {"path": "x"}``."""
    for found in re.finditer(rf"(?<![A-Za-z0-9_]){re.escape(name)}\s*\(?\s*(?=\{{)", said):
        try:
            args, _ = json.JSONDecoder().raw_decode(said, found.end())
        except (ValueError, RecursionError):
            continue
        if isinstance(args, dict):
            return found.start(), args
    return None


def _chosen(declared: Sequence[Mapping[str, Any]], said: str, seed: int) -> list[tuple[str, Any]]:
    """
    Return the functions that a prompt calls, with their arguments.

    Those behind whose names it has a JSON object, in its order and with that; else those that it names, else the first.
    """
    told = [(found, one) for one in declared if (found := _told(one.get("name", ""), said)) is not None]
    if told:
        return [(one.get("name", ""), args) for (_, args), one in sorted(told, key=lambda pair: pair[0][0])]
    words = f" {_words(said)} "
    named = [one for one in declared if f" {_words(one.get('name', ''))} " in words]
    chosen = []
    for function in named or declared[:1]:
        schema = function.get("parametersJsonSchema") or function.get("parameters") or {}
        args = values.example(schema, seed=seed) if schema else {}
        chosen.append((function.get("name", ""), args if isinstance(args, dict) else {}))
    return chosen


def _calls(model: str, request: Mapping[str, Any], digest: bytes) -> list[dict[str, Any]]:
    """Return the function calls that the model makes now: none, one, or one for each function that the prompt names."""
    declared = [one for tool in request.get("tools", ()) for one in tool.get("functionDeclarations", ())]
    config = request.get("toolConfig", {}).get("functionCallingConfig", {})
    mode = config.get("mode", "AUTO")
    allowed = config.get("allowedFunctionNames")
    if allowed and mode in ("ANY", "VALIDATED"):
        declared = [one for one in declared if one.get("name") in allowed]
    contents = request.get("contents", ())
    last = contents[-1] if contents else {}
    if not declared or mode == "NONE" or last.get("role", "") not in _ROLES_OF_USER:
        return []
    if mode != "ANY" and (any("functionResponse" in part for part in last.get("parts", ())) or not _texts(last)):
        return []
    calls = []
    for index, (name, args) in enumerate(_chosen(declared, _texts(last), digest[3])):
        call = {"name": name, "args": args}
        if model.startswith("gemini-3"):
            call = {"id": identifier(digest[index:])[:8], **call}
        calls.append(call)
    return calls


def _wants(modality: str, model: str, config: Mapping[str, Any]) -> bool:
    wanted = config.get("responseModalities")
    if wanted:
        return modality in wanted
    return modality == "TEXT" or (modality == "IMAGE" and "image" in model)


def _code_parts() -> list[dict[str, Any]]:
    return [
        {"executableCode": {"language": "PYTHON", "code": "print(sum([2, 3, 5, 7, 11]))\n"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "28\n"}},
    ]


def _limited(text: str, config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text up to a stop sequence or the token limit, and why it ended."""
    ends = [at for stop in config.get("stopSequences", ()) if stop and (at := text.find(stop)) >= 0]
    if ends:
        text = text[: min(ends)]
    limit = config.get("maxOutputTokens")
    if limit is not None and len(text) > limit * tokens.CHARACTERS:
        return text[: limit * tokens.CHARACTERS], "MAX_TOKENS"
    return text, "STOP"


def _candidate(model: str, request: Mapping[str, Any], digest: bytes, index: int, text: str | None) -> Candidate:
    config = request.get("generationConfig", {})
    tools = request.get("tools", ())
    parts: list[dict[str, Any]] = []
    extra: dict[str, Any] = {}
    reason = "STOP"
    thinking = config.get("thinkingConfig", {})
    thinks = bool(thinking.get("includeThoughts")) and thinking.get("thinkingBudget") != 0
    turns = _user_turns(request)
    if thinks:
        asked = _quote(_texts(turns[-1]) if turns else "")
        parts.append({"text": f'**Reading the request**\n\nThe person wrote "{asked}".\n\n\n', "thought": True})
        parts.append({"text": "**Choosing an answer**\n\nI repeat what matters and stop.\n\n\n", "thought": True})
    calls = _calls(model, request, digest) if text is None else []
    if calls:
        answer: list[dict[str, Any]] = [{"functionCall": call} for call in calls]
    else:
        answer = []
        if any("codeExecution" in tool for tool in tools):
            answer += _code_parts()
        if text is None and _wants("TEXT", model, config):
            said, reason = _limited(_json_text(config, request, digest) or _speech(request, digest, index), config)
            answer.append({"text": said})
        elif text is not None:
            said, reason = _limited(text, config)
            answer.append({"text": said})
        extra = _grounding(tools, turns)
        answer += _generated_media(model, config, digest)
    if thinks and answer:
        answer[0] = {**answer[0], "thoughtSignature": base64.b64encode(digest).decode()}
    return Candidate(parts=[*parts, *answer], finish_reason=reason, extra=extra)


def _generated_media(model: str, config: Mapping[str, Any], digest: bytes) -> list[dict[str, Any]]:
    made = []
    if _wants("IMAGE", model, config):
        width, height = images.size_of(config.get("imageConfig", {}).get("aspectRatio"))
        data = base64.b64encode(images.png(digest, width, height)).decode()
        made.append({"inlineData": {"mimeType": "image/png", "data": data}})
    if _wants("AUDIO", model, config):
        data = base64.b64encode(images.tone(digest)).decode()
        made.append({"inlineData": {"mimeType": "audio/L16;codec=pcm;rate=24000", "data": data}})
    return made


def _grounding(tools: Sequence[Mapping[str, Any]], turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make what Google Search or URL context adds to a candidate."""
    extra: dict[str, Any] = {}
    asked = _texts(turns[-1]) if turns else ""
    if any("googleSearch" in tool or "googleSearchRetrieval" in tool for tool in tools):
        extra["groundingMetadata"] = {
            "searchEntryPoint": {
                "renderedContent": '<div class="container">\n  <a class="chip">emulator</a>\n</div>\n'
            },
            "groundingChunks": [{"web": {"uri": "https://example.com/", "title": "example.com"}}],
            "groundingSupports": [
                {"segment": {"endIndex": 8, "text": "You said"}, "groundingChunkIndices": [0]},
            ],
            "webSearchQueries": [_quote(asked)],
        }
    if any("urlContext" in tool for tool in tools):
        extra["urlContextMetadata"] = {
            "urlMetadata": [
                {"retrievedUrl": url, "urlRetrievalStatus": "URL_RETRIEVAL_STATUS_SUCCESS"}
                for url in re.findall(r"https?://[^\s\"'<>]+", asked)
            ]
        }
    return extra


# -- documents ---------------------------------------------------------------------------------------------------


@attrs.define
class _Spoken:
    """What was said so far, for the counts in each event."""

    characters: Counter[int] = attrs.field(factory=Counter)  # by candidate
    thoughts: Counter[int] = attrs.field(factory=Counter)
    others: Counter[str] = attrs.field(factory=Counter)  # tokens by modality

    def add(self, index: int, part: Mapping[str, Any]) -> None:
        if part.get("thought"):
            self.thoughts[index] += len(part["text"])
        elif "text" in part:
            self.characters[index] += len(part["text"])
        elif "inlineData" in part:
            kind = tokens.modality(part["inlineData"]["mimeType"])
            self.others[kind] += tokens.GENERATED_IMAGE if kind == "IMAGE" else tokens.GENERATED_AUDIO
        else:
            self.others["TEXT"] += tokens.of_json({k: v for k, v in part.items() if k != "thoughtSignature"})

    def candidates(self) -> Counter[str]:
        counted = Counter(self.others)
        counted["TEXT"] += sum(-(-length // tokens.CHARACTERS) for length in self.characters.values())
        return counted

    def thought(self) -> int:
        return sum(-(-length // tokens.CHARACTERS) for length in self.thoughts.values())


def _usage(answer: Answer, spoken: _Spoken, *, final: bool) -> dict[str, Any]:
    prompt = answer.prompt_tokens.total()
    counted, thought = spoken.candidates(), spoken.thought()
    said = counted.total()
    usage: dict[str, Any] = {"promptTokenCount": prompt}
    if said:
        usage["candidatesTokenCount"] = said
    usage["totalTokenCount"] = prompt + said + thought
    if answer.cached_tokens:
        usage["cachedContentTokenCount"] = answer.cached_tokens
    if answer.vertex:
        usage["trafficType"] = "ON_DEMAND"
    usage["promptTokensDetails"] = tokens.details(answer.prompt_tokens)
    if answer.cached_tokens:
        usage["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": answer.cached_tokens}]
    if final and (answer.vertex or set(counted) - {"TEXT"}):
        usage["candidatesTokensDetails"] = tokens.details(counted)
    if thought:
        usage["thoughtsTokenCount"] = thought
    return usage


def _document(answer: Answer, candidates: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "candidates": candidates,
        "usageMetadata": usage,
        "modelVersion": answer.model,
        "responseId": answer.response_id,
    }


def _content(answer: Answer, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    # The two services print the fields of Content in different orders.
    if answer.vertex:
        return {"role": "model", "parts": list(parts)}
    return {"parts": list(parts), "role": "model"}


def unary(answer: Answer) -> dict[str, Any]:
    """``GenerateContentResponse`` as one document."""
    spoken = _Spoken()
    candidates = []
    for index, candidate in enumerate(answer.candidates):
        for part in candidate.parts:
            spoken.add(index, part)
        document = {"content": _content(answer, candidate.parts), "finishReason": candidate.finish_reason}
        candidates.append({**document, "index": index, **candidate.extra})
    return _document(answer, candidates, _usage(answer, spoken, final=True))


def pieces(part: Mapping[str, Any], wanted: int | None) -> list[Mapping[str, Any]]:
    """Return a text in pieces that end after a space, any other part whole; `wanted` asks for so many of them."""
    if "text" not in part or part.get("thought"):
        return [part]
    text = part["text"]
    if wanted is None:
        length = max(_PIECE, -(-len(text) // _MOST_PIECES))
        found = re.findall(rf"(?s).{{1,{length}}}\S*\s*", text) or [""]
    else:
        found = [text[len(text) * i // wanted : len(text) * (i + 1) // wanted] for i in range(wanted)]
    rest = {key: value for key, value in part.items() if key != "text"}
    # The signature of a text comes with its last piece.
    return [{"text": piece} for piece in found[:-1]] + [{"text": found[-1], **rest}]


def events(answer: Answer, *, wanted: int | None = None) -> list[dict[str, Any]]:
    """
    ``GenerateContentResponse`` as the documents of a stream, the last with the finish reason.

    `wanted` is the number of pieces to cut a text into.
    """
    spoken = _Spoken()
    by_candidate: list[list[Mapping[str, Any] | None]] = [
        [piece for part in candidate.parts for piece in pieces(part, wanted)] or [None]
        for candidate in answer.candidates
    ]
    rounds = max((len(of_candidate) for of_candidate in by_candidate), default=0)
    documents = []
    for at in range(rounds):
        for index, candidate in enumerate(answer.candidates):
            if at >= len(by_candidate[index]):
                continue
            piece = by_candidate[index][at]
            parts = [] if piece is None else [piece]
            for part in parts:
                spoken.add(index, part)
            shown: dict[str, Any] = {"content": _content(answer, parts)}
            last = at == len(by_candidate[index]) - 1
            if last:
                shown["finishReason"] = candidate.finish_reason
            shown["index"] = index
            if last:
                shown |= candidate.extra
            documents.append(_document(answer, [shown], _usage(answer, spoken, final=last)))
    return documents


def blocked(answer: Answer) -> dict[str, Any]:
    """Return the one document of a blocked prompt: promptFeedback, and no candidates."""
    categories = ("SEXUALLY_EXPLICIT", "HATE_SPEECH", "HARASSMENT", "DANGEROUS_CONTENT")
    document: dict[str, Any] = {
        "promptFeedback": {
            "blockReason": "SAFETY",
            "safetyRatings": [
                {
                    "category": f"HARM_CATEGORY_{name}",
                    "probability": "HIGH" if name == "HATE_SPEECH" else "NEGLIGIBLE",
                }
                for name in categories
            ],
        }
    }
    usage = _usage(answer, _Spoken(), final=False)
    return {
        **document,
        "usageMetadata": usage,
        "modelVersion": answer.model,
        "responseId": answer.response_id,
    }

"""
The Interactions API's view of a conversation: input, steps and events, made of and into what the models here read and
say.

A model answers interactions with the words that it has for ``generateContent``: input becomes the contents of such a
request (:func:`as_request`), and the parts of the answer become steps (:func:`of_answer`) and the events of a stream
(:func:`events_of`).  Values only.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agm.emulator import answers, tokens
from agm.emulator.answers import Answer

Document = dict[str, Any]

_MEDIA = ("image", "audio", "video", "document", "file")
#: Fields of ``generation_config`` by the names that a GenerationConfig has for them.
_CONFIG = {
    "temperature": "temperature",
    "top_p": "topP",
    "seed": "seed",
    "max_output_tokens": "maxOutputTokens",
    "stop_sequences": "stopSequences",
}
_TOOLS = {"google_search": "googleSearch", "code_execution": "codeExecution", "url_context": "urlContext"}
_MODES = {"auto": "AUTO", "any": "ANY", "none": "NONE", "validated": "VALIDATED"}


# -- what was asked ----------------------------------------------------------------------------------------------


def turns_of(given: Any) -> list[Document]:
    """Return the turns that an ``input`` stands for: a text, a content, contents, or steps."""
    if isinstance(given, str):
        return [_turn("user", [{"text": given}])]
    items = [given] if isinstance(given, Mapping) else list(given or ())
    turns: list[Document] = []
    for item in items:
        role, parts = _parts_of(item)
        if parts and turns and turns[-1]["role"] == role and "content" not in item:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append(_turn(role, parts))
    return turns


def _turn(role: str, parts: list[Document]) -> Document:
    return {"role": role, "parts": parts}


def _parts_of(item: Any) -> tuple[str, list[Document]]:
    """Return the role and the parts of a step or a content."""
    if isinstance(item, str):
        return "user", [{"text": item}]
    kind = item.get("type", "text" if "text" in item else "user_input")
    match kind:
        case "user_input" | "model_output":
            contents = item.get("content", ())
            found = [{"text": contents}] if isinstance(contents, str) else [_part(one) for one in contents]
            return ("user" if kind == "user_input" else "model"), [part for part in found if part]
        case "function_call":
            called = {"name": item.get("name", ""), "args": item.get("arguments", {})}
            return "model", [{"functionCall": called}]
        case "function_result":
            given = item.get("result")
            response = given if isinstance(given, dict) else {"result": given}
            return "user", [{"functionResponse": {"name": item.get("name", ""), "response": response}}]
    part = _part(item)
    return "user", [part] if part else []


def _part(content: Any) -> Document:
    """Return a content as a part; empty for what a model does not read."""
    if isinstance(content, str):
        return {"text": content}
    kind = content.get("type", "text")
    if kind == "text":
        return {"text": content.get("text", "")}
    if kind not in _MEDIA:
        return {}
    mime_type = content.get("mime_type", f"{kind}/*")
    if "uri" in content:
        return {"fileData": {"mimeType": mime_type, "fileUri": content["uri"]}}
    return {"inlineData": {"mimeType": mime_type, "data": content.get("data", "")}}


def as_request(message: Mapping[str, Any], turns: Sequence[Document]) -> Document:
    """Return the GenerateContentRequest that a model is to answer; `turns` are all of the conversation."""
    request: Document = {"contents": list(turns)}
    if message.get("system_instruction"):
        request["systemInstruction"] = {"parts": [{"text": message["system_instruction"]}]}
    tools = _tools(message.get("tools") or ())
    if tools:
        request["tools"] = tools
    given = message.get("generation_config") or {}
    choice = given.get("tool_choice")
    if isinstance(choice, str) and choice in _MODES:
        request["toolConfig"] = {"functionCallingConfig": {"mode": _MODES[choice]}}
    config: Document = {new: given[old] for old, new in _CONFIG.items() if given.get(old) is not None}
    if given.get("thinking_summaries") == "auto":
        config["thinkingConfig"] = {"includeThoughts": True}
    config |= _format(message)
    if config:
        request["generationConfig"] = config
    return request


def _tools(tools: Sequence[Mapping[str, Any]]) -> list[Document]:
    found: list[Document] = []
    functions = [
        {name: tool[name] for name in ("name", "description", "parameters") if name in tool}
        for tool in tools
        if tool.get("type") == "function"
    ]
    if functions:
        found.append({"functionDeclarations": functions})
    return [*found, *({_TOOLS[tool["type"]]: {}} for tool in tools if tool.get("type") in _TOOLS)]


def _format(message: Mapping[str, Any]) -> Document:
    """Return what ``response_format`` and its older companions ask for, as a GenerationConfig has it."""
    given = message.get("response_format") or {}
    formats = given if isinstance(given, list) else [given]
    config: Document = {}
    modalities = {str(name).upper() for name in message.get("response_modalities") or ()}
    for one in formats:
        kind = one.get("type", "")
        if kind in ("text", "image", "audio"):
            modalities.add(kind.upper())
        schema = one.get("schema") or (one if kind == "object" else None)
        if one.get("mime_type") == "application/json" or schema is not None:
            config["responseMimeType"] = "application/json"
        if schema is not None:
            config["responseJsonSchema"] = schema
    if message.get("response_mime_type"):
        config["responseMimeType"] = message["response_mime_type"]
    if modalities:
        config["responseModalities"] = sorted(modalities, reverse=True)
    return config


# -- what was said -----------------------------------------------------------------------------------------------


def of_answer(answer: Answer, digest: bytes) -> list[Document]:
    """Return the steps of an answer's one candidate; a thought is always the first."""
    parts = answer.candidates[0].parts
    summary = [{"text": part["text"], "type": "text"} for part in parts if part.get("thought")]
    signature = base64.b64encode(digest).decode()
    steps: list[Document] = [{"signature": signature, **({"summary": summary} if summary else {}), "type": "thought"}]
    if "groundingMetadata" in answer.candidates[0].extra:
        steps += _search(answer.candidates[0].extra["groundingMetadata"], digest)
    for number, part in enumerate(part for part in parts if not part.get("thought")):
        made_up = answers.identifier(digest[number:])[:8].lower()
        if "functionCall" in part:
            call = part["functionCall"]
            step = {"id": call.get("id", made_up), "type": "function_call", "name": call["name"]}
            steps.append({**step, "arguments": call["args"]})
        elif "executableCode" in part:
            code = {"language": "python", "code": part["executableCode"]["code"]}
            steps.append({"id": answers.identifier(digest)[:8].lower(), "type": "code_execution_call"})
            steps[-1]["arguments"] = code
        elif "codeExecutionResult" in part:
            step = {"call_id": answers.identifier(digest)[:8].lower(), "type": "code_execution_result"}
            steps.append({**step, "result": part["codeExecutionResult"]["output"]})
        elif steps[-1]["type"] == "model_output":
            steps[-1]["content"].append(_content(part))
        else:
            steps.append({"content": [_content(part)], "type": "model_output"})
    return steps


def _content(part: Mapping[str, Any]) -> Document:
    if "text" in part:
        return {"text": part["text"], "type": "text"}
    blob = part["inlineData"]
    kind = blob["mimeType"].partition("/")[0]
    mime_type = blob["mimeType"].partition(";")[0].lower()
    return {"data": blob["data"], "mime_type": mime_type, "type": kind}


def _search(grounding: Mapping[str, Any], digest: bytes) -> list[Document]:
    name = answers.identifier(digest)[:8].lower()
    suggestions = grounding["searchEntryPoint"]["renderedContent"]
    return [
        {"id": name, "type": "google_search_call", "arguments": {"queries": grounding["webSearchQueries"]}},
        {"call_id": name, "type": "google_search_result", "result": [{"search_suggestions": suggestions}]},
    ]


def status_of(steps: Sequence[Mapping[str, Any]], answer: Answer) -> str:
    """Return the status with which an interaction ends."""
    if steps[-1]["type"] == "function_call":
        return "requires_action"
    return "incomplete" if answer.candidates[0].finish_reason == "MAX_TOKENS" else "completed"


def said_in(steps: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Return the steps as turns of the conversation that goes on."""
    return turns_of([step for step in steps if step["type"] in ("model_output", "function_call")])


def usage_of(answer: Answer, steps: Sequence[Mapping[str, Any]]) -> Document:
    """``Usage``: tokens as :mod:`agm.emulator.tokens` counts them."""
    said: Counter[str] = Counter()
    thought = 16
    for step in steps:
        if step["type"] == "thought":
            thought += sum(tokens.of_text(one["text"]) for one in step.get("summary", ()))
        elif step["type"] == "model_output":
            for content in step["content"]:
                if content["type"] == "text":
                    said["TEXT"] += tokens.of_text(content["text"])
                else:
                    image = content["type"] == "image"
                    said[content["type"].upper()] += tokens.GENERATED_IMAGE if image else tokens.GENERATED_AUDIO
        elif step["type"] == "function_call":
            said["TEXT"] += tokens.of_json(step["arguments"])
    asked, spoken = answer.prompt_tokens.total(), said.total()
    usage: Document = {
        "total_tokens": asked + spoken + thought,
        "total_input_tokens": asked,
        "input_tokens_by_modality": _by_modality(answer.prompt_tokens),
        "total_cached_tokens": answer.cached_tokens,
        "total_output_tokens": spoken,
    }
    if set(said) - {"TEXT"}:
        usage["output_tokens_by_modality"] = _by_modality(said)
    return {**usage, "total_tool_use_tokens": 0, "total_thought_tokens": thought}


def _by_modality(counted: Mapping[str, int]) -> list[Document]:
    return [{"modality": name.lower(), "tokens": counted[name]} for name in tokens.ORDER if counted.get(name)]


# -- events ------------------------------------------------------------------------------------------------------


def events_of(interaction: Mapping[str, Any], *, wanted: int | None = None) -> list[Document]:
    """
    Return the events in which a finished interaction is streamed, without their ids.

    :param wanted: the number of pieces to cut each text into.
    """
    named = {name: interaction[name] for name in ("object", "model", "agent") if name in interaction}
    events: list[Document] = [
        _event("interaction.created", interaction={"id": interaction["id"], "status": "in_progress", **named}),
        _event("interaction.status_update", interaction_id=interaction["id"], status="in_progress"),
    ]
    for index, step in enumerate(interaction.get("steps", ())):
        start, deltas = _unfolded(step, wanted)
        events.append(_event("step.start", index=index, step=start))
        events += [_event("step.delta", index=index, delta=delta) for delta in deltas]
        events.append(_event("step.stop", index=index))
    last = {name: value for name, value in interaction.items() if name not in ("steps", "input")}
    return [*events, _event("interaction.completed", interaction=last)]


def _event(kind: str, **fields: Any) -> Document:
    return {**fields, "event_type": kind}


def _unfolded(step: Mapping[str, Any], wanted: int | None) -> tuple[Document, list[Document]]:
    """Return a step as it starts, and what is added to it piece by piece."""
    match step["type"]:
        case "thought":
            told = [{"content": one, "type": "thought_summary"} for one in step.get("summary", ())]
            return {"type": "thought"}, [*told, {"signature": step["signature"], "type": "thought_signature"}]
        case "model_output":
            return {"type": "model_output"}, [delta for one in step["content"] for delta in _pieces(one, wanted)]
        case "function_call":
            written = json.dumps(step["arguments"], ensure_ascii=False)
            halves = [written[: len(written) // 2], written[len(written) // 2 :]]
            deltas = [{"arguments": half, "type": "arguments_delta"} for half in halves]
            return {**step, "arguments": {}}, deltas
    return dict(step), [{name: value for name, value in step.items() if name not in ("id", "call_id")}]


def _pieces(content: Mapping[str, Any], wanted: int | None) -> Iterator[Document]:
    if content["type"] != "text":
        yield dict(content)
        return
    for piece in answers.pieces({"text": content["text"]}, wanted):
        yield {"text": piece["text"], "type": "text"}


def files_in(turns: Sequence[Mapping[str, Any]]) -> Document:
    """Return the turns as a request, for what looks for files in one."""
    return {"contents": list(turns)}


#: Names of agents and the like: what a client may call its own.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

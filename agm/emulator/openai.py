"""
Google's own OpenAI surface, ``/v1beta/openai/``: chat, embeddings, images, videos, models, files and batches.

A chat becomes a request of the Developer API's and is answered as that is (:mod:`agm.emulator.answers`), so its words
and its tokens are the same; faults are asked for by the model's name here, too.  What is not in the OpenAI form is an
error: a JSON array with Google's document in it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

from agm.emulator import (
    answers,
    catalogue,
    embeddings,
    errors,
    framing,
    generation,
    images,
    modelcalls,
    tokens,
    values,
    videos,
)
from agm.emulator.calls import Call, Target
from agm.emulator.credentials import bearer_token
from agm.emulator.errors import GoogleError, Kind
from agm.emulator.faults import Fault
from agm.emulator.holdings import Staged, StoredFile
from agm.emulator.modelcalls import Admitted
from agm.emulator.replies import SCAFFOLDING, Cut, Hang, Reply, Reset, Send, Wait, body_reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import State
from agm.emulator.stored import Context, owned

PATH = re.compile(r"/(?P<version>v1beta|v1alpha|v1)/openai/(?P<rest>.+)", re.DOTALL)
_JSON = "application/json"
_FINISHES = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "RECITATION": "content_filter"}
_DATA_URL = re.compile(r"data:(?P<type>[^;,]+);base64,(?P<data>.*)", re.DOTALL)
_MOST_IMAGES = 8
_MOST_INPUTS = 100
_MOST_LISTED = 100


def handles(call: Call) -> bool:
    """Return whether a path belongs to this surface."""
    return PATH.fullmatch(call.path) is not None


def reply(call: Call, state: State, entry: Entry) -> Reply:
    """Answer a call of this surface."""
    path = PATH.fullmatch(call.path)
    assert path is not None  # see handles()
    call = _by_key(call)
    try:
        return _answer(call, state, entry, path["version"], path["rest"].rstrip("/"))
    except GoogleError as error:
        return _refused(error)


def _by_key(call: Call) -> Call:
    """Return the call with its bearer token as the API key that it is here."""
    token = bearer_token(call)
    if token is None or "x-goog-api-key" in call.headers:
        return call
    headers = {name: value for name, value in call.headers.items() if name != "authorization"}
    return attrs.evolve(call, headers={**headers, "x-goog-api-key": token})


def _refused(error: GoogleError) -> Reply:
    return body_reply(error.status, framing.error_array(error.document()) + b"\n", framing.JSON_TYPE)


def _json(document: Any) -> Reply:
    return body_reply(200, framing.compact(document), _JSON)


def _answer(call: Call, state: State, entry: Entry, version: str, rest: str) -> Reply:
    collection, _, name = rest.partition("/")
    if collection in ("models", "files", "batches", "videos") and not (call.method == "POST" and not name):
        admitted = modelcalls.admit(call, state, entry, Target(Kind.API_KEY, version, "", f"openai.{collection}"))
        entry.model = None
        return _STORED[collection](Context(call, state, admitted, version, name))
    if rest in ("files", "batches"):
        admitted = modelcalls.admit(call, state, entry, Target(Kind.API_KEY, version, "", f"openai.{collection}"))
        entry.model = None
        context = Context(call, state, admitted, version, "")
        return _upload(context) if rest == "files" else _create_batch(context)
    work = _CALLS.get(rest) if call.method == "POST" else None
    if work is None:
        raise GoogleError(404, "Requested entity was not found.")
    message = _message(call)
    model = message.get("model")
    if not isinstance(model, str) or not model:
        raise errors.invalid_argument("model is not specified")
    target = Target(Kind.API_KEY, version, model.removeprefix("models/"), _NATIVE[rest])
    admitted = modelcalls.admit(call, state, entry, target)
    entry.rpc = f"openai.{rest}"
    fault, hindered = _hindrance(admitted, state)
    if hindered is not None:
        return hindered
    try:
        answered = work(Context(call, state, admitted, version, target.model), message, fault)
    except values.SchemaError:
        raise errors.invalid_argument() from None
    return modelcalls.paced(answered, fault)


def _hindrance(admitted: Admitted, state: State) -> tuple[Fault | None, Reply | None]:
    """As :func:`agm.emulator.modelcalls.hindrance`, with errors in this surface's form."""
    fault, hindered = modelcalls.hindrance(admitted, state)
    if hindered is None or not any(isinstance(step, Send) for step in hindered.steps):
        return fault, hindered
    assert fault is not None  # nothing else hinders
    error = errors.of_fault(admitted.about, fault)
    assert error is not None  # it was answered with one
    return fault, _refused(error)


def _message(call: Call) -> dict[str, Any]:
    """Return the request's fields: JSON, or a form."""
    content_type = call.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        return {name: content.decode("utf-8", "replace") for name, (_, _, content) in _form(call).items()}
    try:
        document = msgspec.json.decode(call.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        document = None
    if not isinstance(document, dict):
        raise errors.invalid_argument("Invalid JSON payload received.")
    return document


def _form(call: Call) -> dict[str, tuple[str, str, bytes]]:
    """Return the parts of a ``multipart/form-data`` body: file name, type and content by the field's name."""
    boundary = re.search(r'boundary="?([^\s";]{1,70})', call.headers.get("content-type", ""))
    if boundary is None:
        raise errors.invalid_argument("Malformed multipart body.")
    found = {}
    for section in (b"\r\n" + call.body).split(b"\r\n--" + boundary[1].encode("latin-1"))[1:-1]:
        head, _, content = section.partition(b"\r\n\r\n")
        name = re.search(rb'(?i)\bname="([^"]*)"', head)
        filename = re.search(rb'(?i)\bfilename="([^"]*)"', head)
        mime_type = re.search(rb"(?i)content-type:[ \t]*([^\r\n]*)", head)
        if name is None:
            raise errors.invalid_argument("Malformed multipart body.")
        found[name[1].decode("utf-8", "replace")] = (
            filename[1].decode("utf-8", "replace") if filename else "",
            mime_type[1].decode("latin-1") if mime_type else "",
            content,
        )
    return found


# -- chat --------------------------------------------------------------------------------------------------------


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": part}
    if not isinstance(part, Mapping):
        raise errors.invalid_argument("Invalid message content.")
    if part.get("type") == "text":
        return {"text": str(part.get("text", ""))}
    url = part.get("image_url")
    address = str(url.get("url", "")) if isinstance(url, Mapping) else ""
    if part.get("type") == "image_url" and (found := _DATA_URL.fullmatch(address)):
        return {"inlineData": {"mimeType": found["type"], "data": found["data"]}}
    audio = part.get("input_audio")
    if part.get("type") == "input_audio" and isinstance(audio, Mapping):
        return {"inlineData": {"mimeType": f"audio/{audio.get('format', 'wav')}", "data": str(audio.get("data", ""))}}
    raise errors.invalid_argument(f"Invalid content part type: {part.get('type')}")


def _parts(content: Any) -> list[dict[str, Any]]:
    return [_part(part) for part in (content if isinstance(content, list) else [content])]


def _request(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the GenerateContentRequest that a chat stands for."""
    contents: list[dict[str, Any]] = []
    system: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    messages = message.get("messages")
    if not isinstance(messages, list) or not messages:
        raise errors.invalid_argument("* GenerateContentRequest.contents: contents is not specified\n")
    for one in messages:
        if not isinstance(one, Mapping):
            raise errors.invalid_argument("Invalid message.")
        role, content = one.get("role"), one.get("content")
        if role in ("system", "developer"):
            system += _parts(content or "")
        elif role == "user":
            contents.append({"role": "user", "parts": _parts(content or "")})
        elif role == "assistant":
            calls = [_call_of(call, names) for call in one.get("tool_calls") or ()]
            contents.append({"role": "model", "parts": [*(_parts(content) if content else ()), *calls]})
        elif role == "tool":
            name = names.get(str(one.get("tool_call_id", "")), "unknown")
            response = {"name": name, "response": {"result": content}}
            contents.append({"role": "user", "parts": [{"functionResponse": response}]})
        else:
            raise errors.invalid_argument("Please use a valid role: user, model.")
    request: dict[str, Any] = {"contents": contents, "generationConfig": _config(message)}
    if system:
        request["systemInstruction"] = {"parts": system}
    functions = [tool["function"] for tool in message.get("tools") or () if isinstance(tool.get("function"), Mapping)]
    if functions:
        declared = [
            {"name": one.get("name", ""), "parametersJsonSchema": one.get("parameters") or {}} for one in functions
        ]
        request["tools"] = [{"functionDeclarations": declared}]
        choice = message.get("tool_choice", "auto")
        mode = {"auto": "AUTO", "none": "NONE", "required": "ANY"}.get(choice if isinstance(choice, str) else "", "ANY")
        calling: dict[str, Any] = {"mode": mode}
        if isinstance(choice, Mapping):
            calling["allowedFunctionNames"] = [choice.get("function", {}).get("name", "")]
        request["toolConfig"] = {"functionCallingConfig": calling}
    return request


def _call_of(call: Mapping[str, Any], names: dict[str, str]) -> dict[str, Any]:
    function = call.get("function", {})
    names[str(call.get("id", ""))] = str(function.get("name", ""))
    try:
        arguments = msgspec.json.decode(str(function.get("arguments") or "{}"))
    except msgspec.DecodeError:
        arguments = {}
    return {"functionCall": {"name": function.get("name", ""), "args": arguments}}


def _config(message: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    limit = message.get("max_completion_tokens") or message.get("max_tokens")
    if limit is not None:
        config["maxOutputTokens"] = int(limit)
    if message.get("n") is not None:
        config["candidateCount"] = int(message["n"])
    stop = message.get("stop")
    if stop:
        config["stopSequences"] = [stop] if isinstance(stop, str) else list(stop)
    wanted = message.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") in ("json_object", "json_schema"):
        config["responseMimeType"] = "application/json"
        schema = wanted.get("json_schema", {}).get("schema")
        if schema:
            config["responseJsonSchema"] = schema
    return config


def _usage(document: Mapping[str, Any]) -> dict[str, Any]:
    usage = document["usageMetadata"]
    said = usage.get("candidatesTokenCount", 0)
    return {
        "completion_tokens": said,
        "prompt_tokens": usage["promptTokenCount"],
        "total_tokens": usage["totalTokenCount"],
    }


def _spoken(parts: Sequence[Mapping[str, Any]], identifier: str) -> dict[str, Any]:
    """``content`` and ``tool_calls`` of a message."""
    text = "".join(part["text"] for part in parts if "text" in part and not part.get("thought"))
    calls = [
        {
            "function": {
                "arguments": msgspec.json.encode(part["functionCall"]["args"]).decode(),
                "name": part["functionCall"]["name"],
            },
            "id": f"function-call-{int(hashlib.sha256(f'{identifier} {index}'.encode()).hexdigest()[:15], 16)}",
            "type": "function",
        }
        for index, part in enumerate(parts)
        if "functionCall" in part
    ]
    return {**({"content": text} if text or not calls else {}), **({"tool_calls": calls} if calls else {})}


def _reason(candidate: Mapping[str, Any]) -> str:
    if any("functionCall" in part for part in candidate["content"].get("parts", ())):
        return "tool_calls"
    return _FINISHES.get(candidate.get("finishReason", "STOP"), "stop")


def _chat(context: Context, message: Mapping[str, Any], fault: Fault | None) -> Reply:
    request = _request(message)
    cached = context.holdings.referenced(request, context.name, context.account, context.now)
    name = fault.name if fault is not None else ""
    text: str | None = None
    wanted: int | None = None
    if fault is not None and (name in generation.AFTER_EVENTS or name in ("slow", "chunks")):
        wanted = {"slow": generation.SLOW_EVENTS, "chunks": fault.count}.get(name, generation.events_before(fault) + 2)
        text = generation.numbered(wanted)
    elif name == "splitutf8":
        text, wanted = answers.MANY_SCRIPTS, 4
    answer = answers.compose(context.name, request, seed=context.state.seed, text=text, cached=cached)
    shared = {"created": int(context.now), "id": answer.response_id, "model": context.name}
    if message.get("stream"):
        return generation.paced(_stream(context, message, fault, answer, shared, wanted), fault)
    if name in ("midstream", "errtail", "errdata"):
        return _refused(errors.of_status(context.admitted.about, 503))
    if name == "emptystream":
        return body_reply(200, b"", _JSON)
    document = answers.unary(answer)
    choices = [
        {
            "finish_reason": _reason(candidate),
            "index": candidate["index"],
            "message": {**_spoken(candidate["content"]["parts"], answer.response_id), "role": "assistant"},
        }
        for candidate in document["candidates"]
    ]
    completion = {"choices": choices, **shared, "object": "chat.completion", "usage": _usage(document)}
    return generation.paced(_broken(_json(completion), name), fault)


def _broken(whole: Reply, name: str) -> Reply:
    """Return a unary answer under a fault."""
    body = b"".join(step.data for step in whole.steps if isinstance(step, Send))
    half = Send(body[: len(body) // 2])
    match name:
        case "badjson":
            return body_reply(200, half.data, _JSON)
        case "cut" | "drop":
            return attrs.evolve(whole, steps=(half, Cut()))
        case "rst":
            return attrs.evolve(whole, steps=(half, Wait(0.05), Reset()))
        case "hang":
            return attrs.evolve(whole, steps=(half, Hang()))
        case "slow":
            pause = generation.SLOW * (generation.SLOW_EVENTS - 1)
            return attrs.evolve(whole, steps=(Send(b""), Wait(pause), *whole.steps))
    return whole


@attrs.frozen
class _Events:
    """Server-sent events as OpenAI's: LF, and ``[DONE]`` at the end."""

    content_type: str = framing.SSE_TYPE

    def event(self, index: int, document: Any) -> bytes:
        """One event."""
        return b"data: " + framing.compact(document) + b"\n\n"

    def end(self, count: int) -> bytes:
        """The end of every good stream."""
        return b"data: [DONE]\n\n"


def _stream(
    context: Context,
    message: Mapping[str, Any],
    fault: Fault | None,
    answer: answers.Answer,
    shared: Mapping[str, Any],
    wanted: int | None,
) -> Reply:
    frames = _Events()
    headers = (("Content-Type", frames.content_type), *SCAFFOLDING)
    name = fault.name if fault is not None else ""
    if name == "emptystream":
        return Reply(200, headers, (Send(b""),))
    options = message.get("stream_options")
    with_usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
    chunks = []
    for document in answers.events(answer, wanted=wanted):
        candidate = document["candidates"][0]
        delta = {**_spoken(candidate["content"]["parts"], answer.response_id), "role": "assistant"}
        finished = {"finish_reason": _reason(candidate)} if "finishReason" in candidate else {}
        chunk = {
            "choices": [{"delta": delta, **finished, "index": candidate["index"]}],
            **shared,
            "object": "chat.completion.chunk",
        }
        chunks.append({**chunk, "usage": _usage(document)} if with_usage else chunk)
    if name == "giant" and fault is not None:
        return Reply(200, headers, tuple(generation.many(frames, chunks[-1], fault.number or 0.0, _filled(chunks[0]))))
    events = [frames.event(index, chunk) for index, chunk in enumerate(chunks)]
    if name in generation.AFTER_EVENTS and fault is not None:
        return Reply(200, headers, tuple(generation.broken_off(context.admitted.about, fault, frames, events)))
    if name == "badjson":
        events[0] = events[0][: len(events[0]) // 2] + b"\n\n"
    events.append(frames.end(len(events)))
    return Reply(200, headers, tuple(generation.between(events, generation.SLOW if name == "slow" else 0.0)))


def _filled(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk with a long text."""
    first = {**chunk["choices"][0], "delta": {"content": "x" * generation.BLOCK, "role": "assistant"}}
    return {**chunk, "choices": [first]}


# -- embeddings, images, videos ----------------------------------------------------------------------------------


def _embeddings(context: Context, message: Mapping[str, Any], fault: Fault | None) -> Reply:
    given = message.get("input")
    texts = given if isinstance(given, list) else [given]
    if not texts or len(texts) > _MOST_INPUTS or not all(isinstance(text, str) and text for text in texts):
        raise errors.invalid_argument("* EmbedContentRequest.content: contents is not specified\n")
    data = []
    for index, text in enumerate(texts):
        request = {"content": {"parts": [{"text": text}]}, "outputDimensionality": message.get("dimensions")}
        vector = embeddings.of_request(context.name, request)["values"]
        shown: Any = vector
        if message.get("encoding_format") == "base64":
            shown = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"embedding": shown, "index": index, "object": "embedding"})
    counted = sum(tokens.of_text(str(text)) for text in texts)
    usage = {"prompt_tokens": counted, "total_tokens": counted}
    return _json({"data": data, "model": context.name, "object": "list", "usage": usage})


def _images(context: Context, message: Mapping[str, Any], fault: Fault | None) -> Reply:
    prompt, count = message.get("prompt"), message.get("n") or 1
    if not isinstance(prompt, str) or not prompt:
        raise errors.invalid_argument("Text prompt is missing.")
    if not isinstance(count, int) or not 1 <= count <= _MOST_IMAGES:
        raise errors.invalid_argument(f"Number of images must be between 1 and {_MOST_IMAGES} inclusive.")
    pictures = [images.png(hashlib.sha256(f"{prompt}\n{index}".encode()).digest()) for index in range(count)]
    data = [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures]
    return _json({"created": int(context.now), "data": data})


def _videos(context: Context, message: Mapping[str, Any], fault: Fault | None) -> Reply:
    prompt = message.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise errors.invalid_argument("Text prompt is missing.")
    video = Staged(
        name=f"openai/videos/{context.new_id(24)}",
        account=context.account,
        described={"prompt": prompt, "model": context.name, "created_at": int(context.now)},
        states=("queued", "in_progress", "completed"),
    )
    context.holdings.staged[video.name] = video
    return _json(_video(video))


def _video(video: Staged) -> dict[str, Any]:
    return {
        "created_at": video.described["created_at"],
        "id": video.name.rpartition("/")[2],
        "model": video.described["model"],
        "object": "video",
        "progress": 100 * video.at // (len(video.states) - 1),
        "status": video.state,
    }


def _listed(context: Context, documents: Sequence[Mapping[str, Any]]) -> Reply:
    """Return a page of a list: so many behind the id that the client has got to."""
    query = context.call.query
    after, limit = query.get("after"), query.get("limit", "20")
    ids = [document["id"] for document in documents]
    if (after is not None and after not in ids) or not limit.isdigit() or not 1 <= int(limit) <= _MOST_LISTED:
        raise errors.invalid_argument("Invalid page of a list.")
    start = 0 if after is None else ids.index(after) + 1
    page = documents[start : start + int(limit)]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
    return _json({"data": page, **ends, "has_more": start + int(limit) < len(documents), "object": "list"})


def _of_videos(context: Context) -> Reply:
    identifier, _, verb = context.name.partition("/")
    if not identifier:
        found = [
            one for one in owned(context, context.holdings.staged.values()) if one.name.startswith("openai/videos/")
        ]
        return _listed(context, [_video(one) for one in found])
    video = context.holdings.one_staged(f"openai/videos/{identifier}", context.account)
    if context.call.method == "DELETE":
        del context.holdings.staged[video.name]
        return _json({"deleted": True, "id": identifier, "object": "video.deleted"})
    if verb == "content":
        if video.state != "completed":
            raise GoogleError(400, "The video is not there yet.", rpc="FAILED_PRECONDITION")
        return body_reply(200, videos.mp4(video.described["prompt"]), "video/mp4")
    video.look()
    return _json(_video(video))


# -- models, files, batches --------------------------------------------------------------------------------------


def _model(model: catalogue.Model) -> dict[str, Any]:
    return {"id": f"models/{model.name}", "object": "model", "owned_by": "google", "display_name": model.display_name}


def _of_models(context: Context) -> Reply:
    account = context.admitted.account
    if not context.name:
        known = [_model(model) for model in catalogue.MODELS if account.has_model(model.name)]
        return _json({"data": known, "object": "list"})
    name = context.name.removeprefix("models/")
    model = catalogue.find(name)
    if model is None or not account.has_model(name):
        raise errors.model_unknown(name, context.version)
    return _json(_model(model))


def _file(file: StoredFile) -> dict[str, Any]:
    return {
        "bytes": file.size,
        "created_at": int(file.created),
        "filename": file.display_name or file.name,
        "id": file.name,
        "object": "file",
        "purpose": "batch_output" if file.generated else "batch",
        "status": "processed",
    }


def _upload(context: Context) -> Reply:
    filename, mime_type, content = _form(context.call).get("file", ("", "", None))
    if content is None:
        raise errors.invalid_argument("* file: is not specified\n")
    made = context.holdings.keep_file(
        context.state.seed, context.account, content, mime_type or "application/octet-stream", context.now
    )
    file = attrs.evolve(made, generated=False, display_name=filename)
    context.holdings.files[file.name] = file
    return _json(_file(file))


def _of_files(context: Context) -> Reply:
    if not context.name:
        found = [file for file in owned(context, context.holdings.files.values()) if not file.gone(context.now)]
        return _listed(context, [_file(file) for file in found])
    bare = context.name.removeprefix("files/")
    identifier, _, verb = bare.partition("/")
    file = context.holdings.file(f"files/{identifier}", context.account, context.now)
    if context.call.method == "DELETE":
        del context.holdings.files[file.name]
        return _json({"deleted": True, "id": file.name, "object": "file"})
    if verb == "content":
        if file.content is None:
            raise errors.invalid_argument("The file's bytes were not kept.")
        return body_reply(200, file.content, file.mime_type)
    return _json(_file(file))


def _create_batch(context: Context) -> Reply:
    message = _message(context.call)
    name = str(message.get("input_file_id") or "")
    file = context.holdings.file(name if name.startswith("files/") else f"files/{name}", context.account, context.now)
    lines = [line for line in (file.content or b"").splitlines() if line.strip()]
    batch = Staged(
        name=f"batches/{context.new_id(32)}",
        account=context.account,
        described={
            "input_file_id": file.name,
            "endpoint": message.get("endpoint", ""),
            "completion_window": message.get("completion_window", "24h"),
            "created_at": int(context.now),
            "lines": lines,
        },
        states=("validating", "in_progress", "completed"),
    )
    context.holdings.staged[batch.name] = batch
    return _json(_batch(batch))


def _batch(batch: Staged) -> dict[str, Any]:
    described, done = batch.described, batch.state == "completed"
    count = len(described["lines"])
    return {
        "completion_window": described["completion_window"],
        "created_at": described["created_at"],
        "endpoint": described["endpoint"],
        "id": batch.name,
        "input_file_id": described["input_file_id"],
        "object": "batch",
        **({"output_file_id": described["output"]} if "output" in described else {}),
        "request_counts": {"completed": count if done else 0, "failed": 0, "total": count},
        "status": batch.state,
    }


def _line(context: Context, line: bytes) -> bytes:
    """Return the answer to one request of a batch."""
    try:
        asked = msgspec.json.decode(line)
        body = asked["body"]
        answered = _chat(attrs.evolve(context, name=str(body["model"]).removeprefix("models/")), body, None)
    except (msgspec.DecodeError, KeyError, TypeError):
        raise errors.invalid_argument("A line of the batch's file is not a request.") from None
    document = msgspec.json.decode(b"".join(step.data for step in answered.steps if isinstance(step, Send)))
    response = {"body": document, "status_code": 200}
    return msgspec.json.encode({"custom_id": asked.get("custom_id"), "response": response}) + b"\n"


def _of_batches(context: Context) -> Reply:
    if not context.name:
        found = [one for one in owned(context, context.holdings.staged.values()) if one.name.startswith("batches/")]
        return _listed(context, [_batch(one) for one in found])
    bare = context.name.removeprefix("batches/")
    identifier, _, verb = bare.partition("/")
    batch = context.holdings.one_staged(f"batches/{identifier}", context.account)
    if verb == "cancel" and context.call.method == "POST":
        if batch.state != "completed":
            batch.end("cancelled")
        return _json(_batch(batch))
    batch.look()
    if batch.state == "completed" and "output" not in batch.described:
        lines = b"".join(_line(context, line) for line in batch.described["lines"])
        kept = context.holdings.keep_file(
            context.state.seed, context.account, lines, "application/jsonl", context.now, prefix="batch-"
        )
        batch.described["output"] = kept.name
    return _json(_batch(batch))


_CALLS = {
    "chat/completions": _chat,
    "embeddings": _embeddings,
    "images/generations": _images,
    "videos": _videos,
}
#: What the Developer API calls these, in its errors.
_NATIVE = {
    "chat/completions": "generateContent",
    "embeddings": "embedContent",
    "images/generations": "predict",
    "videos": "predictLongRunning",
}
_STORED = {"models": _of_models, "files": _of_files, "batches": _of_batches, "videos": _of_videos}

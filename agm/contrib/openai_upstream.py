"""
OpenAI-compatible servers as upstreams: ``[[accounts]] kind = "openai"``.

A Gemini client's generateContent, streamGenerateContent, embedContent and batchEmbedContents go to
``/chat/completions`` and ``/embeddings`` below the account's endpoint, and the answers come back as Gemini's: text,
thoughts, images and other files in the request, tools with calls in parallel, usage, finish reasons and errors.

What such a server cannot be asked for, and would be missed in the answer, is left to accounts of other kinds; without
any it is refused with 400 by its name: Google's own tools, cached content, files by their ``files/…`` names, speech and
images as answers.  What only hints is left out: topK, thinkingBudget, safetySettings, labels.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec

from agm.api import (
    Account,
    AnswerReader,
    BadUpstreamAnswer,
    ErrorInAnswer,
    Fault,
    Framing,
    GatewayRequest,
    InvalidRequest,
    ModelList,
    UpstreamKind,
    UpstreamRequest,
    Verdict,
    hookimpl,
)

NAME = "openai"
_HEADERS = ((b"Content-Type", b"application/json"), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"agm"))

Document = Mapping[str, Any]


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What an account of this kind may say beside what all accounts may."""

    #: How the server calls the limit of an answer's length.
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    #: Whether it can be asked for the usage of a stream.
    stream_usage: bool = True


@hookimpl
def agm_upstream_kinds() -> Sequence[UpstreamKind]:
    """Return the one kind."""
    return [
        UpstreamKind(
            NAME,
            {"generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents"},
            wrap=wrap,
            endpoints=("https://api.openai.com/v1",),
            needs_key=False,  # servers on this machine seldom ask for one
            read_answer=read_answer,
            read_error=read_error,
            models=ModelList("/models", read_models),
            settings=Settings,
        )
    ]


@hookimpl
def agm_filter_accounts(accounts: Sequence[Account], request: GatewayRequest) -> Mapping[str, str] | None:
    """Leave what such servers cannot be asked for to accounts of other kinds, where there are any."""
    ours = [account for account in accounts if account.kind == NAME]
    if not ours or len(ours) == len(accounts):
        return None
    try:
        _asked(request, ours[0].settings or Settings(), request.body.json())
    except InvalidRequest as e:
        return dict.fromkeys((account.name for account in ours), e.message)
    return None


# -- The request -------------------------------------------------------------------------------------


def wrap(request: GatewayRequest, account: Account, body: bytes) -> UpstreamRequest:
    """
    Make the request for an OpenAI-compatible server.

    :raises InvalidRequest: if it holds what such a server cannot be asked for.
    """
    try:
        given = request.body.json() if body is request.body.raw else msgspec.json.decode(body)
    except msgspec.DecodeError:
        given = None
    path, asked = _asked(request, account.settings or Settings(), _object(given, "the request"))
    model = request.model.removeprefix("publishers/google/models/")
    encoded = msgspec.json.encode({"model": model, **asked})
    return UpstreamRequest(path, _HEADERS, encoded, Framing.SSE if asked.get("stream") else Framing.UNARY)


def _asked(request: GatewayRequest, settings: Settings, given: Document) -> tuple[str, dict[str, Any]]:
    """
    Return what is asked for, but for the model, and where.

    :raises InvalidRequest: as :func:`wrap`.
    """
    if request.method in ("embedContent", "batchEmbedContents"):
        return "/embeddings", _embeddings(given, request.method)
    asked = _chat(given, settings)
    if request.method == "streamGenerateContent":
        asked["stream"] = True
        if settings.stream_usage:
            asked["stream_options"] = {"include_usage": True}
    return "/chat/completions", asked


def _chat(given: Document, settings: Settings) -> dict[str, Any]:
    if _get(given, "cachedContent"):
        raise _cannot("cachedContent")
    asked: dict[str, Any] = {"messages": list(_messages(given))}
    asked.update(_generation(_object(_get(given, "generationConfig") or {}, "generationConfig"), settings))
    asked.update(_tools(given))
    return asked


def _messages(given: Document) -> Iterator[dict[str, Any]]:
    system = _get(given, "systemInstruction")
    if system:
        parts = [system] if isinstance(system, str) else _parts(_object(system, "systemInstruction"))
        text = "\n".join(part if isinstance(part, str) else _text(part, "systemInstruction") for part in parts)
        yield {"role": "system", "content": text}
    calls = _CallIds()
    contents = _get(given, "contents")
    if isinstance(contents, Mapping):
        contents = [contents]
    for content in _array(contents or [], "contents"):
        turn = _object(content, "contents")
        yield from _of_model(turn, calls) if turn.get("role") == "model" else _of_user(turn, calls)


class _CallIds:
    """Ids of tool calls: Gemini's clients need not send any, and OpenAI's servers ask for them."""

    def __init__(self) -> None:
        self._made = 0
        self._open: dict[str, list[str]] = {}

    def made(self, name: str, given: object) -> str:
        """Return the id of a call."""
        self._made += 1
        made = given if isinstance(given, str) and given else f"call_{self._made}"
        self._open.setdefault(name, []).append(made)
        return made

    def answered(self, name: str, given: object) -> str:
        """Return the id of the call that a response is for: the one it names, else the oldest of its function."""
        waiting = self._open.get(name, [])
        if isinstance(given, str) and given:
            if given in waiting:
                waiting.remove(given)
            return given
        if not waiting:
            raise InvalidRequest(f"There is a functionResponse of {name!r} without a functionCall before it.")
        return waiting.pop(0)


def _of_model(turn: Document, calls: _CallIds) -> Iterator[dict[str, Any]]:
    texts, made = [], []
    for part in _parts(turn):
        if part.get("thought") is True:
            continue
        call = _get(part, "functionCall")
        if call is None:
            texts.append(_text(part, "a turn of the model"))
            continue
        call = _object(call, "functionCall")
        name = str(call.get("name", ""))
        function = {"name": name, "arguments": json.dumps(call.get("args") or {}, ensure_ascii=False)}
        made.append({"id": calls.made(name, call.get("id")), "type": "function", "function": function})
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or (None if made else "")}
    if made:
        message["tool_calls"] = made
    yield message


def _of_user(turn: Document, calls: _CallIds) -> Iterator[dict[str, Any]]:
    pieces: list[dict[str, Any]] = []
    for part in _parts(turn):
        response = _get(part, "functionResponse")
        if response is None:
            pieces.append(_piece(part))
            continue
        response = _object(response, "functionResponse")
        if response.get("parts"):
            raise _cannot("parts in a functionResponse")
        name = str(response.get("name", ""))
        content = json.dumps(response.get("response") or {}, ensure_ascii=False)
        yield {"role": "tool", "tool_call_id": calls.answered(name, response.get("id")), "content": content}
    if all(piece["type"] == "text" for piece in pieces):
        if pieces:
            yield {"role": "user", "content": "\n".join(piece["text"] for piece in pieces)}
    else:
        yield {"role": "user", "content": pieces}


def _piece(part: Document) -> dict[str, Any]:
    """Return a part of a user's turn that is no response of a function."""
    inline, file = _get(part, "inlineData"), _get(part, "fileData")
    if file is not None:
        file = _object(file, "fileData")
        uri, kind = str(_get(file, "fileUri") or ""), str(_get(file, "mimeType") or "")
        if kind.startswith("image/") and re.match("https?://", uri) and "/v1beta/files/" not in uri:
            return {"type": "image_url", "image_url": {"url": uri}}
        raise _cannot("fileData other than an image at a public URL")
    if inline is None:
        return {"type": "text", "text": _text(part, "a turn of the user")}
    inline = _object(inline, "inlineData")
    kind = str(_get(inline, "mimeType") or "")
    data = str(inline.get("data") or "").replace("-", "+").replace("_", "/")
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
    if kind in _AUDIO:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO[kind]}}
    if kind == "application/pdf":
        return {"type": "file", "file": {"filename": "file.pdf", "file_data": f"data:{kind};base64,{data}"}}
    raise _cannot(f"inlineData of {kind or 'no mimeType'}")


_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mp3": "mp3", "audio/mpeg": "mp3"}
#: What means the same under another name.
_SAMPLING = {
    "temperature": "temperature",
    "topP": "top_p",
    "candidateCount": "n",
    "stopSequences": "stop",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "seed": "seed",
}
#: What would be missed in the answer.
_NOT_ANSWERED = ("responseLogprobs", "speechConfig", "imageConfig", "audioTimestamp", "enableEnhancedCivicAnswers")


def _generation(config: Document, settings: Settings) -> dict[str, Any]:
    asked = {name: value for given, name in _SAMPLING.items() if (value := _get(config, given)) is not None}
    most = _get(config, "maxOutputTokens")
    if most is not None:
        asked[settings.max_tokens_field] = most
    for name in _NOT_ANSWERED:
        if _get(config, name):
            raise _cannot(f"generationConfig.{name}")
    modalities = _array(_get(config, "responseModalities") or [], "responseModalities")
    if any(str(one).upper() != "TEXT" for one in modalities):
        raise _cannot("responseModalities other than TEXT")
    level = _get(_object(_get(config, "thinkingConfig") or {}, "thinkingConfig"), "thinkingLevel")
    if isinstance(level, str) and level.upper() in ("MINIMAL", "LOW", "MEDIUM", "HIGH"):
        asked["reasoning_effort"] = level.lower()
    kind = _get(config, "responseMimeType") or "text/plain"
    schema = _get(config, "responseJsonSchema")
    if schema is None and (own := _get(config, "responseSchema")) is not None:
        schema = _schema(own)
    if kind == "application/json":
        wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        asked["response_format"] = {"type": "json_object"} if schema is None else wanted
    elif kind != "text/plain":
        raise _cannot(f"responseMimeType {kind!r}")
    return asked


def _tools(given: Document) -> dict[str, Any]:
    functions = []
    for tool in _array(_get(given, "tools") or [], "tools"):
        for name, value in _object(tool, "tools").items():
            if name not in ("functionDeclarations", "function_declarations"):
                if value is not None:
                    raise _cannot(f"the tool {name}")
                continue
            for declared in _array(value or [], name):
                functions.append(_function(_object(declared, name)))
    if not functions:
        return {}
    chosen = _object(_get(given, "toolConfig") or {}, "toolConfig")
    chosen = _object(_get(chosen, "functionCallingConfig") or {}, "functionCallingConfig")
    mode = str(chosen.get("mode") or "AUTO").upper()
    allowed = _get(chosen, "allowedFunctionNames")
    if allowed and mode in ("ANY", "VALIDATED"):
        functions = [one for one in functions if one["name"] in allowed]
    asked: dict[str, Any] = {"tools": [{"type": "function", "function": one} for one in functions]}
    if mode == "ANY" and len(functions) == 1 and allowed:
        asked["tool_choice"] = {"type": "function", "function": {"name": functions[0]["name"]}}
    elif mode in ("ANY", "NONE"):
        asked["tool_choice"] = "required" if mode == "ANY" else "none"
    return asked


def _function(declared: Document) -> dict[str, Any]:
    function = {"name": str(declared.get("name", "")), "description": declared.get("description")}
    schema = _get(declared, "parametersJsonSchema")
    if schema is None and declared.get("parameters") is not None:
        schema = _schema(declared["parameters"])
    function["parameters"] = schema
    return {key: value for key, value in function.items() if value is not None}


def _schema(given: Any) -> Any:
    """A schema as JSON Schema has it: Gemini's has types in capitals, ``nullable``, and numbers as strings."""
    if not isinstance(given, Mapping):
        return given
    found: dict[str, Any] = {}
    for written, value in given.items():
        name = re.sub("_([a-z])", lambda letter: letter[1].upper(), str(written))
        match name:
            case "type":
                found[name] = str(value).lower()
            case "properties" | "defs" | "$defs":
                found[name] = {key: _schema(one) for key, one in _object(value, name).items()}
            case "items" | "additionalProperties":
                found[name] = _schema(value)
            case "anyOf":
                found["anyOf"] = [_schema(one) for one in _array(value, name)]
            case "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties":
                found[name] = int(value) if isinstance(value, str) and value.isdecimal() else value
            case "nullable" | "propertyOrdering" | "example":
                pass
            case _:
                found[name] = value
    if given.get("nullable") is True and "type" in found:
        found["type"] = [found["type"], "null"]
    return found


def _embeddings(given: Document, method: str) -> dict[str, Any]:
    requests = [given] if method == "embedContent" else _array(given.get("requests") or [], "requests")
    texts, sizes = [], set()
    for one in requests:
        one = _object(one, "requests")
        content = _get(one, "content")
        parts = [{"text": content}] if isinstance(content, str) else _parts(_object(content or {}, "content"))
        texts.append("\n".join(_text(part, "content") for part in parts))
        config = _object(_get(one, "embedContentConfig") or {}, "embedContentConfig")
        sizes.add(_get(one, "outputDimensionality") or _get(config, "outputDimensionality"))
    if len(sizes) > 1:
        raise _cannot("more than one outputDimensionality in a batch")
    asked: dict[str, Any] = {"input": texts, "encoding_format": "float"}
    if size := next(iter(sizes), None):
        asked["dimensions"] = size
    return asked


def _get(document: Document, name: str) -> Any:
    """Return a field, which clients may write in either of two ways: ``inlineData`` and ``inline_data``."""
    found = document.get(name)
    return document.get(_snake(name)) if found is None else found


@lru_cache(maxsize=256)
def _snake(name: str) -> str:
    return re.sub("([A-Z])", r"_\1", name).lower()


def _object(value: Any, what: str) -> Document:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"Invalid value at {what!r}: an object is expected.")
    return value


def _array(value: Any, what: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise InvalidRequest(f"Invalid value at {what!r}: an array is expected.")
    return value


def _parts(content: Document) -> list[Document]:
    parts = content.get("parts") or []
    return [_object(part, "parts") for part in ([parts] if isinstance(parts, Mapping) else _array(parts, "parts"))]


def _text(part: Document, where: str) -> str:
    text = part.get("text")
    if text is None:
        others = [name for name in part if name not in ("thought", "thoughtSignature", "thought_signature")]
        if others:
            raise _cannot(f"{others[0]} in {where}")
    return "" if text is None else str(text)


def _cannot(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"The account that serves this model is an OpenAI-compatible server, which cannot be asked for {what}.",
        reason="NOT_IN_OPENAI",
    )


# -- The answer --------------------------------------------------------------------------------------

_FINISH = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "function_call": "STOP",
    "content_filter": "SAFETY",
}


def read_answer(request: GatewayRequest, account: Account) -> AnswerReader:
    """Return what reads one answer."""
    match request.method:
        case "embedContent" | "batchEmbedContents":
            return _EmbeddingsReader(request.method)
        case "streamGenerateContent":
            return _StreamReader()
    return _ChatReader()


class _Reader:
    """The base of the readers."""

    def end(self, done: bool) -> Iterable[dict[str, Any]]:
        """Nothing is left."""
        return ()

    @staticmethod
    def _check(document: Document) -> None:
        """:raises ErrorInAnswer: if a document is an error."""
        error = document.get("error")
        if error is None and document.get("object") != "error":
            return
        code = error.get("code") if isinstance(error, Mapping) else document.get("code")
        status = int(str(code)) if re.fullmatch("[45][0-9][0-9]", str(code)) else 502
        raise ErrorInAnswer(status, msgspec.json.encode(document))


class _ChatReader(_Reader):
    """Reads a whole chat completion."""

    def read(self, document: Document) -> Iterable[dict[str, Any]]:
        """Return the one document."""
        self._check(document)
        candidates = []
        for choice in _dicts(document.get("choices")):
            message = _dict(choice.get("message"))
            made = [_Call.of(call) for call in _dicts(message.get("tool_calls"))]
            parts = [*_said(message), *(call.part() for call in made if call.good)]
            candidates.append(_candidate(choice, parts, made))
        if not candidates:
            raise BadUpstreamAnswer("The upstream's answer has no choices.")
        return [{"candidates": candidates, **_about(document)}]


class _StreamReader(_Reader):
    """
    Reads the chunks of a chat completion.

    What is said comes out at once; calls of tools, whose arguments come in pieces, and the reasons to end come out
    together, with the usage that the server sends behind them.
    """

    def __init__(self) -> None:
        self._about: dict[str, Any] = {}
        self._calls: dict[tuple[int, int], _Call] = {}
        #: Of each choice that has been heard of, the chunk with its reason to end, or None.
        self._choices: dict[int, Document | None] = {}

    def read(self, document: Document) -> Iterable[dict[str, Any]]:
        """Return what a chunk says."""
        self._check(document)
        self._about.update(_about(document))
        candidates = []
        for choice in _dicts(document.get("choices")):
            index, delta = _whole(choice.get("index")), _dict(choice.get("delta"))
            for number, piece in enumerate(_dicts(delta.get("tool_calls"))):
                at = piece.get("index")
                key = (index, at if isinstance(at, int) else number)
                self._calls.setdefault(key, _Call()).add(piece)
            self._choices.setdefault(index, None)
            if choice.get("finish_reason"):
                self._choices[index] = choice
            if parts := _said(delta):
                candidates.append({"content": {"role": "model", "parts": parts}, "index": index})
        named = {key: value for key, value in self._about.items() if key != "usageMetadata"}
        return [{"candidates": candidates, **named}] if candidates else []

    def end(self, done: bool) -> Iterable[dict[str, Any]]:
        """
        Return the calls, the reasons to end, and the usage.

        :raises BadUpstreamAnswer: if the answer does not say that it is whole.
        """
        if not self._choices or not (done or any(self._choices.values())):
            raise BadUpstreamAnswer("The upstream ended its answer without a finish_reason, and without [DONE].")
        candidates = []
        for index, finished in sorted(self._choices.items()):
            made = [call for (of, _), call in sorted(self._calls.items(), key=lambda item: item[0]) if of == index]
            choice = finished or {"index": index}
            candidates.append(_candidate(choice, [call.part() for call in made if call.good], made))
        return [{"candidates": candidates, **self._about}]


class _EmbeddingsReader(_Reader):
    """Reads embeddings."""

    def __init__(self, method: str) -> None:
        self._method = method

    def read(self, document: Document) -> Iterable[dict[str, Any]]:
        """Return the one document."""
        self._check(document)
        found = sorted(_dicts(document.get("data")), key=lambda one: _whole(one.get("index")))
        embeddings = [{"values": one.get("embedding")} for one in found]
        if not embeddings:
            raise BadUpstreamAnswer("The upstream's answer has no embeddings.")
        about = {key: value for key, value in _about(document).items() if key == "usageMetadata"}
        return [{"embedding": embeddings[0], **about} if self._method == "embedContent" else {"embeddings": embeddings}]


class _Call:
    """A call of a tool, whose arguments may come in pieces."""

    def __init__(self) -> None:
        self._id = self._name = ""
        self._arguments: list[str] = []

    @classmethod
    def of(cls, whole: Document) -> _Call:
        """Return a call that came at once."""
        call = cls()
        call.add(whole)
        return call

    def add(self, piece: Document) -> None:
        """Take what has come of it."""
        function = _dict(piece.get("function"))
        self._id = self._id or str(piece.get("id") or "")
        self._name = self._name or str(function.get("name") or "")
        arguments = function.get("arguments")
        self._arguments.append(arguments if isinstance(arguments, str) else json.dumps(arguments or {}))

    @property
    def _args(self) -> Any:
        try:
            return json.loads("".join(self._arguments).strip() or "{}")
        except ValueError:
            return None

    @property
    def good(self) -> bool:
        """Whether it has a name, and arguments that can be read."""
        return bool(self._name) and isinstance(self._args, dict)

    def part(self) -> dict[str, Any]:
        """Return the part of an answer."""
        call = {"name": self._name, "args": self._args}
        return {"functionCall": {"id": self._id, **call} if self._id else call}


def _said(message: Document) -> list[dict[str, Any]]:
    """Return what a message, or a piece of one, says in words."""
    thought = message.get("reasoning_content") or message.get("reasoning")
    parts: list[dict[str, Any]] = [{"text": thought, "thought": True}] if isinstance(thought, str) and thought else []
    return [
        *parts,
        *({"text": said} for name in ("content", "refusal") if isinstance(said := message.get(name), str) and said),
    ]


def _candidate(choice: Document, parts: Sequence[Document], calls: Sequence[_Call]) -> dict[str, Any]:
    finish = choice.get("finish_reason")
    candidate: dict[str, Any] = {
        "content": {"role": "model", "parts": list(parts)},
        "finishReason": _FINISH.get(finish, "OTHER") if isinstance(finish, str) else "OTHER",
        "index": _whole(choice.get("index")),
    }
    if not all(call.good for call in calls):
        candidate["finishReason"] = "MALFORMED_FUNCTION_CALL"
        candidate["finishMessage"] = "The model called a function with arguments that are no JSON object."
    return candidate


def _about(document: Document) -> dict[str, Any]:
    """Return what an answer says of itself."""
    about: dict[str, Any] = {}
    if isinstance(model := document.get("model"), str):
        about["modelVersion"] = model
    if isinstance(named := document.get("id"), str):
        about["responseId"] = named
    usage = _dict(document.get("usage"))
    if usage:
        prompt, output = _whole(usage.get("prompt_tokens")), _whole(usage.get("completion_tokens"))
        thoughts = _whole(_dict(usage.get("completion_tokens_details")).get("reasoning_tokens"))
        cached = _whole(_dict(usage.get("prompt_tokens_details")).get("cached_tokens"))
        counted = {
            "promptTokenCount": prompt,
            "candidatesTokenCount": max(output - thoughts, 0),
            "totalTokenCount": _whole(usage.get("total_tokens")) or prompt + output,
            "thoughtsTokenCount": thoughts,
            "cachedContentTokenCount": cached,
        }
        about["usageMetadata"] = {name: count for name, count in counted.items() if count}
    return about


def _dict(value: Any) -> Document:
    return value if isinstance(value, Mapping) else {}


def _dicts(value: Any) -> list[Document]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


# -- Errors, and the list of models ------------------------------------------------------------------

_LATER = re.compile(r"try again in (?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)(ms|s))?")
#: Codes, and what they mean whatever the status is.
_BY_CODE = {
    "insufficient_quota": Fault.QUOTA,
    "billing_hard_limit_reached": Fault.BLOCKED,
    "model_not_found": Fault.NO_MODEL,
    "invalid_api_key": Fault.CREDENTIAL,
    "account_deactivated": Fault.LOCKED,
    "unsupported_country_region_territory": Fault.BLOCKED,
}
_BY_STATUS = {
    401: Fault.CREDENTIAL,
    402: Fault.QUOTA,
    403: Fault.FORBIDDEN,
    429: Fault.RATE,
    500: Fault.ENDPOINT,
    502: Fault.ENDPOINT,
    503: Fault.CAPACITY,
    504: Fault.ENDPOINT,
    529: Fault.CAPACITY,
}


def read_error(
    status: int, body: bytes, headers: Mapping[str, str], account: Account, request: GatewayRequest
) -> Verdict:
    """Say what an error means."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        decoded = None
    document = _dict(decoded[0] if isinstance(decoded, list) and decoded else decoded)  # Google's surface has a list
    error = document.get("error", document)
    said = error if isinstance(error, str) else _dict(error).get("message") or _dict(error).get("detail")
    message = said[:500] if isinstance(said, str) else ""
    code = _dict(error).get("code")
    reason = code.upper() if isinstance(code, str) and re.fullmatch("[A-Za-z_]{3,60}", code) else f"HTTP_{status}"
    fault = _BY_CODE.get(str(code).lower()) or _BY_STATUS.get(status, Fault.FINAL)
    if status == 404 and "model" in message.lower():
        fault = Fault.NO_MODEL
    delay = _delay(headers.get("retry-after"), message) if fault in (Fault.RATE, Fault.QUOTA, Fault.CAPACITY) else None
    return Verdict(fault, reason, delay, message or f"The upstream answered {status}.")


def _delay(retry_after: str | None, message: str) -> float | None:
    """Seconds that an error says to wait; None if it does not."""
    if retry_after is not None:
        if re.fullmatch(r"\d{1,9}(\.\d+)?", retry_after.strip()):
            return float(retry_after)
        try:
            return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
        except (ValueError, TypeError, OverflowError):
            pass
    found = _LATER.search(message)
    if found is None or not (found[1] or found[2]):
        return None
    return 60.0 * float(found[1] or 0) + float(found[2] or 0) * (0.001 if found[3] == "ms" else 1.0)


def read_models(document: Document) -> list[dict[str, Any]]:
    """Model resources of what ``/models`` lists."""
    found = []
    for model in _dicts(document.get("data")):
        named = model.get("id")
        if not isinstance(named, str) or not named:
            continue
        embeds = "embed" in named
        resource = {
            "name": f"models/{named}",
            "displayName": named,
            "inputTokenLimit": _whole(model.get("context_length")) or _whole(model.get("max_model_len")) or None,
            "supportedGenerationMethods": (
                ["embedContent", "batchEmbedContents"] if embeds else ["generateContent", "streamGenerateContent"]
            ),
        }
        found.append({key: value for key, value in resource.items() if value is not None})
    return found

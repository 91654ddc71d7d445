"""
The collections beside interactions: agents, triggers, environments, credentials, voices, webhooks; and decisions.

:data:`COLLECTIONS` is the table: what each is called, and what is made of a creation.  All of them are listed, looked
at and deleted alike; what one account has another never sees.  What a path does beyond that is a row of
:data:`_MORE`.  Secrets are shown where Google shows them: a webhook's when it is made and when it is changed, a
credential's never.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from agm.emulator import answers, catalogue, errors, framing, jsontext, modelcalls, steps, tokens
from agm.emulator import stepstream as wire
from agm.emulator.calls import Call, Target
from agm.emulator.errors import GoogleError, Kind, timestamp
from agm.emulator.holdings import EnvironmentUpload, Kept
from agm.emulator.replies import SCAFFOLDING, Reply, body_reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import State

Document = dict[str, Any]

_VOICES = ("Puck", "Charon", "Kore", "Fenrir", "Aoede")
#: How long a webhook's old secrets are still good, in seconds.
_SECRET_LIFETIME = 24 * 3600


@attrs.frozen
class _Context:
    """A call about one of these collections: by whom, when, and which of them."""

    call: Call
    state: State
    entry: Entry
    account: str
    collection: str
    names: tuple[str, ...]

    @property
    def now(self) -> str:
        return timestamp(int(self.state.clock.now()))

    def body(self) -> Document:
        """Return the message.  :raises GoogleError: 400."""
        message = jsontext.read(self.call.body)
        if not isinstance(message, dict):
            raise GoogleError(400, "The request body must be a JSON object.")
        return {name: value for name, value in message.items() if value is not None}

    def new_id(self, length: int = 16) -> str:
        return self.state.holdings.new_id(self.state.seed, length)

    def kept(self) -> Kept:
        """Return what the path names.  :raises GoogleError: 404."""
        return find(self.state, self.account, self.collection, self.names[0])

    def own(self) -> list[Kept]:
        """Everything of the collection that the account has."""
        begins = f"{self.collection}/"
        kept = self.state.holdings.kept
        return [one for name, one in kept.items() if one.account == self.account and name.startswith(begins)]


def find(state: State, account: str, collection: str, name: str) -> Kept:
    """
    Something that an account has, by its id.

    :raises GoogleError: 404, the same for what is foreign and for what does not exist.
    """
    kept = state.holdings.kept.get(f"{collection}/{name}")
    if kept is None or kept.account != account:
        raise GoogleError(404, f"{COLLECTIONS[collection].singular.capitalize()} not found.")
    return kept


def check_agent(state: State, account: str, agent: str) -> None:
    """
    Refuse an agent that another account has made; one that nobody has made is Google's.

    :raises GoogleError: 404.
    """
    if f"agents/{agent}" in state.holdings.kept:
        find(state, account, "agents", agent)


def environment_for(state: State, account: str, given: object) -> str:
    """
    Return the environment that an interaction runs in: one that there is, or a new one; "" for none.

    :raises GoogleError: 404.
    """
    if not given:
        return ""
    if isinstance(given, str) and given != "remote":
        return find(state, account, "environments", given.removeprefix("environments/")).name
    sources = given.get("sources", []) if isinstance(given, dict) else []
    name = f"env_{state.holdings.new_id(state.seed, 16)}"
    document = {"id": name, **_times(state, "created", "updated"), "status": "active", "sources": sources}
    state.holdings.kept[f"environments/{name}"] = Kept(name, account, document)
    return name


def _times(state: State, *names: str) -> Document:
    now = timestamp(int(state.clock.now()))
    return dict.fromkeys(names, now)


# -- the table ---------------------------------------------------------------------------------------------------

_Make = Callable[[_Context, Document, str], Document]


def _make_agent(context: _Context, message: Document, name: str) -> Document:
    return {"id": name, **{field: value for field, value in message.items() if field != "id"}}


def _make_trigger(context: _Context, message: Document, name: str) -> Document:
    _require(message, "interaction", "schedule", "time_zone")
    times = _times(context.state, "create_time", "update_time")
    return {"id": name, "status": "active", **message, **times, "consecutive_failure_count": 0}


def _make_environment(context: _Context, message: Document, name: str) -> Document:
    origin = message.pop("from_environment", "")
    sources = message.pop("sources", [])
    if origin:
        copied = find(context.state, context.account, "environments", origin.removeprefix("environments/"))
        sources = copied.document["sources"]
    times = _times(context.state, "created", "updated")
    return {"id": name, **times, "status": "active", **message, "sources": sources}


def _make_credential(context: _Context, message: Document, name: str) -> Document:
    _require(message, "type")
    times = _times(context.state, "create_time", "update_time")
    return {"id": name, "status": "active", "type": message["type"], **times}


def _make_voice(context: _Context, message: Document, name: str) -> Document:
    voice = message.get("voice")
    if not isinstance(voice, dict) or "type" not in voice:
        raise GoogleError(400, "'voice.type' must be specified.")
    shown = {field: value for field, value in voice.items() if field not in ("replicated", "id")}
    return {"id": name, **shown, "model": "gemini-2.5-flash-preview-tts"}


def _make_webhook(context: _Context, message: Document, name: str) -> Document:
    _require(message, "uri", "subscribed_events")
    secret = _secret(context, name)
    return {
        "id": name,
        **message,
        "state": "enabled",
        **_times(context.state, "create_time", "update_time"),
        "signing_secrets": [{"truncated_secret": secret[-4:]}],
        "new_signing_secret": secret,
    }


def _require(message: Mapping[str, Any], *fields: str) -> None:
    for field in fields:
        if field not in message:
            raise GoogleError(400, f"'{field}' must be specified.")


def _secret(context: _Context, name: str) -> str:
    word = f"{context.state.seed} {name} {context.new_id()}"
    return "whsec_" + hashlib.sha256(word.encode()).hexdigest()


@attrs.frozen
class Collection:
    """A row: what one of them is called, how an id begins that a client did not choose, and how one is made."""

    singular: str
    prefix: str
    make: _Make
    #: Fields of the message by which a client names it itself.
    named_by: str = "id"
    updated: bool = False
    #: What is shown of it once, when it is made.
    once: tuple[str, ...] = ()


COLLECTIONS: Mapping[str, Collection] = {
    "agents": Collection("agent", "agent-", _make_agent),
    "triggers": Collection("trigger", "trig_", _make_trigger, "", updated=True),
    "environments": Collection("environment", "env_", _make_environment, ""),
    "credentials": Collection("credential", "cred_", _make_credential, updated=True),
    "voices": Collection("voice", "voice_", _make_voice, ""),
    "webhooks": Collection("webhook", "wh_", _make_webhook, "", updated=True, once=("new_signing_secret",)),
}


# -- what all of them do -----------------------------------------------------------------------------------------


def _create(context: _Context) -> Document:
    row, message = COLLECTIONS[context.collection], context.body()
    name = str(message.pop(row.named_by, "")) if row.named_by else ""
    if name and not steps.NAME.fullmatch(name):
        raise GoogleError(400, f"'{row.named_by}' is not a valid id.")
    name = name or row.prefix + context.new_id()
    if f"{context.collection}/{name}" in context.state.holdings.kept:
        raise GoogleError(409, f"{row.singular.capitalize()} already exists.", rpc="ALREADY_EXISTS")
    document = row.make(context, message, name)
    shown = {field: value for field, value in document.items() if field not in row.once}
    if message.get("store") is not False:
        context.state.holdings.kept[f"{context.collection}/{name}"] = Kept(name, context.account, shown)
    return document


def _list(context: _Context) -> Document:
    documents = [kept.document for kept in context.own()]
    if context.collection == "voices":
        documents += [{"id": name, "display_name": name, "type": "prebuilt"} for name in _VOICES]
    return _page(context, context.collection, documents)


def _page(context: _Context, key: str, documents: list[Document]) -> Document:
    query = context.call.query
    listed, token = catalogue.page(documents, query.get("page_size"), query.get("page_token"))
    return {key: list(listed), **({"next_page_token": token} if token else {})}


def _get(context: _Context) -> Document:
    if context.collection == "voices" and context.names[0] in _VOICES:
        return {"id": context.names[0], "display_name": context.names[0], "type": "prebuilt"}
    return context.kept().document


def _update(context: _Context) -> Document:
    kept, message = context.kept(), context.body()
    if context.collection == "credentials":  # the rest of it is secret
        message = {name: value for name, value in message.items() if name == "type"}
    kept.document |= message
    kept.document["update_time"] = context.now
    return kept.document


def _delete(context: _Context) -> Document:
    kept = context.kept()
    del context.state.holdings.kept[f"{context.collection}/{kept.name}"]
    return {}


# -- what some of them do ----------------------------------------------------------------------------------------


def _run_trigger(context: _Context) -> Document:
    kept = context.kept()
    name = f"exec_{context.new_id()}"
    times = dict.fromkeys(("scheduled_time", "start_time", "end_time"), context.now)
    kept.below[name] = {"id": name, "trigger_id": kept.name, "status": "succeeded", **times}
    kept.document["last_run_time"] = context.now
    return {**kept.below[name], "status": "in_progress"}


def _list_executions(context: _Context) -> Document:
    return _page(context, "trigger_executions", list(context.kept().below.values()))


def _ping_webhook(context: _Context) -> Document:
    context.kept()
    return {}


def _rotate_secret(context: _Context) -> Document:
    kept = context.kept()
    secret = _secret(context, kept.name)
    ends = timestamp(int(context.state.clock.now()) + _SECRET_LIFETIME)
    old = [{**one, "expire_time": ends} for one in kept.document["signing_secrets"]]
    kept.document["signing_secrets"] = [*old, {"truncated_secret": secret[-4:]}]
    return {"secret": secret}


def _decide(context: _Context) -> Document:
    message = context.body()
    _require(message, "model", "questions")
    model = str(message["model"]).removeprefix("models/")
    context.entry.model = model
    turns = steps.turns_of(message.get("input"))
    digest = answers.digest_of(context.state.seed, model, {"contents": turns})
    fault = context.state.fault_for(context.account, model)
    about = Target(Kind.API_KEY, "v1beta", model, "createDecision").about("12345678", context.state.clock.now())
    if fault is not None and (error := errors.of_fault(about, fault)) is not None:
        raise error
    asked = tokens.of_contents(turns).total() + tokens.of_json(message["questions"])
    answered = {name: _answer(question, digest) for name, question in message["questions"].items()}
    usage = {"total_tokens": asked + len(answered), "total_input_tokens": asked, "total_output_tokens": len(answered)}
    return {"answers": answered, "usage": usage}


def _answer(question: Mapping[str, Any], digest: bytes) -> Document:
    sure = round(0.5 + digest[0] / 512, 4)
    kind = question.get("type")
    if kind == "noul":
        return {"type": "noul", "noul": sure, "confidence": sure}
    if kind not in ("choice", "score"):
        raise GoogleError(400, "The type of a question must be one of choice, score and noul.")
    given = question.get("criteria") or {}
    names = [str(name) for name in given] or ["0"]
    others = {name: round((1 - sure) / max(len(names) - 1, 1), 4) for name in names}
    chosen = names[digest[1] % len(names)]
    if kind == "choice":
        return {"type": "choice", "choice": chosen, "probabilities": {**others, chosen: sure}, "confidence": sure}
    legend = {name: str(text) for name, text in given.items()} if isinstance(given, dict) else {}
    shown = {"score": round(digest[1] / 255, 4), "probabilities": {**others, chosen: sure}, "legend": legend}
    return {"type": "score", **shown, "confidence": sure}


# -- an environment's files --------------------------------------------------------------------------------------


def _files(context: _Context) -> Reply:
    """Return the bytes of a file with ``alt=media``, else what there is at a path."""
    kept, path = context.kept(), context.names[1].strip("/")
    if context.call.query.get("alt") == "media":
        if path not in kept.below:
            raise GoogleError(404, "File not found.")
        return body_reply(200, kept.below[path]["content"], kept.below[path]["file"]["mime_type"])
    deep = context.call.query.get("recursive") == "true"
    found = [
        file["file"]
        for name, file in kept.below.items()
        if name == path or (name.startswith(f"{path}/" if path else "") and (deep or _is_in(name, path)))
    ]
    return _answered(context, _page(context, "files", found))


def _is_in(name: str, path: str) -> bool:
    return "/" not in name.removeprefix(path).strip("/")


def _start_upload(context: _Context) -> Reply:
    kept, path = context.kept(), context.names[1].strip("/")
    headers, query = context.call.headers, context.call.query
    if headers.get("x-goog-upload-protocol", "").lower() != "resumable":
        raise GoogleError(400, "Upload protocol is not supported; use X-Goog-Upload-Protocol: resumable.")
    if path in kept.below and query.get("overwrite") != "true":
        raise GoogleError(409, "File already exists.", rpc="ALREADY_EXISTS")
    upload_id = context.new_id(40)
    mime_type = headers.get("x-goog-upload-header-content-type") or "application/octet-stream"
    context.state.holdings.environment_uploads[upload_id] = EnvironmentUpload(kept, path, mime_type)
    url = f"{context.call.base_url}{context.call.path}?upload_id={upload_id}&upload_protocol=resumable"
    told = (("X-Goog-Upload-Status", "active"), ("X-Goog-Upload-URL", url), ("X-Goog-Upload-Control-URL", url))
    return body_reply(200, b"", "text/plain; charset=utf-8", (*SCAFFOLDING, *told))


def _upload(call: Call, state: State, entry: Entry) -> Reply:
    """Bytes for an upload that has been begun: its address carries its own right."""
    entry.rpc = "UploadEnvironmentFile"
    uploads = state.holdings.environment_uploads
    upload = uploads.get(call.query["upload_id"])
    if upload is None:
        raise GoogleError(404, "Upload not found.")
    entry.account = upload.environment.account
    commands = {word.strip() for word in call.headers.get("x-goog-upload-command", "").lower().split(",")}
    if "upload" in commands:
        if call.headers.get("x-goog-upload-offset", "0") != str(len(upload.content)):
            raise GoogleError(400, f"The offset does not match the {len(upload.content)} bytes received.")
        upload.content += call.body
    if "finalize" not in commands:
        received = ("X-Goog-Upload-Size-Received", str(len(upload.content)))
        told = (*SCAFFOLDING, ("X-Goog-Upload-Status", "active"), received)
        return body_reply(200, b"", "text/plain; charset=utf-8", told)
    del uploads[call.query["upload_id"]]
    now = timestamp(int(state.clock.now()))
    file = {"name": upload.path.rpartition("/")[2], "path": upload.path, "type": "file"}
    file |= {"size_bytes": str(len(upload.content)), "mime_type": upload.mime_type, "created": now, "modified": now}
    upload.environment.below[upload.path] = {"file": file, "content": upload.content}
    told = (*SCAFFOLDING, ("X-Goog-Upload-Status", "final"))
    return body_reply(200, framing.compact({"file": file}), framing.JSON_TYPE, told)


# -- paths -------------------------------------------------------------------------------------------------------

_ONE = r"([^/:]+)"
_MORE: tuple[tuple[str, str, str, Callable[[_Context], Document | Reply]], ...] = (
    ("POST", "decisions", "", _decide),
    ("POST", "triggers", rf"/{_ONE}/executions", _run_trigger),
    ("GET", "triggers", rf"/{_ONE}/executions", _list_executions),
    ("POST", "webhooks", rf"/{_ONE}:ping", _ping_webhook),
    ("POST", "webhooks", rf"/{_ONE}:rotateSigningSecret", _rotate_secret),
    ("GET", "environments", rf"/{_ONE}/files/?(.*)", _files),
)
_ALIKE: tuple[tuple[str, str, Callable[[_Context], Document | Reply]], ...] = (
    ("POST", "", _create),
    ("GET", "", _list),
    ("GET", rf"/{_ONE}", _get),
    ("PATCH", rf"/{_ONE}", _update),
    ("DELETE", rf"/{_ONE}", _delete),
)
_UPLOADS = ("PUT", "environments", rf"/{_ONE}/files/(.+)", _start_upload)


def reply(call: Call, state: State, entry: Entry, version: str, rest: str) -> Reply | None:
    """Answer a call about one of these collections; None if the path is none of theirs."""
    uploads = call.path.startswith("/upload/")
    found = _found(call, rest, uploads=uploads)
    if found is None:
        return None
    collection, names, answer = found
    if uploads and "upload_id" in call.query:
        try:
            return _upload(call, state, entry)
        except GoogleError as error:
            return wire.error_reply(error)
    target = Target(Kind.API_KEY, version, "", f"{collection}.{answer.__name__.strip('_')}")
    try:
        admitted = modelcalls.admit(call, state, entry, target)
    except GoogleError as error:
        return modelcalls.error_reply(error, kind=Kind.API_KEY)
    entry.model = None
    context = _Context(call, state, entry, admitted.account.name, collection, names)
    try:
        answered = answer(context)
    except GoogleError as error:
        return wire.error_reply(error)
    return answered if isinstance(answered, Reply) else _answered(context, answered)


def _answered(context: _Context, document: Document) -> Reply:
    return body_reply(200, framing.compact(document), framing.JSON_TYPE)


def _found(
    call: Call, rest: str, *, uploads: bool
) -> tuple[str, tuple[str, ...], Callable[[_Context], Document | Reply]] | None:
    """Return the collection that a path is of, the names in it, and what it does."""
    if uploads:
        match = re.fullmatch(rf"environments{_UPLOADS[2]}", rest, re.DOTALL)
        return ("environments", match.groups(), _UPLOADS[3]) if match and call.method in ("PUT", "POST") else None
    for method, collection, below, answer in _MORE:
        match = re.fullmatch(collection + below, rest, re.DOTALL) if method == call.method else None
        if match is not None:
            return collection, match.groups(), answer
    collection = re.split(r"[/:]", rest, maxsplit=1)[0]
    if collection not in COLLECTIONS:
        return None
    for method, below, answer in _ALIKE:
        match = re.fullmatch(collection + below, rest) if method == call.method else None
        if match is not None and (method != "PATCH" or COLLECTIONS[collection].updated):
            return collection, match.groups(), answer
    return None

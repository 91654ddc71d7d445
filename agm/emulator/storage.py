"""
The Developer API's calls about what it keeps: uploads and files, cached contents, batches.

Paths and messages are here, ownership and lifetimes in :mod:`agm.emulator.holdings`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from agm.emulator import answers, catalogue, errors, modelcalls
from agm.emulator.calls import Call, Target
from agm.emulator.errors import GoogleError, Kind
from agm.emulator.holdings import CACHE_LIFETIME, Batch, CachedContent, StoredFile, Upload
from agm.emulator.modelcalls import Admitted
from agm.emulator.replies import SCAFFOLDING, Reply, body_reply, json_reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import State

#: What a client should send at once, in bytes.
_GRANULARITY = 8 * 1024 * 1024


@attrs.frozen
class _Context:
    """A call about stored things: by whom, when, and which of them."""

    call: Call
    state: State
    admitted: Admitted
    version: str
    name: str

    @property
    def account(self) -> str:
        return self.admitted.account.name

    @property
    def now(self) -> float:
        return self.state.clock.now()

    @property
    def base(self) -> str:
        return f"{self.call.base_url}/{self.version}"

    def read(self, message: str) -> dict[str, Any]:
        return modelcalls.read_body(self.call, message, Kind.API_KEY)


_Answer = Callable[[_Context], dict[str, Any]]


def reply(call: Call, state: State, entry: Entry, version: str, rest: str) -> Reply | None:
    """
    Answer a call, or None if the path is not of this module.

    :raises GoogleError: for a call that fails.
    """
    if call.path.startswith("/upload/"):
        return _upload(call, state, entry, version) if rest == "files" else None
    for pattern, method, rpc, answer in _ROUTES:
        match = pattern.fullmatch(rest)
        if match is None or method != call.method:
            continue
        name = match[1] if pattern.groups else ""
        target = Target(Kind.API_KEY, version, name if rpc == "BatchGenerateContent" else "", rpc)
        admitted = modelcalls.admit(call, state, entry, target)
        entry.model = target.model or None
        document = answer(_Context(call, state, admitted, version, name))
        return json_reply(document, pretty_print=call.pretty_print)
    return None


# -- uploads -----------------------------------------------------------------------------------------------------


def _upload(call: Call, state: State, entry: Entry, version: str) -> Reply:
    """
    The resumable protocol, a start that names the file, then bytes to the URL that the start gave; and whole uploads.

    The URL carries its own right: clients send the bytes without a key.
    """
    commands = {word.strip() for word in call.headers.get("x-goog-upload-command", "").lower().split(",")}
    upload_id = call.query.get("upload_id")
    if call.method not in ("POST", "PUT"):
        raise GoogleError(404, "Requested entity was not found.")
    if upload_id is None:
        protocol = call.headers.get("x-goog-upload-protocol", "").lower() or call.query.get("uploadType", "").lower()
        if protocol in ("multipart", "raw", "media"):
            return _whole_upload(call, state, entry, version, multipart=protocol == "multipart")
        return _start_upload(call, state, entry, version, commands)
    entry.rpc = "UploadFile"
    upload = state.holdings.uploads.get(upload_id)
    if upload is None:
        raise GoogleError(404, "Requested entity was not found.")
    entry.account = upload.account
    if "query" in commands:
        return _upload_status("active", upload)
    if "cancel" in commands:
        del state.holdings.uploads[upload_id]
        return _upload_status("cancelled", upload)
    if "upload" in commands:
        offset = call.headers.get("x-goog-upload-offset", "0")
        if offset != str(upload.received):
            raise errors.invalid_argument(
                f"Upload offset {offset} does not match the {upload.received} bytes received."
            )
        upload.digest.update(call.body)
        upload.received += len(call.body)
    if "finalize" not in commands:
        return _upload_status("active", upload)
    del state.holdings.uploads[upload_id]
    document = _stored(call, state, version, upload)
    return json_reply(document, headers=(*SCAFFOLDING, ("X-Goog-Upload-Status", "final")))


def _stored(call: Call, state: State, version: str, upload: Upload) -> dict[str, Any]:
    """Keep what has been uploaded, and tell of it."""
    stored = StoredFile(
        name=upload.name,
        account=upload.account,
        display_name=upload.display_name,
        mime_type=upload.mime_type,
        size=upload.received,
        sha256=upload.digest.hexdigest(),
        created=state.clock.now(),
    )
    state.holdings.files[stored.name] = stored
    return {"file": stored.resource(state.clock.now(), f"{call.base_url}/{version}")}


def _whole_upload(call: Call, state: State, entry: Entry, version: str, *, multipart: bool) -> Reply:
    """One request: the bytes alone, or behind what they are."""
    admitted = modelcalls.admit(call, state, entry, Target(Kind.API_KEY, version, "", "CreateFile"))
    entry.model = None
    described: Mapping[str, Any] = {}
    content, mime_type = call.body, call.headers.get("content-type", "")
    if multipart:
        (_, metadata), (mime_type, content) = _parts(call)
        described = modelcalls.read_body(attrs.evolve(call, body=metadata), "CreateFileRequest", Kind.API_KEY).get(
            "file", {}
        )
    upload = Upload(
        account=admitted.account.name,
        name=_name(described, state),
        display_name=described.get("displayName", ""),
        mime_type=described.get("mimeType") or mime_type or "application/octet-stream",
        received=len(content),
    )
    upload.digest.update(content)
    return json_reply(_stored(call, state, version, upload), headers=SCAFFOLDING)


def _parts(call: Call) -> list[tuple[str, bytes]]:
    """The two parts of a ``multipart/related`` body, each with its type."""
    boundary = re.fullmatch(
        r"""multipart/related;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s";]{1,70}))(?:;.*)?""",
        call.headers.get("content-type", ""),
        re.IGNORECASE,
    )
    between = b"\r\n--" + ((boundary[1] or boundary[2]).encode("latin-1") if boundary else b"")
    sections = (b"\r\n" + call.body).split(between)
    if boundary is None or len(sections) != 4 or not sections[3].startswith(b"--"):
        raise errors.invalid_argument("Malformed multipart body.")
    found = []
    for section in sections[1:3]:
        head, blank, content = section.partition(b"\r\n\r\n")
        if not blank:
            raise errors.invalid_argument("Malformed multipart body.")
        mime_type = re.search(rb"(?i)\r\ncontent-type:[ \t]*([^\r]*)", head)
        found.append((mime_type[1].decode("latin-1") if mime_type else "", content))
    return found


def _name(described: Mapping[str, Any], state: State) -> str:
    """The name of a new file: the caller's if it may be one."""
    name: str = described.get("name") or "files/" + state.holdings.new_id(state.seed)
    if not name.startswith("files/"):
        name = f"files/{name}"
    if not re.fullmatch(r"files/[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", name):
        raise errors.invalid_argument(
            "* CreateFileRequest.file.name: File name may only contain lowercase alphanumeric characters or dashes\n"
        )
    if name in state.holdings.files:
        raise GoogleError(409, "Requested entity already exists", rpc="ALREADY_EXISTS")
    return name


def _start_upload(call: Call, state: State, entry: Entry, version: str, commands: set[str]) -> Reply:
    target = Target(Kind.API_KEY, version, "", "CreateFile")
    admitted = modelcalls.admit(call, state, entry, target)
    entry.model = None
    if call.headers.get("x-goog-upload-protocol", "").lower() != "resumable" or "start" not in commands:
        raise errors.invalid_argument("Upload protocol is not supported; use X-Goog-Upload-Protocol: resumable.")
    described = modelcalls.read_body(call, "CreateFileRequest", Kind.API_KEY).get("file", {})
    name = _name(described, state)
    upload_id = state.holdings.new_id(state.seed, 40)
    state.holdings.uploads[upload_id] = Upload(
        account=admitted.account.name,
        name=name,
        display_name=described.get("displayName", ""),
        mime_type=call.headers.get("x-goog-upload-header-content-type")
        or described.get("mimeType")
        or "application/octet-stream",
    )
    url = f"{call.base_url}/upload/{version}/files?upload_id={upload_id}&upload_protocol=resumable"
    headers = (
        ("X-Goog-Upload-Status", "active"),
        ("X-Goog-Upload-URL", url),
        ("X-Goog-Upload-Control-URL", url),
        ("X-Goog-Upload-Chunk-Granularity", str(_GRANULARITY)),
    )
    return body_reply(200, b"", "text/plain; charset=utf-8", (*SCAFFOLDING, *headers))


def _upload_status(status: str, upload: Upload) -> Reply:
    headers = (("X-Goog-Upload-Status", status), ("X-Goog-Upload-Size-Received", str(upload.received)))
    return body_reply(200, b"", "text/plain; charset=utf-8", (*SCAFFOLDING, *headers))


# -- files -------------------------------------------------------------------------------------------------------


def _list_files(context: _Context) -> dict[str, Any]:
    owned = [
        file
        for file in context.state.holdings.files.values()
        if file.account == context.account and not file.gone(context.now)
    ]
    query = context.call.query
    listed, token = catalogue.page(owned, query.get("pageSize"), query.get("pageToken"), default=10, most=100)
    document: dict[str, Any] = {}
    if listed:
        document["files"] = [file.resource(context.now, context.base) for file in listed]
    return {**document, "nextPageToken": token} if token else document


def _get_file(context: _Context) -> dict[str, Any]:
    return context.state.holdings.file(context.name, context.account, context.now).resource(context.now, context.base)


def _delete_file(context: _Context) -> dict[str, Any]:
    context.state.holdings.file(context.name, context.account, context.now)
    del context.state.holdings.files[context.name]
    return {}


def _download_file(context: _Context) -> dict[str, Any]:
    context.state.holdings.file(context.name, context.account, context.now)
    raise errors.invalid_argument("Only generated files can be downloaded; this one was uploaded.")


# -- cached contents ---------------------------------------------------------------------------------------------


def _expiry(message: Mapping[str, Any], now: float) -> float | None:
    """Return when a cache is to end, in seconds since the epoch, if the message says so."""
    if "ttl" in message:
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s", message["ttl"])
        if match is None:
            raise errors.bad_request(
                [
                    errors.invalid_value(
                        "cached_content.ttl", "type.googleapis.com/google.protobuf.Duration", message["ttl"]
                    )
                ]
            )
        return now + float(match[1])
    if "expireTime" in message:
        moment = errors.parse_timestamp(message["expireTime"])
        if moment is None:
            raise errors.bad_request(
                [
                    errors.invalid_value(
                        "cached_content.expire_time",
                        "type.googleapis.com/google.protobuf.Timestamp",
                        message["expireTime"],
                    )
                ]
            )
        return moment
    return None


def _create_cache(context: _Context) -> dict[str, Any]:
    message = context.read("CachedContent")
    model = message.get("model", "")
    if not model.startswith("models/"):
        raise errors.invalid_argument("* CreateCachedContentRequest.cached_content.model: model is not specified\n")
    content: dict[str, Any] = {
        key: message[key] for key in ("contents", "systemInstruction", "tools", "toolConfig") if key in message
    }
    if not content:
        raise errors.invalid_argument("CachedContent has no contents, system instruction or tools.")
    now = context.now
    expires = _expiry(message, now)
    cache = CachedContent(
        name="cachedContents/" + context.state.holdings.new_id(context.state.seed, 20),
        account=context.account,
        model=model,
        display_name=message.get("displayName", ""),
        content=content,
        created=now,
        updated=now,
        expires=now + CACHE_LIFETIME if expires is None else expires,
    )
    context.state.holdings.caches[cache.name] = cache
    return cache.resource()


def _list_caches(context: _Context) -> dict[str, Any]:
    owned = [
        cache
        for cache in context.state.holdings.caches.values()
        if cache.account == context.account and not cache.gone(context.now)
    ]
    query = context.call.query
    listed, token = catalogue.page(owned, query.get("pageSize"), query.get("pageToken"))
    document: dict[str, Any] = {}
    if listed:
        document["cachedContents"] = [cache.resource() for cache in listed]
    return {**document, "nextPageToken": token} if token else document


def _cache(context: _Context) -> CachedContent:
    return context.state.holdings.cache(context.name, context.account, context.now)


def _get_cache(context: _Context) -> dict[str, Any]:
    return _cache(context).resource()


def _patch_cache(context: _Context) -> dict[str, Any]:
    cache, message = _cache(context), context.read("CachedContent")
    expires = _expiry(message, context.now)
    if expires is None:
        raise errors.invalid_argument("Only the expiration of a CachedContent can be updated.")
    cache.expires, cache.updated = expires, context.now
    return cache.resource()


def _delete_cache(context: _Context) -> dict[str, Any]:
    del context.state.holdings.caches[_cache(context).name]
    return {}


# -- batches -----------------------------------------------------------------------------------------------------


def _create_batch(context: _Context) -> dict[str, Any]:
    message = context.read("BatchGenerateContentRequest").get("batch", {})
    config = message.get("inputConfig", {})
    if "fileName" in config:
        raise GoogleError(400, "Batches from files are not emulated: the bytes of files are not kept.")
    requests = config.get("requests", {}).get("requests", ())
    if not requests:
        raise errors.invalid_argument("* BatchGenerateContentRequest.batch.input_config: requests is not specified\n")
    for one in requests:
        modelcalls.check_contents(one.get("request", {}), context.admitted.target)
    batch = Batch(
        name="batches/" + context.state.holdings.new_id(context.state.seed, 32),
        account=context.account,
        model=context.name,
        display_name=message.get("displayName", ""),
        requests=requests,
        created=context.now,
    )
    context.state.holdings.batches[batch.name] = batch
    return batch.resource()


def _batch(context: _Context) -> Batch:
    return context.state.holdings.batch(context.name, context.account)


def _get_batch(context: _Context) -> dict[str, Any]:
    """Each look moves a batch on: pending, running, done."""
    batch = _batch(context)
    if batch.state == "BATCH_STATE_PENDING":
        batch.state = "BATCH_STATE_RUNNING"
    elif batch.state == "BATCH_STATE_RUNNING":
        batch.state = "BATCH_STATE_SUCCEEDED"
        batch.output = [_batched(batch.model, one, context.state.seed) for one in batch.requests]
    return batch.resource()


def _batched(model: str, one: Mapping[str, Any], seed: int) -> dict[str, Any]:
    answered = {"response": answers.unary(answers.compose(model, one["request"], seed=seed))}
    return {**answered, "metadata": one["metadata"]} if "metadata" in one else answered


def _list_batches(context: _Context) -> dict[str, Any]:
    owned = [batch for batch in context.state.holdings.batches.values() if batch.account == context.account]
    query = context.call.query
    listed, token = catalogue.page(owned, query.get("pageSize"), query.get("pageToken"))
    document: dict[str, Any] = {}
    if listed:
        document["operations"] = [batch.resource() for batch in listed]
    return {**document, "nextPageToken": token} if token else document


def _cancel_batch(context: _Context) -> dict[str, Any]:
    _batch(context).state = "BATCH_STATE_CANCELLED"
    return {}


def _delete_batch(context: _Context) -> dict[str, Any]:
    del context.state.holdings.batches[_batch(context).name]
    return {}


_ROUTES: tuple[tuple[re.Pattern[str], str, str, _Answer], ...] = (
    (re.compile(r"files"), "GET", "ListFiles", _list_files),
    (re.compile(r"(files/[^/:]+)"), "GET", "GetFile", _get_file),
    (re.compile(r"(files/[^/:]+)"), "DELETE", "DeleteFile", _delete_file),
    (re.compile(r"(files/[^/:]+):download"), "GET", "DownloadFile", _download_file),
    (re.compile(r"cachedContents"), "POST", "CreateCachedContent", _create_cache),
    (re.compile(r"cachedContents"), "GET", "ListCachedContents", _list_caches),
    (re.compile(r"(cachedContents/[^/:]+)"), "GET", "GetCachedContent", _get_cache),
    (re.compile(r"(cachedContents/[^/:]+)"), "PATCH", "UpdateCachedContent", _patch_cache),
    (re.compile(r"(cachedContents/[^/:]+)"), "DELETE", "DeleteCachedContent", _delete_cache),
    (re.compile(r"models/(.+):batchGenerateContent"), "POST", "BatchGenerateContent", _create_batch),
    (re.compile(r"batches"), "GET", "ListBatches", _list_batches),
    (re.compile(r"(batches/[^/:]+)"), "GET", "GetBatch", _get_batch),
    (re.compile(r"(batches/[^/:]+):cancel"), "POST", "CancelBatch", _cancel_batch),
    (re.compile(r"(batches/[^/:]+)"), "DELETE", "DeleteBatch", _delete_batch),
)

"""
Uploads, in every form that Google takes: files of their own, and files that go into a file search store.

Two resumable protocols (``X-Goog-Upload-…`` headers, and ``uploadType=resumable`` with ``Content-Range``), and two ways
in one request: what is said of the file and its bytes as ``multipart/related``, or the bytes alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from agm.emulator import errors, modelcalls, stores
from agm.emulator.calls import Call, Target
from agm.emulator.errors import GoogleError, Kind
from agm.emulator.holdings import StoredFile, Upload
from agm.emulator.modelcalls import Admitted
from agm.emulator.replies import SCAFFOLDING, Reply, body_reply, json_reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import State

#: What a client should send at once, in bytes.
_GRANULARITY = 8 * 1024 * 1024
_STORE = re.compile(r"(fileSearchStores/[^/:]+):uploadToFileSearchStore")
_RANGE = re.compile(r"bytes (?:\*|(?P<start>[0-9]{1,15})-(?P<end>[0-9]{1,15}))/(?P<size>\*|[0-9]{1,15})")
_PLAIN = "text/plain; charset=utf-8"


def reply(call: Call, state: State, entry: Entry, version: str, rest: str) -> Reply | None:
    """
    Answer a call below ``/upload/``, or None if nothing can be uploaded to its path.

    The URL that a start gives carries its own right: clients send the bytes without a key.

    :raises GoogleError: for a call that fails.
    """
    store = _STORE.fullmatch(rest)
    if rest != "files" and store is None:
        return None
    if call.method not in ("POST", "PUT"):
        raise GoogleError(404, "Requested entity was not found.")
    upload_id = call.query.get("upload_id")
    if upload_id is not None:
        return _part(call, state, entry, version, upload_id)
    rpc = "CreateFile" if store is None else "UploadToFileSearchStore"
    admitted = modelcalls.admit(call, state, entry, Target(Kind.API_KEY, version, "", rpc))
    entry.model = None
    where = "" if store is None else state.holdings.store(store[1], admitted.account.name).name
    protocol = call.headers.get("x-goog-upload-protocol", "").lower()
    kind = protocol or call.query.get("uploadType", "").lower() or call.query.get("upload_protocol", "").lower()
    if kind in ("multipart", "raw", "media"):
        return _whole(call, state, admitted, version, where, multipart=kind == "multipart")
    commands = _commands(call)
    if kind == "resumable" and protocol and "start" in commands:
        url, _ = _started(call, state, admitted, version, rest, where)
        return _status("active", url=url, granularity=True)
    if kind == "resumable" and not protocol:
        url, upload_id = _started(call, state, admitted, version, rest, where)
        located = url.replace("upload_protocol=", "uploadType=")
        headers = (*SCAFFOLDING, ("X-GUploader-UploadID", upload_id), ("Location", located))
        return body_reply(200, b"", _PLAIN, headers)
    raise errors.invalid_argument("Upload protocol is not supported; use X-Goog-Upload-Protocol: resumable.")


# -- resumable ---------------------------------------------------------------------------------------------------


def _commands(call: Call) -> set[str]:
    return {word.strip() for word in call.headers.get("x-goog-upload-command", "").lower().split(",")}


def _started(call: Call, state: State, admitted: Admitted, version: str, rest: str, store: str) -> tuple[str, str]:
    """Return the URL of a new upload, and its id."""
    described = _described(call, store)
    upload_id = state.holdings.new_id(state.seed, 40)
    state.holdings.uploads[upload_id] = Upload(
        account=admitted.account.name,
        name="" if store else _name(described, state),
        display_name=described.get("displayName", "") or call.headers.get("x-goog-upload-file-name", ""),
        mime_type=call.headers.get("x-goog-upload-header-content-type")
        or call.headers.get("x-upload-content-type")
        or described.get("mimeType")
        or "application/octet-stream",
        store=store,
        described=described,
    )
    return f"{call.base_url}/upload/{version}/{rest}?upload_id={upload_id}&upload_protocol=resumable", upload_id


def _part(call: Call, state: State, entry: Entry, version: str, upload_id: str) -> Reply:
    """Bytes for an upload that was begun, or a question about it."""
    entry.rpc = "UploadFile"
    upload = state.holdings.uploads.get(upload_id)
    if upload is None:
        raise GoogleError(404, "Requested entity was not found.")
    entry.account = upload.account
    if "x-goog-upload-command" not in call.headers:
        return _by_range(call, state, version, upload_id, upload)
    commands = _commands(call)
    if "query" in commands:
        return _status("active", upload)
    if "cancel" in commands:
        del state.holdings.uploads[upload_id]
        return _status("cancelled", upload)
    if "upload" in commands:
        offset = call.headers.get("x-goog-upload-offset", "0")
        if offset != str(upload.received):
            raise errors.invalid_argument(
                f"Upload offset {offset} does not match the {upload.received} bytes received."
            )
        upload.take(call.body)
    if "finalize" not in commands:
        return _status("active", upload)
    del state.holdings.uploads[upload_id]
    document = _stored(call, state, version, upload)
    return json_reply(document, headers=(*SCAFFOLDING, ("X-Goog-Upload-Status", "final")))


def _by_range(call: Call, state: State, version: str, upload_id: str, upload: Upload) -> Reply:
    """Return the older protocol: ``Content-Range`` says which bytes these are, 308 that more are wanted."""
    given = call.headers.get("content-range")
    found = _RANGE.fullmatch(given) if given is not None else None
    if given is not None and found is None:
        raise errors.invalid_argument(f"Invalid Content-Range: {given}")
    if call.method == "DELETE":
        del state.holdings.uploads[upload_id]
        return body_reply(499, b"", _PLAIN)
    if found is None or found["start"] is not None:
        start = 0 if found is None else int(found["start"])
        if start > upload.received:
            raise errors.invalid_argument(f"Upload offset {start} does not match the {upload.received} bytes received.")
        upload.take(call.body[upload.received - start :])
    size = upload.received if found is None else None if found["size"] == "*" else int(found["size"])
    if size == upload.received:
        del state.holdings.uploads[upload_id]
        return json_reply(_stored(call, state, version, upload))
    held = (("Range", f"bytes=0-{upload.received - 1}"),) if upload.received else ()
    return body_reply(308, b"", _PLAIN, (*SCAFFOLDING, *held))


def _status(status: str, upload: Upload | None = None, *, url: str = "", granularity: bool = False) -> Reply:
    headers = [*SCAFFOLDING, ("X-Goog-Upload-Status", status)]
    if url:
        headers += [("X-Goog-Upload-URL", url), ("X-Goog-Upload-Control-URL", url)]
    if granularity:
        headers.append(("X-Goog-Upload-Chunk-Granularity", str(_GRANULARITY)))
    if upload is not None:
        headers.append(("X-Goog-Upload-Size-Received", str(upload.received)))
    return body_reply(200, b"", _PLAIN, headers)


# -- in one request ----------------------------------------------------------------------------------------------


def _whole(call: Call, state: State, admitted: Admitted, version: str, store: str, *, multipart: bool) -> Reply:
    """Return the bytes alone, or behind what they are."""
    described: Mapping[str, Any] = {}
    content, mime_type = call.body, call.headers.get("content-type", "")
    if multipart:
        (_, metadata), (mime_type, content) = _parts(call)
        described = _described(attrs.evolve(call, body=metadata), store)
    upload = Upload(
        account=admitted.account.name,
        name="" if store else _name(described, state),
        display_name=described.get("displayName", ""),
        mime_type=described.get("mimeType") or mime_type or "application/octet-stream",
        store=store,
        described=described,
    )
    upload.take(content)
    return json_reply(_stored(call, state, version, upload), headers=SCAFFOLDING)


def _parts(call: Call) -> list[tuple[str, bytes]]:
    """Return the two parts of a ``multipart/related`` body, each with its type."""
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


# -- what becomes of it ------------------------------------------------------------------------------------------


def _described(call: Call, store: str) -> dict[str, Any]:
    """Return what is said of the file."""
    if store:
        return modelcalls.read_body(call, "UploadToFileSearchStoreRequest", Kind.API_KEY)
    file: dict[str, Any] = modelcalls.read_body(call, "CreateFileRequest", Kind.API_KEY).get("file", {})
    return file


def _name(described: Mapping[str, Any], state: State) -> str:
    """Return the name of a new file: the caller's if it may be one."""
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


def _stored(call: Call, state: State, version: str, upload: Upload) -> dict[str, Any]:
    """Keep what has been uploaded, and tell of it: a file, or the operation that puts it into a store."""
    now = state.clock.now()
    if upload.store:
        return stores.add_uploaded(state, upload)
    stored = StoredFile(
        name=upload.name,
        account=upload.account,
        display_name=upload.display_name,
        mime_type=upload.mime_type,
        size=upload.received,
        sha256=upload.digest.hexdigest(),
        created=now,
        content=upload.content,
    )
    state.holdings.files[stored.name] = stored
    return {"file": stored.resource(now, f"{call.base_url}/{version}")}

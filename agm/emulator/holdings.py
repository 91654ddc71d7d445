"""
What Google keeps for its callers: files, caches, batches, stores, jobs, interactions and more, each of one account.

Only values and their rules: who may see what, until when, and what Google says to everybody else.  The bytes of files
are kept up to :data:`MOST_KEPT`, for the batches that read them; of larger ones only size and hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from agm.emulator import errors, tokens
from agm.emulator.errors import GoogleError, timestamp

#: How long a file is kept, in seconds.
FILE_LIFETIME = 48 * 3600
#: How long a video is being processed, in seconds.
PROCESSING = 2.0
#: How long contents are cached unless the caller says otherwise, in seconds.
CACHE_LIFETIME = 3600
#: Where answers say that files can be downloaded, wherever they come from: SDKs take names out of https URLs only.
DOWNLOADS = "https://generativelanguage.googleapis.com"
#: The bytes of a file are kept if it has no more than these.
MOST_KEPT = 8 * 1024 * 1024

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_FILE_URI = re.compile(r"(?:.*/)?(files/[a-z0-9-]+)")


@attrs.frozen
class StoredFile:
    """A file: whose it is, what it is, and since when."""

    name: str
    account: str
    display_name: str
    mime_type: str
    size: int
    sha256: str
    created: float
    content: bytes | None = None
    generated: bool = False

    def gone(self, now: float) -> bool:
        """Return whether it has expired."""
        return now >= self.created + FILE_LIFETIME

    def active(self, now: float) -> bool:
        """Return whether it may be used yet: a video takes a while."""
        video = self.mime_type.startswith("video/") and not self.generated
        return not video or now >= self.created + PROCESSING

    def resource(self, now: float, base: str) -> dict[str, Any]:
        """``File`` of the Developer API; `base` is the URL of its version."""
        shown = {"name": self.name, "displayName": self.display_name} if self.display_name else {"name": self.name}
        document = {
            **shown,
            "mimeType": self.mime_type,
            "sizeBytes": str(self.size),
            "createTime": timestamp(self.created),
            "updateTime": timestamp(self.created),
            "expirationTime": timestamp(self.created + FILE_LIFETIME),
            # Google sends base64 of the hexadecimal digits, not of the hash.
            "sha256Hash": base64.b64encode(self.sha256.encode()).decode(),
            "uri": f"{base}/{self.name}",
        }
        if self.generated:
            document["downloadUri"] = f"{DOWNLOADS}/v1beta/{self.name}:download?alt=media"
        state = "ACTIVE" if self.active(now) else "PROCESSING"
        return {**document, "state": state, "source": "GENERATED" if self.generated else "UPLOADED"}


@attrs.define
class Upload:
    """
    An upload in flight; `digest` is of the bytes so far, which are kept as long as they are few.

    `store` is the file search store that the file goes into, with what was said of it in `described`; empty for a file
    of its own.
    """

    account: str
    name: str
    display_name: str
    mime_type: str
    received: int = 0
    digest: Any = attrs.field(factory=hashlib.sha256)
    store: str = ""
    described: Mapping[str, Any] = attrs.field(factory=dict)
    _kept: bytearray | None = attrs.field(factory=bytearray)

    def take(self, data: bytes) -> None:
        """Some more bytes."""
        self.digest.update(data)
        self.received += len(data)
        if self._kept is not None:
            self._kept += data
            if len(self._kept) > MOST_KEPT:
                self._kept = None

    @property
    def content(self) -> bytes | None:
        """The bytes, unless they are too many."""
        return None if self._kept is None else bytes(self._kept)


@attrs.define
class CachedContent:
    """Contents that later requests refer to by name."""

    name: str
    account: str
    model: str
    display_name: str
    content: Mapping[str, Any]
    created: float
    updated: float
    expires: float

    def gone(self, now: float) -> bool:
        """Return whether it has expired."""
        return now >= self.expires

    def resource(self) -> dict[str, Any]:
        """``CachedContent`` of the Developer API, which never shows the contents."""
        return {
            "name": self.name,
            "model": self.model,
            "createTime": timestamp(self.created),
            "updateTime": timestamp(self.updated),
            "expireTime": timestamp(self.expires),
            "displayName": self.display_name,
            "usageMetadata": {"totalTokenCount": tokens.of_request(self.content).total()},
        }

    def vertex_resource(self) -> dict[str, Any]:
        """``CachedContent`` of Vertex AI, which counts text by its characters as well."""
        counted = tokens.of_request(self.content)
        usage: dict[str, Any] = {"totalTokenCount": counted.total()}
        characters = tokens.billable_characters(self.content.get("contents", ()))
        if characters:
            usage["textCount"] = characters
        named = {"displayName": self.display_name} if self.display_name else {}
        return {
            "name": self.name,
            "model": self.model,
            "createTime": timestamp(self.created),
            "updateTime": timestamp(self.updated),
            "expireTime": timestamp(self.expires),
            **named,
            "usageMetadata": usage,
        }


_BATCHES = "type.googleapis.com/google.ai.generativelanguage.v1main."


@attrs.define
class Batch:
    """
    Requests that are answered later: pending, running when first asked about, then done (or cancelled).

    `embeds` says that vectors are asked for; `file` is where the requests were read from, and then `responses` the file
    that has the answers.
    """

    name: str
    account: str
    model: str
    display_name: str
    requests: Sequence[Mapping[str, Any]]
    created: float
    embeds: bool = False
    file: str = ""
    state: str = "BATCH_STATE_PENDING"
    output: Sequence[Mapping[str, Any]] = ()
    responses: str = ""

    def _responses(self) -> dict[str, Any]:
        if self.responses:
            return {"responsesFile": self.responses}
        inlined = "inlinedEmbedContentResponses" if self.embeds else "inlinedResponses"
        return {inlined: {"inlinedResponses": [dict(one) for one in self.output]}}

    def resource(self) -> dict[str, Any]:
        """Return the long-running operation that a batch is."""
        kind = "EmbedContentBatch" if self.embeds else "GenerateContentBatch"
        count, done = str(len(self.requests)), self.state == "BATCH_STATE_SUCCEEDED"
        metadata: dict[str, Any] = {
            "@type": f"{_BATCHES}{kind}",
            "model": f"models/{self.model}",
            "displayName": self.display_name,
            **({"inputConfig": {"fileName": self.file}} if self.file else {}),
            "createTime": timestamp(self.created),
            "updateTime": timestamp(self.created),
            "batchStats": {"requestCount": count, "successfulRequestCount" if done else "pendingRequestCount": count},
            "state": self.state,
            "name": self.name,
        }
        document: dict[str, Any] = {"name": self.name, "metadata": metadata}
        if done:
            responses = self._responses()
            metadata |= {"endTime": timestamp(self.created), "output": responses}
            document |= {"done": True, "response": {"@type": f"{_BATCHES}{kind}Output", **responses}}
        elif self.state == "BATCH_STATE_CANCELLED":
            document |= {"done": True, "error": {"code": 1, "message": "The operation was cancelled."}}
        return document


@attrs.define
class Operation:
    """
    Work that takes a while: done when it is looked at for the `looks`-th time.

    `response` is what it comes to, `metadata` what is shown all along; `then` is done at its end.
    """

    name: str
    account: str
    response: Mapping[str, Any]
    metadata: Mapping[str, Any] = attrs.field(factory=dict)
    looks: int = 1
    error: Mapping[str, Any] | None = None
    then: Callable[[], object] = attrs.field(default=lambda: None)

    def resource(self) -> dict[str, Any]:
        """``google.longrunning.Operation``."""
        document: dict[str, Any] = {"name": self.name}
        if self.metadata:
            document["metadata"] = dict(self.metadata)
        if self.looks > 0:
            return document
        if self.error is not None:
            return {**document, "done": True, "error": dict(self.error)}
        return {**document, "done": True, "response": dict(self.response)}

    def look(self) -> dict[str, Any]:
        """Return the same, a step further."""
        if self.looks > 0:
            self.looks -= 1
            if not self.looks and self.error is None:
                self.then()
        return self.resource()


@attrs.define
class Document:
    """What was put into a file search store."""

    name: str
    display_name: str
    mime_type: str
    size: int
    created: float
    metadata: Sequence[Mapping[str, Any]] = ()
    active: bool = False

    def resource(self) -> dict[str, Any]:
        """``Document`` of the Developer API."""
        return {
            "name": self.name,
            "displayName": self.display_name,
            **({"customMetadata": [dict(one) for one in self.metadata]} if self.metadata else {}),
            "createTime": timestamp(self.created),
            "updateTime": timestamp(self.created),
            "state": "STATE_ACTIVE" if self.active else "STATE_PENDING",
            "sizeBytes": str(self.size),
            "mimeType": self.mime_type,
        }


@attrs.define
class Store:
    """A file search store, and its documents by their names."""

    name: str
    account: str
    display_name: str
    created: float
    embedding_model: str
    documents: dict[str, Document] = attrs.field(factory=dict)

    def resource(self) -> dict[str, Any]:
        """``FileSearchStore`` of the Developer API, which leaves out counts of nothing."""
        active = sum(one.active for one in self.documents.values())
        counts = {
            "activeDocumentsCount": active,
            "pendingDocumentsCount": len(self.documents) - active,
            "sizeBytes": sum(one.size for one in self.documents.values()),
        }
        return {
            "name": self.name,
            **({"displayName": self.display_name} if self.display_name else {}),
            "createTime": timestamp(self.created),
            "updateTime": timestamp(self.created),
            **{name: str(count) for name, count in counts.items() if count},
            "embeddingModel": self.embedding_model,
        }


@attrs.define
class Staged:
    """
    A resource that is kept as it was described, but for its `state`: a tuned model, a job of Vertex AI.

    `states` are those that it goes through, one each time it is looked at.
    """

    name: str
    account: str
    described: dict[str, Any]
    states: Sequence[str]
    at: int = 0

    @property
    def state(self) -> str:
        """The state that it is in."""
        return self.states[self.at]

    def look(self) -> None:
        """Go a state further, if there is another."""
        self.at = min(self.at + 1, len(self.states) - 1)

    def end(self, state: str) -> None:
        """Stay in a state for good."""
        self.states, self.at = (state,), 0

    def resource(self) -> dict[str, Any]:
        """Return the resource."""
        return {"name": self.name, **self.described, "state": self.state}


@attrs.define
class Interaction:
    """
    An interaction: what it says and how it ends is settled when it is made, `status` is what it shows.

    `named` is its model or agent, `given` what else of the request is shown again; `turns` are the whole conversation.
    """

    name: str
    account: str
    named: Mapping[str, str]
    given: Mapping[str, Any]
    steps: Sequence[Mapping[str, Any]]
    usage: Mapping[str, Any]
    ends: str
    turns: Sequence[dict[str, Any]]
    environment: str
    created: float
    updated: float
    status: str = "in_progress"
    looked: bool = False
    tokens: list[str] = attrs.Factory(list)


@attrs.define
class Kept:
    """
    Something of a collection beside interactions: an agent, a webhook, an environment and so on.

    `document` is what is shown of it; `below` is what belongs to it: a trigger's executions, an environment's files.
    """

    name: str
    account: str
    document: dict[str, Any]
    below: dict[str, Any] = attrs.Factory(dict)


@attrs.define
class EnvironmentUpload:
    """A file on its way into an environment, which takes effect once it is `content` as a whole."""

    environment: Kept
    path: str
    mime_type: str
    content: bytes = b""


@attrs.define
class LiveToken:
    """An ephemeral token: whose it is, until when, for how many sessions (0: any), and the setup that it holds to."""

    account: str
    expires: float
    new_sessions_until: float
    uses: int
    setup: Mapping[str, Any]
    used: int = 0

    def usable(self, now: float) -> bool:
        """Return whether a session may begin with it."""
        return now < min(self.expires, self.new_sessions_until) and (not self.uses or self.used < self.uses)


@attrs.frozen
class SavedSession:
    """What a handle leads back to: whose session, with which model, and what has been said."""

    account: str
    model: str
    contents: Sequence[Mapping[str, Any]]


class Holdings:
    """Everything that is kept, by name."""

    def __init__(self) -> None:
        self.files: dict[str, StoredFile] = {}
        self.uploads: dict[str, Upload] = {}
        self.caches: dict[str, CachedContent] = {}
        self.batches: dict[str, Batch] = {}
        self.stores: dict[str, Store] = {}
        self.operations: dict[str, Operation] = {}
        self.staged: dict[str, Staged] = {}
        self.interactions: dict[str, Interaction] = {}
        self.kept: dict[str, Kept] = {}  # by collection and id
        self.environment_uploads: dict[str, EnvironmentUpload] = {}
        self.tokens: dict[str, LiveToken] = {}
        self.sessions: dict[str, SavedSession] = {}
        self._named = 0

    def clear(self) -> None:
        """Forget everything."""
        for forgotten in (
            self.files,
            self.uploads,
            self.caches,
            self.batches,
            self.stores,
            self.operations,
            self.staged,
            self.interactions,
            self.kept,
            self.environment_uploads,
            self.tokens,
            self.sessions,
        ):
            forgotten.clear()
        self._named = 0

    def new_id(self, seed: int, length: int = 12) -> str:
        """Return an id that was not given out yet: lower-case letters and digits."""
        self._named += 1
        digest = hashlib.sha256(f"{seed} {self._named}".encode()).digest()
        return "".join(_ALPHABET[digest[index % 32] % len(_ALPHABET)] for index in range(length))

    def new_number(self, seed: int) -> str:
        """Return a numeric id that was not given out yet, as Vertex AI makes them."""
        self._named += 1
        digest = hashlib.sha256(f"{seed} {self._named}".encode()).digest()
        return str(10**18 + int.from_bytes(digest[:8], "big") % (9 * 10**18))

    def keep_file(
        self, seed: int, account: str, content: bytes, mime_type: str, now: float, *, prefix: str = ""
    ) -> StoredFile:
        """Return a file that was made here, which can be downloaded."""
        file = StoredFile(
            name=f"files/{prefix}{self.new_id(seed)}",
            account=account,
            display_name="",
            mime_type=mime_type,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            created=now,
            content=content,
            generated=True,
        )
        self.files[file.name] = file
        return file

    def file(self, name: str, account: str, now: float) -> StoredFile:
        """
        Return a file of an account.

        :raises GoogleError: 403, the same for what is foreign and for what does not exist.
        """
        stored = self.files.get(name)
        if stored is None or stored.account != account or stored.gone(now):
            raise errors.permission_denied(
                f"You do not have permission to access the File {name.removeprefix('files/')} or it may not exist."
            )
        return stored

    def cache(self, name: str, account: str, now: float) -> CachedContent:
        """
        Cached content of an account.

        :raises GoogleError: 403, the same for what is foreign and for what does not exist.
        """
        stored = self.caches.get(name)
        if stored is None or stored.account != account or stored.gone(now):
            raise errors.permission_denied("CachedContent not found (or permission denied)")
        return stored

    def batch(self, name: str, account: str) -> Batch:
        """
        Return a batch of an account.

        :raises GoogleError: 404.
        """
        stored = self.batches.get(name)
        if stored is None or stored.account != account:
            raise GoogleError(404, "Requested entity was not found.")
        return stored

    def store(self, name: str, account: str) -> Store:
        """
        Return a file search store of an account.

        :raises GoogleError: 403, the same for what is foreign and for what does not exist.
        """
        stored = self.stores.get(name)
        if stored is None or stored.account != account:
            raise errors.permission_denied(
                "You do not have permission to access the FileSearchStore "
                f"{name.removeprefix('fileSearchStores/')} or it may not exist."
            )
        return stored

    def document(self, name: str, account: str) -> tuple[Store, Document]:
        """
        Return a document, with its store.

        :raises GoogleError: 403 for the store, 404 for the document.
        """
        store = self.store(name.partition("/documents/")[0], account)
        if name not in store.documents:
            raise GoogleError(404, "Requested entity was not found.")
        return store, store.documents[name]

    def operation(self, name: str, account: str) -> Operation:
        """
        Return a long-running operation of an account.

        :raises GoogleError: 404.
        """
        stored = self.operations.get(name)
        if stored is None or stored.account != account:
            raise GoogleError(404, "Requested entity was not found.")
        return stored

    def one_staged(self, name: str, account: str) -> Staged:
        """
        Return a tuned model or a job of an account.

        :raises GoogleError: 404.
        """
        stored = self.staged.get(name)
        if stored is None or stored.account != account:
            raise GoogleError(404, "Requested entity was not found.")
        return stored

    def interaction(self, name: str, account: str) -> Interaction:
        """
        Return an interaction of an account.

        :raises GoogleError: 404, the same for what is foreign and for what does not exist.
        """
        stored = self.interactions.get(name)
        if stored is None or stored.account != account:
            raise GoogleError(404, "Interaction not found.")
        return stored

    def referenced(self, request: Mapping[str, Any], model: str, account: str, now: float) -> Mapping[str, Any] | None:
        """
        Check what a generation request refers to.

        :return: the content that its ``cachedContent`` stands for.
        :raises GoogleError: for a file or a cache that the account does not have or may not use so.
        """
        for tool in request.get("tools", ()):
            for store in tool.get("fileSearch", {}).get("fileSearchStoreNames", ()):
                self.store(store, account)
        for name in _files(request):
            if not self.file(name, account, now).active(now):
                raise GoogleError(
                    400,
                    f"The File {name.removeprefix('files/')} is not in an ACTIVE state and usage is not allowed.",
                    rpc="FAILED_PRECONDITION",
                )
        if not request.get("cachedContent"):
            return None
        cache = self.cache(request["cachedContent"], account, now)
        if cache.model != f"models/{model}":
            raise errors.invalid_argument(
                f"Model used by GenerateContent request (models/{model}) and CachedContent ({cache.model}) has to be "
                "the same."
            )
        if request.keys() & {"systemInstruction", "tools", "toolConfig"}:
            raise errors.invalid_argument(
                "CachedContent can not be used with GenerateContent request setting system_instruction, tools or "
                "tool_config.\n\nProposed fix: move those values to CachedContent from GenerateContent request."
            )
        return cache.content

    def vertex_cache(self, name: str, account: str, now: float) -> CachedContent:
        """
        Cached content of a project's; `name` may have the project's id or its number.

        :raises GoogleError: 404.
        """
        stored = self.caches.get(name)
        if stored is None or stored.account != account or stored.gone(now):
            raise GoogleError(404, f"Not found: cached content metadata for {name.rpartition('/')[2]}.")
        return stored

    def referenced_by_vertex(
        self, request: Mapping[str, Any], model: str, account: str, now: float
    ) -> Mapping[str, Any] | None:
        """
        As :meth:`referenced`, in the words of Vertex AI.

        :return: the content that its ``cachedContent`` stands for.
        :raises GoogleError: if there is none, or it is another model's.
        """
        if not request.get("cachedContent"):
            return None
        cache = self.vertex_cache(by_number(request["cachedContent"]), account, now)
        if cache.model.rpartition("/")[2] != model:
            raise errors.invalid_argument(
                f"The model in the request ({model}) does not match the model of the CachedContent ({cache.model})."
            )
        if request.keys() & {"systemInstruction", "tools", "toolConfig"}:
            raise errors.invalid_argument(
                "Tool config, tools and system instruction should not be set in the request when using cached content."
            )
        return cache.content


def project_number(project: str) -> str:
    """Return the number of a project, which is what names in answers of Vertex AI hold; a number stands for itself."""
    if project.isdigit():
        return project
    return str(10**11 + int.from_bytes(hashlib.sha256(project.encode()).digest()[:5], "big") % (9 * 10**11))


def by_number(name: str) -> str:
    """Return a name of Vertex AI's with its project's number."""
    return re.sub(r"(?<=^projects/)[^/]+", lambda project: project_number(project[0]), name)


def _files(request: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of uploaded files that a request refers to; other addresses are not ours to check."""
    for content in request.get("contents", ()):
        for part in content.get("parts", ()):
            match = _FILE_URI.fullmatch(part.get("fileData", {}).get("fileUri", ""))
            if match:
                yield match[1]

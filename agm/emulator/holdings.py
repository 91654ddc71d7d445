"""
What the Developer API keeps for its callers: files, cached contents and batches, each owned by an account.

Only values and their rules: who may see what, until when, and what Google says to everybody else.  The bytes of files
are not kept, only their size and hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from agm.emulator import errors, tokens
from agm.emulator.errors import GoogleError, timestamp

#: How long a file is kept, in seconds.
FILE_LIFETIME = 48 * 3600
#: How long a video is being processed, in seconds.
PROCESSING = 2.0
#: How long contents are cached unless the caller says otherwise, in seconds.
CACHE_LIFETIME = 3600

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

    def gone(self, now: float) -> bool:
        """Return whether it has expired."""
        return now >= self.created + FILE_LIFETIME

    def active(self, now: float) -> bool:
        """Return whether it may be used yet: a video takes a while."""
        return not self.mime_type.startswith("video/") or now >= self.created + PROCESSING

    def resource(self, now: float, base: str) -> dict[str, Any]:
        """``File`` of the Developer API; `base` is the URL of its version."""
        shown = {"name": self.name, "displayName": self.display_name} if self.display_name else {"name": self.name}
        return {
            **shown,
            "mimeType": self.mime_type,
            "sizeBytes": str(self.size),
            "createTime": timestamp(self.created),
            "updateTime": timestamp(self.created),
            "expirationTime": timestamp(self.created + FILE_LIFETIME),
            # Google sends base64 of the hexadecimal digits, not of the hash.
            "sha256Hash": base64.b64encode(self.sha256.encode()).decode(),
            "uri": f"{base}/{self.name}",
            "state": "ACTIVE" if self.active(now) else "PROCESSING",
            "source": "UPLOADED",
        }


@attrs.define
class Upload:
    """A resumable upload under way; `digest` is of the bytes so far."""

    account: str
    name: str
    display_name: str
    mime_type: str
    received: int = 0
    digest: Any = attrs.field(factory=hashlib.sha256)


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


@attrs.define
class Batch:
    """Requests that are answered later: pending, running when first asked about, then done (or cancelled)."""

    name: str
    account: str
    model: str
    display_name: str
    requests: Sequence[Mapping[str, Any]]
    created: float
    state: str = "BATCH_STATE_PENDING"
    output: Sequence[Mapping[str, Any]] = ()

    def resource(self) -> dict[str, Any]:
        """The long-running operation that a batch is."""
        count, done = str(len(self.requests)), self.state == "BATCH_STATE_SUCCEEDED"
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "model": f"models/{self.model}",
            "displayName": self.display_name,
            "createTime": timestamp(self.created),
            "updateTime": timestamp(self.created),
            "batchStats": {"requestCount": count, "successfulRequestCount" if done else "pendingRequestCount": count},
            "state": self.state,
            "name": self.name,
        }
        document: dict[str, Any] = {"name": self.name, "metadata": metadata}
        if done:
            responses = {"inlinedResponses": {"inlinedResponses": [dict(one) for one in self.output]}}
            metadata |= {"endTime": timestamp(self.created), "output": responses}
            document |= {
                "done": True,
                "response": {
                    "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatchOutput",
                    **responses,
                },
            }
        elif self.state == "BATCH_STATE_CANCELLED":
            document |= {"done": True, "error": {"code": 1, "message": "The operation was cancelled."}}
        return document


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
        """Whether a session may begin with it."""
        return now < min(self.expires, self.new_sessions_until) and (not self.uses or self.used < self.uses)


@attrs.frozen
class SavedSession:
    """What a handle leads back to: whose session, with which model, and what has been said."""

    account: str
    model: str
    contents: Sequence[Mapping[str, Any]]


Owned = TypeVar("Owned", StoredFile, CachedContent, Batch)


class Holdings:
    """Everything that is kept, by name."""

    def __init__(self) -> None:
        self.files: dict[str, StoredFile] = {}
        self.uploads: dict[str, Upload] = {}
        self.caches: dict[str, CachedContent] = {}
        self.batches: dict[str, Batch] = {}
        self.tokens: dict[str, LiveToken] = {}
        self.sessions: dict[str, SavedSession] = {}
        self._named = 0

    def clear(self) -> None:
        """Forget everything."""
        for forgotten in (self.files, self.uploads, self.caches, self.batches, self.tokens, self.sessions):
            forgotten.clear()
        self._named = 0

    def new_id(self, seed: int, length: int = 12) -> str:
        """An id that was not given out yet: lower-case letters and digits."""
        self._named += 1
        digest = hashlib.sha256(f"{seed} {self._named}".encode()).digest()
        return "".join(_ALPHABET[digest[index % 32] % len(_ALPHABET)] for index in range(length))

    def file(self, name: str, account: str, now: float) -> StoredFile:
        """
        A file of an account.

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
        A batch of an account.

        :raises GoogleError: 404.
        """
        stored = self.batches.get(name)
        if stored is None or stored.account != account:
            raise GoogleError(404, "Requested entity was not found.")
        return stored

    def referenced(self, request: Mapping[str, Any], model: str, account: str, now: float) -> Mapping[str, Any] | None:
        """
        Check what a generation request refers to.

        :return: the content that its ``cachedContent`` stands for.
        :raises GoogleError: for a file or a cache that the account does not have or may not use so.
        """
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


def _files(request: Mapping[str, Any]) -> Iterator[str]:
    """The names of uploaded files that a request refers to; other addresses are not ours to check."""
    for content in request.get("contents", ()):
        for part in content.get("parts", ()):
            match = _FILE_URI.fullmatch(part.get("fileData", {}).get("fileUri", ""))
            if match:
                yield match[1]

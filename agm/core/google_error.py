"""
Google's error documents, read: google.rpc.Status with the details that routing and people can use.

What an upstream writes may be anything, so each part is read for itself, and a part that is not what it should be says
nothing.  Parts that nobody asked for are skipped unread, so that the size and depth of a document cost little.  What an
error means is not said here; :mod:`agm.core.classify` says it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec
from msgspec import UNSET, Raw, UnsetType

from agm.core.durations import parse_duration
from agm.core.errors import NOT_JSON

__all__ = ["ErrorInfo", "GoogleError", "QuotaViolation", "read_error"]

#: Details beyond this many are not looked at.
MAX_DETAILS = 32
#: A link is shown up to this many characters, and a longer one not at all: half a link leads nowhere.
MAX_LINK = 1000
_RETRY_IN = re.compile(r"retry in ((?:\d+(?:\.\d+)?(?:ms|h|m|s)){1,4})", re.IGNORECASE)
#: Where an ErrorInfo's metadata has the page on which a person can mend things.
_LINKS = ("validation_link", "activationUrl", "validation_url", "billing_link")


@attrs.frozen
class ErrorInfo:
    """``google.rpc.ErrorInfo``: a `reason` in capitals, the `domain` that gave it, and its `metadata`."""

    reason: str
    domain: str = ""
    metadata: Mapping[str, str] = attrs.Factory(dict)

    @property
    def service(self) -> str:
        """The API that it is about, ``generativelanguage.googleapis.com`` for one; "" where it is not told."""
        return self.metadata.get("service", "").removeprefix("//")


@attrs.frozen
class QuotaViolation:
    """A violation of ``google.rpc.QuotaFailure``: `metric` begins with the API that the quota is of."""

    quota_id: str
    metric: str


@attrs.frozen
class GoogleError:
    """
    An error in Google's words.

    `status` is the name of its code (``PERMISSION_DENIED``), `retry_delay` the seconds that it states, `links` are
    pages that it leads to, the one that mends it first.
    """

    status: str = ""
    message: str = ""
    infos: tuple[ErrorInfo, ...] = ()
    quotas: tuple[QuotaViolation, ...] = ()
    retry_delay: float | None = None
    links: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons of its ErrorInfos."""
        return tuple(info.reason for info in self.infos)


class _Document(msgspec.Struct):
    error: Raw | UnsetType = UNSET


class _Status(msgspec.Struct):
    code: Raw | UnsetType = UNSET
    status: Raw | UnsetType = UNSET
    message: Raw | UnsetType = UNSET
    details: Raw | UnsetType = UNSET


class _Detail(msgspec.Struct, rename={"kind": "@type", "retry_delay": "retryDelay"}):
    kind: Raw | UnsetType = UNSET
    reason: Raw | UnsetType = UNSET
    domain: Raw | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET
    retry_delay: Raw | UnsetType = UNSET
    violations: Raw | UnsetType = UNSET
    links: Raw | UnsetType = UNSET


class _Violation(msgspec.Struct, rename={"quota_id": "quotaId", "metric": "quotaMetric"}):
    quota_id: Raw | UnsetType = UNSET
    metric: Raw | UnsetType = UNSET


class _Link(msgspec.Struct):
    url: Raw | UnsetType = UNSET


def read_error(body: bytes) -> GoogleError | None:
    """
    Read an error document, by itself or as the first of an array.

    :returns: what it says; None if it is no ``{"error": {…}}``, so that it is not in Google's words.
    """
    document = _read(body, _Document | list[Raw])
    if isinstance(document, list):
        document = _read(document[0], _Document) if document else None
    status = _read(document.error, _Status) if document is not None else None
    if status is None:
        return None
    infos: list[ErrorInfo] = []
    quotas: list[QuotaViolation] = []
    links: list[str] = []
    delay: float | None = None
    for raw in (_read(status.details, list[Raw]) or [])[:MAX_DETAILS]:
        detail = _read(raw, _Detail)
        match _text(detail.kind).rpartition(".")[2] if detail is not None else "":
            case "ErrorInfo" if detail is not None:
                if reason := _text(detail.reason):
                    infos.append(ErrorInfo(reason, _text(detail.domain), _texts(detail.metadata)))
            case "RetryInfo" if detail is not None:
                stated = parse_duration(_read(detail.retry_delay, str | float | dict[str, float | str]))
                delay = delay if stated is None else stated
            case "QuotaFailure" if detail is not None:
                found = [_read(each, _Violation) for each in (_read(detail.violations, list[Raw]) or [])[:MAX_DETAILS]]
                quotas += [QuotaViolation(_text(each.quota_id), _text(each.metric)) for each in found if each]
            case "Help" if detail is not None:
                pages = [_read(each, _Link) for each in (_read(detail.links, list[Raw]) or [])[:MAX_DETAILS]]
                links += [_text(page.url) for page in pages if page]
    message = _text(status.message)
    if delay is None and (written := _RETRY_IN.search(message)):
        delay = parse_duration(written[1])
    links = [*(info.metadata.get(name, "") for info in infos for name in _LINKS), *links]
    return GoogleError(
        # the Interactions API has a word for a code and no status
        _text(status.status) or _text(status.code).upper(),
        message,
        tuple(infos),
        tuple(quotas),
        delay,
        tuple(dict.fromkeys(link for link in links if link.startswith("https://") and len(link) <= MAX_LINK)),
    )


def _read(raw: bytes | Raw | UnsetType, kind: Any) -> Any:
    """Read a part as what it should be; None if it is something else."""
    if raw is UNSET:
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except NOT_JSON:
        return None


def _text(raw: Raw | UnsetType) -> str:
    """Read a part that should be a string; whatever else stands there says nothing."""
    return _read(raw, str) or ""


def _texts(raw: Raw | UnsetType) -> dict[str, str]:
    """Read the strings of an object."""
    return {name: _text(value) for name, value in (_read(raw, dict[str, Raw]) or {}).items() if _text(value)}

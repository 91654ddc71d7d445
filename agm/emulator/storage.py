"""
The Developer API's files and cached contents: listed, looked at, changed and deleted.

Ownership and lifetimes are in :mod:`agm.emulator.holdings`, uploads in :mod:`agm.emulator.uploads`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agm.emulator import errors
from agm.emulator.credentials import bearer_token
from agm.emulator.errors import GoogleError
from agm.emulator.holdings import CACHE_LIFETIME, CachedContent
from agm.emulator.replies import Reply, body_reply
from agm.emulator.stored import Context, listed, owned, route

# -- files -------------------------------------------------------------------------------------------------------


def _list_files(context: Context) -> dict[str, Any]:
    files = [file for file in owned(context, context.holdings.files.values()) if not file.gone(context.now)]
    return listed(context, "files", [file.resource(context.now, context.base) for file in files], default=10, most=100)


def _get_file(context: Context) -> dict[str, Any]:
    return context.holdings.file(context.name, context.account, context.now).resource(context.now, context.base)


def _delete_file(context: Context) -> dict[str, Any]:
    context.holdings.file(context.name, context.account, context.now)
    del context.holdings.files[context.name]
    return {}


def _download_file(context: Context) -> Reply:
    file = context.holdings.file(context.name, context.account, context.now)
    if not file.generated or file.content is None:
        raise errors.invalid_argument("Only generated files can be downloaded; this one was uploaded.")
    return body_reply(200, file.content, file.mime_type)


def _register_files(context: Context) -> dict[str, Any]:
    """Name objects of Cloud Storage, which only a person's own token may do."""
    if bearer_token(context.call) is None:
        raise GoogleError(
            401,
            "API keys are not supported by this API. Expected OAuth2 access token or other authentication credentials "
            "that assert a principal. See https://cloud.google.com/docs/authentication",
        )
    uris = context.read("RegisterFilesRequest").get("uris") or ()
    if not uris or not all(uri.startswith("gs://") for uri in uris):
        raise errors.invalid_argument("* RegisterFilesRequest.uris: only gs:// URIs can be registered\n")
    return {"files": [{"name": f"files/{context.new_id()}", "uri": uri, "source": "REGISTERED"} for uri in uris]}


# -- cached contents ---------------------------------------------------------------------------------------------


def expiry(message: Mapping[str, Any], now: float) -> float | None:
    """
    When a cache is to end, in seconds since the epoch, if the message says so.

    :raises GoogleError: 400 if that cannot be read.
    """
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


def _create_cache(context: Context) -> dict[str, Any]:
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
    expires = expiry(message, now)
    cache = CachedContent(
        name="cachedContents/" + context.new_id(20),
        account=context.account,
        model=model,
        display_name=message.get("displayName", ""),
        content=content,
        created=now,
        updated=now,
        expires=now + CACHE_LIFETIME if expires is None else expires,
    )
    context.holdings.caches[cache.name] = cache
    return cache.resource()


def _list_caches(context: Context) -> dict[str, Any]:
    caches = [cache for cache in owned(context, context.holdings.caches.values()) if not cache.gone(context.now)]
    return listed(context, "cachedContents", [cache.resource() for cache in caches])


def _cache(context: Context) -> CachedContent:
    return context.holdings.cache(context.name, context.account, context.now)


def _get_cache(context: Context) -> dict[str, Any]:
    return _cache(context).resource()


def _patch_cache(context: Context) -> dict[str, Any]:
    cache, message = _cache(context), context.read("CachedContent")
    expires = expiry(message, context.now)
    if expires is None:
        raise errors.invalid_argument("Only the expiration of a CachedContent can be updated.")
    cache.expires, cache.updated = expires, context.now
    return cache.resource()


def _delete_cache(context: Context) -> dict[str, Any]:
    del context.holdings.caches[_cache(context).name]
    return {}


ROUTES = (
    route(r"files", "GET", "ListFiles", _list_files),
    route(r"files:register", "POST", "RegisterFiles", _register_files),
    route(r"(files/[^/:]+)", "GET", "GetFile", _get_file),
    route(r"(files/[^/:]+)", "DELETE", "DeleteFile", _delete_file),
    route(r"(files/[^/:]+):download", "GET", "DownloadFile", _download_file),
    route(r"cachedContents", "POST", "CreateCachedContent", _create_cache),
    route(r"cachedContents", "GET", "ListCachedContents", _list_caches),
    route(r"(cachedContents/[^/:]+)", "GET", "GetCachedContent", _get_cache),
    route(r"(cachedContents/[^/:]+)", "PATCH", "UpdateCachedContent", _patch_cache),
    route(r"(cachedContents/[^/:]+)", "DELETE", "DeleteCachedContent", _delete_cache),
)

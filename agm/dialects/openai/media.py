"""Images, sounds and files of a request as Gemini's parts: bytes in base64, or where they can be fetched."""

from __future__ import annotations

import mimetypes
import re
from typing import Any
from urllib.parse import urlsplit

from agm.dialects.base import BadParameter

__all__ = ["by_data", "by_url", "file_of", "sound"]

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+=\"-]+)*);base64,", re.IGNORECASE)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-="
_FILES = "https://generativelanguage.googleapis.com/v1beta/"
_SOUNDS = {"wav": "audio/wav", "mp3": "audio/mp3", "flac": "audio/flac", "opus": "audio/ogg", "ogg": "audio/ogg"}
_VIDEOS = frozenset({"youtube.com", "www.youtube.com", "m.youtube.com", "youtu.be"})


def by_data(url: str, place: str, kind: str | None = None) -> dict[str, Any]:
    """
    Return the part of a ``data:`` URL.

    :param kind: what it is where the URL does not say.
    :raises BadParameter: if it is none in base64.
    """
    match = _DATA_URL.match(url)
    kind = (match[1] if match is not None else None) or kind
    if match is None or kind is None:
        raise BadParameter(place, "a data: URL has the form data:image/png;base64,…")
    return {"inlineData": {"mimeType": kind.lower(), "data": _checked(url[match.end() :], place)}}


def _checked(data: str, place: str) -> str:
    """Return base64, once it is known to be some: an upstream's error would name another place."""
    odd = data.encode("ascii").translate(None, _BASE64) if data.isascii() else b"\xff"
    if odd.strip():  # of a large image a pattern would take its time
        raise BadParameter(place, "the data is not base64.")
    return "".join(data.split()) if odd else data


def by_url(url: str, place: str) -> dict[str, Any]:
    """
    Return the part of an image's or a video's URL: its bytes, or ``fileData`` for what Google fetches itself.

    :raises BadParameter: if it can be neither.
    """
    if url[:5].lower() == "data:":
        return by_data(url, place)
    if url.startswith("files/"):
        return {"fileData": {"fileUri": _FILES + url}}
    parts = urlsplit(url)
    if url.startswith(_FILES + "files/"):
        return {"fileData": {"fileUri": url}}
    if parts.scheme not in ("https", "gs") or not parts.netloc:
        raise BadParameter(place, "Google fetches https: and gs: URLs alone; send the bytes as a data: URL.")
    kind = "video/mp4" if parts.hostname in _VIDEOS else mimetypes.guess_type(parts.path)[0]
    if kind is None:
        raise BadParameter(
            place, "what the URL leads to cannot be told by its ending, and Gemini has to know; send a data: URL."
        )
    return {"fileData": {"fileUri": url, "mimeType": kind}}


def sound(given: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the part of an ``input_audio``."""
    kind = _SOUNDS.get(str(given.get("format", "")))
    if kind is None:
        raise BadParameter(f"{place}.format", f"one of {', '.join(_SOUNDS)} is expected.")
    data = given.get("data")
    if not isinstance(data, str):
        raise BadParameter(f"{place}.data", "a string in base64 is expected.")
    return {"inlineData": {"mimeType": kind, "data": _checked(data, f"{place}.data")}}


def file_of(given: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the part of a ``file`` or an ``input_file``: its bytes, its URL, or the id of one of Gemini's files."""
    if isinstance(url := given.get("file_url"), str):
        return by_url(url, f"{place}.file_url")
    if isinstance(name := given.get("file_id"), str):
        if not name.startswith("files/"):
            raise BadParameter(
                f"{place}.file_id", "only files of the Gemini API are there, files/NAME; send file_data in its place."
            )
        return by_url(name, f"{place}.file_id")
    data = given.get("file_data")
    if not isinstance(data, str):
        raise BadParameter(f"{place}.file_data", "is missing.")
    named = mimetypes.guess_type(str(given.get("filename") or ""))[0]
    if data[:5].lower() == "data:":
        return by_data(data, f"{place}.file_data", named)
    return {"inlineData": {"mimeType": named or "application/pdf", "data": _checked(data, f"{place}.file_data")}}

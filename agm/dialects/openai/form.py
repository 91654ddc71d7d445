"""Read a form, ``multipart/form-data``, as OpenAI's clients send files: what each part is called, and its bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs

from agm.api import InvalidRequest
from agm.dialects.base import BadParameter

__all__ = ["Form", "Upload"]

MAX_PARTS = 64
MAX_HEAD = 8 * 1024
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'(?i)[;\s]name="([^"\r\n]{1,100})"')
_FILE = re.compile(rb'(?i)[;\s]filename="([^"\r\n]{0,1000})"')
_TYPE = re.compile(rb"(?im)^content-type:[ \t]*([\w.+-]+/[\w.+-]+)")


@attrs.frozen
class Upload:
    """A file: its name, its type as the client says it, and its bytes."""

    filename: str
    content_type: str
    data: bytes = attrs.field(repr=False)


class Form:
    """
    The parts of a form: `fields` are its texts and `files` its files, each by name; ``image[]`` is ``image``.

    :raises InvalidRequest: if it is none.
    """

    def __init__(self, body: bytes, content_type: str) -> None:
        boundary = _BOUNDARY.search(content_type)
        if not content_type.lower().startswith("multipart/form-data") or boundary is None:
            raise InvalidRequest("This endpoint takes a form: Content-Type: multipart/form-data with a boundary.")
        self.fields: dict[str, str] = {}
        self.files: dict[str, list[Upload]] = {}
        for head, data in _parts(body, b"--" + (boundary[1] or boundary[2]).encode("latin-1")):
            named = _NAME.search(head)
            if named is None:
                raise InvalidRequest("A part of the form has no name.")
            name = named[1].decode("utf-8", "replace").removesuffix("[]")
            file = _FILE.search(head)
            if file is not None:
                kind = _TYPE.search(head)
                kind_ = "application/octet-stream" if kind is None else kind[1].decode("ascii", "replace").lower()
                self.files.setdefault(name, []).append(Upload(file[1].decode("utf-8", "replace"), kind_, data))
            else:
                self.fields[name] = _text(name, data)

    def typed(self, *, numbers: tuple[str, ...] = (), flags: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the fields as JSON would have them. :raises BadParameter: for what is no number."""
        typed: dict[str, Any] = dict(self.fields)
        for name in numbers:
            if name in typed:
                try:
                    value = float(typed[name])
                except ValueError:
                    raise BadParameter(name, "a number is expected.") from None
                typed[name] = int(value) if value.is_integer() else value
        for name in flags:
            if name in typed:
                typed[name] = {"true": True, "false": False}.get(typed[name].lower(), typed[name])
        return typed


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadParameter(name[:80], "is not UTF-8.") from None


def _parts(body: bytes, mark: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give the head and the data of each part."""
    at = 0 if body.startswith(mark) else body.find(b"\r\n" + mark)
    if at < 0:
        raise InvalidRequest("The form has no part.")
    at += len(mark) + (0 if body.startswith(mark) else 2)
    for _ in range(MAX_PARTS):
        if body[at : at + 2] == b"--":
            return
        start = body.find(b"\r\n", at)
        end = body.find(b"\r\n" + mark, at)
        blank = body.find(b"\r\n\r\n", at, at + MAX_HEAD)
        if start < 0 or end < 0 or not 0 <= blank <= end:
            raise InvalidRequest("The form is cut off, or a part's head is too long.")
        yield body[start:blank] + b"\r\n", body[blank + 4 : end]
        at = end + 2 + len(mark)
    raise InvalidRequest(f"The form has more than {MAX_PARTS} parts.")

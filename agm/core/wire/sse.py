"""
Server-sent events as Gemini's upstreams send them: bytes in, the data of whole events out, at every chunk boundary.

The format is the WHATWG's ("Server-sent events", section 9.2.6): lines end with LF, CR or CRLF, a blank line ends an
event, several ``data`` lines are joined by LF, a line that starts with a colon is a comment.  Two things are read
differently here, because upstreams really do them and an answer must not be lost to them:

* an event that lacks its last blank line when the stream ends is still an event;
* a line that starts with ``{`` or ``[`` is not a field with a strange name but the start of a bare JSON document:
  Google ends a failing stream so.  From there on everything is kept for :meth:`EventReader.close`.

No JSON is parsed here and nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

#: An event may carry an image in base64; beyond this it is an attack or a fault.
MAX_EVENT = 256 * 1024 * 1024
#: A bare error document is small.
MAX_BARE = 1024 * 1024


#: As numbers: to look for bytes, Python first makes an error of their not being one.
_LF, _CR = b"\n\r"
_BOM = b"\xef\xbb\xbf"
#: What a line may hold beside its data: the field's name, its space, a byte order mark.
_LINE_EXTRA = len(b"data: " + _BOM)


class EventTooLarge(ValueError):
    """
    An event, or a bare document, is larger than the reader holds.

    `events` is the data of the events that the same chunk had completed before it.
    """

    events: Sequence[bytes] = ()


@attrs.frozen
class StreamEnd:
    """What was left when a stream ended: `data` of a last event without its blank line, and a `bare` document."""

    data: bytes | None
    bare: bytes | None


class EventReader:
    """
    Reads events incrementally.

    :meth:`feed` returns the data of each event completed by a chunk, :meth:`close` what the stream's end completes.
    """

    def __init__(self, *, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        self._rest = bytearray()  # an unfinished line
        self._scanned = 0  # how much of it is known to hold no line end
        self._skip_lf = False  # the last line ended with a CR that may be half of a CRLF
        self._first_line = True
        self._lines: list[bytes] = []  # data lines of the unfinished event
        self._size = 0
        self._bare: bytearray | None = None

    def feed(self, chunk: bytes) -> list[bytes]:
        """
        Take a chunk and return the data of the events it completes, in order.

        :raises EventTooLarge: if an event grows beyond the reader's limit.
        """
        if (
            chunk[:6] == b"data: "
            and chunk[-4:] == b"\r\n\r\n"
            and not (self._rest or self._lines or self._skip_lf or self._bare is not None)  # nothing was left before
        ):
            whole = self._whole_events(chunk)
            if whole is not None:
                return whole
        events: list[bytes] = []
        try:
            self._feed(chunk, events)
        except EventTooLarge as e:
            e.events = events
            raise
        return events

    def _whole_events(self, chunk: bytes) -> list[bytes] | None:
        """
        The events of a chunk that is nothing but whole events of one line each, as Google sends them; None for all
        others, which have to be looked at line by line.
        """
        if len(chunk) > self._max_event:
            return None
        events = chunk[6:-4].split(b"\r\n\r\ndata: ")
        joined = events[0] if len(events) == 1 else b"".join(events)
        if _LF in joined or _CR in joined:
            return None
        self._first_line = False
        return events

    def _feed(self, chunk: bytes, events: list[bytes]) -> None:
        if self._bare is not None:
            self._keep_bare(chunk)
            return
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        data: bytes | bytearray = chunk
        start = scan = 0
        if self._rest:
            self._rest += chunk
            data, scan = self._rest, self._scanned
        lf, cr = data.find(b"\n", scan), data.find(b"\r", scan)
        while lf >= 0 or cr >= 0:
            if cr >= 0 and (lf < 0 or cr < lf):
                end, after = cr, cr + 1
                if lf == after:
                    after += 1
                elif after == len(data):
                    self._skip_lf = True
            else:
                end, after = lf, lf + 1
            if not self._take_line(data[start:end], events):
                self._keep_bare(data[start:])
                start = len(data)
                break
            start = after
            if 0 <= lf < start:  # each byte is looked at once for either, whatever ends the lines
                lf = data.find(b"\n", start)
            if 0 <= cr < start:
                cr = data.find(b"\r", start)
        self._keep_rest(data, start)

    def close(self) -> StreamEnd:
        """
        The stream has ended: what is left of it.

        :raises EventTooLarge: if that grows beyond the reader's limits.
        """
        if self._rest and self._bare is None:
            line = bytes(self._rest)
            self._rest = bytearray()
            if not self._take_line(line, []):
                self._keep_bare(line)
        data = b"\n".join(self._lines) if self._lines else None
        self._lines = []
        return StreamEnd(data, bytes(self._bare) if self._bare is not None else None)

    def _take_line(self, line: bytes | bytearray, events: list[bytes]) -> bool:
        """Handle a whole line; False if it starts a bare document."""
        self._check_line(len(line))
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._lines:
                events.append(self._lines[0] if len(self._lines) == 1 else b"\n".join(self._lines))
                self._lines = []
                self._size = 0
        elif line.startswith(b"data:"):
            self._take_data(bytes(line[6:] if line.startswith(b"data: ") else line[5:]))
        elif line == b"data":
            self._take_data(b"")
        elif line[:1] in (b"{", b"["):
            return False
        return True  # comments, event, id, retry and unknown fields say nothing that a Gemini client needs

    def _take_data(self, value: bytes) -> None:
        self._size += len(value) + bool(self._lines)  # the LF that joins them counts: empty lines are not free
        if self._size > self._max_event:
            raise EventTooLarge(f"an event is larger than {self._max_event} bytes")
        self._lines.append(value)

    def _check_line(self, length: int) -> None:
        if length > self._max_event + _LINE_EXTRA:
            raise EventTooLarge(f"a line is larger than {self._max_event} bytes")

    def _keep_rest(self, data: bytes | bytearray, start: int) -> None:
        if data is self._rest:
            del self._rest[:start]
        elif start < len(data):
            self._rest = bytearray(data[start:])
        self._scanned = len(self._rest)
        self._check_line(self._scanned)

    def _keep_bare(self, data: bytes | bytearray) -> None:
        if self._bare is None:
            self._bare = bytearray()
            data = data.removeprefix(_BOM)
        self._bare += data
        if len(self._bare) > MAX_BARE:
            raise EventTooLarge(f"a bare document in an event stream is larger than {MAX_BARE} bytes")

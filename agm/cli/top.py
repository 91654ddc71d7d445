"""
``agm top``: the running gateway live in the terminal, until ``q`` or Ctrl-C.

It follows ``GET /_agm/events`` in a thread of its own and draws with rich; a gateway that goes away is asked for again
until it is back.  Where standard output is no terminal one frame is printed.  It changes nothing, and leaves the
terminal as it was.
"""

import argparse
import contextlib
import http.client
import json
import os
import queue
import select
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agm.cli.files import Refused
from agm.cli.overview import Overview, sparkline
from agm.cli.running import Running, add_options, find_running, printable
from agm.cli.status import NOBODY, add_worker, another_version, of_worker, text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["add_parser", "events", "merged", "run"]

#: Seconds without a word after which a connection is given up, and until the next one is tried.
SILENCE, AGAIN = 15.0, 2.0
#: Of the requests that ended, so many are kept, as the gateway does.
KEPT = 200


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``top``."""
    what = "watch the running gateway in the terminal; q ends it"
    parser = subparsers.add_parser(
        "top",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog="example:\n  agm top\n  agm top --url http://127.0.0.1:8045",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser, offline=False, as_json=False)
    add_worker(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Watch it; 0, or 1 where no gateway runs or answers."""
    running = find_running(args, NOBODY)
    if running is None:
        return 1
    query = of_worker(args.worker)
    found = running.ask(f"/_agm/status{query}")
    try:
        shown = text(Overview(found, running.address))
    except (KeyError, TypeError, IndexError):
        print(another_version(found), file=sys.stderr)
        return 1
    if not sys.stdout.isatty():
        print(shown)
        return 0
    with contextlib.suppress(KeyboardInterrupt), Follower(running, query) as follower, _keys() as keys:
        _watch(found, follower, keys)
    return 0


# -- What the gateway tells --------------------------------------------------------------------------


def events(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Yield the server-sent events in the lines of a stream, each with its name and its document."""
    name, data = "message", b""
    for line in lines:
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        if field == b"event":
            name = value.strip().decode("utf-8", "replace")
        elif field == b"data":
            data += value.removeprefix(b" ")
        elif not field and data:
            yield name, json.loads(data)
            name, data = "message", b""


def merged(document: Mapping[str, Any], name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Merge an event into the document: ``status`` replaces it, ``change`` has the differences."""
    if name == "status":
        return dict(told)
    known = {**document, **{part: value for part, value in told.items() if part not in ("traffic", "requests")}}
    if "requests" in told:
        new = {each["id"] for each in told["requests"]}
        before = [each for each in document.get("requests", ()) if each["id"] not in new]
        known["requests"] = [*told["requests"], *before][:KEPT]
    if "traffic" in told:
        known["traffic"] = _joined(document.get("traffic", {}), told["traffic"])
    return known


def _joined(before: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Counts by second, the last of which are told anew; ``second`` is the number of the last."""
    passed = max(told["second"] - before.get("second", 0), 0)
    joined: dict[str, Any] = {"second": told["second"]}
    for name, values in told.items():
        if isinstance(values, list):
            kept = [*before.get(name, ()), *([0] * passed)]
            joined[name] = [*kept[: max(len(kept) - len(values), 0)], *values][-300:]
    return joined


class Follower:
    """
    A thread that follows the events of a gateway, and begins again where they break off.

    `told` gives each event as (name, document), and (None, reason) for a connection that is lost; `wake` can be read
    from whenever there is something.
    """

    def __init__(self, running: Running, query: str = "") -> None:
        self._query = query
        self.told: queue.SimpleQueue[tuple[str | None, Any]] = queue.SimpleQueue()
        self.wake, self._waker = os.pipe()
        self.address = running.address
        self._running = running
        self._over = threading.Event()
        self._client: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._follow, name="agm top", daemon=True)

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        client = self._client
        if client is not None and client.sock is not None:
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread where it reads
        self._thread.join(1.0)  # one that is about to connect ends with the process

    def _follow(self) -> None:
        while not self._over.is_set():
            try:
                for name, document in events(self._lines()):
                    self._tell(name, document)
                self._tell(None, "the connection was closed")
            except (OSError, http.client.HTTPException, ValueError, Refused) as failure:
                self._tell(None, printable(str(failure) or type(failure).__name__))
            self._over.wait(AGAIN)

    def _lines(self) -> Iterator[bytes]:
        client, answer = self._running.follow(f"/_agm/events{self._query}")
        self._client = client
        try:
            client.sock.settimeout(SILENCE)
            yield from answer
        finally:
            client.close()

    def _tell(self, name: str | None, document: Any) -> None:
        self.told.put((name, document))
        with contextlib.suppress(OSError):
            os.write(self._waker, b".")


# -- The terminal ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """The descriptor of a terminal whose keys come one by one, unseen; None where there is none."""
    if not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        yield keyboard
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _watch(document: Mapping[str, Any], follower: Follower, keys: int | None) -> None:
    """Draw whatever comes, until a person has seen enough."""
    from rich.console import Console
    from rich.live import Live

    address: str = follower.address
    lost: str | None = None
    with Live(frame(document, address, lost), console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            ready, _, _ = select.select([follower.wake, *([] if keys is None else [keys])], [], [])
            if keys in ready:
                typed = os.read(keys, 64) if keys is not None else b""
                if not typed or {b"q", b"Q", b"\x03", b"\x04"} & {bytes([key]) for key in typed}:
                    return
            if follower.wake in ready:
                os.read(follower.wake, 4096)
                while not follower.told.empty():
                    name, told = follower.told.get()
                    lost = None if name is not None else str(told)
                    document = document if name is None else merged(document, name, told)
            live.update(frame(document, address, lost), refresh=True)


def frame(document: Mapping[str, Any], address: str, lost: str | None) -> "RenderableType":
    """One picture."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    overview = Overview(document, address)
    first, *rest = overview.head
    parts: list[RenderableType] = [_line(first, "bold"), *(_line(line) for line in rest)]
    if lost is not None:
        parts.append(_line(f"connection lost: {lost}; reconnecting", "bold red"))
    traffic = document["traffic"]
    for name in ("requests", "errors"):
        values = traffic.get(name, ())
        style = "red" if name == "errors" else "green"
        line = _line(f"{name:<9}")
        line.append(f"{sparkline(values, 60):>60}", style=style)
        line.append(f" {sum(values[-60:])} a minute")
        parts.append(line)
    for section in overview.sections:
        table = Table(title=section.heading, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in section.columns:
            table.add_column(column.upper(), style=None, header_style="dim", overflow="ellipsis", no_wrap=True)
        for row in section.rows:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        parts += [Text(""), table, *(_line(line, "yellow") for line in section.below)]
    parts.append(Text("\nq ends", style="dim"))
    return Group(*parts)


def _line(text: str, style: str = "") -> "Text":
    """Return a line that is cut where the terminal ends."""
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


_STYLES = {"ready": "green", "disabled": "bold red", "full": "yellow", "error": "red", "aborted": "red"}

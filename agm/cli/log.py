"""
``agm log``: the requests that the gateway remembers, and what was tried for each.

The file is read, so it makes no difference whether a gateway runs.  One that runs is asked where its file is, and by
``agm log bodies`` to keep bodies for a time or to end that; without one, the configuration says where.
"""

import argparse
import csv
import datetime
import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from agm.cli.account_status import duration
from agm.cli.files import Refused
from agm.cli.running import add_options, find_running, is_meant, json_text, printable
from agm.config import find, load
from agm.core.money import dollars

if TYPE_CHECKING:
    from agm.observe.requestlog.store import Filter

__all__ = ["add_filters", "add_parser", "add_place", "filter_of", "open_log", "path_of", "run", "when"]

#: Seconds between two looks of ``--follow``.
LOOK_EVERY = 0.5
#: Requests that one look of ``--follow`` takes.
MOST = 10_000

_EXAMPLES = """\
examples:
  agm log
  agm log --errors --since 1h
  agm log --follow --model 'gemini-2.5-*'
  agm log --id 4f1f9c2b8f0a4e7d
  agm log --since 7d --limit 100000 --csv > requests.csv
  agm log bodies on --for 10m"""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``log``."""
    what = "show the recorded requests"
    parser = subparsers.add_parser(
        "log",
        help=what,
        description=f"{what[0].upper()}{what[1:]}; or record their bodies for a time: agm log bodies on.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("what", nargs="?", choices=("bodies",), help="show whether bodies are recorded, or change that")
    parser.add_argument("switch", nargs="?", choices=("on", "off"), help="start or stop recording bodies")
    parser.add_argument("--for", dest="time", metavar="TIME", type=span, help="how long to record bodies, such as 10m")
    parser.add_argument("--limit", metavar="N", type=_count, default=20, help="how many requests; default: 20")
    parser.add_argument("--follow", action="store_true", help="keep printing requests as they end")
    parser.add_argument("--id", metavar="REQUEST", help="one request and its attempts, by its x-agm-request-id")
    parser.add_argument("--bodies", action="store_true", help="only requests with recorded bodies, and the bodies")
    add_filters(parser)
    parser.add_argument("--status", metavar="CODE", type=_status, help="with this status, such as 429 or 5xx")
    parser.add_argument("--outcome", choices=("ok", "error", "aborted", "cancelled"), help="with this outcome")
    parser.add_argument("--errors", action="store_true", help="only requests that failed or were aborted")
    add_place(parser)
    add_options(parser, offline=False)
    parser.add_argument("--csv", action="store_true", help="as CSV, with every column")
    parser.set_defaults(run=run, usage_error=parser.error)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add what says which requests are meant, for every command that reads the log."""
    parser.add_argument("--model", metavar="PATTERN", help="of this model, requested or served; * is a wildcard")
    parser.add_argument("--account", metavar="NAME", help="of this account: it served them, or was tried")
    parser.add_argument("--key", metavar="NAME", help="of the client key of this name")
    parser.add_argument("--team", metavar="NAME", help="of the client keys of this team")
    parser.add_argument("--since", metavar="TIME", type=when, help="from 1h (or s, m, d, w) ago on, or from a date on")
    parser.add_argument("--until", metavar="TIME", type=when, help="before that")


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add what says where the log is, beside ``--config``."""
    parser.add_argument("--file", metavar="FILE", help="read this request log, not that of the configuration")


def run(args: argparse.Namespace) -> int:
    """Show it; 0, or 1 with the reason why not."""
    if args.switch is None and args.time is not None:
        args.usage_error("--for is for: agm log bodies on")
    if args.csv and (args.json or args.bodies or args.id is not None):
        args.usage_error("--csv is for a list, and not beside --json")
    if args.follow and (args.id is not None or args.bodies or args.what is not None):
        args.usage_error("--follow is for a list")
    if args.what is not None:
        return _switch(args)
    if args.follow:
        _follow(args)
    return _show(args)


# -- What is meant -----------------------------------------------------------------------------------


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of requests")
    return int(text)


def _status(text: str) -> str:
    if not re.fullmatch("[1-5]([0-9]{2}|[0-9][xX]|[xX]{2})", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a status: write it like 429, or 5xx for all that begin so")
    return text


def span(text: str) -> float:
    """Seconds of ``90s``, ``10m``, ``1h``, ``2d`` or ``1w``."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write it like 90s, 10m, 1h, 2d or 1w")
    return float(int(match[1]) * _SECONDS[match[2]])


def when(text: str) -> float:
    """Seconds since the epoch of so long ago, ``1h``, or of a local date or time."""
    if re.fullmatch(r"[0-9]+[smhdw]", text):
        return time.time() - span(text)
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time: write 1h (or s, m, d, w) for so long ago, or a date like 2027-01-31, "
            "with a time like 2027-01-31T18:00"
        ) from None


def filter_of(args: argparse.Namespace) -> "Filter":
    """Make the filter that the arguments describe."""
    from agm.observe.requestlog.store import Filter

    return Filter(
        model=args.model, account=args.account, key=args.key, team=args.team, since=args.since, until=args.until
    )


def path_of(args: argparse.Namespace) -> Path:
    """Return where the log is.  :raises Refused: if there is none."""
    from agm.observe.requestlog import store as logfile

    if args.file is not None:
        return Path(args.file)
    if (told := _told(args)) is not None:
        return told
    path = find(args.config, os.environ)
    if path is None:
        raise Refused("without a configuration file no request is recorded; --file names a request log")
    config = load(path, environ=os.environ)
    found = logfile.path_of(attrs.evolve(config, request_log=attrs.evolve(config.request_log, enabled=True)))
    assert found is not None, "it is enabled, and there is a file"
    if not config.request_log.enabled and not found.exists():
        raise Refused(f"{path}: request_log.enabled is false: no request is recorded")
    return found


def _told(args: argparse.Namespace) -> Path | None:
    """Ask the running gateway where its log is; None where none runs, or it does not tell, or has none."""
    running = find_running(args, None)
    if running is None:
        return None
    try:
        found = running.ask("/_agm/log")
    except Refused:
        if args.url is not None:
            raise
        return None  # it asks for a key: the configuration says as much, unless it was started by another user
    if not is_meant(found, args) or not found["enabled"]:
        return None
    path = Path(found["path"])
    try:
        path.stat()
    except FileNotFoundError:
        return path  # nothing is written yet, or it is on another machine: who opens it says so
    except OSError as e:
        raise Refused(f"{path}: the gateway's request log cannot be read: {e.strerror}") from None
    return path


def open_log(path: Path) -> sqlite3.Connection:
    """Return a connection to read a log with.  :raises Refused: if it cannot be read."""
    from agm.observe.requestlog import store as logfile

    try:
        return logfile.open_to_read(path)
    except (OSError, logfile.Unusable) as e:
        raise Refused(str(e)) from None


# -- Showing -----------------------------------------------------------------------------------------


def _show(args: argparse.Namespace) -> int:
    from agm.observe.requestlog import store as logfile

    which = attrs.evolve(
        filter_of(args),
        status=args.status,
        outcome=args.outcome,
        errors=args.errors,
        request=args.id,
        bodies=args.bodies and args.id is None,
    )
    connection = open_log(path_of(args))
    try:
        rows = logfile.latest(connection, args.limit, which)[::-1]
        if args.bodies:
            rows = [{**row, "bodies": _readable(logfile.bodies_of(connection, row["request"]))} for row in rows]
    except sqlite3.Error as e:
        raise Refused(f"the request log cannot be read: {e}") from None
    finally:
        connection.close()
    if args.id is not None and not rows:
        raise Refused(f"no request {printable(args.id)} is in the log")
    if args.json:
        print(json_text(rows))
    elif args.csv:
        _write_csv(rows)
    elif args.id is not None or args.bodies:
        print("\n\n".join(_details(row) for row in rows) or "no bodies were kept")
    elif not rows:
        print("no request", file=sys.stderr)
    else:
        _print_table(rows, _HEADINGS)
    return 0


def _readable(bodies: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if bodies is None:
        return None

    def text(body: bytes | None) -> str | None:
        return None if body is None else body.decode("utf-8", "replace")

    return {
        "request_body": text(bodies["request_body"]),
        "request_size": bodies["request_size"],
        "answer_body": text(bodies["answer_body"]),
        "answer_size": bodies["answer_size"],
    }


def _write_csv(rows: Sequence[Mapping[str, Any]], *, heading: bool = True) -> None:
    from agm.observe.requestlog.store import COLUMNS

    writer = csv.DictWriter(sys.stdout, ["id", *COLUMNS], lineterminator="\n")
    if heading:
        writer.writeheader()
    for row in rows:
        plain = {name: printable(value) if isinstance(value, str) else value for name, value in row.items()}
        writer.writerow({**plain, "timeline": json_text(row["timeline"], indent=None)})


_HEADINGS = ("TIME", "STATUS", "OUTCOME", "KEY", "MODEL", "ACCOUNT", "TRIES", "TOKENS", "FIRST", "TOTAL", "REQUEST")
#: How wide columns are at least, so that requests that come one by one stand below each other.
_WIDTHS = (19, 6, 7, 6, 24, 10, 5, 11, 7, 7, 16)


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    asked, served = row["asked_model"], row["model"]
    told = row["total_tokens"] is not None
    cells = (
        _clock(row["started"]),
        row["status"],
        row["outcome"] if row["outcome"] == "ok" or row["reason"] is None else f"{row['outcome']} {row['reason']}",
        row["client_key"],
        served if asked == served else f"{served} ({asked})",
        row["account"],
        row["attempts"],
        f"{row['prompt_tokens']}+{row['output_tokens'] + row['thought_tokens']}" if told else None,
        _seconds(row["first_byte"]),
        _seconds(row["duration"]),
        row["request"],
    )
    return ["-" if cell is None or cell == "" else printable(str(cell)) for cell in cells]


def _print_table(rows: Sequence[Mapping[str, Any]], headings: Sequence[str] | None) -> None:
    lines = [_cells(row) for row in rows]
    if headings is not None:
        lines.insert(0, headings)
    widths = [max(most, *map(len, column)) for most, column in zip(_WIDTHS, zip(*lines, strict=True), strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _clock(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f} s" if value < 100 else duration(value)


def _details(row: Mapping[str, Any]) -> str:
    """One request in full."""
    model = row["model"] if row["asked_model"] == row["model"] else f"{row['model']}, asked for as {row['asked_model']}"
    facts = [
        ("request", row["request"]),
        ("started", _clock(row["started"])),
        ("client", f"key {row['client_key'] or '-'}, {row['client'] or 'unknown client'}"),
        ("call", f"{row['method']} ({row['framing']}) of {model}"),
        ("answer", f"{row['status']}, {row['outcome']}, from {row['account'] or 'the gateway itself'}"),
        ("time", f"{_seconds(row['first_byte']) or 'no'} first byte, {_seconds(row['duration'])} in all"),
        ("bytes", f"{row['bytes_in']:,} in, {row['bytes_out']:,} out"),
    ]
    if row["total_tokens"] is not None:
        names = ("prompt", "output", "cached", "thought", "tool", "total")
        facts.append(("tokens", ", ".join(f"{row[f'{name}_tokens']:,} {name}" for name in names)))
    if row.get("team") is not None:
        facts.insert(3, ("team", row["team"]))
    if row.get("cost") is not None:
        facts.append(("cost", dollars(row["cost"])))
    elif row["account"] is not None and row["outcome"] != "error":
        facts.append(("cost", "not known"))
    if row["finish_reason"] is not None:
        facts.append(("finished", row["finish_reason"]))
    lines = [f"{name:<10}{printable(str(value))}" for name, value in facts]
    for number, attempt in enumerate(row["timeline"], 1):
        lines.append(printable(f"attempt {number} {_attempt(attempt)}"))
    if row["message"] is not None:
        lines.append(printable(f"error     {row['reason']}: {row['message']}"))
    if row["stopped"] is not None:
        lines.append(printable(f"stopped   {row['stopped']}"))
    return "\n".join([*lines, *_bodies(row)])


def _attempt(attempt: Mapping[str, Any]) -> str:
    parts = [
        f"after {attempt['after_ms']} ms: {attempt['account']} at {attempt['endpoint']}, {attempt['chosen']}",
        f"{attempt.get('status', 'no answer')}",
    ]
    if attempt.get("reason"):
        parts.append(f"{attempt['fault']} {attempt['reason']}")
    if attempt.get("delay") is not None:
        parts.append(f"wait {attempt['delay']:g} s")
    if attempt.get("probe"):
        parts.append("a probe")
    return ", ".join([*parts, f"{attempt['ms']} ms"])


def _bodies(row: Mapping[str, Any]) -> Iterator[str]:
    bodies = row.get("bodies", False)
    if bodies is False:
        return
    if bodies is None:
        yield "no bodies were kept of this request"
        return
    for name in ("request", "answer"):
        text, size = bodies[f"{name}_body"], bodies[f"{name}_size"]
        if text is None:
            yield f"no body of the {name} was kept"
        else:
            yield f"body of the {name}, {size:,} bytes; what was kept:"
            yield from ("  " + printable(line) for line in text.splitlines())


# -- Following ---------------------------------------------------------------------------------------


def _follow(args: argparse.Namespace) -> NoReturn:
    """Show the latest, and what comes, until somebody ends it."""
    from agm.observe.requestlog import store as logfile

    which = attrs.evolve(filter_of(args), status=args.status, outcome=args.outcome, errors=args.errors)
    path = path_of(args)
    connection: sqlite3.Connection | None = None
    seen: tuple[int, int] | None = None
    last, first, said = 0, True, False
    while True:
        try:
            now = os.stat(path)
            if seen != (now.st_dev, now.st_ino):  # a new file in its place begins anew
                if connection is not None:
                    connection.close()
                connection, last = open_log(path), 0
                seen = (now.st_dev, now.st_ino)
            assert connection is not None, "the lines above"
            newest = logfile.latest(connection, 1)
            rows = logfile.latest(connection, args.limit if first else MOST, which, after=last)[::-1]
            last = max([last, *(row["id"] for row in [*rows, *newest])])
            _print_more(args, rows, first=first)
            first = False
        except (OSError, Refused, sqlite3.Error) as e:
            if not said:
                print(f"{e}; waiting for it" if isinstance(e, Refused) else f"{path}: waiting for it", file=sys.stderr)
                said = True
        time.sleep(LOOK_EVERY)


def _print_more(args: argparse.Namespace, rows: Sequence[Mapping[str, Any]], *, first: bool) -> None:
    if args.json:
        for row in rows:
            print(json_text(row, indent=None))
    elif args.csv:
        _write_csv(rows, heading=first)
    elif rows or first:
        _print_table(rows, _HEADINGS if first else None)
    sys.stdout.flush()


# -- Bodies ------------------------------------------------------------------------------------------


def _switch(args: argparse.Namespace) -> int:
    if args.switch == "on" and args.time is None:
        args.usage_error("say for how long: agm log bodies on --for 10m")
    running = find_running(args, "only a running gateway can keep bodies")
    if running is None:
        return 1
    if args.switch is None:
        found = running.ask("/_agm/log")
    else:
        seconds = args.time if args.switch == "on" else 0
        found = running.ask("/_agm/log/bodies", json.dumps({"seconds": seconds}).encode())
    if args.json:
        print(json_text(found))
    else:
        left = found.get("bodies_seconds_left")
        print(f"bodies are kept for {duration(left)} more" if left else "bodies are not kept")
    return 0

"""
``agm replay``: what a policy does with a recorded sequence of requests and upstream answers, or with those of the
request log, on a fake clock.

The decisions are those of the code that serves; :mod:`agm.diagnose.replay` runs it.  No gateway is asked, nothing is
sent, and no credential is read.
"""

import argparse
import datetime
import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agm.cli.account import columns
from agm.cli.files import Refused
from agm.cli.log import open_log, path_of, when
from agm.cli.running import json_text, printable
from agm.config import find
from agm.core.money import dollars
from agm.core.words import counted

__all__ = ["add_parser", "run"]

_EXAMPLES = """\
examples:
  agm replay --since 24h --set pool.strategy=round-robin
  agm replay --config next.toml --since 2026-11-30 --until 2026-12-01
  agm replay monday.jsonl --set pool.max_attempts=1"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``replay``."""
    what = "replay the requests of the log, or a recording, against a policy, and print what it would have done"
    parser = subparsers.add_parser(
        "replay",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a request log, or a recording (- is standard input); default: the gateway's request log",
    )
    parser.add_argument("--since", metavar="TIME", type=when, help="of a log: from then on; default: 24h ago")
    parser.add_argument("--until", metavar="TIME", type=when, help="of a log: before that")
    parser.add_argument(
        "--limit", metavar="N", type=int, default=20, help="of a log: how many requests are listed; default: 20"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration whose policy is tried; default: the recording's, else the gateway's",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key of the configuration; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay it; 0, or 1 with the reason why not."""
    if args.file is None or _is_log(args.file):
        return _replay_log(args)
    if args.since is not None or args.until is not None:
        raise Refused(f"--since and --until are for a request log, and {args.file} is a recording")
    from agm.core.errors import GatewayError
    from agm.diagnose.recording import RecordingError, config_for, read
    from agm.diagnose.replay import Replay
    from agm.plugins.hooks import HookFailed
    from agm.plugins.manager import PluginError

    try:
        recording = read(_text(args.file))
        own = args.config is None and recording.head.config is not None
        path = None if own else find(args.config, os.environ)
        replayed = Replay(recording, config_for(recording, path, [_change(it) for it in args.set])).run()
    except RecordingError as e:
        print(f"{args.file}: {printable(str(e))}", file=sys.stderr)
        return 1
    except (PluginError, HookFailed, GatewayError, ValueError) as e:
        print(printable(str(e)), file=sys.stderr)
        return 1
    if args.json:
        found = {"events": [event.document() for event in replayed.events], "summary": replayed.summary()}
        print(json_text(found))
    else:
        print("\n".join(printable(line) for line in replayed.text().split("\n")))
    return 0


def _is_log(name: str) -> bool:
    """Tell whether a file is an SQLite database, and so a request log."""
    try:
        with Path(name).expanduser().open("rb") as file:
            return name != "-" and file.read(16) == b"SQLite format 3\0"
    except (OSError, ValueError):
        return False  # which is said where it is read


def _replay_log(args: argparse.Namespace) -> int:
    """Try a policy on the requests of a log; 0, or 1 with the reason why not."""
    from agm.core.errors import GatewayError
    from agm.diagnose.log_replay import NothingToReplay, replay_log
    from agm.diagnose.recording import Head, Recording, RecordingError, config_for
    from agm.plugins.hooks import HookFailed
    from agm.plugins.manager import PluginError

    path = find(args.config, os.environ)
    if path is None:
        raise Refused("there is no configuration to try: name one with --config")
    until = time.time() if args.until is None else args.until
    since = until - 86_400 if args.since is None else args.since
    connection = open_log(_log_of(args))
    try:
        config = config_for(Recording(Head(1), (), ()), path, [_change(it) for it in args.set])
        tried = replay_log(connection, config, since, until)
    except sqlite3.Error as e:
        raise Refused(f"the request log cannot be read: {e}") from None
    except (RecordingError, PluginError, HookFailed, GatewayError, NothingToReplay, ValueError) as e:
        print(printable(str(e)), file=sys.stderr)
        return 1
    finally:
        connection.close()
    found = tried.document()
    print(json_text(found) if args.json else text(found, args.limit))
    return 0


def _log_of(args: argparse.Namespace) -> Path:
    """
    Return where the log is: the one that was named, else that of the configuration that is tried; where this has none,
    as a copy with changes has not, that of the gateway itself.

    :raises Refused: if there is none.
    """
    if args.file is not None:
        return Path(args.file).expanduser()
    asked = argparse.Namespace(file=None, config=args.config, url=None, client_key_env=None, offline=False)
    own = path_of(asked)
    if args.config is None or own.exists():
        return own
    asked.config = None
    try:
        gateways = path_of(asked)
    except Refused:
        return own
    return gateways if gateways.exists() else own


def text(found: Mapping[str, Any], limit: int) -> str:
    """Return what a policy would have done with the requests of a log, as plain text."""
    recorded, replayed, count = found["recorded"], found["replayed"], found["requests"]
    others = f"; {found['left_out']:,} more, no calls of a model, left out" if found["left_out"] else ""
    rows = [
        {"": name, "recorded": f"{recorded[name]:,}", "replayed": f"{replayed[name]:,}"}
        for name in ("served", "refused", "failed", "attempts")
    ]
    rows.append({"": "cost", "recorded": dollars(recorded["cost"]), "replayed": dollars(replayed["cost"])})
    if recorded["unpriced"] or replayed["unpriced"]:
        rows.append({"": "unpriced", "recorded": f"{recorded['unpriced']:,}", "replayed": f"{replayed['unpriced']:,}"})
    rows += [
        {"": f"by {name}", "recorded": f"{it['recorded']:,}", "replayed": f"{it['replayed']:,}"}
        for name, it in found["accounts"].items()
    ]
    parts = [f"{counted(count, 'request')} from {_at(found['from'])} to {_at(found['until'])}{others}", columns(rows)]
    anew = sum(it["was"]["outcome"] != "error" for it in found["refused"])
    of_these = f"; {anew:,} of these {'was' if anew == 1 else 'were'} served" if found["refused"] else ""
    parts.append(f"would have refused {len(found['refused']):,} of {count:,}{of_these}")
    if found["refused"]:
        parts += [columns(_groups(found["refused"])), _listed(found["refused"], limit)]
    if found["failed"]:
        parts += [f"would have failed {len(found['failed']):,} that were served", _listed(found["failed"], limit)]
    if found["served"]:
        parts += [f"would have served {len(found['served']):,} that were not", _listed(found["served"], limit)]
    if found["models"]:
        parts.append("\n".join(f"{it['requests']:,}: {it['replayed']}, not {it['recorded']}" for it in found["models"]))
    if replayed["waited"]:
        parts.append(f"waited {replayed['waited']:,.1f} s in all for accounts")
    return "\n\n".join(printable(line) if "\n" not in line else line for line in parts)


def _groups(refused: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Count refusals by key and reason."""
    groups = Counter((it["client_key"] or "-", it["limit"] or it["reason"] or str(it["would_be"])) for it in refused)
    return [
        {"key": printable(key), "reason": printable(reason), "requests": f"{count:,}"}
        for (key, reason), count in groups.most_common()
    ]


def _listed(requests: Sequence[Mapping[str, Any]], limit: int) -> str:
    rows = [
        {
            "time": _at(it["at"]),
            "request": it["request"],
            "key": it["client_key"] or "-",
            "model": it["model"],
            "was": f"{it['was']['status']} {it['was']['account'] or it['was']['reason'] or ''}".strip(),
            "would be": f"{it['would_be']} {it['limit'] or it['reason'] or ''}".strip()
            if "would_be" in it
            else f"200 {it['account'] or ''}".strip(),
        }
        for it in requests[: max(limit, 0)]
    ]
    more = len(requests) - len(rows)
    last = f"and {more:,} more: --limit {len(requests)} lists them, --json has all" if more else ""
    table = columns([{name: printable(value) for name, value in row.items()} for row in rows]) if rows else ""
    return "\n".join(filter(None, (table, last)))


def _at(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def _text(name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).expanduser().read_bytes()
        return raw.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise Refused(f"{name} is not UTF-8 at byte {failure.start}") from None
    except (OSError, ValueError) as failure:
        raise Refused(f"{name} cannot be read: {getattr(failure, 'strerror', None) or failure}") from None


def _change(written: str) -> tuple[str, str]:
    key, equals, value = written.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise Refused(f"--set {written}: write KEY=VALUE, as in --set pool.strategy=round-robin")
    return key.strip(), value.strip()

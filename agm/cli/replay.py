"""
``agm replay``: what a policy does with a recorded sequence of requests and upstream answers, on a fake clock.

The decisions are those of the code that serves; :mod:`agm.diagnose.replay` runs it.  No gateway is asked, nothing is
sent, and no credential is read.
"""

import argparse
import os
import sys
from pathlib import Path

from agm.cli.files import Refused
from agm.cli.running import json_text, printable
from agm.config import find

__all__ = ["add_parser", "run"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``replay``."""
    what = "replay a recording of requests and upstream answers against a policy, and print its decisions"
    parser = subparsers.add_parser(
        "replay",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog="example:\n  agm replay monday.jsonl --config agm.toml --set pool.strategy=round-robin",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="the recording; - is standard input")
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

"""
``agm init``: from nothing to a configuration that works, with one API key.

The key is asked for without an echo, or read from a pipe, and tried with one ``countTokens`` before anything is
written.  It goes into a file for its owner alone, as with ``agm account add``.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from agm.cli import account, files
from agm.cli.files import Refused
from agm.cli.running import printable
from agm.cli.trial import lines_of, try_accounts
from agm.config import parse

__all__ = ["add_parser", "run"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``init``."""
    what = "ask for a Gemini API key, test it, and write the configuration"
    parser = subparsers.add_parser(
        "init",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.  A key is made at https://aistudio.google.com/apikey.",
        epilog="example:\n  agm init\n  agm init < key.txt\n  agm init --api-key-env GEMINI_API_KEY",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--name", metavar="NAME", default="main", help="what to call the account; default: main")
    parser.add_argument(
        "--config", metavar="FILE", help="the file; else $AGM_CONFIG, else agm.toml in your configuration folder"
    )
    parser.add_argument("--api-key-env", metavar="VAR", help="the environment variable that holds the API key")
    parser.add_argument("--no-test", action="store_true", help="write the configuration without trying the key")
    parser.add_argument(
        "--endpoint", metavar="URL", action="append", help="base URL of the upstream; repeatable; default: Google's"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Set up; 0, or 1 with the reason on standard error, and nothing written."""
    path = files.path_to_edit(args.config, os.environ)
    if names := [str(table.get("name")) for table in files.tables(files.read(path), ("accounts",))]:
        shown = printable(", ".join(names))
        raise Refused(
            f"{path} has accounts already: {shown}\n`agm account add NAME` adds one, `agm doctor` checks the setup"
        )
    by_name = args.api_key_env is not None
    stored = path.parent / "keys" / f"{args.name}.key"
    source = {"api_key_env": args.api_key_env} if by_name else {"api_key_file": account.reference(path, stored)}
    table: dict[str, object] = {"name": args.name, "kind": "api-key", **source}
    if args.endpoint is not None:
        table["endpoints"] = args.endpoint
    account.foresee(path, table)
    key = None if by_name else account.ask_for_key(args.name)
    if not args.no_test:
        _try(path, {name: value for name, value in table.items() if name != "api_key_file"}, args.name, key)
    if key is None:
        account.write_account(path, table, "api_key")
    else:
        account.write_account(path, table, "api_key_file", files.SecretFile(stored, key.encode("utf-8") + b"\n"))
    option = "" if args.config is None else f" --config {shlex.quote(args.config)}"
    print(f"\nnext:\n  agm serve{option}\n  agm ui{option}")
    return 0


def _try(path: Path, table: dict[str, object], name: str, key: str | None) -> None:
    """Try the account as it would be written.  :raises Refused: if it does not work."""
    if key is not None:
        table["api_key"] = key
    config = parse(files.added(files.read(path), ("accounts",), table), path=path, environ=os.environ)
    print(f"testing the key of {name} …", file=sys.stderr)
    trial = try_accounts(config, name, None)[0]
    lines = "\n".join(map(printable, lines_of(trial)))
    if not trial.ok:
        raise Refused(f"{lines}\nnothing was written; --no-test writes the configuration without a test")
    print(lines)

"""
``agm key``: makes, shows and revokes the keys that clients show to the gateway.

A key is printed once, when it is made.  The configuration holds its SHA-256 only, from which nobody gets the
key back: the key has the entropy of 24 random bytes, so its digest needs no salt.
"""

import argparse
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from typing import Any

from agm.cli import files
from agm.cli.account import DiscreetParser, columns
from agm.cli.files import Refused
from agm.config import find

__all__ = ["add_parser", "run"]

_AT = ("auth", "keys")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``key`` with its own subcommands."""
    parser = subparsers.add_parser("key", help="create, list and revoke client keys")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=DiscreetParser)

    def action(name: str, does: Callable[[argparse.Namespace], int], what: str, example: str) -> DiscreetParser:
        parser = actions.add_parser(
            name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example:\n{example}"
        )
        parser.add_argument(
            "--config", metavar="FILE", help="the file; else $AGM_CONFIG, else agm.toml in your configuration folder"
        )
        parser.set_defaults(run=run, does=does)
        return parser

    create = action(
        "create",
        _create,
        "make a key for a client, and print it this one time",
        '  agm key create laptop --model "gemini-*" --requests-per-minute 60',
    )
    create.add_argument("name", metavar="NAME", help="what logs and limits call the key")
    create.add_argument(
        "--model", metavar="PATTERN", action="append", help="the models that it may use; repeatable; default: all"
    )
    create.add_argument("--requests-per-minute", metavar="N", type=int, help="default: no limit")
    listed = action("list", _list, "show the client keys by name", "  agm key list --json")
    listed.add_argument("--json", action="store_true", help="as a JSON array")
    revoke = action("revoke", _revoke, "remove a client key: it is not let in any more", "  agm key revoke laptop")
    revoke.add_argument("name", metavar="NAME", help="the key's name, not the key")


def run(args: argparse.Namespace) -> int:
    """Do what the subcommand says; 0, or 1 with the reason on standard error."""
    try:
        return int(args.does(args))
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 1


def _create(args: argparse.Namespace) -> int:
    path = files.path_to_edit(args.config, os.environ)
    key = f"agm_{secrets.token_urlsafe(24)}"
    table: dict[str, object] = {"name": args.name, "key_sha256": hashlib.sha256(key.encode("ascii")).hexdigest()}
    if args.model:
        table["models"] = args.model
    if args.requests_per_minute is not None:
        table["requests_per_minute"] = args.requests_per_minute

    def change(text: str) -> str:
        if any(each.get("name") == args.name for each in files.tables(text, _AT)):
            raise Refused(f"there is a client key {args.name!r} already; choose another name, or revoke it first")
        return files.added(text, _AT, table)

    files.edit(path, change, environ=os.environ)  # a digest brings no warning with it
    print(key)
    print(f"{args.name}: this is the only time that the key is shown; {path} holds its digest", file=sys.stderr)
    return 0


def _list(args: argparse.Namespace) -> int:
    path = find(args.config, os.environ)
    text = "" if path is None else files.read(path)
    if path is not None:
        files.check(text, path, os.environ)
    keys = [_described(table) for table in files.tables(text, _AT)]
    if args.json:
        print(json.dumps(keys, indent=2, ensure_ascii=False))
    elif not keys:
        print("no client keys; `agm key create NAME` makes one", file=sys.stderr)
    else:
        print(columns(keys))
    return 0


def _described(table: Mapping[str, Any]) -> dict[str, object]:
    """What may be shown of a key's table, which is known to be good."""
    return {
        "name": table["name"],
        "source": next(source for source in ("key", "key_env", "key_sha256") if source in table),
        "models": table.get("models", []),
        "requests_per_minute": table.get("requests_per_minute"),
    }


def _revoke(args: argparse.Namespace) -> int:
    path = find(args.config, os.environ)
    files.index_of("" if path is None else files.read(path), _AT, args.name, "client key")
    assert path is not None, "no key is found in no file"

    def change(text: str) -> str:
        return files.removed(text, _AT, files.index_of(text, _AT, args.name, "client key"))

    files.edit(path, change, environ=os.environ)
    print(f"revoked {args.name}")
    return 0

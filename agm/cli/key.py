"""
``agm key``: makes, shows and revokes the keys that clients show to the gateway.

A key is printed once, when it is made.  The configuration holds its SHA-256 only, from which nobody gets the
key back: the key has the entropy of 24 random bytes, so its digest needs no salt.
"""

import argparse
import datetime
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from typing import Any

from agm.cli import files
from agm.cli.account import DiscreetParser, columns, warn
from agm.cli.files import Refused
from agm.cli.running import add_options, find_running, json_text
from agm.config import find
from agm.core.words import counted

__all__ = ["add_parser", "run"]

_AT = ("auth", "keys")
#: The limits of a key, and how a person reads them.
_LIMITS = {
    "requests_per_minute": "requests/min",
    "requests_per_day": "requests/day",
    "tokens_per_minute": "tokens/min",
    "tokens_per_day": "tokens/day",
}
_SPAN = re.compile(r"([1-9][0-9]{0,5})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``key`` with its own subcommands."""
    parser = subparsers.add_parser("key", help="create, list and revoke client keys")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=DiscreetParser)

    def action(
        name: str, does: Callable[[argparse.Namespace], int], what: str, example: str, *, asks: bool = False
    ) -> DiscreetParser:
        parser = actions.add_parser(
            name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example:\n{example}"
        )
        if asks:
            add_options(parser)
        else:
            parser.add_argument(
                "--config",
                metavar="FILE",
                help="the file; else $AGM_CONFIG, else agm.toml in your configuration folder",
            )
        parser.set_defaults(run=run, does=does)
        return parser

    create = action(
        "create",
        _create,
        "create a key for a client, and print it once",
        '  agm key create laptop --model "gemini-*" --requests-per-minute 60\n'
        "  agm key create intern --tokens-per-day 2000000 --expires 30d\n"
        "  agm key create operator --admin",
    )
    create.add_argument("name", metavar="NAME", help="the key's name in logs and limits")
    create.add_argument(
        "--model", metavar="PATTERN", action="append", help="the models that it may use; repeatable; default: all"
    )
    for limit in _LIMITS:
        create.add_argument(f"--{limit.replace('_', '-')}", metavar="N", type=int, help="default: no limit")
    create.add_argument("--team", metavar="NAME", help="the team that it belongs to")
    create.add_argument("--weight", metavar="N", type=int, help="its share while accounts are short; default: 1")
    create.add_argument(
        "--expires",
        metavar="WHEN",
        help="30d, 12h or 2w from now; a date, whose day still counts; or 2027-01-31T18:00Z; default: never",
    )
    create.add_argument(
        "--admin", action="store_true", help="it may read and change everything below /_agm, on other machines, too"
    )
    action(
        "list",
        _list,
        "show the client keys by name, and what was used today where the gateway runs",
        "  agm key list --json",
        asks=True,
    )
    revoke = action("revoke", _revoke, "remove a client key: requests with it are refused", "  agm key revoke laptop")
    revoke.add_argument("name", metavar="NAME", help="the key's name, not the key")


def run(args: argparse.Namespace) -> int:
    """Do what the subcommand says; 0, or 1 with the reason on standard error."""
    return int(args.does(args))


def _create(args: argparse.Namespace) -> int:
    path = files.path_to_edit(args.config, os.environ)
    key = f"agm_{secrets.token_urlsafe(24)}"
    table: dict[str, object] = {"name": args.name, "key_sha256": hashlib.sha256(key.encode("ascii")).hexdigest()}
    if args.model:
        table["models"] = args.model
    for limit in _LIMITS:
        if getattr(args, limit) is not None:
            table[limit] = getattr(args, limit)
    for name in ("team", "weight"):
        if getattr(args, name) is not None:
            table[name] = getattr(args, name)
    if args.admin:
        table["admin"] = True
    if args.expires is not None:
        table["expires"] = moment(args.expires, datetime.datetime.now(datetime.UTC))

    def change(text: str) -> str:
        if any(each.get("name") == args.name for each in files.tables(text, _AT)):
            raise Refused(f"there is a client key {args.name!r} already; choose another name, or revoke it first")
        return files.added(text, _AT, table)

    warnings = files.edit(path, change, environ=os.environ)
    print(key)
    print(f"{args.name}: this is the only time that the key is shown; {path} holds its digest", file=sys.stderr)
    warn(warnings)
    return 0


def moment(text: str, now: datetime.datetime) -> datetime.date:
    """
    Format the time at which a key expires: to the second, with its offset.

    :raises Refused: if it cannot be understood, or is over.
    """
    found: datetime.date
    try:
        if span := _SPAN.fullmatch(text):
            found = now.replace(microsecond=0) + datetime.timedelta(**{_UNITS[span[2]]: int(span[1])})
        elif re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            found = datetime.date.fromisoformat(text)
        else:
            found = datetime.datetime.fromisoformat(text)
            if found.tzinfo is None:
                found = found.replace(tzinfo=datetime.UTC)
    except (ValueError, OverflowError):
        raise Refused("--expires: write 30d, 12h or 2w, a date like 2027-01-31, or 2027-01-31T18:00Z") from None
    over = found <= now if isinstance(found, datetime.datetime) else found < now.date()
    if over:
        raise Refused(f"--expires: {text} is over already")
    return found


def _list(args: argparse.Namespace) -> int:
    path = find(args.config, os.environ)
    text = "" if path is None else files.read(path)
    if path is not None:
        files.check(text, path, os.environ)
    keys = [_described(table) for table in files.tables(text, _AT)]
    used = _used_today(args) if keys else None
    if args.json:
        today = [{} if used is None else {"today": used.get(str(key["name"]))} for key in keys]
        print(json_text([{**key, **more} for key, more in zip(keys, today, strict=True)]))
    elif not keys:
        print("no client keys; `agm key create NAME` makes one", file=sys.stderr)
    else:
        print(columns([_row(key, used) for key in keys]))
    return 0


def _used_today(args: argparse.Namespace) -> Mapping[str, Mapping[str, int]] | None:
    """Return what each key has used today, by name; None where no gateway tells it."""
    running = find_running(args, None)
    if running is None:
        return None
    try:
        return {key["name"]: key["today"] for key in running.ask("/_agm/keys")["client_keys"]}
    except Refused as refusal:
        print(f"the running gateway does not report the usage of its keys: {refusal}", file=sys.stderr)
        return None


def _described(table: Mapping[str, Any]) -> dict[str, object]:
    """Describe a key's table, which is known to be valid, without its secret."""
    expires = table.get("expires")
    return {
        "name": table["name"],
        "source": next(source for source in ("key", "key_env", "key_sha256") if source in table),
        "models": table.get("models", []),
        **{limit: table.get(limit) for limit in _LIMITS},
        "admin": table.get("admin", False),
        "expires": None if expires is None else expires.isoformat().replace("+00:00", "Z"),
    }


def _row(key: Mapping[str, object], used: Mapping[str, Mapping[str, int]] | None) -> dict[str, object]:
    """Return the same for a table that fits a terminal."""
    limits = [f"{key[limit]} {words}" for limit, words in _LIMITS.items() if key[limit] is not None]
    if key["admin"]:
        limits.append("admin")
    row = {
        "name": key["name"],
        "source": key["source"],
        "models": key["models"],
        "limits": ", ".join(limits) or None,
        "expires": key["expires"],
    }
    if used is None:
        return row
    today = used.get(str(key["name"]))
    told = (
        "not in the running gateway"
        if today is None
        else f"{counted(today['requests'], 'request')}, {counted(today['tokens'], 'token')}"
    )
    return {**row, "today": told}


def _revoke(args: argparse.Namespace) -> int:
    path = find(args.config, os.environ)
    files.index_of("" if path is None else files.read(path), _AT, args.name, "client key")
    assert path is not None, "no key is found in no file"

    def change(text: str) -> str:
        return files.removed(text, _AT, files.index_of(text, _AT, args.name, "client key"))

    warn(files.edit(path, change, environ=os.environ))
    print(f"revoked {args.name}")
    return 0

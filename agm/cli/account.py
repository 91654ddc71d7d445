"""
``agm account``: adds, imports, shows, enables, disables and removes accounts in the configuration.

A secret comes in through a prompt, a pipe or a file, never as an argument, and goes nowhere but into a
file for its owner alone.  Nothing is sent to anyone from here; :mod:`agm.cli.trial` tries accounts.
"""

import argparse
import getpass
import json
import os
import re
import sys
import tomllib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs

from agm.cli import files
from agm.cli.account_status import details, standing, summary
from agm.cli.files import Refused
from agm.cli.parsers import RecordingParser
from agm.cli.plugin_checks import kinds_of
from agm.cli.running import add_options, find_running, json_text, printable
from agm.cli.trial import run_test
from agm.config import default, find, load, parse
from agm.config.secret import why_unusable
from agm.config.words import nearest_of
from agm.core.request import BUILT_IN_KINDS
from agm.persist.account_files import AT, KEPT, place_of, reference, secret_files

__all__ = [
    "FILE_LIMIT",
    "DiscreetParser",
    "add_limits",
    "add_parser",
    "ask_for_key",
    "bytes_of",
    "columns",
    "foresee",
    "new_table",
    "reference",
    "run",
    "secret_files",
    "warn",
    "write_account",
]

_KEY_LIMIT = 64 * 1024
FILE_LIMIT = 2**20

_NOTICE = """\
Code Assist accounts are for people and companies who hold a licence for Code Assist.  Google no longer lets
individuals in through its command line tool's login, and its terms forbid other software to use the OAuth
client of that tool.  agm brings no OAuth client and borrows none: the credentials must be from a client that
you may use, for an account that is licensed.  For everything else, use a Gemini API key or Vertex AI."""


class DiscreetParser(RecordingParser):
    """A parser that does not print what it cannot place: people paste keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but what is left over is an error at once."""
        known, extra = super().parse_known_args(args, namespace)
        if extra:
            options = [each.partition("=")[0] for each in extra if re.match("--[a-z-]+(=|$)", each)]
            named = f", among them {', '.join(options)}" if options else ""
            self.error(f"more arguments than this command takes{named}; they are not shown, as a key may be in them")
        return known, extra


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``account`` with its own subcommands."""
    parser = subparsers.add_parser("account", help="add, import, list, test, enable, disable and remove accounts")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=DiscreetParser)

    def action(name: str, does: Callable[[argparse.Namespace], int], what: str, example: str) -> DiscreetParser:
        parser = actions.add_parser(
            name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example:\n{example}"
        )
        if does is _list:
            add_options(parser)
        elif does is not _reset:
            parser.add_argument(
                "--config",
                metavar="FILE",
                help="the file; else $AGM_CONFIG, else agm.toml in your configuration folder",
            )
        parser.set_defaults(run=run, does=does, usage_error=parser.error)
        return parser

    add = action(
        "add",
        _add,
        "add an account; the API key is asked for, or read from a pipe",
        "  agm account add work\n"
        "  agm account add work < key.txt\n"
        "  agm account add cloud --kind vertex --credentials adc --project my-project\n"
        "  agm account add local --kind openai --endpoint http://127.0.0.1:8000/v1",
    )
    add.add_argument("name", metavar="NAME", help="the account's name: letters, digits, '.', '_' and '-'")
    add.add_argument(
        "--kind",
        metavar="KIND",
        default="api-key",
        help="api-key (the default), vertex, code-assist, or a kind that a plugin has",
    )
    add.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a setting of a plugin's kind; repeatable"
    )
    credential = add.add_mutually_exclusive_group()
    credential.add_argument("--api-key-env", metavar="VAR", help="the environment variable that holds the API key")
    credential.add_argument("--api-key-file", metavar="FILE", help="the file that holds the API key")
    credential.add_argument(
        "--credentials", metavar="adc|FILE", help="Google's application default credentials, or a google-auth file"
    )
    add_limits(add)
    imported = action(
        "import",
        _import,
        "add an account from a google-auth file (a service account, or a user's application default credentials), or"
        " from the API keys in the environment",
        "  agm account import service-account.json\n"
        "  agm account import --from-environment\n"
        "  agm account import ~/.config/gcloud/application_default_credentials.json --project my-project",
    )
    imported.add_argument(
        "file", metavar="FILE", nargs="?", help="the JSON file; the configuration refers to it by path"
    )
    imported.add_argument(
        "--from-environment",
        action="store_true",
        help="an api-key account for each of GEMINI_API_KEY and GOOGLE_API_KEY that is set, by reference",
    )
    imported.add_argument("--name", metavar="NAME", help="the account's name; default: taken from the file")
    imported.add_argument("--kind", choices=("vertex", "code-assist"), default="vertex", help="default: vertex")
    imported.add_argument("--copy", action="store_true", help="keep a private copy beside the configuration")
    add_limits(imported)
    action("list", _list, "list the accounts and their state, without secrets", "  agm account list --json")
    tested = action(
        "test",
        run_test,
        "send one countTokens through an account, and explain a failure",
        "  agm account test work\n  agm account test --all",
    )
    tested.add_argument("name", metavar="NAME", nargs="?", help="the account")
    tested.add_argument("--all", action="store_true", help="every account that is enabled")
    tested.add_argument("--model", metavar="MODEL", help="count tokens of this model; else one that the account serves")
    tested.add_argument("--json", action="store_true", help="as a JSON array")
    reset = action(
        "reset",
        _reset,
        "clear the cooldowns and errors of an account, in the running gateway or on disk",
        "  agm account reset work\n  agm account reset work --model gemini-2.5-pro",
    )
    add_options(reset, as_json=False)
    reset.add_argument("name", metavar="NAME", help="the account")
    reset.add_argument("--model", metavar="MODEL", help="for this upstream model alone; else for all")
    for name, does, what in (
        ("enable", _enable, "use an account again"),
        ("disable", _disable, "disable an account, but keep it in the file"),
        ("remove", _remove, "remove an account, and the key file that agm wrote for it"),
    ):
        parser = action(name, does, what, f"  agm account {name} work")
        parser.add_argument("name", metavar="NAME", help="the account")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", metavar="P", help="the Google Cloud project")
    parser.add_argument("--location", metavar="L", help="where a Vertex AI account is served; default: global")
    parser.add_argument(
        "--model", metavar="PATTERN", action="append", help="the models that it serves; repeatable; default: all"
    )
    parser.add_argument(
        "--endpoint", metavar="URL", action="append", help="base URL of the upstream; repeatable; default: Google's"
    )
    parser.add_argument(
        "--i-have-a-licence",
        action="store_true",
        help="say that a code-assist account is licensed for Code Assist, which such an account needs",
    )


def run(args: argparse.Namespace) -> int:
    """Do what the subcommand says; 0, or 1 with the reason on standard error."""
    return int(args.does(args))


# -- add ---------------------------------------------------------------------------------------------


def _add(args: argparse.Namespace) -> int:
    path = files.path_to_edit(args.config, os.environ)
    if re.match(r"(AIza|AQ\.).{20}", args.name):
        raise Refused("this is an API key, not a name; agm account add NAME asks for the key")
    source: dict[str, str] = {}
    if args.api_key_env is not None:
        source = {"api_key_env": args.api_key_env}
    elif args.api_key_file is not None:
        held = bytes_of(Path(args.api_key_file), "--api-key-file", _KEY_LIMIT)
        if why := why_unusable(_text_of(held)):
            raise Refused(f"--api-key-file: what the file holds {why}")
        source = {"api_key_file": _absolute(args.api_key_file)}
    elif args.credentials is not None:
        source = {"credentials": args.credentials}
        if args.credentials != "adc":
            _Login.read(Path(args.credentials), "--credentials")
            source = {"credentials": _absolute(args.credentials)}
    elif args.kind in ("vertex", "code-assist"):
        express = ", or one of --api-key-env and --api-key-file (express mode)" if args.kind == "vertex" else ""
        args.usage_error(f"a {args.kind} account needs --credentials adc|FILE{express}")
    table = {**new_table(args, args.name, source, args.project), **_settings(args)}
    if not source and not _asks_for_key(args.kind, path):
        print(
            f"no key is asked for, as {args.kind} accounts can do without; --api-key-env and --api-key-file give one",
            file=sys.stderr,
        )
        return write_account(path, table, "")
    if source:
        return write_account(path, table, "api_key" if "credentials" not in source else "credentials")
    stored = place_of(path, args.name)
    table["api_key_file"] = reference(path, stored)
    foresee(path, table)
    key = ask_for_key(args.name)
    return write_account(path, table, "api_key_file", files.SecretFile(stored, key.encode("utf-8") + b"\n"))


def _settings(args: argparse.Namespace) -> dict[str, object]:
    """Return what ``--set`` says, each value as TOML or else as text."""
    found: dict[str, object] = {}
    for each in args.set:
        key, equals, value = each.partition("=")
        if not equals or not re.fullmatch("[A-Za-z0-9_-]+", key):
            args.usage_error("--set takes KEY=VALUE")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except ValueError:
            found[key] = value
    return found


def _asks_for_key(kind: str, path: Path) -> bool:
    """Return whether an account of a kind has to have a key; :raises Refused: if there is no such kind."""
    if kind in BUILT_IN_KINDS:
        return True
    config = load(path, environ=os.environ) if path.exists() else default()
    try:
        kinds = kinds_of(config)
    except Exception as e:  # PluginError, which is not imported for everybody
        raise Refused(str(e)) from None
    if kind not in kinds:
        near = nearest_of(kind, kinds)
        hint = f"did you mean {near}?" if near else "a plugin that has it goes into [plugins] load"
        raise Refused(f"there is no kind {kind}; {hint} The kinds are {', '.join(kinds)}.")
    return kinds[kind].needs_key


def new_table(args: argparse.Namespace, name: str, source: Mapping[str, str], project: str | None) -> dict[str, object]:
    """Return the table of a new account; a Code Assist account is let in only with the word that it is licensed."""
    if args.kind == "code-assist":
        print(_NOTICE, file=sys.stderr)
        if not args.i_have_a_licence:
            raise Refused("If the account is licensed, say so with --i-have-a-licence.  Nothing was changed.")
    written = {
        "name": name,
        "kind": args.kind,
        **source,
        "project": project,
        "location": args.location,
        "endpoints": args.endpoint,
        "models": args.model,
    }
    return {key: value for key, value in written.items() if value is not None}


def foresee(path: Path, table: Mapping[str, object]) -> None:
    """Refuse what will be refused anyway before a person is asked for a secret."""
    files.check(_with(files.read(path), {**table, "enabled": False}), path, os.environ)


def _with(text: str, table: Mapping[str, object], notes: Mapping[str, str] | None = None) -> str:
    if any(each.get("name") == table["name"] for each in files.tables(text, AT)):
        raise Refused(f"there is an account {table['name']!r} already; choose another name, or remove it first")
    return files.added(text, AT, table, notes)


def write_account(path: Path, table: Mapping[str, object], source: str, secret: files.SecretFile | None = None) -> int:
    notes = {source: KEPT} if secret is not None else {}
    new = files.edit(path, lambda text: _with(text, table, notes), environ=os.environ, secret=secret)
    print(f"added {table['name']} ({table['kind']}) to {path}")
    if secret is not None:
        print(f"its secret is in {secret.path}, which you alone can read", file=sys.stderr)
        if path.stat().st_mode & 0o044:
            print(
                "if the gateway runs as another user, chown it to that user",
                file=sys.stderr,
            )
    warn(new)
    return 0


def warn(messages: Sequence[str]) -> None:
    for message in messages:
        print(f"warning: {message}", file=sys.stderr)


def _absolute(name: str) -> str:
    """A path of the command line as the configuration can hold it, where relative ones start elsewhere."""
    return str(Path(name).expanduser().absolute())


def ask_for_key(name: str) -> str:
    """Return the API key that a person types unseen, or that a pipe brings."""
    if not sys.stdin.isatty():
        key = _text_of(sys.stdin.buffer.read(_KEY_LIMIT))
    else:
        with warnings.catch_warnings():
            # Where the echo cannot be turned off, getpass would warn and go on.
            warnings.simplefilter("error", getpass.GetPassWarning)
            try:
                key = getpass.getpass(f"API key of {name} (it is not shown): ").strip()
            except getpass.GetPassWarning:
                raise Refused("this terminal would show the key; put it into a pipe instead") from None
            except (EOFError, KeyboardInterrupt):
                print(file=sys.stderr)
                key = ""
    if not key:
        raise Refused("no key was given; nothing was changed")
    if why := why_unusable(key):
        raise Refused(f"what was given {why}; nothing was changed")
    return key


def _text_of(data: bytes) -> str:
    return data.decode("utf-8-sig", "replace").strip()


def bytes_of(path: Path, what: str, limit: int) -> bytes:
    """Read a file.  A refusal does not name it: a key may have been pasted where its file belongs."""
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError, RuntimeError) as failure:
        why = failure.strerror if isinstance(failure, OSError) else "no file can have this name"
        raise Refused(f"{what}: the file cannot be read: {why}") from None
    if len(data) > limit:
        raise Refused(f"{what}: the file is longer than {limit} bytes, which no such file is")
    return data


# -- import ------------------------------------------------------------------------------------------


_NEEDED = {
    "service_account": ("client_email", "private_key", "token_uri"),
    "authorized_user": ("client_id", "client_secret", "refresh_token"),
    "external_account": ("audience", "subject_token_type", "token_url"),
    "external_account_authorized_user": ("client_id", "client_secret", "refresh_token"),
    "impersonated_service_account": ("service_account_impersonation_url",),
}


@attrs.frozen
class _Login:
    """What a google-auth file says about itself, beside its ``content``: whose it is, for which project."""

    content: bytes = attrs.field(repr=False)
    owner: str | None
    project: str | None

    @classmethod
    def read(cls, path: Path, what: str) -> "_Login":
        """Return the file at ``path``, or :class:`Refused` with what is wrong with it as a login."""
        content = bytes_of(path, what, FILE_LIMIT)
        try:
            held = json.loads(content)
        except (ValueError, RecursionError):
            held = None
        if not isinstance(held, dict):
            raise Refused(f"{what}: the file is not a JSON object, as google-auth files are")
        kind = held.get("type")
        if not isinstance(kind, str) or kind not in _NEEDED:
            raise Refused(f"{what}: {_not_a_login(held)}")
        if missing := [key for key in _NEEDED[kind] if not isinstance(held.get(key), str)]:
            raise Refused(f"{what}: the file is of type {kind}, but has no {' and no '.join(missing)}")
        email = _text(held, "client_email") or _text(held, "account")
        return cls(
            content,
            email.partition("@")[0] if email else None,
            _text(held, "project_id") or _text(held, "quota_project_id"),
        )


def _text(held: Mapping[str, object], key: str) -> str | None:
    value = held.get(key)
    return value if isinstance(value, str) and value else None


def _not_a_login(held: Mapping[str, object]) -> str:
    """Explain why a JSON object is not one of google-auth's files."""
    if "type" not in held and {"access_token", "refresh_token"} & held.keys():
        return (
            "the file holds the tokens of a login, as gemini-cli's oauth_creds.json does, but no type, client_id and"
            " client_secret: nothing could renew them, and Google's terms forbid other software to use"
            " gemini-cli's own client.  Use an API key, a service account, or `gcloud auth application-default login`"
        )
    if {"installed", "web"} & held.keys():
        return "the file describes an OAuth client, with which nobody has signed in yet: agm login --client FILE does"
    return f"the file's type is none of {', '.join(_NEEDED)}"


#: The variables in which Google's SDKs look for a key of AI Studio.
_KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")


def _import_environment(args: argparse.Namespace) -> int:
    path = files.path_to_edit(args.config, os.environ)
    args.kind = "api-key"
    by_key = {os.environ[name]: name for name in reversed(_KEY_VARIABLES) if os.environ.get(name)}  # each key once
    if not by_key:
        raise Refused(f"neither of {' and '.join(_KEY_VARIABLES)} is set here")
    if args.name is not None and len(by_key) > 1:
        raise Refused(f"{' and '.join(_KEY_VARIABLES)} hold two keys; --name can name only one account")
    for variable in sorted(by_key.values()):
        table = new_table(args, args.name or variable.lower().replace("_", "-"), {"api_key_env": variable}, None)
        status = write_account(path, table, "api_key")
        if status:
            return status
    return 0


def _import(args: argparse.Namespace) -> int:
    if args.from_environment == (args.file is not None):
        args.usage_error("give one of FILE and --from-environment")
    if args.from_environment:
        return _import_environment(args)
    path = files.path_to_edit(args.config, os.environ)
    source = Path(args.file).expanduser() if args.file.startswith("~") else Path(args.file)
    login = _Login.read(source, args.file)
    project = args.project or login.project
    if args.kind == "vertex" and project is None:
        raise Refused(f"{args.file}: the file names no project, which a vertex account needs; give --project")
    name = args.name or re.sub(r"[^A-Za-z0-9._-]+", "-", login.owner or project or source.stem)
    stored = place_of(path, name, "json")
    referred = reference(path, stored) if args.copy else str(source.absolute())
    table = new_table(args, name, {"credentials": referred}, project)
    if not args.copy:
        return write_account(path, table, "credentials")
    foresee(path, table)
    return write_account(path, table, "credentials", files.SecretFile(stored, login.content))


# -- list --------------------------------------------------------------------------------------------


_SOURCES = ("api_key", "api_key_env", "api_key_file", "access_token", "access_token_env", "credentials")


def _list(args: argparse.Namespace) -> int:
    path = find(args.config, os.environ)
    text = "" if path is None else files.read(path)
    entries = () if path is None else parse(text, path=path, environ=os.environ).accounts
    accounts = [_described(table) for table in files.tables(text, AT)]
    live = standing(args)
    known = {each["name"] for each in accounts}
    others = [_described_live(each) for name, each in (live or {}).items() if name not in known]
    if args.json:
        if live is None:  # what is missing here may be set where the gateway is started
            shown = [{**each, "unusable": entry.unusable} for each, entry in zip(accounts, entries, strict=True)]
        else:
            shown = [{**each, "live": live.get(str(each["name"]))} for each in [*accounts, *others]]
        print(json_text(shown))
    elif not accounts and not others:
        print("no accounts; `agm account add NAME` adds one", file=sys.stderr)
    elif live is None:
        print(columns(accounts))
        for entry in entries:
            if entry.unusable is not None:
                print(f"{entry.name}: off: {entry.unusable}")
    else:
        print(columns([{**each, "state": _state(each, live)} for each in [*accounts, *others]]))
        for name, account in live.items():
            for line in details(account):
                print(printable(f"{name}: {line}"))
    return 0


def _state(account: Mapping[str, object], live: Mapping[str, Mapping[str, Any]]) -> str:
    return summary(live.get(str(account["name"]))) if account["enabled"] else "-"


def _described(table: Mapping[str, Any]) -> dict[str, object]:
    """Describe an account's table, which is known to be valid, without its secrets."""
    source = next((key for key in _SOURCES if key in table), None)
    return {
        "name": table["name"],
        "kind": table["kind"],
        "credential": "adc" if source == "credentials" and table[source] == "adc" else source,
        "project": table.get("project"),
        "location": table.get("location", "global") if table["kind"] == "vertex" else None,
        "models": table.get("models", ["*"]),
        "enabled": table.get("enabled", True),
    }


def _described_live(account: Mapping[str, Any]) -> dict[str, object]:
    """Describe an account that the gateway has beside those of the file: a demo's, or a plugin's."""
    unknown = dict.fromkeys(("credential", "project", "location", "models"))
    return {"name": account["name"], "kind": account["kind"], **unknown, "enabled": True}


def columns(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the same keys, at least one, as aligned columns under a heading."""
    cells = [
        [key.replace("_", " ").upper() for key in rows[0]],
        *([_cell(each) for each in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


# -- enable, disable, remove -------------------------------------------------------------------------


def _found(args: argparse.Namespace) -> Path:
    """Return the configuration, which holds the account that is named."""
    path = find(args.config, os.environ)
    files.index_of("" if path is None else files.read(path), AT, args.name, "account")
    assert path is not None, "no account is found in no file"
    return path


def _enable(args: argparse.Namespace) -> int:
    return _switch(args, True)


def _disable(args: argparse.Namespace) -> int:
    return _switch(args, False)


def _switch(args: argparse.Namespace, enabled: bool) -> int:
    path = _found(args)

    def change(text: str) -> str:
        index = files.index_of(text, AT, args.name, "account")
        if files.tables(text, AT)[index].get("enabled", True) is enabled:
            return text
        return files.changed(text, AT, index, {"enabled": enabled})

    before = files.read(path)
    warn(files.edit(path, change, environ=os.environ))
    print(f"{args.name} is {'enabled' if enabled else 'disabled'}")
    if enabled and files.read(path) == before:  # it was so before: then what the gateway holds against it is meant
        args.offline, args.url, args.client_key_env, args.model = False, None, None, None
        return _reset(args)
    return 0


def _reset(args: argparse.Namespace) -> int:
    """Ask the running gateway; where none runs, change what its next start would read."""
    from agm.persist import pool_state as state

    path = _found(args)
    running = find_running(args, "no gateway runs; the state file for its next start is changed")
    if running is not None:
        target = f"/_agm/accounts/{quote(args.name, safe='')}/reset"
        found = running.ask(target, json.dumps({"model": args.model}).encode())["reset"]
    else:
        config = load(path, environ=os.environ)
        try:
            found = state.reset(state.path_of(config), args.name, args.model)
        except (OSError, ValueError) as e:
            raise Refused(f"the state cannot be changed: {e}") from None
    model = f" for {args.model}" if args.model else ""
    done = f"cooldowns and errors{model} are cleared" if found else f"nothing to reset{model}"
    print(f"{args.name}: {done}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    path = _found(args)
    if not args.yes and not _agreed(f"Remove the account {args.name} from {path}? [y/N] "):
        raise Refused("not removed; nothing was changed")
    secrets: dict[Path, bool] = {}

    def change(text: str) -> str:
        index = files.index_of(text, AT, args.name, "account")
        secrets.clear()
        secrets.update(secret_files(text, index, path))
        return files.removed(text, AT, index)

    warn(files.edit(path, change, environ=os.environ))
    print(f"removed {args.name} from {path}")
    for file, own in secrets.items():
        if not own:
            print(f"{file} stays: agm did not write it, or another account uses it", file=sys.stderr)
            continue
        try:
            files.unlink(file)
        except OSError as failure:
            raise Refused(f"{file}: cannot be removed: {failure.strerror}; it still holds the secret") from None
    return 0


def _agreed(question: str) -> bool:
    try:
        print(question, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().casefold() in ("y", "yes")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return False

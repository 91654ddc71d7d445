"""
``agm login``: signs a person in with a browser and their own OAuth client, and adds the account.

The client is the person's, never agm's: there is none in it.  What the sign-in gives goes into a file for its owner
alone beside the configuration, and nowhere else; neither it nor the client's secret is ever printed.
"""

import argparse
import os
import re
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from agm.cli import account, files
from agm.cli.files import Refused
from agm.config import ConfigError, find, load

if TYPE_CHECKING:
    from agm.core.network import Network
    from agm.core.oauth import Grant, OAuthClient

__all__ = ["add_parser", "run"]

#: Seconds for a person to sign in.
PATIENCE = 300


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``login``."""
    what = "sign in with a browser and your own OAuth client, and add the account; or sign an account in again"
    parser = subparsers.add_parser(
        "login",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog="example:\n"
        "  agm login cloud --client client_secret.json --project my-project\n"
        "  agm login cloud --client client_secret.json --project my-project --no-browser",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="the account's name; default: from the email address")
    parser.add_argument(
        "--config", metavar="FILE", help="the file; else $AGM_CONFIG, else agm.toml in your configuration folder"
    )
    parser.add_argument("--kind", choices=("vertex", "code-assist"), default="vertex", help="default: vertex")
    parser.add_argument(
        "--client", metavar="FILE", help="client_secret.json of your own OAuth client, of type Desktop app"
    )
    parser.add_argument("--client-id", metavar="ID", help="the client's id, instead of --client")
    parser.add_argument(
        "--client-secret-env", metavar="VAR", help="the environment variable that holds the client's secret"
    )
    parser.add_argument("--auth-uri", metavar="URL", help="where the browser is sent; default: Google's")
    parser.add_argument("--token-uri", metavar="URL", help="where the code is exchanged; default: Google's")
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address, and take the one you are sent to from your paste"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=PATIENCE,
        help=f"to wait for the browser; default: {PATIENCE}",
    )
    account.add_limits(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Sign in; 0, or 1 with the reason why not."""
    from agm.core.oauth import SignInFailed

    try:
        return _run(args)
    except SignInFailed as failed:
        print(f"not signed in: {failed.reason}", file=sys.stderr)
        return 1


@attrs.frozen
class _Place:
    """Where the account is, or will be: the configuration, its file, and its table if it is there already."""

    config: Path
    file: Path | None
    existing: Mapping[str, Any] | None


def _run(args: argparse.Namespace) -> int:
    client = _client(args)
    place = _place(args)
    if place.existing is None:
        if args.kind == "vertex" and args.project is None:
            args.usage_error("a vertex account needs --project")
        # refused before a person has signed in for nothing
        account.foresee(place.config, _table(args, place, args.name or _NAMELESS))
    grant = _sign_in(args, client, _network(place.config, args.name))
    if place.existing is not None:
        return _again(place, grant, client)
    name = args.name or (_name_of(grant.email) if grant.email else args.kind)
    table = _table(args, place, name)
    quota_project = args.project if args.kind == "vertex" else None
    secret = files.SecretFile(
        place.config.parent / "keys" / f"{name}.json", grant.authorized_user(client, quota_project)
    )
    return account.write_account(place.config, table, "credentials", secret)


_NAMELESS = "new-account"


def _name_of(email: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", email.partition("@")[0])


def _place(args: argparse.Namespace) -> _Place:
    path = files.path_to_edit(args.config, os.environ)
    text = files.read(path)
    tables = files.tables(text, ("accounts",))
    index = next((at for at, table in enumerate(tables) if table.get("name") == args.name), None)
    if index is None:
        return _Place(path, None, None)
    found = find(args.config, os.environ)
    assert found is not None, "no account is found in no file"
    own = [file for file, own in account.secret_files(text, index, found).items() if own and file.suffix == ".json"]
    if not own:
        raise Refused(
            f"there is an account {args.name!r} already, and agm did not write its credentials;"
            " choose another name, or remove it first"
        )
    return _Place(found, own[0], tables[index])


def _table(args: argparse.Namespace, place: _Place, name: str) -> dict[str, object]:
    stored = place.config.parent / "keys" / f"{name}.json"
    return account.new_table(args, name, {"credentials": account.reference(place.config, stored)}, args.project)


def _again(place: _Place, grant: "Grant", client: "OAuthClient") -> int:
    """Put what a new sign-in gave in the place of the old."""
    assert place.existing is not None
    assert place.file is not None
    quota_project = place.existing.get("project") if place.existing.get("kind") == "vertex" else None
    files.replace_secret(files.SecretFile(place.file, grant.authorized_user(client, quota_project)))
    print(f"signed in {place.existing['name']} again")
    return 0


# -- The client --------------------------------------------------------------------------------------


def _client(args: argparse.Namespace) -> "OAuthClient":
    from agm.core.oauth import OAuthClient, SignInFailed, is_confidential, read_client

    if args.client is not None:
        if args.client_id is not None or args.client_secret_env is not None:
            args.usage_error("--client holds the id and the secret already")
        try:
            client = read_client(account.bytes_of(Path(args.client), "--client", account.FILE_LIMIT))
        except SignInFailed as failed:
            raise Refused(f"--client: {failed.reason}") from None
    elif args.client_id is not None and args.client_secret_env is not None:
        secret = os.environ.get(args.client_secret_env, "").strip()
        if not secret:
            raise Refused("--client-secret-env: there is no such variable, or nothing in it")
        client = OAuthClient(args.client_id, secret)
    else:
        args.usage_error(
            "agm brings no OAuth client: give your own with --client FILE, or --client-id and --client-secret-env;"
            " the Google Cloud console makes one under APIs & Services, Credentials, of type Desktop app"
        )
    uris = {name: getattr(args, name) for name in ("auth_uri", "token_uri") if getattr(args, name) is not None}
    client = attrs.evolve(client, **uris)
    for option, uri in (("--auth-uri", client.auth_uri), ("--token-uri", client.token_uri)):
        if not is_confidential(uri):
            raise Refused(f"{option}: write an https URL (plain http is for loopback hosts only)")
    return client


# -- The sign-in -------------------------------------------------------------------------------------


def _network(path: Path, name: str | None) -> "Network | None":
    """Return the network of the token endpoint: that of the account's upstream, as far as the configuration tells."""
    try:
        config = load(path, environ=os.environ)
    except ConfigError:  # there may be none yet; what is wrong with one has been said
        return None
    own = next((entry.network for entry in config.accounts if entry.name == name), None)
    return config.upstream.network if own is None else own.over(config.upstream.network)


def _sign_in(args: argparse.Namespace, client: "OAuthClient", network: "Network | None") -> "Grant":
    from agm.cli.reactor import run_in_reactor
    from agm.upstream.client import HTTPUpstreamClient
    from agm.upstream.credentials.sign_in import RedirectPort, exchange, new_authorization

    def to_token_endpoint(reactor: Any) -> HTTPUpstreamClient:
        return HTTPUpstreamClient(reactor, connect_timeout=10, network=network, environ=os.environ)

    if args.no_browser:
        # nobody listens there: the browser is on another machine, and shows the address that it cannot reach
        authorization = new_authorization(client, "http://127.0.0.1:8085/")
        _say("Open this address in a browser, on any machine, and sign in:\n")
        _say(f"  {authorization.url}\n")
        _say("It ends at an address that starts with http://127.0.0.1:8085/ and cannot be reached.")
        code = authorization.code_in(_pasted("Paste that address here: "))
        return run_in_reactor(lambda reactor: exchange(to_token_endpoint(reactor), authorization, code))

    async def browse(reactor: Any) -> "Grant":
        port = RedirectPort(reactor, _say)
        try:
            authorization = new_authorization(client, port.uri)
            _say("Sign in with the browser.  If none opens, open this address on this machine:\n")
            _say(f"  {authorization.url}\n")
            _open(authorization.url, reactor)
            code = await port.code(authorization, args.timeout)
            return await exchange(to_token_endpoint(reactor), authorization, code)
        finally:
            await port.close()

    return run_in_reactor(browse)


def _open(url: str, reactor: Any) -> None:
    """Open a browser, in a thread: one in a terminal would hold up everything."""
    from twisted.internet.threads import deferToThread

    def opened(found: object) -> None:
        if found is not True:
            _say("No browser could be opened here; open the address yourself, or use --no-browser.")

    deferToThread(webbrowser.open, url).addBoth(opened)


def _pasted(question: str) -> str:
    print(question, end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline(8192)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        raise Refused("interrupted; nothing was changed") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

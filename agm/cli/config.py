"""
``agm config``: which configuration file is used, and whether the gateway would take it.

Reads files and nothing else: no account is tried (``agm doctor`` does that) and no port is opened.  Plugins that the
file names are loaded, as by a start.
"""

import argparse
import datetime
import importlib.util
import os
import stat
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from agm.cli.plugin_checks import has_foreign_kinds, plugin_problems
from agm.config import Config, ConfigError, Problem, default, default_path, find, load
from agm.core.listening import Description
from agm.core.words import counted

__all__ = ["add_parser", "cannot_start", "doubtful", "names_of", "run"]

#: Bytes that the path of a unix socket may have: sun_path of unix(7), without the zero at its end.
_SOCKET_PATH = 107


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``config`` with its own subcommands, ``check`` and ``path``."""
    parser = subparsers.add_parser("config", help="check the configuration, or print its path")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, does, example in (
        (
            "check",
            "check whether the gateway would start with the configuration",
            "agm config check --config new.toml",
        ),
        ("path", "print the path of the configuration that is used", '"$EDITOR" "$(agm config path)"'),
    ):
        action = actions.add_parser(
            name,
            help=does,
            description=f"{does[0].upper()}{does[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        action.add_argument(
            "--config",
            metavar="FILE",
            help="the file; else $AGM_CONFIG, else agm.toml in your configuration folder",
        )
        action.set_defaults(run=run, action=name)


def run(args: argparse.Namespace) -> int:
    """Do what ``args.action`` says; 0, or :class:`agm.config.ConfigError` with what is wrong."""
    path = find(args.config, os.environ)
    if args.action == "path":
        print(path or default_path())
        return 0
    if path is None:
        print(f"{default_path()}: no such file; without one the defaults hold")
        print(_summary(default()))
        return 0
    config = load(path, environ=os.environ)
    if problems := [*cannot_start(config)]:
        raise ConfigError(problems)
    print(f"{path}: {_summary(config)}")
    for warning in [*config.warnings, *doubtful(config)]:
        print(f"warning: {warning}")
    return 0


def names_of(config: Config) -> Sequence[str]:
    """Return the names by which clients may come, beside those of the loopback."""
    public = urlsplit(config.gateway.public_url or "").hostname
    return list(dict.fromkeys([*config.gateway.allowed_hosts, *([public] if public else [])]))


def doubtful(config: Config) -> Iterator[str]:
    """Say what clients will have against the certificates of listeners with TLS, which a start would use."""
    descriptions = [Description.parse(each) for each in config.gateway.listen]
    if not any(each.kind == "ssl" for each in descriptions):
        return
    from agm.cli.cert import platform_roots
    from agm.web.certificate_checks import doubts
    from agm.web.certificates import CertificateFiles, ServerCertificate

    roots, now = platform_roots(os.environ), datetime.datetime.now(datetime.UTC)
    for files in dict.fromkeys(CertificateFiles.of(each) for each in descriptions if each.kind == "ssl"):
        for doubt in doubts(ServerCertificate(files), names_of(config), roots, now):
            yield f"{doubt.found}; {doubt.cure}"


def cannot_start(config: Config) -> Iterator[Problem]:
    """Say why a start with this configuration would fail that can be read: its listeners, who could change a plugin."""
    from agm.web.endpoints import problems_of

    yield from problems_of(config)
    yield from _sockets(config)
    if config.otel.endpoint is not None and importlib.util.find_spec("opentelemetry") is None:
        cure = "pip install '.[otel]' in agm's checkout"
        yield Problem(config.path, "otel.endpoint", f"asks for traces, but OpenTelemetry is not installed: {cure}")
    if config.plugins.path is not None:
        from agm.plugins.manager import PluginError, files_in

        try:
            files_in(config.plugins.path)
        except PluginError as e:
            yield Problem(config.path, "plugins.path", str(e))
            return
    if config.plugins.tables or config.plugins.load or config.plugins.path is not None or has_foreign_kinds(config):
        yield from plugin_problems(config)


def _sockets(config: Config) -> Iterator[Problem]:
    """Check that unix sockets can be made where they are to be."""
    for number, description in enumerate(config.gateway.listen):
        parsed = Description.parse(description)
        address = parsed.argument("address", 0) if parsed.kind == "unix" else None
        if address is None:
            continue
        folder = os.path.dirname(os.path.abspath(address))
        if not os.path.isdir(folder):
            why = f"{folder} is no folder; create it, or name another"
        elif len(os.fsencode(address)) > _SOCKET_PATH:
            why = f"the path has more than {_SOCKET_PATH} bytes, which no socket's may have"
        elif os.path.exists(address) and not stat.S_ISSOCK(os.stat(address).st_mode):
            why = f"{address} is there, and is no socket; name another"
        else:
            continue
        yield Problem(config.path, f"gateway.listen[{number}]", f"{description!r}: {why}")


def _summary(config: Config) -> str:
    out = (
        (sum(not account.enabled for account in config.accounts), "disabled"),
        (sum(account.unusable is not None for account in config.accounts), "off"),
    )
    which = ", ".join(f"{number} {what}" for number, what in out if number)
    counts = (
        counted(len(config.accounts), "account") + (f" ({which})" if which else ""),
        counted(len(config.auth.keys), "client key"),
        counted(len(config.models.aliases), "alias", "aliases"),
        counted(len(config.warnings), "warning"),
    )
    return f"ok: {', '.join(counts)}"

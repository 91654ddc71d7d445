"""
``agm config``: which configuration file is used, and whether the gateway would take it.

Reads files and nothing else: no account is tried (``agm doctor`` does that) and no port is opened.  Plugins are loaded
only where the file has tables of theirs, to be asked what these may hold.
"""

import argparse
import os
from collections.abc import Iterator

from agm.cli.plugin_checks import has_foreign_kinds, plugin_problems
from agm.config import Config, ConfigError, Problem, default, default_path, find, load

__all__ = ["add_parser", "cannot_start", "run"]


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
    for warning in config.warnings:
        print(f"warning: {warning}")
    return 0


def cannot_start(config: Config) -> Iterator[Problem]:
    """Say why a start with this configuration would fail that can be read: its listeners, who could change a plugin."""
    from agm.web.endpoints import problems_of

    yield from problems_of(config)
    if config.plugins.path is not None:
        from agm.plugins.manager import PluginError, files_in

        try:
            files_in(config.plugins.path)
        except PluginError as e:
            yield Problem(config.path, "plugins.path", str(e))
            return
    if config.plugins.tables or has_foreign_kinds(config):
        yield from plugin_problems(config)


def _summary(config: Config) -> str:
    out = (
        (sum(not account.enabled for account in config.accounts), "disabled"),
        (sum(account.unusable is not None for account in config.accounts), "off"),
    )
    which = ", ".join(f"{number} {what}" for number, what in out if number)
    counts = (
        _count(len(config.accounts), "account", "accounts") + (f" ({which})" if which else ""),
        _count(len(config.auth.keys), "client key", "client keys"),
        _count(len(config.models.aliases), "alias", "aliases"),
        _count(len(config.warnings), "warning", "warnings"),
    )
    return f"ok: {', '.join(counts)}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"

"""
``agm completion``: what a shell has to read to complete commands, options and the names of accounts and keys.

argcomplete does the work: the shell calls ``agm`` itself, which answers from its parser.  Of the configuration only
names are read, and nothing is said about one that cannot be used.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from agm.cli import files
from agm.config import ConfigError, find

__all__ = ["add_parser", "commands", "complete", "run"]

#: Commands whose NAME is that of a table of the configuration, and which.
_NAMES = {
    "agm account test": ("accounts",),
    "agm account enable": ("accounts",),
    "agm account disable": ("accounts",),
    "agm account remove": ("accounts",),
    "agm login": ("accounts",),
    "agm key revoke": ("auth", "keys"),
}

_EXAMPLES = """\
examples:
  agm completion bash > ~/.local/share/bash-completion/completions/agm
  agm completion zsh > "${fpath[1]}/_agm"
  agm completion fish > ~/.config/fish/completions/agm.fish"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``completion``."""
    what = "print the shell script that completes agm's commands"
    parser = subparsers.add_parser(
        "completion",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["agm"], shell=args.shell))
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell that asks, and end the process."""
    import argcomplete

    for command in commands(parser):
        for action in getattr(command, "arguments", ()):
            if action.dest == "name" and not action.option_strings and command.prog in _NAMES:
                action.completer = _names(_NAMES[command.prog])  # argcomplete's way
    argcomplete.autocomplete(parser)


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of the commands that a person can run, those without subcommands, in the order of ``--help``."""
    below: Mapping[str, argparse.ArgumentParser] = getattr(parser, "commands", {})
    if not below:
        yield parser
    for each in below.values():
        yield from commands(each)


def _names(at: tuple[str, ...]) -> Callable[..., Iterable[str]]:
    """Return a completer with the names of the configuration's tables at a place."""

    def completer(parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
        try:
            path = find(parsed_args.config, os.environ)
            tables = [] if path is None else files.tables(files.read(path), at)
        except (ConfigError, files.Refused):
            return []
        return [str(table["name"]) for table in tables if "name" in table]

    return completer

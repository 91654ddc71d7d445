"""
The ``agm`` command: the person's tool beside the gateway, one subcommand a module of this package.

A subcommand's module has ``add_parser(subparsers)``, which adds its arguments and names what to run with
``set_defaults(run=run)``, and ``run(args) -> int``, which does it and returns the exit status.  All modules
are imported for every command, so whatever takes long to import (Twisted, the upstream's client,
google-auth) is imported inside ``run``.  Nothing here serves requests: that is ``twistd agm``.
"""

import argparse
import sys
from collections.abc import Sequence

from agm import __version__
from agm.cli import account, config, key
from agm.config import ConfigError

__all__ = ["main"]

_COMMANDS = (account, config, key)


def main(argv: Sequence[str] | None = None) -> int | None:
    """
    Run one ``agm`` command and return its exit status.

    ``argv`` are the arguments after the program's name, ``sys.argv``'s if left out.  A configuration that
    cannot be used is one line a problem on standard error, and status 1; arguments that cannot be
    understood are argparse's, and status 2.
    """
    parser = argparse.ArgumentParser(
        prog="agm", description="Set up and look into the local gateway for the Gemini API."
    )
    parser.add_argument("--version", action="version", version=f"agm {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1

"""
The ``agm`` command: the person's tool beside the gateway, one subcommand a module of this package.

A subcommand's module has ``add_parser(subparsers)``, which adds its arguments and names what to run with
``set_defaults(run=run)``, and ``run(args) -> int``, which does it and returns the exit status.  All modules
are imported for every command, so whatever takes long to import (Twisted, the upstream's client,
google-auth) is imported inside ``run``.  Nothing here serves requests: that is ``twistd agm``.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from agm import __version__
from agm.cli import account, config, explain, key, login, models, plugin, plugins, replay
from agm.config import ConfigError

__all__ = ["main"]

_COMMANDS = (account, login, key, models, explain, replay, plugins, plugin, config)


def main(argv: Sequence[str] | None = None) -> int | None:
    """
    Run one ``agm`` command and return its exit status.

    ``argv`` are the arguments after the program's name, ``sys.argv``'s if left out.  A configuration that
    cannot be used is one line a problem on standard error, and status 1; arguments that cannot be
    understood are argparse's, and status 2.  A reader who has seen enough, as ``head`` has, ends it quietly.
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
        status = int(args.run(args))
        sys.stdout.flush()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # the interpreter flushes once more at its end, and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status

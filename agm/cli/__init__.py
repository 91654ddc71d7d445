"""
The ``agm`` command: the person's tool beside the gateway, one subcommand a module of this package.

A subcommand's module has ``add_parser(subparsers)``, which adds its arguments and names what to run with
``set_defaults(run=run)``, and ``run(args) -> int``, which does it and returns the exit status, or raises
:class:`~agm.cli.files.Refused` or :class:`~agm.config.ConfigError`, which are shown, for status 1.  All modules
are imported for every command, so whatever takes long to import (Twisted, the upstream's client,
google-auth, rich) is imported inside ``run``.  Nothing here serves requests: ``agm serve`` becomes ``twistd agm``.
"""

import argparse
import contextlib
import difflib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, cast

from agm import __version__
from agm.cli import (
    account,
    cert,
    cluster,
    completion,
    config,
    doctor,
    explain,
    forecast,
    init,
    key,
    log,
    login,
    models,
    plugin,
    plugins,
    replay,
    serve,
    status,
    streams,
    top,
    ui,
    usage,
)
from agm.cli.files import Refused
from agm.cli.parsers import RecordingParser
from agm.cli.redacting_stream import RedactingStream
from agm.cli.streams import Output, OutputLost
from agm.config import ConfigError

__all__ = ["main", "make_parser"]

_COMMANDS = (
    init,
    serve,
    ui,
    account,
    login,
    key,
    cert,
    status,
    top,
    cluster,
    log,
    usage,
    forecast,
    doctor,
    models,
    explain,
    replay,
    plugins,
    plugin,
    config,
    completion,
)

#: What a shell gives for a program that ended by SIGINT.
INTERRUPTED = 130

_EPILOG = """\
examples:
  agm init
  agm serve
  agm status
  agm explain gemini-2.5-flash
  agm help COMMAND

As a service the gateway is started with: twistd -n agm"""


class CommandParser(RecordingParser):
    """A parser that knows the nearest command to one that does not exist."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and action.choices is self.commands and value not in action.choices:
            near = difflib.get_close_matches(str(value).casefold(), action.choices, n=1, cutoff=0.5)
            cure = f"did you mean {self.prog} {near[0]}?" if near else f"{self.prog} --help lists the commands"
            # what is no word may be a key that was pasted here
            shown = f" {value}" if re.fullmatch("[A-Za-z-]{1,20}", str(value)) else " of this name"
            self.error(f"there is no command{shown}; {cure}")
        super()._check_value(action, value)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = CommandParser(
        prog="agm",
        description="Set up and look into the local gateway for the Gemini API.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"agm {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """
    Run one ``agm`` command and return its exit status.

    ``argv`` are the arguments after the program's name, ``sys.argv``'s if left out.  What a command refuses is
    said on standard error, of a configuration that cannot be used a line a problem, and is status 1; arguments
    that cannot be understood are argparse's, and status 2.  A reader who has seen enough, as ``head`` has, ends
    it quietly, and so does Ctrl-C.  Nothing on standard error looks like a secret, not even in the traceback of
    what should not happen.
    """
    streams.prepare()
    out, errors = Output(sys.stdout), Output(sys.stderr)
    shown: Any = RedactingStream(cast(Any, errors))
    with contextlib.redirect_stdout(cast(Any, out)), contextlib.redirect_stderr(shown):
        try:
            status = _run(argv)
        except SystemExit:  # argparse has printed its help, or a mistake
            if _written(out, errors):
                raise
            status = 1
        except OutputLost:
            status = 1
        except Exception:
            with contextlib.suppress(OutputLost):
                traceback.print_exc()
            status = 1
        return status if _written(out, errors) else status or 1


def _written(out: Output, errors: Output) -> bool:
    """Write out what was printed; whether it could be.  A reader who has left is told nothing."""
    out.settle()
    if out.lost is not None and not isinstance(out.lost, BrokenPipeError):
        with contextlib.suppress(OutputLost):
            print(f"the output cannot be written: {out.lost.strerror}", file=sys.stderr)
    errors.settle()
    return out.lost is None


def _run(argv: Sequence[str] | None) -> int:
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:
        completion.complete(parser)
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    args = parser.parse_args(words)
    if not getattr(args, "json", False) and not getattr(args, "csv", False):
        streams.spell()
    try:
        return int(args.run(args))
    except (ConfigError, Refused) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED

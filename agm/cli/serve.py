"""
``agm serve``: runs the gateway in this terminal, for whoever has no ``twistd`` on the PATH.

It is ``twistd -n --pidfile= agm`` with the same options, as the same process: this one becomes it.  Without a pid file,
several gateways can be started in one folder.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["add_parser", "run"]

#: Started with ``-P``, so that the current folder does not come before what is installed; twistd's script is so, too.
_TWISTD = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``serve``, whose options are those of ``twistd agm``."""
    what = "run the gateway in this terminal, until Ctrl-C"
    parser = subparsers.add_parser(
        "serve",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.  It is the same as twistd -n agm, without a pid file.",
        epilog="example:\n  agm serve\n  agm serve --demo --open\n  agm serve --port 8046 --config team.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--port", metavar="PORT", help="listen on this TCP port of 127.0.0.1; default: 8045")
    parser.add_argument(
        "--listen",
        metavar="ENDPOINT",
        action="append",
        default=[],
        help=r"listen on this Twisted server endpoint, e.g. unix:/run/agm.sock or 'tcp6:8045:interface=\:\:1'; may be"
        " given several times",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the file; else $AGM_CONFIG, else agm.toml in your configuration folder"
    )
    parser.add_argument(
        "--plugin",
        metavar="MODULE",
        action="append",
        default=[],
        help="load this plugin, a dotted module name; may be given several times",
    )
    parser.add_argument("--workers", metavar="N", help="serve with so many processes; default: [gateway] workers, or 1")
    parser.add_argument("--log-format", metavar="FORMAT", help="text or json; default: [log] format")
    parser.add_argument("--demo", action="store_true", help="answer from a built-in emulator: no account, no network")
    parser.add_argument("--open", action="store_true", help="open the dashboard in a browser once the gateway answers")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Become the gateway.  It returns only where the system cannot start a program."""
    command = [sys.executable, "-P", "-c", _TWISTD, "-n", "--pidfile=", "agm", *options_of(args)]
    if args.open:
        subprocess.Popen([sys.executable, "-m", "agm", "ui", "--wait", "30", *_place(args)])  # noqa: S603  # ourselves
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)  # noqa: S606  # ourselves


def options_of(args: argparse.Namespace) -> Sequence[str]:
    """Return the options of ``twistd agm`` that say the same."""
    options = []
    for name in ("port", "config", "workers", "log_format"):
        if (value := getattr(args, name)) is not None:
            options.append(f"--{name.replace('_', '-')}={value}")
    options += [f"--listen={endpoint}" for endpoint in args.listen]
    options += [f"--plugin={module}" for module in args.plugin]
    if args.demo:
        options.append("--demo")
    return options


def _place(args: argparse.Namespace) -> Sequence[str]:
    """Return where ``agm ui`` finds the gateway that is being started."""
    listen = [*([f"tcp:{args.port}:interface=127.0.0.1"] if args.port is not None else ()), *args.listen]
    place = [f"--listen={endpoint}" for endpoint in listen]
    return place if args.config is None else [*place, f"--config={args.config}"]

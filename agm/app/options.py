"""The options of ``twistd agm``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from twisted.python import usage

from agm.config.problems import fail
from agm.config.tables import MOST_WORKERS
from agm.observe.logging import FORMATS


class Options(usage.Options):
    """The options of ``twistd agm``."""

    synopsis = "[--port PORT] [--config FILE] [--demo]"
    longdesc = (
        "A local gateway for the Gemini API. Point any Google SDK at http://127.0.0.1:8045; "
        "requests are served by the accounts of the configuration."
    )
    optParameters = (
        ("port", "p", None, "Listen on this TCP port of 127.0.0.1."),
        (
            "config",
            "c",
            None,
            "The configuration; else $AGM_CONFIG, else agm/agm.toml in your configuration folder.",
        ),
        ("workers", "w", None, "Serve with so many processes; else as [gateway] workers says, or 1."),
        ("log-format", None, None, "How the log looks: text or json; else as [log] format says."),
    )
    optFlags = (("demo", None, "Serve everything from a built-in emulator: no account, no network."),)
    compData = usage.Completions(
        optActions={"config": usage.CompleteFiles("*.toml"), "log-format": usage.CompleteList(FORMATS)}
    )

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["plugin"] = []

    def opt_listen(self, endpoint: str) -> None:
        r"""
        Listen on this Twisted server endpoint, e.g. unix:/run/agm.sock or 'tcp6:8045:interface=\:\:1'. May be given
        several times.
        """
        self["listen"].append(endpoint)

    def opt_plugin(self, module: str) -> None:
        """Load this plugin, a dotted module name; the current folder is searched, too. May be given several times."""
        self["plugin"].append(module)

    def opt_version(self) -> None:
        """Print the version of agm and exit."""
        from agm import __version__

        print(f"agm {__version__}")  # noqa: T201  # what a person asked for
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line.  A mistake is one line; twistd would print all of its help before it."""
        try:
            super().parseOptions(options)
        except usage.UsageError as mistake:
            fail(f"{str(mistake).rstrip('.')}; twistd agm --help shows the options")

    def postOptions(self) -> None:
        """Check what can be checked without listening."""
        if self["port"] is not None:
            if not re.fullmatch(r"[0-9]{1,5}", self["port"]) or not 0 <= int(self["port"]) <= 65535:
                fail(f"--port {self['port']!r} is not a port: give a number from 0 to 65535")
            self["listen"].insert(0, f"tcp:{int(self['port'])}:interface=127.0.0.1")
        if self["workers"] is not None:
            if not re.fullmatch(r"[0-9]{1,5}", self["workers"]) or not 1 <= int(self["workers"]) <= MOST_WORKERS:
                fail(f"--workers {self['workers']!r} is not a number of processes: give one from 1 to {MOST_WORKERS}")
            self["workers"] = int(self["workers"])
        if self["log-format"] not in (None, *FORMATS):
            fail(f"--log-format {self['log-format']!r} is not a format: give {' or '.join(FORMATS)}")

"""
``agm doctor``: looks at everything that has to be right for the gateway to serve, and names a cure for what is not.

The checks are those of :mod:`agm.diagnose.doctor`.  They change nothing, each has a time limit, and no secret is
printed.
"""

import argparse
import datetime
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

import attrs

from agm.cli.running import client_key, json_text, printable
from agm.core.words import counted

if TYPE_CHECKING:
    from agm.diagnose.doctor import Finding
    from agm.diagnose.doctor.here import Setup

__all__ = ["add_parser", "run"]

#: Seconds for a check of this machine.
LOCAL = 30.0


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``doctor``."""
    what = "check everything that the gateway needs, and suggest fixes"
    parser = subparsers.add_parser(
        "doctor",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog="example:\n  agm doctor\n  agm doctor --offline --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the file; else $AGM_CONFIG, else agm.toml in your configuration folder"
    )
    parser.add_argument(
        "--url", metavar="URL", help="where the gateway runs, http://HOST:PORT or unix:PATH; else as configured"
    )
    parser.add_argument(
        "--client-key-env", metavar="VAR", help="the environment variable that holds a client key, if one is asked for"
    )
    parser.add_argument("--offline", action="store_true", help="skip what needs the network: upstreams, accounts")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look; 0 if nothing keeps the gateway from working, else 1."""
    found: list[Finding] = []
    tell = _printer() if not args.json else (lambda finding: None)

    def take(findings: "Iterable[Finding]") -> None:
        for finding in findings:
            finding = attrs.evolve(finding, found=printable(finding.found))
            found.append(finding)
            tell(finding)

    _look(args, take)
    wrong = sum(finding.level == "error" for finding in found)
    if args.json:
        document = {"ok": not wrong, "findings": [attrs.asdict(finding) for finding in found]}
        print(json_text(document))
    else:
        doubtful = sum(finding.level == "warning" for finding in found)
        print(f"\n{counted(len(found), 'finding')}: {counted(wrong, 'error')}, {counted(doubtful, 'warning')}")
    return 1 if wrong else 0


def _printer() -> "Callable[[Finding], None]":
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    styles = {"ok": "green", "warning": "yellow", "error": "bold red"}

    def tell(finding: "Finding") -> None:
        line = Text(f"{finding.level:<8}", style=styles[finding.level])
        line.append(f"{finding.check:<14}{finding.found}", style="default")
        console.print(line)
        if finding.cure is not None:
            console.print(Text(f"{'':<22}fix: {finding.cure}"))

    return tell


def _look(args: argparse.Namespace, take: "Callable[[Iterable[Finding]], None]") -> None:
    from agm.cli.reactor import run_in_reactor
    from agm.diagnose.doctor import here, limited

    key = client_key(args.client_key_env)
    take(limited("packages", here.packages, LOCAL))
    setups: list[Setup] = []

    def configuration() -> "Iterable[Finding]":
        setup, findings = here.setup(args.config, os.environ)
        setups.append(setup)
        return findings

    take(limited("configuration", configuration, LOCAL))
    setup = setups[0] if setups else here.Setup(None, None)
    if setup.config is not None:
        take(limited("files", lambda: here.modes(setup.path, _state(setup)), LOCAL))
    take(limited("environment", lambda: here.environment(os.environ, setup.address, setup.config), LOCAL))
    take(limited("live", lambda: here.live(setup.config, os.environ), LOCAL))
    now = datetime.datetime.now(datetime.UTC)
    take(limited("certificate", lambda: here.certificates(setup.config, os.environ, now), LOCAL))
    take(limited("port", lambda: here.port(setup.listen, args.url, key), LOCAL))
    if not args.offline:
        take(limited("public", lambda: here.public(setup.config), LOCAL))

    async def beyond(reactor: Any) -> None:
        async for finding in _beyond(reactor, setup, args.offline):
            take([finding])

    run_in_reactor(beyond)


def _state(setup: "Setup") -> Any:
    from agm.persist.pool_state import path_of

    return None if setup.config is None else path_of(setup.config)


async def _beyond(reactor: Any, setup: "Setup", offline: bool) -> "AsyncIterator[Finding]":
    """Run the checks that need a reactor."""
    from agm.diagnose.doctor import sdks, unexpected

    if not offline and setup.config is not None:
        try:
            async for finding in _upstreams(reactor, setup):
                yield finding
        except Exception as failure:
            yield unexpected("endpoint", failure)
    try:
        async for finding in sdks.drive(reactor, os.environ):
            yield finding
    except Exception as failure:
        yield unexpected("sdk", failure)


async def _upstreams(reactor: Any, setup: "Setup") -> "AsyncIterator[Finding]":
    from agm.diagnose.doctor import Finding, upstreams
    from agm.diagnose.trial import for_trials
    from agm.serving.assemble import make_gateway

    assert setup.config is not None
    config = for_trials(setup.config)
    try:
        gateway = make_gateway(reactor, config, "off")
    except SystemExit as ended:  # as twistd would end
        yield Finding("plugins", "error", str(ended.code), "`agm plugins` shows what can be loaded")
        return
    unreachable: set[str] = set()
    try:
        await gateway.start()
        async for finding in upstreams.endpoints(reactor, config, gateway.client, os.environ, time.time, unreachable):
            yield finding
        async for finding in upstreams.accounts(gateway, config, unreachable):
            yield finding
    finally:
        await gateway.stop()

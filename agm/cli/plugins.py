"""
``agm plugins``: the plugins of the gateway in the order in which they are asked, and how often each failed.

Of a gateway that does not run the plugins are loaded in this process, and asked for no more than their kinds.
"""

import argparse
import os
from collections.abc import Mapping
from typing import Any

from agm.cli.account import columns
from agm.cli.files import Refused
from agm.cli.running import add_options, find_running, json_text, printable
from agm.config import default, find, load

__all__ = ["add_parser", "run"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``plugins``."""
    what = "show the plugins, hook by hook in the order in which they are asked"
    parser = subparsers.add_parser(
        "plugins",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog="example:\n  agm plugins --plugin my_company.routing",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--plugin", metavar="MODULE", action="append", default=[], help="load this plugin, too; implies --offline"
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show them; 0, or 1 if one cannot be used, with the reason."""
    args.offline = args.offline or bool(args.plugin)
    running = find_running(args, "loaded here; the running gateway's failure counts are not known")
    found = _offline(args) if running is None else running.ask("/_agm/plugins")
    print(json_text(found) if args.json else _readable(found))
    return 0


def _offline(args: argparse.Namespace) -> dict[str, Any]:
    from agm.plugins.manager import PluginError, make_plugin_manager
    from agm.web.admin.describe import describe_plugins

    path = find(args.config, os.environ)
    plugins = (default() if path is None else load(path, environ=os.environ)).plugins
    try:
        manager = make_plugin_manager([*plugins.load, *args.plugin], folder=plugins.path, disable=plugins.disable)
        found = describe_plugins(manager, {})
    except PluginError as error:
        raise Refused(str(error)) from None
    return {**found, "plugins": [{**plugin, "failures": None} for plugin in found["plugins"]]}


def _readable(found: Mapping[str, Any]) -> str:
    plugins = [
        {key: plugin[key] for key in ("name", "version", "origin", "where", "failures")} for plugin in found["plugins"]
    ]
    hooks = [
        {"hook": each["hook"], "asked_in_this_order": ", ".join(each["plugins"]) or None} for each in found["hooks"]
    ]
    kinds = [f"{kind} ({plugin['name']})" for plugin in found["plugins"] for kind in plugin.get("kinds", ())]
    below = [f"version {found['api_version']} of the hooks"] if "api_version" in found else []  # of an earlier gateway
    below += [f"kinds of upstreams: {', '.join(kinds)}"] if kinds else []
    shown = "\n".join([columns(plugins), "", columns(hooks), "", *below])
    return "\n".join(printable(line) for line in shown.split("\n"))

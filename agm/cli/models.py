"""
``agm models``: the models that can be asked for, as clients see them.

A running gateway also lists what its accounts report; without one, the configuration's ids and aliases are shown.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from agm.cli.account import columns
from agm.cli.running import Running, add_options, find_running, json_text, printable
from agm.config import default, find, load

__all__ = ["add_parser", "run"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``models``."""
    what = "list the models that clients can use"
    parser = subparsers.add_parser(
        "models",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog="example:\n  agm models --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List them; 0, or 1 with the reason why not."""
    running = find_running(args, "as configured, without what the accounts report")
    models = list(_configured(args) if running is None else _listed(running))
    if args.json:
        print(json_text(models))
    elif not models:
        print("no models", file=sys.stderr)
    else:
        print("\n".join(printable(line) for line in columns([_row(model) for model in models]).split("\n")))
    return 0


def _listed(running: Running) -> Iterator[Mapping[str, Any]]:
    return _all_pages(lambda token: running.ask(f"/v1beta/models?pageSize=1000&pageToken={quote(token, safe='')}"))


def _all_pages(page_after: Callable[[str], Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the models of every page, to the last."""
    token: str | None = ""
    while token is not None:
        page = page_after(token)
        yield from page.get("models", ())
        token = page.get("nextPageToken") or None


def _configured(args: argparse.Namespace) -> Iterator[Mapping[str, Any]]:
    from agm.core.models import Aliases, Catalog

    path = find(args.config, os.environ)
    models = (default() if path is None else load(path, environ=os.environ)).models
    catalog = Catalog(models.list, Aliases(models.aliases))
    return _all_pages(lambda token: catalog.page("1000", token))


def _row(model: Mapping[str, Any]) -> dict[str, object]:
    name = str(model["name"]).removeprefix("models/")
    base = model.get("baseModelId") or name
    return {
        "model": name,
        "base_model": base if base != name else None,
        "input_tokens": model.get("inputTokenLimit"),
        "output_tokens": model.get("outputTokenLimit"),
        "methods": list(model.get("supportedGenerationMethods", ())),
    }

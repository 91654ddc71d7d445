"""
``agm plugin``: begins a plugin, as a small project that can be installed, tested and published as it is.

It writes one new folder, and never into one that is there.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

from agm.cli.files import Refused

__all__ = ["add_parser", "project", "run"]

#: Keys of ``[plugins]`` that are agm's own, so that no plugin's table can have their names.
_TAKEN = ("load", "path", "timeout")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MAX_NAME = 50


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``plugin`` with its own subcommand, ``new``."""
    parser = subparsers.add_parser("plugin", help="create a new plugin")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    what = "create a small working plugin with its tests"
    new = actions.add_parser(
        "new",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog="example:\n  agm plugin new night-shift",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    new.add_argument("name", metavar="NAME", help="the plugin's name: lower-case letters, digits and single hyphens")
    new.add_argument("--dir", metavar="DIR", default=".", help="where to make the folder agm-NAME; default: here")
    new.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the project; 0, or 1 with the reason why not."""
    _check(args.name)
    folder = Path(args.dir).expanduser() / f"agm-{args.name}"
    _write(folder, project(args.name))
    module = _module(args.name)
    print(f"wrote {folder}")
    print(
        f"next:\n  cd {folder}\n  pip install -e '.[test]'\n  pytest\n  agm plugins\n  twistd -n agm --demo\n"
        f"what it does is in {module}.py",
        file=sys.stderr,
    )
    return 0


def _module(name: str) -> str:
    return f"agm_{name.replace('-', '_')}"


def _check(name: str) -> None:
    """Refuse what cannot be the name of a project, a module and a table at the same time, with one that can."""
    if _NAME.fullmatch(name) and len(name) <= _MAX_NAME and not name.startswith("agm-"):
        if name in _TAKEN:
            raise Refused(f"[plugins] {name} is a setting of agm's own; try `agm plugin new my-{name}`")
        return
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower())
    while words and words[0] == "agm":
        del words[0]
    better = re.sub(r"^[0-9-]+", "", "-".join(words))[:_MAX_NAME].rstrip("-")
    cure = f"; try `agm plugin new {better}`" if better and better not in _TAKEN else ""
    raise Refused(
        "a plugin's name is made of lower-case letters, digits and single hyphens, begins with a letter, "
        f"has no agm- in front and at most {_MAX_NAME} characters{cure}"
    )


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write files below a new folder; if that fails half-way, nothing is left."""
    if not folder.parent.is_dir():
        raise Refused(f"there is no folder {folder.parent}; make it first, or choose another --dir")
    try:
        folder.mkdir()
    except FileExistsError:
        raise Refused(f"{folder} is there already; choose another name or --dir, or move it away") from None
    except OSError as failure:
        raise Refused(f"{folder} cannot be made: {failure.strerror}") from None
    try:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except BaseException as failure:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(failure, OSError):
            raise Refused(f"{folder} cannot be written: {failure.strerror}") from None
        raise


def project(name: str) -> dict[str, str]:
    """Return the files of a new plugin's project: their texts, by their paths in it."""
    module = _module(name)

    def filled(text: str) -> str:
        return text.replace("NAME", name).replace("MODULE", module)

    return {
        "pyproject.toml": filled(_PYPROJECT),
        f"{module}.py": filled(_PLUGIN),
        f"tests/test_{module}.py": filled(_TESTS),
        "README.md": filled(_README),
        ".gitignore": _GITIGNORE,
    }


_PYPROJECT = """\
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "agm-NAME"
version = "0.1.0"
description = "A plugin for the agm gateway"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["agm-gateway"]

[project.optional-dependencies]
test = ["pytest", "pytest-twisted"]

# This is how the gateway finds the plugin, once the project is installed.
[project.entry-points.agm]
NAME = "MODULE"

[tool.setuptools]
py-modules = ["MODULE"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
addopts = "-p agm.testing"  # the fixtures
"""

_PLUGIN = '''\
"""
agm-NAME: serves the models called `NAME` and `NAME-…` by a real one, and logs who asked for what.

Its settings, in the gateway's configuration::

    [plugins.NAME]
    model = "gemini-2.5-flash"   # what serves; this is the default
    log = true                   # a line in the gateway's log per request; this is the default
"""

from typing import Any

from agm import hookimpl
from agm.api import GatewayRequest, ModelChoice, RequestRecord
from twisted.logger import Logger

DEFAULTS = {"model": "gemini-2.5-flash", "log": True}

settings: dict[str, Any] = dict(DEFAULTS)
log = Logger()


@hookimpl
def agm_configure(config: Any) -> None:
    """Read the settings: at the start, and whenever the configuration is reloaded."""
    table = config.plugins.tables.get("NAME", {})
    for key, value in table.items():
        if type(value) is not type(DEFAULTS.get(key)):
            raise ValueError(
                f"[plugins.NAME] {key}: there are model, a string, and log, true or false"
            )
    settings.clear()
    settings.update({**DEFAULTS, **table})


@hookimpl
def agm_map_model(model: str, request: GatewayRequest) -> ModelChoice | None:
    """Name the model that serves; None leaves a request to the other plugins."""
    if model == "NAME" or model.startswith("NAME-"):
        return ModelChoice(settings["model"], "agm-NAME serves it")
    return None


@hookimpl
def agm_request_finished(record: RequestRecord) -> None:
    """Log one line per request: names and numbers, never a text of the conversation."""
    if settings["log"]:
        log.info(
            "NAME: {client} asked for {asked}, served by {model}: {status} in {seconds} s",
            client=record.request.client_key or "somebody",
            asked=record.request.asked_model,
            model=record.request.model,
            status=record.status,
            seconds=round(record.ended, 3),
        )
'''

_TESTS = '''\
"""The plugin alone, and in a gateway before an emulator of Google's API: no account, no network."""

import pytest
import pytest_twisted
from agm.testing import check_plugin, parse_config

import MODULE

CONFIG = """
[[accounts]]
name = "emulated"
kind = "api-key"
api_key = "any-key"
endpoints = ["{url}"]

[plugins.NAME]
model = "gemini-2.5-pro"
"""


def test_it_keeps_the_rules_for_plugins() -> None:
    check_plugin(MODULE)


def test_a_setting_that_does_not_exist_ends_the_start() -> None:
    config = parse_config("[plugins.NAME]\\nmodle = 'x'\\n")
    with pytest.raises(ValueError, match="there are model"):
        MODULE.agm_configure(config)


@pytest_twisted.ensureDeferred
async def test_its_models_are_served_by_the_configured_one(gateway, emulator):
    config = CONFIG.format(url=emulator.url)
    running = await gateway(config, plugins=["MODULE"])
    answer = await running.ask("NAME-one")
    assert answer.status == 200
    assert answer.json["modelVersion"] == "gemini-2.5-pro"
'''

_README = """\
# agm-NAME

A plugin for the agm gateway. As it is, it serves the models called `NAME` and `NAME-…` by a real one, and
logs a line per request; what it does from here on is up to `MODULE.py`.

```console
$ pip install -e '.[test]'     # into the environment that agm is installed in
$ pytest                       # without an account, and without a network
$ agm plugins                  # NAME is first: it is asked before the built-in ones
$ agm explain NAME-one         # what it would make of a request
$ twistd -n agm --demo         # and what it does
```

Its settings are in the gateway's configuration:

| key of `[plugins.NAME]` | type | default | meaning |
|---|---|---|---|
| `model` | string | `"gemini-2.5-flash"` | The model that serves. |
| `log` | boolean | `true` | Whether each request is a line in the gateway's log. |

A running gateway reads changed settings by itself; changed code takes a restart.
"""

_GITIGNORE = """\
__pycache__/
*.egg-info/
.pytest_cache/
.venv/
build/
dist/
"""

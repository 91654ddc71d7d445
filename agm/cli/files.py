"""
The configuration file, as commands read and edit it; what a command refuses is a :class:`Refused`.

The plugins that the file names are asked what accounts of their kinds may hold.
"""

from collections.abc import Iterable
from functools import partial

from agm.cli.plugin_checks import has_foreign_kinds, plugin_problems
from agm.config import Config, Problem
from agm.persist import config_file
from agm.persist.config_file import (
    Refused,
    SecretFile,
    added,
    changed,
    index_of,
    note,
    path_to_edit,
    read,
    removed,
    replace_secret,
    tables,
    unlink,
)

__all__ = [
    "Refused",
    "SecretFile",
    "added",
    "changed",
    "check",
    "edit",
    "index_of",
    "note",
    "path_to_edit",
    "read",
    "removed",
    "replace_secret",
    "tables",
    "unlink",
]


def _of_plugins(config: Config) -> Iterable[Problem]:
    return plugin_problems(config) if has_foreign_kinds(config) else ()


check = partial(config_file.check, further=_of_plugins)
edit = partial(config_file.edit, further=_of_plugins)

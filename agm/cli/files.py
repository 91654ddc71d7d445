"""The configuration file, as commands read and edit it; what a command refuses is a :class:`Refused`."""

from agm.persist.config_file import (
    Refused,
    SecretFile,
    added,
    changed,
    check,
    edit,
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

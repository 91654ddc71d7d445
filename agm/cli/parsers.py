"""Parsers of command lines that say what is in them, for completion, the manual page and the nearest command."""

import argparse
from collections.abc import Mapping
from typing import Any

__all__ = ["RecordingParser"]


class RecordingParser(argparse.ArgumentParser):
    """
    A parser that remembers what it was made of; argparse's own lists are private.

    :ivar arguments: what :meth:`add_argument` has added to it, not to one of its groups.
    :ivar commands: the parsers of the commands below it, by their names.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments: list[argparse.Action] = []
        self.commands: Mapping[str, argparse.ArgumentParser] = {}
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Add an argument, and remember it."""
        added = super().add_argument(*args, **kwargs)
        self.arguments.append(added)
        return added

    def add_subparsers(self, **kwargs: Any) -> Any:
        """Add commands, and remember them."""
        added: Any = super().add_subparsers(**kwargs)
        self.commands = added.choices
        return added

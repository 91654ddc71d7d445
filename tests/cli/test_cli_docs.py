"""``docs/cli.md`` against the program: every command has its heading, every option is named."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

from agm.cli import make_parser
from agm.cli.completion import commands

TEXT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")


def all_commands() -> list[argparse.ArgumentParser]:
    """Every command that a person can run."""
    return list(commands(make_parser()))


def test_every_command_has_a_heading() -> None:
    """And no heading is of a command that does not exist."""
    headings = {
        match
        for line in TEXT.splitlines()
        if line.startswith("### ")
        for match in re.findall("`(agm [a-z ]+[a-z])", line)
    }
    assert headings == {parser.prog for parser in all_commands()}


def test_every_option_is_named() -> None:
    """In the page, and no option that does not exist is."""
    options = {
        option for parser in all_commands() for action in parser._actions for option in action.option_strings
    } - {"-h"}
    named = set(re.findall("--[a-z][a-z-]*", TEXT))
    assert named - {"--version", "--pidfile"} == options


def test_every_command_shows_in_its_help_how_it_is_written() -> None:
    """At least one example, which begins with the command or holds it."""
    lacking = [
        parser.prog
        for parser in all_commands()
        if not re.match(r"examples?:\n", parser.epilog or "") or parser.prog not in (parser.epilog or "")
    ]
    assert lacking == []


def test_every_example_can_be_understood() -> None:
    """By the parser itself; what comes behind a redirection is the shell's."""
    for parser in all_commands():
        for line in (parser.epilog or "").splitlines()[1:]:
            words = shlex.split(re.split(r" [<>|] |\)", line)[0].partition("agm ")[2])
            make_parser().parse_args(words)

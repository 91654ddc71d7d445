"""
Writes ``docs/agm.1``, the manual page of the ``agm`` command, from its parser: ``python tools/manpage.py``.

What it says of a command is what ``--help`` says; the rest is below.  The page holds no date, so that it changes only
when the command does, and is the same from every version of Python.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from agm.cli import make_parser
from agm.cli.completion import commands

PAGE = Path(__file__).parents[1] / "docs" / "agm.1"

_AFTER = r"""
.SH EXIT STATUS
.TP
.B 0
done
.TP
.B 1
refused, or something is wrong: it is on standard error, or among what was found
.TP
.B 2
the arguments cannot be understood
.TP
.B 130
ended by Ctrl-C
.SH ENVIRONMENT
.TP
.B AGM_CONFIG
the configuration, where \-\-config does not name one
.TP
.B NO_COLOR
if it is set, nothing is coloured
.SH FILES
.TP
.I ~/.config/agm/agm.toml
the configuration, where nobody names one
.TP
.I ~/.config/agm/keys/
secrets that agm wrote, for their owner alone
.TP
.I ~/.local/state/agm/
what a gateway has learned of its accounts
.SH SEE ALSO
.BR twistd (1).
The gateway is started with
.BR "twistd \-n agm" ;
.B twistd agm \-\-help
shows its options.
"""


def escaped(text: str) -> str:
    """Text as roff takes it for text."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def written(action: argparse.Action) -> str:
    """An argument as a person writes it."""
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    value = "" if action.nargs == 0 else f"\\fI{escaped(str(value))}\\fR"
    names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in action.option_strings)
    return " ".join(part for part in (names, value) if part)


def command(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The lines of one command."""
    shown = [action for action in parser._actions if action.dest != "help"]
    options = [action for action in shown if action.option_strings]
    arguments = [action for action in shown if not action.option_strings]
    optional = {action.dest for action in arguments if action.nargs in ("?", "*")}
    words = [f"[{written(a)}]" if a.dest in optional else written(a) for a in arguments]
    yield f".SS {' '.join([escaped(parser.prog), *(['[options]'] if options else []), *words])}"
    yield escaped(parser.description or "")
    for action in (*arguments, *options):
        yield ".TP"
        yield written(action)
        yield escaped(action.help or "")
    epilog = parser.epilog or ""
    if epilog:
        heading, _, examples = epilog.partition("\n")
        yield ".PP"
        yield escaped(heading.capitalize())
        yield from (".PP", ".nf", ".RS 4", escaped(re.sub("(?m)^  ", "", examples)), ".RE", ".fi")


def page() -> str:
    """The whole page."""
    parser = make_parser()
    lines = [
        '.\\" made by tools/manpage.py; do not edit',
        '.TH AGM 1 "" agm "User Commands"',
        ".SH NAME",
        f"agm \\- {escaped((parser.description or '').rstrip('.').lower().replace('gemini api', 'Gemini API'))}",
        ".SH SYNOPSIS",
        ".B agm",
        "[\\fB\\-\\-version\\fR] [\\fB\\-\\-help\\fR] \\fICOMMAND\\fR ...",
        ".SH DESCRIPTION",
        "agm sets up and looks into the gateway that twistd runs.",
        "It works on the configuration, whether a gateway runs or not: one that does reads the changed file by itself.",
        ".SH COMMANDS",
    ]
    for each in commands(parser):
        lines += command(each)
    return "\n".join(lines) + _AFTER


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""
The project's Markdown as tests read it: blocks, what is said of them, headings, links.

A block that cannot be run where the tests run has a comment right before it, ``<!-- not run: WHY -->``, and one whose
commands work, but print what is not known beforehand, ``<!-- not compared: WHY -->``; nothing else may be left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not (?P<what>run|compared): (?P<why>[^>]+?) -->\s*\Z")
_HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@attrs.frozen
class Block:
    """
    A fenced block.

    :ivar page: the file's name.
    :ivar line: of its opening fence, from 1.
    :ivar output: the ``text`` block right after it, where there is one.
    :ivar not_run: why it is not run; None if it is.
    :ivar not_compared: why nothing is claimed of what it prints; None if all of it is.
    """

    page: str
    line: int
    language: str
    text: str
    output: str | None
    not_run: str | None
    not_compared: str | None

    @property
    def file(self) -> str | None:
        """The file that it is, by its first line: ``# name.py``."""
        match = re.match(r"# (\S+\.\w+)\n", self.text)
        return None if match is None else match[1]

    @property
    def commands(self) -> list[tuple[str, str]]:
        """The commands of a console block, each with the output that is shown."""
        found: list[tuple[list[str], list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append(([line[2:]], []))
            elif not found[-1][1] and found[-1][0][-1].endswith("\\"):
                found[-1][0].append(line)
            else:
                found[-1][1].append(line)
        return [("\n".join(command), "".join(f"{line}\n" for line in output)) for command, output in found]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text("utf-8")
    fences = list(_FENCE.finditer(text))
    found = []
    for number, fence in enumerate(fences):
        after = fences[number + 1] if number + 1 < len(fences) else None
        follows = after is not None and after["info"] == "text" and not text[fence.end() : after.start()].strip()
        mark = _MARK.search(text, 0, fence.start())
        body = re.sub(f"(?m)^{fence['indent']}", "", fence["text"]) if fence["indent"] else fence["text"]
        found.append(
            Block(
                page.name,
                text.count("\n", 0, fence.start()) + 1,
                fence["info"],
                body,
                after["text"] if after is not None and follows else None,
                mark["why"] if mark is not None and mark["what"] == "run" else None,
                mark["why"] if mark is not None and mark["what"] == "compared" else None,
            )
        )
    return found


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """What a link to a heading of a page may end in, as GitHub makes it."""
    seen: dict[str, int] = {}
    for heading in _HEADING.findall(prose(text)):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = seen.get(slug, -1) + 1
        seen[slug] = number
        if number:
            seen[f"{slug}-{number}"] = 0
    return set(seen)


def links(text: str) -> Iterator[str]:
    """Where the links and pictures of a page lead."""
    plain = re.sub(r"(`+)[^`]+\1", "", prose(text))  # what is quoted as code is no link, but a link's text may be code
    for match in _LINK.finditer(plain):
        yield match["target"]


def write_possessions(folder: Path) -> None:
    """Files that a reader has and no page shows: a key, logins, something to upload; in a folder or a home."""
    login = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    robot = {
        "type": "service_account",
        "project_id": "my-project",
        "client_email": "robot@my-project.iam.gserviceaccount.com",
        "private_key": "k",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    files = {
        "gemini.key": "a-key-of-no-use\n",
        "team.json": json.dumps(login),
        "service-account.json": json.dumps(robot),
        ".config/gcloud/application_default_credentials.json": json.dumps(login),
        "talk.mp3": "ID3" + "\0" * 2000,
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)

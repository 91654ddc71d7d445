"""
What ``mkdocs.yml`` asks of Python: links that lead out of ``docs`` become plain text, because what they lead to, the
units in ``deploy`` for example, is in the project and not on the site.  Nothing else of a page is changed.
"""

from __future__ import annotations

import re
from typing import Any

_OUT_OF_DOCS = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\(\.\./[^)\s]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls it with the source of each page."""
    return _OUT_OF_DOCS.sub(lambda link: link["text"], markdown)

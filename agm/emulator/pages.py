"""The page that Google's front end shows for a path that no API has: HTML, not google.rpc.Status."""

from __future__ import annotations

import html

from agm.emulator.replies import Reply, body_reply

_PAGE = """<!DOCTYPE html>
<html lang=en>
  <meta charset=utf-8>
  <meta name=viewport content="initial-scale=1, minimum-scale=1, width=device-width">
  <title>Error 404 (Not Found)!!1</title>
  <p><b>404.</b> <ins>That’s an error.</ins>
  <p>The requested URL <code>{path}</code> was not found on this server.  <ins>That’s all we know.</ins>
"""


def not_found(path: str) -> Reply:
    """404 for a path, or a method on it, that does not exist."""
    body = _PAGE.format(path=html.escape(path)).encode("utf-8", "replace")
    return body_reply(404, body, "text/html; charset=UTF-8", (("Referrer-Policy", "no-referrer"),))

"""
Client keys in a SQLite table: added and revoked while the gateway runs, and looked up without holding it up.

::

    CREATE TABLE client_keys (
        sha256 TEXT PRIMARY KEY,            -- printf %s "$KEY" | sha256sum
        name TEXT NOT NULL,
        requests_per_minute INTEGER,        -- NULL: no limit
        revoked INTEGER NOT NULL DEFAULT 0
    );

Copy this file into the folder of ``[plugins] path``, and say where the database is::

    [plugins.sqlite_keys]
    database = "keys.sqlite"        # relative to the configuration; without it the plugin adds nothing
    fresh = 30                      # seconds for which an answer is cached

A revoked key is refused after ``fresh`` seconds at the latest, and at once after a SIGHUP.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.enterprise import adbapi

from agm.api import CachedKeys, ClientKey, hookimpl

QUERY = "SELECT name, requests_per_minute FROM client_keys WHERE sha256 = ? AND NOT revoked"

_pools: dict[Path, adbapi.ConnectionPool] = {}


@hookimpl
def agm_client_keys(config: Any) -> list[CachedKeys]:
    """The table, behind a memory; a reload makes a new memory on the same connections."""
    table = config.plugins.tables.get("sqlite_keys", {})
    if "database" not in table:
        return []
    path = (config.path.parent if config.path else Path()) / table["database"]
    if path not in _pools:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        _pools[path] = adbapi.ConnectionPool("sqlite3", uri, uri=True, check_same_thread=False, cp_max=2)
    pool = _pools[path]

    async def fetch(sha256: str) -> ClientKey | None:
        rows = await pool.runQuery(QUERY, (sha256,))
        return ClientKey(rows[0][0], sha256, requests_per_minute=rows[0][1]) if rows else None

    return [CachedKeys(fetch, fresh=table.get("fresh", 30), unknown_fresh=min(5, table.get("fresh", 30)))]

"""
The request log as a file: an SQLite database with a row per request, which any tool can read.

This is its schema, how it is opened, written, kept small and asked; docs/request-log.md describes it for people.  All
of it is synchronous: the gateway calls it in a thread (:mod:`agm.observe.requestlog.writer`), ``agm log`` and ``agm
usage`` in their own process.  A file that is not such a log, or was written by a newer agm, is never touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import attrs
from platformdirs import user_state_path

from agm.config import Config, default_path
from agm.core.money import known

#: What ``PRAGMA user_version`` is of a file that this agm writes.
SCHEMA = 1
#: What ``PRAGMA application_id`` is: "agmL".
APPLICATION = 0x61676D4C
#: Seconds for which bodies are kept.
BODY_SECONDS = 24 * 3600
#: Seconds that one process waits for another that writes.
PATIENCE = 5.0

_CREATE = (
    """
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY,
        request TEXT NOT NULL,
        started REAL NOT NULL,
        client_key TEXT,
        client TEXT NOT NULL,
        method TEXT NOT NULL,
        framing TEXT NOT NULL,
        asked_model TEXT NOT NULL,
        model TEXT NOT NULL,
        account TEXT,
        attempts INTEGER NOT NULL,
        status INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        reason TEXT,
        message TEXT,
        stopped TEXT,
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        prompt_tokens INTEGER,
        output_tokens INTEGER,
        cached_tokens INTEGER,
        thought_tokens INTEGER,
        tool_tokens INTEGER,
        total_tokens INTEGER,
        first_byte REAL,
        duration REAL NOT NULL,
        finish_reason TEXT,
        timeline TEXT NOT NULL,
        parent TEXT,
        cost REAL,
        team TEXT,
        dialect TEXT
    )
    """,
    "CREATE INDEX requests_by_start ON requests (started)",
    "CREATE INDEX requests_by_request ON requests (request)",
    """
    CREATE TABLE bodies (
        request TEXT PRIMARY KEY,
        started REAL NOT NULL,
        request_body BLOB NOT NULL,
        request_size INTEGER NOT NULL,
        answer_body BLOB,
        answer_size INTEGER
    )
    """,
)

#: Columns that came later, in their order: older files get them when they are next written.
_LATER = {"parent": "TEXT", "cost": "REAL", "team": "TEXT", "dialect": "TEXT"}

#: The columns of a row, in the order of the values that :func:`insert` takes; ``id`` is given by SQLite.
COLUMNS = tuple(re.findall(r"^        (\w+) (?:TEXT|REAL|INTEGER)(?! PRIMARY)", _CREATE[0], re.MULTILINE))
_ROW = f"({', '.join('?' * len(COLUMNS))})"
_INSERT = f"INSERT INTO requests ({', '.join(COLUMNS)}) VALUES {_ROW}"  # noqa: S608  # ours
#: Rows of one statement at most: 2^9.  What runs in another thread waits for the interpreter's lock after every
#: statement, and while somebody waits the reactor's thread pays for each call to the kernel that gives the lock away.
AT_ONCE = 512
_INSERT_BODIES = "INSERT OR REPLACE INTO bodies VALUES (?, ?, ?, ?, ?, ?)"
#: Columns in which people look for tokens.
TOKENS = ("prompt_tokens", "output_tokens", "cached_tokens", "thought_tokens", "tool_tokens", "total_tokens")

#: What requests can be summed up by, and the expression that says to which group one belongs.
GROUPS: Mapping[str, str] = {
    "key": "client_key",
    "team": "team",
    "account": "account",
    "model": "model",
    "day": "date(started, 'unixepoch', 'localtime')",
    "hour": "strftime('%Y-%m-%d %H:00', started, 'unixepoch', 'localtime')",
}


class Unusable(Exception):
    """A file is not a request log that can be used; the message names it, says why and what to do."""


def path_of(config: Config) -> Path | None:
    """Return where the request log of a gateway with this configuration is; None for nowhere."""
    if not config.request_log.enabled:
        return None
    if config.request_log.path is not None:
        return config.request_log.path
    if config.path is None:
        return None
    mark = "" if config.path == default_path() else f"-{hashlib.sha256(os.fsencode(config.path)).hexdigest()[:8]}"
    return user_state_path("agm", appauthor=False) / f"requests{mark}.sqlite3"


# -- Opening -----------------------------------------------------------------------------------------


def make(path: Path) -> None:
    """
    See to it that there is a file for its owner alone.

    :raises OSError: if that cannot be.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077 and found.st_uid == os.geteuid():
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """
    Make a connection fit for writing, and a new file a log.

    :raises Unusable: if the file is something else.
    :raises sqlite3.Error: if it cannot be written.
    """
    connection.isolation_level = None  # sqlite3 would wrap each statement that writes in two more
    version = _version(connection, path)
    connection.execute(f"PRAGMA busy_timeout = {int(PATIENCE * 1000)}")
    if version == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA secure_delete = ON")  # a body that is gone is gone
    connection.execute(f"PRAGMA journal_size_limit = {16 * 2**20}")
    if version == 0:
        with transaction(connection):
            if _version(connection, path) == 0:  # another process may have been quicker
                for statement in _CREATE:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
    elif _LATER.keys() - _columns(connection):  # the file is of a release that did not have them
        with transaction(connection):
            known = _columns(connection)
            for name, kind in _LATER.items():
                if name not in known:
                    connection.execute(f"ALTER TABLE requests ADD COLUMN {name} {kind}")


def _columns(connection: sqlite3.Connection) -> set[str]:
    return {name for _, name, *_ in connection.execute("PRAGMA table_info(requests)")}


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the format of the file; 0 for one that is empty."""
    application = _number(connection, "PRAGMA application_id")
    version = _number(connection, "PRAGMA user_version")
    if application != APPLICATION and (application or _number(connection, "SELECT count(*) FROM sqlite_master")):
        raise Unusable(f"{path} is a database of something else: set [request_log] path to another file")
    if version > SCHEMA:
        raise Unusable(
            f"{path} was written by a newer agm (its format is {version}, this agm knows {SCHEMA}): "
            "update agm, or move the file away"
        )
    return version


def _number(connection: sqlite3.Connection, statement: str) -> int:
    found: int = connection.execute(statement).fetchone()[0]
    return found


def open_to_read(path: Path) -> sqlite3.Connection:
    """
    Return a connection that changes nothing, whether a gateway is writing the file or not.

    :raises Unusable: if there is no such file, or it is something else.
    """
    if not os.path.exists(path):
        raise Unusable(f"{path}: no request was logged there yet")
    # a medium that cannot be written has nobody who writes, and no place for what readers of such a file share
    for how in ("mode=ro", "immutable=1"):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=PATIENCE)
        try:
            if _version(connection, path) == 0:
                raise Unusable(f"{path}: no request was logged there yet")
            connection.row_factory = sqlite3.Row
        except sqlite3.DatabaseError as e:
            connection.close()
            if how == "immutable=1" or "unable to open" not in str(e):
                raise Unusable(f"{path} cannot be read: {e}") from None
        except Unusable:
            connection.close()
            raise
        else:
            break
    return connection


# -- Writing -----------------------------------------------------------------------------------------


def insert(
    connection: sqlite3.Connection, rows: Sequence[Sequence[object]], bodies: Sequence[Sequence[object]] = ()
) -> None:
    """
    Add rows, all or none.

    :param rows: values in the order of :data:`COLUMNS`.
    :param bodies: of each the request's id, its start, its body and that one's size, the answer's body and its size.
    """
    # SQLite took 999 values before its version 3.32, and can be built to take fewer than it does now
    room = min(connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // len(COLUMNS), AT_ONCE)
    if len(rows) == room == AT_ONCE and not bodies:  # one statement is a transaction by itself
        connection.execute(_inserting(AT_ONCE), list(chain.from_iterable(rows)))
        return
    at = 0
    with transaction(connection):
        while at < len(rows):
            # few sizes, so that SQLite knows them again
            count = 1 << min(len(rows) - at, room).bit_length() - 1
            connection.execute(_inserting(count), list(chain.from_iterable(rows[at : at + count])))
            at += count
        if bodies:
            connection.executemany(_INSERT_BODIES, bodies)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Open a transaction: all of its statements take effect, or none."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@cache
def _inserting(count: int) -> str:
    """Return the statement that adds so many rows."""
    return ", ".join([_INSERT, *[_ROW] * (count - 1)])


def prune(connection: sqlite3.Connection, *, oldest: float, oldest_body: float, max_size: int) -> int:
    """
    Forget what is too old, and the oldest of what is too much; return how many requests were forgotten.

    :param oldest: requests that started earlier go, in seconds since the epoch.
    :param oldest_body: bodies of requests that started earlier go.
    :param max_size: the bytes that the database may take up.
    """
    with transaction(connection):
        connection.execute("DELETE FROM bodies WHERE started < ?", (max(oldest, oldest_body),))
        gone = connection.execute("DELETE FROM requests WHERE started < ?", (oldest,)).rowcount
    while size(connection) > max_size:
        with transaction(connection):
            count = connection.execute(
                "DELETE FROM bodies WHERE request IN (SELECT request FROM bodies ORDER BY started LIMIT 10)"
            ).rowcount
            if not count:
                first, last = connection.execute("SELECT min(id), max(id) FROM requests").fetchone()
                if first is None:
                    break
                count = connection.execute(
                    "DELETE FROM requests WHERE id <= ?", (first + max((last - first) // 20, 19),)
                ).rowcount
                gone += count
    connection.executescript("PRAGMA incremental_vacuum")  # execute would give back a single page
    return gone


def size(connection: sqlite3.Connection) -> int:
    """Return how many bytes are in use."""
    return _number(
        connection,
        "SELECT (page_count - freelist_count) * page_size "
        "FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
    )


# -- Asking ------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Filter:
    """
    Which requests are meant; what is None does not matter.

    `model` is a pattern with ``*``, of the model that was asked for or that served; `account` served, or was tried;
    `status` is a number or a class, ``5xx``; `since` and `until` are seconds since the epoch; `errors` are those that
    failed or broke off; `bodies` are those whose bodies were kept.
    """

    model: str | None = None
    account: str | None = None
    key: str | None = None
    team: str | None = None
    status: str | None = None
    outcome: str | None = None
    since: float | None = None
    until: float | None = None
    request: str | None = None
    errors: bool = False
    bodies: bool = False

    def _conditions(self) -> Iterator[tuple[str, tuple[object, ...]]]:
        if self.model is not None:
            pattern = re.sub(r"[\[?]", r"[\g<0>]", self.model)  # of GLOB's signs only the star is one here
            yield "(asked_model GLOB ? OR model GLOB ?)", (pattern, pattern)
        if self.account is not None:
            tried = f'"account":{json.dumps(self.account, ensure_ascii=False)},'
            yield "(account = ? OR instr(timeline, ?))", (self.account, tried)
        if self.key is not None:
            yield "client_key = ?", (self.key,)
        if self.team is not None:
            yield "team = ?", (self.team,)
        if self.status is not None:
            least = int(self.status.lower().replace("x", "0"))
            most = int(self.status.lower().replace("x", "9"))
            yield "status BETWEEN ? AND ?", (least, most)
        if self.outcome is not None:
            yield "outcome = ?", (self.outcome,)
        if self.errors:
            yield "outcome IN ('error', 'aborted')", ()
        if self.bodies:
            yield "request IN (SELECT request FROM bodies)", ()
        if self.since is not None:
            yield "started >= ?", (self.since,)
        if self.until is not None:
            yield "started < ?", (self.until,)
        if self.request is not None:
            yield "request = ?", (self.request,)

    def where(self) -> tuple[str, tuple[object, ...]]:
        """Return a condition in SQL, and the values for it."""
        found = list(self._conditions())
        return " AND ".join(condition for condition, _ in found) or "1", tuple(v for _, values in found for v in values)


def latest(
    connection: sqlite3.Connection, count: int, which: Filter | None = None, *, after: int = 0
) -> list[dict[str, Any]]:
    """
    The last `count` requests to end, the newest first: columns by their names, and the `timeline` as a list.

    :param after: only those with a greater ``id``.
    """
    where, values = (which or Filter()).where()
    rows = connection.execute(
        f"SELECT * FROM requests WHERE {where} AND id > ? ORDER BY id DESC LIMIT ?",  # noqa: S608  # no value in it
        (*values, after, count),
    )
    return [{**row, "timeline": json.loads(row["timeline"])} for row in map(dict, rows)]


def bodies_of(connection: sqlite3.Connection, request: str) -> dict[str, Any] | None:
    """Return the bodies that were kept of a request, with their whole sizes; None if none were."""
    row = connection.execute("SELECT * FROM bodies WHERE request = ?", (request,)).fetchone()
    return None if row is None else dict(row)


#: Requests that an upstream has answered, and whose price is not known.
_UNPRICED = "outcome != 'error' AND account IS NOT NULL AND cost IS NULL"


def totals(
    connection: sqlite3.Connection, by: str, which: Filter | None = None, *, cost: bool = False
) -> list[dict[str, Any]]:
    """
    Sums over requests, a row per group: the busiest first, or days and hours in their order.

    :param by: one of :data:`GROUPS`.
    :param cost: whether to sum up the costs as well, in US dollars, and how many requests are `unpriced`; the cost is
        None where none is known.
    """
    there = _columns(connection)  # of an older file, whatever came later is null
    group = "NULL" if by in _LATER and by not in there else GROUPS[by]
    priced = ""
    if cost:
        unpriced = _UNPRICED if "cost" in there else _UNPRICED.replace("cost IS NULL", "1")
        priced = f", {'total(cost)' if 'cost' in there else '0.0'} AS cost, total({unpriced}) AS unpriced"
    where, values = (which or Filter()).where()
    order = by if by in ("day", "hour") else "requests DESC, 1"
    sums = ", ".join(f"total({name}) AS {name}" for name in (*TOKENS, "bytes_in", "bytes_out"))
    rows = connection.execute(
        f'SELECT {group} AS "{by}", count(*) AS requests, '  # noqa: S608  # no value in it
        f"total(outcome IN ('error', 'aborted')) AS errors, {sums}{priced} "
        f"FROM requests WHERE {where} GROUP BY 1 ORDER BY {order}",
        values,
    )
    found = [
        {
            name: int(value) if isinstance(value, float) and name != "cost" else value
            for name, value in dict(row).items()
        }
        for row in rows
    ]
    if cost:
        for each in found:
            each["cost"] = known(each["cost"], each["unpriced"])
    return found

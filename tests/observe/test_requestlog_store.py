"""The file of the request log: its format, what it refuses, how it stays small, and what it answers."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agm.config import parse
from agm.observe.requestlog import store as logfile
from agm.observe.requestlog.store import AT_ONCE, COLUMNS, SCHEMA, Filter, Unusable

#: A row like any other.
PLAIN: dict[str, Any] = {
    "request": "r0",
    "started": 1_800_000_000.0,
    "client_key": "laptop",
    "client": "curl/8",
    "method": "generateContent",
    "framing": "unary",
    "asked_model": "gpt-4o",
    "model": "gemini-2.5-flash",
    "account": "work",
    "attempts": 1,
    "status": 200,
    "outcome": "ok",
    "bytes_in": 100,
    "bytes_out": 1000,
    "prompt_tokens": 10,
    "output_tokens": 20,
    "cached_tokens": 5,
    "thought_tokens": 0,
    "tool_tokens": 0,
    "total_tokens": 30,
    "duration": 1.5,
    "timeline": '[{"account":"work","endpoint":"e","ms":3}]',
}


def row(**different: Any) -> tuple[object, ...]:
    values = {**PLAIN, **different}
    return tuple(values.get(name) for name in COLUMNS)


def bodies(request: str, started: float = PLAIN["started"]) -> tuple[object, ...]:
    return (request, started, b"asked", 5, b"answered", 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "below" / "requests.sqlite3"


def writer(path: Path) -> sqlite3.Connection:
    logfile.make(path)
    connection = sqlite3.connect(path)
    logfile.prepare(connection, path)
    return connection


@pytest.fixture
def written(path: Path) -> Iterator[sqlite3.Connection]:
    connection = writer(path)
    yield connection
    connection.close()


def test_only_its_owner_may_read_it_and_what_sqlite_puts_beside_it(path: Path) -> None:
    """Whatever the umask, also for a file that was open to others."""
    before = os.umask(0)
    try:
        for _ in range(2):
            connection = writer(path)
            logfile.insert(connection, [row()], [bodies("r0")])
            found = {it.name: stat.S_IMODE(it.stat().st_mode) for it in path.parent.iterdir()}
            assert set(found.values()) == {0o600}
            assert len(found) == 3
            connection.close()
            path.chmod(0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_format_is_written_down_in_the_file(written: sqlite3.Connection) -> None:
    """Other versions of agm, and file(1), know it by these."""
    assert written.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    assert written.execute("PRAGMA application_id").fetchone() == (logfile.APPLICATION,)
    assert written.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert written.execute("PRAGMA synchronous").fetchone() == (1,)
    assert written.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_a_file_of_a_release_without_a_column_gets_it_and_keeps_its_rows(
    written: sqlite3.Connection, path: Path
) -> None:
    logfile.insert(written, [row()], [])
    for column in ("parent", "dialect"):
        written.execute(f"ALTER TABLE requests DROP COLUMN {column}")
    for _ in range(2):
        logfile.prepare(written, path)
        assert written.execute("SELECT count(parent), count(dialect), count(*) FROM requests").fetchone() == (0, 0, 1)


def test_a_newer_file_is_refused_and_left_alone(path: Path) -> None:
    connection = writer(path)
    logfile.insert(connection, [row()])
    connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.close()
    before = path.read_bytes()
    for use in (lambda: writer(path), lambda: logfile.open_to_read(path)):
        with pytest.raises(Unusable, match=r"requests.sqlite3 was written by a newer agm .*: update agm, or move"):
            use()
    assert path.read_bytes() == before


def test_another_programs_database_is_left_alone(path: Path) -> None:
    """A wrong path must not put tables into somebody else's file, nor delete from one that has the same names."""
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE requests (started REAL)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(Unusable, match="is a database of something else: set"):
        writer(path)
    assert path.read_bytes() == before
    path.write_bytes(b"no database at all, but a text that somebody needs" * 30)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        writer(path)
    with pytest.raises(Unusable, match="cannot be read: file is not a database"):
        logfile.open_to_read(path)
    assert path.read_bytes().startswith(b"no database")


def test_what_is_not_there_is_said_to_hold_nothing(path: Path) -> None:
    """Also an empty file, which a gateway that could not go on has left."""
    with pytest.raises(Unusable, match="no request was logged there yet"):
        logfile.open_to_read(path)
    logfile.make(path)
    with pytest.raises(Unusable, match="no request was logged there yet"):
        logfile.open_to_read(path)


def test_it_can_be_read_while_it_is_written_and_after(path: Path) -> None:
    """A reader sees what was committed, changes nothing, and keeps nobody from writing."""
    connection = writer(path)
    logfile.insert(connection, [row(request="r1")])
    reader = logfile.open_to_read(path)
    assert [it["request"] for it in logfile.latest(reader, 9)] == ["r1"]
    logfile.insert(connection, [row(request="r2")])
    assert [it["request"] for it in logfile.latest(reader, 9)] == ["r2", "r1"]
    assert [it["request"] for it in logfile.latest(reader, 9, after=1)] == ["r2"]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM requests")
    reader.close()
    connection.close()
    assert [it.name for it in path.parent.iterdir()] == [path.name]
    reader = logfile.open_to_read(path)
    assert logfile.latest(reader, 1)[0]["timeline"] == [{"account": "work", "endpoint": "e", "ms": 3}]
    reader.close()


def test_a_batch_is_written_whole_or_not_at_all(written: sqlite3.Connection) -> None:
    """A failure in the middle leaves nothing that would be there twice after another try."""
    with pytest.raises(sqlite3.IntegrityError):
        logfile.insert(written, [row(), row(model=None)])
    assert written.execute("SELECT count(*) FROM requests").fetchone() == (0,)


def test_old_requests_and_bodies_are_forgotten(written: sqlite3.Connection) -> None:
    """Bodies before their requests."""
    times = [100.0, 200.0, 300.0]
    logfile.insert(written, [row(request=str(t), started=t) for t in times], [bodies(str(t), t) for t in times])
    assert logfile.prune(written, oldest=150, oldest_body=250, max_size=10**9) == 1
    assert written.execute("SELECT started FROM requests").fetchall() == [(200.0,), (300.0,)]
    assert written.execute("SELECT started FROM bodies").fetchall() == [(300.0,)]


def test_a_file_that_grows_too_large_loses_its_oldest(written: sqlite3.Connection, path: Path) -> None:
    """Bodies first; and the space is given back to the disk."""
    for n in range(20):
        logfile.insert(
            written,
            [row(request=f"r{n}-{m}", message="x" * 2000) for m in range(100)],
            [(f"r{n}-0", n, b"x" * 10_000, 10_000, None, None)],
        )
    assert logfile.size(written) > 2**22
    gone = logfile.prune(written, oldest=0, oldest_body=0, max_size=2**21)
    assert logfile.size(written) <= 2**21
    left = written.execute("SELECT count(*) FROM requests").fetchone()
    assert left == (2000 - gone,)
    assert 0 < left[0] < 1200
    assert written.execute("SELECT request FROM requests ORDER BY id DESC").fetchone() == ("r19-99",)
    assert written.execute("SELECT count(*) FROM bodies").fetchone() == (0,)
    written.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size <= 2**21
    assert logfile.prune(written, oldest=0, oldest_body=0, max_size=1) == left[0]


def test_what_was_forgotten_is_not_in_the_file_any_more(written: sqlite3.Connection, path: Path) -> None:
    """A body may be a secret: it is overwritten, not only taken out of the index."""
    logfile.insert(written, [row()], [("r0", 1.0, b"a very private matter", 21, None, None)])
    written.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"a very private matter" in path.read_bytes()
    logfile.prune(written, oldest=0, oldest_body=2, max_size=10**9)
    written.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"private" not in path.read_bytes()


FILTERS = {
    "model of what was asked": (Filter(model="gpt-*"), {"a", "b"}),
    "model that served": (Filter(model="gemini-2.5-pro"), {"c"}),
    "signs that are none": (Filter(model="g[p]t-?o"), {"d"}),
    "account that served": (Filter(account="work"), {"a", "c"}),
    "account that was tried": (Filter(account='ho"me'), {"b", "c"}),
    "key": (Filter(key="ci"), {"b"}),
    "status": (Filter(status="429"), {"b"}),
    "class of statuses": (Filter(status="4xx"), {"b", "d"}),
    "outcome": (Filter(outcome="cancelled"), {"d"}),
    "errors": (Filter(errors=True), {"b"}),
    "since": (Filter(since=300), {"c", "d"}),
    "until": (Filter(until=200), {"a"}),
    "request": (Filter(request="c"), {"c"}),
    "several": (Filter(account="work", since=200), {"c"}),
    "everything": (Filter(), {"a", "b", "c", "d"}),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_find_what_they_say(written: sqlite3.Connection, name: str) -> None:
    one = '[{"account":"ho\\"me","endpoint":"e"}]'
    tried = '[{"account":"ho\\"me","endpoint":"e"},{"account":"work","endpoint":"e"}]'
    logfile.insert(
        written,
        [
            row(request="a", started=100),
            row(request="b", started=200, account=None, client_key="ci", status=429, outcome="error", timeline=one),
            row(request="c", started=300, asked_model="x", model="gemini-2.5-pro", timeline=tried),
            row(
                request="d",
                started=400,
                asked_model="g[p]t-?o",
                account=None,
                status=499,
                outcome="cancelled",
                timeline="[]",
            ),
        ],
    )
    written.row_factory = sqlite3.Row
    which, expected = FILTERS[name]
    assert {it["request"] for it in logfile.latest(written, 9, which)} == expected
    assert sum(it["requests"] for it in logfile.totals(written, "key", which)) == len(expected)


def test_sums_are_made_by_group(written: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not known counts as nothing; days and hours are the person's own."""
    monkeypatch.setenv("TZ", "Etc/GMT-3")
    time.tzset()
    try:
        noon = 1_799_928_000.0  # 2027-01-14 12:00 UTC
        unknown = dict.fromkeys(logfile.TOKENS)
        logfile.insert(
            written,
            [
                row(started=noon),
                row(started=noon + 8.9 * 3600, client_key=None, **unknown, outcome="error", status=503),
                row(started=noon + 9.1 * 3600, client_key="ci"),
                row(started=noon + 9.2 * 3600),
            ],
        )
        written.row_factory = sqlite3.Row
        by_key = logfile.totals(written, "key")
        assert [(it["key"], it["requests"], it["errors"]) for it in by_key] == [
            ("laptop", 2, 0),
            (None, 1, 1),
            ("ci", 1, 0),
        ]
        assert by_key[0] == {
            "key": "laptop",
            "requests": 2,
            "errors": 0,
            "prompt_tokens": 20,
            "output_tokens": 40,
            "cached_tokens": 10,
            "thought_tokens": 0,
            "tool_tokens": 0,
            "total_tokens": 60,
            "bytes_in": 200,
            "bytes_out": 2000,
        }
        assert [(it["day"], it["requests"]) for it in logfile.totals(written, "day")] == [
            ("2027-01-14", 2),
            ("2027-01-15", 2),
        ]
        assert [it["hour"] for it in logfile.totals(written, "hour")] == [
            "2027-01-14 15:00",
            "2027-01-14 23:00",
            "2027-01-15 00:00",
        ]
        assert [it["model"] for it in logfile.totals(written, "model")] == ["gemini-2.5-flash"]
        assert [it["account"] for it in logfile.totals(written, "account")] == ["work"]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_bodies_are_found_by_their_request(written: sqlite3.Connection) -> None:
    logfile.insert(written, [row()], [bodies("r0")])
    written.row_factory = sqlite3.Row
    found = logfile.bodies_of(written, "r0")
    assert found is not None
    assert (found["request_body"], found["answer_body"], found["answer_size"]) == (b"asked", b"answered", 8)
    assert logfile.bodies_of(written, "r1") is None


def test_the_file_has_a_place_of_its_own_for_each_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the person's state folder, unless it is named or there is no configuration to belong to."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config" / "agm" / "agm.toml"
    assert logfile.path_of(parse("", environ={})) is None
    assert logfile.path_of(parse("", path=own, environ={})) == tmp_path / "state" / "agm" / "requests.sqlite3"
    other = logfile.path_of(parse("", path=tmp_path / "other.toml", environ={}))
    assert other is not None
    assert other.parent == tmp_path / "state" / "agm"
    assert other.name.startswith("requests-")
    assert logfile.path_of(parse("[request_log]\nenabled = false", path=own, environ={})) is None
    named = parse('[request_log]\npath = "log.db"', path=own, environ={})
    assert logfile.path_of(named) == own.parent / "log.db"


@pytest.mark.parametrize("count", [1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE + 2])
def test_rows_of_any_number_are_written_in_their_order(path: Path, count: int) -> None:
    connection = writer(path)
    logfile.insert(connection, [row(request=f"r{number}", bytes_in=number) for number in range(count)])
    found = connection.execute("SELECT request, bytes_in, client_key, timeline FROM requests ORDER BY id").fetchall()
    assert found == [(f"r{number}", number, "laptop", PLAIN["timeline"]) for number in range(count)]
    connection.close()


@pytest.mark.parametrize("values", [999, 50])
def test_an_sqlite_that_takes_few_values_at_once_gets_smaller_statements(path: Path, values: int) -> None:
    connection = writer(path)
    connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, values)
    logfile.insert(connection, [row(request=f"r{number}") for number in range(AT_ONCE)])
    assert connection.execute("SELECT count(*) FROM requests").fetchone() == (AT_ONCE,)
    connection.close()


def test_of_rows_of_which_one_cannot_be_written_none_is(path: Path) -> None:
    connection = writer(path)
    with pytest.raises(sqlite3.IntegrityError):
        logfile.insert(connection, [*[row()] * (2 * AT_ONCE), row(), row(method=None), *[row()] * (AT_ONCE - 2)])
    assert connection.execute("SELECT count(*) FROM requests").fetchone() == (0,)
    connection.close()

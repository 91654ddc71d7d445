"""The example that looks client keys up in a SQLite table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
import sqlite_keys

from agm.api import digest
from agm.config import Config
from agm.testing import GatewayFactory, RunningEmulator, check_plugin, parse_config


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database with the key ``good`` of ``ada``, made as the example's docstring says."""
    assert sqlite_keys.__doc__ is not None
    create = sqlite_keys.__doc__[sqlite_keys.__doc__.index("CREATE TABLE") :].partition(";")[0]
    connection = sqlite3.connect(tmp_path / "keys.sqlite", isolation_level=None)
    connection.execute(create)
    connection.execute("INSERT INTO client_keys (sha256, name) VALUES (?, 'ada')", [digest("good")])
    yield connection
    connection.close()


@pytest.fixture(autouse=True)
def connections() -> Iterator[None]:
    """The example keeps its connections as long as the process runs; a test does not."""
    yield
    for pool in sqlite_keys._pools.values():
        pool.close()
    sqlite_keys._pools.clear()


def settings(folder: Path, fresh: float) -> str:
    return f'[plugins.sqlite_keys]\ndatabase = "{folder}/keys.sqlite"\nfresh = {fresh}\n'


def config(emulator: RunningEmulator, folder: Path, fresh: float = 30) -> Config:
    return parse_config('[auth]\nmode = "strict"\n' + emulator.account() + settings(folder, fresh))


@pytest_twisted.ensureDeferred
async def test_a_key_of_the_table_is_let_in_and_no_other(
    gateway: GatewayFactory, emulator: RunningEmulator, database: sqlite3.Connection, tmp_path: Path
) -> None:
    running = await gateway(config(emulator, tmp_path), plugins=[sqlite_keys])
    assert (await running.ask(key="good")).status == 200
    assert (await running.ask(key="bad")).status == 401
    assert (await running.ask()).status == 401


@pytest_twisted.ensureDeferred
async def test_a_revoked_key_is_refused_and_a_new_one_let_in_without_a_restart(
    gateway: GatewayFactory, emulator: RunningEmulator, database: sqlite3.Connection, tmp_path: Path
) -> None:
    running = await gateway(config(emulator, tmp_path, fresh=0), plugins=[sqlite_keys])
    assert (await running.ask(key="good")).status == 200
    database.execute("UPDATE client_keys SET revoked = 1")
    database.execute("INSERT INTO client_keys (sha256, name) VALUES (?, 'eve')", [digest("new")])
    assert (await running.ask(key="good")).status == 401
    assert (await running.ask(key="new")).status == 200


@pytest_twisted.ensureDeferred
async def test_an_answer_is_remembered_until_a_reload(
    gateway: GatewayFactory, emulator: RunningEmulator, database: sqlite3.Connection, tmp_path: Path
) -> None:
    running = await gateway(config(emulator, tmp_path), plugins=[sqlite_keys])
    assert (await running.ask(key="good")).status == 200
    database.execute("UPDATE client_keys SET revoked = 1")
    assert (await running.ask(key="good")).status == 200
    await running.gateway.reload(config(emulator, tmp_path))
    assert (await running.ask(key="good")).status == 401


@pytest_twisted.ensureDeferred
async def test_the_limit_of_a_key_is_the_tables(
    gateway: GatewayFactory, emulator: RunningEmulator, database: sqlite3.Connection, tmp_path: Path
) -> None:
    database.execute("UPDATE client_keys SET requests_per_minute = 1")
    running = await gateway(config(emulator, tmp_path), plugins=[sqlite_keys])
    assert [(await running.ask(key="good")).status for _ in range(2)] == [200, 429]


def test_it_keeps_the_rules_with_a_database_too(database: sqlite3.Connection, tmp_path: Path) -> None:
    """Its lookups are awaited."""
    check_plugin(sqlite_keys, settings=settings(tmp_path, 30))
    assert sqlite_keys._pools

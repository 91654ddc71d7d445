"""The pipes of a worker: its log when nobody reads it, its news, and its orders."""

from __future__ import annotations

import os

import pytest_twisted
from twisted.internet import reactor

from agm.app.supervisor import Lines
from agm.app.worker_pipes import MOST_LOG, LogPipe, News, Orders
from tests.helpers.support import eventually


def test_a_log_that_nobody_reads_waits_up_to_a_bound_and_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    pipe = LogPipe(writing)
    line = "x" * 1023 + "\n"
    for _ in range(3 * MOST_LOG // len(line)):
        pipe.write(line)
        pipe.flush()
    assert pipe.lost > MOST_LOG // len(line)
    received = b""
    while len(received) < MOST_LOG:
        received += os.read(reading, 65536)
        pipe.flush()
    received += os.read(reading, 2 * 65536)
    os.close(writing)
    assert received == line.encode() * (len(received) // len(line))
    os.close(reading)


def test_a_log_whose_reader_is_gone_is_lost_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    pipe = LogPipe(writing)
    pipe.write("one\n")
    pipe.flush()
    News(writing).ready("three\nfour")
    os.close(writing)


def test_news_is_a_line_each() -> None:
    reading, writing = os.pipe()
    news = News(writing)
    news.reloading()
    news.ready("serving from\n3 accounts")
    news.stopping("stopping", 40.0)
    assert os.read(reading, 1000) == b"reloading \nready serving from 3 accounts\nstopping 40\n"
    os.close(reading)
    os.close(writing)


@pytest_twisted.ensureDeferred
async def test_orders_are_obeyed_in_turn_and_their_end_is_one() -> None:
    reading, writing = os.pipe()
    obeyed: list[str | None] = []
    Orders(reactor, reading, obeyed.append)
    os.write(writing, b"reload\nSIG")
    await eventually(lambda: obeyed == ["reload"], "the first")
    os.write(writing, b"TERM\n")
    await eventually(lambda: obeyed == ["reload", "SIGTERM"], "the second")
    os.close(writing)
    await eventually(lambda: obeyed == ["reload", "SIGTERM", None], "the end")
    os.close(reading)


def test_lines_come_whole_whatever_the_pieces() -> None:
    taken: list[str] = []
    lines = Lines(taken.append)
    for piece in (b"on", b"e\ntwo\nth", "rée\nfour".encode()):
        lines.feed(piece)
    lines.end()
    assert "".join(taken) == "one\ntwo\nthrée\nfour\n"

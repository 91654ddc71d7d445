"""Short runs of the fuzzing that `python -m tests.fuzz` does at length: the same inputs each time."""

from __future__ import annotations

import random

import pytest

from agm.core import classify, ownership
from agm.core.wire.answer_filters import PlainEvents
from agm.core.wire.sse import MAX_BARE
from tests.fuzz import command, differential
from tests.fuzz.mutation import inputs, mutated, pieces
from tests.fuzz.targets import ANSWER_STARTS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs_break_nothing(name: str) -> None:
    target = TARGETS[name]
    for data in inputs(target.seeds, random.Random(name), max(400, len(target.seeds) + 300), target.tokens):
        command.check(name, data)


@pytest.mark.parametrize("name", differential.DIFFERENCES)
def test_the_gateways_readers_differ_from_h11_only_where_they_mean_to(name: str) -> None:
    outcome = differential.DIFFERENCES[name](2000, 1)
    assert not outcome.unexplained, "\n".join(outcome.unexplained[:5])
    assert outcome.taken > 300, "a comparison of nothing"


@pytest.mark.slow
def test_every_deliberate_difference_is_met_and_none_is_listed_in_vain() -> None:
    requests = differential.compare_requests(12_000, 1)
    answers = differential.compare_answers(12_000, 3)
    assert not requests.unexplained + answers.unexplained
    assert set(requests.deliberate) == set(differential.STRICTER)
    assert set(answers.deliberate) == {*differential.LOOSER, differential.STRICTER_THAN_H11}


def test_the_command_says_what_is_bad_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--runs", "50", "durations"]) == 0
    assert capsys.readouterr().out.startswith("durations: 50 inputs, 0 bad")
    with pytest.raises(SystemExit):
        command.main(["no-such-name"])


def test_the_same_seed_makes_the_same_inputs_and_pieces_make_the_whole() -> None:
    first, again = ([*inputs([b"a b", b"c\r\n"], random.Random(7), 200)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 100
    for data in first:
        assert b"".join(pieces(data, random.Random(1))) == data
    assert mutated(b"", random.Random(1)) is not None


# What once took time that grew with the square of its size, by counting the work


def test_a_targets_parts_are_looked_for_in_no_more_than_a_name_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_through: list[int] = []

    class Counting:
        def __init__(self, pattern: object) -> None:
            self._pattern = pattern

        def fullmatch(self, text: str) -> object:
            looked_through.append(len(text))
            return self._pattern.fullmatch(text)  # type: ignore[attr-defined]

    monkeypatch.setattr(ownership, "_MODEL_CALL", Counting(ownership._MODEL_CALL))
    monkeypatch.setattr(ownership, "_OPERATION", Counting(ownership._OPERATION))
    for method in ("GET", "POST"):
        assert ownership.parse(b"/v1beta/" + b"models/" * 4000 + b"m:batchGenerateContent", "POST") is not None
        assert ownership.parse(b"/v1beta/models/" + b"/operations" * 3000 + b"!", method) is None
    assert looked_through
    assert max(looked_through) <= ownership.MAX_NAME + 512


def test_a_long_delay_is_none() -> None:
    assert classify.parse_duration("1" * 64) is None
    assert classify.parse_duration("1" * 20 + "s") == float("1" * 20)
    assert classify.parse_duration("1" * 100_000 + "s") is None
    assert classify.parse_retry_after("1" * 100_000, 0.0) is None


@pytest.mark.parametrize("start", ANSWER_STARTS)
def test_what_begins_like_an_error_and_is_none_is_looked_at_once(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from agm.core.wire import answer_filters as answers

    looked_at = 0
    real = answers._Brackets.feed

    def feed(self: answers._Brackets, piece: bytes) -> int | None:
        nonlocal looked_at
        looked_at += len(piece)
        return real(self, piece)

    monkeypatch.setattr(answers._Brackets, "feed", feed)
    stream = start * (2 * MAX_BARE // len(start))
    filter_ = PlainEvents()
    passed = b"".join([filter_.feed(stream[i : i + 65536]) for i in range(0, len(stream), 65536)])
    assert stream.startswith(passed)
    assert looked_at <= 2 * len(stream)

"""What commands print: text, whatever clients and upstreams wrote, and nothing that a terminal would act upon."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.cli import main
from agm.cli.redacting_stream import RedactingStream
from agm.cli.running import json_text

#: To clear the screen by ESC and by CSI, to set the title, to turn the order of what follows, to go back and to end it.
NASTY = "a\x1b[2Jb\x9b31mc\x1b]0;x\x07d\x9d0;y\x9ce\u202ef\u2066g\rh\x08i\x00j\x7fk\u2028l"


def is_text(printed: str) -> bool:
    """Whether a terminal shows this as it is."""
    return all(line.isprintable() for line in printed.replace("\t", " ").split("\n"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=12,
)


@given(JSON, st.sampled_from([None, 2]))
def test_json_is_the_same_document_and_text(document: Any, indent: int | None) -> None:
    printed = json_text(document, indent=indent)
    assert json.loads(printed) == document
    assert is_text(printed)


def test_words_of_every_language_stay_readable() -> None:
    assert json_text(["Grüße, 世界, مرحبا, 👋🏽"], indent=None) == '["Grüße, 世界, مرحبا, 👋🏽"]'


def test_what_is_complained_about_is_text_too() -> None:
    out = io.StringIO()
    stream = RedactingStream(out)
    print(f"one\n\ttwo {NASTY}", file=stream)
    assert out.getvalue().startswith("one\n\ttwo a\N{REPLACEMENT CHARACTER}[2Jb")
    assert is_text(out.getvalue())


class Liar:
    """Something on a port that answers every request with these bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, suppress(OSError):
                    if connection.recv(65536):
                        connection.sendall(self._answer)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def liar() -> Iterator[type[Liar]]:
    made: list[Liar] = []

    class Kept(Liar):
        def __init__(self, answer: bytes) -> None:
            super().__init__(answer)
            made.append(self)

    yield Kept
    for each in made:
        with closing(each):
            pass


def answer(status: int, document: object) -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} X\r\nX-Agm-Request-Id: 0123456789abcdef\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


#: What a gateway may answer to each command; the last two are no documents of a gateway's.
TOLD: dict[str, dict[str, Any]] = {
    "models": {"models": [{"name": f"models/{NASTY}", "baseModelId": NASTY, "supportedGenerationMethods": [NASTY]}]},
    "plugins": {
        "plugins": [
            {"name": NASTY, "origin": NASTY, "where": NASTY, "version": NASTY, "hooks": [NASTY], "failures": 0}
        ],
        "hooks": [{"hook": NASTY, "plugins": [NASTY]}],
    },
    "explain m": {
        "request": {"version": NASTY, "method": NASTY, "model": NASTY, "framing": "sse"},
        "client_key": NASTY,
        "model": {"asked": NASTY, "served": NASTY, "reason": NASTY, "plugin": NASTY},
        "candidates": [NASTY],
        "excluded": [{"account": NASTY, "cause": NASTY, "reason": NASTY, "retry_after": 1.0, "plugin": NASTY}],
        "upstream": {"method": NASTY, "url": NASTY, "headers": {NASTY: NASTY}, "body": {NASTY: NASTY}, "plugin": NASTY},
        "error": {"code": 429, "status": NASTY, "message": NASTY, "details": [{"reason": NASTY, "retryDelay": NASTY}]},
        "plugins": [{"hook": NASTY, "plugin": NASTY, "said": NASTY}],
    },
    "log bodies": {"enabled": True, NASTY: NASTY},
    "log bodies off": {"enabled": True, NASTY: NASTY},
    "status": {"gateway": {"version": NASTY}},
    "top": {"gateway": {"version": NASTY}},
}


@pytest.mark.parametrize("options", ["", "--json"])
@pytest.mark.parametrize("command", TOLD)
def test_a_gateway_that_repeats_what_others_wrote_reaches_no_terminal(
    capsys: pytest.CaptureFixture[str], liar: type[Liar], command: str, options: str
) -> None:
    if command == "top" and options:
        return  # it has no JSON
    main([*command.split(), *options.split(), "--url", liar(answer(200, TOLD[command])).url])
    printed = capsys.readouterr()
    assert is_text(printed.out), printed.out
    assert is_text(printed.err), printed.err
    assert printed.out or printed.err


@pytest.mark.parametrize(
    "said",
    [
        answer(403, {"error": {"code": 403, "message": NASTY, "status": NASTY}}),
        answer(200, [NASTY]),
        f"{NASTY} {NASTY}\r\n\r\n".encode(),
        f"HTTP/1.1 {NASTY}\r\n\r\n".encode(),
        b"\x1b[2J",
        b"\xff\x9b2J\r\n\r\n",
    ],
)
@pytest.mark.parametrize("command", [["models"], ["status"], ["top"], ["explain", "m"]])
def test_what_is_no_gateway_moves_nothing_either(
    capsys: pytest.CaptureFixture[str], liar: type[Liar], said: bytes, command: list[str]
) -> None:
    assert main([*command, "--url", liar(said).url]) == 1
    printed = capsys.readouterr()
    assert printed.err
    assert is_text(printed.out + printed.err), printed

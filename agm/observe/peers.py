"""
What the workers of one machine tell each other about themselves, when somebody asks.

Each has a unix socket of its own in a folder that only their owner can open.  Who is asked for the whole asks all
others and adds their documents to its own; while nobody asks, nothing is sent.  A question is a line of JSON, its
answer a document, and the end of the connection its end.  Nothing in here decides anything about a request.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

__all__ = ["Answer", "Peers", "added"]

#: Seconds within which a worker has to answer.
DEADLINE = 1.0
#: Bytes of a question, and of an answer, at most.
MOST_QUESTION, MOST_ANSWER = 64 * 1024, 256 * 1024 * 1024

log = Logger()

#: Answers questions of one name; given what was asked with it.
Answering = Callable[[Any], object]


@attrs.frozen
class Answer:
    """What a worker answered: its number, and its document."""

    worker: int
    document: Any


class Peers:
    """
    The workers of one machine, as one of them sees them.

    :param folder: where the sockets are.
    :param number: this one's place among them, from 1 on.
    :param name: of its own socket: another one's than of whom it replaces.
    :param count: how many there are to be.
    """

    def __init__(self, reactor: Any, folder: Path, number: int, name: str, count: int) -> None:
        self._reactor = reactor
        self.folder = folder
        self.number = number
        self.name = name
        self.count = count
        self._own = folder / f"{name}.sock"
        self._answering: Mapping[str, Answering] = {}
        self.redact: Callable[[bytes], bytes] = bytes
        self._port: IListeningPort | None = None

    def start(self, answering: Mapping[str, Answering], redact: Callable[[bytes], bytes]) -> None:
        """
        Answer questions from now on.

        :param answering: by their names.
        :param redact: takes out of an answer the secrets that only this worker knows.
        """
        self._answering, self.redact = answering, redact
        factory = Factory.forProtocol(_Asked)
        factory.noisy = False
        factory.peers = self  # type: ignore[attr-defined]
        try:
            self._port = self._reactor.listenUNIX(str(self._own), factory, mode=0o600)
        except Exception as e:
            log.warn("the other workers cannot ask this one: {why}", why=str(e))

    def stop(self) -> Any:
        """Answer no more."""
        port, self._port = self._port, None
        return None if port is None else port.stopListening()

    def clear(self) -> None:
        """Remove the folder if nobody is left there: whoever made it is gone."""
        if not any(self.folder.glob("*.sock")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def answer(self, name: str, argument: Any = None) -> object:
        """
        Answer a question as this worker.

        :raises KeyError: if nobody here answers such a question.
        """
        return self._answering[name](argument)

    async def ask(self, name: str, argument: Any = None) -> tuple[list[Answer], int]:
        """
        Ask all workers, this one among them.

        :returns: their answers, this one's first and the others' by their numbers, and how many were asked that still
            run, those included that did not answer in time.
        """
        question = msgspec.json.encode([name, argument]) + b"\n"
        others = [path for path in sorted(self.folder.glob("*.sock")) if path != self._own]
        found, running = [Answer(self.number, self.answer(name, argument))], 1
        asked = [self._asked(path, question) for path in others]
        for succeeded, answer in await DeferredList(asked, consumeErrors=True):
            if succeeded and isinstance(answer, Answer):
                found.append(answer)
            running += not succeeded or answer is not None
        found[1:] = sorted(found[1:], key=lambda it: it.worker)
        return found, running

    def _asked(self, path: Path, question: bytes) -> Deferred[Answer | None]:
        """Return the answer of another worker; None of one that is not there any more."""
        asking = Deferred.fromCoroutine(self._ask_one(path, question))
        return asking.addTimeout(DEADLINE, self._reactor)

    async def _ask_one(self, path: Path, question: bytes) -> Answer | None:
        protocol = _Asking(question)
        try:
            await connectProtocol(UNIXClientEndpoint(self._reactor, str(path)), protocol)
        except CancelledError:
            raise
        except Exception:  # it has ended, and left its socket behind
            return None
        received = await protocol.received
        worker, document = msgspec.json.decode(received, type=tuple[int, Any])
        return Answer(worker, document)


class _Asked(Protocol):
    """A question that another worker asks."""

    factory: Any
    transport: Any
    _question = b""

    def dataReceived(self, data: bytes) -> None:
        """Part of the question."""
        self._question += data
        if len(self._question) > MOST_QUESTION:
            self.transport.abortConnection()
        elif self._question.endswith(b"\n"):
            peers: Peers = self.factory.peers
            try:
                name, argument = msgspec.json.decode(self._question, type=tuple[str, Any])
                document = peers.answer(name, argument)
                self.transport.write(peers.redact(msgspec.json.encode([peers.number, document])))
            except Exception:
                log.failure("a question of another worker could not be answered")
            self.transport.loseConnection()


class _Asking(Protocol):
    """A question to another worker."""

    transport: Any

    def __init__(self, question: bytes) -> None:
        self._question = question
        self._pieces: list[bytes] = []
        self._size = 0
        self.received: Deferred[bytes] = Deferred(lambda _: self.transport.abortConnection())

    def connectionMade(self) -> None:
        """Ask."""
        self.transport.write(self._question)

    def dataReceived(self, data: bytes) -> None:
        """Part of the answer."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MOST_ANSWER:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """All of the answer."""
        received, self.received = self.received, Deferred()
        if not received.called:
            received.callback(b"".join(self._pieces))


def added(documents: Sequence[Mapping[str, Any]], *names: str) -> dict[str, Any]:
    """Add up fields of documents; one that somebody lacks counts as nothing."""
    return {name: sum(document.get(name) or 0 for document in documents) for name in names}

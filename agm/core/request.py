"""
What hooks receive and return: frozen values, without a Twisted object in them, that stay the same for a request's life.

Bodies are parsed when somebody looks, and once.  Credentials are never part of these values: headers that may carry one
are left out before a :class:`GatewayRequest` is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import attrs
import msgspec

from agm.core import kinds
from agm.core.answer import NOTHING
from agm.core.classify import Verdict
from agm.core.documents import undense
from agm.core.errors import NOT_JSON
from agm.core.fingerprint import Look, look
from agm.core.models import Patterns
from agm.core.network import Network
from agm.core.wire.answer_filters import Framing
from agm.core.wire.bytechain import ByteChain
from agm.core.wire.envelope import unreadable
from agm.core.wire.usage import Usage
from agm.core.wire.vertex import Place

_OBJECT = msgspec.json.Decoder(dict[str, Any])


class Body:
    """
    A request's body: `raw` is what was sent, :meth:`json` what it says, :attr:`fingerprint` which conversation it is
    of.

    :attr:`parses` counts how often it was parsed, so that a test can tell that nobody did for nothing.
    """

    __slots__ = ("_document", "_look", "parses", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.parses = 0
        self._document: dict[str, Any] | None = None
        self._look: Look | None = None

    def __repr__(self) -> str:
        return f"<Body of {len(self.raw)} bytes>"  # never its text

    def json(self) -> dict[str, Any]:
        """
        The document, parsed at the first call.  It is shared: look, do not edit (``agm_transform_request`` edits).

        :raises agm.core.errors.InvalidRequest: if it is not a JSON object.
        """
        if self._document is None:
            self.parses += 1
            try:
                self._document = _OBJECT.decode(undense(self.raw))
            except NOT_JSON as e:
                raise unreadable(e) from None
        return self._document

    @property
    def fingerprint(self) -> str | None:
        """32 hexadecimal digits that stay the same through a conversation; None without a user turn."""
        return (self._look or self._looked()).fingerprint

    @property
    def plain(self) -> bool:
        """Whether it is a JSON object with a user turn that has neither a ``model`` nor a session of its own."""
        return (self._look or self._looked()).plain

    @property
    def strict(self) -> bool:
        """Whether it is a JSON object by the letter of the standard."""
        return (self._look or self._looked()).strict

    @property
    def roles(self) -> bool:
        """Whether it is a JSON object in which every turn has a role."""
        return (self._look or self._looked()).roles

    def _looked(self) -> Look:
        self.parses += 1
        self._look = look(self.raw)
        return self._look


@attrs.frozen(eq=False, slots=False)
class GatewayRequest:
    """
    A client's request, as far as it matters to a decision.

    `id` is in every log line and answer; `path` is without its query; `version` is ``v1beta``, ``v1`` or ``v1alpha``;
    `method` is Google's (``generateContent``); `asked_model` is what the client wrote and `model` what it is mapped to;
    `framing` is how the client wants the answer; `query` and `headers` (lower-case names) hold no credential;
    `client_key` is the name of the client's key; `received_at` is in seconds since the epoch; `parent` is the id of the
    request for which a plugin makes this one by ``gateway.call``.
    """

    id: str
    path: str
    version: str
    method: str
    asked_model: str
    model: str
    framing: Framing
    query: Mapping[str, str]
    headers: Mapping[str, str]
    client_key: str | None
    received_at: float
    body: Body
    #: How the upstream is to answer: as `framing`, or events where somebody edits or unwraps them.
    upstream_framing: Framing
    #: Nothing will be sent: ``agm explain`` asks.  Decide as ever, but remember nothing.
    explaining: bool = False
    #: Where a path in Vertex AI's shape says that it is, and that the answer is to have its form; None for any other.
    place: Place | None = None
    #: The id of the request for which a plugin makes this one; None for a client's own.
    parent: str | None = None
    #: What ``agm_look_up`` found, by the names that plugins gave.
    found: Mapping[str, Any] = NOTHING
    #: What the client's key says of whoever has it: a team, a user.
    key_metadata: Mapping[str, str] = NOTHING
    #: The team of the client's key, and the key's weight while accounts are short.
    team: str | None = None
    weight: int = 1
    #: The dialect that the client speaks, ``openai`` for one, where a plugin translates it; None for Google's own API.
    dialect: str | None = None


@attrs.frozen(eq=False)
class Account:
    """
    One account of the pool, without its credential.

    `models` answers ``name in account.models``; `endpoints` are base URLs in the order in which they are tried;
    a lower `priority` comes first; `max_concurrency` of None is no limit; `reserve` is the fraction of a quota that is
    left alone where the upstream reports how much is left; `unusable` says why there is no credential for it, and what
    helps, in words that a client may read: it is out until it is another account.
    """

    name: str
    #: Its name; :attr:`upstream` describes it.
    kind: str
    endpoints: tuple[str, ...]
    project: str | None = None
    location: str = "global"
    models: Patterns = attrs.field(factory=lambda: Patterns(("*",)))
    priority: int = 0
    max_concurrency: int | None = None
    #: A Vertex account with an API key and no project: express mode.
    express: bool = False
    reserve: float = 0.0
    #: How its upstream is reached, if not as the gateway's others.
    network: Network | None = None
    #: How many Live sessions it may hold; None is no limit.
    max_sessions: int | None = None
    unusable: str | None = None
    #: What a plugin's kind has of its own in the account's table: its ``settings``, filled in.
    settings: Any = None
    #: What its kind is like; of a kind of a plugin's the gateway fills it in.
    upstream: UpstreamKind = attrs.field(repr=False)

    @upstream.default
    def _upstream_of_kind(self) -> UpstreamKind:
        return BUILT_IN_KINDS.get(self.kind) or UpstreamKind(self.kind, ())

    @property
    def methods(self) -> frozenset[str]:
        """The methods that its kind has, by Google's names."""
        return self.upstream.methods


class AnswerReader(Protocol):
    """
    Reads one answer of a foreign upstream into documents of the Gemini API; a kind makes one for each answer.

    Either method may raise an :class:`ErrorInAnswer`, or a :class:`agm.api.GatewayError`.
    """

    def read(self, document: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """
        Read a document of the upstream's: an event of a stream, or a unary answer as a whole.

        :returns: what the client gets in its place: of a stream any number of documents, else one.
        """

    def end(self, done: bool) -> Iterable[dict[str, Any]]:
        """
        End a stream; not called for a unary answer.

        :param done: whether the upstream has sent ``[DONE]``; nothing that comes behind it is read.
        :returns: the client's last documents.
        :raises agm.api.GatewayError: if the answer is not whole; it then breaks off.
        """


class ErrorInAnswer(Exception):
    """
    What an :class:`AnswerReader` raises for a good status whose answer turns out to be an error.

    :param status: the HTTP status that it should have had, 400 or more.
    :param body: the upstream's own words, for the kind's ``read_error``.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the answer is an error, {status}")
        self.status = status
        self.body = body


@attrs.frozen
class ModelList:
    """
    Where an upstream lists its models, and how the list reads.

    `path` is put after the account's first endpoint; `read` makes model resources of the Gemini API (``name`` with
    ``models/`` in front, ``supportedGenerationMethods``) of the document that comes.
    """

    path: str
    read: Callable[[dict[str, Any]], Iterable[Mapping[str, Any]]]


def _names(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


def bearer(key: str) -> Mapping[str, str]:
    """Return the headers of a key that goes along as a bearer token."""
    return {"authorization": f"Bearer {key}"}


def _google_key(key: str) -> Mapping[str, str]:
    return {"x-goog-api-key": key}


@attrs.frozen(eq=False)
class UpstreamKind:
    """
    A kind of upstream: ``[[accounts]] kind = "NAME"``, what it can do and how it is spoken to.

    `methods` are Google's names of what it serves.  `wrap` makes a request of the client's, as ``agm_wrap_request``
    does; without it, other plugins do.  `endpoints` are those of an account that names none.  `authenticate` makes the
    headers of an account's key, and `needs_key` says whether an account must have one.  `read_answer` makes what reads
    one answer, where the upstream does not answer as Gemini does, and `read_error` says what its errors mean, as
    ``agm_classify_error`` does.  `models` is its list of models, and `settings` a struct of the keys that its
    ``[[accounts]]`` tables have beside those of all accounts; :attr:`Account.settings` holds it, filled in.
    """

    name: str
    methods: frozenset[str] = attrs.field(converter=_names)
    wrap: Callable[[GatewayRequest, Account, bytes], UpstreamRequest | None] | None = None
    endpoints: tuple[str, ...] | Callable[[str], tuple[str, ...]] = ()
    authenticate: Callable[[str], Mapping[str, str]] = bearer
    needs_key: bool = True
    read_answer: Callable[[GatewayRequest, Account], AnswerReader] | None = None
    read_error: Callable[[int, bytes, Mapping[str, str], Account, GatewayRequest], Verdict | None] | None = None
    models: ModelList | None = None
    settings: type[msgspec.Struct] | None = None

    def default_endpoints(self, location: str = "global") -> tuple[str, ...]:
        """Return the base URLs of an account that names none: none, where each account has its own."""
        return self.endpoints if isinstance(self.endpoints, tuple) else self.endpoints(location)


#: The kinds that need no plugin.
BUILT_IN_KINDS: Mapping[str, UpstreamKind] = {
    kind.name: kind
    for kind in (
        UpstreamKind(
            "api-key",
            kinds.METHODS["api-key"],
            endpoints=("https://generativelanguage.googleapis.com",),
            authenticate=_google_key,
            models=ModelList("/v1beta/models?pageSize=1000", lambda document: document.get("models", [])),
        ),
        UpstreamKind("vertex", kinds.METHODS["vertex"], endpoints=kinds.vertex_endpoints),
        UpstreamKind("code-assist", kinds.METHODS["code-assist"], endpoints=("https://cloudcode-pa.googleapis.com",)),
    )
}


@attrs.frozen(slots=False)
class ModelChoice:
    """
    The upstream model that serves a request, and why.

    `fallbacks` are models that are tried in the same request, in their order, where quota or capacity alone keeps
    `model` from serving.
    """

    model: str
    reason: str
    fallbacks: tuple[str, ...] = ()


@attrs.frozen(slots=False)
class AccountChoice:
    """The account that serves an attempt, and why."""

    account: Account
    reason: str


@attrs.frozen(slots=False)
class UpstreamRequest:
    """
    A request as it goes to an endpoint, but for the credential.

    `path` starts with a slash and holds the query; `framing` says how the answer comes, `wrapped` whether its documents
    are in the ``v1internal`` envelope.  `id` is unique per attempt where the envelope has one.
    """

    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    #: The body as it is sent: a large one that was wrapped is not joined for that.
    content: bytes | ByteChain = attrs.field(alias="body", eq=bytes, repr=False)
    framing: Framing
    wrapped: bool = False
    method: str = "POST"
    #: Whether an API key goes along as a bearer token.
    bearer: bool = False

    @property
    def body(self) -> bytes:
        """The body, whole."""
        return bytes(self.content) if isinstance(self.content, ByteChain) else self.content


@attrs.frozen(slots=False)
class EndStream:
    """
    What ``agm_transform_event`` returns to end a stream well: with these last events, and without those that the
    upstream has yet to send.
    """

    events: Sequence[dict[str, Any]] = ()


@attrs.frozen(slots=False)
class AttemptRecord:
    """
    One try at an upstream, after it ended.

    `status` is the HTTP status (None: no answer), `verdict` what it meant (None: a success), `first_byte` and `ended`
    are seconds after `started`, which is in seconds since the epoch; `first_byte` is None where nothing came.
    """

    request_id: str
    number: int
    account: str
    #: Why this account and endpoint.
    chosen: str
    endpoint: str
    model: str
    started: float
    first_byte: float | None
    ended: float
    status: int | None
    verdict: Verdict | None
    message: str = ""
    #: Whether it tried an account after its rest, when nobody else did.
    probe: bool = False


@attrs.frozen
class LastFailure:
    """The attempt of an account that failed last, and when it ended, in seconds of a clock that is never set."""

    record: AttemptRecord
    at: float


@attrs.frozen(slots=False)
class RequestRecord:
    """
    One request, after it ended: `outcome` is ``ok``, ``error``, ``aborted`` (after the first byte) or ``cancelled``
    (the client left).  Times as in :class:`AttemptRecord`; `sent` counts bytes of the answer's body.
    """

    request: GatewayRequest
    started: float
    ended: float
    first_byte: float | None
    status: int
    outcome: Literal["ok", "error", "aborted", "cancelled"]
    sent: int
    attempts: tuple[AttemptRecord, ...]
    #: The account whose answer, good or bad, the client got; None where the answer is the gateway's own.
    account: str | None = None
    #: Tokens, as far as the upstream has told them; of an answer that broke off, what had been told by then.
    usage: Usage | None = None
    #: Google's name for why the last candidate ended (``STOP``), or why the prompt was refused (``SAFETY``).
    finish_reason: str | None = None
    #: The bytes of an answer that came whole, where a plugin has asked for them with a ``KeepAnswer``.
    answer: bytes | None = attrs.field(default=None, repr=False)
    #: What it cost in US dollars, by list prices; None where that is not known, or nothing was used.
    cost: float | None = None

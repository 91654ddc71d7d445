"""
Files, cached contents, batches and the other resources that an account has for itself, relayed to their account.

The paths are Google's, and so are the bodies, which are not looked into but for the names of resources.  Lists are put
together from those of all accounts.  Nothing is kept here: who has what is known to :mod:`agm.core.ownership`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from urllib.parse import parse_qsl, quote, urlencode

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall

from agm.core import ownership
from agm.core.answer import NOTHING
from agm.core.bodies import MOST, Unreadable
from agm.core.classify import Fault, Verdict
from agm.core.errors import (
    BadUpstreamAnswer,
    BodyTooLarge,
    GatewayError,
    InvalidRequest,
    NotFound,
    Unavailable,
    Unimplemented,
    UpstreamTimeout,
)
from agm.core.ownership import Maker, OwnedTarget, Page
from agm.core.pool.breaker import origin
from agm.core.pool.lease import Lease
from agm.core.request import AttemptRecord, Body, GatewayRequest, ModelChoice
from agm.core.sealed import NONCE_BYTES, Seal
from agm.core.wire import openai
from agm.core.wire.answer_filters import Framing
from agm.core.wire.openai import OpenAIResource
from agm.core.wire.target import bare_model, quote_model
from agm.core.wire.vertex import VertexResource
from agm.plugins.builtin.wrapping import USER_AGENT
from agm.serving.affinity import names_in, owner_of, read
from agm.serving.answers import MAX_ERROR, FinalAnswer, OpenAnswer
from agm.serving.attempts import Attempts, first_byte_within
from agm.serving.calls import Calls
from agm.serving.chains import check_bytes_in, check_bytes_out, edited_body
from agm.serving.gateway import Gateway
from agm.serving.records import record_attempt
from agm.serving.resources import Lists, ResourceCall, Search, opened
from agm.serving.sharing import check_sees, maker_of, sees
from agm.upstream.client import UpstreamAnswer, UpstreamFailed
from agm.upstream.credentials.credential import CredentialError
from agm.upstream.origin import split_url
from agm.upstream.upload import StreamedBody
from agm.web.access import Access
from agm.web.answering import AnsweringResource
from agm.web.base import Visit
from agm.web.inbound import CREDENTIAL_PARAMETERS, decoded, decoded_body, plain_headers
from agm.web.request import GatewayRequestOnWire

#: Headers of a client's that go along: they are about the resource, not about who asks or over which hop.
FORWARDED = (
    "content-type",
    "content-encoding",
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "content-range",
    "x-server-timeout",
    "api-revision",
)
#: Headers of an upstream's answer that are about an upload, or say where a request goes on.
UPLOAD_HEADERS = (
    "X-Goog-Upload-Status",
    "X-Goog-Upload-Chunk-Granularity",
    "X-Goog-Upload-Size-Received",
    "Range",
)
ADDRESSES = ("X-Goog-Upload-URL", "X-Goog-Upload-Control-URL", "Location")
#: What the beginning of an upload may say of its file, in bytes.
MAX_DESCRIPTION = 1024 * 1024
#: Of a body by which nothing has to be decided so much is read, in strings and brackets, to tell its model.
MOST_UNHELD = 20_000
#: An upload in one request is held in memory up to so many bytes, so that it can be sent again.
MAX_HELD = MAX_DESCRIPTION
#: How long an upload may take, in seconds.
UPLOAD_SECONDS = 24 * 3600.0
_UPLOAD = re.compile(rb"/+upload/")
#: The addresses for bytes that can be asked for: a host, no user, and visible ASCII.
_URL = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/[!-\"$-~]*")
_PUBLISHED = re.compile(r"\A(?:projects/[^/]+/locations/[^/]+/)?publishers/google/(?=models/)")
#: A list's page is never asked for with more than this.
MAX_PAGE = 1000
#: What no plugin can be shown of an upload.
UPLOADED = "The bytes of an upload"
#: Collections whose resources are not listed as a whole.
_WITHOUT_A_LIST = frozenset({"operations", "models"})


class Owned(AnsweringResource):
    """Resources that accounts have for themselves, and calls that make such."""

    def __init__(self, gateway: Gateway, access: Access) -> None:
        super().__init__(gateway, access)
        self.uploads = Uploads(gateway.upload_key)

    def claims(self, wire: GatewayRequestOnWire) -> bool:
        try:
            asked = ownership.parse(wire.path, wire.method.decode("ascii", "replace"))
        except GatewayError:
            return True  # it will say so
        if asked is None:
            return False
        # a tuned model may be described by the list, as every model that is in it
        listed = asked.collection == "tunedModels" and wire.method in (b"GET", b"HEAD") and asked.name is not None
        return not (listed and self.gateway.models.catalog.get(asked.name or "") is not None)

    def methods_of(self, wire: GatewayRequestOnWire) -> Sequence[str]:
        try:
            ownership.parse(wire.path, wire.method.decode("ascii", "replace"))
        except ownership.NamesNoMethod:
            return ()
        except InvalidRequest:  # it is told what of its name is wrong
            pass
        return ("POST", "PUT") if _UPLOAD.match(wire.path) else ("GET", "POST", "PATCH", "DELETE")

    def is_open(self, wire: GatewayRequestOnWire, query: Mapping[str, str]) -> bool:
        """Bytes for an upload that has been begun come without a key, as to Google: their address is the right."""
        return _UPLOAD.match(wire.path) is not None and self._upload_of(query) is not None

    def _upload_of(self, query: Mapping[str, str]) -> Upload | None:
        return self.uploads.find(query.get("upload_id", ""), self.gateway.wall())

    async def respond(self, visit: Visit) -> None:
        wire = visit.wire
        asked = ownership.parse(wire.path, wire.method.decode("ascii"))
        if asked is None:
            raise NotFound("The path is not known: the Gemini API has no such method of this resource.")
        if asked.collection == "files" and asked.verb == "register":
            raise Unimplemented(
                "files:register makes files of what is in Cloud Storage, with the Google token of whoever may read "
                "that: this gateway takes no such token and passes none on, and an API key cannot do it. Upload the "
                "bytes, or name the gs:// object in a request that an account of Vertex AI serves."
            )
        prepare = partial(PrepareResourceCall, self.gateway.calls, visit, asked)
        if asked.way != "upload":
            await self.answer(wire, prepare(decoded_body(wire)))
            return
        upload = self._upload_of(visit.query)
        if upload is not None:
            part = PartOfUpload(self.gateway.calls, visit, asked, upload)
            await self.answer(wire, part)
        elif "upload_id" in visit.query:
            raise NotFound("The upload is not known: it was started too long ago, or by a gateway without state.")
        elif begins_upload(visit):
            described = decoded(wire, await self._collected(wire), MAX_DESCRIPTION)
            await self.answer(wire, prepare(described))
        elif wire.head.length is not None and wire.head.length <= MAX_HELD:
            site, length = wire.site, wire.head.length
            site.reserve(length)
            try:
                content = await self._collected(wire)
                await self.answer(wire, prepare(b"", content=content))
            finally:
                site.release(length)
        else:
            await self.answer(wire, WholeUpload(self.gateway.calls, visit, asked))

    async def _collected(self, wire: GatewayRequestOnWire) -> bytes:
        """The body of a request to upload, whole: what the beginning says of its file, or a small file itself."""
        if wire.streamed is None:
            return wire.body
        body = await wire.streamed.collect(MAX_DESCRIPTION)
        if body is None:
            raise BodyTooLarge(f"The description of an upload is larger than {MAX_DESCRIPTION} bytes.")
        return body

    def answer_headers(self, wire: GatewayRequestOnWire, opened: OpenAnswer) -> list[tuple[bytes, bytes]]:
        headers = super().answer_headers(wire, opened)
        for name in UPLOAD_HEADERS:
            value = opened.answer.header(name.lower())
            if value is not None:
                headers.append((name.encode("ascii"), value.encode("latin-1")))
        begun = _UPLOAD.match(wire.path) is not None
        if wire.answers_with(b"access-control-expose-headers"):
            exposed = ", ".join([*UPLOAD_HEADERS, *ADDRESSES]).lower()
            headers.append((b"Access-Control-Expose-Headers", exposed.encode("ascii")))
        for name in ADDRESSES:
            value = opened.answer.header(name.lower())
            if value is not None:
                url = self._upload_address(wire, opened, value) if begun else self._address(wire, opened, value)
                headers.append((name.encode("ascii"), url.encode("latin-1")))
        return headers

    def _upload_address(self, wire: GatewayRequestOnWire, opened: OpenAnswer, url: str) -> str:
        """
        Return the gateway's own address for an upload that the upstream has at `url`.

        :raises BadUpstreamAnswer: if that is elsewhere: the bytes are the upstream's, and nobody else's.
        """
        address = own_address(url, opened.account.endpoints)
        if address is None:
            raise BadUpstreamAnswer(
                "The upstream names an address for the bytes of the upload that is not its own.",
                reason="UPLOAD_ADDRESS_FOREIGN",
            )
        token = self.uploads.begin(opened.account.name, address, self.gateway.wall(), opened.maker)
        path = wire.path.decode("ascii", "replace")
        return f"{self._base(wire)}{path}?upload_id={token}&upload_protocol=resumable"

    def _address(self, wire: GatewayRequestOnWire, opened: OpenAnswer, url: str) -> str:
        """Return an address to which an answer points: the gateway's own if it is at the account's endpoint."""
        for endpoint in opened.account.endpoints:
            if url.startswith(f"{endpoint.rstrip('/')}/"):
                return self._base(wire) + url.removeprefix(endpoint.rstrip("/"))
        return url

    def _base(self, wire: GatewayRequestOnWire) -> str:
        """Return the address by which the client knows the gateway."""
        return self.access.address(wire.peer, wire.head, secure=wire.isSecure())


def own_address(url: str, endpoints: Sequence[str]) -> str | None:
    """
    The address that an upstream names, as it can be asked for; None if it is at none of the upstream's endpoints.

    What belongs together is scheme, host and port, read as they are when a request is sent there.
    """
    if url.startswith("/") and not url.startswith("//"):
        url = origin(endpoints[0]) + url
    if not _URL.fullmatch(url):
        return None
    try:
        found = split_url(url.encode("ascii"))[0]
    except ValueError:
        return None
    return url if any(found == split_url(endpoint.encode("ascii"))[0] for endpoint in endpoints) else None


Asked = OwnedTarget | VertexResource | OpenAIResource


class PrepareResourceCall:
    """
    The steps before a request about a resource is sent: hold the key to its limits, find the owner.

    :param body: JSON, or nothing.
    :param content: what is sent in its place: a file, which no plugin sees and which is not looked into.
    :ivar request: the request as plugins see it; its model is empty where it is about no model.
    """

    def __init__(
        self,
        calls: Calls,
        visit: Visit,
        asked: Asked,
        body: bytes,
        *,
        content: bytes | None = None,
    ) -> None:
        self._calls = calls
        self._visit = visit
        self._asked = asked
        self._content = content
        self._http_method = visit.wire.method.decode("ascii")
        self._query = parameters(visit)
        self.request = describe(calls.context.wall(), visit, asked, asked.model, body)

    async def run(self) -> Attempts | Search | Lists:
        """
        Take the steps.

        :raises GatewayError: if the request may not be made.
        """
        calls, context, asked = self._calls, self._calls.context, self._asked
        models = await self._models()
        if models and not asked.model:
            self.request = attrs.evolve(self.request, asked_model=models[0], model=models[0])
        request = self.request = await context.hooks.look_up(self.request)
        mapped = ModelChoice(request.model, "unchanged")
        path = asked.path
        if asked.model:
            mapped = context.hooks.map_model(calls.models.catalog.id_of(asked.model), request)
            request = self.request = attrs.evolve(request, model=mapped.model)
            path = f"/{asked.version}/models/{quote_model(mapped.model)}:{asked.verb}"
        if self._visit.key is not None:
            if calls.clients.shared is not None:
                await calls.clients.pay(self._visit.key)
            for model in models:
                calls.clients.admit(self._visit.key, model, counting=False)
            calls.clients.admit(self._visit.key, request.asked_model)
        body = await self._edited(request)
        name = None if asked.name is None else ownership.root(asked.name)
        named = await names_in(context, body)
        if isinstance(asked, OpenAIResource):
            named += [name for name in openai.names_in(body.raw) if name not in named]
        maker = maker_of(self._visit.key)
        check_sees(context, maker, [] if name is None else [name], known=False)
        check_sees(context, maker, named)
        names = [*([] if name is None else [name]), *named]
        owned = owner_of(context, names)
        content = body.raw if self._content is None else self._content
        call = ResourceCall(
            request,
            mapped,
            self._http_method,
            path + query_of(self._query),
            forwarded(request, content=bool(content) or self._content is not None, json=self._content is None),
            content,
            name,
            tuple(names),
            maker=maker,
            openai=isinstance(asked, OpenAIResource),
        )
        able = sum(request.method in account.methods for account in context.pool.accounts)
        if owned is not None or able < 2:
            return call.attempts(context)
        if name is not None or (request.place is not None and asked.name is not None):
            return Search(context, call)
        if request.method.endswith(".list") and asked.collection not in _WITHOUT_A_LIST:
            return self._lists(call, path)
        return call.attempts(context)

    async def _edited(self, request: GatewayRequest) -> Body:
        """
        Show the body to the plugins that edit requests, and return what they make of it.

        :raises Unimplemented: if what is sent, or what it leads to, cannot be shown to them.
        """
        hooks, asked = self._calls.context.hooks, self._asked
        if asked.way == "upload" or self._content is not None:
            check_bytes_out(hooks, UPLOADED)
        if asked.way == "download" or request.method.endswith(".download") or request.query.get("alt") == "media":
            check_bytes_in(hooks, "The bytes of a file")
        if not hooks.edits_requests:
            return request.body
        if "batch" in request.method.lower() and self._http_method == "POST" and _takes_a_file(request.body):
            check_bytes_out(hooks, "The requests of a batch that are elsewhere than in it")
        return Body(await edited_body(hooks, request.body.raw, request))

    async def _models(self) -> list[str]:
        """
        Return the models that the body names: a new resource's, a batch's.

        :raises InvalidRequest: if it cannot be read, and the client's key is held to some models.
        """
        key, body = self._visit.key, self.request.body.raw
        held = key is not None and bool(key.models)
        if not body.strip() or not (held or b"odel" in body or b"\\" in body):
            return []
        try:
            reading = await read(self._calls.context, body, most=MOST if held else MOST_UNHELD)
        except Unreadable as e:
            if not held:
                return []
            raise InvalidRequest(
                f"Invalid JSON payload received: {e}. This client key may use some models only, and which one this is "
                "for cannot be told.",
                reason="BODY_UNREADABLE",
            ) from None
        return list(dict.fromkeys(filter(None, map(_model_named, reading.models))))

    def _lists(self, call: ResourceCall, path: str) -> Lists:
        context, behind_an_id = self._calls.context, isinstance(self._asked, OpenAIResource)
        named = ("limit", "after", "has_more") if behind_an_id else ("pageSize", "pageToken", "nextPageToken")
        size_field, page_field, goes_on = named
        size, token = self.request.query.get(size_field, ""), self.request.query.get(page_field, "")
        if size and not (size.isascii() and size.isdigit() and len(size) < 10):
            raise InvalidRequest(f"Invalid value for {size_field}: {size[:40]!r}.")
        rest = [(name, value) for name, value in self._query if name not in (size_field, page_field)]

        def path_of(size: int | None, token: str) -> str:
            own = [(size_field, str(size))] if size is not None else []
            return path + query_of([*rest, *own, *([(page_field, token)] if token else [])])

        wanted = min(int(size), MAX_PAGE) if size and int(size) else None
        shows = None
        if context.config.auth.resources != "shared":
            shows = partial(sees, context, maker_of(self._visit.key))
        page = None
        if token:
            page = self._behind(token) if behind_an_id else Page.decode(token)
        return Lists(context, call, wanted, page, path_of, goes_on, shows, behind_an_id)

    def _behind(self, identifier: str) -> Page:
        """Return where a list goes on behind an id: at the account that has it."""
        collection = self._asked.collection
        name = ownership.root(f"{collection}/{identifier.removeprefix(f'{collection}/')}")
        owner = None if name is None else self._calls.context.ownership.owner(name)
        if owner is None:
            raise InvalidRequest(f"Nothing is known here of {identifier[:60]!r}, behind which the list is to go on.")
        return Page(ownership.mark(owner), identifier)


def _takes_a_file(body: Body) -> bool:
    """Return whether the requests of a batch are in a file: Google's, OpenAI's or, of Vertex AI, in Cloud Storage."""
    document = body.json() if body.raw.strip() else {}
    batch = document.get("batch", document)
    if not isinstance(batch, dict):
        return False
    source = batch.get("inputConfig", batch.get("input_config"))
    kinds = ("fileName", "file_name", "gcsSource", "gcs_source", "bigquerySource", "bigquery_source")
    return "input_file_id" in batch or (isinstance(source, dict) and not source.keys().isdisjoint(kinds))


def _model_named(name: str) -> str:
    """Return a model's id from its name in a body, in the Developer API's form or in Vertex AI's."""
    return bare_model(_PUBLISHED.sub("", name))


def describe(received_at: float, visit: Visit, asked: Asked, model: str, body: bytes) -> GatewayRequest:
    """Return the request as plugins see it."""
    return GatewayRequest(
        id=visit.wire.id,
        path=visit.wire.path.decode("ascii", "backslashreplace"),
        version=asked.version,
        method=asked.method(visit.wire.method.decode("ascii")),
        asked_model=model,
        model=model,
        framing=Framing.UNARY,
        query=dict(reversed(parameters(visit))),
        headers=plain_headers(visit.wire),
        client_key=None if visit.key is None else visit.key.name,
        key_metadata=NOTHING if visit.key is None else visit.key.metadata,
        team=None if visit.key is None else visit.key.team,
        weight=1 if visit.key is None else visit.key.weight,
        received_at=received_at,
        body=Body(body),
        upstream_framing=Framing.UNARY,
        place=asked.place if isinstance(asked, VertexResource) else None,
    )


def parameters(visit: Visit) -> list[tuple[str, str]]:
    """
    The query, but for credentials and the right to an upload; and for ``$httpHeaders`` and its like, by which a request
    could say that it is another.
    """
    pairs = parse_qsl(visit.wire.uri.partition(b"?")[2].decode("ascii", "replace"), keep_blank_values=True)
    left_out = {*CREDENTIAL_PARAMETERS, "upload_id"}
    return [(name, value) for name, value in pairs if name not in left_out and not name.lower().startswith("$http")]


def query_of(parameters: Sequence[tuple[str, str]]) -> str:
    return "?" + urlencode(parameters, quote_via=quote) if parameters else ""


def forwarded(request: GatewayRequest, *, content: bool, json: bool) -> tuple[tuple[bytes, bytes], ...]:
    """
    Return the headers that go along with a request.

    :param content: whether it has any.
    :param json: whether that is JSON, which was inflated and read here, and must not be taken for anything else.
    """
    left_out = {"content-type", "content-encoding"} if json or not content else set()
    found = [
        (name.encode("ascii"), value.encode("latin-1"))
        for name, value in request.headers.items()
        if (name in FORWARDED or name.startswith(("x-goog-upload-", "x-upload-content-"))) and name not in left_out
    ]
    if json and content:
        found.append((b"Content-Type", b"application/json"))
    return (*found, (b"User-Agent", USER_AGENT.encode("ascii")))


def begins_upload(visit: Visit) -> bool:
    """Return whether a request begins a resumable upload, in either of Google's two protocols."""
    protocol = (visit.header("x-goog-upload-protocol") or visit.query.get("upload_protocol", "")).strip().lower()
    return protocol == "resumable" or visit.query.get("uploadType", "").lower() == "resumable"


# Uploads


@attrs.frozen
class Upload:
    """A resumable upload that has been begun: whose it is, where its bytes go, and when it `ends`."""

    account: str
    url: str
    ends: float
    #: Whose it is; its bytes come without a client key.
    maker: Maker | None = None


class Uploads:
    """
    The uploads that have been begun, each sealed into the token that its client shows: nothing of them is kept here.

    :param key: the gateway's own; with the same one a token is good after a restart.
    """

    def __init__(self, key: bytes) -> None:
        self._seal = Seal(key, b"agm upload 1")

    def begin(self, account: str, url: str, now: float, maker: Maker | None = None) -> str:
        """Make a token for an upload; `now` is in seconds since the epoch."""
        upload = Upload(account, url, now + UPLOAD_SECONDS, maker)
        return self._seal.seal(msgspec.json.encode(upload), secrets.token_bytes(NONCE_BYTES))

    def find(self, token: str, now: float) -> Upload | None:
        """Find the upload of a token; None if it is none of ours, or its time is over."""
        opened = self._seal.open(token)
        if opened is None:
            return None
        upload = msgspec.json.decode(opened, type=Upload)
        return upload if now < upload.ends else None


class _Sending:
    """
    A request whose body is sent on as it comes, and therefore once.

    It is its own preparation and its own opening: there is nothing to try again.
    """

    def __init__(self, calls: Calls, visit: Visit, asked: OwnedTarget) -> None:
        self.calls = calls
        self.context = calls.context
        self.visit = visit
        self.asked = asked
        self.request = describe(self.context.wall(), visit, asked, "", b"")
        self.maker: Maker | None = maker_of(visit.key)
        self.records: list[AttemptRecord] = []

    async def run(self) -> _Sending:
        """
        Prepare nothing.

        :raises Unimplemented: if a plugin would have to be shown what is sent.
        """
        check_bytes_out(self.context.hooks, UPLOADED)
        return self

    async def open(self) -> OpenAnswer | FinalAnswer:
        """Send it, and wait for the head of the answer."""
        raise NotImplementedError

    async def _outcome(self, answer: UpstreamAnswer, lease: Lease) -> tuple[Verdict | None, OpenAnswer | FinalAnswer]:
        """Classify an answer, and return it with what the client gets."""
        verdict = Verdict(Fault.FINAL, "UPLOAD_FAILED") if answer.status >= 400 else None
        return verdict, opened(self.context, answer, lease, self.request, made=True, maker=self.maker)

    async def _sent(
        self, lease: Lease, endpoint: str, url: str, headers: Sequence[tuple[bytes, bytes]], chosen: str
    ) -> OpenAnswer | FinalAnswer:
        """The answer; an upstream that takes nothing, or does not answer what it has got, is given up in time."""
        context, reactor, limits = self.context, self.context.reactor, self.context.config.timeouts
        wire = self.visit.wire
        started, began = context.wall(), reactor.seconds()
        body = wire.streamed or decoded_body(wire)
        timer: IDelayedCall | None = None
        why = ""
        answer: UpstreamAnswer | None = None
        verdict: Verdict | None = Verdict(Fault.FINAL, "UPLOAD_FAILED")

        def watch(flows: bool | None) -> None:
            nonlocal timer
            if timer is not None and timer.active():
                timer.cancel()
            timer = None
            if flows is None:
                timer = reactor.callLater(first_byte_within(self.request.headers, limits), give_up, "did not answer")
            elif not flows:
                timer = reactor.callLater(limits.idle, give_up, "took nothing more of the upload")

        def give_up(what: str) -> None:
            nonlocal why
            why = what
            sending.cancel()

        whole = not isinstance(body, StreamedBody)
        sending = Deferred.fromCoroutine(
            context.client.send(
                wire.method.decode("ascii"), url, headers, body, timeout=limits.total, network=lease.account.network
            )
        )
        if isinstance(body, StreamedBody):
            body.on_change = watch
        watch(None if whole or wire.streamed is None or wire.streamed.complete else True)
        try:
            answer = await sending
            watch(True)
            verdict, outcome = await self._outcome(answer, lease)
        except UpstreamFailed as e:
            raise BadUpstreamAnswer(f"{str(e)[:1].upper()}{str(e)[1:]}.", reason=e.reason) from None
        except CancelledError:
            if why:
                raise UpstreamTimeout(f"The upstream {why} in time.") from None
            raise
        finally:
            if isinstance(body, StreamedBody):
                body.on_change = lambda flows: None
            watch(True)
            record = record_attempt(
                context,
                self.request,
                lease,
                number=1,
                endpoint=endpoint,
                chosen=chosen,
                started=started,
                seconds=reactor.seconds() - began,
                good=verdict is None,
                status=None if answer is None else answer.status,
                verdict=verdict,
                message="the upload was not taken" if verdict else "",
            )
            self.records.append(record)
        return outcome


class PartOfUpload(_Sending):
    """Bytes for an upload that has been begun, or a question about it: to where its beginning led."""

    def __init__(self, calls: Calls, visit: Visit, asked: OwnedTarget, upload: Upload) -> None:
        super().__init__(calls, visit, asked)
        self._upload = upload
        self.maker = upload.maker

    async def open(self) -> OpenAnswer | FinalAnswer:
        """
        Send it.

        :raises NotFound: if the account has left the configuration.
        :raises GatewayError: if the upstream does not answer.
        """
        pool, upload = self.context.pool, self._upload
        account = next((a for a in pool.accounts if a.name == upload.account), None)
        if account is None:
            raise NotFound("The upload is not known any more: its account has been taken out of the configuration.")
        if own_address(upload.url, account.endpoints) is None:
            raise NotFound("The upload is not known any more: its account has other endpoints now.")
        lease = pool.lease(account, "")
        try:
            headers = forwarded(self.request, content=True, json=False)
            return await self._sent(lease, account.endpoints[0], upload.url, headers, "the upload was begun on it")
        except BaseException:
            lease.release()
            raise


class WholeUpload(_Sending):
    """A large upload in one request, ``uploadType=media`` or ``multipart``."""

    _attempts: Attempts

    async def open(self) -> OpenAnswer | FinalAnswer:
        """
        Send it to the account that has what it goes into, or to one that makes files.

        :raises GatewayError: if there is none, or the upstream does not answer.
        """
        if self.visit.key is not None:
            if self.calls.clients.shared is not None:
                await self.calls.clients.pay(self.visit.key)
            self.calls.clients.admit(self.visit.key, "")
        name = None if self.asked.name is None else ownership.root(self.asked.name)
        if name is not None:
            check_sees(self.context, maker_of(self.visit.key), [name], known=False)
        if name is not None and owner_of(self.context, [name]) is None:
            refusal = await self._search(name)
            if refusal is not None:
                return refusal
        path = self.asked.path + query_of(parameters(self.visit))
        self._attempts = self._call(self.request, name, path).attempts(self.context)
        try:
            route, credential = await self._attempts.lease_route()
        except CredentialError as e:
            raise Unavailable(f"{e.reason}.", reason="CREDENTIAL_UNAVAILABLE", retry_after=1.0) from None
        lease, url = route.lease, route.url
        try:
            headers = (*forwarded(self.request, content=True, json=False), *credential)
            answer = await self._sent(lease, url, url + path, headers, "an upload in one request")
        except BaseException:
            lease.release()
            raise
        if isinstance(answer, FinalAnswer):
            lease.release()
        return answer

    async def _search(self, name: str) -> FinalAnswer | None:
        """Ask who has what the upload goes into: its bytes can be sent to one account only.  The refusal if nobody."""
        asked = attrs.evolve(self.asked, name=name, verb="", way="")
        request = attrs.evolve(self.request, method=asked.method("GET"))
        path = f"/{self.asked.version}/{name}"
        search = Search(self.context, self._call(request, name, path, http_method="GET"))
        try:
            answer = await search.open()
        finally:
            self.records += search.records
        if isinstance(answer, OpenAnswer):
            answer.close()
            return None
        return answer

    @staticmethod
    def _call(request: GatewayRequest, name: str | None, path: str, *, http_method: str = "POST") -> ResourceCall:
        mapped = ModelChoice("", "unchanged")
        named = () if name is None else (name,)
        return ResourceCall(request, mapped, http_method, path, (), b"", name, named)

    async def _outcome(self, answer: UpstreamAnswer, lease: Lease) -> tuple[Verdict | None, OpenAnswer | FinalAnswer]:
        """See :class:`_Sending`; what a refusal says of the account is drawn for it, as for any other request."""
        if answer.status < 400:
            self.context.pool.succeeded(lease.account, "", lease)
            return await super()._outcome(answer, lease)
        reading = answer.read(MAX_ERROR)
        reading.addTimeout(self.context.config.timeouts.idle, self.context.reactor)
        try:
            body = await reading
        except CancelledError:
            answer.abort()
            raise
        except Exception:  # the timeout: what the status says is enough
            body = b""
        return self._attempts.judge(lease, answer.status, body, answer.header("retry-after"))

"""
Live sessions of clients: WebSockets that are relayed to an account's upstream, frame by frame.

The upgrade is granted before anything of an upstream is known, since the first message names the model.  It is read,
prepared like a call and tried on accounts (:mod:`agm.serving.live`); once an upstream has answered it, frames pass as
they come, both ways, and no other account is tried any more.  Each side is asked for a sign of life by itself, holds
back the other when it takes nothing, and is told why the other has closed.  What an error would be to a call is the
code and the reason of a close frame here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from agm.core import documents, live
from agm.core.answer import Answer
from agm.core.client_keys import ClientKey
from agm.core.errors import NOT_JSON, GatewayError, InvalidRequest, NotFound, Unavailable
from agm.core.live import LiveTarget, Pin
from agm.core.wire.answer_filters import Framing
from agm.core.wire.target import ModelCall
from agm.core.wire.websocket import (
    CLOSE,
    GOING_AWAY,
    INTERNAL_ERROR,
    NORMAL,
    PING,
    PONG,
    PROTOCOL_ERROR,
    Closing,
    Collector,
    Control,
    Event,
    FrameReader,
    PieceObserver,
    Violation,
    frame,
)
from agm.net.stalls import Stall
from agm.net.timers import Deadline
from agm.net.writes import send_soon
from agm.plugins.hooks import HookFailed
from agm.serving.answers import FinalAnswer, OpenAnswer
from agm.serving.calls import Call, Outcome
from agm.serving.chains import check_bytes_in, check_bytes_out, plugin_failed
from agm.serving.gateway import Gateway
from agm.serving.live import HANDLE_SECONDS, PrepareSession, SessionClient, SocketAnswer
from agm.serving.prepare import InboundCall
from agm.serving.sharing import maker_of, sees
from agm.upstream.websocket import UpstreamSocket
from agm.web.base import Visit
from agm.web.hop import Farewell, Hop, Throttle
from agm.web.inbound import plain_headers

if TYPE_CHECKING:
    from agm.core.request import Account

#: Seconds without a sign of life after which one is asked for; that long again, and a side is taken for gone.
PING_EVERY = 25.0
#: Seconds that the other side has to answer a close frame.
CLOSE_WAIT = 5.0
#: Bytes of the client that are read before the session is set up.
MAX_EARLY = 64 * 1024
#: Handles of one session that are remembered: each turn brings another, and the last one counts.
KEPT_HANDLES = 4
#: Bytes of a reason that an error's message may take up where a wait is told behind it.
_ROOM = 96

#: What plugins cannot be shown of a session.
_NO_OBJECTS = "Messages of a Live session that are no JSON objects"

log = Logger()


#: Why nothing is read from the client: too much has come early; the upstream takes nothing; a plugin is at work.
_EARLY, _UPSTREAM_FULL, _EDITING = 1, 2, 4
#: What a session does: waits for the first message; is being opened; passes frames; is over.
_SETUP, _OPENING, _RELAYING, _OVER = range(4)


class Session:
    """
    One session, from the upgrade to its end.

    :ivar sent: bytes of frames that went to the client.
    """

    __slots__ = (
        "_account",
        "_call",
        "_client",
        "_down",
        "_early",
        "_early_size",
        "_edits",
        "_first",
        "_gateway",
        "_held",
        "_key",
        "_key_is_listed",
        "_leaving",
        "_marks",
        "_opening",
        "_pin",
        "_preparing",
        "_queue",
        "_reader",
        "_release",
        "_reserved",
        "_socket",
        "_stall",
        "_state",
        "_target",
        "_timer",
        "_token",
        "_upstream",
        "_wire",
        "sent",
    )

    def __init__(
        self,
        gateway: Gateway,
        visit: Visit,
        target: LiveTarget,
        key: ClientKey | None,
        token: str | None,
        pin: Pin | None,
        release: Callable[[], object],
    ) -> None:
        self._gateway = gateway
        self._wire = visit.wire
        self._target = target
        self._key, self._token, self._pin = key, token, pin
        self._key_is_listed = key is not None and gateway.clients.lists(key)
        self._release = release
        self._reader = FrameReader(masked=True, max_message=self._gateway.config.limits.message, observer=Collector())
        self._reader.split = True
        self._client = Hop(self._write_client, masks=False)
        self._upstream: Hop | None = None
        self._socket: UpstreamSocket | None = None
        self._state = _SETUP
        self._first: list[bytes] = []
        self._early: list[Event] = []
        self._early_size = 0
        #: Whether the client has been told to go on elsewhere.
        self._leaving = False
        self._reserved = 0
        self._marks: tuple[bytes, ...] = ()
        self._held = 0
        self._opening: Deferred[None] | None = None
        self._call: Call | None = None
        self._preparing: PrepareSession | None = None
        self._timer: Deadline | None = None
        self._stall: Stall | None = None
        #: Where plugins edit what the client says, and what the upstream says.
        self._edits = False
        self._queue: list[tuple[int, bytes]] = []
        self._down: FrameReader | None = None
        self._account: Account | None = None
        self.sent = 0

    # What the connection tells

    def begin(self, early: bytes) -> None:
        """The upgrade is granted; `early` has come behind the request."""
        limits = self._gateway.config.timeouts
        self._timer = self._gateway.deadlines.after(limits.request_read, self._no_setup)
        if early:
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        client = self._client
        client.heard = True
        try:
            events = self._reader.feed(data)
        except Violation as e:
            self._client_broke(e)
            return
        for event in events:
            if self._state == _OVER:
                if isinstance(event, Control) and event.opcode == CLOSE:
                    self._hang_up()
            elif isinstance(event, bytes):
                if self._state == _RELAYING:
                    if not self._edits:
                        assert self._socket is not None
                        self._socket.write(event)
                else:
                    self._before_setup(event)
            elif isinstance(event, Control):
                self._client_control(event)
            elif self._state == _SETUP:
                self._first_message()
            elif self._edits and self._state == _RELAYING:
                self._queue_messages()
        if self._upstream is not None and not self._edits:
            self._upstream.settle(mid_frame=self._reader.mid_frame, mid_message=self._reader.mid_message)

    def connection_lost(self) -> None:
        """The client's connection is closed, by either side."""
        self._client.closing = True
        if self._state != _OVER:
            self._end("cancelled", Closing(GOING_AWAY, "The client left."), tell_client=False)
        self._drop_timer()

    def going_away(self) -> None:
        """The gateway is about to stop: tell the client to go on elsewhere."""
        if self._state < _RELAYING:
            self._end("cancelled", Closing(GOING_AWAY, "The gateway is stopping."))
        elif self._state == _RELAYING and not self._leaving and self._target.method in (live.DEVELOPER, live.VERTEX):
            assert self._socket is not None
            self._leaving = True
            left = max(1, round(self._gateway.config.timeouts.drain))
            self._client.say(self._socket.reader.opcode, b'{\n  "goAway": {\n    "timeLeft": "%ds"\n  }\n}\n' % left)

    def cut(self) -> None:
        """The gateway stops now."""
        if self._state != _OVER:
            self._end("aborted", Closing(GOING_AWAY, "The gateway is stopping."))

    # Before the session is set up

    def _no_setup(self) -> None:
        limit = self._gateway.config.timeouts.request_read
        self._refuse(InvalidRequest(f"The setup did not come within [timeouts] request_read, {limit:g} seconds."))

    def _before_setup(self, data: bytes) -> None:
        if self._state == _SETUP:
            try:
                self._wire.site.reserve(len(data))
            except Unavailable as e:
                self._refuse(e)
                return
            self._reserved += len(data)
            self._first.append(data)
            return
        if not self._edits:
            self._early.append(data)
        self._early_size += len(data)
        if self._early_size > MAX_EARLY:
            self._hold(_EARLY)

    def _first_message(self) -> None:
        """The first message is here: open the session with it."""
        collector = cast(Collector, self._reader.observer)
        opcode, payload = collector.complete.pop()
        raw, self._first = b"".join(self._first), []
        self._state = _OPENING
        self._edits = self._gateway.hooks.edits_requests
        if not self._edits:
            self._reader.split = False
            self._reader.observer = None
        self._tick_in(PING_EVERY)
        self._opening = Deferred.fromCoroutine(self._open(opcode, payload, raw))
        self._opening.addErrback(self._failed)

    async def _open(self, opcode: int, payload: bytes, raw: bytes) -> None:
        gateway, wire = self._gateway, self._wire
        try:
            setup = live.read_setup(payload, self._target, locked=self._token is not None)
            pinned = self._pinned(setup)
            model = setup.model or (self._pin.model if self._pin is not None else "")
            calls = gateway.calls
            inbound = InboundCall(
                wire.id,
                wire.path.decode("ascii", "backslashreplace"),
                ModelCall(self._target.version, model, self._target.method),
                Framing.LIVE,
                MappingProxyType({"constrained": "1"} if self._token is not None else {}),
                MappingProxyType(plain_headers(wire)),
                self._key,
                payload,
                gateway.wall(),
            )
            client = SessionClient(
                calls.context.client, opcode, payload, raw, gateway.config.limits.message, self._token
            )
            prepared = self._preparing = PrepareSession(
                calls.context, calls.prepare(inbound), gateway.sessions, client, pinned, self._handle
            )
            call = self._call = calls.begin(prepared)
            opened = await call.open()
        except (GatewayError, HookFailed) as e:
            self._opening = None
            self._refuse(e)
            return
        self._opening = None
        if isinstance(opened, FinalAnswer):
            self._end("error", self._told(opened), status=opened.status)
        elif self._state == _OVER or isinstance(opened, Answer):  # no plugin answers a session
            opened.close()
        else:
            self._opened(opened)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            log.failure("{request_id}: the session failed", failure=failure, request_id=self._wire.id)
            self._end("error", Closing(INTERNAL_ERROR, "The gateway failed to serve this session; its log says why."))

    def _pinned(self, setup: live.Setup) -> tuple[str, str] | None:
        """
        Return the account that alone can serve what the first message names, and what that is.

        :raises GatewayError: if nobody may have it who asks.
        """
        gateway = self._gateway
        if self._pin is not None:
            return self._pin.account, "the ephemeral token"
        asking = maker_of(self._key)
        if setup.handle is not None:
            pin = gateway.pins.find(setup.handle, gateway.wall())
            if pin is None or not pin.answers_to(asking):
                raise NotFound(
                    "This session handle is not known to this gateway. Begin a new session.", reason="HANDLE_UNKNOWN"
                )
            return pin.account, "the session handle"
        if setup.interaction is not None:
            name = f"interactions/{setup.interaction}"
            pin = gateway.pins.find(name, gateway.wall())
            if pin is not None and pin.answers_to(asking):
                return pin.account, "the interaction"
            context = gateway.calls.context
            owner = context.ownership.owner(name)  # made by a request
            if owner is not None and sees(context, asking, name):
                return owner, "the interaction"
            raise NotFound("This interaction is not known to this gateway.", reason="INTERACTION_UNKNOWN")
        return None

    def _handle(self, account: Account, handle: str) -> None:
        """The upstream has told a handle that resumes the session."""
        gateway = self._gateway
        maker = maker_of(self._key)
        pin = Pin(account.name, maker.key or None, gateway.wall() + HANDLE_SECONDS, team=maker.team)
        mark = gateway.pins.remember(handle, pin)
        if len(self._marks) == KEPT_HANDLES:
            gateway.pins.forget(self._marks[0])
        self._marks = (*self._marks[-KEPT_HANDLES + 1 :], mark)

    def _told(self, answer: FinalAnswer) -> Closing:
        """Return the last refusal of an upstream, as the client is told."""
        try:
            error = documents.decode(answer.body)["error"]
            message = str(error["message"])
        except (*NOT_JSON, KeyError, TypeError):
            message = f"The upstream answered {answer.status}."
        wait = next((value.decode("ascii") for name, value in answer.headers if name == b"Retry-After"), None)
        return live.closing_of(answer.status, message if wait is None else _with_wait(message, wait))

    def _refuse(self, error: Exception) -> None:
        """Close for an error of the gateway's own."""
        if isinstance(error, HookFailed):
            error = plugin_failed(error)
        assert isinstance(error, GatewayError)
        message = self._gateway.redactor.text(error.message)
        if error.retry_after is not None:
            message = _with_wait(message, str(max(1, round(error.retry_after))))
        if self._call is not None:
            self._call.failed(error)
        self._gateway.counters.refused(error.error_reason)
        self._end("error", live.closing_of(error.status, message), status=error.status)

    def _opened(self, opened: OpenAnswer) -> None:
        """The upstream has answered the setup: from now on frames pass."""
        answer = cast(SocketAnswer, opened.answer)
        socket, message = answer.socket, answer.message
        assert socket is not None, "the answer is good"
        assert message is not None
        self._socket, self._state, self._account = socket, _RELAYING, opened.account
        self._release_memory()
        upstream = self._upstream = Hop(socket.write, masks=True)
        if self._gateway.hooks.edits_events:
            self._down = FrameReader(
                masked=False, max_message=self._gateway.config.limits.message, observer=Collector()
            )
        socket.transport.registerProducer(Throttle(self._upstream_full, self._upstream_takes), True)
        self._wire.channel.transport.registerProducer(Throttle(self._client_full, self._client_takes), True)
        assert self._call is not None
        self._call.relaying(self)
        message.hand_over(self, cast(PieceObserver, opened.body.watch))
        if self._state != _RELAYING:
            return
        early, self._early, self._early_size = self._early, [], 0
        for event in early:
            if isinstance(event, bytes):
                socket.write(event)
        if self._edits:
            self._queue_messages()
        else:
            upstream.settle(mid_frame=self._reader.mid_frame, mid_message=self._reader.mid_message)
        self._let_go(_EARLY)

    # Control frames

    def _client_control(self, control: Control) -> None:
        if control.opcode == PING:
            self._client.control(PONG, control.payload)
        elif control.opcode == CLOSE:
            try:
                closing = Closing.of(control.payload)
            except Violation as e:
                self._client_broke(e)
                return
            self._client.close(closing)
            self._end("ok" if self._state == _RELAYING else "cancelled", closing)
            self._hang_up()

    def _upstream_control(self, control: Control) -> None:
        assert self._upstream is not None
        if control.opcode == PING:
            self._upstream.control(PONG, control.payload)
        elif control.opcode == CLOSE:
            try:
                closing = Closing.of(control.payload)
            except Violation as e:
                self.upstream_broke(e)
                return
            self._upstream.close(closing)
            good = closing.code in (None, 1000, 1001) or (closing.code or 0) >= 3000
            self._end("ok" if good else "aborted", closing)

    def _client_broke(self, violation: Violation) -> None:
        """The client has broken the protocol, or a limit."""
        if self._state == _OVER:
            self._abort_client()
            return
        message = f"{violation.message[:1].upper()}{violation.message[1:]}."
        if violation.code == 1009:
            message = f"{message[:-1]}: [limits] message says how much is taken."
        self._end("error", Closing(violation.code, message), upstream=Closing(GOING_AWAY, "The client failed."))

    # What the upstream tells

    def upstream_events(self, events: Sequence[Event]) -> None:
        """See :class:`agm.upstream.websocket.SocketReceiver`."""
        upstream, client, socket = self._upstream, self._client, self._socket
        if upstream is None or socket is None:
            return
        upstream.heard = True
        for event in events:
            if self._state == _OVER:
                return
            if isinstance(event, bytes):
                if self._down is None:
                    self._write_client(event)
                else:
                    self._edit_down(event)
            elif isinstance(event, Control):
                client.mid_frame = False  # a control frame stands between two frames
                self._upstream_control(event)
        if self._down is None and self._state != _OVER:
            client.settle(mid_frame=socket.reader.mid_frame, mid_message=socket.reader.mid_message)

    def upstream_broke(self, violation: Violation) -> None:
        """See :class:`agm.upstream.websocket.SocketReceiver`."""
        self._end(
            "aborted",
            Closing(INTERNAL_ERROR, f"The upstream broke the protocol: {violation.message}."),
            upstream=Closing(violation.code if violation.code in (1007, 1009) else PROTOCOL_ERROR, violation.message),
        )

    def upstream_lost(self) -> None:
        """See :class:`agm.upstream.websocket.SocketReceiver`."""
        if self._state != _OVER:
            self._end("aborted", Closing(INTERNAL_ERROR, "The upstream closed the connection without saying why."))

    # Backpressure

    @property
    def paused(self) -> bool:
        """Whether the client has to read before more goes out."""
        return self._client.full

    def _client_full(self) -> None:
        self._client.full = True
        if self._socket is not None:
            self._socket.pause()
        if self._stall is None and self._wire.channel is not None:
            patience = self._gateway.config.timeouts.client_stall
            self._stall = self._gateway.stalls.watch(self._wire.channel.transport, patience, self._client_stalled)

    def _client_takes(self) -> None:
        self._client.full = False
        if self._stall is not None:
            self._stall.end()
            self._stall = None
        if self._socket is not None:
            self._socket.resume()
        self._client.flush()

    def _client_stalled(self) -> None:
        self._stall = None
        self._end("cancelled", Closing(GOING_AWAY, "The client takes nothing."), tell_client=False)
        self._abort_client()

    def _upstream_full(self) -> None:
        if self._upstream is not None:
            self._upstream.full = True
        self._hold(_UPSTREAM_FULL)

    def _upstream_takes(self) -> None:
        if self._upstream is not None:
            self._upstream.full = False
            self._upstream.flush()
        self._let_go(_UPSTREAM_FULL)

    def _hold(self, why: int) -> None:
        if not self._held and self._wire.channel is not None:
            self._wire.channel.transport.pauseProducing()
        self._held |= why

    def _let_go(self, why: int) -> None:
        if self._held & why:
            self._held &= ~why
            if not self._held and self._wire.channel is not None:
                self._wire.channel.transport.resumeProducing()

    def _write_client(self, data: bytes) -> None:
        channel = self._wire.channel
        if channel is not None:
            self.sent += len(data)
            send_soon(channel.transport, data)

    # Plugins

    def _queue_messages(self) -> None:
        """Messages of the client are here, for plugins to edit: one after the other, and no more is read meanwhile."""
        collector = cast(Collector, self._reader.observer)
        idle = not self._queue
        self._queue += collector.complete
        collector.complete = []
        if self._queue and idle:
            self._hold(_EDITING)
            self._opening = Deferred.fromCoroutine(self._edit_up())
            self._opening.addErrback(self._failed)

    async def _edit_up(self) -> None:
        assert self._call is not None
        hooks, request = self._gateway.hooks, self._call.request
        while self._queue and self._socket is not None and self._state == _RELAYING:
            opcode, payload = self._queue[0]
            document = _object(payload)
            try:
                if document is None:
                    check_bytes_out(hooks, _NO_OBJECTS)
                else:
                    payload = await hooks.edit_body(document, request)
            except (HookFailed, GatewayError) as e:
                self._opening = None
                self._refuse(e)
                return
            if self._state == _RELAYING and self._socket is not None:
                self._socket.write_frame(opcode, payload)
            self._queue.pop(0)
        self._opening = None
        self._let_go(_EDITING)

    def _edit_down(self, data: bytes) -> None:
        assert self._down is not None
        assert self._call is not None
        assert self._account is not None
        hooks, request, account = self._gateway.hooks, self._call.request, self._account
        collector = cast(Collector, self._down.observer)
        try:
            self._down.feed(data)
        except Violation as e:
            self.upstream_broke(e)
            return
        messages, collector.complete = collector.complete, []
        for opcode, payload in messages:
            document = _object(payload)
            try:
                if document is None:
                    check_bytes_in(hooks, _NO_OBJECTS)
                    self._write_client(frame(opcode, payload))
                    continue
                edited = hooks.edit_event(document, request, account, alone=False)
            except (HookFailed, GatewayError) as e:
                self._refuse(e)
                return
            for said in edited.documents:
                self._write_client(frame(opcode, said))
            if edited.ends:
                self._end("ok", Closing(NORMAL, "A plugin ended the session."))
                return

    # Signs of life

    def _tick_in(self, seconds: float) -> None:
        self._drop_timer()
        self._timer = self._gateway.deadlines.after(seconds, self._tick)

    def _tick(self) -> None:
        """
        Ask a side that has been silent whether it is there; one that has not answered since is gone.

        A session ends with the client key that it was opened with.
        """
        if self._key is not None:
            error = self._gateway.clients.revoked(self._key, listed=self._key_is_listed)
            if error is not None:
                self._end("aborted", live.closing_of(error.status, error.message))
                return
        for hop, held in ((self._client, self._held), (self._upstream, self._client.full)):
            if hop is None:
                continue
            if hop.heard:
                hop.heard = hop.asked = False
            elif not hop.asked:
                hop.asked = True
                hop.control(PING, b"")
            elif not held and not hop.full:  # who is not read from, or does not read, cannot be judged so
                if hop is self._client:
                    self._end("cancelled", Closing(GOING_AWAY, "The client is gone."), tell_client=False)
                    self._abort_client()
                else:
                    self._end("aborted", Closing(INTERNAL_ERROR, "The upstream gives no sign of life any more."))
                return
        self._tick_in(PING_EVERY)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # The end

    def _end(
        self,
        outcome: Outcome,
        closing: Closing,
        *,
        status: int = 101,
        upstream: Closing | None = None,
        tell_client: bool = True,
    ) -> None:
        """The session is over: close both sides, and tell whoever counts and observes.  Only the first call counts."""
        if self._state == _OVER:
            return
        self._state = _OVER
        self._drop_timer()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        if self._stall is not None:
            self._stall.end()
            self._stall = None
        self._release_memory()
        self._first, self._early, self._queue = [], [], []
        self._close_upstream(upstream or closing)
        if tell_client:
            self._close_client(closing)
        self._record(outcome, closing, status)
        self._release()
        if self._preparing is not None and self._preparing.wrapping is not None:
            self._preparing.wrapping.release()

    def _record(self, outcome: Outcome, closing: Closing, status: int) -> None:
        call, self._call = self._call, None
        wire = self._wire
        wire.code = status
        wire.sentLength = self.sent
        if call is not None:
            opened = call.opened
            if isinstance(opened, OpenAnswer):
                cast(Any, opened.body.watch).finish = f"CLOSE_{closing.code or 1005}"
            call.end(outcome, status, self.sent)
        log.info(
            "{request_id}: the session has ended: {outcome}, close code {code}",
            request_id=wire.id,
            outcome=outcome,
            code=closing.code or 1005,
        )
        wire.site.log(wire)

    def _close_client(self, closing: Closing) -> None:
        channel = self._wire.channel
        if channel is None:
            return
        if self._client.close(closing):
            self._timer = self._gateway.deadlines.after(CLOSE_WAIT, self._abort_client)
            self._held = 0
            channel.transport.unregisterProducer()
            channel.transport.resumeProducing()  # its answer is waited for
        else:
            self._abort_client()

    def _hang_up(self) -> None:
        """Both have said that they close: this side is the server, and closes first."""
        channel = self._wire.channel
        if channel is not None:
            self._drop_timer()
            channel.transport.unregisterProducer()
            channel.close()

    def _abort_client(self) -> None:
        self._timer = None
        if self._wire.channel is not None:
            self._wire.channel.abort()

    def _close_upstream(self, closing: Closing) -> None:
        socket, hop = self._socket, self._upstream
        if socket is None or hop is None or socket.lost:
            return
        socket.transport.unregisterProducer()
        if hop.close(closing):
            Farewell(socket, self._gateway.deadlines.after(CLOSE_WAIT, socket.abort))
        else:
            socket.receiver = None
            socket.abort()

    def _release_memory(self) -> None:
        held, self._reserved = self._reserved, 0
        if held:
            self._wire.site.release(held)


def _with_wait(message: str, seconds: str) -> str:
    """Return a message with the wait behind it, which must not be cut off."""
    short = message.encode("utf-8")[:_ROOM].decode("utf-8", "ignore").rstrip()
    return f"{short} Try again in {seconds} s."


def _object(payload: bytes) -> dict[str, Any] | None:
    """Return a message as plugins get it; None for one that is no JSON object, which passes as it is."""
    try:
        document = documents.decode(payload)
    except NOT_JSON:
        return None
    return document if isinstance(document, dict) else None

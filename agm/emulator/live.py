"""
The Live API: what a session of ``BidiGenerateContent`` or ``BidiGenerateMusic`` says to what it is told.

A session is a value that changes: a client's message goes in, steps come out, as for every other reply.  The first
message is ``setup``; whatever is wrong with it, or with who sends it, is a close code with Google's words as its
reason, which has room for 123 bytes.  Messages go out as JSON in binary frames, as Google's do.  Answers are those of
``generateContent``, cut into messages; nothing is random, and no clock is asked but the emulator's.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from agm.emulator import answers, credentials, errors, framing, images, jsontext, modelcalls, schema
from agm.emulator.calls import Call, Target
from agm.emulator.errors import Circumstances, GoogleError, Kind
from agm.emulator.faults import Fault
from agm.emulator.holdings import LiveToken, SavedSession
from agm.emulator.replies import Cut, Fill, Hang, Reset, Send, Wait
from agm.emulator.requestlog import Entry
from agm.emulator.state import Account, State
from agm.emulator.websocket import BINARY, frame

_DEVELOPER = re.compile(
    r"/+ws/google\.ai\.generativelanguage\.(?P<version>v1beta|v1alpha|v1)\.GenerativeService\."
    r"(?P<method>BidiGenerateContent|BidiGenerateContentConstrained|BidiGenerateMusic)"
)
_VERTEX = re.compile(
    r"/+ws/google\.cloud\.aiplatform\.(?P<version>v1beta1|v1)\.LlmBidiService/(?P<method>BidiGenerateContent)"
)
_VERTEX_MODEL = re.compile(
    r"(?:projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)/)?publishers/[^/]+/models/(?P<model>.+)"
)

#: Bytes of audio in one message of an answer, and of what is sent in, up to which it is kept.
_AUDIO_PIECE = 2400
_MOST_AUDIO = 1024 * 1024
#: A block of ``giant``; between the messages of ``slow``.
_BLOCK = 64 * 1024
_SLOW = 0.7
#: Pieces of music after ``PLAY``.
_MUSIC_PIECES = 3
#: Seconds that a token can be used, and begin sessions, unless it was made with others.
TOKEN_LIFETIME, TOKEN_NEW_SESSIONS = 1800.0, 60.0


@attrs.frozen
class Close:
    """Send a close frame, and close once the client has answered it."""

    code: int
    reason: str = ""


Step = Send | Wait | Fill | Cut | Reset | Hang | Close

#: Close codes by the HTTP status of an error; every other is 1011.
_CODES = {400: 1007, 401: 1008, 403: 1008, 404: 1008, 501: 1008}


def refused(error: GoogleError) -> Close:
    """An error as a session is closed with it."""
    return Close(_CODES.get(error.status, 1011), error.message)


def say(document: Any) -> Send:
    """Return a message to the client."""
    return Send(frame(BINARY, framing.pretty(document) + b"\n"))


def at_once(fault: Fault | None, about: Circumstances) -> list[Step]:
    """
    Return what a fault does before a session is set up: the end, a wait, or nothing.

    :raises GoogleError: the fault's own.
    """
    if fault is None:
        return []
    if fault.name == "close":
        return [Cut()]
    if fault.name == "hang" and fault.number is None:
        return [Hang()]
    if (error := errors.of_fault(about, fault)) is not None:
        raise error
    return [Wait((fault.number or 0.0) / 1000)] if fault.name == "latency" else []


@attrs.define
class Played:
    """What faults have done to a session."""

    went_away: bool = False


def played(fault: Fault | None, documents: Sequence[Mapping[str, Any]], done: Played) -> list[Step]:
    """Return how the messages of an answer go out under a fault."""
    if fault is None:
        return [*map(say, documents)]
    name, count = fault.name, fault.count
    if name == "goaway" and not done.went_away:
        done.went_away = True
        left = fault.number or 0.0
        away = say({"goAway": {"timeLeft": errors.duration(left)}})
        return [*map(say, documents), away, Wait(left), Close(1000, "The session has ended.")]
    if name == "slow":
        return [step for document in documents for step in (say(document), Wait(_SLOW))]
    if name in ("cut", "drop", "rst", "hang", "halfframe", "wsclose", "midstream", "errdata", "errtail"):
        after = count if name in ("drop", "rst", "hang", "errdata", "errtail") else 1
        steps: list[Step] = [*map(say, documents[:after])]
        match name:
            case "cut" | "drop":
                return [*steps, Cut()]
            case "rst":
                return [*steps, Wait(0.05), Reset()]
            case "hang":
                return [*steps, Hang()]
            case "halfframe":
                whole = say(documents[-1]).data
                return [*steps, Send(whole[: len(whole) // 2]), Cut()]
            case "wsclose":
                return [*steps, Close(count, f"The emulator was asked to close with {count}.")]
        return [*steps, Close(1011, "Internal error encountered.")]
    if name == "giant":
        block = {"serverContent": {"modelTurn": {"parts": [{"text": "x" * _BLOCK}], "role": "model"}}}
        times = max(1, round((fault.number or 0.0) * 1024 * 1024 / _BLOCK))
        return [Fill(say(block).data, times), *map(say, documents[-2:])]
    return [*map(say, documents)]


class Talk(Protocol):
    """
    What a connection talks to: a value that changes, to which messages come and from which steps do.

    :ivar interrupted: what tells the client that it spoke before an answer was over; None where both are heard.
    """

    interrupted: Mapping[str, Any] | None

    def received(self, payload: bytes) -> Sequence[Step]:
        """Return what follows from a message."""


def handles(call: Call) -> bool:
    """Return whether a path is a session's."""
    return _path(call) is not None


def _path(call: Call) -> re.Match[str] | None:
    return _DEVELOPER.fullmatch(call.path) or _VERTEX.fullmatch(call.path)


def token_of(call: Call) -> str | None:
    """Return the ephemeral token of a request, wherever it stands."""
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    for found in (
        token if scheme.lower() == "token" else "",
        call.query.get("access_token"),
        credentials.api_key(call),
    ):
        if found and found.startswith("auth_tokens/"):
            return found
    return None


class Session:
    """
    One session.

    :param call: the request that opened it; what is wrong with its credential is said when it is set up.
    :raises GoogleError: where Vertex AI refuses the request itself.
    """

    interrupted: Mapping[str, Any] | None = {"serverContent": {"interrupted": True}}

    def __init__(self, call: Call, state: State, entry: Entry) -> None:
        path = _path(call)
        assert path is not None, "see handles()"
        self._call, self._state, self._entry = call, state, entry
        self._kind = Kind.VERTEX if path.re is _VERTEX else Kind.API_KEY
        self._version, self.method = path["version"], path["method"]
        self._music = self.method == "BidiGenerateMusic"
        self._constrained = self.method == "BidiGenerateContentConstrained"
        entry.rpc = self.method
        self._account: Account | None = None
        self._setup: dict[str, Any] = {}
        self._model = ""
        self._fault: Fault | None = None
        self._contents: list[dict[str, Any]] = []
        self._audio = b""
        self._heard = 0
        self._played = Played()
        self._prompts: list[Any] = []
        self._music_config: dict[str, Any] = {}
        if self._kind is Kind.VERTEX:
            self._account = self._authenticated()

    @property
    def set_up(self) -> bool:
        """Whether it has been set up."""
        return bool(self._model)

    def _authenticated(self) -> Account:
        about = Target(self._kind, self._version, self._model, self.method).about("12345678", self._state.clock.now())
        account = credentials.authenticate(self._call, self._state, about, keys=True)
        self._entry.account = account.name
        return account

    # What the client says

    def received(self, payload: bytes) -> Sequence[Step]:
        """Return what follows from a message."""
        try:
            document = jsontext.read(payload)
            if not self.set_up:
                return self._begin(document)
            if self._music:
                return self._on_music(document)
            return self._on_message(schema.read(document, "BidiGenerateContentClientMessage", self._kind))
        except GoogleError as error:
            return [refused(error)]

    def _begin(self, document: Any) -> Sequence[Step]:
        message = schema.read(document, "BidiGenerateContentClientMessage", self._kind)
        if message.keys() != {"setup"}:
            raise errors.invalid_argument("setup must be the first message and only the first")
        setup = message["setup"]
        token = self._token() if self._constrained else None
        if token is not None:
            setup = {**setup, **token.setup}
        target = self._target(setup.get("model", ""))
        model = self._entry.model = target.model
        if token is not None:
            account = self._state.account_named(token.account)
            self._entry.account = account.name
        else:
            account = self._account or self._authenticated()
        about = target.about(account.project_or_default, self._state.clock.now())
        credentials.check_standing(self._call, account, about)
        if not account.has_model(model):
            raise errors.model_not_found(about)
        fault = self._fault = self._state.fault_for(account.name, model)
        before = at_once(fault, about)
        if before and not isinstance(before[0], Wait):
            return before
        modelcalls.use_quota(self._state, account, model, about)
        handle = setup.get("sessionResumption", {}).get("handle")
        if handle:
            saved = self._state.holdings.sessions.get(handle)
            if saved is None or saved.account != account.name or saved.model != model:
                return [Close(1008, "BidiGenerateContent session not found")]
            self._contents = [dict(turn) for turn in saved.contents]
        if token is not None:
            token.used += 1
        self._account, self._model, self._setup = account, model, setup
        complete = {"sessionId": self._state.holdings.new_id(self._state.seed, 20)} if self._vertex else {}
        return [*before, say({"setupComplete": complete})]

    def _target(self, named: str) -> Target:
        """Return what a setup calls, by the name of its model."""
        model, project, location = named.removeprefix("models/"), None, "global"
        if self._kind is Kind.VERTEX:
            full = _VERTEX_MODEL.fullmatch(named)
            if full is None:
                raise errors.invalid_argument(f"Invalid resource field value in the request: model: {named}")
            model, project, location = full["model"], full["project"], full["location"] or "global"
        elif not named.startswith("models/"):
            raise errors.invalid_argument("* BidiGenerateContentSetup.model: unexpected model name format\n")
        method = self.method[:1].lower() + self.method[1:]
        return Target(self._kind, self._version, model, method, project, location)

    def _token(self) -> LiveToken:
        token, now = self._state.holdings.tokens.get(token_of(self._call) or ""), self._state.clock.now()
        if token is None or not token.usable(now):
            raise GoogleError(401, "Token has expired or is invalid")
        return token

    @property
    def _vertex(self) -> bool:
        return self._kind is Kind.VERTEX

    def _on_message(self, message: Mapping[str, Any]) -> Sequence[Step]:
        if "setup" in message:
            raise errors.invalid_argument("setup must be the first message and only the first")
        if (content := message.get("clientContent")) is not None:
            self._contents += [{**turn, "role": turn.get("role", "user")} for turn in content.get("turns", ())]
            return self._answered() if content.get("turnComplete") else []
        if (told := message.get("toolResponse")) is not None:
            parts = [{"functionResponse": one} for one in told.get("functionResponses", ())]
            self._contents.append({"role": "user", "parts": parts})
            return self._answered()
        return self._on_realtime(message["realtimeInput"]) if "realtimeInput" in message else []

    def _on_realtime(self, given: Mapping[str, Any]) -> Sequence[Step]:
        """Speech ends where the client says so: nothing here listens."""
        for blob in (given.get("audio"), given.get("video"), *given.get("mediaChunks", ())):
            if blob is not None and blob.get("mimeType", "").startswith("audio/"):
                data = schema.decode_bytes(blob.get("data", ""))
                self._heard += len(data)
                self._audio = (self._audio + data)[:_MOST_AUDIO]
            elif blob is not None:
                self._contents.append({"role": "user", "parts": [{"inlineData": blob}]})
        if given.get("text"):
            self._contents.append({"role": "user", "parts": [{"text": given["text"]}]})
            return self._answered()
        if "activityEnd" in given or given.get("audioStreamEnd"):
            return self._spoken_to()
        return []

    def _spoken_to(self) -> Sequence[Step]:
        if not self._heard:
            return []
        data = base64.b64encode(self._audio).decode()
        self._contents.append({"role": "user", "parts": [{"inlineData": {"mimeType": "audio/pcm", "data": data}}]})
        heard, self._heard, self._audio = self._heard, 0, b""
        steps: list[Step] = []
        if "inputAudioTranscription" in self._setup:
            text = f"({heard} bytes of speech)"
            steps.append(say({"serverContent": {"inputTranscription": {"text": text}}}))
        return [*steps, *self._answered()]

    # What the model says

    def _answered(self) -> list[Step]:
        return played(self._fault, self._documents(), self._played)

    def _documents(self) -> list[dict[str, Any]]:
        """Return the messages of one turn, and what it is remembered by."""
        config = dict(self._setup.get("generationConfig", {}))
        if "responseModalities" not in config and "native-audio" in self._model:
            config["responseModalities"] = ["AUDIO"]
        request = {**{k: v for k, v in self._setup.items() if k in ("tools", "systemInstruction")}}
        request |= {"contents": self._contents, "generationConfig": config}
        wanted, text = None, None
        if self._fault is not None and self._fault.name == "chunks":
            wanted = max(self._fault.count, 1)
            text = "".join(f"This is piece {index + 1:7} of {wanted:7}. " for index in range(wanted))
        elif self._fault is not None and self._fault.name == "splitutf8":
            text = answers.MANY_SCRIPTS
        answer = answers.compose(self._model, request, seed=self._state.seed, vertex=self._vertex, text=text)
        said = answers.events(answer, wanted=wanted)
        usage = self._usage(said[-1]["usageMetadata"])
        messages: list[dict[str, Any]] = []
        parts = [part for event in said for part in event["candidates"][0]["content"].get("parts", ())]
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        for part in parts:
            messages += self._spoken(part)
        if "AUDIO" in config.get("responseModalities", ()) and "outputAudioTranscription" in self._setup:
            without = {**request, "generationConfig": {}}
            for event in answers.events(answers.compose(self._model, without, seed=self._state.seed)):
                for part in event["candidates"][0]["content"].get("parts", ()):
                    if "text" in part:
                        messages.append({"serverContent": {"outputTranscription": {"text": part["text"]}}})
        self._contents.append({"role": "model", "parts": list(answer.candidates[0].parts)})
        if calls:
            numbered = [{"id": f"function-call-{len(self._contents)}-{n}", **call} for n, call in enumerate(calls)]
            return [*messages, {"toolCall": {"functionCalls": numbered}, "usageMetadata": usage}]
        messages.append({"serverContent": {"generationComplete": True}})
        messages.append({"serverContent": {"turnComplete": True}, "usageMetadata": usage})
        if "sessionResumption" in self._setup:
            assert self._account is not None, "it is set up"
            handle = "emu-handle-" + self._state.holdings.new_id(self._state.seed, 24)
            saved = SavedSession(self._account.name, self._model, tuple(self._contents))
            self._state.holdings.sessions[handle] = saved
            messages.append({"sessionResumptionUpdate": {"newHandle": handle, "resumable": True}})
        return messages

    def _spoken(self, part: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return a part of an answer as messages: a call comes by itself, audio in pieces."""
        if "functionCall" in part:
            return []
        pieces: list[Mapping[str, Any]] = [part]
        if "inlineData" in part and part["inlineData"]["mimeType"].startswith("audio/"):
            data = base64.b64decode(part["inlineData"]["data"])
            pieces = [
                {
                    "inlineData": {
                        "mimeType": "audio/pcm;rate=24000",
                        "data": base64.b64encode(data[at : at + _AUDIO_PIECE]).decode(),
                    }
                }
                for at in range(0, len(data), _AUDIO_PIECE)
            ]
        role = {"role": "model"} if self._vertex else {}
        return [{"serverContent": {"modelTurn": {"parts": [piece], **role}}} for piece in pieces]

    def _usage(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """``usageMetadata`` as sessions have it: the Developer API has other names here than elsewhere."""
        if self._vertex:
            return dict(usage)
        names = {"candidatesTokenCount": "responseTokenCount", "candidatesTokensDetails": "responseTokensDetails"}
        return {names.get(name, name): value for name, value in usage.items()}

    # Music

    def _on_music(self, document: Any) -> Sequence[Step]:
        if not isinstance(document, dict) or len(document) != 1:
            raise errors.invalid_argument()
        ((name, value),) = document.items()
        match name:
            case "clientContent" | "client_content" if isinstance(value, dict):
                self._prompts = value.get("weightedPrompts") or value.get("weighted_prompts") or []
                if not isinstance(self._prompts, list) or not all(isinstance(one, dict) for one in self._prompts):
                    raise errors.invalid_argument()
                filtered = [p["text"] for p in self._prompts if str(p.get("text", "")).startswith("emu-filter")]
                return [
                    say({"filteredPrompt": {"text": text, "filteredReason": "It was asked for."}}) for text in filtered
                ]
            case "musicGenerationConfig" | "music_generation_config" if isinstance(value, dict):
                self._music_config = value
            case "playbackControl" | "playback_control":
                if value in ("PLAY", 1):
                    return [say(self._music_piece(number)) for number in range(_MUSIC_PIECES)]
            case _:
                raise errors.invalid_argument()
        return []

    def _music_piece(self, number: int) -> dict[str, Any]:
        about = {"clientContent": {"weightedPrompts": self._prompts}, "musicGenerationConfig": self._music_config}
        digest = answers.digest_of(self._state.seed + number, self._model, about)
        mono = images.tone(digest, rate=48_000, seconds=0.05)
        stereo = b"".join(mono[at : at + 2] * 2 for at in range(0, len(mono), 2))
        chunk = {
            "data": base64.b64encode(stereo).decode(),
            "mimeType": "audio/l16;rate=48000;channels=2",
            "sourceMetadata": about,
        }
        return {"serverContent": {"audioChunks": [chunk]}}


def new_token(body: bytes, account: Account, state: State) -> dict[str, Any]:
    """
    ``AuthTokens.CreateToken``: make an ephemeral token.

    :raises GoogleError: 400.
    """
    asked = schema.read(jsontext.read(body) if body.strip() else {}, "AuthToken", Kind.API_KEY)
    now = state.clock.now()
    times = []
    for name, otherwise in (("expireTime", TOKEN_LIFETIME), ("newSessionExpireTime", TOKEN_NEW_SESSIONS)):
        given = asked.get(name)
        at = now + otherwise if given is None else errors.parse_timestamp(given)
        if at is None:
            raise errors.bad_request(
                [errors.invalid_value(name, "type.googleapis.com/google.protobuf.Timestamp", given)]
            )
        times.append(at)
    name = "auth_tokens/" + binascii.hexlify(state.holdings.new_id(state.seed, 32).encode()).decode()
    uses = asked.get("uses", 1)
    state.holdings.tokens[name] = LiveToken(
        account.name, times[0], times[1], uses, asked.get("bidiGenerateContentSetup", {})
    )
    return {"name": name}

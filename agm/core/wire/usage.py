"""
What an answer says of itself: how many tokens it took, and why it ended.

A :class:`UsageWatch` is shown the bytes of an answer as its upstream sends them, in whatever framing, wrapped or not,
and reads them once the answer has ended: no event is parsed on its way, and none is kept.  It looks for the names that
Google gives these things, of which an answer holds several (every event of a stream counts anew) and the last one is
right.  A name in the text of a conversation is not taken for one: JSON escapes its quotes there.

Nothing is changed here, and nothing is held beyond a bounded tail of the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Annotated

import attrs
import msgspec
from msgspec.structs import astuple


@attrs.frozen(slots=False)
class Usage:
    """
    Tokens of one request, as the upstream counted them; 0 for what it did not tell.

    `prompt` holds those that were `cached`; `output` is what was said, `thoughts` what was thought before, and `tool`
    what tools put into the prompt.  `total` is the upstream's sum, or ours where it gave none.
    """

    prompt: int = 0
    output: int = 0
    cached: int = 0
    thoughts: int = 0
    tool: int = 0
    total: int = 0
    #: Tokens that are no text, as (``prompt``, ``cached`` or ``output``; modality; count), as far as that was told.
    modalities: tuple[tuple[str, str, int], ...] = ()
    #: Images that ``predict`` has made, for which no tokens are told.
    images: int = 0
    #: How Vertex AI says that it is paid for, where that is not the usual way.
    tier: str = ""


#: What follows a name: a reason's own name, or its number where the client asked for numbers.
_REASON = re.compile(rb'\s*:\s*(?:"([A-Z][A-Z0-9_]*)"|([0-9]+))')
#: The same for the status of an interaction; other statuses stand in what tools say.
_STATUS = re.compile(
    rb'\s*:\s*(?:"(completed|failed|cancelled|incomplete|requires_action|requires_continuation|budget_exceeded'
    rb'|in_progress|queued|idle)"|(?!))'
)
#: What Vertex AI's and the Developer API's ``predict`` give of each image.
_IMAGE = re.compile(rb'"bytesBase64Encoded"\s*:\s*"')
#: What counts hold that are not of text alone, or are paid for in another way than usual.
_NOT_PLAIN = re.compile(
    rb'(?i)"(?:audio|image|video|document)"|"modality"\s*:\s*[02-9]|"trafficType"\s*:\s*(?!"ON_DEMAND"|1\b)'
)
#: What the details of counts are of, by their names.
_DETAILS = {
    "promptTokensDetails": "prompt",
    "cacheTokensDetails": "cached",
    "candidatesTokensDetails": "output",
    "responseTokensDetails": "output",
    "input_tokens_by_modality": "prompt",
    "cached_tokens_by_modality": "cached",
    "output_tokens_by_modality": "output",
}
#: Modalities by their numbers, where a client asked for numbers.
_MODALITIES = ("", "TEXT", "IMAGE", "VIDEO", "AUDIO", "DOCUMENT")
#: Its number for a way of being paid for that knows no tokens.
_PROVISIONED = 2
_USUAL_TRAFFIC = frozenset({"", "ON_DEMAND", "TRAFFIC_TYPE_UNSPECIFIED"})
#: Numbers that mean the same in every API of Google's; the others do not.
_NUMBERED = {"1": "STOP", "2": "MAX_TOKENS", "3": "SAFETY", "4": "RECITATION", "5": "OTHER"}
_COLON = re.compile(r"\s*:\s*(?=\{)")
#: The same with the object behind it, if that is one as Google writes it: with details that are flat, and no escapes.
_COUNTED = re.compile(rb'\s*:\s*(\{(?:[^{}"]++|"[^"\\]*+"|\{(?:[^{}"]++|"[^"\\]*+")*+\})*+\})')
#: A line end inside of an event's data.
_CONTINUED = re.compile(r"(?:\r\n|\r|\n)data: ?")
#: What Vertex AI tells of a text that was embedded by ``predict``; the sum over all texts is the prompt.
_EMBEDDED = re.compile(rb'"token_count"\s*:\s*([0-9]{1,9})(?=[.\s,}])')


#: No count is as large as this; JSON's numbers have no end.
_MOST = 2**53
_Count = Annotated[int, msgspec.Meta(ge=0, lt=_MOST)]


class _Modality(msgspec.Struct):
    """How many tokens are of one modality; the Interactions API says `tokens`."""

    modality: str | int = ""
    tokenCount: _Count = 0
    tokens: _Count = 0


class _Counts(msgspec.Struct):
    """The fields of a :class:`Usage`, in their order, as Google calls them, and another name of one."""

    promptTokenCount: _Count = 0
    candidatesTokenCount: _Count = 0
    cachedContentTokenCount: _Count = 0
    thoughtsTokenCount: _Count = 0
    toolUsePromptTokenCount: _Count = 0
    totalTokenCount: _Count = 0
    #: What Live sessions of the Developer API call what was said.
    responseTokenCount: _Count = 0


class _Details(msgspec.Struct):
    """What belongs to the counts, by what it is of: ``prompt``, ``cached`` or ``output``."""

    promptTokensDetails: list[_Modality] = []
    cacheTokensDetails: list[_Modality] = []
    candidatesTokensDetails: list[_Modality] = []
    responseTokensDetails: list[_Modality] = []
    input_tokens_by_modality: list[_Modality] = []
    cached_tokens_by_modality: list[_Modality] = []
    output_tokens_by_modality: list[_Modality] = []
    trafficType: str | int = ""


class _InteractionCounts(msgspec.Struct):
    """The same of the Interactions API."""

    total_input_tokens: _Count = 0
    total_output_tokens: _Count = 0
    total_cached_tokens: _Count = 0
    total_thought_tokens: _Count = 0
    total_tool_use_tokens: _Count = 0
    total_tokens: _Count = 0


class _OpenAICounts(msgspec.Struct):
    """The same of Google's OpenAI surface, whose answers tell no more than three of them."""

    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    cached_tokens: _Count = 0
    reasoning_tokens: _Count = 0
    tool_tokens: _Count = 0
    total_tokens: _Count = 0


@attrs.frozen(eq=False)
class Names:
    """What an API calls its counts and its reasons to end, and how they are read."""

    usage: bytes
    counts: type[msgspec.Struct]
    finish: bytes
    reason: re.Pattern[bytes]
    #: Where a prompt that was refused says why; b"" where there is no such thing.
    block: bytes = b""
    decoder: msgspec.json.Decoder[msgspec.Struct] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "decoder", msgspec.json.Decoder(self.counts))


GENERATE = Names(b'"usageMetadata"', _Counts, b'"finishReason"', _REASON, b'"blockReason"')
OPENAI = Names(b'"usage"', _OpenAICounts, b'"finish_reason"', re.compile(rb'\s*:\s*(?:"([a-z][a-z_]*)"|(?!))'))
#: An interaction's reason to end is its status.
INTERACTIONS = Names(b'"usage"', _InteractionCounts, b'"status"', _STATUS)
_DETAILED = msgspec.json.Decoder(_Details)
_JSON = json.JSONDecoder()

#: Bytes that are held before they are looked through.
HELD = 16 * 1024
#: A name with what belongs to it takes up no more bytes than this.
SPAN = 4 * 1024


class UsageWatch:
    """
    Watches one answer.

    :param embeds: whether the answer is one of ``predict``, which counts tokens per text, and images not at all.
    :param names: what the answer's API calls things.
    """

    __slots__ = ("_chunks", "_embedded", "_embeds", "_finish", "_images", "_names", "_size", "_usage")

    def __init__(self, *, embeds: bool = False, names: Names = GENERATE) -> None:
        self._embeds = embeds
        self._names = names
        self._chunks: list[bytes] = []
        self._size = 0
        # of what is no longer held
        self._usage = b""
        self._finish: str | None = None
        self._embedded = 0
        self._images = 0

    def feed(self, chunk: bytes) -> None:
        """Take note of the next bytes."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > HELD:
            self._look_through()

    def read(self) -> tuple[Usage | None, str | None]:
        """The tokens, and the last candidate's reason to end or why the prompt was refused; None for what is untold."""
        held = b"".join(self._chunks)
        names = self._names
        usage = last_usage(held, names) or (last_usage(self._usage, names) if self._usage else None)
        if usage is None and self._embeds:
            prompt = self._embedded + _embedded(held, len(held))
            images = self._images + len(_IMAGE.findall(held))
            usage = Usage(prompt=prompt, total=prompt, images=images) if prompt or images else None
        finish = _last_reason(held, names, names.finish, len(held)) or self._finish
        if finish is None and names.block:
            finish = _last_reason(held, names, names.block, len(held))
        return usage, finish

    def _look_through(self) -> None:
        """Note what is in the bytes that are held, and go on holding those that may yet belong to something."""
        last = self._chunks[-1]
        if len(last) > SPAN and b'"' not in last:  # the middle of an image: no name is in it, and none goes on in it
            self._chunks[-1] = b""
            data, settled = b"".join(self._chunks), self._size
            self._chunks = []
        else:
            data = b"".join(self._chunks)
            settled = len(data) - SPAN
            self._chunks = [data[settled:]]
        self._size = sum(map(len, self._chunks))
        names = self._names
        at = data.rfind(names.usage, 0, settled + len(names.usage) - 1)
        if at >= 0:
            self._usage = data[at : at + SPAN]
        # a reason comes before the count of its event, or is long past
        self._finish = _last_reason(data, names, names.finish, settled, after=at - SPAN) or self._finish
        if self._embeds:
            self._embedded += _embedded(data, settled)
            self._images += sum(1 for found in _IMAGE.finditer(data) if found.start() < settled)


class KeepingWatch(UsageWatch):
    """
    A watch that also keeps the start of the answer, for a person who asked for that.

    :param most: how many bytes of it.
    :ivar size: how many bytes there were in all.
    """

    __slots__ = ("_kept", "_room", "size")

    def __init__(self, most: int, *, embeds: bool = False, names: Names = GENERATE) -> None:
        super().__init__(embeds=embeds, names=names)
        self._kept: list[bytes] = []
        self._room = most
        self.size = 0

    def feed(self, chunk: bytes) -> None:
        """Take note of the next bytes, and keep them while there is room."""
        super().feed(chunk)
        self.size += len(chunk)
        if self._room > 0:
            kept = chunk[: self._room]
            self._kept.append(kept)
            self._room -= len(kept)

    @property
    def kept(self) -> bytes:
        """The start of the answer."""
        return b"".join(self._kept)


def last_usage(data: bytes, names: Names = GENERATE) -> Usage | None:
    """Return the last usage that can be read: a later one may have been cut off."""
    end, name = len(data), names.usage
    while (at := data.rfind(name, 0, end)) >= 0:
        counted = _COUNTED.match(data, at + len(name), at + SPAN)
        if counted is not None:
            try:
                found = names.decoder.decode(counted[1])
            except msgspec.MsgspecError:  # it is read as far as it can be
                pass
            else:
                usage = _made(*astuple(found))
                if usage is not None:
                    return usage if _NOT_PLAIN.search(counted[1]) is None else _with_details(usage, counted[1])
                end = at
                continue
        text = data[at + len(name) : at + SPAN].decode("utf-8", "replace")
        usage = _usage(text, names) or _usage(_CONTINUED.sub("\n", text), names)
        if usage is not None:
            return usage
        end = at
    return None


def _usage(text: str, names: Names) -> Usage | None:
    """From what follows the name."""
    colon = _COLON.match(text)
    if colon is None:
        return None
    try:
        found, _ = _JSON.raw_decode(text, colon.end())
    except (ValueError, RecursionError):
        return None
    counts = map(found.get, names.counts.__struct_fields__)
    usage = _made(*(n if type(n) is int and 0 < n < _MOST else 0 for n in counts))
    return None if usage is None else _with_details(usage, json.dumps(found).encode())


def _made(prompt: int, output: int, cached: int, thoughts: int, tool: int, total: int, said: int = 0) -> Usage | None:
    output = output or said
    total = total or prompt + output + thoughts + tool
    if not total:  # Vertex AI says in each event how it was paid for, and counts in the last one only
        return None
    return Usage(prompt, output, cached, thoughts, tool, total)


def _with_details(usage: Usage, counted: bytes) -> Usage:
    """Add what is told of the kinds of tokens, if there is any but text, and of how they are paid for."""
    try:
        found = _DETAILED.decode(counted)
    except msgspec.MsgspecError:  # the counts themselves are right
        return usage
    modalities = tuple(told for name, of in _DETAILS.items() for told in _told(of, getattr(found, name)))
    traffic = found.trafficType
    if isinstance(traffic, int):
        traffic = "PROVISIONED_THROUGHPUT" if traffic == _PROVISIONED else ""
    tier = "" if traffic in _USUAL_TRAFFIC else traffic
    return attrs.evolve(usage, modalities=modalities, tier=tier) if modalities or tier else usage


def _told(of: str, details: Iterable[_Modality]) -> Iterator[tuple[str, str, int]]:
    """Give the counts of what is no text."""
    for each in details:
        name, count = each.modality, each.tokenCount or each.tokens
        if isinstance(name, int):
            name = _MODALITIES[name] if 0 <= name < len(_MODALITIES) else ""
        if name and count and name.upper() != "TEXT":
            yield of, name.upper()[:20], count


def _last_reason(data: bytes, names: Names, name: bytes, before: int, *, after: int = 0) -> str | None:
    """Return the value of the last `name` that starts between `after` and `before`."""
    start = max(after, 0)
    end = before + len(name) - 1
    while (at := data.rfind(name, start, end)) >= 0:
        found = names.reason.match(data, at + len(name), at + SPAN)
        if found is not None:
            if found[1] is not None:
                return found[1].decode("ascii")
            number = found[2].decode("ascii")
            return _NUMBERED.get(number, number)
        end = at
    return None


def _embedded(data: bytes, before: int) -> int:
    """Return the sum of the tokens of the texts that start within `before` bytes."""
    return sum(int(found[1]) for found in _EMBEDDED.finditer(data) if found.start() < before)

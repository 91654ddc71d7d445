"""
What Google's answers consist of, as far as a dialect reads them: typed, and decoded in one step for each event.

What is not named here is skipped unread.  The arguments of a function call stay as they were written, so that no number
loses a digit on its way.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from agm.api import BadUpstreamAnswer

__all__ = [
    "SPOILT",
    "WITHHELD",
    "Blob",
    "Candidate",
    "Content",
    "FunctionCall",
    "Grounding",
    "Logprobs",
    "Part",
    "Response",
    "Token",
    "Usage",
    "compact",
    "read_response",
    "spoilt",
    "why_withheld",
]


class _Camel(msgspec.Struct, rename="camel"):
    """Google's names in its JSON are in camelCase."""


class FunctionCall(_Camel):
    """A call of one of the client's functions; `args` is an object as JSON."""

    name: str = ""
    id: str | None = None
    args: Raw = Raw(b"{}")


class Blob(_Camel):
    """Bytes in base64, and what they are."""

    mime_type: str = ""
    data: str = ""


class ExecutableCode(_Camel):
    """Code that the model has run itself."""

    language: str = ""
    code: str = ""


class CodeExecutionResult(_Camel):
    """What came of it."""

    outcome: str = ""
    output: str = ""


class Part(_Camel):
    """One part of what was said: a text (a thought, where `thought`), a call, or bytes."""

    text: str | None = None
    thought: bool | None = None
    #: Base64, opaque; to be sent back with this part in the next turn.
    thought_signature: str | None = None
    function_call: FunctionCall | None = None
    inline_data: Blob | None = None
    executable_code: ExecutableCode | None = None
    code_execution_result: CodeExecutionResult | None = None


class Content(_Camel):
    """A turn."""

    parts: list[Part] | None = None
    role: str | None = None


class Token(_Camel):
    """A token, and the logarithm of its probability."""

    token: str = ""
    log_probability: float = 0.0


class TopCandidates(_Camel):
    """What might have stood in one place, the likeliest first."""

    candidates: list[Token] | None = None


class Logprobs(_Camel):
    """How likely what was said is, token by token, and what might have been said."""

    chosen_candidates: list[Token] | None = None
    top_candidates: list[TopCandidates] | None = None


class Web(_Camel):
    """A page."""

    uri: str = ""
    title: str = ""


class GroundingChunk(_Camel):
    """Something that an answer is grounded on."""

    web: Web | None = None


class Segment(_Camel):
    """A piece of an answer's text, in bytes of its UTF-8."""

    start_index: int = 0
    end_index: int = 0
    text: str = ""


class GroundingSupport(_Camel):
    """Which piece of an answer is grounded on what, by its number."""

    segment: Segment | None = None
    grounding_chunk_indices: list[int] | None = None


class Grounding(_Camel):
    """What an answer is grounded on, and what was searched for."""

    web_search_queries: list[str] | None = None
    grounding_chunks: list[GroundingChunk] | None = None
    grounding_supports: list[GroundingSupport] | None = None


class Candidate(_Camel):
    """One of the alternatives of an answer; `finish_reason` is Google's name, in its last event."""

    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    index: int = 0
    logprobs_result: Logprobs | None = None
    grounding_metadata: Grounding | None = None

    @property
    def parts(self) -> list[Part]:
        """Its parts; none for an event that only ends it."""
        return (self.content.parts or []) if self.content is not None else []


class PromptFeedback(_Camel):
    """Why a prompt was not answered."""

    block_reason: str | None = None
    block_reason_message: str | None = None


class ModalityCount(_Camel):
    """Tokens of one modality."""

    modality: str = ""
    token_count: int = 0


class Usage(_Camel):
    """
    Tokens, as the upstream counts them: ``usageMetadata``.

    `prompt_token_count` holds what was cached; `candidates_token_count` does not hold the thoughts.
    """

    prompt_token_count: int = 0
    candidates_token_count: int = 0
    cached_content_token_count: int = 0
    thoughts_token_count: int = 0
    tool_use_prompt_token_count: int = 0
    total_token_count: int = 0
    prompt_tokens_details: list[ModalityCount] | None = None
    candidates_tokens_details: list[ModalityCount] | None = None

    @property
    def input(self) -> int:
        """Tokens that went in: the prompt, and what tools put into it."""
        return self.prompt_token_count + self.tool_use_prompt_token_count

    @property
    def output(self) -> int:
        """Tokens that came out: what was said, and what was thought before."""
        return self.candidates_token_count + self.thoughts_token_count


class Response(_Camel):
    """``GenerateContentResponse``: a whole answer, or one event of a stream."""

    candidates: list[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: Usage | None = None
    model_version: str | None = None
    response_id: str | None = None


_RESPONSE = msgspec.json.Decoder(Response)


def read_response(document: bytes) -> Response:
    """
    Read an answer or an event.

    :raises msgspec.DecodeError: if it is none (``msgspec.ValidationError`` is one).
    """
    return _RESPONSE.decode(document)


def compact(raw: Raw) -> str:
    """Return JSON on one line, its numbers and the order of its names as they were: Google lays its own out."""
    return msgspec.json.format(bytes(raw), indent=-1).decode("utf-8")


#: Reasons to end that keep back what was said, or would have been.
WITHHELD = frozenset(
    {
        *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "MODEL_ARMOR"),
        *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER"),
    }
)
#: Reasons to end after which what came is of no use: a call that cannot be read.
SPOILT = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE"})


def spoilt(candidate: Candidate) -> BadUpstreamAnswer:
    """Make the error for an answer that ends for one of the reasons of :data:`SPOILT`."""
    said = f": {candidate.finish_message}" if candidate.finish_message else ""
    return BadUpstreamAnswer(f"The model's answer cannot be used ({candidate.finish_reason}){said}. Ask again.")


def why_withheld(response: Response, candidate: Candidate | None) -> str | None:
    """Say why something was kept back: the prompt's answer as a whole, or the rest of a candidate; None for nothing."""
    feedback = response.prompt_feedback
    if candidate is None:
        if feedback is None or feedback.block_reason is None:
            return None
        return feedback.block_reason_message or f"The prompt was blocked: {feedback.block_reason}."
    if candidate.finish_reason not in WITHHELD:
        return None
    return candidate.finish_message or f"The answer was withheld: {candidate.finish_reason}."

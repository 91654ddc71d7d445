"""
Fallbacks: other models that are tried in the same request while quota or capacity alone keeps one from serving.

Nothing has gone to the client until then, and nothing of the request may have been acted on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs

from agm.core.errors import GatewayError
from agm.core.request import AttemptRecord, GatewayRequest, ModelChoice
from agm.serving.answers import FinalAnswer, OpenAnswer
from agm.serving.attempts import NONE_LEFT, Attempts

#: Makes the attempts of a request with another model, for a reason.
Again = Callable[[ModelChoice], Awaitable[Attempts]]


@attrs.define(eq=False)
class FallingBack:
    """
    The attempts with one model after another.

    :param attempts: those with the first model; later those with the one that it has come to.
    :param models: the others, in their order.
    """

    attempts: Attempts
    models: Sequence[str]
    _again: Again
    _left: list[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._left = list(self.models)

    @property
    def records(self) -> Sequence[AttemptRecord]:
        """The attempts so far, with all models."""
        return [*self.attempts.before, *self.attempts.records]

    @property
    def request(self) -> GatewayRequest:
        """The request, with the model that it has come to."""
        return self.attempts.request

    @property
    def spent(self) -> bool:
        """Whether it came to nothing because of quota or capacity alone."""
        return self.attempts.spent

    async def open(self) -> OpenAnswer | FinalAnswer:
        """
        Return the first good answer, or the last error of the last model.

        :raises GatewayError: if there is no account that can serve any of them.
        """
        while True:
            try:
                opened = await self.attempts.open()
            except GatewayError:
                if not (self.attempts.spent and await self.advance()):
                    raise
            else:
                if isinstance(opened, OpenAnswer) or not (self.attempts.spent and await self.advance()):
                    return opened

    def has_none(self) -> bool:
        """Return whether quota alone leaves no account for the model that it has come to; for an explanation."""
        accounts, exclusions = self.attempts.candidates()
        if accounts or self.attempts.wait_in_line() is not None:
            return False
        return any(exclusion.cause in NONE_LEFT for exclusion in exclusions)

    async def advance(self) -> bool:
        """Go on to the next model; False if there is none."""
        if not self._left:
            return False
        before = self.records
        reason = f"fallback: {self.attempts.request.model} has no quota or capacity left"
        self.attempts = await self._again(ModelChoice(self._left.pop(0), reason))
        self.attempts.before = before
        self.attempts.because = f" ({reason})"
        return True

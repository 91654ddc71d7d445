"""
A call about something that is kept: whose it is, when, and which thing; and the table of such calls.

The modules that know the calls (:mod:`agm.emulator.storage` and others) give a table of :class:`Route` each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attrs

from agm.emulator import catalogue, modelcalls
from agm.emulator.calls import Call, Target
from agm.emulator.errors import Kind
from agm.emulator.holdings import Holdings
from agm.emulator.modelcalls import Admitted
from agm.emulator.replies import Reply, json_reply
from agm.emulator.requestlog import Entry
from agm.emulator.state import State


@attrs.frozen
class Context:
    """A call about stored things: by whom, when, and which of them."""

    call: Call
    state: State
    admitted: Admitted
    version: str
    name: str

    @property
    def account(self) -> str:
        """The name of the account that asks."""
        return self.admitted.account.name

    @property
    def holdings(self) -> Holdings:
        """Everything that is kept."""
        return self.state.holdings

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self.state.clock.now()

    @property
    def base(self) -> str:
        """The URL of the version that was asked."""
        return f"{self.call.base_url}/{self.version}"

    def read(self, message: str) -> dict[str, Any]:
        """
        Return the request's message.

        :raises GoogleError: 400.
        """
        return modelcalls.read_body(self.call, message, self.admitted.target.kind)

    def new_id(self, length: int = 12) -> str:
        """Return an id that was not given out yet."""
        return self.holdings.new_id(self.state.seed, length)


class Owned(Protocol):
    """What an account has."""

    @property
    def account(self) -> str:
        """The account's name."""


_Owned = TypeVar("_Owned", bound=Owned)


def owned(context: Context, things: Iterable[_Owned]) -> list[_Owned]:
    """Those of the things that belong to who asks."""
    return [thing for thing in things if thing.account == context.account]


def listed(
    context: Context, key: str, resources: Sequence[Mapping[str, Any]], *, default: int = 50, most: int = 1000
) -> dict[str, Any]:
    """
    Return a page of resources, as the answer to a list has them: an empty one does not even have the field.

    :raises GoogleError: 400 for a page that there is not.
    """
    query = context.call.query
    page, token = catalogue.page(resources, query.get("pageSize"), query.get("pageToken"), default=default, most=most)
    document: dict[str, Any] = {key: list(page)} if page else {}
    return {**document, "nextPageToken": token} if token else document


@attrs.frozen
class Route:
    """
    A call: the pattern of its path behind the version, its HTTP method, what Google calls it, and what answers.

    The pattern's first group is the name of the thing, with `is_model` that of a model, whose faults then apply.
    """

    pattern: re.Pattern[str]
    method: str
    rpc: str
    answer: Callable[[Context], dict[str, Any] | Reply]
    is_model: bool = False


def route(
    pattern: str, method: str, rpc: str, answer: Callable[[Context], dict[str, Any] | Reply], *, is_model: bool = False
) -> Route:
    """Return a :class:`Route` from a pattern as text."""
    return Route(re.compile(pattern, re.DOTALL), method, rpc, answer, is_model)


def reply(
    routes: Iterable[Route],
    call: Call,
    state: State,
    entry: Entry,
    version: str,
    rest: str,
    *,
    kind: Kind = Kind.API_KEY,
    project: str | None = None,
    location: str = "global",
) -> Reply | None:
    """
    Answer a call, or None if no route is for it.

    :param rest: the path behind the version, or behind the place.
    :raises GoogleError: for a call that fails.
    """
    for found in routes:
        match = found.pattern.fullmatch(rest)
        if match is None or found.method != call.method:
            continue
        name = match[1] if found.pattern.groups else ""
        target = Target(kind, version, name if found.is_model else "", found.rpc, project, location)
        admitted = modelcalls.admit(call, state, entry, target, keys=kind is Kind.API_KEY)
        entry.model = target.model or None
        fault, hindered = modelcalls.hindrance(admitted, state) if found.is_model else (None, None)
        if hindered is not None:
            return hindered
        answered = found.answer(Context(call, state, admitted, version, name))
        if not isinstance(answered, Reply):
            answered = json_reply(answered, pretty_print=call.pretty_print)
        return modelcalls.paced(answered, fault)
    return None

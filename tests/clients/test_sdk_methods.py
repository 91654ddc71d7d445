"""
Every public method of the SDKs of Python and JavaScript, at the emulator and through a gateway: it works or is refused.

What each comes to is a row of :mod:`tests.clients.sdk_methods`, and of ``node/methods.mjs``.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import types

from tests.clients.sdk_methods import PYTHON, Comes, Row, World
from tests.clients.servers import CLIENT_KEY, PATIENCE_MS, Target

pytestmark = pytest.mark.filterwarnings("ignore")  # of what is experimental, and of what will go

#: Attributes of clients that lead elsewhere than to more methods of theirs.
_NO_METHODS = frozenset({"with_raw_response", "with_streaming_response", "sdk_configuration", "parent_ref"})


def client(target: Target) -> genai.Client:
    """The SDK as a person points it."""
    options = types.HttpOptions(base_url=target.url, timeout=PATIENCE_MS)
    return genai.Client(api_key=CLIENT_KEY, http_options=options)


def methods_of(thing: object, path: str = "", seen: tuple[int, ...] = ()) -> Iterator[str]:
    """The paths of all public methods below an object of the SDK."""
    for name in sorted({*dir(type(thing)), *vars(thing)}):
        if name.startswith("_") or name in _NO_METHODS:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = getattr(thing, name)
        below = f"{path}.{name}" if path else name
        if inspect.ismethod(value) or inspect.isfunction(value):
            yield below
        elif type(value).__module__.startswith("google.genai") and not inspect.isclass(value) and id(value) not in seen:
            yield from methods_of(value, below, (*seen, id(value)))


def all_methods() -> list[str]:
    """Every public method of the installed release."""
    return list(methods_of(genai.Client(api_key="none")))


def test_every_public_method_is_decided_about() -> None:
    found = {name.removeprefix("aio.") for name in all_methods()}
    assert found - PYTHON.keys() == set(), "decide what becomes of these: a row in tests/clients/sdk_methods.py"
    assert PYTHON.keys() - found == set(), "these are gone from the SDK"


_NOT_CALLED = (Comes.PLUMBING, Comes.OVER_TLS)
CALLED = [name for name in all_methods() if PYTHON.get(name.removeprefix("aio."), Row()).comes not in _NOT_CALLED]


async def _all(outcome: Any, method: str) -> Any:
    """What an asynchronous call gives, with everything that it would still fetch."""
    if hasattr(outcome, "__aenter__") and "connect" in method:
        async with outcome as session:
            return session
    found = await outcome if inspect.isawaitable(outcome) else outcome
    return [item async for item in found] if hasattr(found, "__aiter__") else found


def call(sdk: genai.Client, method: str, asked: dict[str, Any]) -> Any:
    """Call a method by its path, and read its answer to the end."""
    thing: Any = sdk
    for name in method.split("."):
        thing = getattr(thing, name)
    if method.startswith("aio."):

        async def run() -> Any:
            try:
                return await _all(thing(**asked), method)
            finally:
                await sdk.aio.aclose()

        return asyncio.run(run())
    outcome = thing(**asked)
    return list(outcome) if inspect.isgenerator(outcome) else outcome


@pytest.mark.parametrize("place", ["direct", "api-key"])
@pytest.mark.parametrize("method", CALLED)
def test_a_method_comes_to_what_the_table_says(
    method: str, place: str, direct: Target, request: pytest.FixtureRequest
) -> None:
    row = PYTHON[method.removeprefix("aio.")]
    target = direct if place == "direct" else Target(place, request.getfixturevalue("gateways")(place).url)
    sdk = client(target)
    match row.comes:
        case Comes.WORKS:
            call(sdk, method, row.asked(World(client(target))))
        case Comes.ONE_ACCOUNT if target.direct:
            call(sdk, method, row.asked(World(client(target))))
        case _:
            with pytest.raises(Exception) as refusal:
                call(sdk, method, row.asked(World(client(target))))
            assert re.search(row.says, str(refusal.value)), refusal.value


@pytest.mark.parametrize("place", ["direct", "api-key"])
def test_every_method_of_the_javascript_sdk(
    node: Path, place: str, direct: Target, request: pytest.FixtureRequest
) -> None:
    target = direct if place == "direct" else Target(place, request.getfixturevalue("gateways")(place).url)
    command = ["node", "methods.mjs", target.url, CLIENT_KEY]
    done = subprocess.run(command, cwd=node, capture_output=True, timeout=2 * PATIENCE_MS / 1000, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    comes, outcomes = found["comes"], found["outcomes"]
    assert set(found["methods"]) - comes.keys() == set(), "decide what becomes of these: a row in methods.mjs"
    assert comes.keys() - set(found["methods"]) == set(), "these are gone from the SDK"
    assert {name: why for name, why in outcomes.items() if comes[name] == "works" and why} == {}
    assert [name for name, why in outcomes.items() if comes[name] == "sdk" and not why] == []
    for name in (name for name in outcomes if comes[name] == "one-account"):
        why = outcomes[name]
        assert why is None if target.direct else "different accounts" in why, why

"""The kinds of upstreams: each has methods, and only such as the gateway serves."""

from __future__ import annotations

from agm.core import kinds, live
from agm.core.request import BUILT_IN_KINDS
from agm.core.wire import target


def test_every_kind_of_account_has_its_methods() -> None:
    """A kind without an entry would break the choice of accounts."""
    assert {name: kind.methods for name, kind in BUILT_IN_KINDS.items()} == kinds.METHODS
    assert set(kinds.SERVICES) == set(kinds.METHODS)


def test_no_kind_has_a_method_that_no_path_can_name() -> None:
    """And each method that a path can name has a kind that serves it; other surfaces' names say whose they are."""
    named = frozenset().union(*kinds.METHODS.values())
    others = {name for name in named if name.startswith(("vertex.", "openai."))}
    sessions = kinds.DEVELOPER_SESSIONS | kinds.VERTEX_SESSIONS
    assert set(live.METHODS) | {"auth_tokens.create"} == sessions
    assert named - others == set(target.METHODS) | kinds.RESOURCE_METHODS | sessions
    assert {name for name in others if name.startswith("vertex.")} <= kinds.METHODS["vertex"]
    assert {name for name in others if name.startswith("openai.")} <= kinds.METHODS["api-key"]


def test_all_kinds_generate_and_count() -> None:
    """What every SDK calls is served by every account."""
    common = frozenset.intersection(*kinds.METHODS.values())
    assert common == {"generateContent", "streamGenerateContent", "countTokens"}

"""Descriptions of server endpoints: split as Twisted splits them, and put together again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import endpoints

from agm.core.listening import Description


@pytest.mark.parametrize(
    ("text", "kind", "plain", "named"),
    [
        ("tcp:8045", "tcp", ("8045",), {}),
        ("tcp:8045:interface=127.0.0.1", "tcp", ("8045",), {"interface": "127.0.0.1"}),
        (r"tcp6:0:interface=\:\:1", "tcp6", ("0",), {"interface": "::1"}),
        (r"unix:C\:/a\\b\=c:mode=660", "unix", ("C:/a\\b=c",), {"mode": "660"}),
        ("ssl:0:privateKey=a=b", "ssl", ("0",), {"privateKey": "a=b"}),
        ("tcp", "tcp", (), {}),
        ("tcp:", "tcp", ("",), {}),
        ("tcp:\\", "tcp", ("",), {}),
        ("", "", (), {}),
    ],
)
def test_a_description_is_split_into_its_parts(
    text: str, kind: str, plain: tuple[str, ...], named: dict[str, str]
) -> None:
    parsed = Description.parse(text)
    assert (parsed.kind, parsed.plain, parsed.named) == (kind, plain, named)
    assert Description.parse(str(parsed)) == parsed


@given(st.text(st.sampled_from("ab:=\\/ "), max_size=20).filter(lambda text: not text.endswith("\\")))
def test_any_description_is_split_as_twisted_splits_it(text: str) -> None:
    """What is to be met has no public name there."""
    plain, named = endpoints._parse(f"kind:{text}")  # type: ignore[attr-defined]
    parsed = Description.parse(f"kind:{text}")
    assert (["kind", *parsed.plain], parsed.named) == (plain, named)
    assert Description.parse(str(parsed)) == parsed


def test_an_argument_is_read_and_put_by_its_name_or_its_place() -> None:
    parsed = Description.parse(r"ssl:0:key.pem:interface=\:\:1")
    assert (parsed.argument("privateKey", 1), parsed.argument("certKey", 2)) == ("key.pem", None)
    assert str(parsed.put("privateKey", 1, "/a:b")) == r"ssl:0:/a\:b:interface=\:\:1"
    assert str(Description.parse("ssl:0").put("certKey", 2, "/c=d")) == "ssl:0:certKey=/c=d"

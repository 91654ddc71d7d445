"""Client keys: where a request carries them, and which of them are known."""

from __future__ import annotations

import hashlib
import re

import pytest

from agm.core.client_keys import ClientKey, KeyRing, digest, presented_keys


def test_a_digest_is_the_sha256_that_people_can_compute_themselves() -> None:
    """As `sha256sum` prints it; any text has one, bytes that were no UTF-8 too."""
    assert digest("key") == hashlib.sha256(b"key").hexdigest()
    assert digest("schlüssel") == hashlib.sha256("schlüssel".encode()).hexdigest()
    assert digest("\udcff") == hashlib.sha256(b"\xff").hexdigest()


def test_a_ring_knows_its_keys_and_no_others() -> None:
    """By the whole key alone."""
    laptop, server = ClientKey("laptop", digest("one")), ClientKey("server", digest("two"))
    ring = KeyRing([laptop, server])
    assert len(ring) == 2
    assert ring.lookup("one") is laptop
    assert ring.lookup("two") is server
    for unknown in ("", "on", "one ", "ONE", "three", digest("one"), "laptop"):
        assert ring.lookup(unknown) is None


def test_a_ring_is_made_of_plain_keys_by_their_names() -> None:
    """For plugins and tests; a name leads to its key, and tells nothing of the key itself."""
    ring = KeyRing.of({"laptop": "one", "server": "two"})
    laptop = ring.lookup("one")
    assert laptop == ClientKey("laptop", digest("one"))
    assert ring.named("laptop") is laptop
    assert ring.named("one") is None


def test_an_empty_ring_knows_nothing() -> None:
    """Its length says so, for the warning at the start."""
    assert len(KeyRing([])) == 0
    assert KeyRing([]).lookup("") is None


def test_the_place_of_a_key_in_the_ring_is_secret() -> None:
    """Two rings of the same key index it differently, so that no time of an answer can be computed beforehand."""
    one, other = KeyRing([ClientKey("a", digest("k"))]), KeyRing([ClientKey("a", digest("k"))])
    assert one._keys.keys() != other._keys.keys()


def test_an_entry_that_matches_only_in_the_index_is_no_match() -> None:
    """The last word is a comparison in constant time of the whole digests."""
    ring = KeyRing([ClientKey("a", digest("k"))])
    ring._keys = {ring._index(digest("other")): ClientKey("a", digest("k"))}
    assert ring.lookup("other") is None


def test_a_key_does_not_show_its_digest() -> None:
    """It may be in a log line or a traceback."""
    key = ClientKey("laptop", digest("one"), ("gemini-*",), 60)
    assert key.digest not in repr(key)
    assert repr(key).startswith("ClientKey(name='laptop', models=('gemini-*',), requests_per_minute=60")


@pytest.mark.parametrize(
    ("models", "allowed", "refused"),
    [
        ((), ["gemini-2.5-pro", "x", ""], []),
        (("gemini-*", "exact"), ["gemini-2.5-pro", "exact"], ["exactly", "x-gemini-1", ""]),
    ],
)
def test_a_key_is_good_for_its_models(models: tuple[str, ...], allowed: list[str], refused: list[str]) -> None:
    """No patterns at all: for every model."""
    key = ClientKey("a", digest("k"), models)
    assert [model for model in allowed + refused if model in key.patterns] == allowed


@pytest.mark.parametrize(
    ("places", "found"),
    [
        ({}, ()),
        ({"authorization": "Bearer k"}, ("k",)),
        ({"authorization": "  bEARER   k  "}, ("k",)),
        ({"authorization": "Basic k"}, ()),
        ({"authorization": "k"}, ()),
        ({"authorization": "Bearer"}, ()),
        ({"authorization": "Bearer "}, ()),
        ({"authorization": ""}, ()),
        ({"x_api_key": " k "}, ("k",)),
        ({"x_goog_api_key": "k"}, ("k",)),
        ({"query_key": "k"}, ("k",)),
        ({"x_api_key": "", "x_goog_api_key": " ", "query_key": "k"}, ("k",)),
        (
            {"query_key": "4", "x_goog_api_key": "3", "x_api_key": "2", "authorization": "Bearer 1"},
            ("1", "2", "3", "4"),
        ),
        ({"authorization": "Bearer a", "x_api_key": "a", "x_goog_api_key": "b", "query_key": "a"}, ("a", "b")),
    ],
)
def test_keys_are_found_wherever_a_client_puts_them(places: dict[str, str], found: tuple[str, ...]) -> None:
    """In a fixed order, once each, and never an empty one."""
    headers = {n.replace("_", "-").encode(): v.encode() for n, v in places.items() if n != "query_key"}
    assert tuple(presented_keys(headers, places.get("query_key"))) == found


def test_a_ring_does_not_keep_keys() -> None:
    """Neither as they are nor so that they could be read back."""
    ring = KeyRing([ClientKey("a", digest("secret-key"))])
    assert not re.search("secret-key", repr(vars(ring)))

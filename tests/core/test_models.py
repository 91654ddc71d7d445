"""Models: which alias counts, which names are allowed, and the list in pages."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.errors import InvalidRequest
from agm.core.models import Aliases, AliasRule, Catalog, Patterns, describe, supported_methods
from tests.core.cuts import unhurried

# -- Aliases -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "model", "target"),
    [
        ({"gpt-4o": "a", "gpt-*": "b"}, "gpt-4o", "a"),
        ({"gpt-*": "b", "gpt-4o": "a"}, "gpt-4o", "a"),
        ({"gpt-*": "b", "gpt-4o": "a"}, "gpt-4o-mini", "b"),
        ({"*": "all", "gpt-*": "gpt", "gpt-4*": "four"}, "gpt-4o", "four"),
        ({"*": "all", "gpt-*": "gpt", "gpt-4*": "four"}, "gpt-3", "gpt"),
        ({"*": "all", "gpt-*": "gpt", "gpt-4*": "four"}, "claude", "all"),
        ({"gpt-*": "first", "*-mini": "second"}, "gpt-mini", "second"),
        ({"gpt-?": "first", "gp*-x": "second"}, "gpt-x", "first"),
        ({"a*c": "first", "*bc": "second"}, "abc", "first"),
        ({"*bc": "second", "a*c": "first"}, "abc", "second"),
        ({"a[bc]": "class", "a*": "star"}, "ab", "class"),
        ({"a*": "star", "a[bc]": "class"}, "ab", "star"),
        ({"a[bc]d": "class", "a*": "star"}, "abd", "class"),
        ({"models.x": "dot"}, "models-x", None),
        ({"x.*": "dot"}, "x-1", None),
        ({"gpt-4": "a"}, "GPT-4", None),
        ({"gpt-4": "a"}, "gpt-4o", None),
        ({"org/*": "a"}, "org/one/two", "a"),
        ({"*": "a"}, "two\nlines", "a"),
        ({}, "x", None),
    ],
)
def test_the_exact_alias_counts_then_the_most_specific_then_the_order_of_the_file(
    rules: Mapping[str, str], model: str, target: str | None
) -> None:
    """One rule or none, always the same."""
    rule = Aliases(rules).match(model)
    assert (None if rule is None else rule.target) == target


def test_a_rule_tells_how_specific_it_is() -> None:
    """By the number of characters that are not wildcards."""
    assert [AliasRule(p, "x").literal_length for p in ("abc", "a*", "?b?c", "a[bcd]e", "*")] == [3, 1, 2, 2, 0]
    assert all(AliasRule(p, "x").exact for p in ("abc", "a-b.c:d/e"))
    assert not any(AliasRule(p, "x").exact for p in ("a*", "a?", "a[b]"))


def test_plain_aliases_can_be_listed() -> None:
    """In the order of the file, without wildcards."""
    aliases = Aliases({"z": "1", "y*": "2", "a": "3"})
    assert aliases.names == ("z", "a")
    assert aliases.target("a") == "3"


# -- Patterns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "inside", "outside"),
    [
        (("*",), ["", "x", "a/b"], []),
        ((), [], ["", "x"]),
        (("gemini-*",), ["gemini-", "gemini-2.5"], ["xgemini-2", "Gemini-2", "gemini"]),
        (("a", "b?"), ["a", "bc"], ["b", "ab", "bcd"]),
        (("a|b",), ["a|b"], ["a", "b"]),
        (("x", "*"), ["anything"], []),
    ],
)
def test_a_set_of_patterns_holds_the_names_that_match_one_of_them(
    patterns: tuple[str, ...], inside: list[str], outside: list[str]
) -> None:
    """As a whole, with case."""
    names = Patterns(patterns)
    assert names.patterns == patterns
    assert [name for name in inside + outside if name in names] == inside


# -- Descriptions ------------------------------------------------------------------------------------


def test_a_model_is_described_in_geminis_shape() -> None:
    """With what its name tells."""
    assert describe("gemini-2.5-flash") == {
        "name": "models/gemini-2.5-flash",
        "baseModelId": "gemini-2.5-flash",
        "version": "001",
        "displayName": "gemini-2.5-flash",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens"],
    }


def test_an_alias_is_described_by_what_it_stands_for() -> None:
    """Limits and methods are those of the target."""
    described = describe("ada", alias_of="gemini-embedding-001")
    assert described["name"] == "models/ada"
    assert described["baseModelId"] == "gemini-embedding-001"
    assert described["description"] == "An alias of gemini-embedding-001."
    assert described["inputTokenLimit"] == 2048
    assert described["supportedGenerationMethods"][0] == "embedContent"


@pytest.mark.parametrize(
    ("model", "limit"),
    [("gemini-2.5-flash-image-preview", 32_768), ("gemini-2.5-pro", 1_048_576), ("llama", None)],
)
def test_the_longest_known_start_of_a_name_tells_the_limits(model: str, limit: int | None) -> None:
    """An unknown name tells none."""
    assert describe(model).get("inputTokenLimit") == limit


@pytest.mark.parametrize("model", ["tunedModels/x", "dynamic/x"])
def test_other_collections_keep_their_name(model: str) -> None:
    """They are no models/."""
    assert describe(model)["name"] == model
    assert describe("org/" + model)["name"] == "models/org/" + model


@pytest.mark.parametrize(
    ("model", "first"),
    [
        ("gemini-3-pro", "generateContent"),
        ("gemini-embedding-001", "embedContent"),
        ("text-embedding-004", "embedContent"),
        ("imagen-4.0-generate", "predict"),
    ],
)
def test_a_name_tells_the_methods(model: str, first: str) -> None:
    """As Google names its models."""
    assert supported_methods(model)[0] == first


# -- The catalog -------------------------------------------------------------------------------------


def reported(model: str, **fields: Any) -> dict[str, Any]:
    """A model as an upstream lists it."""
    return {"name": f"models/{model}", **fields}


def names(page: Mapping[str, Any]) -> list[str]:
    return [model["name"] for model in page["models"]]


def test_the_list_has_configured_ids_then_aliases_then_what_accounts_report() -> None:
    """Each once, in that order, whoever else knows it."""
    catalog = Catalog(
        ["b", "a"],
        Aliases({"z": "a", "y*": "a", "b": "a", "r2": "a"}),
        [reported("r1"), reported("a"), reported("r2"), {"name": "tunedModels/t"}, reported("r1")],
    )
    assert names(catalog.page(None, None)) == [f"models/{m}" for m in ("b", "a", "z", "r1", "r2")] + ["tunedModels/t"]


def test_what_an_account_reports_counts_more_than_a_name() -> None:
    """And the first account that reports a model more than the next, whether it gives a display name or not."""
    catalog = Catalog(
        ["a"],
        Aliases({}),
        [
            reported("a", displayName="A", inputTokenLimit=7),
            reported("a", displayName="Other", inputTokenLimit=8),
            reported("b", inputTokenLimit=1),
            reported("b", inputTokenLimit=2),
        ],
        display_name="upstream",
    )
    assert catalog.get("a") == {"name": "models/a", "displayName": "A", "inputTokenLimit": 7}
    assert catalog.get("b") == {"name": "models/b", "displayName": "b", "inputTokenLimit": 1}


def test_a_model_is_listed_under_its_id_unless_the_upstreams_name_is_wanted() -> None:
    """It can be asked for by both in either case."""
    report = [reported("a", displayName="The A"), reported("b")]
    for display_name, shown in (("id", ["c", "a", "b"]), ("upstream", ["c", "The A", "b"])):
        catalog = Catalog(["c"], Aliases({}), report, display_name=display_name)  # type: ignore[arg-type]
        assert [model["displayName"] for model in catalog.page(None, None)["models"]] == shown
        assert (catalog.id_of("The A"), catalog.id_of("a")) == ("a", "a")
    assert Catalog([], Aliases({}), report).get("a") == reported("a", displayName="a")


def test_an_alias_is_listed_with_what_is_known_of_its_target() -> None:
    """Reported limits and methods, under its own name."""
    report = reported("gemini-2.5-x", displayName="X", inputTokenLimit=5, supportedGenerationMethods=["embedContent"])
    listed = Catalog([], Aliases({"mine": "gemini-2.5-x"}), [report]).get("mine")
    assert listed is not None
    assert listed["name"] == "models/mine"
    assert listed["displayName"] == "mine"
    assert listed["description"] == "An alias of gemini-2.5-x."
    assert listed["inputTokenLimit"] == 5
    assert listed["supportedGenerationMethods"] == ["embedContent"]


@pytest.mark.parametrize("name", [None, "", 5, "models/", "models/models/", ["x"]])
def test_reports_without_a_usable_name_are_passed_over(name: object) -> None:
    """An upstream may send anything."""
    assert names(Catalog([], Aliases({}), [{"name": name}, {}, reported("ok")]).page(None, None)) == ["models/ok"]


def test_models_are_found_by_id_and_by_display_name() -> None:
    """An id counts more than a display name, the first of two equal display names more than the second."""
    catalog = Catalog(
        ["a"],
        Aliases({"mine": "a"}),
        [
            reported("one", displayName="The One"),
            reported("two", displayName="The One"),
            reported("three", displayName="a"),
            reported("four", displayName=""),
            reported("five", displayName=5),
        ],
    )
    found = {
        "a": "a",
        "mine": "mine",
        "The One": "one",
        "two": "two",
        "three": "three",
        "": "",
        "5": "five",
        "the one": "the one",
        "unknown": "unknown",
    }
    assert {name: catalog.id_of(name) for name in found} == found
    assert catalog.get("The One") == reported("one", displayName="one")
    assert catalog.get("unknown") is None


# -- Pages -------------------------------------------------------------------------------------------

MANY = Catalog([f"m{n}" for n in range(1200)], Aliases({}))


@pytest.mark.parametrize(
    ("size", "count"),
    [(None, 50), ("", 50), ("0", 50), ("1", 1), ("1000", 1000), ("1001", 1000), ("2147483647", 1000), (" 7 ", 7)],
)
def test_a_page_has_as_many_models_as_asked_for_within_googles_bounds(size: str | None, count: int) -> None:
    """50 unless told, 1000 at most."""
    page = MANY.page(size, None)
    assert names(page) == [f"models/m{n}" for n in range(count)]
    assert page["nextPageToken"]


@pytest.mark.parametrize("size", ["-1", "x", "1.5", "1e3", "0x10", "9" * 5000, "x" * 5000])
def test_a_bad_page_size_is_refused(size: str) -> None:
    """In a short message."""
    with pytest.raises(InvalidRequest) as caught:
        MANY.page(size, None)
    assert len(caught.value.message) < 120


@unhurried
@given(st.lists(st.text(min_size=1), unique=True, max_size=30), st.integers(1, 31))
def test_pages_put_together_are_the_list(ids: list[str], size: int) -> None:
    """Every model once, in order, whatever it is called; the last page has no token."""
    catalog, seen, token, pages = Catalog(ids, Aliases({})), [], None, 0
    while pages == 0 or token:
        page = catalog.page(str(size), token)
        assert len(page["models"]) <= size
        seen += [model["displayName"] for model in page["models"]]
        token, pages = page.get("nextPageToken"), pages + 1
    assert seen == ids
    assert pages == max(1, -(-len(ids) // size))


def test_an_empty_catalog_has_one_empty_page() -> None:
    """With a list in it, as SDKs need it."""
    assert Catalog([], Aliases({})).page(None, None) == {"models": []}


@pytest.mark.parametrize("token", ["x", "!!!!", "größe", "\x00", "A", "=", base64.b64encode(b"gone").decode(), "/w=="])
def test_a_bad_page_token_is_refused(token: str) -> None:
    """Also one of a model that is no longer there, and one that is not text at all."""
    with pytest.raises(InvalidRequest, match="page_token is not valid"):
        MANY.page(None, token)


def test_a_page_token_stays_good_when_models_come_and_go() -> None:
    """It names the last model of its page, not a number."""
    token = Catalog(["a", "b", "c"], Aliases({})).page("2", None)["nextPageToken"]
    assert names(Catalog(["new", "a", "b", "c"], Aliases({})).page("2", token)) == ["models/c"]

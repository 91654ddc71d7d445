"""Whose a resource is: the paths, the names in bodies, what is remembered, and lists of several accounts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core import ownership
from agm.core.errors import InvalidRequest
from agm.core.kinds import RESOURCE_METHODS
from agm.core.ownership import KnownOwners, Page


@pytest.mark.parametrize(
    ("http_method", "path", "method", "name", "upstream"),
    [
        ("GET", "/v1beta/files", "files.list", None, "/v1beta/files"),
        ("GET", "//v1beta//files/", "files.list", None, "/v1beta/files"),
        ("GET", "/v1/files/a-b", "files.get", "files/a-b", "/v1/files/a-b"),
        ("GET", "/v1beta/files/a:download", "files.download", "files/a", "/v1beta/files/a:download"),
        ("GET", "/v1beta/files/a%3Adownload", "files.download", "files/a", "/v1beta/files/a:download"),
        ("GET", "/download/v1beta/files/a:download", "files.download", "files/a", "/download/v1beta/files/a:download"),
        ("DELETE", "/v1alpha/files/a", "files.delete", "files/a", "/v1alpha/files/a"),
        ("POST", "/v1beta/files:register", "files.call", None, "/v1beta/files:register"),
        ("POST", "/upload/v1beta/files", "files.upload", None, "/upload/v1beta/files"),
        ("POST", "/v1beta/cachedContents", "cachedContents.create", None, "/v1beta/cachedContents"),
        ("PATCH", "/v1beta/cachedContents/a", "cachedContents.update", "cachedContents/a", "/v1beta/cachedContents/a"),
        ("POST", "/v1beta/batches/a:cancel", "batches.cancel", "batches/a", "/v1beta/batches/a:cancel"),
        ("GET", "/v1beta/operations/a", "operations.get", "operations/a", "/v1beta/operations/a"),
        (
            "GET",
            "/v1beta/models/veo/operations/x",
            "operations.get",
            "models/veo/operations/x",
            "/v1beta/models/veo/operations/x",
        ),
        (
            "POST",
            "/v1beta/models/models/veo:predictLongRunning",
            "predictLongRunning",
            None,
            "/v1beta/models/veo:predictLongRunning",
        ),
        (
            "GET",
            "/v1beta/fileSearchStores/s/documents",
            "fileSearchStores.list",
            "fileSearchStores/s/documents",
            "/v1beta/fileSearchStores/s/documents",
        ),
        (
            "POST",
            "/upload/v1beta/fileSearchStores/s:uploadToFileSearchStore",
            "fileSearchStores.upload",
            "fileSearchStores/s",
            "/upload/v1beta/fileSearchStores/s:uploadToFileSearchStore",
        ),
        ("POST", "/v1beta/tunedModels/t:transferOwnership", "tunedModels.call", "tunedModels/t", None),
        ("GET", "/v1beta/files/a b", "files.get", None, None),
    ],
)
def test_a_path_says_what_is_done_to_what(
    http_method: str, path: str, method: str, name: str | None, upstream: str | None
) -> None:
    """Every form of a path that Google has, and no other, becomes a path for an upstream."""
    if " " in path:
        with pytest.raises(InvalidRequest):
            ownership.parse(path.encode(), http_method)
        return
    found = ownership.parse(path.encode(), http_method)
    assert found is not None
    assert found.method(http_method) == method
    assert method in RESOURCE_METHODS
    assert found.name == name
    assert upstream is None or found.path == upstream


@pytest.mark.parametrize(
    ("http_method", "path"),
    [
        ("GET", "/v1beta/models"),
        ("GET", "/v1beta/models/files"),
        ("POST", "/v1beta/models/m:generateContent"),
        ("GET", "/v1beta/models/m:batchGenerateContent"),
        ("POST", "/v1beta/tunedModels/t:generateContent"),
        ("GET", "/v1beta/filesystem"),
        ("GET", "/v2/files"),
        ("GET", "/files"),
        ("GET", "/upload/v1beta/models/m"),
    ],
)
def test_other_paths_are_not_of_owned_resources(http_method: str, path: str) -> None:
    assert ownership.parse(path.encode(), http_method) is None


@pytest.mark.parametrize(
    "path", ["/v1beta/files/..", "/v1beta/files/a/../b", "/v1beta/files/a%3Fx=y", "/v1beta/files/%00"]
)
def test_no_name_changes_the_url(path: str) -> None:
    """Dots, a question mark or a control character could lead to another method or another query."""
    with pytest.raises(InvalidRequest):
        ownership.parse(path.encode(), "GET")


@given(st.binary(max_size=60), st.sampled_from(["GET", "POST", "DELETE", "PATCH"]))
def test_any_path_is_read_or_refused(rest: bytes, http_method: str) -> None:
    """Nothing else than InvalidRequest comes out, and a path for an upstream is ASCII without a query."""
    try:
        found = ownership.parse(b"/v1beta/files/" + rest, http_method)
    except InvalidRequest:
        return
    if found is not None:
        assert found.path.isascii()
        assert not set("?# \r\n") & set(found.path)
        assert found.method(http_method) in RESOURCE_METHODS


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("files/a", "files/a"),
        ("https://generativelanguage.googleapis.com/v1beta/files/a", "files/a"),
        ("https://generativelanguage.googleapis.com/download/v1beta/files/a:download?alt=media", "files/a"),
        ("fileSearchStores/s/documents/d", "fileSearchStores/s"),
        ("models/veo/operations/o", "models/veo/operations/o"),
        ("models/m", None),
        ("gs://bucket/files/a", None),
        ("https://example.com/files/a", None),
        ("files/", None),
        ("files/" + "a" * 2000, None),
    ],
)
def test_a_field_names_a_resource_by_its_name_or_address(value: str, name: str | None) -> None:
    assert ownership.named_by(value) == name


def test_names_are_found_wherever_they_stand_in_a_request() -> None:
    """In either spelling, at any depth, once each; a text that looks like a name is none."""
    body = {
        "contents": [
            {"parts": [{"text": "files/text"}, {"fileData": {"fileUri": "files/a"}}]},
            {"parts": [{"file_data": {"file_uri": "https://x/v1beta/files/b"}}, {"fileData": {"fileUri": "files/a"}}]},
        ],
        "cached_content": "cachedContents/c",
    }
    assert ownership.may_name(json.dumps(body).encode())
    assert sorted(ownership.names_in(body)) == ["cachedContents/c", "files/a", "files/b"]
    assert not ownership.may_name(b'{"contents": [{"parts": [{"text": "files/a"}]}]}')
    assert ownership.may_name(rb'{"contents": [{"parts": [{"fileData": {"fil\u0065Uri": "files/a"}}]}]}')


def test_an_answer_tells_what_its_account_has() -> None:
    """A new file, a finished video, a list; no more than that from what is no JSON or too large."""
    assert ownership.names_told(b'{"file": {"name": "files/a", "displayName": "files/b"}}') == ["files/a"]
    video = b'{"name": "models/v/operations/o", "response": {"video": {"uri": "https://x/v1beta/files/v:download"}}}'
    assert ownership.names_told(video) == ["models/v/operations/o", "files/v"]
    assert ownership.names_told(b"not JSON") == []
    assert ownership.names_told(b'{"name": "files/a", "x": "%b"}' % (b"x" * ownership.MAX_READ)) == []


def test_what_was_not_asked_for_the_longest_is_forgotten_first() -> None:
    """Memory is bounded, and what is in use stays."""
    owners = KnownOwners(limit=2)
    owners.remember("files/a", "one")
    owners.remember("files/b", "two")
    assert owners.owner("files/a") == "one"
    owners.remember("files/c", "one")
    assert (owners.owner("files/a"), owners.owner("files/b"), owners.owner("files/c")) == ("one", None, "one")
    owners.forget("files/a")
    owners.forget("files/never")
    assert len(owners) == 1


def test_what_is_known_survives_in_a_file() -> None:
    """In order; what was learnt since counts more, and what is no name is left out."""
    owners = KnownOwners()
    owners.remember("files/a", "one")
    owners.remember("files/b", "two")
    again = KnownOwners()
    again.remember("files/b", "three")
    again.load([*owners.dump(), ("nonsense", "one")])
    assert sorted(again.dump()) == [("files/a", "one"), ("files/b", "three")]


@given(st.text(max_size=20), st.text(max_size=40))
def test_a_page_token_leads_back_to_its_page(account: str, token: str) -> None:
    assert Page.decode(Page(account, token).encode()) == Page(account, token)


@pytest.mark.parametrize("token", ["x", "é", "W10", "WyJhIl0", "eyJhIjoxfQ", "=" * 9])
def test_other_page_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidRequest):
        Page.decode(token)


def test_lists_are_put_together() -> None:
    """Resources follow each other, the last page has no token, and a page token never is an upstream's own."""
    documents = [{"files": [{"name": "files/a"}], "nextPageToken": "own"}, {}, {"files": [{"name": "files/b"}]}]
    found = ownership.merged(documents, None)
    assert found == {"files": [{"name": "files/a"}, {"name": "files/b"}]}
    assert ownership.listed(found) == 2
    page = Page(ownership.mark("work"), "own")
    token = ownership.merged(documents, page)["nextPageToken"]
    assert Page.decode(token) == page
    assert "work" not in page.account

"""Whose a resource is: the paths, the names in bodies, what is remembered, and lists of several accounts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core import ownership
from agm.core.errors import InvalidRequest
from agm.core.kinds import COLLECTIONS, RESOURCE_METHODS
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
        (
            "GET",
            "/v1beta/fileSearchStores/s/upload/operations/o",
            "fileSearchStores.get",
            "fileSearchStores/s/upload/operations/o",
            "/v1beta/fileSearchStores/s/upload/operations/o",
        ),
        ("GET", "/v1/fileSearchStores/s/operations/o", "fileSearchStores.get", "fileSearchStores/s/operations/o", None),
        ("GET", "/v1/fileSearchStores/s/media/b", "fileSearchStores.get", "fileSearchStores/s/media/b", None),
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
        ("https://generativelanguage.googleapis.com/v1/cachedContents/c", "cachedContents/c"),
        (
            "http://127.0.0.1:8045/behind/a/proxy/v1beta/fileSearchStores/s/documents/d?x=/v1/files/b",
            "fileSearchStores/s",
        ),
        ("HTTPS://h/v1alpha/models/veo/operations/o#x", "models/veo/operations/o"),
        ("https://h/v1/models/m", None),
        ("https://h", None),
        ("files/a:download?alt=media", "files/a"),
        ("files/a:b:c", None),
        ("files/a b", None),
        ("fileSearchStores/s/upload/operations/o", "fileSearchStores/s"),
        ("fileSearchStores/s/operations/o", "fileSearchStores/s"),
        ("gs://bucket/files/a", None),
        ("https://example.com/files/a", None),
        ("files/", None),
        ("files/" + "a" * 2000, None),
    ],
)
def test_a_field_names_a_resource_by_its_name_or_address(value: str, name: str | None) -> None:
    assert ownership.named_by(value) == name


ALL = (*COLLECTIONS, "models")


def test_names_are_found_by_what_stands_around_them() -> None:
    """In any field of strict JSON, once each; a text that looks like a name is none, nor is a name in a text."""
    body = {
        "contents": [
            {"parts": [{"text": "files/text"}, {"text": 'see "files/quoted" in src/files/x\n'}, {"text": "\\"}]},
            {"parts": [{"fileData": {"fileUri": "files/a"}}, {"file_data": {"uri": "https://x/v1beta/files/b"}}]},
            {"parts": [{"fileData": {"fileUri": "files/a"}}, {"text": "files/" * 100 + '"files/c"'}]},
        ],
        "cached_content": "cachedContents/c",
        "tools": [{"fileSearch": {"fileSearchStoreNames": ["fileSearchStores/s", "fileSearchStores/t/documents/d"]}}],
    }
    found = ["files/a", "files/b", "cachedContents/c", "fileSearchStores/s", "fileSearchStores/t"]
    for text in (json.dumps(body), json.dumps(body, indent=2), json.dumps(body).replace("/", "\\/")):
        assert ownership.may_name(text.encode(), ALL)
        assert sorted(ownership.written_in(text.encode(), ALL) or ()) == sorted(found)
        assert ownership.written_in(text.encode(), ["cachedContents"]) == {"cachedContents/c": True}
    assert not ownership.may_name(b'{"contents": [{"parts": [{"text": "files a"}]}]}', ALL)
    assert not ownership.may_name(b'{"cachedContent": "cachedContents/c"}', ["files"])
    operation = b'{"a": "http://h/v1/models/veo/operations/o?x", "batches/b" : 1, "title": "files/t"}'
    assert ownership.written_in(operation, ALL) == {"models/veo/operations/o": True}


def test_what_a_tool_may_have_been_given_is_not_sure() -> None:
    """Only a field that can be nothing else is, where there are words of tools."""
    args = b'{"functionCall": {"args": {"uri": "files/a"}}, "uri": "files/b", "fileUri" : "files/c", "x": "files/c"}'
    assert ownership.written_in(args, ALL) == {"files/a": False, "files/b": False, "files/c": True}
    for field in ("response", "responseSchema", "parametersJsonSchema", "response_json_schema"):
        assert ownership.written_in(b'{"%b": {"uri": "files/a"}}' % field.encode(), ALL) == {"files/a": False}


def test_what_may_be_hidden_is_not_searched_for() -> None:
    """Letters written as numbers need a reader; accents and angle brackets do not."""
    for escaped in (rb"fil\u0065s\u002fa", rb"files\u002Fa", rb"\u0066iles/\u0061", rb"files/\u0031"):
        body = b'{"fileUri": "%b"}' % escaped
        assert ownership.may_name(body, ["files"])
        assert ownership.written_in(body, ["files"]) is None
    assert not ownership.may_name(rb'{"text": "\u00e9\u003c\u0026\u2028"}', ["files"])
    found = ownership.written_in(rb'{"uri": "https://h/v1/files/a:download?a=b\u0026c", "text": "\u003c"}', ["files"])
    assert found == {"files/a": True}
    long = b'{"uri": "files/a", "text": "%b"}' % (rb"\u00e9" * 200_000)
    assert ownership.written_in(long, ["files"]) is None
    assert ownership.written_in(b"[" + b'"files/a",' * 10_001 + b"1]", ["files"]) is None


@pytest.mark.parametrize(
    ("names", "message", "found"),
    [
        (["files/a"], "anything", ["files/a"]),
        (["files/abc", "cachedContents/xyz"], "You do not have permission to access the File abc.", ["files/abc"]),
        (["files/abc", "cachedContents/xyz"], "CachedContent not found (or permission denied)", ["cachedContents/xyz"]),
        (["files/abc", "cachedContents/xyz"], "Not found: cached content metadata for xyz.", ["cachedContents/xyz"]),
        (["files/f1", "fileSearchStores/s1"], "No permission for the file search store", ["fileSearchStores/s1"]),
        (["files/f1", "fileSearchStores/s1"], "The File does not exist.", ["files/f1"]),
        (["files/f1", "files/f2"], "The caller does not have permission", ["files/f1", "files/f2"]),
        ([], "anything", []),
    ],
)
def test_a_refusal_is_about_what_it_says(names: list[str], message: str, found: list[str]) -> None:
    """By the id that it repeats, else by the kind that it names, else it may be about all of them."""
    assert ownership.refused(names, message) == found


def test_an_answer_tells_what_its_account_has() -> None:
    """A new file, a finished video, a list; no more than that from what is no JSON or too large."""
    assert ownership.names_told(b'{"file": {"name": "files/a", "displayName": "files/b"}}') == ["files/a"]
    video = b'{"name": "models/v/operations/o", "response": {"video": {"uri": "https://x/v1beta/files/v:download"}}}'
    assert ownership.names_told(video) == ["models/v/operations/o", "files/v"]
    echoed = b'{"name": "batches/b", "response": {"inlinedResponses": [{"metadata": {"name": "files/other"}}]}}'
    assert ownership.names_told(echoed) == ["batches/b"]
    assert ownership.names_told(b"not JSON") == []
    assert ownership.names_told(b'{"name": "files/a", "x": %b}' % (b"[" * 40 + b"]" * 40)) == []
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


def test_it_is_known_of_which_collections_anything_is_known() -> None:
    """So that nobody looks for what nobody has."""
    owners = KnownOwners(limit=3)
    assert not owners.collections
    for name in ("files/a", "files/b", "models/veo/operations/o", "files/b"):
        owners.remember(name, "one")
    assert owners.collections == {"files", "models"}
    owners.remember("batches/c", "one")
    owners.forget("files/b")
    assert owners.collections == {"models", "batches"}


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

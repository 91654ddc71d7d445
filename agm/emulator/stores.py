"""
File search stores, their documents, and the operations that fill them.

What is put into a store is pending until its operation is looked at for the first time.  A model that is given a store
says so in its answer (:mod:`agm.emulator.answers`); nothing is searched.
"""

from __future__ import annotations

import re
from typing import Any

from agm.emulator import errors
from agm.emulator.errors import GoogleError
from agm.emulator.holdings import Document, Operation, Store, Upload
from agm.emulator.replies import Reply, body_reply
from agm.emulator.state import State
from agm.emulator.stored import Context, listed, owned, route

_EMBEDDING_MODEL = "models/gemini-embedding-001"
_PACKAGE = "type.googleapis.com/google.ai.generativelanguage.v1main."
_MOST_METADATA = 20
_MOST_PAGE = 20


def _slug(text: str) -> str:
    """Return the beginning of an id, from a name: what Google lets ids hold, and a dash behind it."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:27].strip("-")
    return f"{slug}-" if slug else ""


def _store(context: Context) -> Store:
    return context.holdings.store(context.name.partition("/documents")[0], context.account)


def _create(context: Context) -> dict[str, Any]:
    message = context.read("FileSearchStore")
    display_name = message.get("displayName", "")
    if len(display_name) > 512:
        raise errors.invalid_argument(
            "* CreateFileSearchStoreRequest.file_search_store.display_name: at most 512 characters\n"
        )
    store = Store(
        name=f"fileSearchStores/{_slug(display_name)}{context.new_id()}",
        account=context.account,
        display_name=display_name,
        created=context.now,
        embedding_model=message.get("embeddingModel") or _EMBEDDING_MODEL,
    )
    context.holdings.stores[store.name] = store
    return store.resource()


def _list(context: Context) -> dict[str, Any]:
    stores = owned(context, context.holdings.stores.values())
    resources = [store.resource() for store in stores]
    return listed(context, "fileSearchStores", resources, default=10, most=_MOST_PAGE)


def _get(context: Context) -> dict[str, Any]:
    return _store(context).resource()


def _delete(context: Context) -> dict[str, Any]:
    store = _store(context)
    if store.documents and not _forced(context):
        raise GoogleError(400, "Cannot delete non-empty FileSearchStore.", rpc="FAILED_PRECONDITION")
    del context.holdings.stores[store.name]
    return {}


def _forced(context: Context) -> bool:
    return context.call.query.get("force", "").lower() in ("true", "1")  # Python writes True


def _list_documents(context: Context) -> dict[str, Any]:
    documents = [one.resource() for one in _store(context).documents.values()]
    return listed(context, "documents", documents, default=10, most=_MOST_PAGE)


def _get_document(context: Context) -> dict[str, Any]:
    return context.holdings.document(context.name, context.account)[1].resource()


def _delete_document(context: Context) -> dict[str, Any]:
    store, document = context.holdings.document(context.name, context.account)
    if document.active and not _forced(context):
        raise GoogleError(400, "Cannot delete non-empty Document.", rpc="FAILED_PRECONDITION")
    del store.documents[document.name]
    return {}


def _import(context: Context) -> dict[str, Any]:
    store, message = _store(context), context.read("ImportFileRequest")
    name = message.get("fileName", "")
    if not name:
        raise errors.invalid_argument("* ImportFileRequest.file_name: file_name is not specified\n")
    file = context.holdings.file(name, context.account, context.now)
    document = _document(context.state, store, file.display_name or name.partition("/")[2], file.mime_type, file.size)
    document.metadata = _metadata(message)
    return _filling(context.state, store, document, "operations", "ImportFileResponse")


def _metadata(message: dict[str, Any]) -> list[dict[str, Any]]:
    metadata: list[dict[str, Any]] = message.get("customMetadata") or []
    if len(metadata) > _MOST_METADATA:
        raise errors.invalid_argument(f"* custom_metadata: at most {_MOST_METADATA} entries are allowed\n")
    return metadata


def add_uploaded(state: State, upload: Upload) -> dict[str, Any]:
    """
    Put an upload into its store.

    :return: the operation.
    :raises GoogleError: if the store is gone, or what was said of the file cannot be kept.
    """
    store = state.holdings.store(upload.store, upload.account)
    document = _document(state, store, upload.display_name, upload.mime_type, upload.received)
    document.metadata = _metadata(dict(upload.described))
    return _filling(state, store, document, "upload/operations", "UploadToFileSearchStoreResponse")


def _document(state: State, store: Store, display_name: str, mime_type: str, size: int) -> Document:
    identifier = _slug(display_name) + state.holdings.new_id(state.seed)
    return Document(
        name=f"{store.name}/documents/{identifier}",
        display_name=display_name or identifier,
        mime_type=mime_type,
        size=size,
        created=state.clock.now(),
    )


def _filling(state: State, store: Store, document: Document, place: str, response: str) -> dict[str, Any]:
    """Return the operation that puts a document into a store."""
    store.documents[document.name] = document

    def activate() -> None:
        document.active = True

    operation = Operation(
        name=f"{store.name}/{place}/{_slug(document.display_name)}{state.holdings.new_id(state.seed)}",
        account=store.account,
        response={"@type": f"{_PACKAGE}{response}", "parent": store.name, "documentName": document.name},
        then=activate,
    )
    state.holdings.operations[operation.name] = operation
    return operation.resource()


def _operation(context: Context) -> dict[str, Any]:
    return context.holdings.operation(context.name, context.account).look()


def _media(context: Context) -> Reply:
    """Return what a blob of a store was made of; there is none here but the document's own name."""
    store = context.holdings.store(context.name.partition("/media/")[0], context.account)
    blob = f"{store.name}/documents/{context.name.rpartition('/')[2]}"
    if blob not in store.documents:
        raise GoogleError(404, "Requested entity was not found.")
    document = store.documents[blob]
    return body_reply(200, document.display_name.encode(), document.mime_type)


ROUTES = (
    route(r"fileSearchStores", "POST", "CreateFileSearchStore", _create),
    route(r"fileSearchStores", "GET", "ListFileSearchStores", _list),
    route(r"(fileSearchStores/[^/:]+)", "GET", "GetFileSearchStore", _get),
    route(r"(fileSearchStores/[^/:]+)", "DELETE", "DeleteFileSearchStore", _delete),
    route(r"(fileSearchStores/[^/:]+):importFile", "POST", "ImportFile", _import),
    route(r"(fileSearchStores/[^/:]+)/documents", "GET", "ListDocuments", _list_documents),
    route(r"(fileSearchStores/[^/:]+/documents/[^/:]+)", "GET", "GetDocument", _get_document),
    route(r"(fileSearchStores/[^/:]+/documents/[^/:]+)", "DELETE", "DeleteDocument", _delete_document),
    route(r"(fileSearchStores/[^/:]+/(?:upload/)?operations/[^/:]+)", "GET", "GetOperation", _operation),
    route(r"(fileSearchStores/[^/:]+/media/[^/:]+)", "GET", "DownloadMedia", _media),
)

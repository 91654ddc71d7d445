"""What every dialect gets from the common ground: its plugin, its models, its errors, whose request it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from agm.testing import GatewayFactory
from tests.helpers.support import connect, get


async def ask(port: int, request: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the document of an answer."""
    client = await connect(port)
    client.send(request)
    head, _, body = (await client.closed()).partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


@pytest.mark.parametrize(
    ("path", "headers", "form"),
    [
        ("/v1/models", ["Authorization: Bearer k"], "openai"),
        ("/v1/models", [], "google"),
        ("/v1/models", ["x-goog-api-key: k", "Authorization: Bearer k"], "google"),
        ("/v1/models", ["x-goog-api-client: google-genai-sdk/3.6.1", "Authorization: Bearer k"], "google"),
        ("/v1/models?key=k", ["Authorization: Bearer k"], "google"),
        ("/openai/v1/models", [], "openai"),
        ("/openai/models", ["x-goog-api-key: k"], "openai"),
        ("//openai//v1/models", [], "openai"),
        ("/v1beta/models", ["Authorization: Bearer k"], "google"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_list_of_models_has_the_form_of_whoever_asks(
    gateway: GatewayFactory, path: str, headers: list[str], form: str
) -> None:
    running = await gateway("")
    status, found = await ask(running.port, get(path, "Connection: close", *headers))
    assert status == 200
    if form == "openai":
        assert {"id": "gemini-2.5-pro", "object": "model", "created": 0, "owned_by": "google"} in found["data"]
    else:
        assert "models/gemini-2.5-pro" in {model["name"] for model in found["models"]}


@pytest_twisted.ensureDeferred
async def test_a_model_that_is_not_there_names_the_alias_to_write(gateway: GatewayFactory) -> None:
    running = await gateway('[models.aliases]\n"gpt-4o" = "gemini-2.5-flash"')
    status, found = await ask(running.port, get("/v1/models/gpt-4o", "Connection: close", "Authorization: Bearer any"))
    assert (status, found["id"]) == (200, "gpt-4o")
    status, found = await ask(running.port, get("/v1/models/gpt-5", "Connection: close", "Authorization: Bearer any"))
    assert status == 404
    assert '[models.aliases] "gpt-5" = ' in found["error"]["message"]
    assert found["error"]["code"] == "model_not_found"


@pytest_twisted.ensureDeferred
async def test_a_dialect_that_is_off_is_not_there(gateway: GatewayFactory) -> None:
    running = await gateway("[dialects]\nopenai = false")
    status, found = await ask(running.port, get("/v1/models", "Connection: close", "Authorization: Bearer any"))
    assert (status, "models" in found) == (200, True)
    status, found = await ask(running.port, get("/openai/v1/models", "Connection: close"))
    assert (status, found["error"]["type"]) == (404, "invalid_request_error")


@pytest_twisted.ensureDeferred
async def test_it_is_a_plugin_that_can_be_left_out(gateway: GatewayFactory) -> None:
    running = await gateway('[plugins]\ndisable = ["agm.dialects.openai"]')
    status, found = await ask(running.port, get("/openai/v1/models", "Connection: close"))
    assert (status, found["error"]["status"]) == (404, "NOT_FOUND")

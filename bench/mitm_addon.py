"""An addon that has mitmproxy do what agm does for a Code Assist account: wrap requests, unwrap answers and events."""

import json
from collections.abc import Callable

from mitmproxy import ctx, http
from mitmproxy.addonmanager import Loader


def load(loader: Loader) -> None:
    """Add the option."""
    loader.add_option("wrap", bool, False, "Speak v1internal to the upstream.")


def request(flow: http.HTTPFlow) -> None:
    """Wrap a request."""
    if not ctx.options.wrap:
        return
    model, _, method = flow.request.path.partition("/models/")[2].partition("?")[0].rpartition(":")
    asked = json.loads(flow.request.content or b"{}")
    body = {"project": "bench", "model": model, "requestId": "bench", "requestType": "agent", "request": asked}
    flow.request.content = json.dumps(body).encode()
    flow.request.path = f"/v1internal:{method}" + ("?alt=sse" if method == "streamGenerateContent" else "")
    flow.request.headers["authorization"] = "Bearer bench-token"


def _unwrapped(data: bytes) -> bytes:
    return json.dumps(json.loads(data)["response"]).encode()


def _events() -> Callable[[bytes], bytes]:
    rest = b""

    def more(data: bytes) -> bytes:
        nonlocal rest
        *whole, rest = (rest + data).split(b"\r\n\r\n")
        return b"".join(b"data: " + _unwrapped(event.removeprefix(b"data: ")) + b"\r\n\r\n" for event in whole)

    return more


def responseheaders(flow: http.HTTPFlow) -> None:
    """Let streams flow."""
    assert flow.response is not None
    if flow.response.headers.get("content-type") == "text/event-stream":
        flow.response.stream = _events() if ctx.options.wrap else True


def response(flow: http.HTTPFlow) -> None:
    """Unwrap an answer."""
    assert flow.response is not None
    if ctx.options.wrap and not flow.response.stream and flow.response.content:
        flow.response.content = _unwrapped(flow.response.content)

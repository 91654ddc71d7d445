"""
Drives one SDK of Google's through gateways: ``python -m agm.diagnose.doctor.drive SDK URL…``, a process of its own.

It prints a JSON array of ``{"url", "call", "problem"}``, where no problem is null.  What is asked, and of whom, are
gateways that :mod:`agm.diagnose.doctor.sdks` has started; nothing else is contacted.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

#: The model, the question, the key, and seconds to wait for one answer.
MODEL, QUESTION, KEY, PATIENCE = "gemini-2.5-flash", "Why is the sky blue?", "any", 20

#: The status that says that no account of a gateway has the method.
NOT_OF_THIS_KIND = 501
#: The call that is made where there is TLS, and no other there.
LIVE = "Live"

Calls = Mapping[str, Callable[[str], None]]


class Wrong(Exception):
    """An answer came, and is not what it should be."""


def _expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise Wrong(otherwise)


# -- HTTP --------------------------------------------------------------------------------------------


def _post(url: str, target: str) -> tuple[str, bytes]:
    """Return the content type and the body of an answer, which must be 200."""
    client = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    try:
        body = json.dumps({"contents": [{"role": "user", "parts": [{"text": QUESTION}]}]})
        headers = {"Content-Type": "application/json", "x-goog-api-key": KEY}
        client.request("POST", f"/v1beta/models/{MODEL}:{target}", body, headers)
        answer = client.getresponse()
        content = answer.read()
        _expect(answer.status == 200, f"status {answer.status}")
        return answer.getheader("Content-Type") or "", content
    finally:
        client.close()


def _http_events(url: str) -> None:
    kind, body = _post(url, "streamGenerateContent?alt=sse")
    _expect(kind.startswith("text/event-stream"), f"its type is {kind}")
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: ")]
    _expect(len(events) > 1 and all("candidates" in event for event in events), "the stream has no events")


def _http_array(url: str) -> None:
    kind, body = _post(url, "streamGenerateContent?$alt=json;enum-encoding=int")
    _expect(kind.startswith("application/json") and body.startswith(b"["), f"its type is {kind}")
    _expect(len(json.loads(body)) > 1, "the array has no events")


def _http_interaction(url: str) -> None:
    body = json.dumps({"model": MODEL, "input": QUESTION, "stream": True})
    client = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    try:
        client.request("POST", "/v1beta/interactions", body, {"x-goog-api-key": KEY})
        answer = client.getresponse()
        content = answer.read()
    finally:
        client.close()
    if answer.status == NOT_OF_THIS_KIND:
        return
    _expect(answer.status == 200, f"status {answer.status}")
    _expect(content.startswith(b"event: interaction.created\n"), "the stream does not begin as one")
    _expect(content.endswith(b"event: done\ndata: [DONE]\n\n"), "the stream has no end")


def _plain() -> Calls:
    return {
        "interactions (with API keys)": _http_interaction,
        "unary": lambda url: _expect(json.loads(_post(url, "generateContent")[1])["candidates"], "no candidate"),
        "stream of events": _http_events,
        "stream as an array": _http_array,
        "countTokens": lambda url: _expect(json.loads(_post(url, "countTokens")[1])["totalTokens"], "no count"),
    }


# -- google-genai ------------------------------------------------------------------------------------


def _genai() -> Calls:
    from google import genai

    def client(url: str) -> Any:
        return genai.Client(api_key=KEY, http_options={"base_url": url, "timeout": PATIENCE * 1000})

    # a client closes its connections when it goes: each call holds on to its own

    def stream(url: str) -> None:
        asking = client(url)
        chunks = list(asking.models.generate_content_stream(model=MODEL, contents=QUESTION))
        _expect(len(chunks) > 1 and all(chunk.text for chunk in chunks), "the stream has no events")

    def unary(url: str) -> None:
        asking = client(url)
        _expect(asking.models.generate_content(model=MODEL, contents=QUESTION).text, "no text")

    def count(url: str) -> None:
        asking = client(url)
        _expect(asking.models.count_tokens(model=MODEL, contents=QUESTION).total_tokens, "no count")

    def interaction(url: str) -> None:
        options = {"base_url": url, "timeout": PATIENCE * 1000, "retry_options": {"attempts": 1}}
        asking: Any = genai.Client(api_key=KEY, http_options=options)  # type: ignore[arg-type]  # a dictionary does
        if not hasattr(asking, "interactions"):  # an older release
            return
        try:
            made = asking.interactions.create(model=MODEL, input=QUESTION)
        except Exception as failure:
            if getattr(failure, "status_code", None) != NOT_OF_THIS_KIND:
                raise
            return
        _expect(made.output_text, "no text")
        again = list(asking.interactions.create(model=MODEL, input="x", previous_interaction_id=made.id, stream=True))
        _expect(again[-1].event_type == "interaction.completed", "the stream does not end")

    async def talk(url: str) -> str:
        said = ""
        async with client(url).aio.live.connect(model=MODEL, config={"response_modalities": ["TEXT"]}) as session:
            turn = {"role": "user", "parts": [{"text": QUESTION}]}
            await session.send_client_content(turns=turn, turn_complete=True)
            async for message in session.receive():
                said += message.text or ""
        return said

    def live(url: str) -> None:
        _expect(asyncio.run(asyncio.wait_for(talk(url), PATIENCE)), "nothing was said")

    return {
        "unary": unary,
        "stream of events": stream,
        "countTokens": count,
        "interactions (with API keys)": interaction,
        LIVE: live,
    }


# -- google-generativeai -----------------------------------------------------------------------------


def _generativeai() -> Calls:
    import google.generativeai

    genai: Any = google.generativeai  # its names are not exported as type checkers want it

    def model(url: str) -> Any:
        genai.configure(api_key=KEY, transport="rest", client_options={"api_endpoint": url})
        return genai.GenerativeModel(MODEL)

    limit = {"request_options": {"timeout": PATIENCE}}

    def stream(url: str) -> None:
        chunks = list(model(url).generate_content(QUESTION, stream=True, **limit))
        _expect(len(chunks) > 1 and all(chunk.text for chunk in chunks), "the stream has no events")

    def unary(url: str) -> None:
        _expect(model(url).generate_content(QUESTION, **limit).text, "no text")

    def count(url: str) -> None:
        _expect(model(url).count_tokens(QUESTION, **limit).total_tokens, "no count")

    return {"unary": unary, "stream as an array": stream, "countTokens": count}


SDKS: Mapping[str, Callable[[], Calls]] = {
    "http": _plain,
    "google-genai": _genai,
    "google-generativeai": _generativeai,
}


def outcomes(calls: Calls, urls: list[str]) -> Iterator[dict[str, str | None]]:
    """Make each call at each gateway, and return the outcomes."""
    for url in urls:
        for name, call in calls.items():
            if (name == LIVE) is not url.startswith("https:"):  # Python's Live speaks TLS, and the rest need not
                continue
            try:
                call(url)
                problem = None
            except Wrong as failure:
                problem = str(failure)
            except Exception as failure:
                # an SDK's own words: nothing in them is secret here
                problem = f"{type(failure).__name__}: {failure}".splitlines()[0][:300]
            yield {"url": url, "call": name, "problem": problem}


def main() -> None:
    """As the command line says."""
    warnings.simplefilter("ignore")  # SDKs announce the end of Python versions, and their own
    sdk, *urls = sys.argv[1:]
    sys.stdout.write(json.dumps(list(outcomes(SDKS[sdk](), urls))) + "\n")


if __name__ == "__main__":
    main()

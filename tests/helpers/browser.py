"""
A real browser: headless Chromium, driven through its DevTools protocol.

Tests that need one find it here.  Nothing is downloaded: it is Debian's package ``chromium``, or any Chromium or Chrome
on the path.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from websockets.sync.client import ClientConnection, connect

from testbed.processes import PATIENCE, environment, until

COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: No answer is larger, in bytes: a screenshot is.
MAX_ANSWER = 64 * 2**20


def find() -> str | None:
    """The command of a browser, that of ``$AGM_TEST_BROWSER`` if there is one; None where there is none."""
    named = os.environ.get("AGM_TEST_BROWSER")
    return named or next((found for name in COMMANDS if (found := shutil.which(name))), None)


class NotDone(Exception):
    """The browser could not do what it was told to: the page went away meanwhile, for one."""


@attrs.define(eq=False)
class Page:
    """A page; `trouble` is what it wrote to its console as a warning or an error, and what it could not load."""

    _connection: ClientConnection
    _number: int = 0
    trouble: list[str] = attrs.Factory(list)
    #: The addresses of everything that it asked for.
    asked: list[str] = attrs.Factory(list)

    def call(self, method: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol, and its result."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(PATIENCE))
            if message.get("id") == self._number:
                if "error" in message:
                    raise NotDone(f"{method}: {message['error']}")
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str | None, told: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.trouble.append(str(details.get("exception", {}).get("description") or details["text"]))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.trouble.append(" ".join(str(a.get("value", a.get("description"))) for a in told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.trouble.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif event == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true in the page, as JavaScript understands it."""
        try:
            until(lambda: self._is(script), script)
        except AssertionError as e:
            text = self.run("document.body?.innerText.slice(0, 3000)")
            raise AssertionError(f"{e}; the page says:\n{text}\n{self.trouble}") from None

    def _is(self, script: str) -> bool:
        try:
            return bool(self.run(f"(() => {{ try {{ return !!({script}) }} catch {{ return false }} }})()"))
        except NotDone:
            return False

    def open(self, url: str) -> None:
        """Go to an address, and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url.split('#')[0])})")

    def text(self, selector: str = "body") -> str:
        """The text that is seen."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """Click on an element as a person does: it must be in sight, and nothing over it."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key."""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Write a text where the focus is."""
        self.call("Input.insertText", text=text)

    def size(self, width: int, height: int, *, mobile: bool = False, scale: float = 1) -> None:
        """Be a screen of so many pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    def scheme(self, name: str) -> None:
        """Prefer ``light`` or ``dark``."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what is seen, or the `whole` page, as a PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@attrs.frozen(eq=False)
class Browser:
    """A running browser."""

    _port: int

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A new page, with nothing in its storage that another one left: it has a context of its own."""
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        client.request("GET", "/json/version")
        endpoint = json.load(client.getresponse())["webSocketDebuggerUrl"]
        with connect(endpoint, max_size=MAX_ANSWER, proxy=None) as whole:
            over_all = Page(whole)
            context = over_all.call("Target.createBrowserContext")["browserContextId"]
            over_all.call(
                "Browser.grantPermissions",
                permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
                browserContextId=context,
            )
            target = over_all.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
            at = f"ws://127.0.0.1:{self._port}/devtools/page/{target}"
            with connect(at, max_size=MAX_ANSWER, proxy=None) as connection:
                page = Page(connection)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    page.call(f"{domain}.enable")
                yield page
            over_all.call("Target.disposeBrowserContext", browserContextId=context)


@contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """A browser that is gone when the block ends; without one the test is skipped."""
    command = find()
    if command is None:
        pytest.skip("there is no browser: on Debian, apt-get install chromium")
    profile = folder / "profile"
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            [
                command,
                "--headless=new",
                "--no-sandbox",  # CI is root in a container
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-extensions",
                "--no-first-run",
                "--no-default-browser-check",
                "--password-store=basic",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(folder),
        )
    try:
        chosen = profile / "DevToolsActivePort"
        until(lambda: process.poll() is not None or (chosen.exists() and chosen.read_text().count("\n")), "DevTools")
        assert process.poll() is None, (folder / "browser.log").read_text()
        yield Browser(int(chosen.read_text().split()[0]))
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

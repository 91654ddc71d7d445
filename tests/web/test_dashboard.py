"""The dashboard as a person uses it, in a real browser: ``/ui/`` of gateways that are processes of their own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import sqlite3
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agm.web.dashboard import files
from testbed.processes import Twistd, connection, get, post, run_outside, running, until
from tests.helpers import browser
from tests.helpers.browser import Browser, Page

#: Where screenshots go, for people to look at; else a temporary folder.
SCREENSHOTS = os.environ.get("AGM_TEST_SCREENSHOTS")
VIEWS = ("traffic", "accounts", "models", "keys", "plugins", "explain", "connect")
EVIL = "<img src=x onerror=window.pwned=1>"
BODY = b'{"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}'
ADMIN = "admin-key-for-tests"

PLUGIN = f"""
from agm import hookimpl

class Evil(Exception):
    pass

@hookimpl
def agm_map_model(model):
    if model == "raises":
        raise Evil({EVIL!r})
"""


@pytest.fixture(autouse=True)
def logged_failures() -> None:
    """In place of the watch over the reactor's log: no reactor runs here."""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.running(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of 1280 × 860; it must not have complained of anything when the test ends."""
    with chromium.page() as page:
        page.size(1280, 860)
        yield page
        assert page.trouble == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a demo."""
    with running(tmp_path_factory.mktemp("demo"), "agm", "--demo", "--port", "0") as twistd:
        yield twistd.url()
        assert twistd.stop() == 0


def locked(folder: Path) -> str:
    """The path of a configuration that asks for keys everywhere."""
    key = f'[[auth.keys]]\nname = "me"\nkey = "{ADMIN}"\nadmin = true\n'
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "agm.toml"
    file.touch(mode=0o600)
    file.write_text(f'[gateway]\nlisten = ["tcp:0:interface=127.0.0.1"]\n[auth]\nmode = "strict"\n{key}')
    return str(file)


def ask(url: str, model: str, method: str = "generateContent", **headers: str) -> int:
    """Send a request and read the whole answer, complete or not; its status."""
    client = connection(url)
    client.request(
        "POST",
        f"/v1beta/models/{quote(model, safe='')}:{method}",
        BODY,
        {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}},
    )
    answer = client.getresponse()
    with contextlib.suppress(http.client.IncompleteRead):
        answer.read()
    client.close()
    return answer.status


def show(page: Page, url: str, view: str = "traffic") -> None:
    """Go to a view, and wait until it has something to show."""
    page.open(f"{url}/ui/#/{view}")
    page.run(f"location.hash = '#/{view}'")
    page.until(f"!document.getElementById('content').hidden && !document.getElementById('view-{view}').hidden")


def row_of(model: str) -> str:
    """An expression: the latest row of a model."""
    return (
        "[...document.querySelectorAll('#requests tbody')]"
        f".find((b) => b.querySelector('.name').textContent === {json.dumps(model)})"
    )


# What it shows


@pytest.mark.process
def test_a_request_is_seen_without_a_reload_and_unfolds_to_its_attempts(page: Page, demo: str) -> None:
    show(page, demo)
    page.run("window.loaded_once = true")
    assert ask(demo, "gemini-2.5-flash") == 200
    page.until(row_of("gemini-2.5-flash"))
    assert ask(demo, "emu-503-once-dashboard") == 200
    page.until(row_of("emu-503-once-dashboard"))
    assert "2 attempts" in page.run(f"{row_of('emu-503-once-dashboard')}.innerText")
    page.run(f"{row_of('emu-503-once-dashboard')}.querySelector('button').click()")
    about = page.run(f"{row_of('emu-503-once-dashboard')}.querySelector('.detail').innerText")
    for said in ("demo-", "503", "UNAVAILABLE", "first byte after", "to the client", "Explain a request like this"):
        assert said in about
    bars = page.run(f"{row_of('emu-503-once-dashboard')}.querySelectorAll('.track i').length")
    assert bars == 3
    assert page.run("window.loaded_once") is True


@pytest.mark.process
def test_a_request_that_failed_says_why_nothing_more_was_tried(page: Page, demo: str) -> None:
    assert ask(demo, "emu-400") == 400
    show(page, demo)
    page.until(row_of("emu-400"))
    page.run(f"{row_of('emu-400')}.querySelector('.summary').click()")
    about = page.run(f"{row_of('emu-400')}.querySelector('.detail').innerText")
    assert "about the request itself" in about
    assert "2 other accounts were ready" in about


@pytest.mark.process
def test_a_request_under_way_is_seen_while_it_is(page: Page, demo: str) -> None:
    show(page, demo)
    client = connection(demo)
    path = "/v1beta/models/emu-hang:streamGenerateContent?alt=sse"
    client.request("POST", path, BODY, {"Content-Type": "application/json"})
    page.until(f"{row_of('emu-hang')}?.innerText.includes('ing')")
    took = page.run(f"{row_of('emu-hang')}.querySelectorAll('.summary > *')[6].textContent")
    page.until(f"{row_of('emu-hang')}.querySelectorAll('.summary > *')[6].textContent !== {json.dumps(took)}")
    client.close()
    page.until(f"{row_of('emu-hang')}.innerText.includes('left')")


@pytest.mark.process
def test_plots_show_what_came(page: Page, demo: str) -> None:
    assert ask(demo, "gemini-2.5-pro") == 200
    show(page, demo)
    page.until("[...document.querySelectorAll('.plot:not([hidden])')].length === 4")
    requests = "document.querySelectorAll('.plot')[0]"
    page.until(f"{requests}.querySelector('path').getAttribute('d').length > 5")
    assert " in 5 min" in page.run(f"{requests}.querySelector('.value').textContent")
    assert "five minutes" in page.run(f"{requests}.querySelector('svg').getAttribute('aria-label')")


@pytest.mark.process
def test_requests_are_filtered(page: Page, demo: str) -> None:
    assert ask(demo, "gemini-2.5-flash-lite") == 200
    assert ask(demo, "emu-404") == 404
    show(page, demo)
    page.until(row_of("emu-404"))
    shown = "[...document.querySelectorAll('#requests tbody:not([hidden]) .name')].map((n) => n.textContent)"
    page.run("document.getElementById('filter').focus()")
    page.type("flash-lite")
    assert set(page.run(shown)) == {"gemini-2.5-flash-lite"}
    page.run("document.getElementById('filter').value = ''")
    page.click("#only")
    found = page.run(shown)
    assert "emu-404" in found
    assert "gemini-2.5-flash-lite" not in found


@pytest.mark.process
def test_accounts_count_down_to_their_recovery(page: Page, demo: str) -> None:
    assert ask(demo, "emu-429rpm-90") == 429
    show(page, demo, "accounts")
    page.until("document.querySelector('#view-accounts')?.innerText.includes('cooling down')")
    first = page.run("document.querySelector('#view-accounts time.left').textContent")
    assert "min" in first
    page.until(f"document.querySelector('#view-accounts time.left').textContent !== {json.dumps(first)}")
    text = page.text("#view-accounts")
    for said in ("demo-1", "ready for other models", "emu-429rpm-90", "RESOURCE_EXHAUSTED", "Endpoints", "closed"):
        assert said in text


@pytest.mark.process
def test_what_comes_next_is_shown_below_the_accounts(page: Page, demo: str) -> None:
    """A sentence for each model, as the command prints it."""
    assert ask(demo, "emu-429rpm-80") == 429
    show(page, demo, "accounts")
    page.until("document.querySelector('#view-accounts')?.innerText.includes('Forecast')")
    page.until("document.querySelector('#view-accounts').innerText.includes('is back in ')")


@pytest.mark.parametrize("step", ["+ 3600000", "- 3600000"], ids=["forward", "back"])
@pytest.mark.process
def test_a_clock_that_is_set_changes_no_time_that_runs_on_the_page(page: Page, demo: str, step: str) -> None:
    """The browser is on the gateway's machine, as a rule."""
    assert ask(demo, "emu-429rpm-95") == 429
    show(page, demo, "accounts")
    page.until("document.querySelector('#view-accounts')?.innerText.includes('emu-429rpm-95')")
    page.run(f"(() => {{ const before = Date.now; Date.now = () => before() {step}; }})()")
    times = "[...document.querySelectorAll('#view-accounts time.left')]"
    left = f"{times}.find((time) => time.parentElement.innerText.includes('emu-429rpm-95')).textContent"
    first = page.run(left)
    page.until(f"{left} !== {json.dumps(first)}")
    assert re.fullmatch(r"(1 min )?[0-9]+ s", page.run(left))
    assert " h " not in page.run("document.querySelector('#view-accounts time.ago').textContent")


@pytest.mark.process
def test_models_and_keys_are_shown(page: Page, demo: str) -> None:
    show(page, demo, "models")
    assert "gemini-2.5-flash" in page.text("#view-models")
    assert "1,048,576" in page.text("#view-models")
    show(page, demo, "keys")
    assert ask(demo, "gemini-2.5-flash") == 200
    page.until("document.querySelector('#view-keys').innerText.includes('without a key')")


@pytest.mark.expects_logged_failures
@pytest.mark.process
def test_plugins_are_shown_with_their_failures(page: Page, tmp_path: Path) -> None:
    """What they raise with is nobody's markup either."""
    (tmp_path / "evil.py").write_text(PLUGIN)
    with running(tmp_path, "agm", "--demo", "--port", "0", "--plugin", "evil") as twistd:
        url = twistd.url()
        show(page, url, "plugins")
        assert "evil" in page.text("#view-plugins")
        assert "agm_map_model" in page.text("#view-plugins")
        assert ask(url, "raises") == 200
        page.until("/Failures[\\s\\S]*agm_map_model/.test(document.querySelector('#view-plugins').innerText)")
        assert page.run("document.querySelectorAll('main img').length") == 0
        page.open("about:blank")
        assert twistd.stop() == 0


@pytest.mark.process
def test_the_form_explains_a_request(page: Page, demo: str) -> None:
    show(page, demo, "explain")
    page.until("document.getElementById('explain-model').value !== ''")
    page.click("#explain-form button")
    page.until("!!document.querySelector('.explained')")
    text = page.text("#explained")
    for said in ("served by demo-", "Upstream", "/v1beta/models/", "Candidates"):
        assert said in text
    page.run("document.getElementById('explain-body').value = '{'")
    page.click("#explain-form button")
    page.until("document.querySelector('#explained .error')?.innerText.startsWith('The body is not JSON')")
    page.run("document.getElementById('explain-body').value = ''")
    page.run("document.getElementById('explain-model').value = 'a/../b'")
    page.click("#explain-form button")
    page.until("!document.querySelector('#explained').innerText.includes('JSON')")
    assert "model" in page.text("#explained")
    page.trouble[:] = [line for line in page.trouble if "status of 400" not in line]


@pytest.mark.process
def test_a_request_leads_to_its_explanation(page: Page, demo: str) -> None:
    assert ask(demo, "emu-429rpm-3000") == 429
    show(page, demo)
    page.until(row_of("emu-429rpm-3000"))
    page.run(f"{row_of('emu-429rpm-3000')}.querySelector('button').click()")
    page.run(f"{row_of('emu-429rpm-3000')}.querySelector('.about button').click()")
    page.until("!!document.querySelector('.explained')")
    assert page.run("document.getElementById('explain-model').value") == "emu-429rpm-3000"
    text = page.text("#explained")
    assert "The client would get RESOURCE_EXHAUSTED" in text
    assert "demo-1" in text


# Connect


@pytest.mark.process
def test_snippets_have_the_address_that_the_page_came_from_and_can_be_copied(page: Page, demo: str) -> None:
    """127.0.0.1 where the page was loaded from localhost, which a program may take for another address."""
    port = demo.rpartition(":")[2]
    show(page, f"http://localhost:{port}", "connect")
    page.until("document.querySelectorAll('.snippet').length === 12")
    assert page.text("#connect-address") == demo
    page.run("document.getElementById('connect-model').value = 'gemini-2.5-pro'")
    page.run("document.getElementById('connect-model').dispatchEvent(new Event('change'))")
    for text in page.run("[...document.querySelectorAll('.snippet pre')].map((p) => p.textContent)"):
        assert demo in text
        assert "localhost" not in text
    page.click("#snippet-google-genai .copy")
    page.until("document.querySelector('#snippet-google-genai .copy').textContent === 'copied'")
    assert page.run("navigator.clipboard.readText()") == page.run(
        "document.querySelector('#snippet-google-genai pre').textContent"
    )
    assert '"model": "gemini-2.5-pro"' in page.run("navigator.clipboard.readText()")


@pytest.mark.process
def test_what_is_shown_is_copied_where_the_page_has_no_clipboard(page: Page, demo: str) -> None:
    """As on an address that is neither https nor loopback."""
    show(page, demo, "connect")
    page.run("Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    page.click("#snippet-environment .copy")
    page.until("document.querySelector('#snippet-environment .copy').textContent === 'copied'")
    page.run("delete navigator.clipboard")
    assert page.run("navigator.clipboard.readText()").startswith(f"export GOOGLE_GEMINI_BASE_URL={demo}\n")


@pytest.mark.process
def test_the_address_is_that_of_the_page_where_it_is_not_localhost(page: Page, demo: str) -> None:
    show(page, demo, "connect")
    addresses = page.run(
        "import(new URL('connect.js', document.baseURI)).then(({ address }) => ["
        "'http://localhost:8045', 'https://localhost', 'http://gate.example:81', 'http://[::1]:8045/ui/#/connect',"
        "'https://ai.example/gemini/ui/', 'http://localhost/a/b/ui/index.html']"
        ".map((a) => address(new URL(a))))"
    )
    assert addresses == [
        "http://127.0.0.1:8045",
        "https://127.0.0.1",
        "http://gate.example:81",
        "http://[::1]:8045",
        "https://ai.example/gemini",
        "http://127.0.0.1/a/b",
    ]


@pytest.mark.process
def test_a_key_is_put_in_place_where_one_is_asked_for_there(page: Page, demo: str) -> None:
    """On this machine, or behind the proxy through which the page has come."""
    show(page, demo, "connect")
    asked = page.run(
        "import(new URL('connect.js', document.baseURI)).then(({ asksForKey }) => ["
        "['http://127.0.0.1:8045', 'off', 'all_except_health'], ['https://ai.example', 'off', 'all_except_health'],"
        "['http://localhost', 'strict', 'strict'], ['https://ai.example', 'off', undefined]]"
        ".map(([a, here, through]) => asksForKey(new URL(a), { auth_mode: here, auth_forwarded: through })))"
    )
    assert asked == [False, True, True, False]


# Who may look


@pytest.mark.process
def test_the_page_asks_for_a_key_where_one_is_asked_for_and_keeps_it_for_the_tab(
    page: Page, chromium: Browser, tmp_path: Path
) -> None:
    with running(tmp_path / "locked", "agm", "--config", locked(tmp_path / "locked")) as twistd:
        url = twistd.url()
        page.open(f"{url}/ui/")
        page.until("!document.getElementById('gate').hidden")
        assert page.run("document.activeElement.id") == "gate-key"
        page.type("not-a-key")
        page.press("Enter", 13, "\r")
        page.until("document.getElementById('gate-why').textContent.includes('not known')")
        page.type(ADMIN)
        page.press("Enter", 13, "\r")
        page.until("!document.getElementById('content').hidden")
        page.open(f"{url}/ui/?again")
        page.until("!document.getElementById('content').hidden")
        page.run("location.hash = '#/keys'")
        page.until("document.querySelector('#view-keys').innerText.includes('admin')")
        page.run("location.hash = '#/connect'")
        page.until("document.querySelectorAll('.snippet').length === 12")
        assert "YOUR_KEY" in page.run("document.querySelector('#snippet-curl pre').textContent")
        assert ADMIN not in page.run("document.documentElement.outerHTML")
        assert page.run("localStorage.length + document.cookie.length") == 0
        with chromium.page() as other:
            other.open(f"{url}/ui/")
            other.until("!document.getElementById('gate').hidden")
        page.click("#foot button")
        page.until("!document.getElementById('gate').hidden")
        page.trouble[:] = [line for line in page.trouble if "status of 401" not in line]
        log = twistd.log
        assert twistd.stop() == 0
    assert ADMIN not in log


@pytest.mark.slow
@pytest.mark.process
def test_the_page_comes_back_when_the_gateway_does(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "first"
    first = Twistd.start(folder, "agm", "--demo", "--port", "0")
    try:
        url = first.url()
        show(page, url)
        page.until("document.getElementById('link').dataset.state === 'live'")
        assert first.stop() == 0, "nobody waits for a page that is open"
        page.until("document.getElementById('link').dataset.state === 'lost'")
        with running(tmp_path / "second", "agm", "--demo", "--port", url.rpartition(":")[2]) as second:
            second.url()
            page.until("document.getElementById('link').dataset.state === 'live'")
            assert second.stop() == 0
    finally:
        first.kill()
    page.trouble[:] = [line for line in page.trouble if "ERR_" not in line]


@pytest.mark.process
def test_nothing_that_anybody_says_becomes_markup(page: Page, demo: str) -> None:
    assert ask(demo, EVIL, User_Agent=EVIL) == 200
    assert ask(demo, f"emu-400{EVIL}", User_Agent=EVIL) in (200, 400)
    for view in VIEWS:
        show(page, demo, view)
        if view == "traffic":
            page.until(row_of(EVIL))
            page.run("document.querySelectorAll('#requests button').forEach((b) => b.click())")
            assert EVIL in page.text("#requests")
        if view == "explain":
            page.run(f"document.getElementById('explain-model').value = {json.dumps(EVIL)}")
            page.click("#explain-form button")
            page.until(f"document.getElementById('explained').innerText.includes({json.dumps(EVIL)})")
        assert page.run("document.querySelectorAll('main img, main script, main iframe').length") == 0
    assert page.run("window.pwned") is None


@pytest.mark.process
def test_nothing_is_loaded_from_elsewhere(page: Page, demo: str) -> None:
    for view in VIEWS:
        show(page, demo, view)
    assert page.asked
    assert [url for url in page.asked if not url.startswith((f"{demo}/ui/", f"{demo}/_agm/"))] == []


# For everybody

CONTRAST = """
(() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const part = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const e = n.parentElement;
    if (!n.data.trim() || !e.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${n.data.trim().slice(0, 30)} ${ratio.toFixed(2)} ${e.className}`);
  }
  return [...new Set(found)];
})()
"""

NAMELESS = """
[...document.querySelectorAll('input, select, textarea, button, a, [role=img]')]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the screenshots."""
    return Path(SCREENSHOTS) if SCREENSHOTS else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def busy(demo: str) -> str:
    """The demo, after all kinds of requests."""
    for model in ("gemini-2.5-flash", "gemini-2.5-pro", "emu-503-once-busy", "emu-429rpm-80", "emu-400", "emu-cut"):
        ask(demo, model)
        ask(demo, model, "streamGenerateContent")
    ask(demo, "emu-slow", "streamGenerateContent")
    return demo


def unfold(page: Page) -> None:
    """Open the details of a request that took more than one attempt."""
    page.until(row_of("emu-503-once-busy"))
    page.run(f"{row_of('emu-503-once-busy')}.querySelector('button').click()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.process
def test_every_view_can_be_read_in_light_and_dark(page: Page, busy: str, scheme: str, looked_at: Path) -> None:
    """Text stands out from its ground by 4.5 to 1, as WCAG 2.2 asks (1.4.3, AA); everything has a name."""
    page.scheme(scheme)
    for view in VIEWS:
        show(page, busy, view)
        if view == "traffic":
            unfold(page)
        if view == "explain":
            page.click("#explain-form button")
            page.until("!!document.querySelector('.explained')")
        assert page.run(CONTRAST) == []
        assert page.run(NAMELESS) == []
        page.screenshot(looked_at / f"{view}-{scheme}.png")
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 384) == (scheme == "light")


@pytest.mark.parametrize("width", [320, 390])
@pytest.mark.process
def test_a_phone_shows_every_view_without_scrolling_sideways(
    page: Page, busy: str, width: int, looked_at: Path
) -> None:
    page.size(width, 844, mobile=True, scale=2)
    for view in VIEWS:
        show(page, busy, view)
        if view == "traffic":
            unfold(page)
        if view == "explain":
            page.run("document.getElementById('explain-form').requestSubmit()")
            page.until("!!document.querySelector('.explained')")
        beyond = page.run(
            "[...document.querySelectorAll('main *')]"
            ".filter((e) => e.checkVisibility() && !e.closest('.unseen, .model'))"
            f".filter((e) => e.getBoundingClientRect().right > {width + 1}).map((e) => e.outerHTML.slice(0, 100))"
        )
        assert beyond == []
        assert page.run("document.documentElement.scrollWidth") <= width
        page.screenshot(looked_at / f"{view}-phone-{width}.png")


@pytest.mark.process
def test_colours_can_be_chosen_and_stay_chosen(page: Page, demo: str) -> None:
    page.scheme("light")
    show(page, demo)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    for name in ("light", "dark"):
        page.click("#theme")
        assert page.text("#theme") == name
    dark = page.run(ground)
    assert dark != light
    page.open(f"{demo}/ui/?again")
    assert page.run(ground) == dark
    page.click("#theme")
    assert (page.text("#theme"), page.run(ground)) == ("auto", light)


@pytest.mark.process
def test_it_can_be_used_by_keyboard(page: Page, busy: str) -> None:
    show(page, busy)
    page.until(row_of("emu-503-once-busy"))
    page.press("Tab", 9)
    assert page.run("document.activeElement.id") == "skip"
    page.press("Enter", 13, "\r")
    assert page.run("document.activeElement.id") == "main"
    page.run(f"{row_of('emu-503-once-busy')}.querySelector('button').focus()")
    page.press("Enter", 13, "\r")
    assert page.run("document.activeElement.getAttribute('aria-expanded')") == "true"
    assert page.run(f"{row_of('emu-503-once-busy')}.querySelector('.detail').checkVisibility()") is True
    page.press("Enter", 13, "\r")
    assert page.run("document.activeElement.getAttribute('aria-expanded')") == "false"
    page.run("document.querySelector('nav a[href=\"#/keys\"]').focus()")
    page.press("Enter", 13, "\r")
    page.until("!document.getElementById('view-keys').hidden")
    assert page.run("document.querySelector('nav [aria-current=page]').textContent") == "Keys"


@pytest.mark.process
def test_what_somebody_has_unfolded_stays_so_when_more_comes(page: Page, busy: str) -> None:
    show(page, busy)
    unfold(page)
    assert ask(busy, "gemini-2.5-flash") == 200
    before = page.run("document.querySelectorAll('#requests tbody').length")
    assert ask(busy, "emu-latency-1") == 200
    page.until(row_of("emu-latency-1"))
    assert page.run("document.querySelectorAll('#requests tbody').length") >= before
    assert page.run(f"{row_of('emu-503-once-busy')}.querySelector('.detail').checkVisibility()") is True


@pytest.mark.process
def test_the_list_stands_still_while_somebody_is_in_it_and_a_chip_counts_what_is_new(page: Page, demo: str) -> None:
    assert ask(demo, "emu-400") == 400
    show(page, demo)
    page.until(row_of("emu-400"))
    assert page.run(f"{row_of('emu-400')}.querySelector('.reason').textContent") == "INVALID_ARGUMENT"
    chip = "document.querySelector('.chip')"
    page.run(f"{row_of('emu-400')}.querySelector('button').focus()")
    for _ in range(2):
        assert ask(demo, "emu-chunks-3") == 200
    page.until(f"!{chip}.hidden && {chip}.textContent === '2 new'")
    assert not page.run(row_of("emu-chunks-3"))
    page.click(".chip")
    page.until(row_of("emu-chunks-3"))
    assert page.run(f"{chip}.hidden") is True
    pause = "document.activeElement"
    page.until(f"{pause}.hasAttribute('aria-pressed')")  # the focus has gone to the button that pauses
    page.press("Enter", 13, "\r")
    page.until(f"{pause}.getAttribute('aria-pressed') === 'true'")
    assert ask(demo, "emu-chunks-4") == 200
    page.until(f"!{chip}.hidden")
    assert not page.run(row_of("emu-chunks-4"))
    page.press("Enter", 13, "\r")
    page.until(row_of("emu-chunks-4"))


@pytest.mark.process
def test_longer_ranges_latency_and_a_linked_request_come_from_the_request_log(
    page: Page, busy: str, looked_at: Path
) -> None:
    show(page, busy)
    page.until("!document.querySelector('.latency').hidden")
    page.run("document.querySelector('.latency').open = true")
    page.until("/demo-1[\\s\\S]*without a key/.test(document.querySelector('.latency').innerText)")
    page.run("[...document.querySelectorAll('.ranges button')].find((b) => b.textContent === '24 h').click()")
    duration = "[...document.querySelectorAll('.plot')].find((p) => p.innerText.startsWith('Duration'))"
    page.until(f"{duration} && !{duration}.hidden")
    assert " in 24 h" in page.run("document.querySelector('.plot .value').textContent")
    assert "24 h, per 12 min" in page.run("document.querySelector('.plot svg').getAttribute('aria-label')")
    assert page.run(CONTRAST) == []
    page.screenshot(looked_at / "traffic-24h.png", whole=True)
    page.run("[...document.querySelectorAll('.ranges button')].find((b) => b.textContent === '5 min').click()")
    page.until(f"{duration}.hidden")
    unfold(page)
    link = page.run(f"{row_of('emu-503-once-busy')}.querySelector('.detail a[href^=\"#/traffic/\"]').hash")
    page.open(f"{busy}/ui/?again{link}")
    page.until(f"{row_of('emu-503-once-busy')}?.classList.contains('unfolded')")
    page.run("location.hash = '#/traffic/0000000000000000'")
    page.until("/No request of this id/.test(document.querySelector('.linked').innerText)")
    page.trouble.clear()  # the 404


@pytest.mark.process
@pytest.mark.slow
def test_a_request_that_the_list_no_longer_has_is_shown_from_the_log(page: Page, tmp_path: Path) -> None:
    with running(tmp_path, "agm", "--demo", "--port", "0") as twistd:
        url = twistd.url()
        ask(url, "emu-503-once-linked")
        for _ in range(201):
            ask(url, "emu-404")
        until(lambda: json.loads(get(url, "/_agm/log")[1])["written"] == 202, "all of it is recorded")
        with sqlite3.connect(json.loads(get(url, "/_agm/log")[1])["path"]) as log:
            ((first,),) = log.execute("SELECT request FROM requests ORDER BY id LIMIT 1")
        log.close()
        page.open(f"{url}/ui/#/traffic/{first}")
        shown = "document.querySelector('.linked')"
        page.until(f"/from the request log[\\s\\S]*emu-503-once-linked/.test({shown}.innerText)")
        assert page.run("document.querySelectorAll('.linked .attempts li').length") >= 3
        page.click(".linked button")
        page.until(f"{shown}.innerText === ''")
        page.open("about:blank")
        assert twistd.stop() == 0


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("axe")
    run_outside("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@4.11.0", cwd=folder)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.process
@pytest.mark.slow
def test_axe_finds_nothing_against_wcag_in_any_view(page: Page, busy: str, scheme: str, axe: str) -> None:
    """WCAG 2.2, levels A and AA, as far as a program can see; in a wide window, and on a phone of 360 pixels."""
    page.scheme(scheme)
    found = []
    for width in (1280, 360):
        page.size(width, 860, mobile=width < 500)
        for view in VIEWS:
            show(page, busy, view)
            if view == "traffic":
                unfold(page)
            page.run(f"window.axe ? 0 : (() => {{ {axe} }})()")
            tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
            wrong = page.run(
                f"axe.run(document, {{runOnly: {json.dumps(tags)}}}).then((r) => "
                "r.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 120)).join(' | ')}`))"
            )
            found += [f"{view} at {width}: {each}" for each in wrong]
            if width == 360:
                assert page.run("document.documentElement.scrollWidth") <= width
    assert found == []


# What is served


@pytest.mark.process
def test_the_files_say_what_they_are_and_what_they_may_do(demo: str) -> None:
    client = connection(demo)
    names = [file.name for file in (files("agm.web") / "ui").iterdir() if "." in file.name]
    assert {"index.html", "app.js", "style.css"} <= set(names)
    for name in (*names, ""):
        client.request("GET", f"/ui/{name}")
        answer = client.getresponse()
        body = answer.read()
        assert answer.status == 200
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Type"].partition(";")[0] in (
            "text/html",
            "text/css",
            "text/javascript",
            "image/svg+xml",
        )
        for outside in (b"https://", b"//fonts", b"innerHTML", b"eval(", b"document.write"):
            assert outside not in body
    client.close()


@pytest.mark.parametrize("path", ["/ui/nothing", "/ui/../setup.cfg", "/ui/app.js/x", "/ui//app.js", "/ui/%2e%2e/a"])
@pytest.mark.process
def test_there_is_nothing_else(demo: str, path: str) -> None:
    status, body = get(demo, path)
    assert (status, json.loads(body)["error"]["code"]) == (404, 404)


@pytest.mark.process
def test_a_browser_is_led_to_it_and_a_program_is_told_as_ever(demo: str) -> None:
    def answer(path: str, **headers: str) -> tuple[int, Any]:
        client = connection(demo)
        client.request("GET", path, headers=headers)
        got = client.getresponse()
        got.read()
        client.close()
        return got.status, got.headers["Location"]

    assert answer("/ui") == (302, "ui/")
    assert answer("/", Accept="text/html,application/xhtml+xml") == (302, "ui/")
    assert answer("/") == (404, None)
    assert answer("/", Accept="application/json") == (404, None)
    client, got = post(demo, "/ui/", b"{}")
    assert got.status == 405
    client.close()


@pytest.mark.process
def test_the_files_are_open_where_everything_else_asks_for_a_key(tmp_path: Path) -> None:
    """They are the same for everybody; another site's page gets none of it, and no other name will do."""
    with running(tmp_path / "locked", "agm", "--config", locked(tmp_path / "locked")) as twistd:
        url = twistd.url()
        assert get(url, "/ui/")[0] == 200
        assert get(url, "/", Accept="text/html")[0] == 302
        assert get(url, "/")[0] == 401
        assert get(url, "/_agm/status")[0] == 401
        assert get(url, "/ui/", Origin="https://example.com")[0] == 403
        assert get(url, "/ui/", Host="example.com")[0] == 421
        assert twistd.stop() == 0


# What it changes


@pytest.mark.process
@pytest.mark.slow
def test_keys_accounts_and_aliases_are_changed_on_the_page(page: Page, tmp_path: Path, looked_at: Path) -> None:
    """As an operator does it, from the first key to its end; the file has it all, and the key is shown once."""
    file = Path(locked(tmp_path / "home"))

    def fill(name: str, value: str) -> None:
        page.run(f"document.querySelector('dialog [name={name}]').value = {json.dumps(value)}")

    def press(label: str) -> None:
        page.until(f"[...document.querySelectorAll('button')].some((b) => b.getAttribute('aria-label') === '{label}')")
        page.run(f"document.querySelector('button[aria-label=\"{label}\"]').click()")
        page.until("!!document.querySelector('dialog[open]')")

    def submit(*, closes: bool = True) -> None:
        page.click("dialog button[type=submit]")
        if closes:
            page.until("!document.querySelector('dialog')")

    def written() -> Any:
        return tomllib.loads(file.read_text())

    with running(tmp_path / "run", "agm", "--config", str(file)) as twistd:
        url = twistd.url()
        page.open(f"{url}/ui/#/keys")
        page.until("!document.getElementById('gate').hidden")
        page.trouble.clear()  # the refusal of who has no key
        page.run(f"document.getElementById('gate-key').value = '{ADMIN}'")
        page.click("#gate button")
        page.until("!document.getElementById('content').hidden")
        page.click("#view-keys .title-row button")
        fill("name", "laptop")
        fill("requests_per_day", "100")
        assert page.run(NAMELESS) == []
        assert page.run(CONTRAST) == []
        page.screenshot(looked_at / "new-key.png")
        submit(closes=False)
        page.until("!!document.querySelector('dialog .secret code')")
        key = page.text("dialog .secret code")
        page.click("dialog .actions button")
        page.until("!document.querySelector('dialog')")
        assert key not in page.run("document.documentElement.outerHTML")
        assert get(url, "/v1beta/models", x_goog_api_key=key)[0] == 200
        assert written()["auth"]["keys"][1]["requests_per_day"] == 100
        press("Change laptop")
        fill("requests_per_day", "7")
        submit()
        assert written()["auth"]["keys"][1]["requests_per_day"] == 7
        press("Revoke laptop")
        submit()
        assert get(url, "/v1beta/models", x_goog_api_key=key)[0] == 401

        page.run("location.hash = '#/accounts'")
        page.click("#view-accounts .title-row button")
        fill("name", "work")
        submit(closes=False)  # without a secret
        page.until("!document.querySelector('dialog .error').hidden")
        assert "Give one of api_key and login" in page.text("dialog .error")
        page.trouble.clear()
        fill("api_key", "canary-work-key")
        submit()
        page.screenshot(looked_at / "accounts-editing.png")
        press("Disable work")
        submit()
        assert written()["accounts"][0]["enabled"] is False
        press("Enable work")
        submit()
        press("Remove work")
        submit()
        assert "accounts" not in written()

        page.run("location.hash = '#/models'")
        page.click("#view-models .title-row button")
        fill("pattern", "gpt-*")
        fill("model", "gemini-2.5-flash")
        submit()
        assert written()["models"]["aliases"] == {"gpt-*": "gemini-2.5-flash"}
        twistd.until_logged("client key me set alias gpt-* to gemini-2.5-flash")
        assert "canary-work-key" not in twistd.log + page.run("document.documentElement.outerHTML")
        page.open("about:blank")
        assert twistd.stop() == 0

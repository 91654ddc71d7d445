"""``docs/plugins.md`` and the pages beside it against the program: signatures, names, attributes, blocks of code."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest
import pytest_twisted

from agm import api, cli, hookspecs
from agm import config as configuration
from agm.config.reading import KEY
from agm.plugins import builtin as defaults
from agm.plugins.hooks import FAIL_CLOSED
from agm.plugins.manager import CHAINS, HOOKS, MAY_AWAIT, UNWRAPPED, make_plugin_manager
from agm.testing import GatewayFactory, RunningEmulator, RunningGateway, check_plugin
from tests.helpers.support import AnsweringUpstream, Asked

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "plugins.md").read_text("utf-8")
PAGES = ("plugins.md", "plugin-tutorial.md", "testing-plugins.md")


@attrs.frozen
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that its first line names."""
        match = re.match(r"# (\S+\.py)\n", self.text)
        return None if match is None else match[1]


def blocks(page: str) -> Iterator[Block]:
    lines = (DOCS / page).read_text("utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if start is None:
                start = number
            else:
                text = "\n".join(lines[start : number - 1]) + "\n"
                yield Block(page, start, lines[start - 1].removeprefix("```"), text)
                start = None


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
PLUGINS = [block for block in PYTHON if "@hookimpl" in block.text]
FILES = {Path(block.file).stem: block for block in PLUGINS if block.file is not None and block.page == "plugins.md"}


def named(block: Block) -> str:
    return f"{block.page}:{block.line}"


def section(heading: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    level = heading.partition(" ")[0]
    start = TEXT.index(f"\n{heading}\n") + 1
    end = re.compile(rf"^#{{1,{len(level)}}} ", re.MULTILINE).search(TEXT, start + len(heading))
    return TEXT[start : None if end is None else end.start()]


# What is documented


def test_every_hook_has_a_heading_with_its_exact_signature_in_request_order() -> None:
    """And no heading is of a hook that does not exist."""
    headings = re.findall(r"^### (agm_\w+\(.*\))$", TEXT, re.MULTILINE)
    signatures = [f"{hook}({', '.join(inspect.signature(getattr(hookspecs, hook)).parameters)})" for hook in HOOKS]
    assert headings == signatures


@pytest.mark.parametrize("hook", HOOKS)
def test_the_section_of_a_hook_tells_everything_about_it(hook: str) -> None:
    """Each argument, what it returns, whether it may await, what an exception does; and it has an example."""
    parameters = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    text = section(f"### {hook}({', '.join(parameters)})")
    assert re.findall(r"^- `(\w+)`", text, re.MULTILINE) == parameters
    assert "Returns" in text
    assert ("May be asynchronous" in text) is (hook in MAY_AWAIT)
    assert ("Synchronous" in text) is (hook not in MAY_AWAIT)
    assert ("takes no wrapper" in text or "a wrapper is refused" in text) is (hook in UNWRAPPED)
    assert re.search(r"exception", text, re.IGNORECASE)
    assert ("passed over" in text) is (hook not in FAIL_CLOSED)
    assert f"def {hook}(" in text


def test_the_table_of_hooks_agrees_with_the_program() -> None:
    rows = {
        match[1]: match[2]
        for line in section("## The hooks").splitlines()
        if (match := re.match(r"\| `(agm_\w+)` \|(.*)\|$", line))
    }
    assert list(rows) == list(HOOKS)
    for hook, row in rows.items():
        since, answers, awaits, failure = (cell.strip() for cell in row.split("|"))
        assert since == hookspecs.SINCE[hook], hook
        assert awaits.startswith("yes") is (hook in MAY_AWAIT), hook
        assert (failure == "passed over") is (hook not in FAIL_CLOSED), hook
        first = bool((getattr(hookspecs, hook).agm_spec or {}).get("firstresult"))
        assert (answers == "the first counts") is first, hook
        assert (answers == "each gets the one before") is (hook in CHAINS), hook


@pytest.mark.parametrize("name", api.__all__)
def test_everything_that_a_plugin_imports_is_documented(name: str) -> None:
    assert re.search(rf"(^### {name}$)|(`{name}\b)", section("## Values"), re.MULTILINE)


@pytest.mark.parametrize("value", [v for v in vars(api).values() if isinstance(v, type) and attrs.has(v)])
def test_every_attribute_of_a_value_is_documented(value: type) -> None:
    text = section(f"### {value.__name__}")
    for field in attrs.fields(value):
        of_the_file = KEY in field.metadata  # which configuration.md documents
        if field.init and not field.name.startswith("_") and not of_the_file:
            assert re.search(rf"`{field.name}\b", text), f"{value.__name__}.{field.name}"


def test_every_fault_and_framing_is_documented() -> None:
    for fault in api.Fault:
        assert f"| `{fault.name}` |" in section("### Fault")
    for framing in api.Framing:
        assert f"`Framing.{framing.name}`" in section("### Framing")


def test_the_errors_are_documented_with_their_statuses() -> None:
    errors = [v for v in vars(api).values() if isinstance(v, type) and issubclass(v, api.GatewayError)]
    for error in errors:
        if error is not api.GatewayError:
            assert re.search(rf"`{error.__name__}`\s\({error.status}\)", section("### GatewayError"))


def test_the_builtin_plugins_are_documented_with_their_hooks() -> None:
    text = section("## Replacing what is built in")
    manager = make_plugin_manager(entry_points=False)
    for name, _ in defaults.make_plugins():
        hooks = {caller.name for caller in manager.get_hookcallers(manager.get_plugin(name)) or ()} - {"agm_configure"}
        row = next(line for line in text.splitlines() if f"`{name}`" in line)
        assert set(re.findall(r"`(agm_\w+)`", row)) == hooks


def test_every_link_to_a_file_or_heading_leads_somewhere() -> None:
    for page in PAGES:
        text = (DOCS / page).read_text("utf-8")
        anchors = {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith("#"):
                assert target[1:] in anchors, f"{page}: {target}"
            elif not target.startswith("https://"):
                assert (DOCS / target).exists(), f"{page}: {target}"


# The blocks


@pytest.mark.parametrize("block", PYTHON, ids=named)
def test_a_block_of_python_compiles(block: Block) -> None:
    compile(block.text, named(block), "exec")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=named)
def test_a_block_of_toml_is_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", PLUGINS, ids=named)
def test_a_block_with_a_hook_is_a_plugin_that_keeps_the_rules(block: Block) -> None:
    """As it stands: its imports are in it."""
    module = ModuleType("documented")
    exec(compile(block.text, named(block), "exec", dont_inherit=True), module.__dict__)
    check_plugin(module)


# From nothing to running: the customisations, as the page says to install them

Start = Callable[..., Awaitable[RunningGateway]]


@pytest_twisted.async_yield_fixture
async def start(gateway: GatewayFactory, emulator: RunningEmulator, tmp_path: Path) -> AsyncIterator[Start]:
    """A gateway with the plugin of one file, in a folder that the configuration names, and ``--demo``'s accounts."""

    async def make(file: str, extra: str = "", accounts: int = 3) -> RunningGateway:
        folder = tmp_path / "plugins"
        folder.mkdir()
        (folder / f"{file}.py").write_text(FILES[file].text, "utf-8")
        first = next(block.text for block in BLOCKS if block.language == "toml")
        tables = "".join(emulator.account(f"demo-{n}") for n in range(1, accounts + 1))
        text = f"{tables}\n[gateway]\nshow_account = true\n{first}\n{extra}"
        return await gateway(configuration.parse(text, path=tmp_path / "agm.toml", environ={}))

    yield make


STRICT = '[auth]\nmode = "strict"\n'


@pytest_twisted.ensureDeferred
async def test_the_first_plugin_works_the_first_time(start: Start, emulator: RunningEmulator) -> None:
    running = await start("hello")
    assert (await running.ask("hello")).status == 200
    assert emulator.log[0].model == "gemini-2.5-flash"
    explained = await running.explain("hello")
    assert explained["model"]["plugin"] == "agm_plugins.hello"


@pytest_twisted.ensureDeferred
async def test_fixed_keys_work_the_first_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGM_KEY_LAPTOP", "open-sesame")
    running = await start("fixed_keys", STRICT)
    assert (await running.ask(key="open-sesame")).status == 200
    assert (await running.ask(key="other")).status == 401


@pytest_twisted.ensureDeferred
async def test_looked_up_keys_work_the_first_time(start: Start, emulator: RunningEmulator) -> None:
    """A key is asked for once; a directory in trouble is no fault of the key, and is asked again."""
    known = api.digest("known")
    troubled = True

    def answer(asked: Asked) -> tuple[Any, ...]:
        if troubled:
            return 500, {}
        return (200, {"name": "ada"}) if asked.path == f"/keys/{known}" else (404, {})

    directory = AnsweringUpstream(answer)
    settings = next(b.text for b in BLOCKS if b.language == "toml" and "[plugins.directory]" in b.text)
    running = await start("directory", STRICT + settings.replace("https://directory.example.net", directory.url))
    assert (await running.ask(key="known")).status == 503
    troubled = False
    for _ in range(3):
        assert (await running.ask(key="known")).status == 200
        assert (await running.ask(key="unknown")).status == 401
    assert [asked.path for asked in directory.asked].count(f"/keys/{known}") == 2
    assert len(directory.asked) == 3
    await directory.stop()


@pytest_twisted.ensureDeferred
async def test_a_key_is_revoked_without_a_restart(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    ada, bob = (f"{name} {sha256(name.encode()).hexdigest()}\n" for name in ("ada", "bob"))
    keys.write_text(ada + bob)
    settings = next(b.text for b in BLOCKS if b.language == "toml" and "[plugins.key_file]" in b.text)
    running = await start("key_file", STRICT + settings.replace("/etc/agm/keys", str(keys)))
    assert [(await running.ask(key=name)).status for name in ("ada", "bob", "eve")] == [200, 200, 401]
    keys.write_text(bob)
    assert [(await running.ask(key=name)).status for name in ("ada", "bob", "eve")] == [401, 200, 401]


@pytest_twisted.ensureDeferred
async def test_model_mapping_works_the_first_time(start: Start, emulator: RunningEmulator) -> None:
    running = await start("mapping")
    for model, text in (("gpt-4o", "short"), ("claude-x", "long" * 500), ("gemini-2.0-flash", "own")):
        assert (await running.ask(model, text)).status == 200
    assert [entry.model for entry in emulator.log] == ["gemini-2.5-flash", "gemini-2.5-pro", "gemini-2.0-flash"]


@pytest_twisted.ensureDeferred
async def test_account_selection_works_the_first_time(start: Start, emulator: RunningEmulator) -> None:
    running = await start("accounts")
    for model in ("gemini-2.5-flash", "gemini-2.5-pro"):
        assert (await running.ask(model)).status == 200
    assert emulator.accounts == ["demo-1", "demo-2"]
    explained = await running.explain("gemini-2.5-pro")
    assert explained["account"]["reason"] == "the first by name of those with 0 requests"


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent"])
@pytest_twisted.ensureDeferred
async def test_wrapping_what_is_built_in_works_the_first_time(
    start: Start, emulator: RunningEmulator, method: str
) -> None:
    running = await start("labelled")
    assert (await running.ask(method=method)).status == 200
    assert emulator.log[0].headers["x-goog-request-params"] == "team=nobody"


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent"])
@pytest_twisted.ensureDeferred
async def test_a_request_of_ones_own_works_the_first_time(start: Start, method: str) -> None:
    """Only for the account that it is meant for."""
    asked: list[Asked] = []

    def answer(request: Asked) -> tuple[Any, ...]:
        asked.append(request)
        document = {"candidates": [{"content": {"parts": [{"text": "good"}]}}]}
        if "alt=sse" in request.uri:
            return 200, f"data: {json.dumps(document)}\r\n\r\n".encode(), {"content-type": "text/event-stream"}
        return 200, document

    upstream = AnsweringUpstream(answer)
    table = '[[accounts]]\nname = "demo-3"\nkind = "api-key"\napi_key = "k"\n' + f'endpoints = ["{upstream.url}"]\n'
    running = await start("envelope", table, accounts=0)
    found = await running.ask(method=method)
    assert (found.status, found.text) == (200, "good")
    assert asked[0].path == f"/v1/models/gemini-2.5-flash:{method}"
    assert asked[0].headers["x-team"] == "nobody"
    assert "contents" in json.loads(asked[0].body)
    await upstream.stop()


# The other pages, as a reader follows them


def run_pytest(folder: Path) -> str:
    """Run the tests of a folder in a process of their own; return how it ended."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.process
def test_the_tests_of_the_page_on_tests_pass(tmp_path: Path) -> None:
    """With the first plugin of the other page."""
    (tmp_path / "my_plugin.py").write_text(FILES["hello"].text)
    conftest, *tests = [block.text for block in PYTHON if block.page == "testing-plugins.md"]
    (tmp_path / "conftest.py").write_text(conftest)
    for number, text in enumerate(tests):
        (tmp_path / f"test_{number}.py").write_text(text)
    assert run_pytest(tmp_path).startswith("4 passed")


@pytest.mark.process
def test_the_tutorial_leads_to_a_plugin_whose_tests_pass(tmp_path: Path) -> None:
    """In the project that ``agm plugin new`` makes, with the files that the page names."""
    console = next(b.text for b in BLOCKS if b.page == "plugin-tutorial.md" and b.language == "console")
    assert console.startswith("$ agm plugin new office-hours\n$ cd agm-office-hours\n")
    assert cli.main(["plugin", "new", "office-hours", "--dir", str(tmp_path)]) == 0
    folder = tmp_path / "agm-office-hours"
    entry = next(b.text for b in BLOCKS if b.page == "plugin-tutorial.md" and b.language == "toml")
    assert entry in (folder / "pyproject.toml").read_text()
    for block in PYTHON:
        if block.page == "plugin-tutorial.md":
            assert block.file is not None
            assert (folder / block.file).exists(), f"{block.file} is there to be replaced"
            (folder / block.file).write_text(block.text)
    listed = re.findall(r"^\| (`[^|]*`) \|", (DOCS / "plugin-tutorial.md").read_text("utf-8"), re.MULTILINE)
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert made == {name for cell in listed for name in re.findall("`([^`]+)`", cell)}
    assert run_pytest(folder).startswith("4 passed")


# What other documents say


@pytest_twisted.ensureDeferred
async def test_every_field_of_an_explanation_is_documented(gateway: GatewayFactory, emulator: RunningEmulator) -> None:
    """And every field that is documented can be there."""
    running = await gateway(
        '[models.aliases]\nfast = "m"\n' + emulator.account("work") + emulator.account("else", extra='models = ["x"]')
    )
    good = await running.explain("fast")
    bad = await running.explain("fast", method="predict", body=[])
    asked = {"messages": [{"role": "user", "content": "hi"}]}
    good = {**good, "dialect": (await running.explain("fast", dialect="openai", body=asked))["dialect"]}
    text = section("## agm explain")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert set(rows) == set(good) | set(bad) | {"error", "refused_by", "waits", "answer"}
    for field in ("request", "dialect", "model", "account", "upstream"):
        assert set(good[field]) <= set(re.findall(r"`(\w+)`", text)), field
    for entry in (*good["excluded"], *good["plugins"]):
        assert set(entry) <= set(re.findall(r"`(\w+)`", text))


@pytest_twisted.ensureDeferred
async def test_every_field_of_the_list_of_plugins_is_documented(gateway: GatewayFactory) -> None:
    running = await gateway()
    document = (await running.fetch("GET", "/_agm/plugins")).json
    known = set(re.findall(r"`([\w-]+)`", section("## agm plugins")))
    assert set(document) | set(document["plugins"][0]) | set(document["hooks"][0]) <= known
    assert {"built-in", "installed", "file", "module"} <= known

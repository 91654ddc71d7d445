"""``agm account`` as a person uses it: a prompt or a pipe for the key, a file to import, a list to look at."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agm.cli import main
from agm.config import Config, load
from testbed.processes import run as run_process

KEY = "AIzaSyCanary-0123456789_abcdefghijklmnop"

Run = Callable[..., tuple[int | None, str, str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of the test's own; the developer's file and keys play no part."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("AGM_CONFIG", "WORK_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(home: Path) -> Path:
    """The configuration that the commands use; it is not there yet."""
    return home / "agm" / "agm.toml"


@pytest.fixture
def agm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command with something in its pipe: status, output, messages.  No secret may be in either."""

    def run(*argv: str, stdin: bytes = b"") -> tuple[int | None, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        try:
            status: Any = main(argv)
        except SystemExit as ended:
            status = ended.code
        output = capsys.readouterr()
        for secret in (KEY, "canary"):
            assert secret not in output.out + output.err
        return status, output.out, output.err

    return run


def config(file: Path) -> Config:
    """What the gateway would make of the file."""
    return load(file, environ={"WORK_KEY": KEY})


def mode(path: Path) -> int:
    """The permission bits of a path."""
    return stat.S_IMODE(path.stat().st_mode)


# -- add ---------------------------------------------------------------------------------------------


def test_a_key_from_a_pipe_is_kept_in_a_file_of_its_own(agm: Run, file: Path) -> None:
    """The configuration names the file, and the gateway takes it."""
    status, out, err = agm("account", "add", "work", stdin=f"  {KEY}\n".encode())
    key = file.parent / "keys" / "work.key"
    assert (status, out) == (0, f"added work (api-key) to {file}\n")
    assert err == f"its secret is in {key}, which you alone can read\n"
    (account,) = config(file).accounts
    assert account.api_key is not None
    assert (account.name, account.kind, account.api_key.reveal()) == ("work", "api-key", KEY)
    assert (key.read_text(), mode(key), mode(key.parent)) == (f"{KEY}\n", 0o600, 0o700)
    assert KEY not in file.read_text()
    assert 'api_key_file = "keys/work.key" #' in file.read_text()


def test_a_link_to_the_configuration_keeps_keys_beside_the_link(agm: Run, file: Path, home: Path) -> None:
    """A folder of shared dotfiles is no place for keys; the whole path is right from either side."""
    (home / "dotfiles").mkdir()
    file.parent.mkdir()
    file.symlink_to(home / "dotfiles" / "agm.toml")
    assert agm("account", "add", "work", stdin=KEY.encode())[0] == 0
    assert (home / "agm" / "keys" / "work.key").exists()
    assert "keys" not in os.listdir(home / "dotfiles")
    for path in (file, home / "dotfiles" / "agm.toml"):
        assert len(config(path).accounts) == 1
    assert agm("account", "remove", "work", "--yes")[0] == 0
    assert os.listdir(home / "agm" / "keys") == []


def test_every_option_reaches_the_file(agm: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One account of each kind."""
    monkeypatch.setenv("WORK_KEY", KEY)
    models = ("--model", "gemini-*", "--model", "imagen-*")
    endpoints = ("--endpoint", "https://a.example", "--endpoint", "https://b.example/x")
    assert agm("account", "add", "one", "--api-key-env", "WORK_KEY", *models, *endpoints)[0] == 0
    cloud = ("--kind", "vertex", "--credentials", "adc", "--project", "p-1", "--location", "us-central1")
    assert agm("account", "add", "two", *cloud)[0] == 0
    team = ("--kind", "code-assist", "--credentials", "adc", "--i-have-a-licence")
    status, _, err = agm("account", "add", "three", *team)
    assert status == 0
    assert "licence for Code Assist" in err
    one, two, three = config(file).accounts
    assert one.models == ("gemini-*", "imagen-*")
    assert one.endpoints == ("https://a.example", "https://b.example/x")
    assert (two.kind, two.credentials, two.project, two.location) == ("vertex", "adc", "p-1", "us-central1")
    assert (three.kind, three.credentials, three.project) == ("code-assist", "adc", None)


def test_files_are_named_from_where_the_person_stands(agm: Run, file: Path, home: Path) -> None:
    """In the configuration relative paths start at its own folder."""
    (home / "key.txt").write_text(KEY)
    login(home / "sa.json", SERVICE_ACCOUNT)
    assert agm("account", "add", "one", "--api-key-file", "key.txt")[0] == 0
    express = ("--kind", "vertex", "--api-key-file", "key.txt")
    assert agm("account", "add", "two", *express)[0] == 0
    cloud = ("--kind", "vertex", "--credentials", "sa.json", "--project", "p")
    assert agm("account", "add", "three", *cloud)[0] == 0
    assert [account.credentials for account in config(file).accounts] == [None, None, str(home / "sa.json")]
    assert not (file.parent / "keys").exists()


def test_a_variable_that_is_not_set_is_a_warning(agm: Run, file: Path) -> None:
    """The gateway may have it."""
    status, _, err = agm("account", "add", "work", "--api-key-env", "WORK_KEY")
    assert status == 0
    assert err.startswith("warning: ")
    assert "WORK_KEY is not set" in err
    assert config(file).accounts[0].name == "work"


def test_code_assist_asks_for_the_word_that_it_is_licensed(agm: Run, file: Path) -> None:
    """Nothing is written without it."""
    status, out, err = agm("account", "add", "team", "--kind", "code-assist", "--credentials", "adc")
    assert (status, out, file.exists()) == (1, "", False)
    assert "its terms forbid" in err
    assert err.rstrip().splitlines()[-1].startswith("If the account is licensed, say so with --i-have-a-licence.")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("work", "--kind", "vertex"), "needs --credentials adc|FILE, or one of --api-key-env"),
        (("work", "--kind", "code-assist"), "needs --credentials adc|FILE\n"),
        (("work", "--set", "region"), "--set takes KEY=VALUE"),
        (("work", "--api-key-env", "A", "--credentials", "adc"), "not allowed with"),
        (("work", KEY), "more arguments than this command takes;"),
        (("work", "--api-key", KEY), "takes, among them --api-key;"),
        (("work", f"--api-key={KEY}"), "takes, among them --api-key;"),
        ((), "required: NAME"),
    ],
)
def test_arguments_that_cannot_be_meant_are_usage_errors(
    agm: Run, file: Path, argv: tuple[str, ...], message: str
) -> None:
    """Status 2; a key among them is not shown again."""
    status, out, err = agm("account", "add", *argv)
    assert (status, out, file.exists()) == (2, "", False)
    assert message in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("a b",), "accounts[0].name: 'a b' is not a name"),
        (("../x",), "accounts[0].name: '../x' is not a name"),
        ((KEY,), "this is an API key, not a name"),
        (("work", "--project", "p"), "an api-key account takes no project"),
        (("work", "--endpoint", "http://a.example"), "write https"),
        (("work", "--api-key-env", KEY), "not the key itself"),
        (("work", "--api-key-file", KEY), "--api-key-file: the file cannot be read: No such file or directory"),
        (("work", "--api-key-file", "x\0"), "no file can have this name"),
        (("work", "--credentials", "nowhere.json"), "--credentials: the file cannot be read"),
        (("work", "--credentials", "adc"), "an api-key account takes no credentials"),
        (("work", "--kind", "vertex", "--credentials", "adc"), "project: is missing"),
    ],
)
def test_what_the_gateway_would_refuse_is_refused_before_a_key_is_asked_for(
    agm: Run, file: Path, argv: tuple[str, ...], message: str
) -> None:
    """Status 1, the problem on standard error, no file and no folder."""
    status, out, err = agm("account", "add", *argv, stdin=b"")
    assert (status, out, file.parent.exists()) == (1, "", False)
    assert message in err
    assert "no key was given" not in err


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"", "no key was given; nothing was changed\n"),
        (b" \n", "no key was given; nothing was changed\n"),
        (b"canary 1\n", "holds a space"),
        (b"canary\xff", "holds a space"),
        (b'{"type": "canary"}', "a google-auth file belongs in credentials"),
        (b'"canary-1"', "has quotes around the key"),
        (b"GEMINI_API_KEY=canary-1\n", "begins with a name and '='"),
    ],
)
def test_what_is_no_key_is_refused(agm: Run, file: Path, home: Path, stdin: bytes, message: str) -> None:
    """And not kept; nor is a file referred to that holds it."""
    status, _, err = agm("account", "add", "work", stdin=stdin)
    assert (status, file.exists()) == (1, False)
    assert message in err
    assert not (file.parent / "keys" / "work.key").exists()
    if stdin.strip():
        (home / "key.txt").write_bytes(stdin)
        status, _, err = agm("account", "add", "work", "--api-key-file", "key.txt")
        assert (status, file.exists(), message in err) == (1, False, True)


def test_a_name_that_is_taken_is_refused(agm: Run, file: Path) -> None:
    """The account that is there, and its key, stay."""
    agm("account", "add", "work", stdin=KEY.encode())
    before = file.read_text()
    status, _, err = agm("account", "add", "work", stdin=b"other")
    assert (status, file.read_text()) == (1, before)
    assert err == "there is an account 'work' already; choose another name, or remove it first\n"
    assert (file.parent / "keys" / "work.key").read_text() == f"{KEY}\n"


def test_comments_and_order_stay(agm: Run, file: Path) -> None:
    """People write their files by hand too."""
    file.parent.mkdir()
    text = '# mine\n[pool] # few\nmax_attempts = 2\n\n# accounts\n[[accounts]]\nname = "a" # first\n'
    text += 'kind = "vertex"\ncredentials = "adc"\nproject = "p"\n\n# rest\n[plugins]\nload = []\n'
    file.write_text(text)
    file.chmod(0o644)
    assert agm("account", "add", "work", stdin=KEY.encode())[0] == 0
    assert agm("account", "disable", "a")[0] == 0
    assert agm("account", "enable", "a")[0] == 0
    assert agm("account", "remove", "work", "--yes")[0] == 0
    assert file.read_text() == text.replace('project = "p"\n', 'project = "p"\nenabled = true\n')
    assert mode(file) == 0o644


def test_a_key_file_that_another_user_would_have_to_read_is_told(agm: Run, file: Path) -> None:
    """Where others read the configuration, the gateway may be one of them; the key is its owner's alone."""
    file.parent.mkdir()
    file.write_text("")
    file.chmod(0o644)
    status, _, err = agm("account", "add", "work", stdin=KEY.encode())
    assert status == 0
    assert err.endswith("if the gateway runs as another user, chown it to that user\n")
    assert mode(file.parent / "keys" / "work.key") == 0o600


# -- a terminal --------------------------------------------------------------------------------------


def at_a_terminal(argv: list[str], keys: bytes, wait_for: bytes) -> tuple[int, bytes]:
    """Run ``python -m agm`` at a terminal of its own, type ``keys`` at the prompt; status and all that was shown."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - another program from here on
        os.execv(sys.executable, [sys.executable, "-m", "agm", *argv])
    shown, typed = b"", False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            if typed:  # Ctrl-C right before Python begins to wait interrupts nothing: a person presses it again
                os.write(terminal, keys)
            continue
        try:
            data = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not data:
            break
        shown += data
        if not typed and wait_for in shown:
            os.write(terminal, keys)
            typed = True
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


@pytest.mark.process
def test_a_key_that_is_typed_is_not_shown(file: Path) -> None:
    """The terminal shows the prompt and the result, and no letter of the key."""
    status, shown = at_a_terminal(["account", "add", "work"], f"{KEY}\n".encode(), b"API key of work")
    assert status == 0, shown
    assert b"(it is not shown): " in shown
    assert b"added work (api-key)" in shown
    assert b"Canary" not in shown
    assert b"AIza" not in shown
    (account,) = config(file).accounts
    assert account.api_key is not None
    assert account.api_key.reveal() == KEY


@pytest.mark.parametrize("keys", [b"\x03", b"\x04", b"\n"], ids=["Ctrl-C", "Ctrl-D", "Enter"])
@pytest.mark.process
def test_a_person_can_leave_the_prompt(file: Path, keys: bytes) -> None:
    """Without a traceback, and with nothing changed."""
    status, shown = at_a_terminal(["account", "add", "work"], keys, b"API key of work")
    assert (status, file.exists()) == (1, False)
    assert b"no key was given; nothing was changed" in shown
    assert b"Traceback" not in shown


@pytest.mark.process
def test_a_person_is_asked_before_an_account_is_removed(agm: Run, file: Path) -> None:
    """Ctrl-C is a no, and so is Enter alone."""
    agm("account", "add", "work", stdin=KEY.encode())
    for keys in (b"\x03", b"\n"):
        status, shown = at_a_terminal(["account", "remove", "work"], keys, b"[y/N]")
        assert status == 1, shown
        assert b"not removed" in shown
        assert b"Traceback" not in shown
    assert len(config(file).accounts) == 1
    assert at_a_terminal(["account", "remove", "work"], b"y\n", b"[y/N]")[0] == 0
    assert config(file).accounts == ()


class Terminal(io.StringIO):
    """Standard input that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("raised", "message"),
    [("warning", "this terminal would show the key"), ("interrupt", "no key was given"), ("none", "added work")],
)
def test_however_the_prompt_ends(
    raised: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    """A terminal whose echo cannot be turned off is refused: getpass alone would warn, and show the key."""
    import getpass
    import warnings

    def ask(prompt: str) -> str:
        if raised == "warning":
            warnings.warn("cannot control echo", getpass.GetPassWarning, stacklevel=1)
        if raised == "interrupt":
            raise KeyboardInterrupt
        return KEY

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(getpass, "getpass", ask)
    assert main(["account", "add", "work"]) == (0 if raised == "none" else 1)
    output = capsys.readouterr()
    assert message in output.out + output.err
    assert file.exists() == (raised == "none")


def test_ctrl_c_at_the_question_is_a_no(
    agm: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    """As at the prompt for a key."""

    class Interrupted(Terminal):
        def readline(self, size: int | None = -1, /) -> str:
            raise KeyboardInterrupt

    agm("account", "add", "work", stdin=KEY.encode())
    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert main(["account", "remove", "work"]) == 1
    assert capsys.readouterr().err.endswith("[y/N] \nnot removed; nothing was changed\n")


@pytest.mark.process
def test_a_fresh_process_does_the_same(file: Path) -> None:
    """`python -m agm`, from a shell, with the umask wide open."""

    def run(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return run_process(
            [sys.executable, "-m", "agm", "account", *argv],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            umask=0,
        )

    added = run("add", "work", stdin=f"{KEY}\n")
    assert (added.returncode, added.stdout) == (0, f"added work (api-key) to {file}\n")
    key = file.parent / "keys" / "work.key"
    assert [mode(each) for each in (file, key, file.parent, key.parent)] == [0o600, 0o600, 0o700, 0o700]
    listed = run("list", "--json", "--offline")
    assert [account["name"] for account in json.loads(listed.stdout)] == ["work"]
    assert run("remove", "wrk", "--yes").stderr == "no account of this name; did you mean 'work'?\n"
    assert KEY not in added.stdout + added.stderr + listed.stdout + listed.stderr


# -- import ------------------------------------------------------------------------------------------

SERVICE_ACCOUNT = {
    "type": "service_account",
    "project_id": "project-a",
    "client_email": "gateway@project-a.iam.gserviceaccount.com",
    "private_key": "-----BEGIN PRIVATE KEY-----\ncanary\n",
    "token_uri": "https://oauth2.googleapis.com/token",
}
USER = {
    "type": "authorized_user",
    "client_id": "id",
    "client_secret": "canary",
    "refresh_token": "canary",
    "account": "",
    "quota_project_id": "project-b",
}


def login(path: Path, held: object) -> Path:
    """A file for its owner alone."""
    path.write_text(json.dumps(held))
    path.chmod(0o600)
    return path


def test_a_service_account_brings_its_name_and_project(agm: Run, file: Path, home: Path) -> None:
    """The file stays where it is."""
    source = login(home / "sa.json", SERVICE_ACCOUNT)
    assert agm("account", "import", "sa.json") == (0, f"added gateway (vertex) to {file}\n", "")
    (account,) = config(file).accounts
    assert (account.name, account.kind, account.project) == ("gateway", "vertex", "project-a")
    assert account.credentials == str(source)
    assert "canary" not in file.read_text()


def test_a_users_login_brings_its_project(agm: Run, file: Path, home: Path) -> None:
    """gcloud's file names an account at most; what is given goes before what is in the file."""
    login(home / "application default.json", USER)
    login(home / "named.json", {**USER, "account": "me+work@example.com", "quota_project_id": None})
    assert agm("account", "import", "application default.json", "--location", "us-central1")[0] == 0
    assert agm("account", "import", "named.json", "--project", "mine")[0] == 0
    assert agm("account", "import", "named.json", "--project", "mine", "--name", "third")[0] == 0
    accounts = config(file).accounts
    assert [(account.name, account.project) for account in accounts] == [
        ("project-b", "project-b"),
        ("me-work", "mine"),
        ("third", "mine"),
    ]
    assert accounts[0].location == "us-central1"


def test_a_code_assist_login_needs_no_project(agm: Run, file: Path, home: Path) -> None:
    """But the word that it is licensed."""
    login(home / "team login.json", {**USER, "quota_project_id": None})
    team = ("account", "import", "team login.json", "--kind", "code-assist")
    assert agm(*team)[0] == 1
    assert agm(*team, "--i-have-a-licence")[0] == 0
    (account,) = config(file).accounts
    assert (account.name, account.kind, account.project) == ("team-login", "code-assist", None)


def test_a_copy_is_for_the_owner_alone_and_goes_with_the_account(agm: Run, file: Path, home: Path) -> None:
    """The file that it was made from stays."""
    source = login(home / "sa.json", SERVICE_ACCOUNT)
    source.chmod(0o644)
    assert agm("account", "import", str(source), "--copy", "--name", "cloud")[0] == 0
    copy = file.parent / "keys" / "cloud.json"
    assert (copy.read_bytes(), mode(copy)) == (source.read_bytes(), 0o600)
    assert config(file).accounts[0].credentials == str(copy)
    assert agm("account", "remove", "cloud", "--yes")[0] == 0
    assert (copy.exists(), source.exists()) == (False, True)


def test_a_login_that_others_can_read_is_warned_of(
    agm: Run, file: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is not ours to change.  `~` is a home folder even where the shell leaves it."""
    monkeypatch.setenv("HOME", str(home))
    login(home / "sa.json", SERVICE_ACCOUNT).chmod(0o640)
    status, _, err = agm("account", "import", "~/sa.json")
    assert status == 0
    said = f"accounts[0].credentials: '{home}/sa.json' holds secrets, and others than its owner can read it"
    assert err == f"warning: {file}: {said}; chmod 600 {home}/sa.json\n"


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (
            {"access_token": "canary", "refresh_token": "canary", "expiry_date": 1},
            "no type, client_id and client_secret",
        ),
        ({"installed": {"client_id": "x", "client_secret": "canary"}}, "describes an OAuth client"),
        ({"type": "canary"}, "type is none of service_account, authorized_user"),
        ({"type": ["canary"]}, "type is none of service_account"),
        ({**SERVICE_ACCOUNT, "private_key": 1}, "of type service_account, but has no private_key"),
        ({"type": "authorized_user"}, "has no client_id and no client_secret and no refresh_token"),
        ({**USER, "quota_project_id": None}, "names no project, which a vertex account needs; give --project"),
        (["canary"], "is not a JSON object"),
    ],
)
def test_what_is_no_login_is_refused_with_the_reason(
    agm: Run, file: Path, home: Path, held: object, message: str
) -> None:
    """Above all what gemini-cli keeps, which looks like one."""
    login(home / "login.json", held)
    status, out, err = agm("account", "import", "login.json")
    assert (status, out, file.exists()) == (1, "", False)
    assert err.startswith("login.json: ")
    assert message in err


@pytest.mark.parametrize("content", [b"canary", b"\xff", b"[" * 100_000, b" " * (2**20 + 1)])
def test_what_is_not_json_is_refused(agm: Run, home: Path, content: bytes) -> None:
    """Without a traceback."""
    (home / "login.json").write_bytes(content)
    status, _, err = agm("account", "import", "login.json")
    assert status == 1
    assert len(err.splitlines()) == 1


# -- list, enable, disable, remove -------------------------------------------------------------------

SEVERAL = """
[[accounts]]
name = "one"
kind = "api-key"
api_key = "canary"
[[accounts]]
name = "two"
kind = "vertex"
credentials = "adc"
project = "p"
models = ["gemini-*", "imagen-*"]
enabled = false
[[accounts]]
name = "three"
kind = "code-assist"
credentials = "/elsewhere/login.json"
[[accounts]]
name = "four"
kind = "api-key"
api_key_env = "NOT_SET_ANYWHERE"
"""


@pytest.fixture
def several(file: Path) -> Path:
    """A file with an account of each kind."""
    file.parent.mkdir()
    file.write_text(SEVERAL)
    file.chmod(0o600)
    return file


def test_the_list_shows_accounts_and_no_secrets(agm: Run, several: Path) -> None:
    """How an account is let in, not by what; a variable that is not set here is no obstacle."""
    assert agm("account", "list") == (
        0,
        "NAME   KIND         CREDENTIAL   PROJECT  LOCATION  MODELS             ENABLED\n"
        "one    api-key      api_key      -        -         *                  yes\n"
        "two    vertex       adc          p        global    gemini-* imagen-*  no\n"
        "three  code-assist  credentials  -        -         *                  yes\n"
        "four   api-key      api_key_env  -        -         *                  yes\n"
        "three: off: the credentials file 'login.json' cannot be read: No such file or directory; put the login there\n"
        "four: off: the environment variable NOT_SET_ANYWHERE is not set; write export NOT_SET_ANYWHERE=…"
        " before the start\n",
        "",
    )


def test_the_list_as_json(agm: Run, several: Path) -> None:
    """For other programs."""
    status, out, err = agm("account", "list", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)[1] == {
        "name": "two",
        "kind": "vertex",
        "credential": "adc",
        "project": "p",
        "location": "global",
        "models": ["gemini-*", "imagen-*"],
        "enabled": False,
        "unusable": None,
    }
    assert "NOT_SET_ANYWHERE is not set" in json.loads(out)[3]["unusable"]


def test_an_empty_list_says_what_to_do(agm: Run) -> None:
    """On standard error; the JSON is an empty array."""
    assert agm("account", "list") == (0, "", "no accounts; `agm account add NAME` adds one\n")
    assert agm("account", "list", "--json") == (0, "[]\n", "")


@pytest.mark.parametrize(
    "argv", [("list",), ("enable", "one"), ("disable", "one"), ("remove", "one"), ("add", "x"), ("import", "sa.json")]
)
def test_a_file_that_the_gateway_refuses_is_told(agm: Run, several: Path, home: Path, argv: tuple[str, ...]) -> None:
    """In the words of `agm config check`."""
    login(home / "sa.json", SERVICE_ACCOUNT)
    several.write_text("[pool]\nmax_attempts = 99\n" + SEVERAL)
    status, out, err = agm("account", *argv, stdin=b"y")
    assert (status, out) == (1, "")
    assert f"{several}: pool.max_attempts: 99 is not between 1 and 10\n" in err or argv == ("enable", "one")


def test_accounts_are_switched(agm: Run, several: Path) -> None:
    """Twice is as good as once."""
    for _ in range(2):
        assert agm("account", "disable", "one") == (0, "one is disabled\n", "")
        status, out, _ = agm("account", "enable", "two")
        assert (status, out.splitlines()[0]) == (0, "two is enabled")
    assert [account.enabled for account in load(several, environ={"NOT_SET_ANYWHERE": "k"}).accounts] == [
        False,
        True,
        True,
        True,
    ]


def test_an_account_that_lacks_its_variable_is_enabled_with_a_warning(agm: Run, several: Path) -> None:
    """And disabled without one."""
    assert agm("account", "disable", "four") == (0, "four is disabled\n", "")
    status, out, err = agm("account", "enable", "four")
    assert (status, out) == (0, "four is enabled\n")
    assert "NOT_SET_ANYWHERE is not set" in err


@pytest.mark.parametrize("command", ["enable", "disable", "remove"])
def test_a_name_that_is_not_there_gets_the_nearest(agm: Run, several: Path, command: str) -> None:
    """Before anything is asked."""
    assert agm("account", command, "thre") == (1, "", "no account of this name; did you mean 'three'?\n")
    assert agm("account", command, KEY)[0] == 1
    assert several.read_text() == SEVERAL
    several.unlink()
    assert agm("account", command, "one") == (1, "", "no account of this name; there is none at all\n")


def test_removing_asks_unless_told_not_to(agm: Run, several: Path) -> None:
    """Whatever is no yes is a no."""
    for answer in (b"", b"n\n", b"maybe\n"):
        status, out, err = agm("account", "remove", "one", stdin=answer)
        assert (status, out) == (1, "")
        assert err == f"Remove the account one from {several}? [y/N] not removed; nothing was changed\n"
    assert several.read_text() == SEVERAL
    status, out, _ = agm("account", "remove", "one", stdin=b"y\n")
    assert (status, out) == (0, f"removed one from {several}\n")
    assert agm("account", "remove", "three", "--yes")[:2] == (0, f"removed three from {several}\n")
    assert [account.name for account in load(several, environ={"NOT_SET_ANYWHERE": "k"}).accounts] == ["two", "four"]


def test_a_key_file_goes_with_its_account_only_if_agm_wrote_it_for_that_one(agm: Run, file: Path) -> None:
    """A person's own file, and one that another account uses too, stay."""
    keys = file.parent / "keys"
    for name in ("one", "two"):
        agm("account", "add", name, stdin=KEY.encode())
    (keys / "own.key").write_text(KEY)
    agm("account", "add", "own", "--api-key-file", str(keys / "own.key"))
    agm("account", "add", "guest", "--api-key-file", str(keys / "two.key"))
    assert agm("account", "remove", "one", "--yes")[2] == ""
    for name in ("two", "own"):
        status, _, err = agm("account", "remove", name, "--yes")
        assert (status, err) == (0, f"{keys / name}.key stays: agm did not write it, or another account uses it\n")
    assert sorted(os.listdir(keys)) == ["own.key", "two.key"]


def test_a_key_file_that_cannot_be_removed_is_told(agm: Run, file: Path) -> None:
    """The account is gone, the secret is not."""
    agm("account", "add", "one", stdin=KEY.encode())
    key = file.parent / "keys" / "one.key"
    text = file.read_text()
    key.unlink()
    key.mkdir()
    file.write_text(text + "enabled = false\n")
    status, out, err = agm("account", "remove", "one", "--yes")
    assert (status, out) == (1, f"removed one from {file}\n")
    assert err.startswith(f"{key}: cannot be removed: ")
    assert err.endswith("; it still holds the secret\n")


def test_another_file_is_named_by_option_or_variable(agm: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made if it is not there, with its keys beside it."""
    other = home / "deep" / "er" / "other.toml"
    assert agm("account", "add", "one", "--config", str(other), stdin=KEY.encode())[0] == 0
    monkeypatch.setenv("AGM_CONFIG", str(other))
    assert agm("account", "add", "two", stdin=KEY.encode())[0] == 0
    assert len(config(other).accounts) == 2
    assert sorted(os.listdir(other.parent / "keys")) == ["one.key", "two.key"]
    status, _, err = agm("account", "list", "--config", str(home / "missing.toml"))
    assert status == 1
    assert "--config names it" in err


@pytest.mark.parametrize("command", ["add", "import", "list", "enable", "disable", "remove"])
def test_each_help_has_an_example(agm: Run, command: str) -> None:
    """To copy from."""
    status, out, _ = agm("account", command, "--help")
    assert status == 0
    assert f"example:\n  agm account {command}" in out


def test_keys_in_the_environment_are_imported_by_their_variables(
    agm: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key once, and none of them in the file."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("GOOGLE_API_KEY", KEY + "2")
    assert agm("account", "import", "--from-environment")[0] == 0
    accounts = load(file, environ=os.environ).accounts
    assert [(account.name, account.kind) for account in accounts] == [
        ("gemini-api-key", "api-key"),
        ("google-api-key", "api-key"),
    ]
    assert KEY not in file.read_text(encoding="utf-8")
    assert agm("account", "import", "--from-environment", "--name", "one")[0] == 1
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    assert agm("account", "import", "--from-environment", "--name", "one")[0] == 0
    assert load(file, environ=os.environ).accounts[-1].name == "one"


def test_what_to_import_must_be_said(agm: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or the environment, not both; and there must be something there."""
    for variable in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    assert agm("account", "import")[0] == 2
    assert agm("account", "import", "x.json", "--from-environment")[0] == 2
    status, _, messages = agm("account", "import", "--from-environment")
    assert status == 1
    assert "neither of GEMINI_API_KEY and GOOGLE_API_KEY is set here" in messages
    assert not file.exists()

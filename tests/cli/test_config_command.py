"""``agm config``: what it says about good files, bad files and none."""

from pathlib import Path

import pytest

from agm.cli import main
from tests.upstream.certificates import TestAuthority


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of the test's own, and no ``AGM_CONFIG``: the developer's file plays no part."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("AGM_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def file(home: Path) -> Path:
    """The file that is found when none is named; its folder is there."""
    (home / "agm").mkdir()
    return home / "agm" / "agm.toml"


def test_check_counts_what_a_good_file_holds(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line to compare with what was meant."""
    file.write_text(
        """
        [[auth.keys]]
        name = "laptop"
        key = "k"
        [models.aliases]
        a = "m"
        b = "m"
        [[accounts]]
        name = "one"
        kind = "code-assist"
        credentials = "adc"
        [[accounts]]
        name = "two"
        kind = "api-key"
        api_key_env = "NOT_SET"
        enabled = false
        """
    )
    file.chmod(0o600)
    assert main(["config", "check"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{file}: ok: 2 accounts (1 disabled), 1 client key, 2 aliases, 0 warnings\n"
    assert output.err == ""


def test_check_prints_warnings_and_still_succeeds(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The gateway would start."""
    file.write_text('[[auth.keys]]\nname = "laptop"\nkey = "k"')
    file.chmod(0o644)
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: ok: 0 accounts, 1 client key, 0 aliases, 1 warning",
        f"warning: {file}: holds secrets, and others than its owner can read it; chmod 600 {file}",
    ]


def test_check_prints_a_line_for_each_problem_and_fails(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard error, so that nothing in a pipe takes them for output."""
    other = file.with_name("other.toml")
    other.write_text('[pool]\nmax_attempts = 99\n[gateway]\nmax_bdy = "1MiB"')
    monkeypatch.setenv("AGM_CONFIG", str(other))
    assert main(["config", "check"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        f"{other}: pool.max_attempts: 99 is not between 1 and 10",
        f"{other}: gateway.max_bdy: unknown key; did you mean 'max_body'?",
    ]


def test_check_reads_the_environment(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the gateway would find if it were started from the same shell."""
    file.write_text('[[accounts]]\nname = "a"\nkind = "api-key"\napi_key_env = "AGM_TEST_KEY"')
    file.chmod(0o600)
    monkeypatch.delenv("AGM_TEST_KEY", raising=False)
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: ok: 1 account (1 off), 0 client keys, 0 aliases, 1 warning",
        f"warning: {file}: accounts[0].api_key_env: the environment variable AGM_TEST_KEY is not set; "
        "write export AGM_TEST_KEY=… before the start; until then 'a' is off",
    ]
    monkeypatch.setenv("AGM_TEST_KEY", "k")
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == f"{file}: ok: 1 account, 0 client keys, 0 aliases, 0 warnings\n"


def test_check_says_what_a_start_would_of_listeners_and_plugins(
    file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each at its key; nothing is listened on, and no plugin is loaded."""
    (file.parent / "cert.pem").write_bytes(TestAuthority().pem)
    plugins = file.parent / "plugins"
    plugins.mkdir()
    plugins.chmod(0o775)
    (plugins / "one.py").write_text("raise SystemExit('loaded')")
    file.write_text(
        '[gateway]\nlisten = ["tcp:none", "ssl:0:privateKey=key.pem:certKey=cert.pem", "unix:agm.sock",'
        ' "carrier:port=80", "systemd:domain=INET:index=0", "unix:nowhere/agm.sock"]\n[plugins]\npath = "plugins"\n'
    )
    assert main(["config", "check"]) == 1
    first, second, third, socket, fourth = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{file}: gateway.listen[0]: 'tcp:none' is not a server endpoint: ")
    assert second.startswith(f"{file}: gateway.listen[1]: 'ssl:0:")
    assert second.endswith(f"privateKey '{file.parent}/key.pem' cannot be read: No such file or directory")
    why = "no package that is installed has endpoints of the kind carrier"
    assert third == f"{file}: gateway.listen[3]: 'carrier:port=80': {why}"
    place = file.parent / "nowhere"
    assert socket.startswith(f"{file}: gateway.listen[5]: 'unix:{place}/agm.sock'")
    assert socket.endswith(f": {place} is no folder; create it, or name another")
    assert fourth == (
        f"{file}: plugins.path: [plugins] path: others than its owner can change {plugins}, and so what the gateway "
        f"does; chmod go-w {plugins}"
    )


def test_check_loads_the_plugins_that_a_start_would(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is not there keeps the gateway from starting."""
    file.write_text('[plugins]\nload = ["no_such_plugin_anywhere"]\n')
    assert main(["config", "check"]) == 1
    assert "no_such_plugin_anywhere" in capsys.readouterr().err


def test_check_says_what_clients_will_have_against_a_certificate(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files are named relative to the configuration, wherever the command runs."""
    pem, key = TestAuthority().server_pem("localhost", until=3)
    (file.parent / "cert.pem").write_bytes(pem + TestAuthority().pem)
    (file.parent / "key.pem").write_bytes(key)
    file.write_text('[gateway]\nlisten = ["ssl:8443:privateKey=key.pem:certKey=cert.pem"]\n')
    assert main(["config", "check"]) == 0
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1
    assert warned[0].startswith(f"warning: {file.parent}/cert.pem: the certificate ends in 2 days; renew it")


def test_check_without_a_file_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file is no problem, but a person who has written one wants to know that it was not found."""
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{home}/agm/agm.toml: no such file; without one the defaults hold",
        "ok: 0 accounts, 0 client keys, 0 aliases, 0 warnings",
    ]


def test_path_prints_the_file_that_is_used_or_would_be(
    home: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, for an editor to open; what the file holds plays no part."""
    assert main(["config", "path"]) == 0
    other = home / "other.toml"
    other.write_text("not toml")
    assert main(["config", "path", "--config", str(other)]) == 0
    assert capsys.readouterr().out == f"{file}\n{other}\n"

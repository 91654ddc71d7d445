"""``agm plugin new``: what it refuses, and that what it writes can be installed, tested and served with as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from agm.cli import main
from agm.cli.plugin import project
from testbed.processes import BIN, Twistd, environment, get, post, run_outside

ROOT = Path(__file__).parents[2]
#: In one process of pytest-xdist, since what these tests share takes long to make.
once = pytest.mark.xdist_group("plugin")
ASK = json.dumps({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}).encode()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_project_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "new", "night-shift", "--dir", str(tmp_path)]) == 0
    folder = tmp_path / "agm-night-shift"
    said = capsys.readouterr()
    assert said.out == f"wrote {folder}\n"
    assert "twistd -n agm --demo" in said.err
    assert files(folder) == {
        "pyproject.toml",
        "agm_night_shift.py",
        "tests/test_agm_night_shift.py",
        "README.md",
        ".gitignore",
    }
    described = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    assert described["project"]["name"] == "agm-night-shift"
    assert described["project"]["entry-points"]["agm"] == {"night-shift": "agm_night_shift"}


@pytest.mark.parametrize("name", ["x", "night-shift", "a1-2-b3", "class"])
def test_nothing_of_the_pattern_is_left_in_a_project(name: str) -> None:
    text = "".join(project(name).values())
    assert "NAME" not in text
    assert "MODULE" not in text
    assert f"[plugins.{name}]" in text


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("Night_Shift", "night-shift"),
        ("nightShift", "night-shift"),
        ("night shift", "night-shift"),
        ("my.plugin", "my-plugin"),
        ("agm-night", "night"),
        ("agm_night", "night"),
        ("../night", "night"),
        ("9lives", "lives"),
        ("a--b", "a-b"),
        ("a-", "a"),
        ("x" * 51, "x" * 50),
        ("load", "my-load"),
        ("path", "my-path"),
        ("timeout", "my-timeout"),
        ("é", None),
        ("", None),
        ("a\n", "a"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_with_one_that_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, cure: str | None
) -> None:
    assert main(["plugin", "new", name, "--dir", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert (f"try `agm plugin new {cure}`" in said) if cure is not None else ("try" not in said)
    assert not list(tmp_path.iterdir())
    if cure is not None:
        assert main(["plugin", "new", cure, "--dir", str(tmp_path)]) == 0


@pytest.mark.parametrize("there", ["folder", "file", "link"])
def test_what_is_there_already_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str) -> None:
    folder = tmp_path / "agm-x"
    match there:
        case "folder":
            folder.mkdir()
        case "file":
            folder.write_text("mine")
        case "link":
            folder.symlink_to(tmp_path / "nowhere")
    assert main(["plugin", "new", "x", "--dir", str(tmp_path)]) == 1
    assert "is there already; choose another name or --dir" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["agm-x"]


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "new", "x", "--dir", str(tmp_path / "typo")]) == 1
    assert "make it first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# The whole way, once


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new environment in which agm and a generated plugin are installed from their sources."""
    folder = tmp_path_factory.mktemp("plugin")
    assert main(["plugin", "new", "night-shift", "--dir", str(folder)]) == 0
    source = folder / "agm"
    for name in ("agm", "twisted"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    (source / "docs").mkdir()
    shutil.copyfile(ROOT / "docs" / "agm.1", source / "docs" / "agm.1")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    # What both need is taken from where these tests run, so that only setuptools is fetched.  An editable agm that is
    # there is not visible by this: no path file is read from it.
    packages = Path(
        run_outside(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run_outside(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--ignore-installed", source, folder / "agm-night-shift"),
        cwd=folder,
    )
    return folder / "venv" / "bin"


@once
@pytest.mark.process
@pytest.mark.slow
def test_the_tests_of_a_new_plugin_pass_where_it_is_installed(commands: Path) -> None:
    folder = commands.parents[1] / "agm-night-shift"
    ask = "import agm, agm_night_shift; print(agm.__file__, agm_night_shift.__file__)"
    where = run_outside(commands / "python", "-c", ask, cwd=folder.parent)
    assert where.count(str(commands.parent)) == 2
    assert "3 passed" in run_outside(commands / "python", "-m", "pytest", "-p", "no:cacheprovider", cwd=folder)


@pytest.mark.slow
@once
@pytest.mark.process
def test_twistd_serves_with_a_new_plugin_and_agm_shows_it(commands: Path, tmp_path: Path) -> None:
    python = commands / "python"
    config = tmp_path / "agm.toml"
    config.write_text('[plugins.night-shift]\nmodel = "gemini-2.5-pro"\n')
    with (tmp_path / "stdout").open("wb") as out, (tmp_path / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [python, BIN / "twistd", "-n", "--pidfile=", "agm", "--demo", "--port", "0", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=tmp_path,
            env=environment(tmp_path),
        )
    twistd = Twistd(process, tmp_path)
    try:
        url = twistd.url()
        client, answer = post(url, "/v1beta/models/night-shift-one:generateContent", ASK)
        assert answer.status == 200
        assert json.loads(answer.read())["modelVersion"] == "gemini-2.5-pro"
        client.close()
        twistd.until_logged("night-shift: somebody asked for night-shift-one, served by gemini-2.5-pro: 200")
        status, body = get(url, "/_agm/plugins")
        assert status == 200
        assert json.loads(body)["plugins"][0]["name"] == "night-shift"
        listed = run_outside(commands / "agm", "plugins", "--url", url, cwd=tmp_path).splitlines()
        assert listed[1].split() == [
            "night-shift",
            "0.1.0",
            "installed",
            "agm_night_shift",
            "of",
            "agm-night-shift",
            "0",
        ]
        assert "agm_map_model          night-shift, agm.defaults.aliases" in listed
        explained = run_outside(commands / "agm", "explain", "night-shift-one", "--url", url, cwd=tmp_path)
        assert "night-shift-one → gemini-2.5-pro: agm-night-shift serves it [night-shift]" in explained
        assert twistd.stop() == 0
    finally:
        twistd.kill()

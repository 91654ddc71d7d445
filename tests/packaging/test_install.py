"""The project as it is installed: from a wheel that was built from the sdist, and in editable mode."""

from __future__ import annotations

import shutil
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import agm
from testbed.processes import get, run_outside, running

ROOT = Path(__file__).parents[2]
_NOT_SOURCE = shutil.ignore_patterns(
    ".*", "*.egg-info", "__pycache__", "build", "dist", "node_modules", "dropin.cache", "htmlcov"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, without anything that was built."""
    copy = tmp_path_factory.mktemp("source") / "agm"
    shutil.copytree(ROOT, copy, ignore=_NOT_SOURCE)
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an sdist, and of a wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run_outside(sys.executable, "-m", "build", "--outdir", str(folder), str(source), cwd=folder)
    return folder


@pytest.fixture(scope="module", params=["wheel", pytest.param("editable", marks=pytest.mark.slow)])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of a new environment that holds agm and what it says it needs, nothing else."""
    folder = tmp_path_factory.mktemp(request.param)
    run_outside(sys.executable, "-m", "venv", "venv", cwd=folder)
    commands = folder / "venv" / "bin"
    if request.param == "wheel":
        (wheel,) = request.getfixturevalue("built").glob("*.whl")
        what = [str(wheel)]
    else:
        what = ["--editable", str(request.getfixturevalue("source"))]
    run_outside(commands / "pip", "install", "--quiet", "--disable-pip-version-check", *what, cwd=folder)
    return commands


def names(built: Path) -> Sequence[str]:
    """The files in the wheel."""
    (wheel,) = built.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


@pytest.mark.slow
@pytest.mark.process
def test_the_wheel_holds_the_package_the_plugin_file_and_the_manual_page_and_nothing_else(built: Path) -> None:
    folders = {name.partition("/")[0] for name in names(built)}
    metadata, data = f"agm_gateway-{agm.__version__}.dist-info", f"agm_gateway-{agm.__version__}.data"
    assert folders == {"agm", "twisted", metadata, data}
    assert [name for name in names(built) if name.startswith(data)] == [f"{data}/data/share/man/man1/agm.1"]
    assert [name for name in names(built) if name.startswith("twisted/")] == ["twisted/plugins/agm_plugin.py"]
    assert "agm/py.typed" in names(built)


@pytest.mark.slow
@pytest.mark.process
def test_every_module_is_in_the_wheel(built: Path, source: Path) -> None:
    modules = {str(path.relative_to(source)) for path in (source / "agm").rglob("*.py")}
    assert modules - set(names(built)) == set()


@pytest.mark.slow
@pytest.mark.process
def test_every_file_of_the_dashboard_is_in_the_wheel(built: Path, source: Path) -> None:
    pages = {str(path.relative_to(source)) for path in (source / "agm" / "web" / "ui").iterdir()}
    assert "agm/web/ui/index.html" in pages
    assert pages - set(names(built)) == set()


@pytest.mark.slow
@pytest.mark.process
def test_the_sdist_holds_what_a_build_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "setup.cfg", "README.md", "LICENSE", "twisted/plugins/agm_plugin.py"} <= held
    ours = {"pyproject.toml", "agm/config/prices.toml"}
    assert not {name for name in held if name.endswith((".toml", ".json", ".key"))} - ours


def test_the_folders_of_twisted_are_no_packages_of_ours() -> None:
    """An ``__init__.py`` in one of them would hide Twisted, or its other plugins."""
    assert not list((ROOT / "twisted").rglob("__init__.py"))


@pytest.mark.process
def test_twistd_lists_both_commands(installed: Path, tmp_path: Path) -> None:
    listed = run_outside(installed / "twistd", "--help", cwd=tmp_path)
    commands = {line.split()[0] for line in listed.splitlines() if line.startswith("    ") and line.split()}
    assert {"agm", "agm-emulator"} <= commands


@pytest.mark.process
def test_the_agm_command_knows_its_version(installed: Path, tmp_path: Path) -> None:
    assert run_outside(installed / "agm", "--version", cwd=tmp_path) == f"agm {agm.__version__}\n"
    assert run_outside(installed / "python", "-m", "agm", "--version", cwd=tmp_path) == f"agm {agm.__version__}\n"
    shown = run_outside(installed / "pip", "show", "--disable-pip-version-check", "agm-gateway", cwd=tmp_path)
    assert f"\nVersion: {agm.__version__}\n" in shown


@pytest.mark.process
def test_nothing_that_is_needed_is_missing(installed: Path, tmp_path: Path) -> None:
    """Every module can be imported but those of an extra: the one for tests, and the one for traces."""
    every = (
        "import importlib, pkgutil, agm\n"
        "for found in pkgutil.walk_packages(agm.__path__, 'agm.'):\n"
        "    if found.name not in ('agm.testing', 'agm.observe.tracing', 'agm.__main__'):\n"
        "        importlib.import_module(found.name)\n"
    )
    run_outside(installed / "python", "-c", every, cwd=tmp_path)
    run_outside(installed / "pip", "check", "--disable-pip-version-check", cwd=tmp_path)


@pytest.mark.process
def test_a_demo_answers(installed: Path, tmp_path: Path) -> None:
    with running(tmp_path / "twistd", "agm", "--demo", "--port", "0", commands=installed) as twistd:
        assert get(twistd.url(), "/healthz") == (200, b'{"status":"ok"}')
        assert get(twistd.url(), "/ui/")[0] == 200
        assert twistd.stop() == 0

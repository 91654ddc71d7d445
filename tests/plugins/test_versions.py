"""The version of the hooks: what plugins say of it, what is renamed, and whether the types are right."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agm import api, hookimpl, hookspecs
from agm.plugins.manager import HOOKS, PluginError, make_plugin_manager
from agm.testing import build_request, check_plugin
from tests.plugins import typed_plugin


def plugin(**attributes: Any) -> Any:
    return SimpleNamespace(__name__="mine", **attributes)


def test_each_hook_says_since_when_it_is_there() -> None:
    """None later than the version is."""
    own = {name: since for name, since in hookspecs.SINCE.items() if "." not in name}
    assert set(own) == set(HOOKS)
    major, minor = map(int, hookspecs.API_VERSION.split("."))
    for name, since in hookspecs.SINCE.items():
        assert re.fullmatch(r"\d+\.\d+", since), name
        assert (1, 0) <= tuple(map(int, since.split("."))) <= (major, minor), name
    assert api.API_VERSION == hookspecs.API_VERSION


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_plugin_of_this_version_or_an_earlier_one_is_taken(version: str) -> None:
    one = plugin(agm_api_version=version, agm_map_model=hookimpl(lambda model: "m"))
    assert make_plugin_manager([one], entry_points=False).has_plugin("mine")


@pytest.mark.parametrize(
    ("version", "cure"),
    [("1.999", "upgrade agm"), ("2.0", "upgrade agm"), ("0.9", "upgrade the plugin"), (1, "write it as '1.1'")],
)
def test_a_plugin_of_another_version_is_refused_before_its_hooks_are_looked_at(version: object, cure: str) -> None:
    later = plugin(agm_api_version=version, agm_from_tomorrow=hookimpl(lambda: None))
    with pytest.raises(PluginError) as caught:
        make_plugin_manager([later], entry_points=False)
    assert str(caught.value).startswith("plugin mine: ")
    assert cure in str(caught.value)
    assert "agm_from_tomorrow" not in str(caught.value)


def test_a_renamed_hook_is_called_by_its_old_name_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hookspecs, "RENAMED", {"agm_choose_model": ("agm_map_model", "1.2")})
    old = plugin(agm_choose_model=hookimpl(lambda model, request: f"old-{model}"))
    expected = (
        "plugin mine: agm_choose_model is called agm_map_model since version 1.2 of the hooks; its old name ends with "
        "version 2.0"
    )
    with pytest.warns(FutureWarning, match=re.escape(expected)):
        manager = make_plugin_manager([old], entry_points=False)
    assert manager.hook.agm_map_model(model="a", request=build_request()) == "old-a"
    by_name = plugin(other=hookimpl(specname="agm_choose_model")(lambda model: "named"))
    with pytest.warns(FutureWarning, match="agm_choose_model is called agm_map_model"):
        manager = make_plugin_manager([by_name], entry_points=False)
    assert manager.hook.agm_map_model(model="a", request=build_request()) == "named"


def test_a_renamed_argument_warns_as_the_hookspecs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one stays beside the new one; those who take the new one hear nothing."""

    def agm_map_model(model: str, name: str, request: Any) -> None:
        """Has an argument too many."""

    warning = FutureWarning("agm_map_model calls its argument name model since version 1.2 of the hooks")
    spec = hookspecs.hookspec(firstresult=True, warn_on_impl_args={"name": warning})
    monkeypatch.setattr(hookspecs, "agm_map_model", spec(agm_map_model))
    with pytest.warns(FutureWarning, match="calls its argument name model"):
        manager = make_plugin_manager([plugin(agm_map_model=hookimpl(lambda name: name))], entry_points=False)
    assert manager.hook.agm_map_model(model="a", name="a", request=build_request()) == "a"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_plugin_manager([plugin(agm_map_model=hookimpl(lambda model: model))], entry_points=False)


def test_the_typed_plugin_has_every_hook_and_keeps_the_rules() -> None:
    assert {name for name in vars(typed_plugin) if name.startswith("agm_")} - {"agm_api_version"} == set(HOOKS)
    check_plugin(typed_plugin)


@pytest.mark.slow
@pytest.mark.process
def test_the_typed_plugin_passes_mypy_strict(tmp_path: Path) -> None:
    """As its author would run it: nothing of this project's settings."""
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nstrict = true\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run([*command, typed_plugin.__file__], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

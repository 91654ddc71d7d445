"""What plugins say of their settings is held to, at the start, at a reload and by ``agm config check``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import pytest
import pytest_twisted

from agm import hookimpl
from agm.cli import main
from agm.config import ConfigError
from agm.plugins.hooks import HookFailed
from agm.testing import GatewayFactory, parse_config

PLUGIN = """
from typing import Annotated
import msgspec
from agm.api import hookimpl

class Night(msgspec.Struct):
    model: str = "gemini-2.5-flash"
    from_hour: Annotated[int, msgspec.Meta(ge=0, le=23)] = 22
    days: list[str] = []

@hookimpl
def agm_settings():
    return {"night": Night}
"""


class Night(msgspec.Struct):
    token: str
    from_hour: Annotated[int, msgspec.Meta(ge=0, le=23)] = 22


PROBLEMS = [
    ("from_huor = 5", "plugins.night.from_huor: unknown key; did you mean 'from_hour'?"),
    ("zebra = 5", "plugins.night.zebra: unknown key; the keys here are model, from_hour, days"),
    ('from_hour = "late"', "plugins.night.from_hour: expected int, not str"),
    ("from_hour = 24", "plugins.night.from_hour: expected int <= 23"),
    ('days = ["mon", 5]', "plugins.night.days[1]: expected str, not int"),
]


@pytest.mark.parametrize(("line", "problem"), PROBLEMS)
def test_config_check_finds_mistakes_in_a_plugins_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, problem: str
) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o755)
    (folder / "night_watch.py").write_text(PLUGIN)
    file = tmp_path / "agm.toml"
    file.write_text(f'[plugins]\npath = "plugins"\n[plugins.night]\nmodel = "m"\n{line}\n')
    assert main(["config", "check", "--config", str(file)]) == 1
    assert f"{file}: {problem}" in capsys.readouterr().err
    file.write_text('[plugins]\npath = "plugins"\n[plugins.night]\nmodel = "m"\nfrom_hour = 3\n')
    assert main(["config", "check", "--config", str(file)]) == 0


@pytest_twisted.ensureDeferred
async def test_a_start_and_a_reload_with_a_mistake_are_refused(gateway: GatewayFactory) -> None:
    seen: list[Night] = []

    def agm_configure(config: Any) -> None:
        seen.append(config.plugins.read("night", Night))

    plugin = SimpleNamespace(
        __name__="night",
        agm_settings=hookimpl(lambda: {"night": Night}),
        agm_configure=hookimpl(agm_configure),
    )
    with pytest.raises((SystemExit, HookFailed), match=r"plugins\.night\.token: is missing"):
        await gateway("", plugins=[plugin])
    good = '[plugins.night]\ntoken = "s3cret"\n'
    running = await gateway(good, plugins=[plugin])
    with pytest.raises(HookFailed, match=r"plugins\.night\.from_hour: expected int, not str") as refused:
        await running.gateway.reload(parse_config(good + 'from_hour = "s3cret too"'))
    assert "s3cret" not in str(refused.value)
    await running.gateway.reload(parse_config(good + "from_hour = 1"))
    assert [(night.token, night.from_hour) for night in seen] == [
        ("s3cret", 22),
        ("s3cret", 22),  # the reload was refused, and this is in force again
        ("s3cret", 1),
    ]


def test_a_table_that_is_read_without_a_schemas_hook_has_the_same_problems() -> None:
    with pytest.raises(ConfigError, match=r"plugins\.night\.token: is missing"):
        parse_config("").plugins.read("night", Night)

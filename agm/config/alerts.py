"""``[[alerts]]``: webhooks that are told what somebody may have to act on."""

# ruff: noqa: RUF009 - `setting` makes an attrs field, which ruff cannot know; it is no shared default

from pathlib import Path
from typing import Literal, get_args

import attrs

from agm.config.addresses import in_the_clear, why_no_webhook
from agm.config.files import read_path
from agm.config.reading import Place, array_of, setting, values_of
from agm.config.secret import (
    Secret,
    UnusableError,
    check_one_source,
    read_variable,
    read_written_secret,
    secret_from_environment,
    secret_from_file,
)
from agm.config.values import one_of, read_text
from agm.config.words import show
from agm.core.alerts import AlertKind

KINDS: tuple[AlertKind, ...] = get_args(AlertKind)
_URL = ("url", "url_env", "url_file")


@attrs.frozen(kw_only=True)
class AlertConfig:
    """
    A webhook, and which alerts it is told.

    ``url`` is whole, and may hold a secret; ``None`` where it is missing or unusable: nothing is told.
    """

    name: str
    on: tuple[AlertKind, ...]
    url: Secret | None
    form: Literal["json", "slack"] = "json"


@attrs.frozen(kw_only=True)
class AlertTable:
    """``[[alerts]]`` as written."""

    name: str | None = setting(read_text)
    on: tuple[AlertKind, ...] = setting(
        array_of(one_of(*KINDS), least=1, empty=f"names no alert; there are {', '.join(KINDS)}"),
        (),
        required=f"name the alerts that are told: {', '.join(KINDS)}",
    )
    url: Secret | None = setting(read_written_secret)
    url_env: str | None = setting(read_variable)
    url_file: Path | None = setting(read_path)
    form: Literal["json", "slack"] = setting(one_of("json", "slack"), "json")


def read_alert(value: object, place: Place) -> AlertConfig:
    """Return a table of ``[[alerts]]``."""
    written = AlertTable(**values_of(AlertTable, value, place))
    assert isinstance(value, dict), "no other value gets beyond the line above"
    check_one_source(place, value, "a webhook", _URL)
    name = written.name or place.key
    if holder := (place / "name").claim("webhook", name):
        (place / "name").problem(f"{show(name)} is {holder} already; give each webhook its own name")
    return AlertConfig(name=name, on=tuple(dict.fromkeys(written.on)), url=_url(written, place), form=written.form)


def _url(written: AlertTable, place: Place) -> Secret | None:
    """Fetch the URL; one that cannot be used is noted.  What it is stands in no message."""
    key = next((key for key in _URL if getattr(written, key) is not None), None)
    if key is None:
        return None
    at = place / key
    try:
        if written.url is not None:
            url = written.url
        elif written.url_env is not None:
            url = secret_from_environment(written.url_env, at)
        else:
            url = secret_from_file(written.url_file, at, "the URL")
    except UnusableError as lacking:
        at.lack(f"{lacking}; until then nothing is told there")
        return None
    if wrong := why_no_webhook(url.reveal()):
        if written.url is not None:
            at.problem(wrong)
        else:
            at.lack(f"what it names {wrong}; until then nothing is told there")
        return None
    if in_the_clear(url.reveal()):
        at.warn("is told in the clear, whoever is on the way reads it; write https")
    return url

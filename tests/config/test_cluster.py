"""The table [cluster]."""

from pathlib import Path

import pytest

from agm.config.loading import parse
from agm.config.problems import ConfigError
from agm.config.secret import Secret

SECRET = 'secret = "0123456789abcdef"'


def test_an_address_is_read_whole_and_shown_without_its_password() -> None:
    cluster = parse(f'[cluster]\nredis = "rediss://me:p%40ss@h.example:7000/2"\n{SECRET}', environ={}).cluster
    address = cluster.redis
    assert address is not None
    assert (address.host, address.port, address.tls, address.database) == ("h.example", 7000, True, 2)
    assert (address.user, address.password) == ("me", Secret("p@ss"))
    assert str(address) == "rediss://h.example:7000/2"
    assert "p@ss" not in repr(cluster)
    assert "0123456789abcdef" not in repr(cluster)
    assert (cluster.name, cluster.on_loss) == ("agm", "share")


def test_the_secret_may_stand_in_a_file_or_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("f" * 20 + "\n")
    file.chmod(0o600)
    table = '[cluster]\nredis = "unix:/run/r.sock"\n'
    assert parse(f'{table}secret_file = "{file}"', environ={}).cluster.secret == Secret("f" * 20)
    assert parse(f'{table}secret_env = "S"', environ={"S": "e" * 20}).cluster.secret == Secret("e" * 20)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (f'redis = "http://h"\n{SECRET}', "cluster.redis: expected redis://"),
        (f'redis = "redis://me:hunter2@h:x"\n{SECRET}', "cannot be read as an address"),
        (f'redis = "unix:/{"x" * 120}"\n{SECRET}', "longer than 107 bytes"),
        ('redis = "redis://h"', "exactly one of secret, secret_file, secret_env; none is given"),
        ('redis = "redis://h"\nsecret = "short"', "openssl rand -hex 32"),
        ('redis = "redis://h"\nsecret_env = "NOWHERE"', "NOWHERE is not set"),
        (SECRET, "cluster.redis: is missing"),
        (f'redis = "redis://h"\nname = "a b"\n{SECRET}', "the keys in Redis begin with it"),
        (f'redis = "redis://h"\non_loss = "share it"\n{SECRET}', "cluster.on_loss"),
    ],
)
def test_a_bad_table_is_refused_with_its_cure(table: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"[cluster]\n{table}", environ={})
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)

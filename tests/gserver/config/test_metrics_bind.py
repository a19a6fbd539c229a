from __future__ import annotations

import pytest

from gserver.config.addresses import TcpBind, UnixBind
from gserver.config.settings import Settings
from gserver.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("127.0.0.1:9110", TcpBind("127.0.0.1", 9110)),
        ("[::1]:9110", TcpBind("::1", 9110)),
        ("unix:/run/metrics,mode=660", UnixBind("/run/metrics", 0o660)),
        (TcpBind("127.0.0.1", 1), TcpBind("127.0.0.1", 1)),
    ],
)
def test_one_address_or_none(value: object, expected: object) -> None:
    assert Settings.checked({"metrics_bind": value}).metrics_bind == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("9110", "'9110' has no port: expected HOST:PORT, [V6]:PORT, unix:PATH or fd://N"),
        ("fd://3", "'fd://3', must be one address, HOST:PORT, [V6]:PORT or unix:PATH"),
        (["127.0.0.1:1"], "['127.0.0.1:1'], must be one address, HOST:PORT, [V6]:PORT or unix:PATH"),
        (9110, "9110, must be one address, HOST:PORT, [V6]:PORT or unix:PATH"),
        ("", "'' has no port: expected HOST:PORT, [V6]:PORT, unix:PATH or fd://N"),
    ],
)
def test_everything_else_is_refused(value: object, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Settings.checked({"metrics_bind": value})

    assert str(refused.value) == f"setting metrics_bind is {reason}"

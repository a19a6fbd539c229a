"""The TLS contexts of the listeners: one for each different configuration, and errors that name the listener."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gserver.arbiter.certificates import certificates_of
from gserver.config.settings import Settings
from gserver.errors import ConfigError
from tests.helpers.certificates import CertificateFiles, make_certificates

A, B, C = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def settings(*entries: dict[str, Any], **values: Any) -> Settings:
    listeners = {address: {"app": "echo", **entry} for address, entry in zip((A, B, C), entries, strict=False)}
    return Settings.checked({"listeners": listeners, **values})


def test_there_are_none_without_a_certificate() -> None:
    assert certificates_of(Settings()) == {}


def test_all_addresses_share_the_contexts_of_one_configuration(files: CertificateFiles) -> None:
    found = certificates_of(Settings.checked({"bind": [A, B], "certfile": files.combined}))

    assert list(found) == [A, B]
    assert found[A] is found[B]


def test_listeners_with_other_settings_have_other_contexts(files: CertificateFiles) -> None:
    found = certificates_of(settings({"name": "x"}, {"alpn": "a"}, {"certfile": None}, certfile=files.combined))

    assert set(found) == {"x", B}
    assert found["x"] is not found[B]


def test_an_error_names_the_listener(files: CertificateFiles, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(ConfigError) as caught:
        certificates_of(settings({"certfile": files.combined}, {"certfile": missing, "name": "admin"}))

    assert str(caught.value).startswith("listener admin: setting certfile: ")
    assert missing in str(caught.value)

from __future__ import annotations

import os
import shutil
import ssl
import sys
from pathlib import Path

import pytest

from benchmarks import toolchain
from benchmarks.toolchain import Toolchain, default_cache, versions
from loadtests.servers.toolchain import Missing

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def tools(tmp_path: Path) -> Toolchain:
    return Toolchain(tmp_path / "cache")


def test_without_gcc_there_is_no_client(tools: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for tls in (False, True):
        with pytest.raises(Missing, match=r"^gcc is not installed$"):
            tools.client(tls)


@needs_gcc
def test_the_client_for_tls_needs_the_headers_of_openssl(tools: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "OPENSSL_HEADER", "#include <openssl/not_there.h>\n")
    with pytest.raises(Missing, match="libssl-dev"):
        tools.client(tls=True)

    assert Path(tools.client(tls=False)).is_file()


@needs_openssl
def test_a_certificate_is_made_once(tools: Toolchain) -> None:
    files = tools.certificate()
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files)
    made_at = os.stat(files[0]).st_mtime_ns

    assert tools.certificate() == files
    assert os.stat(files[0]).st_mtime_ns == made_at


def test_without_openssl_there_is_no_certificate(tools: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match=r"^openssl is not installed$"):
        tools.certificate()


def test_the_default_cache_is_below_xdg_cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "gserver-benchmarks"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "gserver-benchmarks"


def test_versions_has_the_tools_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "VERSIONS", {"python": [sys.executable, "--version"], "no-such-tool": ["x"]})
    found = versions()

    assert found["python"].startswith("Python 3")
    assert "no-such-tool" not in found

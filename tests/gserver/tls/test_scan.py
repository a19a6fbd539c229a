"""Public TLS scanners find no fault in a server with default settings."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.certificates import make_certificates
from tests.helpers.peers import need
from tests.helpers.processes import GserverProcess

#: What testssl.sh says of the test's own certificate and of the machine's name, which are not the server's.
OF_THE_CERTIFICATE = ("cert_", "DNS_")


@pytest.fixture
def server(tmp_path: Path) -> Any:
    files = make_certificates(tmp_path)
    with GserverProcess(tmp_path, "echo", "--certfile", files.combined) as server:
        yield server


def scan(address: tuple[str, int]) -> Any:
    sslyze = pytest.importorskip("sslyze")
    location = sslyze.ServerNetworkLocation(hostname="localhost", port=address[1], ip_address=address[0])
    scanner = sslyze.Scanner()
    commands = set(sslyze.ScanCommand) - {sslyze.ScanCommand.HTTP_HEADERS}
    scanner.queue_scans([sslyze.ServerScanRequest(server_location=location, scan_commands=commands)])
    (found,) = scanner.get_results()
    return found.scan_result


@pytest.mark.filterwarnings("ignore")
def test_sslyze_finds_nothing(server: GserverProcess) -> None:
    found = scan(server.address)

    accepted = {
        version: {
            suite.cipher_suite.name
            for suite in getattr(found, f"{version}_cipher_suites").result.accepted_cipher_suites
        }
        for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3")
    }
    assert [version for version, suites in accepted.items() if suites] == ["tls_1_2", "tls_1_3"]
    assert all("ECDHE" in suite and ("GCM" in suite or "CHACHA20" in suite) for suite in accepted["tls_1_2"])
    assert not found.heartbleed.result.is_vulnerable_to_heartbleed
    assert not found.openssl_ccs_injection.result.is_vulnerable_to_ccs_injection
    assert found.robot.result.robot_result.name.startswith("NOT_VULNERABLE")
    assert not found.session_renegotiation.result.is_vulnerable_to_client_renegotiation_dos
    assert found.session_renegotiation.result.supports_secure_renegotiation
    assert found.session_resumption.result.tls_ticket_resumption_result.name == "FULLY_SUPPORTED"
    assert not found.tls_compression.result.supports_compression
    assert not found.tls_1_3_early_data.result.supports_early_data
    assert found.tls_fallback_scsv.result.supports_fallback_scsv
    assert found.tls_extended_master_secret.result.supports_ems_extension


@need("testssl")
@pytest.mark.longhaul
def test_testssl_finds_nothing(server: GserverProcess, tmp_path: Path) -> None:
    report = tmp_path / "findings.json"
    host, port = server.address
    command = ["testssl", "--quiet", "--warnings", "off", "--severity", "LOW", "--jsonfile", report, f"{host}:{port}"]
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=600, check=False)

    found = [each for each in json.loads(report.read_text()) if each["severity"] not in ("OK", "INFO", "DEBUG")]
    assert [each for each in found if not each["id"].startswith(OF_THE_CERTIFICATE)] == []

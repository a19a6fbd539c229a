"""Certificates: what can be loaded, what is said of what cannot, names, and new files."""

from __future__ import annotations

import logging
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gserver.errors import ConfigError, TlsError
from gserver.tls import Tls, TlsConfig
from gserver.tls_stream import TlsStream
from tests.helpers.certificates import Authority, Issued
from tests.helpers.tls_client import TlsClient, shake_hands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue("localhost")


def name_shown(tls: Tls, authority: Authority, name: str | None) -> str:
    """Which certificate a client that asks for `name` is shown."""
    context = authority.client_context(check_hostname=False)
    client, _ = shake_hands(TlsStream(tls.context), TlsClient(context, name))
    subject_names = client.peer_certificate["subjectAltName"]
    return str(subject_names[0][1])


@pytest.mark.parametrize("files", ["two", "one"])
def test_a_certificate_is_shown(authority: Authority, issued: Issued, files: str) -> None:
    config = TlsConfig(issued.certfile, issued.keyfile) if files == "two" else TlsConfig(issued.both)

    assert name_shown(Tls(config), authority, "localhost") == "localhost"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"certfile": "{folder}/none"}, "setting certfile is '{folder}/none': No such file or directory"),
        ({"certfile": "{folder}"}, "setting certfile is '{folder}': Is a directory"),
        ({"certfile": "{empty}"}, "setting certfile is '{empty}', which holds no certificate in PEM"),
        ({"certfile": "{crt}", "keyfile": None}, "setting certfile is '{crt}', which holds no private key in PEM"),
        ({"keyfile": "{empty}"}, "setting keyfile is '{empty}', which holds no private key in PEM"),
        ({"keyfile": "{other}"}, "setting certfile is '{crt}': the key in '{other}' is not that of the certificate"),
        ({"keyfile": "{secret}"}, "setting certfile is '{crt}': the key in '{secret}' needs keyfile_password"),
        (
            {"keyfile": "{secret}", "keyfile_password": "wrong"},
            "setting certfile is '{crt}': the key in '{secret}' has another password",
        ),
        ({"cert_reqs": "required"}, "setting cert_reqs is 'required', which needs ca_certs"),
        ({"ca_certs": "{empty}"}, "setting ca_certs is '{empty}', which holds no certificate in PEM"),
        ({"ciphers": "NONE-SUCH"}, "setting ciphers is 'NONE-SUCH', of which OpenSSL knows none"),
        ({"alpn": ("",)}, "setting alpn has '', must be ASCII of 1 to 255 characters (RFC 7301)"),
        ({"alpn": ("ä",)}, "setting alpn has 'ä', must be ASCII of 1 to 255 characters (RFC 7301)"),
        (
            {"sni": (("a.example", "{folder}/none", None),)},
            "setting sni a.example is '{folder}/none': No such file or directory",
        ),
    ],
)
def test_what_cannot_be_used_is_named(
    folder: Path, authority: Authority, issued: Issued, changes: dict[str, Any], says: str
) -> None:
    (folder / "empty").write_text("nothing")
    secret = folder / "secret.key"
    if not secret.exists():
        command = ["openssl", "rsa", "-aes128", "-passout", "pass:right", "-in", issued.keyfile, "-out", str(secret)]
        command[1] = "ec" if "EC PRIVATE" in Path(issued.keyfile).read_text() else "rsa"
        subprocess.run(command, check=True, capture_output=True, timeout=20)
    other = authority.issue("other.example").keyfile
    words = {"folder": folder, "empty": folder / "empty", "other": other, "secret": secret, "crt": issued.certfile}
    values: dict[str, Any] = {"certfile": issued.certfile, "keyfile": issued.keyfile}
    for name, value in changes.items():
        values[name] = value.format(**words) if isinstance(value, str) else value
    if "sni" in changes:
        values["sni"] = tuple((name, file.format(**words), key) for name, file, key in changes["sni"])

    with pytest.raises(ConfigError) as caught:
        Tls(TlsConfig(**values))
    assert str(caught.value) == says.format(**words)


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("a.example", "a.example"),
        ("A.Example", "a.example"),
        ("x.b.example", "*.b.example"),
        ("x.y.b.example", "localhost"),
        ("b.example", "localhost"),
        ("unknown.example", "localhost"),
        (None, "localhost"),
    ],
)
def test_a_client_is_shown_the_certificate_of_the_name_it_asks_for(
    authority: Authority, issued: Issued, asked: str | None, shown: str
) -> None:
    exact, wildcard = authority.issue("a.example"), authority.issue("*.b.example")
    sni = (("a.example", exact.certfile, exact.keyfile), ("*.b.example", wildcard.both, None))

    assert name_shown(Tls(TlsConfig(issued.both, sni=sni)), authority, asked) == shown


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"), [(("a", "b"), ["b", "a"], "a"), (("a",), ["b"], None), ((), ["b"], None)]
)
def test_the_server_chooses_the_protocol(
    authority: Authority, issued: Issued, ours: tuple[str, ...], theirs: list[str], agreed: str | None
) -> None:
    context = authority.client_context()
    context.set_alpn_protocols(theirs)
    _, server = shake_hands(TlsStream(Tls(TlsConfig(issued.both, alpn=ours)).context), TlsClient(context, "localhost"))

    assert server.info.alpn == agreed


def test_a_client_that_is_too_old_is_refused(authority: Authority, issued: Issued) -> None:
    context = authority.client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    _, server = shake_hands(TlsStream(Tls(TlsConfig(issued.both)).context), TlsClient(context, "localhost"))
    assert server.info.version == "TLSv1.2"

    with pytest.raises(TlsError, match="the client knows no version of TLS that is allowed"):
        shake_hands(TlsStream(Tls(TlsConfig(issued.both, min_version="1.3")).context), TlsClient(context, "localhost"))


def test_a_client_shows_its_certificate(authority: Authority, issued: Issued) -> None:
    config = TlsConfig(issued.both, ca_certs=authority.ca_certs, cert_reqs="required")
    context = authority.client_context(identity=authority.issue("client.example"))
    _, server = shake_hands(TlsStream(Tls(config).context), TlsClient(context, "localhost"))

    assert server.info.peer_certificate["subjectAltName"] == (("DNS", "client.example"),)
    assert server.info.peer_certificate_der


def test_a_client_without_a_certificate_is_refused_where_it_must_show_one(authority: Authority, issued: Issued) -> None:
    context = authority.client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    config = TlsConfig(issued.both, ca_certs=authority.ca_certs, cert_reqs="required")
    with pytest.raises(TlsError, match="the client shows no certificate"):
        shake_hands(TlsStream(Tls(config).context), TlsClient(context, "localhost"))

    optional = TlsConfig(issued.both, ca_certs=authority.ca_certs, cert_reqs="optional")
    _, server = shake_hands(TlsStream(Tls(optional).context), TlsClient(context, "localhost"))
    assert server.info.peer_certificate is None


def test_a_client_of_another_authority_is_refused(tmp_path: Path, authority: Authority, issued: Issued) -> None:
    stranger = Authority(tmp_path).issue("client.example")
    context = authority.client_context(identity=stranger, maximum_version=ssl.TLSVersion.TLSv1_2)
    config = TlsConfig(issued.both, ca_certs=authority.ca_certs, cert_reqs="required")

    with pytest.raises(TlsError, match="the client's certificate is not accepted: "):
        shake_hands(TlsStream(Tls(config).context), TlsClient(context, "localhost"))


def test_a_hook_may_change_or_replace_the_context(authority: Authority, issued: Issued) -> None:
    def hook(config: TlsConfig, default: Any) -> ssl.SSLContext:
        context: ssl.SSLContext = default()
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    assert Tls(TlsConfig(issued.both, ssl_context=hook)).context.minimum_version == ssl.TLSVersion.TLSv1_3


# New files


def copied(issued: Issued, folder: Path) -> tuple[str, str]:
    return (
        str(shutil.copy(issued.certfile, folder / "live.crt")),
        str(shutil.copy(issued.keyfile, folder / "live.key")),
    )


def look_until_settled(tls: Tls) -> list[bool]:
    return [tls.reload_if_changed() for _ in range(3)]


def test_new_files_are_used_for_new_connections(
    tmp_path: Path, authority: Authority, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    certfile, keyfile = copied(issued, tmp_path)
    tls = Tls(TlsConfig(certfile, keyfile))
    assert look_until_settled(tls) == [False] * 3
    copied(authority.issue("renewed.example"), tmp_path)
    with caplog.at_level(logging.INFO, "gserver.tls"):
        assert look_until_settled(tls) == [False, True, False]

    assert name_shown(tls, authority, "localhost") == "renewed.example"
    assert caplog.messages == [f"New certificates are in use: {certfile}, {keyfile}"]


@pytest.mark.parametrize("damage", ["half", "mismatch", "gone"])
def test_files_that_cannot_be_used_leave_the_old_ones_in_place(
    tmp_path: Path, authority: Authority, issued: Issued, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    certfile, keyfile = copied(issued, tmp_path)
    tls = Tls(TlsConfig(certfile, keyfile))
    other = authority.issue("other.example")
    if damage == "half":
        Path(certfile).write_bytes(Path(other.certfile).read_bytes()[:100])
    elif damage == "mismatch":
        shutil.copy(other.certfile, certfile)
    else:
        os.remove(keyfile)
    assert [tls.reload_if_changed() for _ in range(5)] == [False] * 5

    assert name_shown(tls, authority, "localhost") == "localhost"
    (record,) = caplog.records
    assert record.getMessage().startswith("New certificates cannot be used, the old ones stay: setting ")


def test_a_file_that_is_still_being_written_is_waited_for(tmp_path: Path, authority: Authority, issued: Issued) -> None:
    certfile, keyfile = copied(issued, tmp_path)
    tls = Tls(TlsConfig(certfile, keyfile))
    other = authority.issue("other.example")
    for size in (10, 100, 1000):
        Path(certfile).write_bytes(Path(other.certfile).read_bytes()[:size])
        assert not tls.reload_if_changed()
    shutil.copy(other.certfile, certfile)
    shutil.copy(other.keyfile, keyfile)

    assert look_until_settled(tls) == [False, True, False]


FORKED = """
import os, sys
from gserver.tls import Tls, TlsConfig
tls = Tls(TlsConfig(sys.argv[1]))
from gserver.tls_stream import TlsStream
from tests.helpers.tls_client import TlsClient, shake_hands
import ssl
context = ssl.create_default_context(cafile=sys.argv[2])
context.maximum_version = ssl.TLSVersion.TLSv1_2
client, _ = shake_hands(TlsStream(tls.context), TlsClient(context, "localhost"))
session = client.session
pid = os.fork()
if pid == 0:
    from gevent import monkey
    monkey.patch_all()
    _, server = shake_hands(TlsStream(tls.context), TlsClient(context, "localhost", session))
    assert server.info.resumed
    os.utime(sys.argv[1])
    assert [tls.reload_if_changed() for _ in range(2)] == [False, True]
    _, server = shake_hands(TlsStream(tls.context), TlsClient(context, "localhost"))
    assert server.info.version == "TLSv1.2"
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_forked_and_patched_process_resumes_sessions_and_loads_new_files(
    tmp_path: Path, authority: Authority, issued: Issued
) -> None:
    both = shutil.copy(issued.both, tmp_path / "both.pem")
    command = [sys.executable, "-c", FORKED, both, authority.ca_certs]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert (ended.stdout, ended.returncode) == ("7\n", 0), ended.stderr

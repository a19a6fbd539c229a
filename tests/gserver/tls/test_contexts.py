"""SSL contexts: settings validated, files loaded and reloaded, certificates chosen by name."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gserver.errors import ConfigError, TlsError
from gserver.tls.certificates import Validity, read_validity
from gserver.tls.contexts import Tls, TlsConfig
from gserver.tls.session import TlsStream
from tests.helpers.certificates import CertificateFiles, encrypt_key, make_certificates
from tests.helpers.tls_client import TlsClient, connect

Contents = dict[str, str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("others"))


def configure(files: CertificateFiles, **config: Any) -> Tls:
    return Tls(TlsConfig(**{"certfile": files.certfile, "keyfile": files.keyfile, **config}))


def refusal(files: CertificateFiles, **config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        configure(files, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def shown_to(tls: Tls, server_name: str | None = "localhost", context: ssl.SSLContext | None = None) -> bytes:
    """Return the certificate, in DER, that the server presents to a client."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    client = TlsClient(context or trusting, server_name)
    connect(TlsStream(tls.context), client)
    return client.tls.getpeercert(True) or b""


def der(certfile: str) -> bytes:
    end = "-----END CERTIFICATE-----\n"
    return ssl.PEM_cert_to_DER_cert(Path(certfile).read_text().partition(end)[0] + end)


def names_of(context: ssl.SSLContext) -> set[str]:
    return {cipher["name"] for cipher in context.get_ciphers()}


class TestDefaults:
    def test_are_tls_1_2_and_better(self, files: CertificateFiles) -> None:
        context = configure(files).context

        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.maximum_version == ssl.TLSVersion.MAXIMUM_SUPPORTED
        for option in (ssl.OP_NO_COMPRESSION, ssl.OP_NO_RENEGOTIATION, ssl.OP_CIPHER_SERVER_PREFERENCE):
            assert context.options & option
        assert context.verify_mode == ssl.CERT_NONE
        assert context.num_tickets == 1

    def test_are_ciphers_with_forward_secrecy_and_authentication(self, files: CertificateFiles) -> None:
        names = names_of(configure(files).context)

        assert len(names) >= 6
        assert all(name.startswith(("TLS_", "ECDHE-")) and ("GCM" in name or "POLY1305" in name) for name in names)

    def test_prefer_chacha_only_where_the_client_does(self, files: CertificateFiles) -> None:
        for first, chosen in (("ECDHE+CHACHA20:ECDHE+AESGCM", "CHACHA20"), ("ECDHE+AESGCM:ECDHE+CHACHA20", "AES256")):
            client = files.client_context()
            client.maximum_version = ssl.TLSVersion.TLSv1_2
            client.set_ciphers(first)
            stream = TlsStream(configure(files).context)
            connect(stream, TlsClient(client))

            assert chosen in stream.info.cipher

    def test_may_be_changed(self, files: CertificateFiles) -> None:
        context = configure(files, min_version="1.3", ciphers="ECDHE+AES128:!SHA1:!SHA256").context

        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert not any("AES256" in name or "CHACHA" in name for name in names_of(context) if name.startswith("ECDHE"))


class TestWhatCannotBeUsed:
    """The error is one line with the setting, the file and the fault."""

    @pytest.fixture
    def contents(self, tmp_path: Path, files: CertificateFiles) -> Contents:
        """Invalid files, by a name for each fault."""
        certificate = Path(files.certfile).read_text()
        texts = {
            "empty": "",
            "rubbish": "not PEM\n",
            "half": certificate[: len(certificate) // 2],
            "broken": certificate.replace("MII", "AAA", 1),
        }
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        encrypt_key(files.keyfile, "secret", str(tmp_path / "locked"))
        return {name: str(tmp_path / name) for name in (*texts, "locked", "missing")} | {"folder": str(tmp_path)}

    @pytest.mark.parametrize(
        ("setting", "file", "says"),
        [
            ("certfile", "missing", "does not exist"),
            ("certfile", "folder", "cannot be read: Is a directory"),
            ("certfile", "empty", "contains no PEM certificate"),
            ("certfile", "rubbish", "contains no PEM certificate"),
            ("certfile", "half", "cannot be loaded: the file is damaged or incomplete"),
            ("certfile", "broken", "cannot be loaded: "),
            ("keyfile", "missing", "does not exist"),
            ("keyfile", "rubbish", "contains no PEM private key"),
            ("keyfile", "locked", "is encrypted, and keyfile_password is not set"),
            ("ca_certs", "missing", "does not exist"),
            ("ca_certs", "rubbish", "contains no PEM certificate"),
            ("ca_certs", "half", "contains a certificate that is damaged or incomplete"),
        ],
    )
    def test_is_a_file(self, files: CertificateFiles, contents: Contents, setting: str, file: str, says: str) -> None:
        text = refusal(files, **{setting: contents[file]})

        assert text.startswith(f"setting {setting}: ")
        assert repr(contents[file]) in text
        assert says in text

    def test_is_a_path_that_no_file_can_have(self, files: CertificateFiles) -> None:
        assert refusal(files, certfile="a\0b") == r"setting certfile: 'a\x00b' cannot be read: embedded null byte"

    def test_is_a_certificate_without_its_key(self, files: CertificateFiles) -> None:
        says = f"setting certfile: {files.certfile!r} contains no private key, and keyfile is not set"

        assert refusal(files, keyfile=None) == says

    def test_is_the_key_of_another(self, files: CertificateFiles, others: CertificateFiles) -> None:
        assert refusal(files, keyfile=others.keyfile) == (
            f"setting keyfile: the key in {others.keyfile!r} does not match the certificate in {files.certfile!r}"
        )

    @pytest.mark.parametrize("password", ["wrong", "", "x" * 5000])
    def test_is_a_wrong_password(self, files: CertificateFiles, contents: Contents, password: str) -> None:
        text = refusal(files, keyfile=contents["locked"], keyfile_password=password)

        assert text == f"setting keyfile_password does not decrypt the key in {contents['locked']!r}"

    def test_is_named_with_its_server_name(self, files: CertificateFiles, others: CertificateFiles) -> None:
        text = refusal(files, sni=(("www.example.org", others.certfile, files.keyfile),))

        assert text.startswith(f"setting keyfile of 'www.example.org' in sni: the key in {files.keyfile!r} does not")

    @pytest.mark.parametrize(
        ("config", "says"),
        [
            ({"cert_reqs": "required"}, "setting cert_reqs is 'required', and ca_certs is not set"),
            ({"cert_reqs": "optional"}, "setting cert_reqs is 'optional', and ca_certs is not set"),
            ({"cert_reqs": "maybe"}, "setting cert_reqs is 'maybe': expected none, optional, required"),
            ({"min_version": "1.1"}, "setting min_version is '1.1': expected 1.2 or 1.3"),
            ({"ciphers": "NOPE"}, "setting ciphers: 'NOPE' selects no cipher"),
            ({"ciphers": "ECDHE+AESGCM:NOPE"}, "setting ciphers: 'NOPE' selects no cipher"),
            ({"ciphers": "TLS_AES_128_GCM_SHA256"}, "setting ciphers: 'TLS_AES_128_GCM_SHA256' selects no cipher"),
            ({"ciphers": "ECDHE:!ECDHE"}, "setting ciphers: 'ECDHE:!ECDHE' selects no cipher"),
            ({"ciphers": "@STRENGTH"}, "setting ciphers: '@STRENGTH' selects no cipher"),
            ({"alpn": ("",)}, "setting alpn: '' is not a protocol name"),
            ({"alpn": ("one", "x" * 256)}, f"setting alpn: '{'x' * 40}' is not a protocol name"),
            ({"alpn": ("naïve",)}, "setting alpn: 'naïve' is not a protocol name"),
        ],
    )
    def test_is_a_value(self, files: CertificateFiles, config: dict[str, Any], says: str) -> None:
        assert refusal(files, **config).startswith(says)

    @pytest.mark.parametrize(
        "name",
        [
            *("", ".", "a..b", "*", "*.", "w*.example.org", "a.*.org", "**.example.org", "127.0.0.1", "::1"),
            *("-a.org", "a b", "a/b", "x" * 64, "x." * 130, "example.org:443", "ü" * 64),
        ],
    )
    def test_is_a_server_name(self, files: CertificateFiles, name: str) -> None:
        says = refusal(files, sni=((name, files.combined, None),))

        assert says.startswith(f"setting sni: {name[:80]!r} is not a server name")

    def test_is_a_server_name_given_twice(self, files: CertificateFiles) -> None:
        sni = (("example.org", files.combined, None), ("EXAMPLE.org.", files.combined, None))

        assert refusal(files, sni=sni) == "setting sni has 'EXAMPLE.org.' twice"


class TestCertificates:
    def test_may_be_in_one_file_with_their_key(self, files: CertificateFiles) -> None:
        tls = configure(files, certfile=files.combined, keyfile=None)

        assert shown_to(tls, context=files.client_context()) == der(files.certfile)

    def test_may_have_a_key_that_a_password_opens(self, files: CertificateFiles, tmp_path: Path) -> None:
        locked = str(tmp_path / "locked.pem")
        encrypt_key(files.keyfile, "secret", locked)

        assert shown_to(configure(files, keyfile=locked, keyfile_password="secret")) == der(files.certfile)
        assert "secret" not in repr(TlsConfig(files.certfile, locked, "secret"))

    def test_that_have_expired_are_used_with_a_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        expired = make_certificates(tmp_path, expired=True)

        assert shown_to(configure(expired)) == der(expired.certfile)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert f"the certificate in {expired.certfile!r} expired on 20" in caplog.text

    def test_say_how_long_they_are_valid(self, files: CertificateFiles) -> None:
        validity = read_validity(Path(files.certfile).read_bytes())

        assert validity == Validity(moment(2000), moment(3000))  # both formats of a time
        assert validity.complaint(moment(2026)) is None
        assert validity.complaint(moment(1999)) == "is not valid before 2000-01-01"
        assert validity.complaint(moment(3001)) == "expired on 3000-01-01"

    def test_of_clients_are_requested_only_if_set(
        self, files: CertificateFiles, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert configure(files, ca_certs=files.ca).context.verify_mode == ssl.CERT_NONE
        assert "ca_certs is set, but cert_reqs is 'none'" in caplog.text


def moment(year: int) -> datetime:
    return datetime(year, 1, 1, tzinfo=UTC)


class TestTheHook:
    def test_makes_the_context(self, files: CertificateFiles) -> None:
        asked: list[TlsConfig] = []

        def hook(config: TlsConfig, factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
            asked.append(config)
            context = factory()
            context.num_tickets = 3
            return context

        tls = configure(files, ssl_context=hook)

        assert asked == [TlsConfig(files.certfile, files.keyfile, ssl_context=hook)]
        assert tls.context.num_tickets == 3
        assert shown_to(tls) == der(files.certfile)

    def test_may_do_without_the_factory(self, files: CertificateFiles, others: CertificateFiles) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(others.combined)

        assert shown_to(configure(files, ssl_context=lambda config, factory: context)) == der(others.certfile)

    def test_may_choose_by_name_itself(self, files: CertificateFiles) -> None:
        names: list[str | None] = []

        def hook(config: TlsConfig, factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
            context = factory()
            context.sni_callback = lambda connection, name, context: names.append(name)
            return context

        shown_to(configure(files, ssl_context=hook), "example.org")
        assert names == ["example.org"]

    def test_that_fails_is_named(self, files: CertificateFiles) -> None:
        def hook(config: TlsConfig, factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
            raise OSError("no such card")

        refused = refusal(files, ssl_context=hook)
        assert refused.startswith("setting ssl_context: the hook failed: OSError: no such card (")

    @pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt()])
    def test_whatever_it_raises_is_its_own(self, files: CertificateFiles, error: BaseException) -> None:
        def hook(config: TlsConfig, factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
            raise error

        refused = refusal(files, ssl_context=hook)
        assert refused.startswith(f"setting ssl_context: the hook failed: {type(error).__name__}")
        wrong = refusal(files, ssl_context=lambda config, factory: None)
        assert wrong == "setting ssl_context: the hook returned None: expected an ssl.SSLContext"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CertificateFiles]:
    folder = tmp_path_factory.mktemp("sites")
    names = ("www.example.org", "*.example.org", "bücher.example", "*.a.example.org")
    return {name: make_certificates(folder / str(number), name) for number, name in enumerate(names)}


@pytest.fixture(scope="module")
def named(files: CertificateFiles, sites: dict[str, CertificateFiles]) -> Tls:
    return configure(files, sni=tuple((name, site.combined, None) for name, site in sites.items()))


class TestServerNames:
    @pytest.mark.parametrize(
        ("asked", "shown"),
        [
            ("www.example.org", "www.example.org"),
            ("WWW.Example.ORG", "www.example.org"),
            ("www.example.org.", "www.example.org"),
            ("else.example.org", "*.example.org"),
            ("a.example.org", "*.example.org"),
            ("b.a.example.org", "*.a.example.org"),
            ("xn--bcher-kva.example", "bücher.example"),
        ],
    )
    def test_choose_the_certificate(
        self, named: Tls, sites: dict[str, CertificateFiles], asked: str, shown: str
    ) -> None:
        assert shown_to(named, asked) == der(sites[shown].certfile)

    @pytest.mark.parametrize(
        "asked", ["localhost", "example.org", "www.example.org.evil", "c.b.a.example.org", "org", "127.0.0.1", None]
    )
    def test_that_are_unknown_get_the_default(self, named: Tls, files: CertificateFiles, asked: str | None) -> None:
        assert shown_to(named, asked) == der(files.certfile)

    def test_keep_all_other_settings(self, files: CertificateFiles, others: CertificateFiles) -> None:
        config = {"alpn": ("one",), "cert_reqs": "required", "ca_certs": files.ca}
        tls = configure(files, sni=(("example.org", others.combined, None),), **config)
        client = ssl.create_default_context(cafile=others.ca)
        client.check_hostname = False
        client.set_alpn_protocols(["one"])
        with pytest.raises(TlsError, match="presented no certificate"):
            connect(TlsStream(tls.context), TlsClient(client, "example.org"))
        client.load_cert_chain(files.client_certfile, files.client_keyfile)
        stream = TlsStream(tls.context)
        connect(stream, TlsClient(client, "example.org"))

        assert stream.info.alpn == "one"
        assert stream.info.peer_certificate is not None

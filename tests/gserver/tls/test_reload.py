"""Certificates and authorities that change while the server runs."""

from __future__ import annotations

import logging
import os
import shutil
import ssl
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trustme

from gserver.errors import TlsError
from gserver.tls.contexts import Tls, TlsConfig
from gserver.tls.session import TlsStream
from tests.helpers.certificates import CertificateFiles, make_certificates
from tests.helpers.tls_client import TlsClient, connect

V1_2, V1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("new"))


@pytest.fixture
def live(old: CertificateFiles, tmp_path: Path) -> CertificateFiles:
    """The files that the server reads; at first, the old ones."""
    files = CertificateFiles(**{name: str(tmp_path / f"{name}.pem") for name in vars(old)})
    put(old, files)
    return files


def put(source: CertificateFiles, live: CertificateFiles, *fields: str) -> None:
    """Replace files, as an ACME client does: all, or the given ones."""
    for name in fields or vars(source):
        shutil.copyfile(getattr(source, name), getattr(live, name) + ".new")
        os.replace(getattr(live, name) + ".new", getattr(live, name))


def make(live: CertificateFiles, **config: Any) -> Tls:
    return Tls(TlsConfig(live.certfile, live.keyfile, **config))


def look_twice(tls: Tls) -> bool:
    assert not tls.reload_if_changed(), "taken at first sight"
    return tls.reload_if_changed()


def accepts(tls: Tls, client: ssl.SSLContext, server_name: str = "localhost") -> bool:
    """Return whether the handshake of a client succeeds."""
    try:
        connect(TlsStream(tls.context), TlsClient(client, server_name))
    except (TlsError, ssl.SSLError):
        return False
    return True


def shows(tls: Tls, files: CertificateFiles, server_name: str = "localhost") -> bool:
    """Return whether the server presents a certificate of the authority of `files`."""
    return accepts(tls, files.client_context(), server_name)


def test_nothing_is_loaded_while_nothing_changes(live: CertificateFiles, old: CertificateFiles) -> None:
    tls = make(live)

    assert [tls.reload_if_changed() for _ in range(3)] == [False] * 3
    assert shows(tls, old)


def test_a_new_certificate_is_shown_and_its_expiry_logged(
    live: CertificateFiles, new: CertificateFiles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tls = make(live)
    context = tls.context
    put(new, live)

    assert look_twice(tls)
    assert shows(tls, new)
    assert tls.context is context
    assert [tls.reload_if_changed() for _ in range(2)] == [False] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "TLS: certificates loaded again, valid until 3000-01-01"
    ]


def test_files_that_still_change_are_not_loaded(
    live: CertificateFiles, old: CertificateFiles, new: CertificateFiles
) -> None:
    tls = make(live)
    for size in range(3):
        Path(live.certfile).write_bytes(Path(new.certfile).read_bytes()[: 100 + size])
        assert not tls.reload_if_changed()
    assert shows(tls, old)
    put(new, live)

    assert look_twice(tls)
    assert shows(tls, new)


@pytest.mark.parametrize("broken", ["mismatch", "half", "missing"])
def test_invalid_files_are_logged_once_and_the_old_certificates_stay(
    live: CertificateFiles,
    old: CertificateFiles,
    new: CertificateFiles,
    broken: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tls = make(live)
    if broken == "mismatch":
        put(new, live, "certfile")
    elif broken == "half":
        Path(live.certfile).write_bytes(Path(new.certfile).read_bytes()[:200])
    else:
        Path(live.certfile).unlink()

    assert [tls.reload_if_changed() for _ in range(5)] == [False] * 5
    assert [(record.name, record.levelno) for record in caplog.records] == [("gserver.tls.contexts", logging.ERROR)]
    assert repr(live.certfile) in caplog.text
    assert shows(tls, old)

    put(new, live)
    assert look_twice(tls)
    assert shows(tls, new)


def test_a_change_back_to_the_old_files_is_not_logged_after_an_error(
    live: CertificateFiles, old: CertificateFiles, new: CertificateFiles, caplog: pytest.LogCaptureFixture
) -> None:
    tls = make(live)
    put(new, live, "certfile")
    look_twice(tls)
    caplog.clear()
    put(old, live, "certfile")

    assert look_twice(tls)
    assert shows(tls, old)
    assert caplog.records == []


def test_a_certificate_with_another_type_of_key_leaves_the_old_one_nowhere(
    live: CertificateFiles, old: CertificateFiles
) -> None:
    """In one context, OpenSSL would keep both, and choose by the preference of the client."""
    tls = make(live)
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", key_type=trustme.KeyType.RSA)
    Path(live.keyfile).write_bytes(certificate.private_key_pem.bytes())
    Path(live.certfile).write_bytes(certificate.cert_chain_pems[0].bytes())
    assert look_twice(tls)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)

    assert accepts(tls, client)
    client = old.client_context()
    client.maximum_version = V1_2
    client.set_ciphers("ECDHE+ECDSA")
    assert not accepts(tls, client)


def test_certificates_of_server_names_change_too(
    live: CertificateFiles, old: CertificateFiles, new: CertificateFiles, tmp_path: Path
) -> None:
    before = make_certificates(tmp_path / "before", "example.org")
    after = make_certificates(tmp_path / "after", "example.org")
    site = str(tmp_path / "site.pem")
    shutil.copyfile(before.combined, site)
    tls = make(live, sni=(("example.org", site, None),))
    assert shows(tls, before, "example.org")
    shutil.copyfile(after.combined, site)

    assert look_twice(tls)
    assert shows(tls, after, "example.org")
    assert shows(tls, old)


def test_handshakes_and_connections_of_before_go_on(
    live: CertificateFiles, old: CertificateFiles, new: CertificateFiles
) -> None:
    tls = make(live)
    stream, client = TlsStream(tls.context), TlsClient(old.client_context())
    connect(stream, client)
    begun, waiting = TlsStream(tls.context), TlsClient(old.client_context())
    begun.handshake(waiting.handshake())
    put(new, live)
    assert look_twice(tls)

    assert stream.decrypt(client.encrypt(b"still here")) == b"still here"
    assert begun.handshake(waiting.handshake(begun.take_outgoing()))


class TestSessions:
    @pytest.fixture(params=[V1_2, V1_3], ids=["TLSv1.2", "TLSv1.3"])
    def client(self, request: pytest.FixtureRequest, old: CertificateFiles) -> ssl.SSLContext:
        context = old.client_context(with_certificate=True)
        context.maximum_version = request.param
        return context

    def resumes(self, tls: Tls, client: ssl.SSLContext, session: ssl.SSLSession | None) -> bool:
        stream = TlsStream(tls.context)
        connect(stream, TlsClient(client, session=session))
        return stream.info.resumed

    def session(self, tls: Tls, client: ssl.SSLContext) -> ssl.SSLSession | None:
        peer = TlsClient(client)
        connect(TlsStream(tls.context), peer)
        return peer.tls.session

    def test_are_resumed(self, live: CertificateFiles, client: ssl.SSLContext) -> None:
        tls = make(live, cert_reqs="required", ca_certs=live.ca)

        assert self.resumes(tls, client, self.session(tls, client))
        assert not self.resumes(tls, client, None)

    def test_outlive_a_change_of_certificates(
        self, live: CertificateFiles, new: CertificateFiles, client: ssl.SSLContext
    ) -> None:
        tls = make(live)
        session = self.session(tls, client)
        put(new, live)
        assert look_twice(tls)

        assert self.resumes(tls, client, session)

    def test_end_with_a_change_of_authorities(
        self, live: CertificateFiles, old: CertificateFiles, new: CertificateFiles, client: ssl.SSLContext
    ) -> None:
        """The client of the session may have a certificate of the removed authority."""
        tls = make(live, cert_reqs="optional", ca_certs=live.ca)
        session = self.session(tls, client)
        put(new, live, "ca")
        assert look_twice(tls)

        with pytest.raises(TlsError, match="certificate is not accepted"):
            self.resumes(tls, client, session)
        client = new.client_context(with_certificate=True)
        client.load_verify_locations(old.ca)
        assert accepts(tls, client)


def test_only_a_change_of_authorities_makes_a_new_context(live: CertificateFiles, new: CertificateFiles) -> None:
    tls = make(live, cert_reqs="optional", ca_certs=live.ca)
    contexts = [tls.context]
    for field in ("ca", "combined", "ca"):
        put(new, live, *(("certfile", "keyfile") if field == "combined" else (field,)))
        assert look_twice(tls)
        contexts.append(tls.context)

    assert [one is other for one, other in pairwise(contexts)] == [False, True, False]


class TestTheHook:
    def test_is_called_again(self, live: CertificateFiles, new: CertificateFiles) -> None:
        calls: list[TlsConfig] = []

        def hook(config: TlsConfig, factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
            calls.append(config)
            return factory()

        tls = make(live, ssl_context=hook)
        put(new, live)

        assert look_twice(tls)
        assert len(calls) == 2
        assert shows(tls, new)

    def test_that_chooses_by_name_makes_a_context_that_takes_part(
        self, live: CertificateFiles, new: CertificateFiles
    ) -> None:
        def hook(config: TlsConfig, factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
            context = factory()
            context.sni_callback = lambda connection, name, context: None
            return context

        tls = make(live, ssl_context=hook)
        before = tls.context
        put(new, live)

        assert look_twice(tls)
        assert tls.context is not before
        assert shows(tls, new)

    def test_that_fails_changes_nothing(
        self,
        live: CertificateFiles,
        old: CertificateFiles,
        new: CertificateFiles,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        times = ["once"]

        def hook(config: TlsConfig, factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
            assert times.pop()
            return factory()

        tls = make(live, ssl_context=hook)
        put(new, live)

        assert not look_twice(tls)
        assert "setting ssl_context: the hook failed: IndexError: pop from empty list" in caplog.text
        assert shows(tls, old)

    def test_may_give_the_same_context_again(self, live: CertificateFiles, new: CertificateFiles) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

        def hook(config: TlsConfig, factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
            context.load_cert_chain(config.certfile, config.keyfile)
            return context

        tls = make(live, ssl_context=hook)
        for files in (new, new):
            put(files, live)
            assert look_twice(tls)
            assert shows(tls, files)

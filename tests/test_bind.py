"""Addresses as text."""

from __future__ import annotations

import pytest

from gserver.bind import Bind, FdBind, TcpBind, UnixBind, parse_bind


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:3000", TcpBind("127.0.0.1", 3000)),
        ("localhost:0", TcpBind("localhost", 0)),
        ("[::1]:65535", TcpBind("::1", 65535)),
        (":80", TcpBind("", 80)),
        ("*:80", TcpBind("", 80)),
        ("unix:/run/x.sock", UnixBind("/run/x.sock")),
    ],
)
def test_an_address_is_read(text: str, bind: Bind) -> None:
    assert parse_bind(text) == bind


@pytest.mark.parametrize("text", ["127.0.0.1:3000", "[::1]:1", "unix:/a b"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_bind(text)) == text


@pytest.mark.parametrize("text", ["", "3000", "host", "host:", "host:http", "host:-1", "host:65536", "::1:80", "unix:"])
def test_a_wrong_address_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        parse_bind(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("unix:/x,mode=660", UnixBind("/x", 0o660)),
        ("unix:/x,mode=600,user=me,group=us", UnixBind("/x", 0o600, "me", "us")),
        ("unix:x,group=5", UnixBind("x", group="5")),
        ("fd://3", FdBind(3)),
    ],
)
def test_options_and_descriptors_are_read_and_written(text: str, bind: Bind) -> None:
    assert parse_bind(text) == bind
    assert str(bind) == text


@pytest.mark.parametrize(
    "text",
    [
        *("unix:x,mode=8", "unix:x,mode=1000", "unix:x,mode=", "unix:x,colour=red", "unix:x,", "unix:,mode=600"),
        *("fd://", "fd://x", "fd://-1"),
    ],
)
def test_wrong_options_and_descriptors_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        parse_bind(text)
    assert repr(text) in str(caught.value)

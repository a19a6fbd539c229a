"""Addresses: parsed from text and converted to text."""

from __future__ import annotations

import pytest

from gserver.config.addresses import Bind, FdBind, TcpBind, UnixBind, describe_address, parse_bind


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:3000", TcpBind("127.0.0.1", 3000)),
        ("localhost:0", TcpBind("localhost", 0)),
        ("[::1]:65535", TcpBind("::1", 65535)),
        (":80", TcpBind("", 80)),
        ("*:80", TcpBind("", 80)),
        ("unix:/run/x.sock", UnixBind("/run/x.sock")),
        ("unix:@x", UnixBind("@x")),
    ],
)
def test_an_address_is_read(text: str, bind: Bind) -> None:
    assert parse_bind(text) == bind


@pytest.mark.parametrize("text", ["127.0.0.1:3000", "[::1]:1", "unix:/a b", "unix:@a b", "unix:./@a"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_bind(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "3000", "host", "host:", "host:http", "host:-1", "host:65536", "::1:80", "unix:", "host:+1", "host: 1"),
        *(
            "host:\N{SUPERSCRIPT TWO}",
            "host:" + "9" * 5000,
            "[::1]",
            "[]:80",
            "[::1:80",
            "::1]:80",
            "[name]:80",
            ":",
            "a\0b:80",
        ),
    ],
)
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
        *("unix:x,mode=-1", "unix:x,user=", "unix:x,mode", "unix:x,MODE=600", "unix:\0x", "unix:x,mode=600,mode=660"),
        *("unix:@", "unix:@,mode=600"),
        *("fd://", "fd://x", "fd://-1", "fd://3.0", "fd://2147483648", "fd://\N{SUPERSCRIPT TWO}"),
    ],
)
def test_wrong_options_and_descriptors_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        parse_bind(text)
    assert repr(text) in str(caught.value)


def test_an_equals_sign_in_a_value_is_part_of_it() -> None:
    assert parse_bind("unix:x,user=a=b") == UnixBind("x", user="a=b")


def test_the_order_of_options_does_not_matter() -> None:
    assert parse_bind("unix:x,group=us,mode=600") == parse_bind("unix:x,mode=600,group=us")


@pytest.mark.parametrize("mode", [0, 0o7, 0o777])
def test_every_mode_survives_being_written(mode: int) -> None:
    assert parse_bind(str(UnixBind("x", mode))) == UnixBind("x", mode)


@pytest.mark.parametrize("option", ["mode=600", "user=me", "group=us"])
def test_an_abstract_socket_has_no_permissions(option: str) -> None:
    with pytest.raises(ValueError, match=f"has the option {option!r}: an abstract socket has no permissions"):
        parse_bind(f"unix:@x,{option}")


def test_an_abstract_name_is_bound_behind_a_zero_byte() -> None:
    assert UnixBind("@x").address == "\0x"
    assert UnixBind("./@x").address == "./@x"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("fe80::1", 80, 0, 1), "[fe80::1%lo]:80"),
        (("fe80::1", 80, 0, 99999), "[fe80::1%99999]:80"),
        ("/run/x", "unix:/run/x"),
        ("/run/\n\udcff", "unix:/run/\\n\\udcff"),
        (b"\0name", "unix:@name"),
        (b"\0a\0\xff", "unix:@a\\x00\\udcff"),
        ("", "unix:"),
    ],
)
def test_an_address_of_a_socket_is_written_so_that_it_can_be_printed(
    address: tuple[object, ...] | str | bytes, text: str
) -> None:
    assert describe_address(address) == text

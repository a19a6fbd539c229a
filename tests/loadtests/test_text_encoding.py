"""Text in encodings that lack characters, and undecoded bytes."""

from __future__ import annotations

import argparse
import io

import pytest

from loadtests.commands.load_options import host_and_port
from loadtests.text_encoding import SHOWABLE, as_text
from loadtests.url import host_name, parse_host

NAME = "étiquette 結果"


def undecoded(text: str) -> str:
    """An argument as Python decodes it in an ASCII locale."""
    return text.encode().decode("ascii", "surrogateescape")


def test_bytes_that_the_locale_could_not_decode_are_utf_8() -> None:
    assert as_text(undecoded(NAME)) == NAME
    assert as_text(NAME) == NAME


@pytest.mark.parametrize(("text", "shown"), [("a\udce9b", "a\\xe9b"), ("a\ud800b", "a\\ud800b")])
def test_bytes_that_are_not_utf_8_are_escaped(text: str, shown: str) -> None:
    assert as_text(text) == shown


@pytest.mark.parametrize(
    ("text", "ascii_text"),
    [
        ("36.9 µs", "36.9 us"),
        ("A — B", "A - B"),
        ("1 \N{MULTIPLICATION SIGN} 2 …", "1 x 2 ..."),
        ("Größe", "Grosse"),
        ("🟢 better, 🔴 worse", "[green] better, [red] worse"),
        ("┏━┓┃", "+-+|"),
        ("“x” ≤ y → z", '"x" <= y -> z'),
        (NAME, "etiquette \\u7d50\\u679c"),
    ],
)
def test_ascii_gets_readable_replacements(text: str, ascii_text: str) -> None:
    assert text.encode("ascii", SHOWABLE).decode() == ascii_text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "euc-jp"])
def test_undecoded_bytes_are_written_unchanged(encoding: str) -> None:
    path = b"/results/\xc3\xa9\xff"

    assert path.decode("ascii", "surrogateescape").encode(encoding, SHOWABLE) == path


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("latin-1", "36.9 µs \N{MULTIPLICATION SIGN} - é"),
        ("cp1252", "36.9 µs \N{MULTIPLICATION SIGN} — é"),
        ("koi8-r", "36.9 us x - e"),
        ("utf-8", "36.9 µs \N{MULTIPLICATION SIGN} — é"),
    ],
)
def test_an_encoding_keeps_its_own_characters(encoding: str, shown: str) -> None:
    assert "36.9 µs \N{MULTIPLICATION SIGN} — é".encode(encoding, SHOWABLE).decode(encoding) == shown


def test_utf_8_files_keep_all_characters() -> None:
    file = io.BytesIO()
    text = io.TextIOWrapper(file, "utf-8", SHOWABLE)
    text.write(f"{undecoded(NAME)} {NAME} µs\n")
    text.flush()

    assert file.getvalue().decode() == f"{NAME} {NAME} µs\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "euc-jp", "gb18030", "koi8-r", "utf-16", "utf-8"])
def test_no_codec_fails(encoding: str) -> None:
    everything = "".join(map(chr, [*range(32, 0x3000, 7), *range(0xD800, 0xE000, 97), *range(0x1F300, 0x1F700)]))

    assert everything.encode(encoding, SHOWABLE)


@pytest.mark.parametrize(
    ("text", "name"),
    [("localhost", "localhost"), ("::1", "::1"), ("höst", "xn--hst-sna"), (undecoded("höst"), "xn--hst-sna")],
)
def test_a_host_has_its_name_in_ascii(text: str, name: str) -> None:
    assert host_name(text) == name


@pytest.mark.parametrize("text", ["a..b", "x" * 64])
def test_an_impossible_host_name_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*' cannot be the name of a host$"):
        host_name(text)
    with pytest.raises(ValueError, match="cannot be the name of a host"):
        parse_host(f"tcp://{text}:80")
    with pytest.raises(argparse.ArgumentTypeError, match="cannot be the name of a host"):
        host_and_port(f"{text}:80")

"""The registry of codecs, and the golden bytes of each: tests/corpus/<codec>/<case>.json.

A case is a JSON object:

    codec      a name of the registry          options    keyword arguments of the codec
    wire       the bytes, as Latin-1 text      messages   what they decode to: Latin-1 text for bytes, {"json": value},
                                                          or {"malformed": text}
    error      optional: the ProtocolError after these messages, as "Kind: text"
    encoded    optional: what the messages encode to where that is not `wire`; null if it cannot be encoded
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gserver.codecs import (
    CODECS,
    Codec,
    ContentLength,
    Delimited,
    JsonLines,
    LengthPrefixed,
    Lines,
    Malformed,
    Netstring,
    OctetCounted,
    Raw,
    VarintPrefixed,
    codec_named,
)
from gserver.errors import ConfigError, ProtocolError
from gserver.testing.codec_checks import comparable

CORPUS = Path(__file__).parents[2] / "corpus"
CASES = sorted(CORPUS.glob("*/*.json"))


def load(path: Path) -> dict[str, Any]:
    case: dict[str, Any] = json.loads(path.read_text("utf-8"))
    unknown = case.keys() - {"codec", "options", "wire", "messages", "error", "encoded"}
    assert not unknown, unknown
    return case


def make_codec(case: dict[str, Any]) -> Codec:
    return codec_named(case["codec"])(**case["options"])


def make_message(written: Any) -> Any:
    if isinstance(written, str):
        return written.encode("latin-1")
    return Malformed(written["malformed"]) if "malformed" in written else written["json"]


def decode_until_error(codec: Codec, wire: bytes) -> tuple[list[Any], str | None]:
    messages = []
    try:
        codec.receive(wire)
        for message in codec.messages():
            messages.append(comparable(message))
        codec.eof()
    except ProtocolError as error:
        return messages, f"{type(error).__name__}: {error}"
    return messages, None


parametrized = pytest.mark.parametrize("path", CASES, ids=[f"{path.parent.name}/{path.stem}" for path in CASES])


@parametrized
def test_golden_bytes_decode_to_their_messages(path: Path) -> None:
    case = load(path)
    messages, error = decode_until_error(make_codec(case), case["wire"].encode("latin-1"))

    assert messages == [comparable(make_message(written)) for written in case["messages"]]
    assert error == case.get("error")


@parametrized
def test_messages_encode_to_their_golden_bytes(path: Path) -> None:
    case = load(path)
    expected = case.get("encoded", case["wire"])
    codec = make_codec(case)
    messages = [make_message(written) for written in case["messages"]]
    if expected is None:
        assert "error" in case or any(isinstance(message, Malformed) for message in messages)
    else:
        assert b"".join(map(codec.encode, messages)) == expected.encode("latin-1")


def test_every_codec_has_golden_bytes() -> None:
    assert {load(path)["codec"] for path in CASES} == set(CODECS)
    assert all(path.parent.name == load(path)["codec"] for path in CASES)


def test_every_shape_of_a_length_has_golden_bytes() -> None:
    options = [load(path)["options"] for path in CASES if path.parent.name == "length"]
    shapes = {
        (each.get("header_bytes", 4), each.get("byteorder", "big"), each.get("includes_header", False))
        for each in options
    }

    assert len(shapes) == 20


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("raw", Raw),
        ("lines", Lines),
        ("length", LengthPrefixed),
        ("json_lines", JsonLines),
        ("delimited", Delimited),
        ("varint", VarintPrefixed),
        ("netstring", Netstring),
        ("octet_counted", OctetCounted),
        ("content_length", ContentLength),
    ],
)
def test_codecs_are_known_by_their_names(name: str, kind: type) -> None:
    assert codec_named(name) is kind


@pytest.mark.parametrize("name", ["", "Lines", "json", "gserver.codecs:Lines"])
def test_an_unknown_name_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"expected one of {', '.join(CODECS)}$"):
        codec_named(name)

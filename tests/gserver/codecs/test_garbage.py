"""Random bytes give the same messages and the same error, in pieces of any size: every codec, every variant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import CODECS, Codec
from gserver.testing.codec_checks import check_garbage
from tests.helpers.codec_variants import ALPHABETS, VARIANTS
from tests.helpers.cuts import cut_anywhere

EVERY = [(name, make) for name, makes in VARIANTS.items() for make in makes]
every_codec = pytest.mark.parametrize(
    ("name", "make"), EVERY, ids=[f"{name}-{number}" for number, (name, _) in enumerate(EVERY)]
)

#: One draw: to draw as many lists and numbers takes three times as long, and longer than the test itself.
DICE = st.binary(min_size=33, max_size=33)


def test_every_codec_has_variants() -> None:
    assert VARIANTS.keys() >= CODECS.keys()
    assert VARIANTS.keys() == ALPHABETS.keys()


def spell(dice: bytes, alphabet: list[bytes]) -> bytes:
    """Up to 16 pieces of the alphabet or random bytes."""
    pairs = [*zip(dice[1::2], dice[2::2], strict=True)][: dice[0] % 17]
    return b"".join(alphabet[value % len(alphabet)] if kind < 128 else bytes([value]) for kind, value in pairs)


@every_codec
@given(data=st.data())
def test_garbage_gives_messages_or_a_protocol_error(name: str, make: Callable[[], Codec], data: st.DataObject) -> None:
    wire = spell(data.draw(DICE), ALPHABETS[name])

    check_garbage(make, wire, name != "raw")
    check_garbage(make, wire, name != "raw", cut_anywhere(data, wire))

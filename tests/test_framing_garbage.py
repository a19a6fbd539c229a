"""Any bytes, cut anywhere, are the same messages and the same error: every codec, in every shape."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.framing import CODECS, Codec
from tests.helpers.codec_kit import check_garbage
from tests.helpers.codec_variants import ALPHABETS, VARIANTS
from tests.helpers.cuts import cut_anywhere

EVERY = [(name, make) for name, makes in VARIANTS.items() for make in makes]
every_codec = pytest.mark.parametrize(
    ("name", "make"), EVERY, ids=[f"{name}-{number}" for number, (name, _) in enumerate(EVERY)]
)


def test_every_codec_has_variants() -> None:
    assert VARIANTS.keys() >= CODECS.keys()
    assert VARIANTS.keys() == ALPHABETS.keys()


@every_codec
@given(data=st.data())
def test_garbage_gives_messages_or_a_protocol_error(name: str, make: Callable[[], Codec], data: st.DataObject) -> None:
    wire = b"".join(data.draw(st.lists(st.sampled_from(ALPHABETS[name]) | st.binary(max_size=3))))

    check_garbage(make, wire, name != "raw")
    check_garbage(make, wire, name != "raw", cut_anywhere(data, wire))

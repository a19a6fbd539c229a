"""The fields in C: a compiled module that was built from other sources is refused."""

from __future__ import annotations

import pytest

from gserver.connection import native_fields
from gserver.connection.buffer_sizes import HIGH_WATER, RECEIVE_BYTES
from gserver.connection.native_fields import IS_NATIVE

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="gserver is not compiled")


def test_the_compiled_module_has_the_same_sizes() -> None:
    from gserver import _native

    assert (_native.RECEIVE_BYTES, _native.HIGH_WATER) == (RECEIVE_BYTES, HIGH_WATER)


def test_a_compiled_module_without_a_field_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was built before the field was added."""
    monkeypatch.setattr(native_fields._Slots, "__slots__", (*native_fields._Slots.__slots__, "added"))

    with pytest.raises(RuntimeError, match="built from other sources"):
        native_fields._fastest()


@pytest.mark.parametrize("name", ["RECEIVE_BYTES", "HIGH_WATER"])
def test_a_compiled_module_with_other_sizes_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(native_fields, name, 1)

    with pytest.raises(RuntimeError, match="built from other sources"):
        native_fields._fastest()

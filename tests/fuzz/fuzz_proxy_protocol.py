"""Coverage-guided fuzzing of the PROXY header, with atheris: python tests/fuzz/fuzz_proxy_protocol.py [-runs=N ...]

Any bytes give a header, the beginning of one or a ProxyError. In two pieces they give the same as in one, and no bytes
after the header are consumed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["gserver.server.proxy_protocol"]):
    from gserver.server.proxy_protocol import ProxyHeader, ProxyReader
from gserver.errors import ProxyError

BEGINS = [b"", b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"]


def read(pieces: list[bytes]) -> tuple[ProxyHeader | None, int] | None:
    """Return the header and the number of consumed bytes; None if it is refused."""
    reader, taken = ProxyReader("auto"), 0
    try:
        for piece in pieces:
            if reader.header is None:
                taken += reader.feed(piece)
    except ProxyError:
        return None
    return reader.header, taken


def fuzz(data: bytes) -> None:
    """Check the reader with one input."""
    source = atheris.FuzzedDataProvider(data)
    cut = source.ConsumeIntInRange(1, 64)
    wire = source.PickValueInList(BEGINS) + source.ConsumeBytes(len(data))
    if not wire:
        return
    whole = read([wire])
    pieces = read([wire[:cut], wire[cut:]] if wire[cut:] else [wire])
    assert whole == pieces, (wire, cut, whole, pieces)
    if whole is not None and whole[0] is not None:
        assert read([wire[: whole[1]]]) == whole


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()

"""Coverage-guided fuzzing of the codecs, with atheris (libFuzzer): python tests/fuzz/fuzz_codecs.py CODEC [-runs=N ...]

Checked as in the test suite: any bytes give messages or a ProtocolError, and the same ones whole, byte by byte and in
any other pieces. Some bytes of an input choose the codec's options, the cuts, and whether spell() is used.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
with atheris.instrument_imports(include=["gserver.codecs"]):
    import gserver.codecs  # noqa: F401
from gserver.testing.codec_checks import check_garbage  # noqa: E402
from tests.helpers.codec_variants import ALPHABETS, VARIANTS  # noqa: E402

MOST_CUTS = 6


def fuzz(name: str, data: bytes) -> None:
    """Check one codec with one input."""
    source = atheris.FuzzedDataProvider(data)
    make = source.PickValueInList(VARIANTS[name])
    spells = source.ConsumeBool()
    cuts = sorted(source.ConsumeIntListInRange(MOST_CUTS, 0, 64))
    rest = source.ConsumeBytes(len(data))
    wire = spell(ALPHABETS[name], rest) if spells else rest
    edges = [0, *cuts, len(wire)]
    pieces = [wire[start:end] for start, end in pairwise(edges)]
    check_garbage(make, wire, name != "raw", pieces)
    check_garbage(make, wire, name != "raw")


def spell(words: list[bytes], data: bytes) -> bytes:
    """Replace small bytes by pieces of the codec's wire format, which libFuzzer would have to guess byte by byte."""
    return b"".join(words[byte] if byte < len(words) else bytes([byte]) for byte in data)


def main(arguments: list[str]) -> None:
    if len(arguments) < 2 or arguments[1] not in VARIANTS:
        sys.exit(f"usage: {arguments[0]} CODEC [libFuzzer's options], where CODEC is one of {', '.join(VARIANTS)}")
    name = arguments.pop(1)
    atheris.Setup(arguments, lambda data: fuzz(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)

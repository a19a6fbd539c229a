"""Replaces characters that an encoding lacks, and decodes arguments that the locale could not decode.

Files are UTF-8 in every locale; a terminal gets the characters of its encoding. Python keeps bytes that the locale
cannot decode, in arguments and file names, as lone surrogates, which no codec can encode. This module registers the
error handler SHOWABLE, which replaces missing characters by readable ones: µs by us, é by e, an em dash by a hyphen.
"""

from __future__ import annotations

import codecs
import unicodedata

__all__ = ["SHOWABLE", "as_text"]

#: The name of the error handler, for str.encode() and open().
SHOWABLE = "loadtests.showable"
_ASCII = {
    "µ": "u",
    "μ": "u",
    "—": "-",
    "\N{EN DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{MULTIPLICATION SIGN}": "x",
    "·": "*",
    "•": "*",
    "→": "->",
    "←": "<-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "±": "+/-",
    "°": " degrees",
    "“": '"',
    "”": '"',
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "ß": "ss",
    "æ": "ae",
    "Æ": "AE",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
    "\N{LARGE GREEN CIRCLE}": "[green]",
    "\N{LARGE RED CIRCLE}": "[red]",
    "\N{LARGE BLUE CIRCLE}": "[blue]",
    "\N{MEDIUM WHITE CIRCLE}": "[white]",
}
_BOX_LINES = {"─": "-", "━": "-", "═": "=", "│": "|", "┃": "|", "║": "|"}


def as_text(text: str) -> str:
    """The text with its undecoded bytes decoded as UTF-8; as \\xHH if they are not UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that is not an undecoded byte
        return text.encode("utf-8", "backslashreplace").decode()


def _showable(error: UnicodeError) -> tuple[str | bytes, int]:
    """The error handler: the replacement for the first character or the first undecoded bytes, and the next position.

    Undecoded bytes usually belong to a path. They are written unchanged, so that the path can be copied.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text, end = error.object, error.start
    while end < len(text) and _is_byte(text[end]):
        end += 1
    if end == error.start:
        return _in_ascii(text[end]), end + 1
    undecoded = text[error.start : end]
    if error.encoding == "utf-8":
        return as_text(undecoded).encode(), end
    return as_text(undecoded) if "utf" in error.encoding else undecoded.encode("ascii", "surrogateescape"), end


def _is_byte(letter: str) -> bool:
    return "\udc80" <= letter <= "\udcff"


def _in_ascii(letter: str) -> str:
    if letter.isascii():
        return letter
    if letter in _ASCII:
        return _ASCII[letter]
    if "─" <= letter <= "╿":
        return _BOX_LINES.get(letter, "+")
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()  # é is e and an accent
    return plain or letter.encode("ascii", "backslashreplace").decode()


codecs.register_error(SHOWABLE, _showable)

"""Text where an encoding lacks a letter: files are UTF-8 whatever the locale is, and a terminal gets what it can show.

Python keeps bytes that the locale cannot decode as lone surrogates: arguments in a shell with LC_ALL=C, and names of
files. No codec writes those. This module registers the error handler SHOWABLE, which replaces what an encoding lacks
by something that a person can read: µs by us, é by e, an em dash by a hyphen.
"""

from __future__ import annotations

import codecs
import unicodedata

__all__ = ["SHOWABLE", "as_text"]

#: The name of the error handler, as str.encode() and open() take it.
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
    """The text with every byte that the locale could not decode read as UTF-8; \\xHH where it is not UTF-8 either."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "backslashreplace").decode()


def _showable(error: UnicodeError) -> tuple[str | bytes, int]:
    """What stands for the first letter that an encoding lacks, or for the bytes there; and where to go on.

    Bytes that the locale could not decode are a path, as a rule: they go out as they came in, so that it can be copied.
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

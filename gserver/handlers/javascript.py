"""JavaScript numbers: adds them as doubles, and formats them as JSON.stringify() does.

JSON does not define the range of numbers (RFC 8259, 6); most peers use JavaScript's. Python's output differs: 1001.0
for 1001, 1e+16 for 10000000000000000, and integers beyond 2**53, which such a peer cannot represent.
"""

from __future__ import annotations

import math

import msgspec

__all__ = ["add", "stringify"]

# Below this bound, two integers and their sum are exact as doubles, and JavaScript and Python format them alike.
_EXACT = 2**52


def add(a: int | float, b: int | float) -> int | msgspec.Raw | None:
    """Return a + b, ready for the JSON encoder (a Raw is copied as it is); None if the sum is not finite."""
    if type(a) is int and type(b) is int and -_EXACT < a < _EXACT and -_EXACT < b < _EXACT:
        return a + b
    try:
        total = float(a) + float(b)
    except OverflowError:  # an integer beyond the range of doubles
        return None
    return msgspec.Raw(stringify(total).encode()) if math.isfinite(total) else None


def stringify(number: float) -> str:
    """Format a finite number as ECMAScript's Number::toString(x, 10) does: the shortest text that is read as it.

    Python's repr() has the same digits, but other rules for the position of the point.
    """
    if number == 0:
        return "0"  # a negative zero too
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    padded = (whole + fraction).rstrip("0")
    digits = padded.lstrip("0")
    # The number is 0.DIGITS * 10 ** point.
    point = len(whole) - (len(padded) - len(digits)) + int(exponent or 0)
    return ("-" if number < 0 else "") + _placed(digits, point)


def _placed(digits: str, point: int) -> str:
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    more = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{more}e{point - 1:+d}"

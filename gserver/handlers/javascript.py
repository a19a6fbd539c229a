"""Numbers of JavaScript: added up as doubles, and written as JSON.stringify() writes them.

JSON has no numbers of its own (RFC 8259, 6): most peers have JavaScript's. Python's differ in what a person sees of
them: 1001.0 for 1001, 1e+16 for 10000000000000000, and integers beyond 2**53 that such a peer cannot hold.
"""

from __future__ import annotations

import math

import msgspec

__all__ = ["add", "stringify"]

# Below it two integers and their sum are exact as doubles, and are written alike by JavaScript and Python.
_EXACT = 2**52


def add(a: int | float, b: int | float) -> int | msgspec.Raw | None:
    """Return a + b to be encoded as JSON, a Raw as it is; None where it is not finite."""
    if type(a) is int and type(b) is int and -_EXACT < a < _EXACT and -_EXACT < b < _EXACT:
        return a + b
    try:
        total = float(a) + float(b)
    except OverflowError:  # an integer that no double holds
        return None
    return msgspec.Raw(stringify(total).encode()) if math.isfinite(total) else None


def stringify(number: float) -> str:
    """Return the shortest text that reads as the finite `number`, by the rules of ECMAScript's Number::toString(x, 10).

    Python's repr() has the same digits, but other rules for where to put the point.
    """
    if number == 0:
        return "0"  # a negative zero too
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    padded = (whole + fraction).rstrip("0")
    digits = padded.lstrip("0")
    # The number is 0.DIGITS times ten to the power of this.
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

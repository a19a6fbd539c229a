"""Source addresses to connect from: reads them from the command line, and chooses them for a server on 127/8. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

__all__ = ["PORTS_OF_A_SOURCE", "loopback_sources", "parse_sources"]

#: Connections for which one source address is enough. connect() tries the 14,000 even ports first. Once these are
#: taken, each connect() looks at all of them again, which takes milliseconds in which nothing else happens.
PORTS_OF_A_SOURCE = 10_000
FIRST_LOOPBACK_SOURCE = "127.0.1.1"


def parse_sources(text: str) -> list[str]:
    """The addresses in a list of ADDRESS or FIRST-LAST, separated by commas; ValueError names a wrong part."""
    return [source for part in text.split(",") if part.strip() for source in _range(part.strip())]


def _range(text: str) -> Iterator[str]:
    first_text, dash, last_text = text.partition("-")
    try:
        first = ipaddress.ip_address(first_text)
        last = ipaddress.ip_address(last_text) if dash else first
    except ValueError:
        raise ValueError(f"source address {text!r}, expected ADDRESS or FIRST-LAST") from None
    if first.version != last.version or not 0 <= int(last) - int(first) < 65536:
        raise ValueError(f"source addresses {text!r}, expected at most 65,536 of one kind, the first one first")
    return (str(ipaddress.ip_address(number)) for number in range(int(first), int(last) + 1))


def loopback_sources(host: str, sockets: int) -> list[str]:
    """Source addresses for `sockets` connections to `host`, an address.

    Empty if one source is enough, or if `host` is not in 127/8.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    if sockets <= PORTS_OF_A_SOURCE or address.version != 4 or not address.is_loopback:
        return []
    count = -(-sockets // PORTS_OF_A_SOURCE)
    first = int(ipaddress.ip_address(FIRST_LOOPBACK_SOURCE))
    return [str(ipaddress.ip_address(first + number)) for number in range(count)]

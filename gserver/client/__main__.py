"""`python -m gserver.client`."""

from __future__ import annotations

from gserver.client.command import entry_point

if __name__ == "__main__":
    entry_point()

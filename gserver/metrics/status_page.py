"""The page for people."""

from __future__ import annotations

from gserver.metrics.readings import Readings

__all__ = ["as_page"]


def as_page(readings: Readings) -> str:
    return f"<!doctype html><title>gserver</title><p>{readings.readiness.reason}"

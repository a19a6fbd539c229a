"""A pytest plugin that patches the process as a worker does: `pytest -p tests.helpers.patched tests/test_x.py`."""

from __future__ import annotations

from gserver.worker.worker import patch_all

patch_all()

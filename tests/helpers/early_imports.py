"""A config file that imports everything in the arbiter: another user may not be able to read this interpreter."""

from __future__ import annotations

__all__ = ["EARLY_IMPORTS"]

EARLY_IMPORTS = """
import importlib, importlib.metadata, pkgutil
import _threading_local, concurrent.futures.thread, encodings.idna, linecache, queue, selectors, subprocess
import gevent, gserver
importlib.metadata.entry_points()
for _found in [*pkgutil.walk_packages(gserver.__path__, "gserver."), *pkgutil.iter_modules(gevent.__path__, "gevent.")]:
    if "__main__" not in _found.name:
        try:
            importlib.import_module(_found.name)
        except ImportError:
            pass
del gevent, gserver
"""

"""Checks for optional packages: one line names the extra to install for a package that is missing.

`pip install gserver-tcp` installs the server and the command `loadtests`, but not the packages that the load tests
import: these are in the extra `loadtests`. `loadtests sample` needs only the extra `sampler`, which is psutil.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

__all__ = ["Extra", "MissingPackage", "needs", "require"]

Extra = Literal["loadtests", "sampler"]
_OWN = ("gserver", "loadtests")


class MissingPackage(ModuleNotFoundError):
    """A package of an extra is not installed, or is too old; the text is one line for the user."""

    def __init__(self, package: str, extra: Extra, what: str = "is not installed") -> None:
        super().__init__(f"{package} {what}: pip install 'gserver-tcp[{extra}]'", name=package)


@contextmanager
def needs(extra: Extra = "loadtests") -> Iterator[None]:
    """Within `with`, an ImportError for a package of `extra` becomes MissingPackage.

    An ImportError for a module of gserver, loadtests or the standard library is raised unchanged.
    """
    try:
        yield
    except MissingPackage:
        raise
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in _OWN or package in sys.stdlib_module_names:
            raise
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise MissingPackage(package, extra) from None
        raise MissingPackage(package, extra, f"cannot be used ({error})") from None


def require(*packages: str) -> None:
    """Raise MissingPackage for a package that is not installed. Imports none: Locust would patch the process."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, "loadtests")

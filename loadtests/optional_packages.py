"""What the load tests need beside gserver: for a package that is not installed, one line with the extra to install.

`pip install gserver-tcp` installs the server, and the command `loadtests` with it. The packages which the load tests
import come with the extra `loadtests`; `loadtests sample` needs `sampler` alone, which is psutil.
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
    """A package of an extra is not installed, or is too old; the text is one line for a person."""

    def __init__(self, package: str, extra: Extra, what: str = "is not installed") -> None:
        super().__init__(f"{package} {what}: pip install 'gserver-tcp[{extra}]'", name=package)


@contextmanager
def needs(extra: Extra = "loadtests") -> Iterator[None]:
    """A block that imports packages of `extra`: MissingPackage for one that cannot be imported.

    An error about a module of gserver, of loadtests or of Python itself is no matter of an extra, and stays as it is.
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
    """MissingPackage for the first of these that is not installed. None is imported: Locust patches its process."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, "loadtests")

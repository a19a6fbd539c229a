"""The former name of gserver.codecs. Every name of that package is also here, and is the same object."""

from gserver.codecs import *  # noqa: F403
from gserver.codecs import __all__ as __all__

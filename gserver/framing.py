"""The former name of gserver.codecs: exports the same names, which are the same objects."""

from gserver.codecs import *  # noqa: F403
from gserver.codecs import __all__ as __all__

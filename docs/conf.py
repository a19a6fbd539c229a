"""Settings of Sphinx, which makes the documentation site: `make docs`.

Warnings are errors there: a link within the site that leads nowhere, a page that no contents list, a docstring that
cannot be read.
"""

from __future__ import annotations

import re
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

import gserver

project = html_title = "gserver"
version = release = gserver.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_heading_anchors = 3  # links to headings, as in the files
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
default_role = "code"
html_theme = "furo"
html_show_copyright = html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    app.add_lexer("haproxy", TextLexer)  # Pygments has none
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-skip-member", is_not_for_users)


def read_docstring(app: Sphinx, what: str, name: str, described: object, options: Any, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText: its sections (Args, Raises), and its examples, which are indented."""
    # Of attributes the extension takes what stands before a colon for a type.
    kind = "method" if what in ("property", "attribute") else what
    lines[:] = GoogleDocstring(with_examples(lines), Config(), app, kind, name, described, options).lines()


def is_not_for_users(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """A connection has methods that only the server calls: dir(conn) does not show them. None: as it was decided."""
    owner, _, _ = getattr(getattr(member, "fget", member), "__qualname__", "").rpartition(".")
    kind = {"Connection": gserver.Connection, "StreamConnection": gserver.StreamConnection}.get(owner)
    return None if kind is None else skip or name not in dir(kind.__new__(kind))


def with_examples(lines: list[str]) -> list[str]:
    """Mark an indented block behind an empty line as code. Stars in text are stars, and not emphasis."""
    made: list[str] = []
    before, is_code = "", False
    for line in lines:
        is_indented = line.startswith("    ")
        if line == "Example:":  # for the extension, what follows would be text
            made += ["Example::", ""]
            is_code = True
            continue
        if line and not is_indented:
            is_code = False
        elif is_indented and not is_code and made and not made[-1] and not before.startswith(" "):
            made += ["::", ""]
            is_code = True
        made.append(line if is_code else re.sub(r"\*", r"\\*", line))
        before = line or before
    return made

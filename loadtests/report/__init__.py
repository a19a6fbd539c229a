"""Reports that people open: a run, several runs or a comparison, in words, in tables and in pictures.

    words, tables, rows              what is said, the tables, and the numbers of the pictures (pure)
    terminal, markdown, document     the text outputs
    charts, run_pictures, comparison_pictures, pictures     what is drawn (Altair), and its files (vl-convert)
    page, templates/                 the HTML file (Jinja); theme.py has its colours
    command                          `loadtests report`

Nothing is computed here that a run does not say already.
"""

from loadtests.report.markdown import render_markdown
from loadtests.report.terminal import render_summary

__all__ = ["render_markdown", "render_summary"]

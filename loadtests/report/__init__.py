"""Reports of runs and comparisons: in words, in tables and in charts.

    summary, run_tables                       words and tables (pure); run_data reads what the charts need
    terminal, markdown, json_report           text outputs of runs
    comparison_text, comparison_overview      text outputs of comparisons
    html_page, comparison_page, live_page     HTML files, from templates/ (Jinja)
    charts/                                   charts (Altair) and their image files (vl-convert)

A report computes no figure: all figures come from the run. Their names come from results/figure_catalog.py.
"""

from loadtests.report.markdown import render_markdown
from loadtests.report.terminal import render_summary

__all__ = ["render_markdown", "render_summary"]

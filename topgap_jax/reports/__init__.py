"""Result files and arrays in; JSON, Markdown, a terminal table, pictures and one HTML page out.

A run directory holds `config.json`, `metrics.jsonl`, `evaluation.json` and `examples.npz`; its twin, if there
is one, the same files in `twin/`. What must stand in them: `runs.py`.
"""

from topgap_jax.reports.html import write_report
from topgap_jax.reports.overview import write_overview_png
from topgap_jax.reports.tables import comparison_markdown, print_report

__all__ = ["comparison_markdown", "print_report", "write_overview_png", "write_report"]

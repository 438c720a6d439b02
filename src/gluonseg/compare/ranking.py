"""The ranked table of a comparison as text for a terminal."""

from __future__ import annotations

from pathlib import Path

from gluonseg.report.columns import get_metric
from gluonseg.report.comparison import read_comparison
from gluonseg.report.verdict import build_verdict

_COLUMNS = ("miou", "builtin_miou", "pixel_accuracy", "boundary_f", "parameters", "train_seconds", "latency_ms")


def format_ranking(folder: Path) -> str:
    """The models of the comparison in ``folder``, best first, with means and spreads over seeds; then the answer."""
    comparison = read_comparison(folder)
    found = build_verdict(comparison)
    lines = [" ".join(text for text in (found.headline, found.caveat) if text)]
    if not comparison.models:
        return lines[0]
    metrics = [get_metric(key) for key in _COLUMNS]
    rows = [["", "model", "seeds", *(metric.title for metric in metrics)]]
    for rank, model in enumerate(comparison.models, 1):
        cells = [metric.join(model.means[metric.key]) for metric in metrics]
        rows.append([str(rank), model.title, str(len(model.runs)), *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = []
    for row in rows:
        cells = [text.ljust(width) if column < 2 else text.rjust(width)
                 for column, (text, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        table.append("  ".join(cells).rstrip())
    return "\n".join([*table, "", *lines])

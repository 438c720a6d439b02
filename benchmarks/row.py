"""Rows of the result: what was compared, both absolute values, the ratio, and whether the ratio clears its bar."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from statistics import median

AT_LEAST, AT_MOST = ">=", "<="
_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One line of the table.

    ``value``, a ratio or a number in ``unit``, is held against ``bar``. ``ours`` and ``theirs`` are absolute, in
    ``unit``; ``theirs`` is None where there is no peer. ``low`` and ``high`` bound a ratio (95 %). A line without
    ``bar`` only informs. ``note`` is printed below the table.
    """

    stage: str
    against: str
    unit: str
    ours: float
    theirs: float | None
    value: float
    bar: float | None = None
    sense: str = AT_LEAST
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the value clears the bar; None without one."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.sense == AT_LEAST else self.value <= self.bar


def build_ratio_row(
    stage: str,
    against: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    bar: float | None = None,
    sense: str = AT_LEAST,
    note: str = "",
) -> ResultRow:
    """A row of two series: the median of ours over theirs, round by round, with the interval of a bootstrap.

    Round by round, since what slows the machine down slows both measurements of a round.
    """
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    draw = random.Random(0)
    medians = sorted(median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    edge = int(0.025 * _RESAMPLES)
    return ResultRow(
        stage, against, unit, median(ours), median(theirs), median(ratios), bar, sense, medians[edge],
        medians[-1 - edge], note,
    )  # fmt: skip


def _format_number(value: float | None) -> str:
    """Five digits: a share of 99.996 % is not 100."""
    return "-" if value is None else f"{value:.5g}"


def format_table(rows: Sequence[ResultRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| stage | against | ours | theirs | unit | value (95 %) | bar | met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        interval = "" if row.low is None or row.high is None else f" ({row.low:.2f} to {row.high:.2f})"
        bar = "-" if row.bar is None else f"{row.sense} {row.bar:g}"
        met = {None: "-", True: "yes", False: "NO"}[row.is_met]
        numbers = f"{_format_number(row.ours)} | {_format_number(row.theirs)} | {row.unit}"
        lines.append(
            f"| {row.stage} | {row.against} | {numbers} | {_format_number(row.value)}{interval} | {bar} | {met} |"
        )
    notes = [f"- {row.stage}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, *([""] if notes else []), *notes])

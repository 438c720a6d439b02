"""What measured seconds would cost on SageMaker's instance types. The prices are data, with their date."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PRICES_FILE = Path(__file__).resolve().with_name("instance_prices.json")
PHOTOS = 1000


class Seconds(NamedTuple):
    """How long a model's training job took here, and its endpoint's answer to one photo."""

    training: float
    photo: float


def format_columns(rows: Sequence[Sequence[str]]) -> str:
    """Lines with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def format_costs(models: Mapping[str, Seconds], path: Path = PRICES_FILE) -> str:
    """A table: what the seconds of each model, by its title, would cost on each instance type."""
    prices = json.loads(path.read_text(encoding="utf-8"))
    rows = [[prices["currency"], "an hour"]]
    for title, seconds in models.items():
        rows[0] += [f"{title}, {seconds.training:.0f} s", f"{PHOTOS:,} photos"]
    for machine, price in prices["an_hour"].items():
        costs = [price / 3600 * one for training, photo in models.values() for one in (training, PHOTOS * photo)]
        rows.append([machine, f"{price:.3f}", *(f"{cost:.4f}" for cost in costs)])
    return f"""\
The seconds measured on this machine times the price of an hour. How fast another machine is was not
measured: this is what a job would cost there if it took as long as here, without storage and transfer.
Prices: {prices["region"]}, {prices["date"]}, {prices["source"]}: {prices["page"]}

{format_columns(rows)}

Photos one after another. An endpoint costs its price of an hour as long as it exists, asked or not."""

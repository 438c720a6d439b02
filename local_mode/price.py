"""What measured seconds would cost on SageMaker's instance types. The prices are data, with their date."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gluonseg.errors import UserError

PRICES_FILE = Path(__file__).resolve().with_name("instance_prices.json")
SECONDS_PER_HOUR = 3600
PHOTOS = 1000


@dataclass(frozen=True)
class Prices:
    """Prices of an hour by instance type, as they were known at ``date``; ``source`` says how."""

    date: str
    region: str
    currency: str
    source: str
    page: str
    training: Mapping[str, float]
    hosting: Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """A model's times on this machine: its training job, and an endpoint's answer to one photo."""

    title: str
    training_s: float
    photo_s: float


def read_prices(path: Path = PRICES_FILE) -> Prices:
    """The prices in a file; UserError when a field is missing, or a price is no positive number."""
    try:
        prices = Prices(**json.loads(path.read_text(encoding="utf-8")))
        for by_type in (prices.training, prices.hosting):
            wrong = [name for name, price in by_type.items() if isinstance(price, bool) or not price > 0]
            if wrong:
                raise ValueError(f"the price of {wrong[0]} is not a positive number")
    except (OSError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} cannot be used: {error}") from None
    return prices


def compute_cost(seconds: float, per_hour: float) -> float:
    """What ``seconds`` cost at a price of ``per_hour``."""
    return seconds / SECONDS_PER_HOUR * per_hour


def format_columns(rows: Sequence[Sequence[str]]) -> str:
    """Lines with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def _tabulate(
    corner: str, by_type: Mapping[str, float], titles: Sequence[str], seconds: Sequence[float]
) -> list[list[str]]:
    rows = [[corner, "an hour", *titles]]
    for name, price in by_type.items():
        rows.append([name, f"{price:.3f}", *(f"{compute_cost(one, price):.4f}" for one in seconds)])
    return rows


def format_costs(prices: Prices, models: Sequence[Measured]) -> str:
    """What the measured seconds would cost on each instance type, and what these numbers are not."""
    training = _tabulate(
        f"training job, {prices.currency}",
        prices.training,
        [f"{model.title}, {model.training_s:.0f} s" for model in models],
        [model.training_s for model in models],
    )
    hosting = _tabulate(
        f"{PHOTOS:,} photos, {prices.currency}",
        prices.hosting,
        [f"{model.title}, {1000 * model.photo_s:.0f} ms" for model in models],
        [PHOTOS * model.photo_s for model in models],
    )
    return "\n".join(
        [
            "The seconds measured on this machine times the price of an hour. How fast another machine is was not",
            "measured: this is what a job would cost there if it took as long as here, without storage and transfer.",
            f"Prices: {prices.region}, {prices.date}, {prices.source}: {prices.page}",
            "",
            format_columns(training),
            "",
            format_columns(hosting),
            "",
            "Photos one after another. An endpoint costs its price of an hour as long as it exists, asked or not.",
        ]
    )

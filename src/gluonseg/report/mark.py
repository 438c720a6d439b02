"""What tells an algorithm from the others in drawings: a colour, and a marker for readers who do not see colours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from gluonseg.models.registry import get_networks

COLOURS = (
    ("#0072b2", "#56b4e9"), ("#c04f00", "#f0954a"), ("#00835f", "#3cc79c"), ("#640078", "#b868c8"),
    ("#b0307a", "#f0407a"), ("#644600", "#fad200"), ("#143cb4", "#6e82fa"), ("#64783c", "#d2e6a0"),
    ("#700016", "#fa2a1e"), ("#3c3c46", "#f0dce6"),
)  # fmt: skip
"""On the light and on the dark page: each has a contrast of at least 4.5:1 with ``--page`` of style.css,
and no two are alike to readers who do not see red, green or blue."""
MARKERS = (
    ("o", "m-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0-8.4 0z"), ("s", "m-3.8-3.8h7.6v7.6h-7.6z"),
    ("^", "m0-5 4.9 8.6h-9.8z"), ("D", "m0-5.2 5.2 5.2-5.2 5.2-5.2-5.2z"),
    ("P", "m-1.6-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z"),
    ("X", "m0-2.1 2.8-2.8 2.1 2.1-2.8 2.8 2.8 2.8-2.1 2.1-2.8-2.8-2.8 2.8-2.1-2.1 2.8-2.8-2.8-2.8 2.1-2.1z"),
    ("v", "m0 5 4.9-8.6h-9.8z"), ("*", "m0-5.6 1.4 3.7 3.9 .2-3 2.4 1 3.8-3.3-2.1-3.3 2.1 1-3.8-3-2.4 3.9-.2z"),
    ("<", "m-5 0 8.6-4.9v9.8z"), (">", "m5 0-8.6-4.9v9.8z"),
)  # fmt: skip
"""As matplotlib names each, and as the path of an SVG, relative to the point that it marks."""
MAX_MARKERS = 12
"""On one line."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """The mark of the algorithm at ``place``; ``light`` and ``dark`` are its colour on pages of either kind."""

    place: int
    light: str
    dark: str
    symbol: str
    path: str

    @property
    def variable(self) -> str:
        """The variable of style.css that is this colour on the light page and on the dark one."""
        return f"mark-{self.place % len(COLOURS)}"

    def thin(self, count: int) -> tuple[int, int]:
        """Which of ``count`` points have a marker: the first, and the step. Close lines have them at other points."""
        step = -(-count // MAX_MARKERS)
        return self.place % step, step


def build_mark(place: int) -> Mark:
    """The mark at ``place``: the first ten differ in colour and in marker, the first hundred in one of them."""
    return Mark(place, *COLOURS[place % 10], *MARKERS[(place + place // 10) % 10])


def number_algorithms(algorithms: Iterable[str]) -> dict[str, int]:
    """The place of each algorithm: a network's is that in the registry, the unknown ones follow, by name."""
    known = get_networks()
    names = [*known, *sorted(set(algorithms) - set(known))]
    return {name: place for place, name in enumerate(names)}

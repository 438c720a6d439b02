"""One thing the label doctor found: what, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gluonseg.text import escape_line, join_names

MAX_EXAMPLES = 10


@dataclass(frozen=True)
class Finding:
    """``kind`` is a fixed word for programs; ``text``, ``examples`` (of ``total``) and ``fix`` are for people."""

    kind: str
    text: str
    examples: tuple[str, ...] = ()
    total: int = 0
    fix: str = ""

    def describe(self, limit: int = MAX_EXAMPLES) -> str:
        """Return it on one line, with at most ``limit`` examples."""
        line = self.text
        if self.examples:
            shown = self.examples[:limit]
            rest = self.total - len(shown)
            line += ": " + "; ".join(shown) + (f"; and {rest} more" if rest > 0 else "")
        # A file name may hold line ends, or bytes that are no text.
        return escape_line(f"{line}. {self.fix}" if self.fix else line)

    def __str__(self) -> str:
        return self.describe()


def build_finding(kind: str, text: str, examples: Iterable[str], fix: str = "") -> Finding | None:
    """Return a finding with the first examples, or None when there is not a single one.

    ``{n}`` in ``text`` becomes their number.
    """
    listed = list(examples)
    if not listed:
        return None
    text = text.replace("{n}", str(len(listed)))
    return Finding(kind, text, tuple(listed[:MAX_EXAMPLES]), len(listed), fix)


def join_labels(labels: Iterable[int], limit: int = 12) -> str:
    """``0, 3, 6 and 2 more``."""
    return join_names([str(label) for label in labels], limit)

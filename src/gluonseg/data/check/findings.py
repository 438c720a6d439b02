"""One thing the label doctor found: what, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gluonseg.text import escape_line

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


def build_findings(kind: str, text: str, examples: Iterable[str], fix: str = "") -> list[Finding]:
    """Return one finding that has the first examples, or none when there is no example.

    ``{n}`` in ``text`` becomes the number of examples.
    """
    listed = list(examples)
    text = text.replace("{n}", str(len(listed)))
    return [Finding(kind, text, tuple(listed[:MAX_EXAMPLES]), len(listed), fix)] if listed else []

"""Text from outside made fit for a log, a terminal and the failure file.

File names, class names, hyperparameters and the words of a decoder can hold line ends, terminal sequences, or what a
log line of this program looks like. Here they become text that is read and cannot be mistaken for anything else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from difflib import get_close_matches

MAX_RECORD = 16_384
"""Characters of one log record; what is longer is cut."""
_INDENT = "\n    "
_MARK = re.compile(r"#(?=(?:\w+_(?:metric|notice)|metrics|label_map)\b)")
"""The beginning of a line that programs read, :data:`gluonseg.METRIC_DEFINITIONS` for one."""
_HARMLESS_MARK = r"\\u0023"


def escape_line(text: str) -> str:
    """``text`` on one line: every character that is not printable as its escape, ``\\n`` for a line end."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def escape_lines(text: str) -> str:
    """``text`` with its line ends, every line of it as by :func:`escape_line`."""
    return text if text.isprintable() else "\n".join(escape_line(line) for line in text.split("\n"))


def shorten(text: str, limit: int = 80) -> str:
    """At most ``limit`` characters of ``text``, and dots where it was longer."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def find_nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that ``name`` was most likely meant to be, or None."""
    matches = get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return matches[0] if matches else None


def join_names(names: Iterable[str], limit: int = 10) -> str:
    """``a, b, c and 4 more``: enough to act on, short enough for one line."""
    listed = list(names)
    text = ", ".join(listed[:limit])
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit} more"


class LineFormatter(logging.Formatter):
    """A formatter whose records cannot be forged by what they tell of.

    No control character comes through; the second and every further line of a record is indented, so that only the
    program itself begins one; and only where the program's own words begin with it does a mark such as
    ``#quality_metric`` stay what metric definitions look for.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = shorten(escape_lines(super().format(record)), MAX_RECORD)
        begin, mark, rest = "", "", text
        if record.args and str(record.msg).startswith("#"):  # the first one there is the program's own
            begin, mark, rest = text.partition("#")
        return f"{begin}{mark}{_MARK.sub(_HARMLESS_MARK, rest)}".replace("\n", _INDENT)

"""Tables of classes and their colours, in the forms that drawing tools and data sets write them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gluonseg.data.decode import read_bytes
from gluonseg.errors import DataError
from gluonseg.labels import IGNORE

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""
NOT_SCORED = ("__ignore__", "ignore", "unlabeled", "unlabelled", "void")
"""Classes of these names, in any case, are not scored."""

_NUMBERS = r"(?P<red>\d{1,3})[\s,;]+(?P<green>\d{1,3})[\s,;]+(?P<blue>\d{1,3})"
_GAP = r"[\s,;:]+"
_FORMS = (
    re.compile(rf"{_NUMBERS}{_GAP}(?P<name>.+)"),  # CamVid: 64 128 64<tab>Animal
    re.compile(rf"(?P<name>.+?)\s*[\s,;:]\s*{_NUMBERS}(?::[^:]*:[^:]*)?"),  # CVAT: car:64,0,128:: and name,r,g,b
    re.compile(rf"#(?P<code>[0-9a-fA-F]{{6}}){_GAP}(?P<name>.+)"),
    re.compile(rf"(?P<name>.+?){_GAP}#(?P<code>[0-9a-fA-F]{{6}})"),
)


@dataclass(frozen=True)
class ColourTable:
    """The classes of a colour table in its order, and the class id of every colour (IGNORE where it is not scored)."""

    class_names: tuple[str, ...]
    class_ids: dict[Colour, int]

    @property
    def colours(self) -> list[Colour]:
        """One colour a class: its first."""
        first: dict[int, Colour] = {}
        for colour, class_id in self.class_ids.items():
            first.setdefault(class_id, colour)
        return [first[class_id] for class_id in range(len(self.class_names))]


def build_colour_table(rows: Iterable[tuple[str, Colour]], source: str) -> ColourTable:
    """A table of (class, colour) rows; a class may have several colours. DataError when a colour has two classes."""
    names: dict[str, int] = {}
    ids: dict[Colour, int] = {}
    for name, colour in rows:
        class_id = IGNORE if name.lower() in NOT_SCORED else names.setdefault(name, len(names))
        if ids.setdefault(colour, class_id) != class_id:
            raise DataError(f"{source}: the colour {colour} belongs to two classes, one of them {name!r}")
    return ColourTable(tuple(names), ids)


def parse_colour(code: str) -> Colour:
    """``#rrggbb`` or ``rrggbb`` as a colour; ValueError for anything else."""
    red, green, blue = bytes.fromhex(code.removeprefix("#"))
    return red, green, blue


def _parse_line(line: str) -> tuple[str, Colour] | None:
    for form in _FORMS:
        match = form.fullmatch(line)
        if match and "code" in match.groupdict():
            return match["name"], parse_colour(match["code"])
        if match:
            colour = int(match["red"]), int(match["green"]), int(match["blue"])
            return (match["name"], colour) if max(colour) <= 255 else None
    return None


def read_colour_table(path: Path) -> ColourTable:
    """Read a colour table: one class a line, its name before or after its colour.

    A colour is three numbers 0 to 255 or ``#rrggbb``. So CVAT's labelmap.txt, CamVid's label_colors.txt and a
    ``name,r,g,b`` CSV are read as they are. The first line may be a heading, without digits;
    lines that begin with "# " are comments.

    Raises:
        DataError: the file or a line of it cannot be read, or a colour belongs to two classes.
    """
    rows = []
    for number, line in enumerate(read_bytes(path).decode("utf-8-sig", errors="replace").splitlines(), start=1):
        text = ",".join(next(csv.reader([line.strip()]), ())).strip()
        if not text or text.startswith("# "):
            continue
        row = _parse_line(text)
        if row is not None:
            rows.append(row)
        elif number > 1 or any(letter.isdigit() for letter in text):
            raise DataError(f"{path} line {number}: expected a name and a colour as in car,64,0,128; got {text[:80]!r}")
    if not rows:
        raise DataError(f"{path} names no class; write lines such as car,64,0,128")
    return build_colour_table(rows, str(path))


def format_colour_table(rows: Iterable[tuple[str, Sequence[int]]]) -> str:
    """The table as ``name,r,g,b`` lines, which :func:`read_colour_table` reads."""
    text = io.StringIO()
    lines = ((name, *(int(number) for number in colour)) for name, colour in rows)
    csv.writer(text, lineterminator="\n").writerows([("name", "r", "g", "b"), *lines])
    return text.getvalue()

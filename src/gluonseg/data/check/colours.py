"""The label doctor's look at the palettes of masks: the index counts, so a colour must have one index in all files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gluonseg.data.check.examined import Examined
from gluonseg.data.check.findings import Finding, build_findings
from gluonseg.data.check.pictures import CONVERT
from gluonseg.data.check.scan import PairFacts
from gluonseg.labels import UInt8Array

Colour = bytes
"""Red, green and blue, a byte each."""
Uses = Mapping[int, str]
"""Labels, each with the name of a mask in which it is used."""


def find_colours(examined: Examined) -> tuple[list[Finding], list[Finding]]:
    """Return (errors, warnings) of palettes that differ from mask to mask.

    A colour with several indices is an error: the index then depends on the file, and means nothing. An index with
    several colours is a warning, because the index may still be right. Splits with different label maps are not
    compared with one another.
    """
    several_indices, several_colours = list[str](), list[str]()
    for splits in examined.group_by_map(examined.splits):
        masks = [item for item in examined.facts if item.palette and item.split in splits]
        several_indices += _iter_apart(masks, examined.table(splits[0]))
        several_colours += _iter_recoloured(masks)
    errors = build_findings(
        "palettes",
        "{n} colours have another index in one mask than in another, and the index is what is read",
        several_indices,
        "If the colour says the class, as where each mask was saved with a palette of its own, convert the masks: "
        f"{CONVERT}. If the index does, save the masks as grey PNG files of it",
    )
    warnings = build_findings(
        "index_colours",
        "{n} indices have another colour in one mask than in another",
        () if errors else several_colours,
        f"The index is read, and not the colour: if the colour says the class, convert the masks: {CONVERT}",
    )
    return errors, warnings


def _pick(palette: bytes, label: int) -> Colour:
    """The colour of a label; b"" for one beyond the palette."""
    return palette[3 * label : 3 * label + 3]


def _iter_apart(masks: Sequence[PairFacts], table: UInt8Array) -> Iterable[str]:
    used: dict[Colour, dict[int, str]] = {}
    for item in masks:
        for label in item.label_counts:
            used.setdefault(_pick(item.palette, label), {}).setdefault(label, item.mask.name)
    palettes = {item.palette for item in masks}
    for colour, uses in used.items():
        if colour and len(uses) > 1 and (apart := _find_apart(colour, uses, palettes, table)):
            yield f"#{colour.hex()} is {' and '.join(f'index {label} in {uses[label]}' for label in apart)}"


def _find_apart(colour: Colour, uses: Uses, palettes: Iterable[bytes], table: UInt8Array) -> list[int]:
    """Two labels of ``colour`` that are different classes, and that no palette has both in this colour; or [].

    A palette may give two classes one colour (as ADE20K's does), or fill its end with one: such labels go together.
    """
    together = {label: {other for other in uses if table[other] == table[label]} for label in uses}
    for palette in palettes:
        alike = [label for label in uses if _pick(palette, label) == colour]
        joined = set[int]().union(*(together[label] for label in alike))
        together |= dict.fromkeys(joined, joined)
    first, *others = uses
    return next(([first, label] for label in others if label not in together[first]), [])


def _iter_recoloured(masks: Sequence[PairFacts]) -> Iterable[str]:
    seen: dict[int, dict[Colour, str]] = {}
    for item in masks:
        for label in item.label_counts:
            if colour := _pick(item.palette, label):
                seen.setdefault(label, {}).setdefault(colour, item.mask.name)
    for label, colours in sorted(seen.items()):
        if len(colours) > 1:
            first, second, *_ = colours
            yield f"index {label} is #{first.hex()} in {colours[first]} and #{second.hex()} in {colours[second]}"

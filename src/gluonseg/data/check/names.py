"""Names of images and masks that differ by a common beginning or end: what would have to be taken off to match them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

_SAMPLE = 20
"""Names that candidates are taken from; each candidate is then tried on all names."""
_CANDIDATES = 5
_WORD = string.ascii_letters + string.digits


class Affixes(NamedTuple):
    """What stands before and after the part of a name that an image and its mask have in common."""

    prefix: str = ""
    suffix: str = ""

    def strip(self, name: str) -> str | None:
        """The name without both, None for one that does not have them."""
        is_long = len(name) > len(self.prefix) + len(self.suffix)
        if not (is_long and name.startswith(self.prefix) and name.endswith(self.suffix)):
            return None
        return name[len(self.prefix) : len(name) - len(self.suffix)]

    def describe(self, whose: str) -> str:
        parts = [(self.prefix, "beginning"), (self.suffix, "end")]
        return " and ".join(f"{part!r} off the {place} of the {whose}' names" for part, place in parts if part)


class NameMatch(NamedTuple):
    """What to take off on both sides, how many names then match, and one image and mask that do."""

    images: Affixes
    masks: Affixes
    total: int
    example: tuple[str, str]

    def describe(self) -> str:
        parts = [self.images.describe("images"), self.masks.describe("masks")]
        return " and ".join(part for part in parts if part)


def find_affixes(images: Sequence[str], masks: Sequence[str]) -> NameMatch | None:
    """Return the affixes by which most of ``images`` and ``masks`` match, None when fewer than half would."""
    if not images or not masks:
        return None
    candidates = [
        *((Affixes(), affixes) for affixes in _find_around(images, masks)),
        *((affixes, Affixes()) for affixes in _find_around(masks, images)),
        _trim(_find_common(images), _find_common(masks)),
    ]
    found = [match for one in candidates if (match := _try(*one, images, masks)) is not None]
    best = max(found, key=lambda match: match.total, default=None)
    return best if best and 2 * best.total >= min(len(images), len(masks)) else None


def _sample(names: Sequence[str]) -> Sequence[str]:
    return names[:: max(1, len(names) // _SAMPLE)]


def _find_around(inner: Sequence[str], outer: Collection[str]) -> Iterable[Affixes]:
    """What stands most often around the names of ``inner`` in those of ``outer``."""
    around = Counter(
        Affixes(prefix, suffix)
        for name in _sample(inner)
        for longer in outer
        for prefix, found, suffix in [longer.partition(name)]
        if found and not (prefix + suffix).isdigit()  # 1 and 10 are two numbers
    )
    return [affixes for affixes, _ in around.most_common(_CANDIDATES)]


def _find_common(names: Sequence[str]) -> Affixes:
    """The common beginning and end of all names, without the digits of a number that lies across its edge."""
    prefix = re.sub(r"\d+$", "", find_beginning(names))
    suffix = find_beginning([name[len(prefix) :][::-1] for name in names])[::-1]
    return Affixes(prefix, re.sub(r"^\d+", "", suffix))


def _trim(first: Affixes, second: Affixes) -> tuple[Affixes, Affixes]:
    """Without the letters and digits that both have next to the name."""
    before = find_beginning([first.prefix[::-1], second.prefix[::-1]])
    after = find_beginning([first.suffix, second.suffix])
    ends = [len(shared) - len(shared.lstrip(_WORD)) for shared in (before, after)]
    trimmed = [Affixes(one.prefix[: len(one.prefix) - ends[0]], one.suffix[ends[1] :]) for one in (first, second)]
    return trimmed[0], trimmed[1]


def find_beginning(names: Collection[str]) -> str:
    """What all names begin with; nothing where there are no names."""
    first, last = min(names, default=""), max(names, default="")  # all others lie between them
    return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def _try(in_images: Affixes, in_masks: Affixes, images: Iterable[str], masks: Iterable[str]) -> NameMatch | None:
    by_core = {core: mask for mask in masks if (core := in_masks.strip(mask)) is not None}
    pairs = [(image, by_core[core]) for image in images if (core := in_images.strip(image)) in by_core and core]
    return NameMatch(in_images, in_masks, len(pairs), pairs[0]) if pairs else None

"""The facts of the page's section "The data": sizes, shares of the classes, examples."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from contextlib import suppress

from PIL import Image

from gluonseg.data.pairs import Pair
from gluonseg.report.comparison import Comparison
from gluonseg.report.photo import Album, Encoded, Picture, choose_spread, encode_pictures, overlay

MAX_SIZED = 2000
"""Photos whose size is read."""
NUM_EXAMPLES = 6
EXAMPLE_BYTES = 300_000
SPLITS = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """One split. ``shares`` of the scored pixels by class, empty where nobody counted.

    ``ignored`` is the share of all pixels that is not scored, None where nobody counted.
    """

    title: str
    photos: int
    shares: Sequence[float]
    sizes: str
    ignored: float | None = None


def _read_sizes(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """Width and height of the photos, from their headers; of MAX_SIZED of them where there are more."""
    found = []
    for pair in choose_spread(pairs, MAX_SIZED):
        # gluonseg check names photos that cannot be read.
        with suppress(OSError, ValueError), Image.open(pair.image) as picture:
            found.append(picture.size)
    return found


def describe_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Sizes (width, height) in a few words."""
    if not sizes:
        return ""
    different = sorted(set(sizes), key=lambda size: size[0] * size[1])
    if len(different) == 1:
        return f"all {different[0][0]}×{different[0][1]}"
    width, height = (statistics.median_low([size[axis] for size in sizes]) for axis in (0, 1))
    (low_w, low_h), (high_w, high_h) = different[0], different[-1]
    return f"{low_w}×{low_h} to {high_w}×{high_h}, median {width}×{height}"


def describe_splits(comparison: Comparison, album: Album) -> list[SplitFacts]:
    """What is known of the training and the validation data."""
    data = comparison.settings.get("data") or {}
    counts = {"train": data.get("num_training_samples"), "validation": data.get("num_validation_samples")}
    facts = []
    for split in SPLITS:
        pairs = album.find_pairs(split)
        known = (data.get("sizes") or {}).get(split) or []
        sizes = [(width, height) for height, width in known] or _read_sizes(pairs)
        pixels = (data.get("pixels") or {}).get(split) or []
        total = sum(pixels)
        shares = [count / total for count in pixels] if total else []
        unscored = (data.get("ignored_pixels") or {}).get(split)
        ignored = unscored / (total + unscored) if total and unscored is not None else None
        title = "Training" if split == "train" else "Validation"
        facts.append(SplitFacts(title, counts[split] or len(pairs), shares, describe_sizes(sizes), ignored))
    return facts


def draw_examples(comparison: Comparison, album: Album) -> list[Encoded]:
    """A few training photos under their true masks, evenly spread over the channel."""
    pairs = album.find_pairs("train")
    pictures = []
    for pair in choose_spread(pairs, NUM_EXAMPLES):
        found = album.read(pair, "train")
        if found is not None:
            pictures.append(Picture(overlay(*found, comparison.colours), pair.name))
    return encode_pictures(pictures, EXAMPLE_BYTES)

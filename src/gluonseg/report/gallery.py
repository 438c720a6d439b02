"""The same validation photos under every model: which ones, and their pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gluonseg.report.comparison import Comparison, ModelSummary
from gluonseg.report.photo import (
    Album,
    Encoded,
    Picture,
    UInt8Array,
    choose_spread,
    encode_pictures,
    find_max_pixels,
    overlay,
    read_prediction,
)
from gluonseg.report.record import MASKS_FOLDER
from gluonseg.text import join_names

MAX_PICTURES = 240
MAX_COMPARED = 400
"""Photos whose masks are compared in search of disagreement."""
NUM_DISAGREEING = 4
_DISPUTED = np.asarray((255, 0, 140), dtype=np.float32)
"""Painted on the pixels that the models disagree on."""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The rows that the page has room for.

    ``disagreement`` is by photo, of those that were compared; ``notes`` say what was left out.
    """

    rows: Sequence[GalleryRow]
    disagreement: Mapping[str, float]
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class GalleryRow:
    """One photo: why it was chosen, and photo, truth and every model's overlay."""

    name: str
    reasons: Sequence[str]
    pictures: Sequence[Encoded]


def find_mask(comparison: Comparison, model: ModelSummary, photo: str) -> Path:
    """Where the mask of a photo by a model's first seed is."""
    return comparison.run_folders[model.runs[0].name] / MASKS_FOLDER / f"{photo}.png"


def _read_masks(comparison: Comparison, photo: str) -> list[UInt8Array | None]:
    """Every model's mask of a photo; None where there is none."""
    limit = find_max_pixels(comparison.settings)
    return [read_prediction(find_mask(comparison, model, photo), limit) for model in comparison.models]


def compute_disagreement(comparison: Comparison, names: Sequence[str]) -> dict[str, float]:
    """Share of pixels on which the models do not all agree, by photo; photos without all masks are left out.

    Of more than MAX_COMPARED photos, so many are looked at.
    """
    found = {}
    for name in choose_spread(names, MAX_COMPARED):
        masks = _read_masks(comparison, name)
        disputed = _find_disputed(masks)
        if disputed is not None:
            found[name] = float(disputed.mean())
    return found


def _find_disputed(masks: Sequence[UInt8Array | None]) -> npt.NDArray[np.bool_] | None:
    """Where not all masks are the same, (H, W); None when one is missing or of another size."""
    present = [mask for mask in masks if mask is not None]
    if len(present) < len(masks) or len(masks) < 2 or len({mask.shape for mask in present}) > 1:
        return None
    stacked = np.stack(present)
    return np.asarray((stacked != stacked[0]).any(axis=0))


def _draw_disputed(image_hwc: UInt8Array, disputed: npt.NDArray[np.bool_]) -> UInt8Array:
    """The photo in pale grey, with what the models disagree on in one strong colour."""
    grey = image_hwc.mean(axis=2, keepdims=True) * 0.55 + 100
    shown = np.where(disputed[..., None], 0.35 * grey + 0.65 * _DISPUTED, grey)
    return np.asarray(np.rint(shown), dtype=np.uint8)


def choose_photos(models: Sequence[ModelSummary], disagreement: Mapping[str, float]) -> dict[str, list[str]]:
    """Photo -> why: where models disagree most, then each model's best, median and worst photo."""
    chosen: dict[str, list[str]] = {}
    disputed = [name for name, share in disagreement.items() if share > 0]
    for name in sorted(disputed, key=lambda name: (-disagreement[name], name))[:NUM_DISAGREEING]:
        text = f"{disagreement[name]:.0%}" if disagreement[name] >= 0.005 else "less than 1%"
        chosen.setdefault(name, []).append(f"models disagree on {text} of the pixels")
    ranked = [(model, _rank_photos(model)) for model in models]
    for word, share in (("worst", 0.0), ("median", 0.5), ("best", 1.0)):
        for model, names in ranked:
            if names:
                name = names[int(share * (len(names) - 1))]
                chosen.setdefault(name, []).append(f"{word} of {model.title}")
    return chosen


def _first_scores(model: ModelSummary) -> Mapping[str, float]:
    return {photo.name: photo.miou for photo in model.scores[0].photos}


def _rank_photos(model: ModelSummary) -> list[str]:
    scores = _first_scores(model)
    return sorted(scores, key=lambda name: (scores[name], name))


def build_gallery(comparison: Comparison, album: Album) -> Gallery:
    """Rows of pictures, as many as the page can hold; none when the photos are no longer there."""
    names = [name for name in album.validation if any(name in model.photo_miou for model in comparison.models)]
    disagreement = compute_disagreement(comparison, names)
    chosen = {
        name: why for name, why in choose_photos(comparison.models, disagreement).items() if name in album.validation
    }
    limit = max(1, MAX_PICTURES // (3 + len(comparison.models)))
    rows = [(name, _draw_row(comparison, album, name)) for name in list(chosen)[:limit]]
    shown = {name: pictures for name, pictures in rows if pictures}
    encoded = iter(encode_pictures([picture for pictures in shown.values() for picture in pictures]))
    notes = _describe_left_out(chosen, shown, disagreement, len(names))
    return Gallery(
        [GalleryRow(name, chosen[name], [next(encoded) for _ in pictures]) for name, pictures in shown.items()],
        disagreement,
        notes if shown else (),
    )


def _describe_left_out(
    chosen: Mapping[str, Sequence[str]], shown: Collection[str], disagreement: Mapping[str, float], number: int
) -> list[str]:
    """What the rows do not have, in words."""
    notes = []
    if number > MAX_COMPARED and disagreement:
        notes.append(f"Disagreement was looked for in {MAX_COMPARED} of the {number} photos, evenly spread.")
    left_out = [reason for name, reasons in chosen.items() if name not in shown for reason in reasons]
    if left_out:
        notes.append(f"Not shown, for want of room or because they cannot be read: {join_names(left_out, 12)}.")
    return notes


def _draw_row(comparison: Comparison, album: Album, name: str) -> list[Picture]:
    found = album.read(album.validation[name], "validation")
    if found is None:
        return []
    image, truth = found
    pictures = [Picture(image, "Photo"), Picture(overlay(image, truth, comparison.colours), "Truth")]
    masks = _read_masks(comparison, name)
    for model, mask in zip(comparison.models, masks, strict=True):
        score = _first_scores(model).get(name)
        note = "no mask" if mask is None else "" if score is None else f"{score:.3f}"
        pictures.append(Picture(overlay(image, mask, comparison.colours), model.title, note))
    disputed = _find_disputed(masks)
    if disputed is not None and disputed.shape == image.shape[:2]:
        pictures.append(Picture(_draw_disputed(image, disputed), "Disagreement", f"{disputed.mean():.0%}"))
    return pictures

"""The same validation photos under every model: which ones, and their pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gluonseg.compare.record import MASKS_FOLDER
from gluonseg.report.photo import Album, Encoded, Picture, encode_pictures, overlay, read_prediction
from gluonseg.report.summary import Comparison, ModelSummary

MAX_PICTURES = 240
MAX_COMPARED = 400
"""Photos whose masks are compared in search of disagreement."""
NUM_DISAGREEING = 4


@dataclasses.dataclass(frozen=True)
class Row:
    """One photo: why it was chosen, and photo, truth and every model's overlay."""

    name: str
    reasons: Sequence[str]
    pictures: Sequence[Encoded]


def find_mask(comparison: Comparison, model: ModelSummary, photo: str) -> Path:
    """Where the mask of a photo by a model's first seed is."""
    return comparison.run_folders[model.runs[0].name] / MASKS_FOLDER / f"{photo}.png"


def compute_disagreement(comparison: Comparison, names: Sequence[str]) -> dict[str, float]:
    """Share of pixels on which the models do not all agree, by photo; photos without all masks are left out."""
    step = max(1, -(-len(names) // MAX_COMPARED))
    found = {}
    for name in names[::step]:
        masks = [read_prediction(find_mask(comparison, model, name)) for model in comparison.models]
        present = [mask for mask in masks if mask is not None]
        if len(present) < len(masks) or len(masks) < 2 or len({mask.shape for mask in present}) > 1:
            continue
        stacked = np.stack(present)
        found[name] = float((stacked != stacked[0]).any(axis=0).mean())
    return found


def choose_photos(models: Sequence[ModelSummary], disagreement: Mapping[str, float]) -> dict[str, list[str]]:
    """Photo -> why: where models disagree most, then each model's best, median and worst photo."""
    chosen: dict[str, list[str]] = {}
    most = sorted(disagreement, key=lambda name: (-disagreement[name], name))[:NUM_DISAGREEING]
    for name in most:
        chosen.setdefault(name, []).append(f"models disagree on {disagreement[name]:.0%} of the pixels")
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


def build_gallery(comparison: Comparison, album: Album) -> list[Row]:
    """Rows of pictures, as many as the page can hold; empty when the photos are no longer there."""
    names = [name for name in album.validation if any(name in model.photo_miou for model in comparison.models)]
    chosen = choose_photos(comparison.models, compute_disagreement(comparison, names))
    limit = max(1, MAX_PICTURES // (2 + len(comparison.models)))
    rows = [(name, _draw_row(comparison, album, name)) for name in list(chosen)[:limit] if name in album.validation]
    rows = [(name, pictures) for name, pictures in rows if pictures]
    encoded = iter(encode_pictures([picture for _, pictures in rows for picture in pictures]))
    return [Row(name, chosen[name], [next(encoded) for _ in pictures]) for name, pictures in rows]


def _draw_row(comparison: Comparison, album: Album, name: str) -> list[Picture]:
    found = album.read(album.validation[name], "validation")
    if found is None:
        return []
    image, truth = found
    pictures = [Picture(image, "Photo"), Picture(overlay(image, truth, comparison.colours), "Truth")]
    for model in comparison.models:
        mask = read_prediction(find_mask(comparison, model, name))
        score = _first_scores(model).get(name)
        note = "no mask" if mask is None else "" if score is None else f"{score:.3f}"
        pictures.append(Picture(overlay(image, mask, comparison.colours), model.title, note))
    return pictures

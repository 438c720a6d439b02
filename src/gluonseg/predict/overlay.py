"""A mask in colours over its picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gluonseg.data.palettes import choose_palette
from gluonseg.labels import UInt8Array, default_class_names, voc_colours
from gluonseg.models.folder.card import ModelCard

Colour = tuple[int, int, int]
UNTINTED: Colour = (0, 0, 0)
"""A class of this colour leaves the picture as it is: black would only darken it."""
_IGNORED_COLOUR = (224, 224, 192)
"""What PASCAL VOC paints pixels that are not scored with."""
_TINTS: Sequence[Colour] = (
    (226, 62, 54), (40, 160, 84), (246, 196, 28), (48, 106, 226), (158, 72, 196), (40, 190, 204),
    (244, 128, 32), (132, 88, 52), (136, 212, 52), (236, 92, 168), (128, 196, 255), (0, 112, 112),
    (255, 164, 148), (112, 116, 20), (196, 164, 255), (156, 12, 68), (160, 232, 188), (20, 44, 140),
    (232, 208, 148), (96, 96, 112), (255, 60, 240), (8, 88, 24), (184, 148, 168), (255, 236, 108),
)  # fmt: skip
"""Bright and unlike each other, also half mixed with a photo."""
_GROUNDS = frozenset({"background", "bg", "other", "others", "void", "none", "unlabeled", "unlabelled"})


def choose_colours(class_names: Sequence[str], colours: Sequence[Colour], *, is_asked: bool = False) -> list[Colour]:
    """The colours that classes are shown in: those given, unless they are PASCAL VOC's, most of which are dark.

    With ``is_asked`` they are those given in any case: the training's hyperparameter ``palette`` names them.
    Of 11 classes VOC makes one black and three of them dark red: on a photo they cannot be told apart. Instead each
    class gets a bright colour, and the background, by its name or as class 0 of classes without names, none.
    """
    number = len(class_names)
    if is_asked or [tuple(colour) for colour in colours] != voc_colours(number) or number > len(_TINTS):
        return list(colours)
    is_unnamed = list(class_names) == default_class_names(number)
    tints = iter(_TINTS)
    is_ground = [
        name.strip().lower() in _GROUNDS or (is_unnamed and index == 0) for index, name in enumerate(class_names)
    ]
    return [UNTINTED if ground else next(tints) for ground in is_ground]


def choose_card_colours(card: ModelCard, palette: str | None = None) -> list[Colour]:
    """The colours that a model's classes are shown in: those of ``palette``, or else the model's own.

    Raises:
        UserError: the palette has fewer colours than the model has classes.
    """
    if palette:
        return choose_palette(palette, card.num_classes)
    return choose_colours(card.class_names, card.colours, is_asked="palette" in card.hyperparameters)


def format_colour(colour: Colour) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def draw_overlay(
    image_hwc: UInt8Array, mask_hw: UInt8Array, colours: Sequence[Colour], alpha: float = 0.5
) -> UInt8Array:
    """Blend the colours of a mask (H, W) over an RGB picture (H, W, 3) uint8 with opacity ``alpha``.

    Where a class's colour is UNTINTED, the picture stays as it is.
    """
    palette = np.tile(np.asarray(_IGNORED_COLOUR, dtype=np.float32), (256, 1))
    palette[: len(colours)] = np.asarray(colours, dtype=np.float32)
    opacity = np.where(palette.any(axis=1, keepdims=True), np.float32(alpha), np.float32(0))[mask_hw]
    blended = (1 - opacity) * image_hwc.astype(np.float32) + opacity * palette[mask_hw]
    return np.asarray(np.rint(blended), dtype=np.uint8)

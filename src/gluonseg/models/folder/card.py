"""The model card: what travels beside the weights, so that a model can be used without its job.

Written as ``model_card.json`` into the model folder. An archive of the built-in algorithm has none; then
:func:`build_card` makes one from what ``hyperparams.json`` and the tensors tell.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gluonseg.errors import ModelError
from gluonseg.files import read_regular
from gluonseg.labels import MAX_CLASSES, default_class_names, voc_colours
from gluonseg.models.registry import STRIDES
from gluonseg.text import shorten

CARD_FILE = "model_card.json"
FORMAT_VERSION = 1
_MAX_BYTES = 4 << 20
MAX_SIDE = 1 << 20
"""No picture has a longer side, in pixels."""
MAX_SCALES, SMALLEST_SCALE, LARGEST_SCALE = 10, 0.1, 4.0
"""Limits of prediction_scales: every scale is a pass through the network, and costs by its square."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """Architecture, classes, preprocessing, and where the model comes from.

    ``output_stride`` and ``align_corners`` are those of :class:`gluonseg.models.registry.Network`; what they say of a
    model is here, so that it is served without the network's declaration.
    ``colours`` are RGB 0..255 by class id; ``mean`` and ``std`` are of RGB scaled to 0..1;
    ``prediction_size`` is the long side in pixels that photos are resized to before the network, 0 for
    none. ``prediction_scales`` and ``prediction_flip`` are the views whose probabilities are averaged, see
    :mod:`gluonseg.predict.view`.

    ``metrics``, ``data``, ``versions`` and ``hyperparameters`` are for people, nothing depends on them.
    """

    algorithm: str
    backbone: str
    num_classes: int
    class_names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    aux: bool = True
    output_stride: int = 8
    align_corners: bool = True
    base_size: int = 520
    crop_size: int = 240
    prediction_size: int = 0
    prediction_scales: tuple[float, ...] = ()
    prediction_flip: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hyperparameters: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def describe(self) -> str:
        """``fcn on resnet-50 with 21 classes``."""
        return f"{self.algorithm} on {self.backbone} with {self.num_classes} classes"


def build_card(algorithm: str, backbone: str, num_classes: int, **details: Any) -> ModelCard:
    """A card with default class names and colours where ``details`` gives none."""
    names = tuple(details.pop("class_names", None) or default_class_names(num_classes))
    colours = tuple(details.pop("colours", None) or voc_colours(num_classes))
    return ModelCard(algorithm, backbone, num_classes, names, colours, **details)


def encode_card(card: ModelCard) -> str:
    """The card as JSON text."""
    return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(card)}, indent=2) + "\n"


def parse_card(text: str, source: str) -> ModelCard:
    """Parse JSON text into a card; ModelError names ``source`` and the field."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{source} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version") if isinstance(content, dict) else None
        shown = shorten(ascii(found), 80)
        raise ModelError(f"{source} has format_version {shown}, this gluonseg reads {FORMAT_VERSION}")
    known = {field.name for field in dataclasses.fields(ModelCard)}
    try:
        card = ModelCard(**{name: _freeze(value) for name, value in content.items() if name in known})
        _check_card(card, source)
    except TypeError as error:
        raise ModelError(f"{source} is incomplete: {error}") from None
    except (RecursionError, OverflowError):
        raise ModelError(f"{source} is damaged: it is nested too deeply, or has numbers that are too large") from None
    return card


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIDE


def _is_triple(value: Any) -> bool:
    """Three finite numbers, one a colour channel."""
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(isinstance(item, (int, float)) and math.isfinite(item) for item in value)
    )


def _is_scale(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and SMALLEST_SCALE <= value <= LARGEST_SCALE


def _is_colour(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(_is_size(item) and item <= 255 for item in value)


def _check_card(card: ModelCard, source: str) -> None:
    # Whether algorithm and backbone are those of the parameters is seen when the network is built.
    checks = {name: isinstance(getattr(card, name), str) for name in ("algorithm", "backbone")}
    checks |= {name: _is_size(getattr(card, name)) for name in ("base_size", "crop_size", "prediction_size")}
    checks |= {
        name: isinstance(getattr(card, name), Mapping) for name in ("metrics", "data", "versions", "hyperparameters")
    }
    checks |= {
        "num_classes": _is_size(card.num_classes) and 2 <= card.num_classes <= MAX_CLASSES,
        "aux": isinstance(card.aux, bool),
        "output_stride": card.output_stride in STRIDES,
        "align_corners": isinstance(card.align_corners, bool),
        "prediction_flip": isinstance(card.prediction_flip, bool),
        "prediction_scales": isinstance(card.prediction_scales, tuple)
        and len(card.prediction_scales) <= MAX_SCALES
        and all(_is_scale(scale) for scale in card.prediction_scales),
        "class_names": isinstance(card.class_names, tuple)
        and len(card.class_names) == card.num_classes
        and all(isinstance(name, str) and name.isprintable() for name in card.class_names),
        "colours": isinstance(card.colours, tuple)
        and len(card.colours) == card.num_classes
        and all(_is_colour(colour) for colour in card.colours),
        "mean": _is_triple(card.mean),
        "std": _is_triple(card.std) and all(item > 0 for item in card.std),
    }
    wrong = [name for name, is_right in checks.items() if not is_right]
    if wrong:
        raise ModelError(f"{source}: the field {wrong[0]} cannot be used")


def read_card(path: Path) -> ModelCard:
    """Read a card file; raises ModelError when it cannot be used."""
    try:
        text = read_regular(path, _MAX_BYTES, follow=False).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_card(text, path.name)

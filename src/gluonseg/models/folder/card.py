"""The model card: what travels beside the weights, so that a model can be used without its job.

Written as ``model_card.json`` into the model folder. An archive of the built-in algorithm has no card; then
:mod:`gluonseg.models.folder.artifact` builds one from ``hyperparams.json`` and the parameters.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gluonseg.errors import ModelError
from gluonseg.files import read_regular
from gluonseg.labels import MAX_CLASSES, default_class_names, voc_colours
from gluonseg.models.registry import STRIDES, get_title
from gluonseg.text import shorten

CARD_FILE = "model_card.json"
FORMAT_VERSION = 1
_MAX_BYTES = 4 << 20
MAX_SIDE = 1 << 20
"""Limit of base_size, crop_size and prediction_size, in pixels."""
MAX_VALUE = (1 << 16) - 1
"""The greatest value of 16 bits."""
MAX_SCALES, SMALLEST_SCALE, LARGEST_SCALE = 10, 0.1, 4.0
"""Limits of prediction_scales: each scale is a pass through the network, whose cost grows with the scale's square."""
_REAL = (int, float)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """Architecture, classes, preprocessing, and where the model comes from.

    ``output_stride`` and ``align_corners`` are explained at :class:`gluonseg.models.registry.Network`. The card has
    them, so that a model can be served where its network is not installed.
    ``photo_range`` is explained at :data:`gluonseg.data.decode.PhotoRange`.
    ``colours`` are RGB 0..255 by class id; ``mean`` and ``std`` are of RGB scaled to 0..1;
    ``prediction_size`` is the long side in pixels that photos are resized to before the network, 0 for
    none. ``prediction_scales`` and ``prediction_flip`` are the views whose probabilities are averaged, see
    :mod:`gluonseg.predict.view`.

    Prediction needs none of ``metrics``, ``data``, ``versions`` and ``hyperparameters``. Scoring reads ``ignore_label``
    and ``max_pixels`` from the last; resumed jobs and reports read ``metrics`` and ``data``.
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
    photo_range: tuple[int, ...] = ()
    prediction_size: int = 0
    prediction_scales: tuple[float, ...] = ()
    prediction_flip: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hyperparameters: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """``FCN on resnet-50``, for people."""
        return f"{get_title(self.algorithm)} on {self.backbone}"

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
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        shown = shorten(ascii(version))
        raise ModelError(f"{source} has format_version {shown}, this gluonseg reads {FORMAT_VERSION}")
    known = {field.name for field in dataclasses.fields(ModelCard)}
    try:
        card = ModelCard(**{name: _freeze(value) for name, value in content.items() if name in known})
    except TypeError as error:
        raise ModelError(f"{source} is incomplete: {error}") from None
    _check_card(card, source)
    return card


def _freeze(value: Any) -> Any:
    """A list, perhaps of lists, as a tuple of tuples."""
    if not isinstance(value, list):
        return value
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)


def is_photo_range(value: Any) -> bool:
    """Two rising whole numbers of 16 bits."""
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(_is_number(item, 0, MAX_VALUE) for item in value)
    return is_pair and value[0] < value[1]


def _is_number(value: Any, low: float, high: float, kind: Any = int) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_triple(value: Any, low: float, high: float, kind: Any = int) -> bool:
    """Three numbers, one a colour channel."""
    return isinstance(value, tuple) and len(value) == 3 and all(_is_number(item, low, high, kind) for item in value)


def _check_card(card: ModelCard, source: str) -> None:
    # Whether algorithm and backbone are those of the parameters is seen when the network is built.
    classes, names, colours, scales = card.num_classes, card.class_names, card.colours, card.prediction_scales
    checks = {
        "algorithm": _is_name(card.algorithm),
        "backbone": _is_name(card.backbone),
        "num_classes": _is_number(classes, 2, MAX_CLASSES),
        "class_names": isinstance(names, tuple) and len(names) == classes and all(map(_is_name, names)),
        "colours": isinstance(colours, tuple)
        and len(colours) == classes
        and all(_is_triple(colour, 0, 255) for colour in colours),
        "aux": isinstance(card.aux, bool),
        "output_stride": card.output_stride in STRIDES,
        "align_corners": isinstance(card.align_corners, bool),
        "base_size": _is_number(card.base_size, 0, MAX_SIDE),
        "crop_size": _is_number(card.crop_size, 0, MAX_SIDE),
        "photo_range": card.photo_range == () or is_photo_range(card.photo_range),
        "prediction_size": _is_number(card.prediction_size, 0, MAX_SIDE),
        "prediction_scales": isinstance(scales, tuple)
        and len(scales) <= MAX_SCALES
        and all(_is_number(scale, SMALLEST_SCALE, LARGEST_SCALE, _REAL) for scale in scales),
        "prediction_flip": isinstance(card.prediction_flip, bool),
        "mean": _is_triple(card.mean, -1000, 1000, _REAL),
        "std": _is_triple(card.std, 0, 1000, _REAL) and all(card.std),
    }
    for name in ("metrics", "data", "versions", "hyperparameters"):
        checks[name] = isinstance(getattr(card, name), Mapping)
    wrong = [name for name, is_right in checks.items() if not is_right]
    if wrong:
        raise ModelError(f"{source}: the field {wrong[0]} cannot be used")


def read_card(path: Path) -> ModelCard:
    """Read a card file; raises ModelError when it cannot be used."""
    try:
        text = read_regular(path, _MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_card(text, path.name)

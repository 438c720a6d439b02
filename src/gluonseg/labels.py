"""Labels and class ids: label maps, the ignore label, class names, colours.

A *label* is the raw value in a mask file (0..255); a *class id* is 0..num_classes-1, or
:data:`IGNORE` where a pixel is not scored. Inside the program masks hold class ids only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gluonseg.errors import DataError
from gluonseg.files import parse_json_object
from gluonseg.text import shorten

IGNORE = 255
"""The class id of pixels that count neither in the loss nor in a metric."""
MAX_CLASSES = 254
UNKNOWN = 254
"""What a label outside the label map becomes; never a class id, because num_classes is at most 254."""

_WHOLE_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,9}(\.0)?\s*")

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LabelMap:
    """How the labels of one channel become class ids.

    ``table`` has 256 entries, one for each label: a class id, :data:`IGNORE`, or :data:`UNKNOWN`.
    ``description`` is what the log line ``#label_map`` prints.
    """

    table: UInt8Array
    description: Mapping[str, Any]

    def apply(self, label_hw: UInt8Array) -> UInt8Array:
        """Map raw labels (H, W) uint8 to class ids of the same shape."""
        return self.table.take(label_hw)  # twice as fast as an index


def scale_label_map(scale: int, ignore_label: int = IGNORE, source: str = "") -> LabelMap:
    """Class id = floor(label / scale), as the built-in's ``{"scale": n}``; 255 and ``ignore_label`` are not scored."""
    if not 1 <= scale <= 255:
        raise DataError(f"label map {source}: scale must be 1 to 255, got {scale}")
    table = np.arange(256, dtype=np.uint8) // np.uint8(scale)
    table[[IGNORE, ignore_label]] = IGNORE
    return LabelMap(table, {"scale": scale})


def mapped_label_map(
    pairs: Mapping[int, int | Sequence[int]], ignore_label: int = IGNORE, source: str = ""
) -> LabelMap:
    """``pairs`` maps class id -> label, as the built-in's ``{"map": {"0": 5, "1": 0}}``, or -> several labels.

    255 and ``ignore_label`` are not scored unless ``pairs`` gives them to a class.
    """
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    table[[IGNORE, ignore_label]] = IGNORE
    owner: dict[int, int] = {}
    for class_id, given in pairs.items():
        for label in [given] if isinstance(given, int) else given:
            if not 0 <= label <= 255 or not (0 <= class_id < MAX_CLASSES or class_id == IGNORE):
                raise DataError(
                    f'label map {source}: "{class_id}": {label} is outside the range; keys are class ids 0 to '
                    f"{MAX_CLASSES - 1} (or {IGNORE} for ignore), values are labels 0 to 255"
                )
            if owner.setdefault(label, class_id) != class_id:
                raise DataError(
                    f"label map {source}: label {label} is given to class {owner[label]} and to class {class_id}; "
                    "one label can belong to one class only"
                )
            table[label] = class_id
    return LabelMap(table, {"map": {str(class_id): given for class_id, given in pairs.items()}})


def default_label_map(ignore_label: int = IGNORE) -> LabelMap:
    """Labels are class ids already; 255 and ``ignore_label`` are not scored."""
    return scale_label_map(1, ignore_label)


def _parse_integer(value: Any, what: str, source: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(str(value)):
        raise DataError(f"label map {source}: {what} must be a whole number, got {shorten(ascii(value))}")
    return int(float(value))


def _parse_labels(class_id: str, given: Any, source: str) -> int | list[int]:
    """The label of a class, or its labels in a list."""
    if isinstance(given, list):
        return [_parse_integer(label, f"a label of class {class_id}", source) for label in given]
    return _parse_integer(given, f"the label of class {class_id}", source)


def parse_label_map(text: bytes, source: str, ignore_label: int = IGNORE) -> LabelMap:
    """Parse a label map file: ``{"scale": n}`` or ``{"map": {"class id": label or [labels], ...}}``.

    Numbers may be written as strings. Lists are beyond the built-in. ``source`` names the file in errors
    (:class:`DataError`). Format: https://docs.aws.amazon.com/sagemaker/latest/dg/semantic-segmentation.html
    """
    valid = 'it must be {"scale": 3} or {"map": {"0": 5, "1": [0, 7]}}, several labels of a class in a list'
    try:
        content = parse_json_object(text)
    except ValueError as error:
        raise DataError(f"label map {source} is not a JSON object: {error}; {valid}") from None
    if content.keys() == {"scale"}:
        return scale_label_map(_parse_integer(content["scale"], "scale", source), ignore_label, source)
    pairs = content.get("map")
    if len(content) != 1 or not isinstance(pairs, dict) or not pairs:
        raise DataError(f"label map {source} is not understood: {valid}")
    numbers = {
        _parse_integer(class_id, "a class id", source): _parse_labels(class_id, given, source)
        for class_id, given in pairs.items()
    }
    if len(numbers) < len(pairs):  # "1" and "01"
        raise DataError(f"label map {source}: a class id appears twice; give all its labels in a list")
    return mapped_label_map(numbers, ignore_label, source)


def voc_colours(num_classes: int) -> list[tuple[int, int, int]]:
    """RGB colours of the PASCAL VOC colour map, one a class: bits of the id spread over three channels."""

    def mix(class_id: int, channel: int) -> int:
        return sum((class_id >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))

    return [(mix(class_id, 0), mix(class_id, 1), mix(class_id, 2)) for class_id in range(num_classes)]


def default_class_names(num_classes: int) -> list[str]:
    """``class_0`` ... for data whose classes nobody named."""
    return [f"class_{class_id}" for class_id in range(num_classes)]

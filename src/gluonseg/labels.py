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
from gluonseg.text import join_names, shorten

IGNORE = 255
"""The class id of pixels that count neither in the loss nor in a metric."""
MAX_CLASSES = 254
UNKNOWN = 254
"""What a label outside the label map becomes; never a class id, because num_classes is at most 254."""

_WHOLE_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,9}\s*")
_MAX_SHOWN, _MAX_NAMES_SHOWN = 80, 400

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
        # take is twice as fast as an index
        return self.table.take(label_hw)


def _identity() -> UInt8Array:
    return np.arange(256, dtype=np.uint8)


def _finish(table: UInt8Array, ignore_label: int, explicit: frozenset[int] = frozenset()) -> UInt8Array:
    # 255 (and ignore_label) stay "not scored" whatever the map says, unless the map names them itself.
    for label in (IGNORE, ignore_label):
        if label not in explicit:
            table[label] = IGNORE
    return table


def scale_label_map(scale: int, ignore_label: int = IGNORE, source: str = "") -> LabelMap:
    """Class id = floor(label / scale), as the built-in's ``{"scale": n}``."""
    if not 1 <= scale <= 255:
        raise DataError(f"label map {source}: scale must be 1 to 255, got {scale}")
    return LabelMap(_finish(_identity() // np.uint8(scale), ignore_label), {"scale": scale})


def mapped_label_map(pairs: Mapping[int, int], ignore_label: int = IGNORE, source: str = "") -> LabelMap:
    """``pairs`` maps class id -> label, as the built-in's ``{"map": {"0": 5, "1": 0}}``."""
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    owner: dict[int, int] = {}
    for class_id, label in pairs.items():
        if not 0 <= label <= 255 or not (0 <= class_id < MAX_CLASSES or class_id == IGNORE):
            raise DataError(
                f'label map {source}: "{class_id}": {label} is outside the range; keys are class ids 0 to '
                f"{MAX_CLASSES - 1} (or {IGNORE} for ignore), values are labels 0 to 255"
            )
        if label in owner:
            raise DataError(
                f"label map {source}: label {label} is given to class {owner[label]} and to class {class_id}; "
                "one label can belong to one class only"
            )
        owner[label] = class_id
        table[label] = class_id
    description = {"map": {str(k): v for k, v in pairs.items()}}
    return LabelMap(_finish(table, ignore_label, frozenset(owner)), description)


def default_label_map(ignore_label: int = IGNORE) -> LabelMap:
    """Labels are class ids already; 255 and ``ignore_label`` are not scored."""
    return scale_label_map(1, ignore_label)


def _as_int(value: Any, what: str, source: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value)):
        raise DataError(f"label map {source}: {what} must be a whole number, got {shorten(ascii(value), _MAX_SHOWN)}")
    return int(value)


def parse_label_map(text: bytes, source: str, ignore_label: int = IGNORE) -> LabelMap:
    """Parse a label map file: ``{"scale": n}`` or ``{"map": {"class id": label, ...}}``.

    Numbers may be written as strings. ``source`` names the file in errors (:class:`DataError`).
    Format: https://docs.aws.amazon.com/sagemaker/latest/dg/semantic-segmentation.html
    """
    valid = 'it must be {"scale": 3} or {"map": {"0": 5, "1": 0}}'
    try:
        content = parse_json_object(text)
    except ValueError as error:
        raise DataError(f"label map {source} is not a JSON object: {error}; {valid}") from None
    if len(content) != 1 or next(iter(content)) not in ("scale", "map"):
        raise DataError(f"label map {source} is not understood: {valid}")
    if "scale" in content:
        return scale_label_map(_as_int(content["scale"], "scale", source), ignore_label, source)
    pairs = content["map"]
    if not isinstance(pairs, dict) or not pairs:
        raise DataError(f"label map {source} is not understood: {valid}")
    class_ids = [_as_int(class_id, "a class id", source) for class_id in pairs]
    if len(set(class_ids)) != len(class_ids):
        raise DataError(f"label map {source} names a class id twice: {shorten(', '.join(pairs), _MAX_SHOWN)}")
    labels = [
        _as_int(label, f"the label of class {class_id}", source)
        for class_id, label in zip(class_ids, pairs.values(), strict=True)
    ]
    return mapped_label_map(dict(zip(class_ids, labels, strict=True)), ignore_label, source)


def voc_colours(num_classes: int) -> list[tuple[int, int, int]]:
    """RGB colours of the PASCAL VOC colour map, one a class: bits of the id spread over three channels."""
    colours = []
    for class_id in range(num_classes):
        rgb, rest = [0, 0, 0], class_id
        for shift in range(7, -1, -1):
            for channel in range(3):
                rgb[channel] |= ((rest >> channel) & 1) << shift
            rest >>= 3
        colours.append((rgb[0], rgb[1], rgb[2]))
    return colours


def default_class_names(num_classes: int) -> list[str]:
    """``class_0`` ... for data whose classes nobody named."""
    return [f"class_{class_id}" for class_id in range(num_classes)]


def check_class_names(names: Sequence[str], num_classes: int, source: str) -> list[str]:
    """Return ``names`` as a list, or raise :class:`DataError` when they are not one name a class."""
    cleaned = [str(name).strip() for name in names]
    if len(cleaned) != num_classes or len(set(cleaned)) != len(cleaned) or not all(cleaned):
        raise DataError(
            f"{source}: {num_classes} different class names are needed, one a class, got {len(cleaned)}: "
            f"{shorten(join_names(cleaned), _MAX_NAMES_SHOWN)}"
        )
    if any(not name.isprintable() for name in cleaned):
        raise DataError(f"{source}: class names must be printable text on one line")
    return cleaned

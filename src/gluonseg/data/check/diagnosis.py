"""Likely mistakes in masks, told from which labels occur, each with the label map that mends it. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence

from gluonseg.data.check.findings import Finding
from gluonseg.data.label_channel import TRAIN_FILE, VALIDATION_FILE
from gluonseg.labels import IGNORE, MAX_CLASSES
from gluonseg.text import join_names

BLACK_AND_WHITE = "black_and_white"
_MANY_LABELS = 3
"""Times num_classes different labels: no longer a wrong number of classes, but smeared masks."""


def _describe_map(content: Mapping[str, object]) -> str:
    """Say which label map to write, and where."""
    return f"give the label map {json.dumps(content)} ({TRAIN_FILE} and {VALIDATION_FILE} in the label_map channel)"


def _build_map(labels: Sequence[int]) -> dict[str, object]:
    """The label map that makes ``labels`` the classes 0, 1, 2, ... in this order."""
    return {"map": {str(class_id): label for class_id, label in enumerate(labels)}}


def diagnose_labels(labels: Collection[int], num_classes: int | None, ignore_label: int = IGNORE) -> Finding | None:
    """Return the likeliest mistake behind ``labels`` when they are read without a label map, or None.

    Args:
        labels: all raw labels 0..255 that occur in the masks.
        num_classes: what the user says, None when unknown.
        ignore_label: the label that is not scored, besides 255.
    """
    used = sorted(set(labels) - {IGNORE, ignore_label})
    for diagnose in (_find_black_and_white, _find_off_by_one, _find_scale, _find_smeared, _find_too_few_classes):
        finding = diagnose(used, IGNORE in labels and ignore_label == IGNORE, num_classes)
        if finding is not None:
            return finding
    return None


def _find_black_and_white(used: Sequence[int], has_255: bool, num_classes: int | None) -> Finding | None:
    if list(used) != [0] or not has_255 or num_classes not in (None, 2):
        return None
    return Finding(
        BLACK_AND_WHITE,
        "the masks hold the labels 0 and 255 only, and 255 is ignored, so class 0 is all there is to learn",
        fix=f"If white is the second class, {_describe_map(_build_map([0, 255]))}",
    )


def _find_off_by_one(used: Sequence[int], has_255: bool, num_classes: int | None) -> Finding | None:
    count = len(used)
    if count < 2 or list(used) != list(range(1, count + 1)) or num_classes not in (None, count, count + 1):
        return None
    text = f"the labels are 1 to {count}, class 0 never occurs: they look shifted by one"
    also = f" and set num_classes to {count}" if num_classes != count else ""
    return Finding("off_by_one", text, fix=f"To begin at 0, {_describe_map(_build_map(used))}{also}")


def _find_scale(used: Sequence[int], has_255: bool, num_classes: int | None) -> Finding | None:
    step = math.gcd(*used) if used else 0
    highest = used[-1] // step if step else 0
    if step < 2 or len(used) < 2 or (num_classes is not None and (highest >= num_classes or used[-1] < num_classes)):
        return None
    text = f"the labels {join_names(map(str, used), 12)} are steps of {step}"
    if has_255 and num_classes == len(used) + 1 == highest + 2:
        fix = f"If 255 is the last class, {_describe_map(_build_map([*used, IGNORE]))}"
    else:
        fix = f"If they are the classes 0 to {highest}, {_describe_map({'scale': step})}"
    return Finding("scaled", text, fix=fix)


def _find_smeared(used: Sequence[int], has_255: bool, num_classes: int | None) -> Finding | None:
    if num_classes is None or len(used) <= _MANY_LABELS * num_classes:
        return None
    return Finding(
        "smeared",
        f"the masks hold {len(used)} different labels for {num_classes} classes",
        fix="This happens when masks were resized smoothly or saved as JPEG on the way, or are grey photos: "
        "make them again with nearest-neighbour resizing and lossless files",
    )


def _find_too_few_classes(used: Sequence[int], has_255: bool, num_classes: int | None) -> Finding | None:
    if num_classes is None or not used or used[-1] < num_classes:
        return None
    text = f"the labels {join_names(map(str, used), 12)} do not fit num_classes={num_classes}"
    needed = used[-1] + 1
    if len(used) <= num_classes:
        return Finding("gaps", text, fix=f"If they are the classes in this order, {_describe_map(_build_map(used))}")
    if needed <= min(MAX_CLASSES, 2 * len(used)):
        return Finding("too_few_classes", text, fix=f"Set num_classes to {needed}, or correct the masks")
    # With so many gaps the labels are not the ids of neighbouring classes.
    return Finding("too_few_classes", text, fix=f"Set num_classes to {len(used)} and {_describe_map(_build_map(used))}")

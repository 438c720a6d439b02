"""Likely mistakes in masks, told from which labels occur, each with the label map that mends it. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence

from gluonseg.data.check.findings import Finding
from gluonseg.data.label_channel import TRAIN_FILE, VALIDATION_FILE
from gluonseg.labels import IGNORE, MAX_CLASSES
from gluonseg.text import join_names

BOTH_FILES = f"{TRAIN_FILE} and {VALIDATION_FILE}"
_MANY_LABELS = 3
"""Times num_classes different labels: no longer a wrong number of classes, but smeared masks."""
_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The labels of the 19 classes in a labelIds mask, see :mod:`gluonseg.data.prepare.cityscapes`; the others are void."""
_CITY_STREET = {7, 26}
"""Road and car, which are in every part of Cityscapes."""
_OFFER_A_LIST = f', or list the labels that are no classes under "{IGNORE}" in a label map'
_LONGEST_MAP = 40
"""Labels of a map that is offered beside another way out: a longer one would hide that."""


def describe_map(content: Mapping[str, object], files: str = BOTH_FILES) -> str:
    """Say which label map to write, and where."""
    return f"give the label map {json.dumps(content)} ({files} in the label_map channel)"


def build_map(labels: Sequence[int], ignored: Sequence[int] = ()) -> dict[str, object]:
    """The label map that makes ``labels`` the classes 0, 1, 2, ... in this order, and does not score ``ignored``."""
    pairs: dict[str, object] = {str(class_id): label for class_id, label in enumerate(labels)}
    return {"map": pairs | ({str(IGNORE): list(ignored)} if ignored else {})}


def describe_count(count: int, num_classes: int | None) -> str:
    """What to do with num_classes beside a label map of ``count`` classes."""
    return "" if num_classes in (None, count) else f" and set num_classes to {count}"


def diagnose_labels(
    labels: Collection[int], num_classes: int | None, ignore_label: int = IGNORE, files: str = BOTH_FILES
) -> Finding | None:
    """Return the likeliest mistake behind ``labels`` when they are read without a label map, or None.

    Args:
        labels: all raw labels 0..255 that occur in the masks.
        num_classes: what the user says, None when unknown.
        ignore_label: the label that is not scored, besides 255.
        files: the label map files that are to be written.
    """
    used = sorted(set(labels) - {IGNORE, ignore_label})
    for diagnose in (_find_off_by_one, _find_scale, _find_smeared, _find_too_few_classes):
        finding = diagnose(used, IGNORE in labels and ignore_label == IGNORE, num_classes, files)
        if finding is not None:
            return finding
    return None


def _find_off_by_one(used: Sequence[int], has_255: bool, num_classes: int | None, files: str) -> Finding | None:
    count = len(used)
    if count < 2 or list(used) != list(range(1, count + 1)) or num_classes not in (None, count, count + 1):
        return None
    text = f"the labels are 1 to {count}, class 0 never occurs: they look shifted by one"
    fix = f"To begin at 0, {describe_map(build_map(used), files)}{describe_count(count, num_classes)}"
    return Finding("off_by_one", text, fix=fix)


def _find_scale(used: Sequence[int], has_255: bool, num_classes: int | None, files: str) -> Finding | None:
    step = math.gcd(*used) if used else 0
    highest = used[-1] // step if step else 0
    if step < 2 or len(used) < 2 or (num_classes is not None and (highest >= num_classes or used[-1] < num_classes)):
        return None
    text = f"the labels {join_names(map(str, used), 12)} are steps of {step}"
    if has_255 and num_classes == len(used) + 1 == highest + 2:
        fix = f"If 255 is the last class, {describe_map(build_map([*used, IGNORE]), files)}"
    else:
        fix = f"If they are the classes 0 to {highest}, {describe_map({'scale': step}, files)}"
    return Finding("scaled", text, fix=fix)


def _find_smeared(used: Sequence[int], has_255: bool, num_classes: int | None, files: str) -> Finding | None:
    if num_classes is None or len(used) <= _MANY_LABELS * num_classes:
        return None
    return Finding(
        "smeared",
        f"the masks hold {len(used)} different labels for {num_classes} classes",
        fix="This happens when masks were resized smoothly or saved as JPEG on the way, or are grey photos: "
        "make them again with nearest-neighbour resizing and lossless files",
    )


def _find_too_few_classes(used: Sequence[int], has_255: bool, num_classes: int | None, files: str) -> Finding | None:
    if num_classes is None or not used or used[-1] < num_classes:
        return None
    text = f"the labels {join_names(map(str, used), 12)} do not fit num_classes={num_classes}"
    needed = used[-1] + 1
    if num_classes == len(_CITYSCAPES) and set(used) >= _CITY_STREET and used[-1] <= _CITYSCAPES[-1]:
        void = sorted({*range(_CITYSCAPES[-1]), IGNORE} - {*_CITYSCAPES})
        city = describe_map(build_map(_CITYSCAPES, void), files)
        fix = f"If they are the labelIds of Cityscapes, {city}, or make the channels by gluonseg prepare cityscapes"
        return Finding("too_few_classes", text, fix=f"{fix}; if they are not, set num_classes to {needed}")
    if len(used) <= num_classes:
        fix = f"If they are the classes in this order, {describe_map(build_map(used), files)}"
        return Finding("gaps", text, fix=fix)
    if needed <= min(MAX_CLASSES, 2 * len(used)):
        ignored = _offer_to_ignore(used, num_classes, files) or _OFFER_A_LIST
        fix = f"Set num_classes to {needed}{ignored}, or correct the masks"
        return Finding("too_few_classes", text, fix=fix)
    # With so many gaps the labels are not the ids of neighbouring classes.
    fix = f"Set num_classes to {len(used)} and {describe_map(build_map(used), files)}"
    return Finding("too_few_classes", text, fix=fix)


def _offer_to_ignore(used: Sequence[int], num_classes: int, files: str) -> str:
    """The map for masks in which the first label means "not labelled", or the last ones do; "" for long maps."""
    if num_classes > _LONGEST_MAP:
        return ""
    if list(used) == list(range(num_classes + 1)):
        return f", or, if 0 is no class, {describe_map(build_map(used[1:], [0]), files)}"
    high = [label for label in used if label >= num_classes]
    if len(high) > _MANY_LABELS:
        return ""
    kept = build_map(range(num_classes), high)
    return f", or, if {join_names(map(str, high))} is not to be scored, {describe_map(kept, files)}"

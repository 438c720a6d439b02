"""The label doctor's look at labels and classes: out of range, too few left to learn, never seen. Pure, on noted facts.

Splits that are read with the same label map are judged together where a map is offered, so that one map fits both;
whether enough is left to learn is judged for each split by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from gluonseg.data.check.diagnosis import build_map, describe_count, describe_map, diagnose_labels
from gluonseg.data.check.examined import Examined
from gluonseg.data.check.findings import Finding, build_findings
from gluonseg.data.label_channel import TRAIN_FILE, VALIDATION_FILE
from gluonseg.labels import IGNORE, MAX_CLASSES, UNKNOWN, LabelMap, UInt8Array
from gluonseg.text import join_names

FEW_CLASSES = "few_classes"
DOMINANT_SHARE = 0.95
_FEW = 0.5
"""Share of num_classes up to which the classes that occur are few."""
_MOST = 0.5
"""Share of pixels that are not scored, from which on it is told."""
_FILES = {"train": TRAIN_FILE, "validation": VALIDATION_FILE}
_LOOK = "Look at a mask: were the right files, and the right label map, given?"


def find_class_errors(examined: Examined) -> list[Finding]:
    """What stops a training, the most important first."""
    return [*_find_map_out_of_range(examined), *_find_out_of_range(examined), *_find_nothing_left(examined)]


def find_class_warnings(examined: Examined) -> list[Finding]:
    """What a person should look at before training, the most important first."""
    ignored = [item.mask.name for item in examined.facts if examined.is_ignored(item)]
    return [
        *_find_gaps(examined),
        *_find_mistakes(examined),
        *_find_joined(examined),
        *build_findings("ignored_mask", "{n} masks are ignored on every pixel", ignored),
        *_find_mostly_ignored(examined),
        *_find_black_and_white(examined),
        *_find_dominant(examined),
    ]


def _channels(splits: Iterable[str]) -> str:
    return " and ".join(f"{split}_annotation" for split in splits)


def _list(numbers: Iterable[int], limit: int = 12) -> str:
    return join_names(map(str, numbers), limit)


# Labels that have no class.


def _find_map_out_of_range(examined: Examined) -> list[Finding]:
    lines, highest = [], 0
    for split in examined.splits:
        class_ids = {int(class_id) for class_id in examined.table(split)} - {IGNORE, UNKNOWN}
        high = [class_id for class_id in sorted(class_ids) if class_id >= examined.num_classes]
        if high and "map" in examined.maps.choose(split).description and examined.given_classes is not None:
            lines.append(f"{_FILES[split]} gives the class {_list(high)}")
            highest = max(highest, *high)
    fix = f"Set num_classes to {highest + 1}, or give the classes the ids 0 to {examined.num_classes - 1}"
    return build_findings("label_map_range", f"a label map does not fit num_classes={examined.num_classes}", lines, fix)


def _find_out_of_range(examined: Examined) -> list[Finding]:
    found = []
    for splits in examined.group_by_map(split for split in examined.splits if examined.find_bad(split)):
        bad = sorted({label for split in splits for label in examined.find_bad(split)})
        pixels = sum(examined.label_totals[split].get(label, 0) for split in splits for label in bad)
        default = examined.has_default_map(splits[0])
        valid = f"0 to {examined.num_classes - 1} and {IGNORE}" if default else "those of the label map"
        text = f"{{n}} masks hold labels out of range (label {_list(bad)}; {pixels} pixels in all; valid are {valid})"
        lines = [line for split in splits for line in _iter_bad_masks(examined, split, set(bad))]
        found += build_findings("out_of_range", text, lines, _fix_out_of_range(examined, splits, bad))
    return found


def _iter_bad_masks(examined: Examined, split: str, bad: set[int]) -> Iterable[str]:
    for item in examined.of(split):
        listed = [f"label {label} on {count} pixels" for label, count in item.label_counts.items() if label in bad]
        if listed:
            yield f"{item.mask.name} has {join_names(listed, 3)}"


def _fix_out_of_range(examined: Examined, splits: Sequence[str], bad: Sequence[int]) -> str:
    copied = _offer_other_map(examined, splits)
    if copied:
        return copied
    label_map = examined.maps.choose(splits[0])
    if examined.has_default_map(splits[0]):
        return _fix_default(examined, splits)
    if "map" not in label_map.description:
        highest = max(int(label_map.table[label]) for label in bad)
        return f"Set num_classes to {highest + 1}, or correct the scale"
    return _extend_map(label_map, bad, _name_files(splits))


def _extend_map(label_map: LabelMap, labels: Iterable[int], files: str) -> str:
    """What to write into a label map for those of ``labels`` that are not in it; "" when all are."""
    unknown = [label for label in labels if label_map.table[label] == UNKNOWN]
    if not unknown:  # the map gives classes above num_classes, which is an error of its own
        return ""
    given = label_map.description["map"].get(str(IGNORE), [])
    ignored = json.dumps([*([given] if isinstance(given, int) else given), *unknown])
    joined = json.dumps([label_map.description["map"].get("0", 0), unknown[0]])
    return (
        f'If label {_list(unknown)} is not to be scored, put "{IGNORE}": {ignored} into the label map ({files}); '
        f'or join it to a class, as "0": {joined}'
    )


def _name_files(splits: Iterable[str]) -> str:
    return " and ".join(_FILES[split] for split in splits)


def _fix_default(examined: Examined, splits: Sequence[str]) -> str:
    """What to do about labels that are taken for class ids and are none."""
    together = next(group for group in examined.group_by_map(examined.splits) if splits[0] in group)
    labels = {label for split in together for label in examined.label_totals[split]}
    if len(labels - {IGNORE, examined.ignore_label}) < 2:
        return _separate(examined, labels, together)
    diagnosis = diagnose_labels(labels, examined.given_classes, examined.ignore_label, _name_files(together))
    return f"{diagnosis.text[0].upper()}{diagnosis.text[1:]}. {diagnosis.fix}" if diagnosis else "Correct the masks"


def _offer_other_map(examined: Examined, splits: Sequence[str]) -> str:
    """Say to copy the label map of the other split when it is there, this one is missing, and it knows the labels.

    Where it does not know all of them, it is to be mended first.
    """
    if len(splits) > 1:
        return ""
    (split,) = splits
    other = "validation" if split == "train" else "train"
    missing, labels, label_map = examined.maps.missing, examined.label_totals, examined.maps.choose(other)
    if _FILES[split] not in missing or _FILES[other] in missing:
        return ""
    if min(_read(label_map.table, labels[split]), default=UNKNOWN) >= examined.num_classes:
        return ""
    mended = _extend_map(label_map, sorted(labels[split] | labels.get(other, {})), _FILES[other])
    copied = f"{_FILES[split]} is missing: copy {_FILES[other]} to it"
    return f"{mended}. {copied} then" if mended else f"{copied}, which reads these labels"


def _read(table: UInt8Array, labels: Iterable[int]) -> set[int]:
    """The class ids of ``labels`` without IGNORE; UNKNOWN is among them."""
    return {int(table[label]) for label in labels} - {IGNORE}


# Too few classes left to learn.


def _find_nothing_left(examined: Examined) -> list[Finding]:
    """Fewer than two classes left in a split, where a label map can mend it, or nothing can."""
    judged = [split for split in examined.splits if examined.label_totals[split] and not examined.find_bad(split)]
    poor = [split for split in judged if len(examined.find_classes(split)) < 2]
    mendable = [split for split in poor if len(examined.label_totals[split]) > 1]
    # Validation masks of one class may be meant: they are few.
    hopeless = [
        split for split in poor if split not in mendable and (split != "validation" or not examined.find_classes(split))
    ]
    groups = [*examined.group_by_map(mendable), *([hopeless] if hopeless else [])]
    return [_describe_poor(examined, splits) for splits in groups]


def _describe_poor(examined: Examined, splits: Sequence[str]) -> Finding:
    examples = []
    for split in splits:
        labels, table = examined.label_totals[split], examined.table(split)
        ignored = [label for label in labels if table[label] == IGNORE]
        line = (
            f"{_channels([split])} has the labels {_list(labels)}"
            if len(labels) > 1
            else f"{_channels([split])} has the label {_list(labels)}"
        )
        line += f" (not scored: {_list(ignored)})" if ignored else ""
        classes = [examined.name(class_id) for class_id in examined.find_classes(split)]
        examples.append(f"{line}: {f'class {classes[0]} alone' if classes else 'no class'} is left")
    fix = _offer_other_map(examined, splits)
    fix = fix or _separate(examined, {label for split in splits for label in examined.label_totals[split]}, splits)
    text = "fewer than two classes are left, and nothing can be learnt or scored"
    return Finding("nothing_left", text, tuple(examples), len(examples), fix)


def _separate(examined: Examined, labels: Iterable[int], splits: Sequence[str]) -> str:
    """The label map that makes each label a class of its own; 255 is one when too few are left without it."""
    ordered = sorted(labels)
    usual = [label for label in ordered if label not in (IGNORE, examined.ignore_label)]
    if len(usual) >= 2:
        ordered = usual
    if not 2 <= len(ordered) <= MAX_CLASSES:
        return _LOOK
    meaning = "white is the second class" if ordered == [0, IGNORE] else "each label is a class"
    label_map = describe_map(build_map(ordered), _name_files(splits))
    others = [class_id for split in examined.splits if split not in splits for class_id in examined.find_classes(split)]
    count = max(len(ordered), *(class_id + 1 for class_id in [0, *others]))
    return f"If {meaning}, {label_map}{describe_count(count, examined.given_classes)}"


# What may be meant otherwise.


def _find_gaps(examined: Examined) -> list[Finding]:
    """Classes that occur nowhere, or in one split only."""
    seen = {split: set(examined.find_classes(split)) for split in examined.splits if not examined.find_bad(split)}
    everywhere = set[int]().union(*seen.values())
    if not everywhere or len(seen) < len(examined.splits) or _find_nothing_left(examined):  # errors say more
        return []
    never = [class_id for class_id in range(examined.num_classes) if class_id not in everywhere]
    train, validation = seen.get("train", everywhere), seen.get("validation", everywhere)
    return [
        *_describe_never(examined, everywhere, never),
        *build_findings(
            "only_in_validation",
            "{n} classes occur in validation only, so they cannot be learnt",
            map(examined.name, sorted(everywhere - train)),
            "Move some of their images, with masks, to train",
        ),
        *build_findings(
            "only_in_train",
            "{n} classes occur in train only; validation:mIOU counts them as 0",
            map(examined.name, sorted(everywhere - validation)),
            "Move some of their images, with masks, to validation",
        ),
    ]


def _describe_never(examined: Examined, everywhere: set[int], never: Sequence[int]) -> list[Finding]:
    count, num_classes = len(everywhere), examined.num_classes
    if examined.given_classes is None or count > _FEW * num_classes:
        text = "{n} classes occur in no mask; validation:mIOU counts them as 0"
        return build_findings("never_seen", text, map(examined.name, never))
    text = (
        f"only {count} of num_classes={num_classes} classes occur in the masks (class {_list(sorted(everywhere))}); "
        f"validation:mIOU counts the other {len(never)} as 0"
    )
    if examined.maps.class_names:  # then it is known what the others are
        return [Finding(FEW_CLASSES, text)]
    fix = f"If there are no others, set num_classes to {max(everywhere) + 1}"
    if max(everywhere) >= count and all(examined.has_default_map(split) for split in examined.splits):
        fix = (
            f"If there are no others, {describe_map(build_map(sorted(everywhere)))}{describe_count(count, num_classes)}"
        )
    return [Finding(FEW_CLASSES, text, fix=fix)]


def _find_mistakes(examined: Examined) -> list[Finding]:
    """The likeliest mistake behind labels that are taken for class ids, and fit."""
    found = []
    for splits in examined.group_by_map(examined.splits):
        labels = {label for split in splits for label in examined.label_totals[split]}
        # Where labels are out of range, or too few, that error has the mistake as its fix.
        is_sound = (
            not any(examined.find_bad(split) for split in splits) and len(_read(examined.table(splits[0]), labels)) > 1
        )
        if is_sound and examined.has_default_map(splits[0]):
            mistake = diagnose_labels(labels, examined.given_classes, examined.ignore_label, _name_files(splits))
            found += [mistake] if mistake else []
    return found


def _find_joined(examined: Examined) -> list[Finding]:
    """Labels that a scale rounds down to the class of another label that occurs."""
    lines = []
    for splits in examined.group_by_map(examined.splits):
        table = examined.table(splits[0])
        classes: dict[int, list[int]] = {}
        for label in sorted({label for split in splits for label in examined.label_totals[split]}):
            classes.setdefault(int(table[label]), []).append(label)
        if "scale" in examined.maps.choose(splits[0]).description and len(classes.keys() - {IGNORE, UNKNOWN}) > 1:
            joined = [
                (class_id, labels)
                for class_id, labels in classes.items()
                if len(labels) > 1 and class_id < examined.num_classes
            ]
            lines += [f"{_list(labels)} become class {examined.name(class_id)}" for class_id, labels in joined]
    fix = "If they are different classes, the scale is wrong; masks that were resized smoothly have such labels, too"
    return build_findings("joined", "the scale of a label map joins labels", lines, fix)


def _find_mostly_ignored(examined: Examined) -> list[Finding]:
    lines = []
    for split, counts in examined.totals.items():
        share = float(counts[IGNORE]) / max(1, int(counts.sum()))
        if _MOST < share < 1:
            lines.append(f"{100 * share:.1f} % of the pixels of {_channels([split])}")
    fix = "They count neither in the loss nor in a score: a crop without other pixels teaches nothing, its loss is 0"
    return build_findings("mostly_ignored", "most pixels are ignored", lines, fix)


def _find_black_and_white(examined: Examined) -> list[Finding]:
    """Masks of 0 and 255 among others: in them 255 may be a class, and is not scored."""
    names = []
    for split in examined.splits:
        if len(examined.find_classes(split)) > 1 and examined.table(split)[IGNORE] == IGNORE:
            names += [item.mask.name for item in examined.of(split) if item.label_counts.keys() == {0, IGNORE}]
    fix = "If white is a class in them, write its class id there: 255 is not scored"
    return build_findings("black_and_white", "{n} masks hold the labels 0 and 255 only, others hold more", names, fix)


def _find_dominant(examined: Examined) -> list[Finding]:
    counts = examined.histogram.get("train", np.zeros(1, dtype=np.int64))
    total, top = int(counts.sum()), int(counts.argmax())
    if not DOMINANT_SHARE * total < counts[top] < total:
        return []
    text = f"class {examined.name(top)} covers {100 * float(counts[top]) / total:.1f} % of the training pixels"
    fix = (
        "Pixel accuracy will look good whatever is learnt: watch the IoU of each class; class_weights=balanced may help"
    )
    return [Finding("dominant_class", text, fix=fix)]

"""What every prepare command does with a data set: split it, and write it as channels, whole or not at all."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image

from gluonseg.data.channel import (
    SPLITS,
    ChannelWriter,
    encode_jpeg,
    replacing_folder,
)
from gluonseg.data.check.header import is_transparent, read_header
from gluonseg.data.decode import (
    JPEG_START,
    LARGEST_MAX_PIXELS,
    PhotoRange,
    decode_image,
    find_orientation,
    find_value_range,
    suggest_photo_range,
    turn_upright,
)
from gluonseg.data.prepare.colours import Colour, format_colour_table
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import IGNORE, MAX_CLASSES, UInt8Array
from gluonseg.machine.limits import count_usable_cores
from gluonseg.text import join_names

Progress = Callable[[int, int], None]
"""Called with (photos done, photos in all)."""
Note = Callable[[str, str], None]
"""Called with what the report should say of this photo, and a detail that belongs to the photo alone, or ""."""
Size = tuple[int, int]
"""(height, width) in pixels."""

SPLIT_METHODS = ("random", "official")
COLOURS_FILE = "colours.csv"
NOT_LISTED = "the lists have it neither for training nor for validation"
MALFORMED = (AttributeError, LookupError, TypeError, ValueError)
"""What Python raises where an annotation file lacks a field, or has one of another type."""


@dataclass(frozen=True)
class Example:
    """One photo and its mask; ``name`` is the path of the photo, of which the name of both files is made.

    ``read_photo`` returns the bytes of the picture file. ``read_mask`` is given the size of the photo and returns
    class ids (H, W) uint8, :data:`IGNORE` where a pixel is not scored. Both raise ImageError when there is nothing to
    use. ``split`` is what the set's own lists say, "" without; a random split takes the same share of each ``group``.
    ``upright`` says that the mask lies on the picture as a viewer shows it, turned by its EXIF orientation.
    """

    name: str
    read_photo: Callable[[], bytes]
    read_mask: Callable[[Size, Note], UInt8Array]
    split: str = ""
    group: int = 0
    upright: bool = False


@dataclass(frozen=True)
class DataSet:
    """What was found in the source: classes, examples, what cannot be used (name -> reason), and notes (text -> names).

    ``colours`` are those of the classes, () when the data has none.
    """

    class_names: tuple[str, ...]
    examples: Sequence[Example]
    colours: Sequence[Colour] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Split(NamedTuple):
    """How examples are split: by the set's own lists, or at random. ``method`` "" means official where there are lists.

    ``validation_share`` is the share of the examples that a random split, chosen by ``seed``, keeps for validation.
    """

    method: str = ""
    seed: int = 0
    validation_share: float = 0.25


@dataclass(frozen=True)
class Report:
    """What was written, and how it was split.

    ``num_train`` and ``num_validation`` count pairs; ``converted`` names the photos that were not copied as they are;
    ``skipped`` gives the reason for every name that was left out; ``notes`` maps what is worth knowing to the photos it
    is said of.
    """

    out: Path
    class_names: tuple[str, ...]
    num_train: int
    num_validation: int
    converted: tuple[str, ...]
    skipped: Mapping[str, str]
    split: str
    notes: Mapping[str, Sequence[str]]

    def channel(self, name: str) -> Path:
        """Return the folder of a channel: ``train``, ``validation_annotation``, ``label_map``, ..."""
        return self.out / name


def format_report(report: Report) -> str:
    """Say in a few lines what was written, converted, left out, and what else is worth knowing."""
    lines = [
        f"wrote {report.num_train} training and {report.num_validation} validation pairs to {report.out}",
        f"{len(report.class_names)} classes: {join_names(report.class_names, 40)}",
    ]
    if report.converted:
        lines.append(f"converted to JPEG: {join_names(report.converted)}")
    for reason in sorted(set(report.skipped.values())):
        names = [name for name, why in report.skipped.items() if why == reason]
        lines.append(f"left out, {reason}: {join_names(names)}")
    lines.append(f"split {report.split}")
    lines += [f"{text}: {join_names(names)}" if names else text for text, names in sorted(report.notes.items())]
    return "\n".join(lines)


def _flatten(path: PurePath) -> str:
    return re.sub(r"[^\w-]+", "_", str(path)).strip("_")


def make_names(photos: Sequence[PurePath]) -> list[str]:
    """A name of its own for each photo: the first of these that no other photo has.

    The stem, the path without extension, the whole path, and the path with a number.
    """
    ways = [(path.stem, _flatten(path.with_suffix("")), _flatten(path)) for path in photos]
    counts = [Counter(way) for way in zip(*ways, strict=True)]
    names: dict[str, None] = {}
    for way in ways:
        alone = (name for name, count in zip(way, counts, strict=True) if count[name] == 1)
        numbered = (f"{way[1]}_{number}" for number in itertools.count(1))
        names[next(name for name in itertools.chain(alone, numbered) if name not in names)] = None
    return list(names)


def _name_examples(examples: Sequence[Example]) -> list[Example]:
    names = make_names([PurePath(example.name) for example in examples])
    return [replace(example, name=name) for name, example in zip(names, examples, strict=True)]


def split_by_seed(groups: Mapping[str, int], seed: int, validation_share: float) -> dict[str, str]:
    """Return name -> ``train`` or ``validation``: ``validation_share`` of every group, chosen by ``seed``.

    The order is that of a hash of the name, so it depends on nothing but names, groups and seed.
    """

    def key(name: str) -> tuple[int, bytes]:
        return groups[name], hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()

    ordered = sorted(groups, key=key)
    quota = np.floor(np.arange(len(ordered) + 1) * validation_share + 0.5)
    return {name: "validation" if quota[index + 1] > quota[index] else "train" for index, name in enumerate(ordered)}


def _split(examples: Sequence[Example], split: Split) -> tuple[dict[str, str], str]:
    """Name -> split, "" for those in no list, and how that was decided."""
    own = {example.name: example.split for example in examples}
    has_lists = set(SPLITS) <= set(own.values())
    if split.method == "official" and not has_lists:
        raise DataError("the data has no lists of its own for training and validation; use --split random")
    if has_lists and split.method != "random":
        return own, "by the lists of the data set"
    groups = {example.name: example.group for example in examples}
    return split_by_seed(groups, split.seed, split.validation_share), f"at random, seed {split.seed}"


def _note_losses(data: bytes, note: Note) -> None:
    """Note what of a photo that is no JPEG does not come into one."""
    if (pages := read_header(data).pages) > 1:
        note("only the first page of the photo was taken", f"of {pages}")
    if is_transparent(data):
        note("the photo's transparency was dropped", "")


def _read_photo(data: bytes, photo_range: PhotoRange) -> UInt8Array:
    values = find_value_range(data, max_pixels=LARGEST_MAX_PIXELS)
    if values and not photo_range and suggest_photo_range(*values):
        raise ImageError("its photo has 16 bits and would be dark or flat; give --photo_range, such as 0,4095")
    # Training has a limit that can be set; here it would only get in the way.
    return decode_image(data, "its photo", max_pixels=LARGEST_MAX_PIXELS, photo_range=photo_range)


def _read_example(example: Example, photo_range: PhotoRange, note: Note) -> tuple[bytes, UInt8Array, bool]:
    """Return (JPEG bytes, mask of class ids, whether the photo was converted); raise ImageError if unusable."""
    data = example.read_photo()
    image_hwc = _read_photo(data, photo_range)
    orientation = find_orientation(data)
    turned_hwc = np.asarray(turn_upright(Image.fromarray(image_hwc), orientation)) if orientation > 1 else image_hwc
    stored, upright = image_hwc.shape[:2], turned_hwc.shape[:2]
    mask_hw = example.read_mask(upright if example.upright else stored, note)
    is_turned = orientation > 1 and mask_hw.shape == upright and (example.upright or stored != upright)
    if is_turned:
        note("turned upright, as the mask lies on the photo that a viewer shows", "")
        image_hwc = turned_hwc
    if image_hwc.shape[:2] != mask_hw.shape:
        # Without the numbers: the report gathers photos by reason.
        (height, width), (mask_height, mask_width) = image_hwc.shape[:2], mask_hw.shape
        which = "larger" if mask_height >= height and mask_width >= width else "smaller"
        raise ImageError(f"its mask is {which} than the photo")
    if (mask_hw == IGNORE).all():
        raise ImageError("its mask is empty: no pixel has a class")
    is_jpeg = data.startswith(JPEG_START)
    if not is_jpeg:
        _note_losses(data, note)
    is_converted = is_turned or not is_jpeg
    return encode_jpeg(image_hwc) if is_converted else data, mask_hw, is_converted


def _open_writer(folder: Path, data_set: DataSet) -> ChannelWriter:
    """A writer whose masks have the colours of the data set, which are written down beside them."""
    colours = list(data_set.colours)
    if len(set(colours)) < len(colours):
        colours = []  # two classes could not be told apart by theirs
    if colours:
        table = format_colour_table(zip(data_set.class_names, colours, strict=True))
        (folder / COLOURS_FILE).write_text(table, encoding="utf-8")
    return ChannelWriter(folder, data_set.class_names, colours)


class _Outcome(NamedTuple):
    """What became of one example; ``reason`` is "" when it was written."""

    example: Example
    reason: str
    is_converted: bool
    notes: list[tuple[str, str]]


def _write_example(example: Example, split: str, writer: ChannelWriter, photo_range: PhotoRange) -> _Outcome:
    notes: list[tuple[str, str]] = []
    try:
        if not split:
            raise ImageError(NOT_LISTED)
        jpeg, mask_hw, is_converted = _read_example(
            example, photo_range, lambda text, detail: notes.append((text, detail))
        )
    except ImageError as error:
        return _Outcome(example, str(error), False, [])
    except MALFORMED as error:
        return _Outcome(example, f"its annotation is malformed: {error!r}", False, [])
    writer.write(split, example.name, jpeg, mask_hw)
    return _Outcome(example, "", is_converted, notes)


def _write_examples(
    data_set: DataSet,
    splits: Mapping[str, str],
    writer: ChannelWriter,
    photo_range: PhotoRange,
    progress: Progress | None,
) -> list[_Outcome]:
    outcomes = []
    pool = ThreadPoolExecutor(count_usable_cores())
    try:
        ordered = sorted(data_set.examples, key=lambda example: example.name)
        futures = [
            pool.submit(_write_example, example, splits[example.name], writer, photo_range) for example in ordered
        ]
        for done, future in enumerate(futures, start=1):
            outcomes.append(future.result())
            if progress is not None:
                progress(done, len(futures))
    finally:
        pool.shutdown(cancel_futures=True)
    return outcomes


def _check(data_set: DataSet) -> None:
    if not data_set.examples:
        reasons = "".join(f"; {name}: {reason}" for name, reason in list(data_set.left_out.items())[:1])
        raise DataError(f"no photo with a mask was found{reasons}")
    if not 2 <= len(data_set.class_names) <= MAX_CLASSES:
        found = f"{len(data_set.class_names)}: {join_names(data_set.class_names)}"
        raise DataError(f"2 to {MAX_CLASSES} classes can be learned, and the data has {found}")


def _gather_notes(outcomes: Iterable[_Outcome], data_set: DataSet) -> dict[str, list[str]]:
    notes = {text: list(names) for text, names in data_set.notes.items()}
    for outcome in outcomes:
        for text, detail in outcome.notes:
            notes.setdefault(text, []).append(f"{outcome.example.name} ({detail})" if detail else outcome.example.name)
    return notes


def write_data_set(
    find: Callable[[], DataSet],
    source: Path,
    out: Path,
    split: Split,
    progress: Progress | None = None,
    *,
    photo_range: PhotoRange = (),
) -> Report:
    """Write the channels of what ``find`` finds in ``source`` to ``out``.

    Args:
        find: looks through the source; called once, after ``out`` has been checked.
        source: the folder or file of the data; ``out`` must not hold it.
        out: a new or empty folder, or one an earlier prepare command wrote; it is replaced as a whole, at the end.
        split: how training and validation are told apart.
        progress: called with (photos done, photos in all), those that are left out among them.
        photo_range: the values that become black and white in photos of 16 bits. Without it those are left out that
            would become dark or flat.

    Raises:
        DataError: a choice, the source or ``out`` cannot be used. Single bad files do not stop it: they are left out
            and named in the report.
    """
    if split.method not in ("", *SPLIT_METHODS):
        raise DataError(f"split must be one of {', '.join(SPLIT_METHODS)}; got {split.method!r}")
    if not 0 < split.validation_share < 1:
        raise DataError(f"validation_share must be between 0 and 1, got {split.validation_share}")
    if photo_range and not (len(photo_range) == 2 and photo_range[0] < photo_range[1]):
        raise DataError(f"photo_range must be two rising values, as 0,4095, got {photo_range}")
    if not source.exists():
        raise DataError(f"{source} does not exist")
    if source.resolve().is_relative_to(out.resolve()):
        raise DataError(f"{out} holds the source {source}; name another folder to write to")
    with replacing_folder(out) as folder:
        try:
            data_set = find()
        except MALFORMED as error:
            raise DataError(f"{source} is not of the form that was expected: {error!r}") from error
        _check(data_set)
        data_set = replace(data_set, examples=_name_examples(data_set.examples))
        splits, how = _split(data_set.examples, split)
        outcomes = _write_examples(data_set, splits, _open_writer(folder, data_set), photo_range, progress)
        written = Counter(splits[outcome.example.name] for outcome in outcomes if not outcome.reason)
        skipped = {outcome.example.name: outcome.reason for outcome in outcomes if outcome.reason}
        skipped |= data_set.left_out
        empty = [part for part in SPLITS if not written[part]]
        if empty:
            examples = "".join(f"; {name}: {reason}" for name, reason in list(skipped.items())[:1])
            raise DataError(f"no usable pair is left for {' and '.join(empty)} ({len(skipped)} left out{examples})")
    return Report(
        out=out,
        class_names=data_set.class_names,
        num_train=written["train"],
        num_validation=written["validation"],
        converted=tuple(outcome.example.name for outcome in outcomes if outcome.is_converted),
        skipped=skipped,
        split=how,
        notes=_gather_notes(outcomes, data_set),
    )

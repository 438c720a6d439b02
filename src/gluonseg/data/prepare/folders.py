"""Photos and masks in any two folders: matched by their names, masks by value or by colour."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path, PurePath
from typing import NamedTuple

from gluonseg.data.check.names import Affixes, find_beginning
from gluonseg.data.decode import read_bytes
from gluonseg.data.pairs import LABEL_EXTENSIONS
from gluonseg.data.prepare.colours import Colour, ColourTable, build_colour_table, read_colour_table
from gluonseg.data.prepare.core import DataSet, Example, Note, Size
from gluonseg.data.prepare.files import NO_MASK, NO_PHOTO, find_split, iter_pictures
from gluonseg.data.prepare.masks import Contents, build_value_table, number_values, read_by_colour, read_by_value
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import IGNORE, MAX_CLASSES, UInt8Array
from gluonseg.text import join_names

TWO_OF_ONE_NAME = "two files have its name"
_WORDS = "masks?|labels?|annotations?|gt|ground_?truth|segmentations?"
_MASK_FOLDER = re.compile(rf"(?:^|[_. -])(?:{_WORDS})$|annot$", re.IGNORECASE)
_PHOTO_FOLDER = re.compile(r"(?:^|[_. -])(?:images?|imgs?|photos?|pictures?|jpegimages)$", re.IGNORECASE)


class Match(NamedTuple):
    """Pairs of paths by their common name, and why every other file was left over (name -> reason)."""

    pairs: dict[str, tuple[PurePath, PurePath]]
    left_over: dict[str, str]


def _find_affixes(paths: Sequence[PurePath]) -> list[Affixes]:
    """What may stand around the common parts: nothing, what all names begin and end with, and that up to a separator.

    Digits that happen to be the same in all names do not count.
    """
    stems = [path.stem for path in paths]
    prefix = re.sub(r"\d+$", "", find_beginning(stems))
    suffix = re.sub(r"^\d+", "", find_beginning([stem[::-1] for stem in stems])[::-1])
    prefixes = {"", prefix, re.sub(r"[^_. -]+$", "", prefix)}
    suffixes = {"", suffix, re.sub(r"^[^_. -]+", "", suffix)}
    return [Affixes(*both) for both in sorted(product(prefixes, suffixes))]


Groups = Mapping[str, list[PurePath]]
"""Common name -> the files that have it."""


def _is_mask_folder(folder: PurePath) -> bool:
    return any(_MASK_FOLDER.search(part) for part in folder.parts)


def _strip_folder(folder: PurePath) -> PurePath:
    """``train_annotation`` and ``train/images`` as ``train``."""
    return PurePath(*(_PHOTO_FOLDER.sub("", _MASK_FOLDER.sub("", part)) for part in folder.parts))


_FOLDER_WAYS: tuple[Callable[[PurePath], PurePath], ...] = (PurePath, _strip_folder, lambda _: PurePath())
"""How much of their folders a photo and its mask have in common: all, all but words such as masks, nothing."""


def _group(
    paths: Sequence[PurePath], affix: Affixes, find_folder: Callable[[PurePath], PurePath]
) -> dict[str, list[PurePath]]:
    groups: dict[str, list[PurePath]] = {}
    for path in paths:
        common = affix.strip(path.stem)
        if common is not None:
            groups.setdefault(str(find_folder(path.parent) / common), []).append(path)
    return groups


def _pair(photos: Groups, masks: Groups) -> dict[str, tuple[PurePath, PurePath]]:
    return {
        name: (photos[name][0], masks[name][0]) for name in photos if len(photos[name]) == len(masks.get(name, ())) == 1
    }


def _iter_twice(groups: Groups) -> Iterator[PurePath]:
    for group in groups.values():
        yield from group if len(group) > 1 else []


def parse_pattern(pattern: str) -> Affixes:
    """``*_mask`` as an affix; DataError unless there is one star."""
    prefix, star, suffix = pattern.partition("*")
    if not star or "*" in suffix:
        raise DataError(f"the pattern {pattern!r} must hold one * for what a photo and its mask have in common")
    return Affixes(prefix, suffix)


def match_names(
    photos: Sequence[PurePath], masks: Sequence[PurePath], photo_pattern: str = "", mask_pattern: str = ""
) -> Match:
    """Match photos with masks, paths below their folders, by what their names have in common.

    Names are compared without extension, with and without what all photos or all masks begin and end with, and with
    their sub-folders, without words such as masks in those, and without any; the way that gives the most pairs counts.
    Patterns such as ``*_mask`` take the place of what is found.
    """
    photo_affixes = [parse_pattern(photo_pattern)] if photo_pattern else _find_affixes(photos)
    mask_affixes = [parse_pattern(mask_pattern)] if mask_pattern else _find_affixes(masks)
    ways = []
    for rank, find_folder in enumerate(_FOLDER_WAYS):
        mine = [(affix, _group(photos, affix, find_folder)) for affix in photo_affixes]
        other = [(affix, _group(masks, affix, find_folder)) for affix in mask_affixes]
        for (photo_affix, by_photo), (mask_affix, by_mask) in product(mine, other):
            stripped = sum(map(len, (*photo_affix, *mask_affix)))
            ways.append((len(_pair(by_photo, by_mask)), -stripped, -rank, by_photo, by_mask))
    *_, by_photo, by_mask = max(ways, key=lambda way: way[:3])
    left_over = {str(path): TWO_OF_ONE_NAME for group in (by_photo, by_mask) for path in _iter_twice(group)}
    left_over |= {str(photo): NO_MASK for name in by_photo.keys() - by_mask.keys() for photo in by_photo[name]}
    left_over |= {str(mask): NO_PHOTO for name in by_mask.keys() - by_photo.keys() for mask in by_mask[name]}
    return Match(_pair(by_photo, by_mask), dict(sorted(left_over.items())))


def _list_pictures(photos: Path, masks: Path, mask_pattern: str) -> tuple[list[PurePath], list[PurePath]]:
    """Photos and masks, below their folders.

    Where both lie below one, masks are what fits the pattern, what lies in folders such as masks/ or train_annotation/,
    or what is no JPEG or WebP.
    """
    in_masks: list[PurePath] = [path.relative_to(masks) for path in iter_pictures(masks)]
    if photos.resolve() != masks.resolve():
        own = (path for path in iter_pictures(photos) if not path.resolve().is_relative_to(masks.resolve()))
        return [path.relative_to(photos) for path in own], in_masks
    if mask_pattern:
        affix = parse_pattern(mask_pattern)
        chosen = {path for path in in_masks if affix.strip(path.stem) is not None}
    else:
        chosen = {path for path in in_masks if _is_mask_folder(path.parent)}
        chosen = chosen or {path for path in in_masks if path.suffix.lower() in LABEL_EXTENSIONS}
    return [path for path in in_masks if path not in chosen], sorted(chosen)


def _name_colours(colours: set[Colour], source: Path) -> ColourTable:
    """A table of the colours that were found, each a class called after it."""
    if len(colours) > MAX_CLASSES:
        raise DataError(
            f"the masks in {source} hold {len(colours)} colours: edges were smoothed, or the files were once JPEG; "
            "write the colours of the classes into a file for --colours, others are then not scored"
        )
    return build_colour_table((("colour_{:02x}{:02x}{:02x}".format(*one), one) for one in sorted(colours)), str(source))


class Reading(NamedTuple):
    """How masks become class ids, and the classes they have."""

    class_names: tuple[str, ...]
    colours: Sequence[Colour]
    read: Callable[[Path, Size, Note], UInt8Array]
    notes: dict[str, Sequence[str]]


def choose_reading(
    masks: Sequence[Path], source: Path, table: ColourTable | None, by: str | None, names: Sequence[str]
) -> Reading:
    """Choose how to read masks: by ``table`` when it is given, else by what the files hold.

    Raises DataError when no way fits.
    """
    if table is not None:
        return Reading(table.class_names, table.colours, partial(read_by_colour, table), {})
    contents, problems = Contents(), []
    for path in masks:
        try:
            contents.add(path)
        except ImageError as error:
            problems.append(str(error))  # told again, of its photo, when the pair is written
    if not contents.colours:
        raise DataError(f"no mask in {source} can be read ({problems[0] if problems else 'there is none'})")
    if by == "colour" or (by != "value" and contents.by_colour):
        if names:
            raise DataError(f"the masks in {source} are in colour: name the classes with --colours, not with --classes")
        found = _name_colours(contents.colours, source)
        note = "masks are in colour; name the classes in colours.csv and give it with --colours the next time"
        return Reading(found.class_names, found.colours, partial(read_by_colour, found), {note: ()})
    class_names, values = number_values(contents.values, names, str(source))
    table_of_values = build_value_table({IGNORE: IGNORE} | {value: class_id for class_id, value in enumerate(values)})
    note = f"masks are read by value; their labels are {join_names(map(str, sorted(contents.values & {*values})), 20)}"
    note += ", and 255, not scored" if IGNORE in contents.values - {*values} else ""
    colours = [contents.palette[value] for value in values if value in contents.palette]
    shown = colours if len(colours) == len(values) else []
    return Reading(class_names, shown, partial(read_by_value, table_of_values), {note: ()})


def find_folders(
    photos: Path,
    masks: Path,
    *,
    photo_names: str = "",
    mask_names: str = "",
    colours: Path | None = None,
    by: str | None = None,
    classes: Sequence[str] = (),
) -> DataSet:
    """Find pairs in a folder of photos and one of masks, which may be the same.

    Args:
        photos: folder of photos, with sub-folders; those called train and val (validation, valid) are the split.
        masks: folder of masks in PNG, GIF, BMP or TIFF.
        photo_names: names of photos, without extension; ``*`` stands for what they have in common with masks.
        mask_names: the same for masks.
        colours: a colour table, see :func:`gluonseg.data.prepare.colours.read_colour_table`.
        by: ``value`` or ``colour``, what tells classes apart in a mask; None finds out.
        classes: names of the values 0, 1, ... of masks that are not in colour.

    Raises:
        DataError: a folder or the table cannot be read, nothing matches, or the masks hold too many labels.
    """
    found_photos, found_masks = _list_pictures(photos, masks, mask_names)
    if not found_photos or not found_masks:
        raise DataError(f"{masks if found_photos else photos} holds no {'masks' if found_photos else 'photos'}")
    match = match_names(found_photos, found_masks, photo_names, mask_names)
    if not match.pairs:
        raise DataError(
            f"no photo in {photos} (such as {found_photos[0]}) has a mask in {masks} (such as {found_masks[0]}); "
            "say what their names have in common, as in --photo_names '*_photo' --mask_names '*_mask'"
        )
    table = read_colour_table(colours) if colours else None
    paths = [masks / mask for _, mask in match.pairs.values()]
    reading = choose_reading(paths, masks, table, by, classes)
    examples = [
        Example(
            name=str(photo),
            read_photo=partial(read_bytes, photos / photo, "its photo"),
            read_mask=partial(reading.read, masks / mask),
            split=find_split(photo),
        )
        for photo, mask in match.pairs.values()
    ]
    if (masks / "label_map").is_dir():
        reading.notes[f"{masks / 'label_map'} was passed over; --colours or --classes names the classes"] = ()
    return DataSet(reading.class_names, examples, reading.colours, match.left_over, reading.notes)

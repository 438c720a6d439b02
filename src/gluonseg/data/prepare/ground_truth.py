"""SageMaker Ground Truth: the output manifest of a semantic segmentation job, and the files it names in S3.

Each line has ``source-ref``, ``JOB-ref`` and ``JOB-ref-metadata`` with its ``internal-color-map``: class names and the
colours of the mask. https://docs.aws.amazon.com/sagemaker/latest/dg/sms-data-output.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gluonseg.data.decode import read_bytes
from gluonseg.data.prepare.colours import Colour, ColourTable, parse_colour
from gluonseg.data.prepare.core import DataSet, Example, Note, Size
from gluonseg.data.prepare.files import parse_json, read_lines
from gluonseg.data.prepare.masks import build_value_table, read_by_colour, read_by_value
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import IGNORE, UInt8Array

_SOURCE = "source-ref"
_METADATA = "-metadata"
_FAILURE = "failure-reason"
_COLOURS = "internal-color-map"

Folders = Sequence[tuple[str, Path]]
"""(S3 prefix, folder with a copy of it)."""


class _Class(NamedTuple):
    """One entry of a colour map: ``key`` is also the value of a pixel in a mask with a palette of its own."""

    key: int
    name: str
    colour: Colour


class _Line(NamedTuple):
    """One line of the manifest: addresses of photo and mask, and what the colours of this mask are."""

    photo: str
    mask: str
    classes: list[_Class]


def _parse_colour_map(content: Mapping[str, Any], where: str) -> list[_Class]:
    try:
        return [
            _Class(int(key), str(one["class-name"]), parse_colour(str(one["hex-color"])))
            for key, one in content.items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: its {_COLOURS} is malformed: {error!r}") from None


def _find_attribute(entry: Mapping[str, Any], wanted: str) -> str:
    """The name of the mask's attribute: ``wanted``, or the one whose metadata has a colour map; "" for none."""
    if wanted:
        return wanted
    metadata = [name for name, value in entry.items() if isinstance(value, dict) and _COLOURS in value]
    return metadata[0].removesuffix(_METADATA) if metadata else ""


def _parse_manifest(path: Path, attribute: str) -> tuple[list[_Line], dict[str, str]]:
    lines: list[_Line] = []
    left_out: dict[str, str] = {}
    for number, text in enumerate(read_lines(path), start=1):
        where = f"{path} line {number}"
        entry = parse_json(text.encode(), where)
        photo = str(entry.get(_SOURCE, f"line {number}"))
        name = _find_attribute(entry, attribute)
        colours = entry.get(f"{name}{_METADATA}", {}).get(_COLOURS)
        failures = [value[_FAILURE] for value in entry.values() if isinstance(value, dict) and _FAILURE in value]
        if _SOURCE in entry and name in entry and colours:
            lines.append(_Line(photo, str(entry[name]), _parse_colour_map(colours, where)))
        elif failures:
            left_out[photo] = f"the labeling job failed: {failures[0]}"
        else:
            left_out[photo] = f"its line lacks {_SOURCE}, or a mask with an {_COLOURS}"
    return lines, left_out


def _number_classes(lines: Sequence[_Line]) -> dict[str, int]:
    """Class name -> class id, by the lowest key that any line gives it; what is called BACKGROUND comes first."""
    keys: dict[str, int] = {}
    for line in lines:
        for one in line.classes:
            keys[one.name] = min(one.key, keys.get(one.name, one.key))
    ordered = sorted(keys, key=lambda name: (name.upper() != "BACKGROUND", keys[name], name))
    return {name: class_id for class_id, name in enumerate(ordered)}


def _locate(address: str, folders: Folders, base: Path, what: str) -> Path:
    """The file that an address stands for; the longest prefix counts. ImageError when no folder is known for it."""
    if not address.startswith("s3://"):
        return base / address
    for prefix, folder in sorted(folders, key=lambda one: -len(one[0])):
        rest = address.removeprefix(prefix.rstrip("/"))
        if rest != address and rest.startswith("/"):
            return folder / rest.lstrip("/")
    raise ImageError(f"{what} is in S3, and no --map says in which folder its copy is")


def _read_photo(address: str, folders: Folders, base: Path) -> bytes:
    return read_bytes(_locate(address, folders, base, "its photo"), "its photo")


def _read_mask(
    line: _Line, class_ids: Mapping[str, int], folders: Folders, base: Path, size: Size, note: Note
) -> UInt8Array:
    """By colour; by the keys of the colour map where no pixel has one of its colours, as in a grey mask."""
    path = _locate(line.mask, folders, base, "its mask")
    table = ColourTable(tuple(class_ids), {one.colour: class_ids[one.name] for one in line.classes})
    notes: list[tuple[str, str]] = []
    mask_hw = read_by_colour(table, path, size, lambda text, detail: notes.append((text, detail)))
    if (mask_hw == IGNORE).all():
        values = build_value_table({IGNORE: IGNORE} | {one.key: class_ids[one.name] for one in line.classes})
        return read_by_value(values, path, size, note)
    for text, detail in notes:
        note(text, detail)
    return mask_hw


def find_ground_truth(source: Path, *, map: Folders = (), attribute: str = "") -> DataSet:  # noqa: A002  the option
    """Find the pairs of an output manifest. BACKGROUND is class 0, the others follow by the keys of the colour map.

    Args:
        source: output.manifest. Addresses that are not of S3 are paths below its folder.
        map: (S3 prefix, folder with a copy of it); the longest prefix that fits an address counts.
        attribute: name of the mask's attribute, such as ``my-job-ref``; found by its colour map when left out.

    Raises:
        DataError: the manifest or a colour map is malformed, or no folder is known for any photo.
    """
    if not source.is_file():
        raise DataError(f"{source} is not a file; give the output.manifest of the labeling job")
    lines, left_out = _parse_manifest(source, attribute)
    remote = [line.photo for line in lines if line.photo.startswith("s3://")]
    if remote and not any(photo.startswith(prefix) for photo in remote for prefix, _ in map):
        prefix = remote[0].rpartition("/")[0]
        raise DataError(f"no --map says where a copy of {remote[0]} is; give --map {prefix}=FOLDER")
    class_ids = _number_classes(lines)
    colours = {one.name: one.colour for line in reversed(lines) for one in line.classes}
    examples = [
        Example(
            name=line.photo.removeprefix("s3://"),
            read_photo=partial(_read_photo, line.photo, map, source.parent),
            read_mask=partial(_read_mask, line, class_ids, map, source.parent),
        )
        for line in lines
    ]
    return DataSet(tuple(class_ids), examples, [colours[name] for name in class_ids], left_out)

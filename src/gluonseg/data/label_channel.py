"""The label_map channel: both label maps and the class names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from gluonseg.data.channel import CLASS_NAMES_FILE
from gluonseg.data.decode import read_bytes
from gluonseg.errors import DataError
from gluonseg.labels import IGNORE, MAX_CLASSES, LabelMap, default_label_map, parse_label_map

TRAIN_FILE = "train_label_map.json"
VALIDATION_FILE = "validation_label_map.json"


class LabelMaps(NamedTuple):
    """What the label_map channel says.

    ``class_names`` is None without class_names.json; ``missing`` names the label map files that are not there
    (the default map is used), ``unused`` the other entries of the channel.
    """

    train: LabelMap
    validation: LabelMap
    class_names: list[str] | None = None
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def choose(self, split: str) -> LabelMap:
        """The label map of ``train`` or ``validation``."""
        return self.train if split == "train" else self.validation


def default_label_maps(ignore_label: int = IGNORE) -> LabelMaps:
    """Label maps for data without a label_map channel: labels are class ids already."""
    default = default_label_map(ignore_label)
    return LabelMaps(default, default, missing=(TRAIN_FILE, VALIDATION_FILE))


def parse_class_names(text: bytes, source: str) -> list[str]:
    """Parse a JSON list of class names, the first being that of class 0; DataError names ``source``."""
    try:
        names = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"class names {source} is not JSON: {error}") from None
    if not isinstance(names, list) or not 0 < len(names) <= MAX_CLASSES or not all(isinstance(n, str) for n in names):
        raise DataError(
            f'class names {source}: expected a list of 1 to {MAX_CLASSES} names such as ["background", "pet"]'
        )
    names = [name.strip() for name in names]
    wrong = [name for name in names if names.count(name) > 1 or not name or not name.isprintable()]
    if wrong:
        raise DataError(f"class names {source}: {wrong[0]!r} is empty, there twice, or not printable text on one line")
    return names


def read_label_maps(folder: Path | None, ignore_label: int = IGNORE) -> LabelMaps:
    """Read the label_map channel; a folder or file that is not there gives the default map.

    Raises:
        DataError: a file cannot be read, is not a label map, or not a list of class names.
    """
    if folder is None or not folder.is_dir():
        return default_label_maps(ignore_label)
    entries = {path.name: path for path in sorted(folder.iterdir()) if path.name[0] != "."}
    found = {name: path for name, path in entries.items() if path.is_file()}
    default = default_label_map(ignore_label)
    maps = {
        name: parse_label_map(read_bytes(found[name]), str(found[name]), ignore_label) if name in found else default
        for name in (TRAIN_FILE, VALIDATION_FILE)
    }
    names_path = found.get(CLASS_NAMES_FILE)
    return LabelMaps(
        train=maps[TRAIN_FILE],
        validation=maps[VALIDATION_FILE],
        class_names=parse_class_names(read_bytes(names_path), str(names_path)) if names_path else None,
        missing=tuple(name for name in maps if name not in found),
        unused=tuple(name for name in entries if name not in found or name not in (*maps, CLASS_NAMES_FILE)),
    )

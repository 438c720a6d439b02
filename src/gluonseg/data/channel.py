"""Writing a dataset in the channel layout: photos, masks, label maps and class names.

Shared by every ``gluonseg prepare`` command, so that all of them write one layout and no half-written folder.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from gluonseg.errors import DataError
from gluonseg.files import find_fix
from gluonseg.labels import IGNORE, UInt8Array, voc_colours

SPLITS = ("train", "validation")
MARKER = ".gluonseg-prepared"
"""A folder with this file was written by this program, which may replace it."""
NEEDED_CHANNELS = ("train", "train_annotation", "validation", "validation_annotation")
OPTIONAL_CHANNELS = ("label_map", "model", "pretrained", "test", "test_annotation", "code", "sm_drivers")
CLASS_NAMES_FILE = "class_names.json"
JPEG_QUALITY = 95


def find_channels(folder: Path) -> dict[str, Path]:
    """The channels of a prepared folder: its sub-folders, whatever they are called."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the one that holds {', '.join(NEEDED_CHANNELS)}")
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}


def encode_jpeg(image_hwc: UInt8Array) -> bytes:
    """Encode an RGB picture (H, W, 3) uint8 as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image_hwc).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def encode_palette_png(mask_hw: UInt8Array, colours: Sequence[tuple[int, int, int]] = ()) -> bytes:
    """Encode class ids (H, W) uint8 as a palette PNG: the index is the class id, the colour helps the eye.

    ``colours`` are those of the ids 0, 1, ...; VOC's when left out.
    """
    picture = Image.fromarray(mask_hw)
    picture.putpalette([value for colour in colours or voc_colours(IGNORE + 1) for value in colour])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


class ChannelWriter:
    """Writes pairs and the label_map channel below one folder; ``colours`` are those of the first class ids."""

    def __init__(self, folder: Path, class_names: Sequence[str], colours: Sequence[tuple[int, int, int]]) -> None:
        self.folder = folder
        self._colours = [*colours, *voc_colours(IGNORE + 1)[len(colours) :]]
        label_map = folder / "label_map"
        label_map.mkdir()
        for split in SPLITS:
            (folder / split).mkdir()
            (folder / f"{split}_annotation").mkdir()
            # The masks hold class ids already; some readers need a file that says so.
            (label_map / f"{split}_label_map.json").write_text('{"scale": 1}\n', encoding="utf-8")
        text = json.dumps(list(class_names), ensure_ascii=False, indent=1)
        (label_map / CLASS_NAMES_FILE).write_text(text + "\n", encoding="utf-8")

    def write(self, split: str, name: str, jpeg: bytes, mask_hw: UInt8Array) -> None:
        """Write ``split/name.jpg`` and ``split_annotation/name.png``; threads call it."""
        (self.folder / split / f"{name}.jpg").write_bytes(jpeg)
        (self.folder / f"{split}_annotation" / f"{name}.png").write_bytes(encode_palette_png(mask_hw, self._colours))


def _check_replaceable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a new or empty folder")
    if out.exists() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise DataError(f"{out} is not empty and was not written by this command; name a new or empty folder")


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``out``; it becomes ``out`` when the block ends well, and vanishes when not.

    Raises:
        DataError: ``out`` holds files this program did not write, or cannot be written.
    """
    out = out.resolve()
    _check_replaceable(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.part-", dir=out.parent) as private:
            data = Path(private, "data")
            data.mkdir()  # with the user's umask; only this user could read the temporary folder itself
            yield data
            (data / MARKER).touch()
            if out.exists():
                out.rename(Path(private, "old"))
            data.rename(out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}; {find_fix(error)}") from error
